// SPDX-License-Identifier: GPL-2.0

//! What makes datagrams reliable: measured round trips, retransmission with backoff, replies kept for what must not run
//! twice, reassembly. Pure: every clock is passed in, in microseconds since any fixed point.

use core::ops::Range;

use super::limits::{
    MAX_PAYLOAD, MAX_REPLIES, PAGE_BYTES, RTO_INITIAL_US, RTO_MAX_US, RTO_MIN_US, STOOD_STILL_US,
    WORK_LIMIT_US,
};
use super::wire::Header;

/// Round-trip time of a peer and the retransmission time-out that follows from it (RFC 6298, section 2, with the
/// bounds of [`super::limits`]).
///
/// A busy peer answers some requests much later than others. Those are sent again, and then they are left out of the
/// measurement (Karn's rule), so that alone it would never learn of them. But their answers come twice: each second answer
/// lengthens the time-out by a quarter, each measurement shortens what was added by [`DECAY`], so that in the long run about
/// one request in thirty is sent again without need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RttEstimator {
    /// Smoothed round-trip time and its variation, microseconds; `None` before the first measurement.
    measured: Option<(u64, u64)>,
    /// The least that the time-out is, learned from second answers; microseconds.
    patience: u64,
}

/// See [`RttEstimator`].
const DECAY: u64 = 128;

/// Where [`RttEstimator`]'s patience ends, microseconds: a network that repeats datagrams by itself must not lengthen the
/// time-out for ever.
const MAX_PATIENCE_US: u64 = RTO_MAX_US / 10;

impl RttEstimator {
    /// Nothing measured yet.
    pub const fn new() -> RttEstimator {
        RttEstimator {
            measured: None,
            patience: 0,
        }
    }

    /// Takes the round trip of an exchange, in microseconds. One that was sent more than once says nothing (Karn's rule)
    /// and is left out.
    pub fn sample(&mut self, rtt_us: u64, retransmitted: bool) {
        if retransmitted {
            return;
        }
        let rtt = rtt_us.min(RTO_MAX_US);
        self.patience -= self.patience.div_ceil(DECAY);
        self.measured = Some(match self.measured {
            None => (rtt, rtt / 2),
            Some((srtt, rttvar)) => ((7 * srtt + rtt) / 8, (3 * rttvar + srtt.abs_diff(rtt)) / 4),
        });
    }

    /// Smoothed round-trip time, microseconds; `None` before the first measurement.
    pub fn srtt_us(&self) -> Option<u64> {
        self.measured.map(|(srtt, _)| srtt)
    }

    /// Retransmission time-out, microseconds, from [`RTO_MIN_US`] to [`RTO_MAX_US`].
    pub fn rto_us(&self) -> u64 {
        match self.measured {
            None => RTO_INITIAL_US,
            Some((srtt, rttvar)) => (srtt + 4 * rttvar)
                .max(self.patience)
                .clamp(RTO_MIN_US, RTO_MAX_US),
        }
    }

    /// An answer came a second time: the request was sent again without need.
    pub fn answered_twice(&mut self) {
        let rto = self.rto_us();
        self.patience = (rto + rto / 4).min(MAX_PATIENCE_US).max(self.patience);
    }
}

/// When to give up waiting for others.
///
/// If this node stood still for [`STOOD_STILL_US`] or more (a virtual machine that was not run, for example), it could have heard nobody
/// meanwhile: then nothing is given up before another [`RTO_MAX_US`] have passed. That is put off once, so that a node which is always late
/// gives up, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    at: u64,
    put_off: bool,
}

impl Deadline {
    /// That time.
    pub fn new(at: u64) -> Deadline {
        Deadline { at, put_off: false }
    }

    /// How long there is left, microseconds; `None`: it has passed.
    pub fn left(&mut self, now: u64) -> Option<u64> {
        self.look(now, self.at);
        self.at.checked_sub(now).filter(|left| *left != 0)
    }

    /// At `now` something is done that was due at `due`, or when the deadline passed.
    fn look(&mut self, now: u64, due: u64) {
        let later = now.saturating_add(RTO_MAX_US);
        let late = now.saturating_sub(due.min(self.at));
        if !self.put_off && later > self.at && late >= STOOD_STILL_US {
            self.put_off = true;
            self.at = later;
        }
    }
}

