// SPDX-License-Identifier: GPL-2.0

//! Requests in flight: each is sent again until it is answered, or until its time is up.
//!
//! An [`Exchange`] is registered under its request id with [`start`], which also sends it. From then on
//!
//! - each answer with this id from this peer is given to [`Exchange::answer`], until that says that it was the last one;
//! - [`Exchange::send`] is called again whenever the time-out (from the measured round trips of the peer, doubling) passes
//!   without an answer, and once a round trip after it was [`overtaken`];
//! - [`Exchange::expired`] is called at most once, instead of a last answer: `ETIMEDOUT` or, if there never was a session,
//!   `ENOTCONN` after the [deadline](crate::proto::reliable::Deadline), which every sign that the peer works on the request puts off; `ESTALE`
//!   when the peer begins a new session; `ENOTCONN` when it is removed.
//!
//! [`finish`], the last answer, and `expired` exclude each other: the first one ends the exchange. A `send` that runs at that
//! moment on another CPU may still be running after it.
//!
//! [`call`] is the blocking form for a request with one answer.

use kernel::{
    bindings, new_spinlock,
    prelude::*,
    rbtree::{RBTree, RBTreeNode, RBTreeNodeReservation},
    sync::{
        atomic::{Atomic, Relaxed},
        global_lock, Arc, SpinLock,
    },
};

use super::{now_us, peer::Peer, timeout_us, timer};
use crate::{
    proto::{
        limits::{RTO_MAX_US, STOOD_STILL_US, WORK_LIMIT_US},
        reliable::{Retry, Tick},
        wire::Header,
    },
    stats::Reason,
    wait::{Event, Wait},
};

/// A request in flight, as its owner sees it. `Arc<T>` of an implementation coerces to `Arc<dyn Exchange>`.
pub trait Exchange: Send + Sync {
    /// An answer (`Reply`, `Grant` or `Ack` with this request's id, from that peer) arrived. Receive thread: must not wait for
    /// locks that are held over I/O, nor for the network. `true`: it was the last one, forget the exchange.
    fn answer(&self, peer: &Arc<Peer>, header: &Header, payload: &[u8]) -> bool;

    /// A datagram of a `Grant` with a page arrived: pages are not put together before they are where they belong. It is up to the
    /// exchange to count the message ([`Peer::count_received`]) when it is whole. Else as [`Exchange::answer`].
    fn piece(&self, _peer: &Arc<Peer>, _header: &Header, _fragment: &[u8]) -> bool {
        false
    }

    /// Sends what is still missing: called once by [`start`] and, with `retry`, for each retransmission. Process context, of
    /// [`start`]'s caller or of the timer.
    ///
    /// # Errors
    ///
    /// `ESTALE`: the session that it belongs to is over, which ends the exchange. All others are left to the next time.
    fn send(&self, peer: &Arc<Peer>, retry: bool) -> Result;

    /// It ended without a last answer; see the module's documentation for the errors. In process context; must not wait for the
    /// network. Called at most once, but for an exchange that [outlives](Exchange::outlives) its deadline.
    fn expired(&self, error: Error);

    /// Whether its turn may come late although the peer is there: then it is not sent again while the peer answers older ones of the kind,
    /// and does not end before the peer has been silent for the time-out, to anybody, or [`WORK_LIMIT_US`] have passed.
    fn patient(&self) -> bool {
        false
    }

    /// Whether its deadline stands, whatever the peer says meanwhile. Else every sign that it works on the request puts the deadline off.
    fn firm(&self) -> bool {
        false
    }

    /// Whether a late answer matters: then the exchange goes on after its deadline, until it is answered or the session ends.
    fn outlives(&self) -> bool {
        false
    }
}

/// One request in flight.
struct Entry {
    peer: Arc<Peer>,
    exchange: Arc<dyn Exchange>,
    retry: Retry,
    /// Whether a round trip has been measured, or cannot be.
    timed: bool,
    /// Send again at once: the peer has just become reachable.
    now: bool,
    /// How often sending again was put off since the last answer.
    put_off: u8,
    /// Given back when the exchange ends.
    _once: Option<Once>,
}

