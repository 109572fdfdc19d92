// SPDX-License-Identifier: GPL-2.0

//! Pages between the page cache and the network: `rust/origin/grant.rs`.
//!
//! Left out: mappings of processes, pinned pages, draining, readahead.

use std::rc::Rc;

use nix::errno::Errno;
use vremote_proto::{
    directory::{self, Event},
    limits::PAGE_BYTES,
    nodes::Node as Slot,
    wire::{flags, Header, Kind},
};

use super::{
    directory::{Context, Todo},
    share::{Bytes, Share},
};
use crate::{bug::Bug, wait::Result};

/// How often a grant looks again for a folio that vanishes under it.
const GRANT_TRIES: usize = 100;

/// What a grant came to.
pub enum Granting {
    /// It was made.
    Done,
    /// It would have to sleep.
    Later,
    /// It cannot be made.
    Failed(Errno),
}

/// A grant that is being made.
pub struct Grant {
    /// To whom.
    pub node: Slot,
    /// Request that it answers.
    pub request: u64,
    /// Its seq.
    pub seq: u64,
    /// Ownership.
    pub write: bool,
    /// With the bytes.
    pub data: bool,
}

impl Share {
    /// Puts the bytes of a `Put` into the page cache.
    pub async fn install(self: &Rc<Self>, index: u64, todo: &mut Todo) {
        let task = self.node().world.sim.current_number();
        let incoming = {
            let mut state = self.state.borrow_mut();
            state.active.get_mut(&index).and_then(|active| {
                active.worker = task;
                active.incoming.take()
            })
        };
        let outcome = match &incoming {
            Some(bytes) => self.file.install(index, bytes).await,
            None => Ok(()),
        };
        let status = match outcome {
            Ok(()) => {
                self.state.borrow_mut().stash.remove(&index);
                0
            }
            Err(error) => {
                self.file.note_error();
                if !self.node().world.has(Bug::DiskErrorToldToOne) {
                    self.file.set_error(error);
                }
                error as u16
            }
        };
        let orphaned = {
            let state = self.state.borrow();
            let tx = state.active.get(&index).and_then(|active| active.tx);
            status != 0 && tx.is_some_and(|tx| tx.put.is_none())
        };
        if orphaned {
            // Whose bytes these were is gone, and they with it.
            self.file.taken_back(index);
        }
        self.step(index, Event::Installed { status }, None, todo);
    }

