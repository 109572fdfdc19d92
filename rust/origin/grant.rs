// SPDX-License-Identifier: GPL-2.0

//! Pages between the page cache and the network: granting them to remotes, installing what comes home.
//!
//! A page's last version at home is in its folio, on disk, or in the *stash*: bytes that were not on disk when ownership was
//! granted away. If the owner comes back without bytes, the stash is installed before anything else looks at the page.

use kernel::{
    prelude::*,
    rbtree::RBTreeNode,
    sync::{atomic::ordering::Full, barrier::smp_mb, Arc},
};

use super::{
    drain,
    pages::{Context, Outbox, Todo},
    share::{Incoming, Share, Stash},
};
use crate::bindings;
use crate::folio::{Folio, Locked};
use crate::net::batch::Payload;
use crate::proto::{
    directory::{self, Action, Event},
    limits::PAGE_BYTES,
    nodes::Node,
    wire::{flags, Header, Kind},
};

/// How often a grant looks again for a folio that vanishes under it.
const GRANT_TRIES: usize = 100;

/// What a grant came to.
pub(super) enum Granting {
    Done,
    /// It would have to sleep.
    Later,
    Failed(u16),
}

/// A grant that is being made.
pub(super) struct Grant {
    pub(super) node: Node,
    pub(super) request: u64,
    pub(super) seq: u64,
    pub(super) write: bool,
    pub(super) data: bool,
}

const ENODATA: i32 = bindings::ENODATA as i32;
const ENOMEM_STATUS: u16 = bindings::ENOMEM as u16;
const EIO_STATUS: u16 = bindings::EIO as u16;
const EBUSY_STATUS: u16 = bindings::EBUSY as u16;
const EAGAIN_STATUS: u16 = bindings::EAGAIN as u16;
const EPERM_STATUS: u16 = bindings::EPERM as u16;
const EROFS_STATUS: u16 = bindings::EROFS as u16;

/// What the stash keeps of a page that is granted away. May sleep for memory.
fn stash_of(index: u64, folio: &Locked) -> Result<RBTreeNode<u64, Stash>> {
    let mut copy = KVVec::zeroed(PAGE_BYTES, GFP_KERNEL)?;
    folio.copy_out(0, &mut copy);
    RBTreeNode::new(index, Stash::new(copy, folio.dirty()), GFP_KERNEL)
}

impl Share {
    /// Starts reading the pages that are about to be granted, so that the disk sees one request and not one a page.
    pub(super) fn read_ahead(&self, batch: &[Option<(u64, Action)>]) {
        let size = self.size();
        let mut run: Option<(u64, u32)> = None;
        let start = |run: Option<(u64, u32)>| {
            if let Some((first, count)) = run.filter(|(_, count)| *count > 1) {
                // SAFETY: The file is open; we may sleep.
                unsafe {
                    bindings::vremote_origin_readahead(self.file.as_ptr(), first as usize, count)
                };
            }
        };
        for (index, action) in batch.iter().flatten() {
            let reads = matches!(action, Action::Grant { data: true, .. })
                && index * (PAGE_BYTES as u64) < size
                && !self.state.lock().is_orphan(*index);
            // SAFETY: The mapping lives as long as the file.
            if !reads || unsafe { Folio::find(self.mapping, *index) }.is_some() {
                continue;
            }
            run = match run {
                Some((first, count)) if first + u64::from(count) == *index => {
                    Some((first, count + 1))
                }
                other => {
                    start(other);
                    Some((*index, 1))
                }
            };
        }
        start(run);
    }

    /// Puts the bytes of a `Put` into the page cache.
    pub(super) fn install(self: &Arc<Self>, index: u64, todo: &mut Todo) {
        let (incoming, touched, dirty) = {
            let mut state = self.state.lock();
            let dirty = state.stash.get(&index).is_some_and(|stash| stash.dirty);
            let incoming = state.active.get_mut(&index).and_then(|active| {
                active.worker = super::task();
                active.incoming.take()
            });
            (incoming, core::mem::take(&mut state.touched), dirty)
        };
        if touched {
            // SAFETY: The file is open; we hold no lock.
            unsafe { bindings::vremote_origin_touch(self.file.as_ptr()) };
        }
        let status = match &incoming {
            // SAFETY: The file is open and the bytes are ours; we hold no lock.
            Some(Incoming { bytes, .. }) => unsafe {
                bindings::vremote_origin_install(
                    self.file.as_ptr(),
                    index as usize,
                    bytes.as_ptr().cast(),
                    bytes.len(),
                    dirty,
                )
            },
            None => 0,
        };
        if status != 0 {
            self.set_error(status);
            if crate::net::may_log() {
                pr_err!(
                    "file {}: page {} did not go into the page cache: error {}\n",
                    self.id,
                    index,
                    status
                );
            }
        } else {
            drop(self.state.lock().stash.remove_node(&index));
        }
        let status = status.unsigned_abs() as u16;
        self.step(index, Event::Installed { status }, None, todo);
    }