/// How often, and for how many microseconds, sending again is put off while datagrams wait to be looked at: the answer may
/// be among them. A busy receiver would otherwise ask for everything twice; and where decryption is slow, again and again.
const PUT_OFF: u8 = 100;
/// See [`PUT_OFF`].
const PUT_OFF_US: u64 = 2_000;

global_lock! {
    // SAFETY: Initialised in `prepare`, before anything else.
    /// All requests in flight, by id. `None` only before the first.
    unsafe(uninit) static FLIGHTS: SpinLock<Option<RBTree<u64, Entry>>> = None;
}

/// The last request id that was given out.
static LAST: Atomic<u64> = Atomic::new(0);

/// Entries that one look at the table acts on, and entries that it looks at: bounds how long the lock is held.
const GROUP: usize = 16;
/// See [`GROUP`].
const SCAN: usize = 256;

pub(super) fn prepare() {
    // SAFETY: Called once, at load.
    unsafe { FLIGHTS.init() };
    // A new session must not use the ids of the one before: a late answer would find somebody.
    // SAFETY: No requirements.
    let random = unsafe { bindings::get_random_u64() };
    LAST.store(random >> 2, Relaxed);
}

/// Largest errno that programs know (EHWPOISON). Those beyond are the kernel's own, and some of them must not come out of a system call.
const MAX_ERRNO: u64 = 133;

/// What the errno in an answer is to a program here, whatever the peer may have put there.
pub fn error_of(status: impl Into<u64>) -> Error {
    match status.into() {
        status @ 1..=MAX_ERRNO => Error::from_errno(-(status as i32)),
        _ => EIO,
    }
}

/// A request id: increasing, never 0, never given out again. Any context.
pub fn next_request() -> u64 {
    LAST.fetch_add(1, Relaxed) + 1
}

/// Room in the table for one request: who has it can begin that request whatever memory there is by then.
pub struct Room(RBTreeNodeReservation<u64, Entry>);

impl Room {
    /// Process context, may sleep for memory; `ENOMEM`.
    pub fn new() -> Result<Room> {
        Ok(Room(RBTreeNodeReservation::new(GFP_KERNEL)?))
    }
}

/// Registers a request and sends it. `deadline` is in microseconds from now; without one it goes on until it is answered,
/// [`finish`]ed, or the peer's session ends. Process context, may sleep for memory.
///
/// # Errors
///
/// `ENOTCONN`: the peer was removed. `ENOMEM`. `EEXIST`: the id is in use. Then nothing of `exchange` was or will be called.
pub fn start(
    peer: &Arc<Peer>,
    request: u64,
    exchange: Arc<dyn Exchange>,
    deadline: Option<u64>,
) -> Result {
    start_once(peer, None, request, exchange, deadline)
}

/// As [`start`], for a request that must not run twice: with a place, than which its id is younger, or without, if there was none.
pub fn start_once(
    peer: &Arc<Peer>,
    once: Option<Once>,
    request: u64,
    exchange: Arc<dyn Exchange>,
    deadline: Option<u64>,
) -> Result {
    start_in(Room::new()?, peer, once, request, exchange, deadline)
}

/// As [`start_once`], with room that was made before: it needs no memory, so `ENOMEM` is none of its errors.
pub fn start_in(
    room: Room,
    peer: &Arc<Peer>,
    once: Option<Once>,
    request: u64,
    exchange: Arc<dyn Exchange>,
    deadline: Option<u64>,
) -> Result {
    let now = now_us();
    let rto = peer.rto_us();
    let deadline = deadline.map(|time| now.saturating_add(time));
    let entry = Entry {
        peer: peer.clone(),
        exchange: exchange.clone(),
        retry: Retry::new(now, rto, deadline),
        timed: peer.epoch() == 0,
        now: false,
        put_off: 0,
        _once: once,
    };
    let node = room.0.into_node(request, entry);
    {
        let mut flights = FLIGHTS.lock();
        let flights = flights.get_or_insert_with(RBTree::new);
        if flights.get(&request).is_some() {
            return Err(EEXIST);
        }
        flights.insert(node);
    }
    // `remove` marks the peer before it looks for exchanges: either it found this one, or we see the mark.
    if peer.is_gone() && take(request).is_some() {
        return Err(ENOTCONN);
    }
    timer::at(deadline.unwrap_or(timer::NEVER).min(now + rto));
    transmit(request, peer, &*exchange, false);
    Ok(())
}

