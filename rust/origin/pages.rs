// SPDX-License-Identifier: GPL-2.0

//! The directory of a share at work on the page cache: runs `proto::directory` for one page after another, and does what
//! it asks for: rounds of invalidations and recalls, installs, grants; and the waiting of local tasks.
//!
//! Ownership changes only under the folio lock of the page, if it has a folio: who holds that lock and finds the page free
//! keeps it so until the lock is released. Where there is no folio, a grant first marks the page (phase `Granting`), then
//! looks for a folio; a local filler first inserts its locked folio, then looks at the mark; one of them sees the other.
//!
//! The receive thread, timers and hooks call with [`Context::Receive`]: what would sleep is noted in the page's `Active` record and
//! left to the share's work items. There is room for one such note a page, and never more than one: an install or a grant ends
//! before the next step begins.
//!
//! A page's last version at home is in its folio, on disk, or in the *stash*: bytes that were dirty when ownership was
//! granted away. If the owner comes back without bytes, the stash is installed before anything else looks at the page.

use kernel::{
    prelude::*,
    rbtree::{RBTreeNode, RBTreeNodeReservation},
    sync::{
        atomic::ordering::{Full, Relaxed},
        barrier::smp_mb,
        Arc,
    },
};

use super::share::{Active, Bytes, Share, State, Ticket, Waiter};
use crate::bindings;
use crate::folio::{Folio, Locked};
use crate::net::{
    batch::{Batch, Payload},
    exchange::{self, Exchange},
    peer::{self, Peer},
};
use crate::proto::{
    directory::{self, Action, Event, Page, Phase, Requester, Want},
    limits::PAGE_BYTES,
    nodes::Node,
    wire::{flags, Header, Kind},
};
use crate::trace;

/// Work items take so many pages at a time: what a kernel stack has room for.
const BATCH: usize = 16;

/// Pages that a local task asks for at a time.
const ASKS: usize = 64;

/// Passes over a frozen range: the first one outlasts what was queued before the freeze, the second takes it.
const FREEZE_PASSES: usize = 2;

/// How often a grant looks again for a folio that vanishes under it.
const GRANT_TRIES: usize = 100;

/// Actions of one step that wait to be done, first in, first out.
#[derive(Default)]
struct Todo {
    actions: [Option<Action>; Todo::MAX],
    first: usize,
    count: usize,
}

impl Todo {
    /// More than the actions that one step can cause: each waiter of a page once, and a round.
    const MAX: usize = 2 * crate::proto::limits::MAX_WAITERS + 8;

    fn push(&mut self, action: Action) {
        if self.count == Todo::MAX {
            // A step that causes more is a mistake in the directory; what is lost here is sent again.
            if crate::net::may_log() {
                pr_warn!("a page's step had too many actions\n");
            }
            return;
        }
        self.actions[(self.first + self.count) % Todo::MAX] = Some(action);
        self.count += 1;
    }

    fn pop(&mut self) -> Option<Action> {
        if self.count == 0 {
            return None;
        }
        let action = self.actions[self.first].take();
        self.first = (self.first + 1) % Todo::MAX;
        self.count -= 1;
        action
    }
}

/// From where the directory is driven.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    /// Receive thread, timers, and the hooks, which come with locks of the file held: no folio lock but by trylock, no
    /// disk, no waiting.
    Receive,
    /// The share's work item for grants: may sleep, and read the file.
    Grants,
    /// The share's work item for installs: may sleep, but must not wait for invalidate_lock.
    Installs,
}

/// Sends messages, those to one peer together.
#[derive(Default)]
pub(super) struct Outbox {
    batch: Option<(Node, Batch)>,
}

impl Outbox {
    /// Queues a message to the peer in slot `node`. A message that cannot be sent counts as lost.
    fn send(&mut self, node: Node, header: &Header, payload: Payload<'_>) {
        if self.batch.as_ref().is_none_or(|(to, _)| *to != node) {
            self.batch = peer::by_slot(node).map(|peer| (node, Batch::new(&peer)));
        }
        if let Some((_, batch)) = self.batch.as_mut() {
            let _ = batch.push(header, payload);
        }
    }
}