/// A request with a deadline is sent at least so often before that, however long the round trips are that were measured: at 20 % loss
/// in each direction, 5 times would be in vain once in 200.
const TRIES: u64 = 12;

/// What the timer of an exchange says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// Nothing to do before this time.
    Wait(u64),
    /// Send the request again. The next time-out is twice as long, but after one that was cut short; ask again to learn when it is.
    Resend,
    /// The time is up: the exchange ends without an answer.
    Expired,
}

/// The timer of one exchange: when to send the request again, when to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    started: u64,
    next: u64,
    rto: u64,
    /// The longest that `rto` gets.
    most: u64,
    /// The present time-out: `rto`, or less once the request was [overtaken](Retry::overtaken).
    pause: u64,
    deadline: Option<Deadline>,
    resends: u32,
}

impl Retry {
    /// For a request that is sent at `now`. `rto`: the peer's time-out, microseconds. `deadline`: the time at which to
    /// give up; `None` for what goes on until the peer answers or its session ends.
    pub fn new(now: u64, rto: u64, deadline: Option<u64>) -> Retry {
        let most = deadline.map_or(RTO_MAX_US, |deadline| {
            (deadline.saturating_sub(now) / TRIES).clamp(RTO_MIN_US, RTO_MAX_US)
        });
        let rto = rto.clamp(RTO_MIN_US, most);
        Retry {
            started: now,
            next: now.saturating_add(rto),
            rto,
            most,
            pause: rto,
            deadline: deadline.map(Deadline::new),
            resends: 0,
        }
    }

    /// Looks at the clock. Called late, it says `Resend` once, not once for each time-out that went by.
    pub fn on_tick(&mut self, now: u64) -> Tick {
        let mut next = self.next;
        if let Some(deadline) = &mut self.deadline {
            deadline.look(now, self.next);
            if now >= deadline.at {
                return Tick::Expired;
            }
            next = next.min(deadline.at);
        }
        if now < self.next {
            return Tick::Wait(next);
        }
        if self.pause == self.rto {
            self.rto = (self.rto * 2).min(self.most);
        }
        self.pause = self.rto;
        self.next = now.saturating_add(self.pause);
        self.resends = self.resends.saturating_add(1);
        Tick::Resend
    }

    /// Part of the answer arrived, or word that the peer works on it: the present time-out begins anew, and silence may last for
    /// `patience` microseconds from now on, though not beyond [`WORK_LIMIT_US`] since the request was first sent.
    pub fn progress(&mut self, now: u64, patience: u64) {
        self.next = now.saturating_add(self.pause);
        if let Some(deadline) = &mut self.deadline {
            let last = self.started.saturating_add(WORK_LIMIT_US);
            deadline.at = now.saturating_add(patience).min(last).max(deadline.at);
        }
    }

    /// At `time` the peer answered a request that is older than this one. It serves them in turn, so this one is not lost for all that is
    /// known: the present time-out begins at `time`, not before. Says whether that put it off; its answer then says nothing of a round trip.
    pub fn in_turn(&mut self, time: u64) -> bool {
        let next = time.saturating_add(self.pause);
        let later = next > self.next;
        self.next = self.next.max(next);
        later
    }

    /// Something arrived that the peer sent after what is missing here: that is lost, unless the network has only changed the order. It is
    /// waited for as long as `wait` after the last arrival, not for the time-out; once, as with RACK (RFC 8985) and QUIC (RFC 9002, 6.1), and
    /// only if it was sent once: else what was overtaken may be the first of two. Gives when to look again.
    pub fn overtaken(&mut self, now: u64, wait: u64) -> u64 {
        if self.resends == 0 {
            self.pause = self.pause.min(wait);
            self.next = self.next.min(now.saturating_add(self.pause));
        }
        self.next
    }

    /// From now on there is no deadline.
    pub fn outlive(&mut self) {
        self.deadline = None;
    }

    /// How often the request was sent again.
    pub fn resends(&self) -> u32 {
        self.resends
    }