/// Sends it, or ends it if its session is over.
fn transmit(request: u64, peer: &Arc<Peer>, exchange: &dyn Exchange, retry: bool) {
    if exchange.send(peer, retry) == Err(ESTALE) && take(request).is_some() {
        exchange.expired(ESTALE);
    }
}

/// The longest time that an exchange with the module's time-out can take: the timer ends it at its deadline, which moves while the peer
/// works on it. What is on top is for a timer that is late, and for a node that stood still; if it did for longer than all of this, the wait
/// ends with that.
pub fn longest_wait_us() -> u64 {
    timeout_us() + WORK_LIMIT_US + STOOD_STILL_US + RTO_MAX_US
}

/// Lets an exchange go on without a deadline: nobody waits for it any more.
fn outlive(request: u64) {
    if let Some(entry) = FLIGHTS
        .lock()
        .as_mut()
        .and_then(|flights| flights.get_mut(&request))
    {
        entry.retry.outlive();
    }
}

/// Ends an exchange: it is not sent again, and neither answered nor expired. Does nothing if it has ended. Any context but
/// hard interrupts.
pub fn finish(request: u64) {
    drop(take(request));
}

/// Removes an exchange from the table, to be dropped without the lock.
fn take(request: u64) -> Option<RBTreeNode<u64, Entry>> {
    FLIGHTS.lock().as_mut()?.remove_node(&request)
}

/// The exchange that waits for this answer of the peer, which is noted as a sign of life. Receive thread.
fn waiting(peer: &Arc<Peer>, header: &Header) -> Option<Arc<dyn Exchange>> {
    let found = {
        let mut flights = FLIGHTS.lock();
        let entry = flights
            .as_mut()
            .and_then(|flights| flights.get_mut(&header.request));
        entry
            .filter(|entry| Arc::ptr_eq(&entry.peer, peer))
            .map(|entry| {
                let now = now_us();
                let rtt = if entry.timed {
                    None
                } else {
                    entry.retry.rtt_us(now)
                };
                entry.timed = true;
                entry.put_off = 0;
                if !entry.exchange.firm() {
                    entry.retry.progress(now, timeout_us());
                }
                if entry.exchange.patient() {
                    peer.note_turn(header.request, now);
                }
                (entry.exchange.clone(), rtt)
            })
    };
    let Some((exchange, rtt)) = found else {
        peer.dropped(Reason::LateAnswer);
        if header.offset == 0 {
            peer.answered_twice(header.request);
        }
        return None;
    };
    if let Some(rtt) = rtt {
        peer.sample_rtt(rtt);
    }
    Some(exchange)
}

/// An answer arrived. Receive thread.
pub(super) fn answered(peer: &Arc<Peer>, header: &Header, payload: &[u8]) {
    if waiting(peer, header).is_some_and(|exchange| exchange.answer(peer, header, payload)) {
        finish(header.request);
    }
}

/// A datagram arrived of an answer with a page. Receive thread.
pub(super) fn piece(peer: &Arc<Peer>, header: &Header, fragment: &[u8]) {
    if waiting(peer, header).is_some_and(|exchange| exchange.piece(peer, header, fragment)) {
        finish(header.request);
    }
}

/// The peer works on a request of ours: its deadline moves. Receive thread.
pub(super) fn working(peer: &Arc<Peer>, header: &Header) {
    let mut flights = FLIGHTS.lock();
    let entry = flights
        .as_mut()
        .and_then(|flights| flights.get_mut(&header.request))
        .filter(|entry| Arc::ptr_eq(&entry.peer, peer) && !entry.exchange.firm());
    if let Some(entry) = entry {
        entry.timed = true;
        entry.put_off = 0;
        entry.retry.progress(now_us(), timeout_us());
    }
}