impl Outbox {
    /// Hands what is queued to the network.
    fn flush(&mut self) {
        if let Some((_, batch)) = self.batch.as_mut() {
            batch.flush();
        }
    }
}

/// One request of a round: an `Invalidate` or `Recall` to one node.
struct Round {
    share: Arc<Share>,
    header: Header,
    node: Node,
}

impl Exchange for Round {
    fn answer(&self, _: &Arc<Peer>, header: &Header, _: &[u8]) -> bool {
        if header.kind != Kind::Ack {
            return false;
        }
        let event = Event::Acked {
            node: self.node,
            seq: self.header.seq,
        };
        self.share.drive(
            self.header.index,
            event,
            None,
            Context::Receive,
            &mut Outbox::default(),
        );
        true
    }

    fn send(&self, peer: &Arc<Peer>, retry: bool) {
        let mut header = self.header;
        if retry {
            header.flags |= flags::RETRY;
        }
        let _ = peer.send(&header, &[]);
    }

    fn expired(&self, _: Error) {
        let event = Event::Unreachable {
            seq: self.header.seq,
        };
        self.share.drive(
            self.header.index,
            event,
            None,
            Context::Receive,
            &mut Outbox::default(),
        );
    }
}

/// A page that a local task has asked for: its index, and what to wait on.
struct Asked {
    index: u64,
    ticket: (u64, Arc<Waiter>),
}

/// Memory for records of a page, got without the lock.
#[derive(Default)]
struct Spare {
    page: Option<RBTreeNodeReservation<u64, Page>>,
    active: Option<RBTreeNodeReservation<u64, Active>>,
}

/// What a grant came to.
enum Granting {
    Done,
    /// It would have to sleep.
    Later,
    Failed(u16),
}

impl Share {
    /// Feeds one event of page `index` to the directory and does what follows from it. `incoming`: the bytes of a `Put`.
    pub(super) fn drive(
        self: &Arc<Self>,
        index: u64,
        event: Event,
        incoming: Option<Bytes>,
        context: Context,
        out: &mut Outbox,
    ) {
        let mut todo = Todo::default();
        self.step(index, event, incoming, &mut todo);
        self.work_off(index, &mut todo, context, out);
    }

    /// Does actions until none is left.
    fn work_off(self: &Arc<Self>, index: u64, todo: &mut Todo, context: Context, out: &mut Outbox) {
        while let Some(action) = todo.pop() {
            self.perform(index, action, context, todo, out);
        }
    }

    /// One step of the directory for page `index`, under the share's lock.
    ///
    /// If memory for a new record is short, the event is dropped as if its message had been lost.
    fn step(&self, index: u64, event: Event, incoming: Option<Bytes>, todo: &mut Todo) {
        let mut spare = Spare::default();
        let mut incoming = incoming;
        loop {
            let mut state = self.state.lock();
            let lacks_page = state.pages.get(&index).is_none() && spare.page.is_none();
            let lacks_active = state.active.get(&index).is_none() && spare.active.is_none();
            if !lacks_page && !lacks_active {
                state.step(self.id, index, event, &mut incoming, todo, spare);
                return;
            }
            drop(state);
            if lacks_page {
                spare.page = RBTreeNodeReservation::new(GFP_NOWAIT).ok();
            }
            if lacks_active {
                spare.active = RBTreeNodeReservation::new(GFP_NOWAIT).ok();
            }
            if (lacks_page && spare.page.is_none()) || (lacks_active && spare.active.is_none()) {
                return;
            }
        }
    }

