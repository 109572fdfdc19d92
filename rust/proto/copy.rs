// SPDX-License-Identifier: GPL-2.0

//! One page at a remote: what it may do with its copy, and what each message of the origin means for it.
//!
//! # States
//!
//! | state | read | write | folio | the origin's record |
//! |---|---|---|---|---|
//! | `Invalid` | no | no | none, or one that is not uptodate | any, also sharer or owner: the grant was lost or given up |
//! | `Shared` | yes | no | uptodate, clean | sharer, or owner by an upgrade whose grant is on its way |
//! | `Modified` | yes | yes | uptodate, clean or dirty | owner, under the same seq |
//! | `WritingBack{keep}` | if `keep` | no | being sent | owner under the same seq, until it takes the `Put`; then sharer if `keep` |
//!
//! # Locking
//!
//! A [`Copy`] and its [`Pending`] change under the file's lock. While the state is not `Invalid`, [`Copy::invalidate`],
//! [`Copy::recall`], [`Copy::write_back`] and [`Copy::lost`] are called **with the folio's lock held as well**, and what the verdict
//! says about the folio is done before that lock is let go. So state and folio change together, and there is no moment
//! in which a copy is `Invalid` but still to be dropped: a grant that arrives in between cannot be dropped by mistake,
//! and a writer that looked at [`Copy::may_write`] under the folio's lock has set the folio dirty before a recall asks
//! for `dirty`. A receive thread that does not get the folio's lock at once queues the whole message to a worker; for
//! the protocol that is a message that took longer on the network. In state `Invalid` no folio is needed: both calls
//! then only raise the barrier of a request in flight, and must not wait for the folio's lock, which the waiting reader
//! may hold.
//!
//! The acknowledgement leaves after the drop, never before.
//!
//! # Claims
//!
//! Ownership that was granted to a writer is of use only if the writer gets to the page before the next recall does. A
//! recall is handled as it arrives, the writer has to be woken first: two nodes that write one page could pass it back
//! and forth for ever, and neither would write. So the glue puts a recall of a `Modified` page aside while a writer waits
//! for that very page, and handles it when the writer has written, or after a bounded time. A writer claims one page at a
//! time, and with a claim it waits for nothing but the folio's lock; so claims cannot block each other.
//!
//! # Requests
//!
//! At most one request is in flight for a page. While [`Copy::held`] is `None` none may be made: a `Put` is under
//! way, and asking would tell the origin that nothing had been written. Request ids increase over a session, the
//! `Put`s' ids among them.

pub use super::directory::Want;

/// What a remote holds of a page. See the table at the top of this file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing.
    #[default]
    Invalid,
    /// A copy to read.
    Shared,
    /// The page itself, to read and to write.
    Modified,
    /// A `Put` is in flight and not confirmed.
    WritingBack {
        /// A read copy stays here.
        keep: bool,
    },
}

/// State and grant of one page at a remote. `Default` is `Invalid` with no grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Copy {
    /// What may be done with the page.
    pub state: State,
    /// Seq of the grant that the page is held under; in state `Invalid` that of an ownership which the origin may
    /// still have on record, or 0. At most [`super::limits::MAX_SEQ`].
    pub seq: u64,
}

/// A request in flight for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pending {
    /// Its id.
    pub request: u64,
    /// What it asks for; the grant may give more.
    pub want: Want,
    /// A grant counts only with a seq above this one; 0 in a new request.
    pub barrier: u64,
}

impl Pending {
    /// A new request.
    pub fn new(request: u64, want: Want) -> Pending {
        Pending {
            request,
            want,
            barrier: 0,
        }
    }

    fn raise(pending: Option<&mut Pending>, seq: u64) {
        if let Some(pending) = pending {
            pending.barrier = pending.barrier.max(seq);
        }
    }
}