/// Answers to a request are missing although what the peer sent after them is here: it is sent again after a round trip
/// ([`Retry::overtaken`]). Once for each request. Receive thread.
pub fn overtaken(peer: &Peer, request: u64) {
    let wait = peer.round_trip_us();
    let mut flights = FLIGHTS.lock();
    let entry = flights
        .as_mut()
        .and_then(|flights| flights.get_mut(&request));
    let next = entry.map(|entry| entry.retry.overtaken(now_us(), wait));
    drop(flights);
    if let Some(next) = next {
        timer::at(next);
    }
}

/// What the timer has to do for one exchange.
enum Due {
    Send(u64, Arc<Peer>, Arc<dyn Exchange>),
    Late(Arc<Peer>, Arc<dyn Exchange>),
    Expired(RBTreeNode<u64, Entry>),
}

/// Why nothing came of an exchange with this peer.
fn silence(peer: &Peer) -> Error {
    if peer.epoch() == 0 {
        ENOTCONN
    } else {
        ETIMEDOUT
    }
}

/// Does what is due, and says when the next is. Timer.
pub(super) fn tick() -> u64 {
    let mut next = timer::NEVER;
    let mut from = Some(0);
    while let Some(first) = from {
        let mut due = [const { None }; GROUP];
        from = collect(first, &mut due, &mut next);
        for due in due.into_iter().flatten() {
            match due {
                Due::Send(request, peer, exchange) => transmit(request, &peer, &*exchange, true),
                Due::Late(peer, exchange) => exchange.expired(silence(&peer)),
                Due::Expired(node) => {
                    let (_, entry) = node.to_key_value();
                    entry.exchange.expired(silence(&entry.peer));
                }
            }
        }
    }
    next
}

/// Looks at the exchanges from this id on, and says from which one on to look next.
fn collect(from: u64, due: &mut [Option<Due>; GROUP], next: &mut u64) -> Option<u64> {
    let now = now_us();
    let mut looked = 0;
    let mut room = due.iter_mut();
    let mut place = room.next();
    let mut flights = FLIGHTS.lock();
    let mut cursor = flights.as_mut()?.cursor_lower_bound_mut(&from);
    while let Some(mut at) = cursor {
        let (request, entry) = at.current_mut();
        if looked == SCAN {
            return Some(*request);
        }
        let Some(free) = &mut place else {
            return Some(*request);
        };
        looked += 1;
        if entry.exchange.patient() {
            if let Some(time) = entry.peer.turn_before(*request) {
                entry.timed |= entry.retry.in_turn(time);
            }
        }
        let before = entry.retry;
        let mut tick = entry.retry.on_tick(now);
        if tick == Tick::Resend && entry.put_off < PUT_OFF && entry.peer.backlog() {
            entry.put_off += 1;
            entry.retry = before;
            tick = Tick::Wait(now + PUT_OFF_US);
        }
        if core::mem::take(&mut entry.now) && matches!(tick, Tick::Wait(_)) {
            entry.timed = true;
            **free = Some(Due::Send(
                *request,
                entry.peer.clone(),
                entry.exchange.clone(),
            ));
        }
        if tick == Tick::Resend {
            **free = Some(Due::Send(
                *request,
                entry.peer.clone(),
                entry.exchange.clone(),
            ));
            tick = entry.retry.on_tick(now);
        }
        if tick == Tick::Expired
            && entry.exchange.patient()
            && entry.peer.silent_us(now) < timeout_us()
        {
            entry.retry.progress(now, timeout_us());
            tick = entry.retry.on_tick(now);
        }
        if tick == Tick::Expired && entry.exchange.outlives() {
            **free = Some(Due::Late(entry.peer.clone(), entry.exchange.clone()));
            entry.retry.outlive();
            tick = Tick::Wait(now);
        }
        if let Tick::Wait(time) = tick {
            *next = (*next).min(time);
            cursor = at.move_next();
        } else {
            // With the last one removed the cursor is at the one before, which has nothing to do any more.
            let (rest, node) = at.remove_current();
            **free = Some(Due::Expired(node));
            cursor = rest;
        }
        if free.is_some() {
            place = room.next();
        }
    }
    None
}

