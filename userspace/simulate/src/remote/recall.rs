// SPDX-License-Identifier: GPL-2.0

//! Giving pages up when the origin says so, and the claims that delay it: `rust/remote/recall.rs`.
//!
//! Left out: mappings of processes, pinned pages.

use std::rc::Rc;

use vremote_proto::{
    copy::{InvalidateVerdict, RecallVerdict, State as CopyState},
    wire::{flags, Header, Kind},
};

use super::{
    state::{Inode, State},
    writeback::Put,
};
use crate::{bug::Bug, executor::at_once, folio::Locked, net::peer::Peer, node::NEVER, wait::Wait};

/// Longest time that a recall waits for a local writer which has just been given the page.
const CLAIM_US: u64 = 10_000;

const ATTEMPTS: usize = 16;

/// What became of an `Invalidate` or a `Recall`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done, or is as good as lost on the network: it comes again.
    Done,
    /// It has to wait: the work item has to see to it.
    Later,
}

/// Answers an `Invalidate` or a `Recall`: nothing is held any more.
pub fn acknowledge(peer: &Rc<Peer>, message: &Header) {
    let header = Header {
        request: message.request,
        file: message.file,
        index: message.index,
        seq: message.seq,
        ..Header::new(Kind::Ack)
    };
    let _ = peer.send(&header, &[]);
}

impl Inode {
    /// An `Invalidate` or a `Recall` arrived. Receive thread.
    pub fn receive(self: &Rc<Inode>, header: &Header) {
        if at_once(self.do_message(header, false)) == Outcome::Later {
            self.leave(header);
        }
    }

    /// Does what an `Invalidate` or a `Recall` asks for. Without `blocking` nothing is waited for.
    pub async fn do_message(self: &Rc<Inode>, header: &Header, blocking: bool) -> Outcome {
        let node = self.node();
        let page = header.index;
        let mut patience = blocking;
        for _ in 0..ATTEMPTS {
            let claimed = {
                let mut state = self.state.borrow_mut();
                let mut copy = state.copy(page);
                match copy.state {
                    CopyState::Invalid | CopyState::WritingBack { keep: false } => {
                        if node.world.has(Bug::AckNotWhenCachedAgain) && state.in_flight(page) {
                            return Outcome::Done;
                        }
                        let pending = state.pending_mut(page);
                        let acknowledged = match header.kind {
                            Kind::Recall => {
                                copy.recall(pending, header.seq, header.has(flags::KEEP), false)
                                    == RecallVerdict::Ack
                            }
                            _ => copy.invalidate(pending, header.seq) == InvalidateVerdict::Ack,
                        };
                        drop(state);
                        if acknowledged {
                            acknowledge(&self.peer, header);
                        }
                        return Outcome::Done;
                    }
                    CopyState::WritingBack { keep: true } if header.kind == Kind::Recall => {
                        return Outcome::Done
                    }
                    CopyState::WritingBack { keep: true } => return Outcome::Later,
                    CopyState::Shared => false,
                    CopyState::Modified => state.claimed(page, node.now_us()) != 0,
                }
            };
            if claimed && !blocking {
                return Outcome::Later;
            }
            if claimed && patience {
                self.wait_for_claim(page).await;
                patience = false;
                continue;
            }
            let Some(folio) = self.mapping.find(page) else {
                if let Some(outcome) = self.do_without_folio(header) {
                    return outcome;
                }
                continue;
            };
            let folio = match folio.trylock() {
                Some(folio) => folio,
                None if !blocking => return Outcome::Later,
                None if folio.uptodate() => folio.lock().await,
                None => {
                    let seen = self.changes.seen();
                    let _ = self.changes.wait(seen, 1000, Wait::Always).await;
                    continue;
                }
            };
            if !folio.is_attached() {
                continue;
            }
            return self.do_with_folio(header, folio);
        }
        Outcome::Done
    }

