// SPDX-License-Identifier: GPL-2.0

//! Giving pages up when the origin says so, and the claims that delay it.
//!
//! # Progress
//!
//! Two nodes that write to one page take it from each other. A writer notes a *claim* before it asks; a recall of a page with a claim
//! waits until the writer has written, but not longer than [`CLAIM_US`].

use kernel::{prelude::*, sync::Arc};

use super::{
    state::{Inode, State},
    writeback::Put,
};
use crate::bindings;
use crate::folio::{Folio, Locked};
use crate::net::{self, peer::Peer};
use crate::proto::{
    copy::{InvalidateVerdict, RecallVerdict, State as CopyState},
    wire::{flags, Header, Kind},
};
use crate::wait::Wait;

/// Longest time that a recall waits for a local writer which has just been given the page.
const CLAIM_US: u64 = 10_000;

/// How long a page stays after a process was given it for a store through a mapping.
const LINGER_US: u64 = 1_000;

/// For how long in all others are kept waiting for a page that a device may have, while they ask for it. After that it is given up with the
/// bytes that it has, and what the device still writes is lost. Well below [`OVERDUE_US`](crate::proto::limits::OVERDUE_US), after which the
/// origin would take everything that this node has.
const PINNED_US: u64 = 20_000_000;

/// While a page is asked for, the message comes again within this time.
const ASKED_US: u64 = 2_000_000;

/// Of so many pages of a file this is noted at once; with one more the note that is the oldest gives way.
const MAX_PINNED: usize = 256;

/// How often a message that meets a folio in transition looks again before it is left to the next time.
const ATTEMPTS: usize = 16;

/// What became of an `Invalidate` or a `Recall`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was done, or is as good as lost on the network: it comes again.
    Done,
    /// It has to wait: the work item has to see to it.
    Later,
}

/// Answers an `Invalidate` or a `Recall`: nothing is held any more.
pub(super) fn acknowledge(peer: &Arc<Peer>, message: &Header) {
    let header = Header {
        request: message.request,
        file: message.file,
        index: message.index,
        seq: message.seq,
        ..Header::new(Kind::Ack)
    };
    // If it is lost, the message comes again.
    let _ = peer.send(&header, &[]);
}

impl Inode {
    /// An `Invalidate` or a `Recall` arrived. Receive thread.
    pub(super) fn receive(self: &Arc<Inode>, header: &Header) {
        // While the inode is evicted nobody can say what is held: the message comes again.
        let Some(_entered) = self.enter() else {
            return;
        };
        if self.do_message(header, false) == Outcome::Later {
            self.leave(header);
        }
    }