    /// Gives the page to a remote: copies it, removes it if it is to be written there, records the holder, sends.
    pub async fn grant(
        self: &Rc<Self>,
        index: u64,
        grant: &Grant,
        context: Context,
        todo: &mut Todo,
    ) -> Granting {
        // It was asked for before the freeze: local tasks that took their turn with others have overtaken it. It comes again.
        if self.state.borrow().is_frozen(index) {
            return Granting::Failed(Errno::EAGAIN);
        }
        if self.bytes_in(index) == 0 {
            return Granting::Failed(Errno::ENODATA);
        }
        if context == Context::Grants {
            let task = self.node().world.sim.current_number();
            if let Some(active) = self.state.borrow_mut().active.get_mut(&index) {
                active.worker = task;
            }
        }
        let (again, orphan) = {
            let state = self.state.borrow();
            let page = state.pages.get(&index);
            (
                page.is_some_and(|page| page.owner == Some(grant.node)),
                state.is_orphan(index),
            )
        };
        if again {
            self.commit(index, None, todo);
            self.send_grant(index, grant, &[]);
            return Granting::Done;
        }
        if orphan {
            if context != Context::Grants {
                return Granting::Later;
            }
            if self.restore(index).await.is_err() {
                return Granting::Failed(Errno::EIO);
            }
        }

        for _ in 0..GRANT_TRIES {
            let folio = match self.file.mapping.find(index) {
                Some(folio) => folio,
                None if !grant.data => {
                    self.commit(index, None, todo);
                    self.send_grant(index, grant, &[]);
                    return Granting::Done;
                }
                None if context != Context::Grants => return Granting::Later,
                None => match self.file.read_folio(index).await {
                    Ok(folio) => folio,
                    Err(error) => return Granting::Failed(error),
                },
            };
            let folio = match (context, folio.trylock()) {
                (_, Some(locked)) => locked,
                (Context::Grants, None) => folio.lock().await,
                (_, None) => return Granting::Later,
            };
            if !folio.is_attached() {
                continue;
            }
            if grant.data && !folio.uptodate() {
                if context != Context::Grants {
                    return Granting::Later;
                }
                drop(folio);
                match self.file.read_folio(index).await {
                    Ok(_) => continue,
                    Err(error) => return Granting::Failed(error),
                }
            }
            if context != Context::Grants && grant.write {
                return Granting::Later;
            }
            if grant.write && folio.under_writeback() {
                folio.wait_writeback().await;
            }
            let syncs = self.state.borrow().syncs != 0;
            if grant.write
                && folio.dirty()
                && syncs
                && !self.node().world.has(Bug::StolenDuringSync)
            {
                let dirty = folio.clone();
                drop(folio);
                self.file.write_out(&dirty).await;
                continue;
            }
            if !self.still_granting(index, grant) {
                return Granting::Failed(Errno::EIO);
            }
            let length = self.bytes_in(index);
            if length == 0 {
                return Granting::Failed(Errno::ENODATA);
            }
            let bytes: Bytes = folio.bytes().as_slice().into();
            let mut stash = None;
            if grant.write {
                let world = &self.node().world;
                // What the disk has refused is clean, and here alone.
                let refused = self.file.has_failed() && !world.has(Bug::RefusedIsNotStashed);
                if (folio.dirty() || refused)
                    && folio.uptodate()
                    && !world.has(Bug::NothingIsStashed)
                {
                    stash = Some(bytes.clone());
                }
                self.file.mapping.remove(&folio);
            }
            self.commit(index, stash, todo);
            drop(folio);
            let length = if grant.data { length } else { 0 };
            self.send_grant(index, grant, &bytes[..length]);
            return Granting::Done;
        }
        Granting::Failed(Errno::EBUSY)
    }

    fn bytes_in(&self, index: u64) -> usize {
        let rest = self.size().saturating_sub(index * PAGE_BYTES as u64);
        rest.min(PAGE_BYTES as u64) as usize
    }

    fn still_granting(&self, index: u64, grant: &Grant) -> bool {
        let state = self.state.borrow();
        let active = state.active.get(&index);
        active.and_then(|active| directory::granting(&active.tx))
            == Some((grant.node, grant.request))
    }

    /// Records the new holder.
    fn commit(&self, index: u64, stash: Option<Bytes>, todo: &mut Todo) {
        if let Some(stash) = stash {
            self.state.borrow_mut().stash.insert(index, stash);
        }
        self.step(index, Event::Granted, None, todo);
    }

    fn send_grant(&self, index: u64, grant: &Grant, bytes: &[u8]) {
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
        let _ = self
            .node()
            .peer(usize::from(grant.node))
            .send(&header, bytes);
    }

    /// Puts the stash of a page that has no owner any more back into the page cache, if there is one.
    pub async fn restore(&self, index: u64) -> Result {
        let _one = self.restoring.lock_always().await;
        let bytes = {
            let mut state = self.state.borrow_mut();
            if !state.is_orphan(index) {
                return Ok(());
            }
            state.restorer = self.node().world.sim.current_number();
            state.stash.get(&index).cloned()
        };
        let restored = match bytes {
            Some(bytes) => self.file.install(index, &bytes).await,
            None => Err(Errno::ENOMEM),
        };
        let mut state = self.state.borrow_mut();
        state.restorer = 0;
        if restored.is_ok() {
            state.stash.remove(&index);
        }
        restored
    }
}