    /// [`Inode::do_message`] for a copy that left memory, so that nothing is to be dropped. `None`: look again.
    fn do_without_folio(&self, header: &Header) -> Option<Outcome> {
        let page = header.index;
        {
            let mut state = self.state.borrow_mut();
            let mut copy = state.copy(page);
            let found = self.mapping.find(page).is_some();
            if found || !matches!(copy.state, CopyState::Shared | CopyState::Modified) {
                return None;
            }
            let pending = state.pending_mut(page);
            match header.kind {
                Kind::Recall => {
                    copy.recall(pending, header.seq, header.has(flags::KEEP), false);
                }
                _ => {
                    copy.invalidate(pending, header.seq);
                }
            }
            state.set_copy(page, copy);
        }
        acknowledge(&self.peer, header);
        self.changes.happen();
        Some(Outcome::Done)
    }

    /// [`Inode::do_message`] for a copy in memory, whose folio is locked.
    fn do_with_folio(self: &Rc<Inode>, header: &Header, folio: Locked) -> Outcome {
        let page = header.index;
        let dirty =
            folio.uptodate() && folio.dirty() && !self.node().world.has(Bug::RecallDropsDirty);
        let put = (header.kind == Kind::Recall && dirty)
            .then(|| Put::new(self, &folio, header.has(flags::KEEP)));
        let mut state = self.state.borrow_mut();
        let mut copy = state.copy(page);
        if matches!(
            copy.state,
            CopyState::Invalid | CopyState::WritingBack { .. }
        ) || state.file == 0
        {
            return Outcome::Later;
        }
        let drop_it = match header.kind {
            Kind::Recall => {
                let pending = state.pending_mut(page);
                match copy.recall(pending, header.seq, header.has(flags::KEEP), dirty) {
                    RecallVerdict::Ack => false,
                    RecallVerdict::Drop => true,
                    RecallVerdict::InFlight => return Outcome::Done,
                    RecallVerdict::WriteBack { .. } => {
                        state.set_copy(page, copy);
                        if let Some(put) = put {
                            put.go(state, folio);
                        }
                        return Outcome::Done;
                    }
                }
            }
            _ => copy.invalidate(state.pending_mut(page), header.seq) == InvalidateVerdict::Drop,
        };
        state.set_copy(page, copy);
        drop(state);
        if drop_it {
            self.mapping.remove(&folio);
        }
        drop(folio);
        acknowledge(&self.peer, header);
        self.changes.happen();
        Outcome::Done
    }

    async fn wait_for_claim(&self, page: u64) {
        let node = self.node();
        let end = node.now_us() + CLAIM_US;
        loop {
            let seen = self.changes.seen();
            let now = node.now_us();
            let until = self.state.borrow().claimed(page, now);
            let left = until.min(end).saturating_sub(now);
            if left == 0 {
                return;
            }
            let _ = self.changes.wait(seen, left, Wait::Always).await;
        }
    }

    /// Notes that this task is going to write the page as soon as it owns it; the claim ends with the value returned.
    pub fn claim(&self, page: u64) -> Claim<'_> {
        let now = self.node().now_us();
        let mut state = self.state.borrow_mut();
        state.claims.retain(|claimed| claimed.until > now);
        state.claims.push(Claimed { page, until: NEVER });
        Claim { inode: self, page }
    }
}

/// One note of a claim.
pub struct Claimed {
    page: u64,
    until: u64,
}

impl State {
    fn claimed(&self, page: u64, now: u64) -> u64 {
        let of_page = self.claims.iter().filter(|claimed| claimed.page == page);
        of_page
            .map(|claimed| claimed.until)
            .filter(|until| *until > now)
            .max()
            .unwrap_or(0)
    }
}

/// A writer's claim on a page.
pub struct Claim<'a> {
    inode: &'a Inode,
    page: u64,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.inode.state.borrow_mut();
            let own = |claimed: &Claimed| claimed.page == self.page && claimed.until == NEVER;
            if let Some(position) = state.claims.iter().position(own) {
                state.claims[position].until = 0;
            }
        }
        self.inode.changes.happen();
    }
}