    fn perform(
        self: &Arc<Self>,
        index: u64,
        action: Action,
        context: Context,
        todo: &mut Todo,
        out: &mut Outbox,
    ) {
        match action {
            Action::Invalidate { to, seq } => {
                for node in to.iter() {
                    self.round(index, Kind::Invalidate, node, seq, false, todo);
                }
            }
            Action::Recall { to, seq, keep } => {
                self.round(index, Kind::Recall, to, seq, keep, todo)
            }
            Action::Install { .. } if context == Context::Installs => self.install(index, todo),
            Action::Install { .. } => self.defer(index, action),
            Action::Grant {
                node,
                request,
                seq,
                write,
                data,
            } => {
                let grant = Grant {
                    node,
                    request,
                    seq,
                    write,
                    data,
                };
                match self.grant(index, &grant, context, todo, out) {
                    Granting::Done => {}
                    Granting::Later => self.defer(index, action),
                    Granting::Failed(status) => {
                        self.step(index, Event::GrantFailed { status }, None, todo);
                    }
                }
            }
            Action::PutDone {
                node,
                request,
                status,
            } => {
                if request != 0 {
                    let (seq, size) = self.stamp();
                    let header = Header {
                        request,
                        file: self.id,
                        index,
                        seq,
                        size,
                        status,
                        ..Header::new(Kind::Reply)
                    };
                    out.send(node, &header, Payload::Bytes(&[]));
                }
            }
            Action::Wake { ticket, status } => {
                let waiter = {
                    let mut state = self.state.lock();
                    let at = state.tickets.iter().position(|t| t.number == ticket);
                    at.and_then(|at| state.tickets.remove(at).ok())
                        .map(|t| t.waiter)
                };
                if let Some(waiter) = waiter {
                    waiter.status.store(u32::from(status), Relaxed);
                    waiter.event.happen();
                }
            }
            Action::Refuse {
                node,
                request,
                status,
            } => {
                let (seq, size) = self.stamp();
                let header = Header {
                    request,
                    file: self.id,
                    index,
                    seq,
                    size,
                    status,
                    ..Header::new(Kind::Grant)
                };
                out.send(node, &header, Payload::Bytes(&[]));
            }
        }
    }

    /// Notes what the work item has to do for this page.
    fn defer(self: &Arc<Self>, index: u64, action: Action) {
        if let Some(active) = self.state.lock().active.get_mut(&index) {
            active.deferred = Some(action);
        }
        self.kick(&action);
    }

    /// A work item: does all that was left to it.
    pub(super) fn run_deferred(self: &Arc<Self>, context: Context) {
        let task = super::task();
        let mut out = Outbox::default();
        let mut after = 0;
        loop {
            let mut batch: [Option<(u64, Action)>; BATCH] = [None; BATCH];
            let mut count = 0;
            {
                let mut state = self.state.lock();
                let mut cursor = state.active.cursor_lower_bound_mut(&after);
                while let Some(mut at) = cursor {
                    let (&index, active) = at.current_mut();
                    if let Some(action) =
                        active.deferred.filter(|action| left_to(action) == context)
                    {
                        active.deferred = None;
                        active.worker = task;
                        batch[count] = Some((index, action));
                        count += 1;
                        if count == BATCH {
                            break;
                        }
                    }
                    cursor = at.move_next();
                }
            }
            if count == 0 {
                if after == 0 {
                    return;
                }
                after = 0;
                continue;
            }
            if context == Context::Grants {
                self.read_ahead(&batch[..count]);
            }
            for (index, action) in batch[..count].iter().flatten() {
                after = *index + 1;
                let mut todo = Todo::default();
                todo.push(*action);
                self.work_off(*index, &mut todo, context, &mut out);
            }
        }
    }