    /// Does what an `Invalidate` or a `Recall` asks for. Without `blocking` nothing is waited for. The inode is entered.
    pub(super) fn do_message(self: &Arc<Inode>, header: &Header, blocking: bool) -> Outcome {
        let page = header.index;
        let mut patience = blocking;
        for _ in 0..ATTEMPTS {
            let claimed = {
                let mut state = self.state.lock();
                let mut copy = self.copy(page);
                match copy.state {
                    CopyState::Invalid | CopyState::WritingBack { keep: false } => {
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
                    // The `Put` in flight answers it.
                    CopyState::WritingBack { keep: true } if header.kind == Kind::Recall => {
                        return Outcome::Done
                    }
                    // The folio is under writeback: as if the message had taken until the `Put` is confirmed.
                    CopyState::WritingBack { keep: true } => return Outcome::Later,
                    CopyState::Shared => false,
                    CopyState::Modified => state.claimed(page, net::now_us()) != 0,
                }
            };
            if claimed && !blocking {
                return Outcome::Later;
            }
            if claimed && patience {
                self.wait_for_claim(page);
                patience = false;
                continue;
            }
            // SAFETY: The inode is entered.
            let folio = unsafe { Folio::find(self.mapping(), page) };
            let Some(folio) = folio else {
                if let Some(outcome) = self.do_without_folio(header) {
                    return outcome;
                }
                continue;
            };
            let folio = match folio.trylock() {
                Ok(folio) => folio,
                Err(_) if !blocking => return Outcome::Later,
                // Somebody copies in or out of it: soon done.
                Err(folio) if folio.uptodate() => folio.lock(),
                // Somebody is about to ask for it again, because it had left memory: then the state changes in a moment. Its lock is not
                // to be waited for, because it is let go only after the grant.
                Err(_) => {
                    let _ = self.changes.wait(self.changes.seen(), 1000, Wait::Always);
                    continue;
                }
            };
            if !folio.is_in(self.mapping()) {
                continue;
            }
            return self.do_with_folio(header, folio, blocking);
        }
        Outcome::Done
    }

    /// [`Inode::do_message`] for a copy that left memory, so that nothing is to be dropped. `None`: look again.
    fn do_without_folio(&self, header: &Header) -> Option<Outcome> {
        let page = header.index;
        {
            let mut state = self.state.lock();
            let mut copy = self.copy(page);
            // SAFETY: The inode is entered. Under the state's lock nobody who adds a folio can go on to ask for it.
            let found = unsafe { Folio::find(self.mapping(), page) }.is_some();
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
            self.set_copy(&state, page, copy);
        }
        acknowledge(&self.peer, header);
        self.changes.happen();
        Some(Outcome::Done)
    }

    /// [`Inode::do_message`] for a copy in memory, whose folio is locked.
    fn do_with_folio(self: &Arc<Inode>, header: &Header, folio: Locked, blocking: bool) -> Outcome {
        let page = header.index;
        if folio.mapped() {
            // Unmapping waits for locks of processes.
            if !blocking {
                return Outcome::Later;
            }
            // Through a mapping a device could be given it until now; and a thousand of them look like one.
            // SAFETY: Entered. The folio lock keeps the page from being mapped again.
            unsafe { bindings::unmap_mapping_pages(self.mapping(), page as usize, 1, false) };
        }
        // What a device is about to write would be lost: the message comes again.
        let pinned = folio.pinned();
        if pinned {
            let (mut state, now) = (self.state.lock(), net::now_us());
            if state.waits_for_device(page, self.copy(page).seq, now) {
                return Outcome::Done;
            }
            drop(state);
            if net::may_log() {
                pr_warn!(
                    "page {} is given up although a device may be writing to it\n",
                    page
                );
            }
        }
        // What a device still writes to must not stay here as a copy to read: no other node would have that.
        let keep = header.has(flags::KEEP) && !pinned;
        // A folio that is not uptodate is what is left of a failed read: nothing was written to it.
        let dirty = folio.uptodate() && folio.dirty();
        let put = if header.kind == Kind::Recall && dirty {
            // Without memory the message comes again, when there may be some.
            let Ok(put) = Put::new(self, &folio, keep) else {
                return Outcome::Done;
            };
            Some(put)
        } else {
            None
        };
        let mut state = self.state.lock();
        let mut copy = self.copy(page);
        if matches!(
            copy.state,
            CopyState::Invalid | CopyState::WritingBack { .. }
        ) || state.file == 0
        {
            return Outcome::Later;
        }
        if put.is_some() && state.puts.reserve(1, GFP_ATOMIC).is_err() {
            return Outcome::Done;
        }
        state.pinned.retain(|pinned| pinned.page != page);
        let drop_it = match header.kind {
            Kind::Recall => {
                let pending = state.pending_mut(page);
                match copy.recall(pending, header.seq, keep, dirty) {
                    RecallVerdict::Ack => false,
                    RecallVerdict::Drop => true,
                    RecallVerdict::InFlight => return Outcome::Done,
                    RecallVerdict::WriteBack { .. } => {
                        self.set_copy(&state, page, copy);
                        if let Some((put, room)) = put {
                            put.go(room, state, folio);
                        }
                        return Outcome::Done;
                    }
                }
            }
            _ => copy.invalidate(state.pending_mut(page), header.seq) == InvalidateVerdict::Drop,
        };
        self.set_copy(&state, page, copy);
        drop(state);
        if drop_it {
            folio.remove(self.mapping());
        }
        drop(folio);
        acknowledge(&self.peer, header);
        self.changes.happen();
        Outcome::Done
    }

    /// Waits until the page is not claimed, for at most [`CLAIM_US`].
    fn wait_for_claim(&self, page: u64) {
        let end = net::now_us() + CLAIM_US;
        loop {
            let seen = self.changes.seen();
            let now = net::now_us();
            let until = self.state.lock().claimed(page, now);
            let left = until.min(end).saturating_sub(now);
            if left == 0 {
                return;
            }
            let _ = self.changes.wait(seen, left, Wait::Always);
        }
    }

    /// Notes that this task is going to write the page as soon as it owns it; the claim ends with the value returned.
    pub(super) fn claim(&self, page: u64) -> Result<Claim<'_>> {
        let now = net::now_us();
        let mut state = self.state.lock();
        state.claims.retain(|claimed| claimed.until > now);
        state
            .claims
            .push(Claimed { page, until: NEVER }, GFP_ATOMIC)?;
        Ok(Claim { inode: self, page })
    }
}