    /// The round trip that an answer at `now` means, microseconds; `None` if the request was sent more than once (Karn).
    pub fn rtt_us(&self, now: u64) -> Option<u64> {
        (self.resends == 0).then(|| now.saturating_sub(self.started))
    }
}

/// What a request that must not run twice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Run it, keep its reply in this slot, then call [`ReplyCache::done`].
    New(usize),
    /// It runs, or everything else does and there is no room: drop it, it comes again.
    Running,
    /// It ran: send the reply of this slot again.
    Done(usize),
    /// Its reply was thrown away for newer ones; nobody waits for it any more ([`OnceWindow`]): drop it.
    TooOld,
}

/// One request in a [`ReplyCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reply {
    request: u64,
    done: bool,
}

/// Which requests of one peer have run, and in which slot of the caller's memory their replies are.
///
/// It has [`MAX_REPLIES`] entries of 16 bytes: keep it on the heap. The oldest finished one makes room; the request ids
/// of a peer increase, so everything not above the youngest one thrown away is known to be old.
#[derive(Clone, Debug)]
pub struct ReplyCache {
    slots: [Option<Reply>; MAX_REPLIES],
    /// The highest request id that was thrown away.
    floor: u64,
}

impl Default for ReplyCache {
    fn default() -> ReplyCache {
        ReplyCache::new()
    }
}

impl ReplyCache {
    /// An empty one.
    pub const fn new() -> ReplyCache {
        ReplyCache {
            slots: [None; MAX_REPLIES],
            floor: 0,
        }
    }

    /// A request arrived.
    pub fn begin(&mut self, request: u64) -> Begin {
        let mut free = None;
        let mut oldest: Option<(usize, u64)> = None;
        for (slot, entry) in self.slots.iter().enumerate() {
            match entry {
                Some(reply) if reply.request == request => {
                    return if reply.done {
                        Begin::Done(slot)
                    } else {
                        Begin::Running
                    };
                }
                Some(reply) if reply.done && oldest.is_none_or(|(_, id)| reply.request < id) => {
                    oldest = Some((slot, reply.request));
                }
                Some(_) => {}
                None => free = free.or(Some(slot)),
            }
        }
        if request <= self.floor {
            return Begin::TooOld;
        }
        let slot = match (free, oldest) {
            (Some(slot), _) => slot,
            (None, Some((slot, id))) => {
                if request < id {
                    // Older than everything that is kept: to keep it would throw away a reply that is waited for.
                    return Begin::TooOld;
                }
                self.floor = self.floor.max(id);
                slot
            }
            (None, None) => return Begin::Running,
        };
        self.slots[slot] = Some(Reply {
            request,
            done: false,
        });
        Begin::New(slot)
    }

    /// The request of this slot has run. Says whether its reply is to be kept there: not if it was of a session that is over, and the slot
    /// is another one's by now.
    #[must_use]
    pub fn done(&mut self, slot: usize, request: u64) -> bool {
        match self.slots.get_mut(slot) {
            Some(Some(reply)) if reply.request == request => {
                reply.done = true;
                true
            }
            _ => false,
        }
    }

    /// The request of this slot was not run after all (no memory): the next copy of it is new.
    pub fn cancel(&mut self, slot: usize, request: u64) {
        if let Some(entry) = self.slots.get_mut(slot) {
            *entry = entry.filter(|reply| reply.request != request);
        }
    }
}

/// Requests that must not run twice which one node may begin at a peer while an older one is unanswered.
pub const MAX_ONCE: usize = MAX_REPLIES / 2;

const _: () = assert!(MAX_ONCE % 64 == 0);

/// At the side that asks: keeps a [`ReplyCache`] from giving up what is still waited for.
///
/// A request that is lost, again and again, while [`MAX_REPLIES`] later ones are answered, would come to a cache that has
/// gone on, and be [`Begin::TooOld`]. So a node begins a request of [`super::wire::Kind::once`] only while the oldest unanswered
/// one is among the last [`MAX_ONCE`]. That is half of the cache: the ids of requests that begin together need not be in
/// the order in which they asked here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnceWindow {
    /// Number of the oldest request that is unanswered; `next` if there is none.
    oldest: u64,
    /// Number of the next request.
    next: u64,
    /// Which of `oldest..next` are unanswered; bit `number % MAX_ONCE`.
    open: [u64; MAX_ONCE / 64],
}