/// What to do with a `Grant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantVerdict {
    /// It counts: the state is changed, the request is over. With data, the folio is filled with it.
    Accept,
    /// It answers the request but is of no use: an invalidation overtook it, or it has no data and no copy is here.
    /// Ask again under a new id, without `HAVE` unless the state is `Shared`. If it was for a page to be filled, what
    /// it has made of the state is kept.
    Retry,
    /// Nobody asked, or the request is over. Drop it.
    Ignore,
}

/// What to do with an `Invalidate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidateVerdict {
    /// Nothing is held that it means: acknowledge.
    Ack,
    /// The state is `Invalid` (or `WritingBack` without a read copy) now: drop the folio, then acknowledge.
    Drop,
}

/// What to do with a `Recall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecallVerdict {
    /// Nothing is held that it means: acknowledge.
    Ack,
    /// The page was not written, the state is `Invalid` now: drop the folio, then acknowledge.
    Drop,
    /// The state is `WritingBack` now: send a `Put` with the bytes and [`Copy::seq`], retransmit it until it is
    /// confirmed, and send no acknowledgement.
    WriteBack {
        /// A read copy stays.
        keep: bool,
    },
    /// A `Put` is under way already and answers this as well. Send nothing.
    InFlight,
}

/// Bits of [`Copy::word`] that hold the state.
const STATE_BITS: u32 = 3;

impl Copy {
    /// Nothing held, no grant.
    pub const INVALID: Copy = Copy::of(State::Invalid, 0);

    /// A page held under the grant `seq`.
    pub const fn of(state: State, seq: u64) -> Copy {
        Copy { state, seq }
    }

    /// State and seq in 63 bits, to be kept in an `XArray` value entry. 0 is [`Copy::INVALID`].
    pub fn word(self) -> u64 {
        let state = match self.state {
            State::Invalid => 0,
            State::Shared => 1,
            State::Modified => 2,
            State::WritingBack { keep: false } => 3,
            State::WritingBack { keep: true } => 4,
        };
        ((self.seq << STATE_BITS) | state) & (u64::MAX >> 1)
    }

    /// The reverse of [`Copy::word`]. Bits that it never writes read as [`Copy::INVALID`].
    pub fn from_word(word: u64) -> Copy {
        let state = match word & ((1 << STATE_BITS) - 1) {
            0 => State::Invalid,
            1 => State::Shared,
            2 => State::Modified,
            3 => State::WritingBack { keep: false },
            4 => State::WritingBack { keep: true },
            _ => return Copy::INVALID,
        };
        Copy::of(state, (word & (u64::MAX >> 1)) >> STATE_BITS)
    }

    /// Whether the folio may be read.
    pub fn may_read(self) -> bool {
        !matches!(
            self.state,
            State::Invalid | State::WritingBack { keep: false }
        )
    }

    /// Whether the folio may be written.
    pub fn may_write(self) -> bool {
        self.state == State::Modified
    }

    /// Whether a `GetModified` sent now carries the flag `HAVE`.
    pub fn have(self) -> bool {
        self.state == State::Shared
    }

    /// The seq that a Get sent now carries in its header, 0 for none: a sharer that wants to write gives nothing up. `None`
    /// while a `Put` is in flight: wait for its confirmation before asking.
    pub fn held(self) -> Option<u64> {
        match self.state {
            State::WritingBack { .. } => None,
            State::Shared => Some(0),
            _ => Some(self.seq),
        }
    }