/// Sends all requests to this peer again, soon: it has just become reachable. Any context but hard interrupts.
pub(super) fn resend(peer: &Arc<Peer>) {
    {
        let mut flights = FLIGHTS.lock();
        let Some(flights) = flights.as_mut() else {
            return;
        };
        for (_, entry) in flights
            .iter_mut()
            .filter(|(_, entry)| Arc::ptr_eq(&entry.peer, peer))
        {
            entry.now = true;
        }
    }
    timer::at(now_us());
}

/// Ends all exchanges with this peer. Process context.
pub(super) fn end(peer: &Arc<Peer>, error: Error) {
    end_those(error, |entry| Arc::ptr_eq(&entry.peer, peer));
}

/// Ends all exchanges there are.
pub(super) fn end_all() {
    end_those(ENOTCONN, |_| true);
}

fn end_those(error: Error, which: impl Fn(&Entry) -> bool) {
    let mut from = Some(0);
    while let Some(first) = from {
        let node = {
            let mut flights = FLIGHTS.lock();
            let Some(flights) = flights.as_mut() else {
                return;
            };
            let mut cursor = flights.cursor_lower_bound_mut(&first);
            let mut looked = 0;
            loop {
                let Some(at) = cursor else {
                    from = None;
                    break None;
                };
                let (request, entry) = at.current();
                from = Some(*request);
                if which(entry) {
                    break Some(at.remove_current().1);
                }
                looked += 1;
                if looked > SCAN {
                    break None;
                }
                cursor = at.move_next();
            }
        };
        if let Some(node) = node {
            let (_, entry) = node.to_key_value();
            entry.exchange.expired(error);
        }
    }
}

/// A place among the requests to a peer that must not run twice: to be had before the request's id is, and given back when the
/// exchange ends. See [`OnceWindow`](crate::proto::reliable::OnceWindow).
pub struct Once {
    peer: Arc<Peer>,
    number: u64,
}

impl Once {
    /// A place, if there is one. Any context but hard interrupts.
    pub fn try_begin(peer: &Arc<Peer>) -> Option<Once> {
        let number = peer.once.lock().begin()?;
        Some(Once {
            peer: peer.clone(),
            number,
        })
    }

    /// A place, waiting for it if too many requests are unanswered. Sleeps.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`: none was answered within the module's time-out. `EINTR`: the task was killed.
    pub fn begin(peer: &Arc<Peer>) -> Result<Once> {
        loop {
            let seen = peer.once_ended.seen();
            if let Some(once) = Once::try_begin(peer) {
                return Ok(once);
            }
            if !peer.once_ended.wait(seen, timeout_us(), Wait::Killable)? {
                return Err(ETIMEDOUT);
            }
        }
    }
}

impl Drop for Once {
    fn drop(&mut self) {
        self.peer.once.lock().end(self.number);
        self.peer.once_ended.happen();
    }
}

/// The answer to a [`call`].
pub struct Answer {
    /// Its header; `status` is 0.
    pub header: Header,
    /// Its payload.
    pub payload: KVVec<u8>,
}

/// What to do with an answer that comes when nobody waits for it any more; if it says that the request was done, that is to be taken back.
/// Request, its payload, answer. Receive thread: must not wait.
pub type Late = fn(&Arc<Peer>, &Header, &[u8], &Header);

/// A request that somebody waits for.
#[pin_data]
struct Call {
    header: Header,
    payload: KVVec<u8>,
    late: Option<Late>,
    #[pin]
    outcome: SpinLock<Outcome>,
    #[pin]
    done: Event,
}

/// What came of a [`Call`].
enum Outcome {
    Open,
    Ended(Result<Answer>),
    /// Whoever waited has got it, or has given up.
    Taken,
}

impl Call {
    /// The first outcome counts. Says whether this one did.
    fn end(&self, outcome: Result<Answer>) -> bool {
        let late = {
            let mut place = self.outcome.lock();
            if matches!(*place, Outcome::Open) {
                *place = Outcome::Ended(outcome);
                None
            } else {
                Some(outcome)
            }
        };
        self.done.happen();
        late.is_none()
    }