/// A page that was asked for and not given up, because a device may have it.
pub(super) struct Pinned {
    page: u64,
    /// The grant that it is held under: with another one, this was another time.
    seq: u64,
    /// When it was last asked for (microseconds).
    asked: u64,
    /// For how long it has been asked for in vain (microseconds), in all.
    kept: u64,
}

/// One note of a claim.
pub(super) struct Claimed {
    page: u64,
    /// When it ends by itself (microseconds); [`NEVER`]: by its [`Claim`].
    until: u64,
}

const NEVER: u64 = u64::MAX;

impl State {
    /// Notes that others want a page that a device may have; whether they are still to wait. Also after long pauses the time counts on: so
    /// does the origin count.
    fn waits_for_device(&mut self, page: u64, seq: u64, now: u64) -> bool {
        let at = |pinned: &&mut Pinned| (pinned.page, pinned.seq) == (page, seq);
        if let Some(pinned) = self.pinned.iter_mut().find(at) {
            pinned.kept += (now - pinned.asked).min(ASKED_US);
            pinned.asked = now;
            return pinned.kept < PINNED_US;
        }
        let note = Pinned {
            page,
            seq,
            asked: now,
            kept: 0,
        };
        if self.pinned.len() < MAX_PINNED {
            // Without memory it is noted the next time.
            let _ = self.pinned.push(note, GFP_ATOMIC);
        } else if let Some(oldest) = self.pinned.iter_mut().min_by_key(|pinned| pinned.asked) {
            *oldest = note;
        }
        true
    }

    /// Until when the page is claimed; 0 if it is not.
    fn claimed(&self, page: u64, now: u64) -> u64 {
        let of_page = self.claims.iter().filter(|claimed| claimed.page == page);
        of_page
            .map(|claimed| claimed.until)
            .filter(|until| *until > now)
            .max()
            .unwrap_or(0)
    }
}

/// A writer's claim on a page: see *Progress* at the top.
pub(super) struct Claim<'a> {
    inode: &'a Inode,
    page: u64,
}

impl Claim<'_> {
    /// Keeps the page for [`LINGER_US`]: a store that faulted is repeated only after the fault.
    pub(super) fn linger(self) {
        self.end(net::now_us() + LINGER_US);
        core::mem::forget(self);
    }

    fn end(&self, until: u64) {
        let mut state = self.inode.state.lock();
        let own = |claimed: &Claimed| claimed.page == self.page && claimed.until == NEVER;
        if let Some(position) = state.claims.iter().position(own) {
            state.claims[position].until = until;
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.end(0);
        self.inode.changes.happen();
    }
}