    /// A `Grant` arrived. `valid`: an uptodate folio is here. After `Accept` the caller removes the request.
    pub fn grant(
        &mut self,
        pending: Option<&Pending>,
        request: u64,
        seq: u64,
        write: bool,
        data: bool,
        valid: bool,
    ) -> GrantVerdict {
        let Some(pending) = pending.filter(|pending| pending.request == request) else {
            return GrantVerdict::Ignore;
        };
        if matches!(self.state, State::Modified | State::WritingBack { .. }) {
            // Nobody asks in these states; never let bytes of the origin replace those written here.
            return GrantVerdict::Ignore;
        }
        if seq <= pending.barrier {
            return GrantVerdict::Retry;
        }
        let usable = data || (valid && self.state == State::Shared);
        if !usable {
            if write {
                // The data came with a grant that was lost. The next Get gives this ownership up, and so has data.
                *self = Copy::of(State::Invalid, seq);
            }
            return GrantVerdict::Retry;
        }
        let state = if write {
            State::Modified
        } else {
            State::Shared
        };
        *self = Copy::of(state, seq);
        GrantVerdict::Accept
    }

    /// An `Invalidate` arrived. See *Locking* above.
    pub fn invalidate(&mut self, pending: Option<&mut Pending>, seq: u64) -> InvalidateVerdict {
        Pending::raise(pending, seq);
        match self.state {
            _ if seq < self.seq => InvalidateVerdict::Ack,
            State::Shared => {
                *self = Copy::INVALID;
                InvalidateVerdict::Drop
            }
            // Only sharers are sent an Invalidate: the origin has taken the Put, its confirmation is on the way.
            State::WritingBack { keep: true } => {
                self.state = State::WritingBack { keep: false };
                InvalidateVerdict::Drop
            }
            // An owner is not a sharer: bytes written here are never thrown away for an Invalidate.
            State::Invalid | State::Modified | State::WritingBack { keep: false } => {
                InvalidateVerdict::Ack
            }
        }
    }

    /// A `Recall` arrived; `keep` is its flag, `dirty` whether the folio has been written since it was granted. See
    /// *Locking* above.
    pub fn recall(
        &mut self,
        pending: Option<&mut Pending>,
        seq: u64,
        keep: bool,
        dirty: bool,
    ) -> RecallVerdict {
        Pending::raise(pending, seq);
        match self.state {
            State::WritingBack { .. } => RecallVerdict::InFlight,
            State::Invalid => RecallVerdict::Ack,
            _ if seq < self.seq => RecallVerdict::Ack,
            State::Modified if dirty => {
                self.state = State::WritingBack { keep };
                RecallVerdict::WriteBack { keep }
            }
            // The acknowledgement ends every record that the origin has of this node, so a read copy goes as well.
            State::Modified | State::Shared => {
                *self = Copy::INVALID;
                RecallVerdict::Drop
            }
        }
    }

    /// Begins to write a dirty page home without having been asked (fsync, memory pressure, last close). Says whether
    /// a `Put` is to be sent; it is not if the page is not `Modified`.
    pub fn write_back(&mut self, keep: bool) -> bool {
        if self.state != State::Modified {
            return false;
        }
        *self = Copy::of(State::WritingBack { keep }, self.seq);
        true
    }

    /// The `Put` in flight was confirmed: the bytes are the origin's.
    pub fn put_done(&mut self) {
        match self.state {
            State::WritingBack { keep: true } => self.state = State::Shared,
            State::WritingBack { keep: false } => *self = Copy::INVALID,
            _ => {}
        }
    }

    /// The `Put` in flight was refused, or the origin does not answer: the page is still owned here and still dirty.
    /// A new attempt is a new `Put` with a new id.
    ///
    /// Only a refusal may be followed by writes to the page: after silence the origin may have taken the bytes, so
    /// the same exchange goes on in the background, or the page is given up and the error reported.
    pub fn put_failed(&mut self) {
        if let State::WritingBack { .. } = self.state {
            self.state = State::Modified;
        }
    }

    /// The folio left memory (reclaim, eviction of the inode), clean. Returns the seq that the next Get carries. A
    /// dirty page must be written home first.
    pub fn lost(&mut self) -> u64 {
        match self.state {
            State::Shared => *self = Copy::INVALID,
            State::Modified => *self = Copy::of(State::Invalid, self.seq),
            State::Invalid | State::WritingBack { .. } => {}
        }
        self.seq
    }
}