impl OnceWindow {
    /// Nothing is unanswered.
    pub const fn new() -> OnceWindow {
        OnceWindow {
            oldest: 0,
            next: 0,
            open: [0; MAX_ONCE / 64],
        }
    }

    const fn place(number: u64) -> (usize, u64) {
        let at = number as usize % MAX_ONCE;
        (at / 64, 1 << (at % 64))
    }

    /// A request is about to begin. Returns its number for [`OnceWindow::end`], or `None`: wait until another one ends.
    pub fn begin(&mut self) -> Option<u64> {
        if self.next - self.oldest >= MAX_ONCE as u64 {
            return None;
        }
        let number = self.next;
        let (word, bit) = OnceWindow::place(number);
        self.open[word] |= bit;
        self.next += 1;
        Some(number)
    }

    /// The request with this number is answered, or nobody waits for it any more.
    pub fn end(&mut self, number: u64) {
        if !(self.oldest..self.next).contains(&number) {
            return;
        }
        let (word, bit) = OnceWindow::place(number);
        self.open[word] &= !bit;
        while self.oldest < self.next {
            let (word, bit) = OnceWindow::place(self.oldest);
            if self.open[word] & bit != 0 {
                break;
            }
            self.oldest += 1;
        }
    }
}

/// Fewest bytes of a fragment that is not the last one; [`Header::decode`] refuses less.
const MIN_FRAGMENT: usize = 256;

/// Most fragments that a message can have, whoever cut it.
const MAX_PIECES: usize = MAX_PAYLOAD.div_ceil(MIN_FRAGMENT);

/// Which fragments of one message have arrived. The bytes are the caller's.
///
/// `WORDS`: one for each 64 fragments that the message may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces<const WORDS: usize> {
    length: u32,
    fragment: u16,
    missing: u16,
    arrived: [u64; WORDS],
}

/// For any message.
pub type Assembly = Pieces<{ MAX_PIECES.div_ceil(64) }>;

/// For a page: there are many of these at once.
pub type PageAssembly = Pieces<1>;

const _: () = assert!(PAGE_BYTES / MIN_FRAGMENT <= 64);

impl<const WORDS: usize> Pieces<WORDS> {
    /// For the message that this fragment, any of it, belongs to. The header has passed [`Header::decode`]. The fragment
    /// itself is not taken: [`Pieces::accept`] does that.
    pub fn new(header: &Header) -> Self {
        let fragment = usize::from(header.fragment).max(MIN_FRAGMENT);
        let pieces = (header.length as usize)
            .div_ceil(fragment)
            .clamp(1, 64 * WORDS);
        Pieces {
            length: header.length.min(MAX_PAYLOAD as u32),
            fragment: fragment as u16,
            missing: pieces as u16,
            arrived: [0; WORDS],
        }
    }

    /// Whether this fragment is of the same message, cut in the same way, as far as can be told from the sizes.
    pub fn fits(&self, header: &Header) -> bool {
        header.length == self.length && header.fragment == self.fragment
    }

    /// A fragment arrived. Returns where its bytes belong in the payload, as many as [`Header::decode`] returned with it; or
    /// `None` if they are there already or do not fit the message.
    pub fn accept(&mut self, header: &Header) -> Option<Range<usize>> {
        if !self.fits(header) {
            return None;
        }
        let offset = header.offset as usize;
        // Never 0, but the compiler cannot know, and would keep a way to panic.
        let fragment = usize::from(self.fragment).max(1);
        let piece = offset / fragment;
        if offset % fragment != 0 || (piece > 0 && header.offset >= self.length) {
            return None;
        }
        let word = self.arrived.get_mut(piece / 64)?;
        let bit = 1 << (piece % 64);
        if *word & bit != 0 {
            return None;
        }
        *word |= bit;
        self.missing = self.missing.saturating_sub(1);
        Some(offset..offset + header.fragment_bytes())
    }

    /// Whether every fragment has arrived.
    pub fn complete(&self) -> bool {
        self.missing == 0
    }

    /// Bytes of the whole payload, 0 to [`MAX_PAYLOAD`].
    pub fn length(&self) -> usize {
        self.length as usize
    }
}