    /// Gives the page to a remote: copies it, removes it if it is to be written there, records the holder, sends. Before it waits for anything, what
    /// was granted before leaves: it must not wait as well, and be overtaken by recalls.
    pub(super) fn grant(
        self: &Arc<Self>,
        index: u64,
        grant: &Grant,
        context: Context,
        todo: &mut Todo,
        out: &mut Outbox,
    ) -> Granting {
        if grant.write && drain::is_drained() {
            return Granting::Failed(EROFS_STATUS);
        }
        if grant.write && !self.overwritable() {
            return Granting::Failed(EPERM_STATUS);
        }
        // It was asked for before the freeze: local tasks that took their turn with others have overtaken it. It comes again.
        if self.state.lock().is_frozen(index) {
            return Granting::Failed(EAGAIN_STATUS);
        }
        if self.bytes_in(index) == 0 {
            return Granting::Failed(ENODATA as u16);
        }
        if context == Context::Grants {
            if let Some(active) = self.state.lock().active.get_mut(&index) {
                active.worker = super::task();
            }
        }

        let (again, orphan, unsent) = {
            let state = self.state.lock();
            let page = state.pages.get(&index);
            (
                page.is_some_and(|page| page.owner == Some(grant.node)),
                state.is_orphan(index),
                state.unsent,
            )
        };
        if again {
            // This one must not overtake the first, which the work item is about to send. It is not left to that, which may go on to wait for
            // the disk: meanwhile the owner could not even write the page home.
            if context != Context::Grants && unsent {
                return Granting::Failed(EAGAIN_STATUS);
            }
            self.commit(index, None, context, todo);
            self.send_grant(index, grant, Payload::Bytes(&[]), todo, out);
            return Granting::Done;
        }
        if orphan {
            // The stash is newer than disk and page cache.
            if context != Context::Grants {
                return Granting::Later;
            }
            self.flush(out);
            match self.restore(index) {
                Ok(()) => {}
                Err(error) if error == ENOMEM => return Granting::Failed(ENOMEM_STATUS),
                Err(_) => return Granting::Failed(EIO_STATUS),
            }
        }

        // The page is marked as being granted; only now look for a folio. Pairs with the barrier in `at_home`.
        smp_mb(Full);
        for _ in 0..GRANT_TRIES {
            // SAFETY: The mapping lives as long as the file.
            let found = unsafe { Folio::find(self.mapping, index) };
            let folio = match found {
                Some(folio) => folio,
                None if !grant.data => {
                    self.commit(index, None, context, todo);
                    self.send_grant(index, grant, Payload::Bytes(&[]), todo, out);
                    return Granting::Done;
                }
                None if context != Context::Grants => return Granting::Later,
                None => {
                    self.flush(out);
                    match self.read(index) {
                        Ok(folio) => folio,
                        Err(error) => {
                            return Granting::Failed(error.to_errno().unsigned_abs() as u16)
                        }
                    }
                }
            };
            let folio = match (context, folio.trylock()) {
                (_, Ok(locked)) => locked,
                (Context::Grants, Err(folio)) => {
                    self.flush(out);
                    folio.lock()
                }
                (_, Err(_)) => return Granting::Later,
            };
            if !folio.is_in(self.mapping) {
                continue;
            }
            if grant.data && !folio.uptodate() {
                if context != Context::Grants {
                    return Granting::Later;
                }
                drop(folio);
                self.flush(out);
                match self.read(index) {
                    Ok(_) => continue,
                    Err(error) => return Granting::Failed(error.to_errno().unsigned_abs() as u16),
                }
            }
            let mapped = folio.mapped();
            if context != Context::Grants && (mapped || grant.write) {
                return Granting::Later;
            }
            if grant.write && folio.under_writeback() {
                self.flush(out);
                folio.wait_writeback();
            }
            if mapped {
                // Stores through a mapping stop here: the next one faults, and comes to the hooks.
                // SAFETY: The mapping is alive; we may sleep; the folio lock keeps the page from being mapped again.
                unsafe { bindings::unmap_mapping_pages(self.mapping, index as usize, 1, false) };
            }
            // Through a mapping a device could be given it until now: it may write to it, and nobody would be told.
            if folio.pinned() {
                return Granting::Failed(EBUSY_STATUS);
            }
            // A statement of its own: the lock must not be held while the page is written.
            let pulled = self.state.lock().pulls != 0;
            if grant.write && (pulled || Stash::is_full()) && folio.dirty() {
                drop(folio);
                self.flush(out);
                self.write_out(index, index);
                continue;
            }
            if !self.still_granting(index, grant) {
                return Granting::Failed(EIO_STATUS);
            }
            // With the folio locked: whoever writes behind the end of the file, into this page, makes the file longer before the folio is
            // unlocked. With the size of before that, the remote would take what was written for something behind the end, and have zeros.
            let length = self.bytes_in(index);
            if length == 0 {
                return Granting::Failed(ENODATA as u16);
            }
            let mut stash = None;
            if grant.write {
                // What the disk has refused is clean, and here alone.
                if (folio.dirty() || self.has_failed()) && folio.uptodate() {
                    // What is clean is not to fill memory without a limit: it is asked for again.
                    if Stash::is_full() && !folio.dirty() {
                        return Granting::Failed(EAGAIN_STATUS);
                    }
                    // Without memory the grant fails, and is asked for again.
                    let Ok(node) = stash_of(index, &folio) else {
                        return Granting::Failed(ENOMEM_STATUS);
                    };
                    stash = Some(node);
                }
                folio.remove(self.mapping);
            }
            self.commit(index, stash, context, todo);
            // Copied when the batch leaves. Who writes to this page here before that has had it invalidated, which kills the grant;
            // and once ownership went with it nobody has it but us.
            let length = if grant.data { length } else { 0 };
            let bytes = Payload::Page(Folio::clone(&folio), length);
            drop(folio);
            self.send_grant(index, grant, bytes, todo, out);
            return Granting::Done;
        }
        Granting::Failed(EBUSY_STATUS)
    }