    /// What came of it; from now on whatever comes is late.
    fn take(&self) -> Option<Result<Answer>> {
        match core::mem::replace(&mut *self.outcome.lock(), Outcome::Taken) {
            Outcome::Ended(outcome) => Some(outcome),
            Outcome::Open | Outcome::Taken => None,
        }
    }
}

impl Exchange for Call {
    fn answer(&self, peer: &Arc<Peer>, header: &Header, payload: &[u8]) -> bool {
        let outcome = if header.status == 0 {
            let mut copy = KVVec::new();
            if copy.extend_from_slice(payload, GFP_KERNEL).is_err() {
                // The request is sent again, and so is the answer.
                return false;
            }
            Ok(Answer {
                header: *header,
                payload: copy,
            })
        } else {
            Err(error_of(header.status))
        };
        if !self.end(outcome) {
            if let Some(late) = self.late {
                late(peer, &self.header, &self.payload, header);
            }
        }
        true
    }

    fn send(&self, peer: &Arc<Peer>, retry: bool) -> Result {
        peer.send(&self.header.sent(retry), &self.payload)
    }

    fn expired(&self, error: Error) {
        self.end(Err(error));
    }

    fn outlives(&self) -> bool {
        self.late.is_some()
    }
}

/// Sends a request and waits for its answer. The request id is filled in. Process context, sleeps: while the peer is silent for at most
/// the module's time-out, while it says that it works on the request for at most [`WORK_LIMIT_US`]; only a fatal signal ends the wait early.
///
/// # Errors
///
/// The errno of an answer with a `status`; `ETIMEDOUT`: the peer did not answer in time; `ENOTCONN`: it was removed, or
/// there has been no session until the time was up; `ESTALE`: it began a new session; `EINTR`: the task was killed; `EINVAL`:
/// more than `MAX_PAYLOAD` bytes; `ENOMEM`.
pub fn call(peer: &Arc<Peer>, header: Header, payload: &[u8]) -> Result<Answer> {
    let once = if header.kind.once() {
        Some(Once::begin(peer)?)
    } else {
        None
    };
    call_with(peer, once, header, payload, None)
}

/// As [`call`], of a request that must not run twice. If that gives up ([`gave_up`]), `late` gets the answer when it comes, unless the
/// session ends before: what is not known here must not go on at the peer for ever.
///
/// # Errors
///
/// As [`call`].
pub fn call_once(once: Once, header: Header, payload: &[u8], late: Late) -> Result<Answer> {
    let peer = once.peer.clone();
    call_with(&peer, Some(once), header, payload, Some(late))
}

/// Whether a call failed with this because nobody waits for its answer any more: what it asks for may yet be done.
pub fn gave_up(error: Error) -> bool {
    [ETIMEDOUT, ENOTCONN, EINTR].contains(&error)
}

fn call_with(
    peer: &Arc<Peer>,
    once: Option<Once>,
    mut header: Header,
    payload: &[u8],
    late: Option<Late>,
) -> Result<Answer> {
    if payload.len() > crate::proto::limits::MAX_PAYLOAD {
        return Err(EINVAL);
    }
    header.request = next_request();
    let mut copy = KVVec::new();
    copy.extend_from_slice(payload, GFP_KERNEL)?;
    let call = Arc::pin_init(
        try_pin_init!(Call {
            header,
            payload: copy,
            late,
            outcome <- new_spinlock!(Outcome::Open),
            done <- Event::new(),
        }),
        GFP_KERNEL,
    )?;
    start_once(peer, once, header.request, call.clone(), Some(timeout_us()))?;
    let waited = call.done.wait(longest_wait_us());
    let outcome = call.take();
    if late.is_some() {
        // If it is over, this does nothing.
        outlive(header.request);
    } else {
        finish(header.request);
    }
    match (outcome, waited) {
        (Some(outcome), _) => outcome,
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(ETIMEDOUT),
    }
}