    /// Starts reading the pages that are about to be granted, so that the disk sees one request and not one a page.
    fn read_ahead(&self, batch: &[Option<(u64, Action)>]) {
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
                && index * (PAGE_BYTES as u64) < size;
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

    /// Sends one request of a round.
    fn round(
        self: &Arc<Self>,
        index: u64,
        kind: Kind,
        node: Node,
        seq: u64,
        keep: bool,
        todo: &mut Todo,
    ) {
        let request = exchange::next_request();
        let header = Header {
            request,
            file: self.id,
            index,
            seq,
            flags: if keep { flags::KEEP } else { 0 },
            ..Header::new(kind)
        };
        if let Some(active) = self.state.lock().active.get_mut(&index) {
            active.round = request;
        }
        let started = (|| {
            let peer = peer::by_slot(node).ok_or(ENOTCONN)?;
            let round = Arc::new(
                Round {
                    share: self.clone(),
                    header,
                    node,
                },
                GFP_NOWAIT,
            )?;
            exchange::start(&peer, request, round, Some(crate::net::timeout_us()))
        })();
        if started.is_err() {
            self.step(index, Event::Unreachable { seq }, None, todo);
        }
    }

    /// Puts the bytes of a `Put` into the page cache.
    fn install(self: &Arc<Self>, index: u64, todo: &mut Todo) {
        let incoming = {
            let mut state = self.state.lock();
            state.active.get_mut(&index).and_then(|active| {
                active.worker = super::task();
                active.incoming.take()
            })
        };
        let status = match &incoming {
            // SAFETY: The file is open and the bytes are ours; we hold no lock.
            Some(bytes) => unsafe {
                bindings::vremote_origin_install(
                    self.file.as_ptr(),
                    index as usize,
                    bytes.as_ptr().cast(),
                    bytes.len(),
                )
            },
            None => 0,
        };
        if status != 0 {
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
        self.step(index, Event::Installed { ok: status == 0 }, None, todo);
    }

    /// Gives the page to a remote: copies it, removes it if it is to be written there, records the holder, sends.
    fn grant(
        self: &Arc<Self>,
        index: u64,
        grant: &Grant,
        context: Context,
        todo: &mut Todo,
        out: &mut Outbox,
    ) -> Granting {
        let size = self.size();
        let Some(rest) = size
            .checked_sub(index * PAGE_BYTES as u64)
            .filter(|rest| *rest > 0)
        else {
            return Granting::Failed(ENODATA as u16);
        };
        if context == Context::Grants {
            if let Some(active) = self.state.lock().active.get_mut(&index) {
                active.worker = super::task();
            }
        }
        let length = if grant.data {
            rest.min(PAGE_BYTES as u64) as usize
        } else {
            0
        };

        // The stash is newer than disk and page cache. With an owner recorded, this is a grant repeated to it.
        let stashed = {
            let state = self.state.lock();
            let owned = state
                .pages
                .get(&index)
                .is_some_and(|page| page.owner.is_some());
            match state.stash.get(&index) {
                Some(stash) if owned => Stashed::Owned(copy_of(stash)),
                Some(_) => Stashed::Orphan,
                None => Stashed::No,
            }
        };
        match stashed {
            Stashed::Owned(None) => return Granting::Failed(ENOMEM_STATUS),
            Stashed::Owned(Some(bytes)) => {
                self.commit(index, None, todo);
                let bytes = Payload::Bytes(&bytes[..length.min(bytes.len())]);
                self.send_grant(index, grant, bytes, todo, out);
                return Granting::Done;
            }
            Stashed::Orphan if context != Context::Grants => return Granting::Later,
            Stashed::Orphan => {
                if self.restore(index).is_err() {
                    return Granting::Failed(EIO_STATUS);
                }
            }
            Stashed::No => {}
        }

        // The page is marked as being granted; only now look for a folio. Pairs with the barrier in `at_home`.
        smp_mb(Full);
        for _ in 0..GRANT_TRIES {
            // SAFETY: The mapping lives as long as the file.
            let found = unsafe { Folio::find(self.mapping, index) };
            let folio = match found {
                Some(folio) => folio,
                None if !grant.data => {
                    self.commit(index, None, todo);
                    self.send_grant(index, grant, Payload::Bytes(&[]), todo, out);
                    return Granting::Done;
                }
                None if context != Context::Grants => return Granting::Later,
                None => match self.read(index) {
                    Ok(folio) => folio,
                    Err(error) => return Granting::Failed(error.to_errno().unsigned_abs() as u16),
                },
            };
            let folio = match (context, folio.trylock()) {
                (_, Ok(locked)) => locked,
                (Context::Grants, Err(folio)) => folio.lock(),
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
                match self.read(index) {
                    Ok(_) => continue,
                    Err(error) => return Granting::Failed(error.to_errno().unsigned_abs() as u16),
                }
            }
            let mapped = folio.mapped();
            if context != Context::Grants && (mapped || grant.write) {
                return Granting::Later;
            }
            if grant.write && folio.pinned() {
                return Granting::Failed(EBUSY_STATUS);
            }
            if grant.write && folio.under_writeback() {
                folio.wait_writeback();
            }
            if mapped {
                // Stores through a mapping stop here: the next one faults, and comes to the hooks.
                // SAFETY: The mapping is alive; we may sleep; the folio lock keeps the page from being mapped again.
                unsafe { bindings::unmap_mapping_pages(self.mapping, index as usize, 1, false) };
            }
            if !self.still_granting(index, grant) {
                return Granting::Failed(EIO_STATUS);
            }
            let mut stash = None;
            if grant.write {
                if folio.dirty() && folio.uptodate() {
                    // Without memory the grant fails, and is asked for again.
                    let Ok(node) = stash_of(index, &folio) else {
                        return Granting::Failed(ENOMEM_STATUS);
                    };
                    stash = Some(node);
                }
                folio.remove(self.mapping);
            }
            self.commit(index, stash, todo);
            // Copied when the batch leaves. Who writes to this page here before that has had it invalidated, which kills the grant;
            // and once ownership went with it nobody has it but us.
            let bytes = Payload::Page(Folio::clone(&folio), length);
            drop(folio);
            self.send_grant(index, grant, bytes, todo, out);
            return Granting::Done;
        }
        Granting::Failed(EBUSY_STATUS)
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
    fn commit(&self, index: u64, stash: Option<RBTreeNode<u64, Bytes>>, todo: &mut Todo) {
        if let Some(stash) = stash {
            drop(self.state.lock().stash.insert(stash));
        }
        self.step(index, Event::Granted, None, todo);
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
        if todo.count != 0 {
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
    fn restore(&self, index: u64) -> Result {
        let _one = self.restoring.lock();
        let bytes = {
            let mut state = self.state.lock();
            if !state.is_orphan(index) {
                return Ok(());
            }
            state.restorer = super::task();
            state.stash.get(&index).and_then(|stash| copy_of(stash))
        };
        // SAFETY: The file is open and the bytes are ours; we hold no spinlock and no folio lock.
        let status = bytes.map_or(-(bindings::ENOMEM as i32), |bytes| unsafe {
            bindings::vremote_origin_install(
                self.file.as_ptr(),
                index as usize,
                bytes.as_ptr().cast(),
                bytes.len(),
            )
        });
        let old = {
            let mut state = self.state.lock();
            state.restorer = 0;
            (status == 0).then(|| state.stash.remove_node(&index))
        };
        drop(old);
        kernel::error::to_result(status)
    }

    /// Whether the caller may read page `index` from disk or page cache (`Want::Read`), or change it (`Want::Write`). With
    /// the folio lock held the answer stays true until it is released.
    pub(crate) fn at_home(&self, index: u64, want: Want) -> bool {
        // After the caller inserted its folio: pairs with the barrier in `grant`.
        smp_mb(Full);
        self.state.lock().at_home(index, want, super::task())
    }

    /// [`Share::at_home`], asked under the folio lock by a task that goes on if so. If the page was kept for local tasks until one
    /// has looked, that one has.
    pub(crate) fn look(self: &Arc<Self>, index: u64, want: Want) -> bool {
        let at_home = self.at_home(index, want);
        if at_home {
            self.taken(index);
        }
        at_home
    }

    /// A local task that was woken has the page, or does not want it any more.
    fn taken(self: &Arc<Self>, index: u64) {
        let turn = {
            let state = self.state.lock();
            let active = state.active.get(&index);
            active
                .is_some_and(|active| active.tx.as_ref().is_some_and(|tx| tx.phase == Phase::Turn))
        };
        if turn {
            self.drive(
                index,
                Event::Taken,
                None,
                Context::Receive,
                &mut Outbox::default(),
            );
        }
    }

    /// Makes the page readable or writable here, waiting for other nodes if it must.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` if a holder does not answer in time, `EINTR` if the task was killed, `ENOMEM`, `EIO`.
    pub(crate) fn acquire(self: &Arc<Self>, index: u64, want: Want) -> Result {
        loop {
            if self.at_home(index, want) {
                return Ok(());
            }
            if self.state.lock().is_orphan(index) {
                self.restore(index)?;
                continue;
            }
            let ticket = self.ask(index, want, &mut Outbox::default())?;
            self.wait(ticket)?;
            if want == Want::Read {
                // What came home is in the page cache: nobody looks under the folio lock any more.
                self.taken(index);
            }
        }
    }

    /// Like [`Share::acquire`] for all pages of a range that remotes hold, many at a time.
    ///
    /// Remotes may ask for pages again meanwhile, so at the end all of them were here, but not all at once. To have that,
    /// [`Share::freeze`].
    pub(crate) fn acquire_range(self: &Arc<Self>, first: u64, last: u64, want: Want) -> Result {
        let mut from = Some(first);
        while let Some(start) = from {
            let mut asked: [Option<Asked>; ASKS] = [const { None }; ASKS];
            let mut out = Outbox::default();
            let mut next = Some(start);
            for slot in &mut asked {
                let away = next
                    .and_then(|next| self.state.lock().next_away(next, last, want, super::task()));
                let Some(index) = away else {
                    next = None;
                    break;
                };
                self.restore(index)?;
                *slot = Some(Asked {
                    index,
                    ticket: self.ask(index, want, &mut out)?,
                });
                next = index.checked_add(1);
            }
            drop(out);
            for Asked { index, ticket } in asked.into_iter().flatten() {
                self.wait(ticket)?;
                self.taken(index);
            }
            from = next;
        }
        Ok(())
    }

    /// Puts a request of this node into the page's queue.
    fn ask(
        self: &Arc<Self>,
        index: u64,
        want: Want,
        out: &mut Outbox,
    ) -> Result<(u64, Arc<Waiter>)> {
        let waiter = Waiter::new()?;
        let number = {
            let mut room = KVec::new();
            loop {
                let mut state = self.state.lock();
                if state.tickets.len() < state.tickets.capacity() {
                    let number = state.next_ticket;
                    state.next_ticket += 1;
                    let _ = state.tickets.push_within_capacity(Ticket {
                        number,
                        waiter: waiter.clone(),
                    });
                    break number;
                }
                let wanted = state.tickets.capacity() * 2 + 16;
                if room.capacity() >= wanted {
                    core::mem::swap(&mut state.tickets, &mut room);
                    for ticket in room.drain_all() {
                        let _ = state.tickets.push_within_capacity(ticket);
                    }
                    continue;
                }
                drop(state);
                room = KVec::with_capacity(wanted, GFP_KERNEL)?;
            }
        };
        self.drive(
            index,
            Event::Request(Requester::Local {
                ticket: number,
                want,
            }),
            None,
            Context::Receive,
            out,
        );
        Ok((number, waiter))
    }

    fn wait(&self, (number, waiter): (u64, Arc<Waiter>)) -> Result {
        // A round ends by its own limit; a few may stand before ours in the queue.
        let waited = waiter
            .event
            .wait(crate::net::timeout_us().saturating_mul(2));
        if waited.is_err() {
            let mut state = self.state.lock();
            if let Some(at) = state.tickets.iter().position(|t| t.number == number) {
                let _ = state.tickets.remove(at);
            }
        }
        waited?;
        match waiter.status.load(Relaxed) {
            0 => Ok(()),
            status if status == u32::from(directory::status::AGAIN) => {
                // The page's queue is full of others; they are served in milliseconds.
                kernel::time::delay::fsleep(kernel::time::Delta::from_millis(1));
                Ok(())
            }
            status => Err(Error::from_errno(-(status as i32))),
        }
    }

    /// Holds off remotes from the pages `first..=last`, and takes from them what they have there.
    pub(crate) fn freeze(self: &Arc<Self>, first: u64, last: u64) -> Result {
        let mut room = KVec::new();
        loop {
            let mut state = self.state.lock();
            if state.frozen.push_within_capacity((first, last)).is_ok() {
                break;
            }
            let wanted = state.frozen.len() * 2 + 4;
            if room.capacity() >= wanted {
                core::mem::swap(&mut state.frozen, &mut room);
                for range in room.drain_all() {
                    let _ = state.frozen.push_within_capacity(range);
                }
                continue;
            }
            drop(state);
            room = KVec::with_capacity(wanted, GFP_KERNEL)?;
        }
        // What was asked before the freeze may still be granted during the first pass, not after it.
        let taken =
            (0..FREEZE_PASSES).try_for_each(|_| self.acquire_range(first, last, Want::Write));
        if taken.is_err() {
            self.thaw(first, last);
        }
        taken
    }

    /// Ends [`Share::freeze`].
    pub(crate) fn thaw(&self, first: u64, last: u64) {
        let mut state = self.state.lock();
        if let Some(at) = state
            .frozen
            .iter()
            .position(|range| *range == (first, last))
        {
            let _ = state.frozen.remove(at);
        }
    }

    /// A remote vanished, or started anew: forgets all that it held. Process context.
    pub(super) fn gone(self: &Arc<Self>, node: Node) {
        let mut out = Outbox::default();
        let mut from = 0;
        loop {
            // A page with a transaction has a record too.
            let Some(index) = self
                .state
                .lock()
                .pages
                .cursor_lower_bound(&from)
                .map(|c| *c.current().0)
            else {
                break;
            };
            self.drive(
                index,
                Event::Gone { node },
                None,
                Context::Receive,
                &mut out,
            );
            from = index + 1;
        }
        let mut closed = 0;
        self.state.lock().opens.retain(|opens| {
            if opens.node == node {
                closed += opens.readers + opens.writers;
            }
            opens.node != node
        });
        for _ in 0..closed {
            crate::pin::unpin();
        }
    }
}

/// The work item that does such an action.
pub(super) fn left_to(action: &Action) -> Context {
    match action {
        Action::Install { .. } => Context::Installs,
        _ => Context::Grants,
    }
}

/// A grant that is being made.
struct Grant {
    node: Node,
    request: u64,
    seq: u64,
    write: bool,
    data: bool,
}

/// Where the last version of a page may lie besides page cache and disk.
enum Stashed {
    No,
    /// The remote that was granted the page is still its owner. A copy of the bytes, if there was memory for it.
    Owned(Option<Bytes>),
    /// The owner is gone without having written.
    Orphan,
}

const ENODATA: i32 = bindings::ENODATA as i32;
const ENOMEM_STATUS: u16 = bindings::ENOMEM as u16;
const EIO_STATUS: u16 = bindings::EIO as u16;
const EBUSY_STATUS: u16 = bindings::EBUSY as u16;

/// What the stash keeps of a page that is granted away dirty. May sleep for memory.
fn stash_of(index: u64, folio: &Locked) -> Result<RBTreeNode<u64, Bytes>> {
    let mut copy = KVVec::zeroed(PAGE_BYTES, GFP_KERNEL)?;
    folio.copy_out(0, &mut copy);
    Ok(RBTreeNode::new(index, copy, GFP_KERNEL)?)
}

fn copy_of(bytes: &[u8]) -> Option<Bytes> {
    let mut copy = KVVec::with_capacity(bytes.len(), GFP_NOWAIT).ok()?;
    copy.extend_from_slice(bytes, GFP_NOWAIT).ok()?;
    Some(copy)
}

impl State {
    /// One step of the directory. `spare` is memory for records that may have to be made.
    fn step(
        &mut self,
        file: u64,
        index: u64,
        event: Event,
        incoming: &mut Option<Bytes>,
        todo: &mut Todo,
        spare: Spare,
    ) {
        let mut page = self.pages.get(&index).copied().unwrap_or_default();
        let mut tx = self
            .active
            .get_mut(&index)
            .and_then(|active| active.tx.take());
        let was_recalling = tx.as_ref().is_some_and(|tx| tx.phase == Phase::Recalling);
        let mut installs = false;
        directory::step(
            &mut page,
            &mut tx,
            &mut self.next_seq,
            event,
            &mut |action| {
                installs |= matches!(action, Action::Install { .. });
                todo.push(action);
            },
        );

        // While a transaction runs there is a record, so that its end needs no memory.
        if page.is_free() && tx.is_none() {
            drop(self.pages.remove_node(&index));
        } else if let Some(record) = self.pages.get_mut(&index) {
            *record = page;
        } else if let Some(node) = spare.page {
            self.pages.insert(node.into_node(index, page));
        }

        trace::directory(file, index, &page, &tx);
        if was_recalling && !tx.as_ref().is_some_and(|tx| tx.phase == Phase::Recalling) {
            if let Some(active) = self.active.get(&index) {
                exchange::finish(active.round);
            }
        }
        match (tx, self.active.get_mut(&index)) {
            (None, Some(_)) => drop(self.active.remove_node(&index)),
            (None, None) => {}
            (tx, Some(active)) => {
                if !matches!(
                    tx.as_ref().map(|tx| tx.phase),
                    Some(Phase::Installing | Phase::Granting)
                ) {
                    active.worker = 0;
                }
                active.tx = tx;
                if installs {
                    active.incoming = incoming.take();
                }
            }
            (tx, None) => {
                if let Some(node) = spare.active {
                    let incoming = if installs { incoming.take() } else { None };
                    self.active.insert(node.into_node(
                        index,
                        Active {
                            tx,
                            incoming,
                            ..Active::default()
                        },
                    ));
                }
            }
        }
    }

    /// See [`Share::at_home`].
    fn at_home(&self, index: u64, want: Want, task: usize) -> bool {
        let active = self.active.get(&index);
        if active.is_some_and(|active| active.worker == task) || self.restorer == task {
            return true;
        }
        if self.stash.get(&index).is_some() {
            return false;
        }
        let page = self.pages.get(&index).copied().unwrap_or_default();
        let none = None;
        let tx = active.map_or(&none, |active| &active.tx);
        match want {
            Want::Read => directory::home_may_read(&page, tx),
            Want::Write => directory::home_may_write(&page, tx),
        }
    }

    /// Whether the page's last version is in the stash, and nobody is its owner.
    fn is_orphan(&self, index: u64) -> bool {
        self.stash.get(&index).is_some()
            && self
                .pages
                .get(&index)
                .is_none_or(|page| page.owner.is_none())
    }

    /// The first page from `first` to `last` that this node may not `want` as things are.
    fn next_away(&self, first: u64, last: u64, want: Want, task: usize) -> Option<u64> {
        let mut from = first;
        loop {
            let pages = self
                .pages
                .cursor_lower_bound(&from)
                .map(|cursor| *cursor.current().0);
            let stash = self
                .stash
                .cursor_lower_bound(&from)
                .map(|cursor| *cursor.current().0);
            let index = match (pages, stash) {
                (Some(a), Some(b)) => a.min(b),
                (a, b) => a.or(b)?,
            };
            if index > last {
                return None;
            }
            if !self.at_home(index, want, task) {
                return Some(index);
            }
            from = index.checked_add(1)?;
        }
    }
}