    /// How many bytes of the file the page has.
    fn bytes_in(&self, index: u64) -> usize {
        let rest = self.size().saturating_sub(index * PAGE_BYTES as u64);
        rest.min(PAGE_BYTES as u64) as usize
    }

    /// Whether the requester still is the one that the page's transaction serves.
    fn still_granting(&self, index: u64, grant: &Grant) -> bool {
        let state = self.state.lock();
        state
            .active
            .get(&index)
            .and_then(|active| directory::granting(&active.tx))
            == Some((grant.node, grant.request))
    }

    /// Records the new holder. The folio, if any, is locked. Should the requester have vanished in this moment, the
    /// stash stays behind without an owner, and whoever comes next restores it.
    fn commit(
        &self,
        index: u64,
        stash: Option<RBTreeNode<u64, Stash>>,
        context: Context,
        todo: &mut Todo,
    ) {
        let mut state = self.state.lock();
        state.unsent |= context == Context::Grants;
        // With the holder, and not before: a stash without an owner is put back into the page cache by the next local reader.
        let old = stash.and_then(|stash| state.stash.insert(stash));
        state.granted(self.id, index, todo);
        drop(state);
        drop(old);
    }

    /// The work item for grants sends what it has granted.
    pub(super) fn flush(&self, out: &mut Outbox) {
        out.flush();
        self.state.lock().unsent = false;
    }

    /// Sends a grant. `todo` are the actions that follow from it: a recall among them must not overtake it, or it would kill it.
    fn send_grant(
        &self,
        index: u64,
        grant: &Grant,
        bytes: Payload<'_>,
        todo: &Todo,
        out: &mut Outbox,
    ) {
        let header = Header {
            request: grant.request,
            file: self.id,
            index,
            seq: grant.seq,
            size: self.size(),
            flags: if grant.write { flags::WRITE } else { 0 }
                | if grant.data { flags::DATA } else { 0 },
            ..Header::new(Kind::Grant)
        };
        out.send(grant.node, &header, bytes);
        if !todo.is_empty() {
            out.flush();
        }
    }

    /// Reads a page of the file into the page cache.
    fn read(&self, index: u64) -> Result<Folio> {
        // SAFETY: The file is open; we may sleep.
        let folio =
            unsafe { bindings::vremote_origin_read_folio(self.file.as_ptr(), index as usize) };
        let folio = kernel::error::from_err_ptr(folio)?;
        let folio = core::ptr::NonNull::new(folio).ok_or(EIO)?;
        // SAFETY: The reference that the call returned keeps the folio alive until we have our own, and is dropped then.
        unsafe {
            let own = Folio::get(folio);
            bindings::vremote_folio_put(folio.as_ptr());
            Ok(own)
        }
    }

    /// Puts the stash of a page that has no owner any more back into the page cache, if there is one. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or what the file system said; the stash then stays.
    pub(super) fn restore(&self, index: u64) -> Result {
        let _one = self.restoring.lock();
        if !self.state.lock().is_orphan(index) {
            return Ok(());
        }
        let mut bytes = KVVec::zeroed(PAGE_BYTES, GFP_KERNEL)?;
        let dirty = {
            let mut state = self.state.lock();
            if !state.is_orphan(index) {
                return Ok(());
            }
            let Some(stash) = state.stash.get(&index) else {
                return Ok(());
            };
            bytes.copy_from_slice(stash);
            let dirty = stash.dirty;
            state.restorer = super::task();
            dirty
        };
        // SAFETY: The file is open and the bytes are ours; we hold no spinlock and no folio lock.
        let status = unsafe {
            bindings::vremote_origin_install(
                self.file.as_ptr(),
                index as usize,
                bytes.as_ptr().cast(),
                bytes.len(),
                dirty,
            )
        };
        // There was no room for it before either, and whoever wrote it was told.
        let refused =
            !dirty && (status == ENOSPC.to_errno() || status == -(bindings::EDQUOT as i32));
        if refused {
            self.set_error(status);
        }
        let over = status == 0 || refused;
        let old = {
            let mut state = self.state.lock();
            state.restorer = 0;
            over.then(|| state.stash.remove_node(&index))
        };
        drop(old);
        kernel::error::to_result(if over { 0 } else { status })
    }
}
