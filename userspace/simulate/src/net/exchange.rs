// SPDX-License-Identifier: GPL-2.0

//! Requests in flight: `rust/net/exchange.rs`.
//!
//! Left out: the limits of how much one look at the table does, and memory that runs short.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use nix::errno::Errno;
use vremote_proto::{
    limits::{RTO_MAX_US, STOOD_STILL_US, WORK_LIMIT_US},
    reliable::{Retry, Tick},
    wire::{flags, Header},
};

use super::peer::Peer;
use crate::{
    bug::Bug,
    node::{Node, NEVER},
    wait::{Changes, Result, Wait},
};

/// A request in flight, as its owner sees it.
pub trait Exchange {
    /// An answer arrived. `true`: it was the last one, forget the exchange.
    fn answer(&self, peer: &Rc<Peer>, header: &Header, payload: &[u8]) -> bool;

    /// A datagram of a `Grant` with a page arrived. Else as [`Exchange::answer`].
    fn piece(&self, _peer: &Rc<Peer>, _header: &Header, _fragment: &[u8]) -> bool {
        false
    }

    /// Sends what is still missing.
    fn send(&self, peer: &Rc<Peer>, retry: bool);

    /// It ended without a last answer.
    fn expired(&self, error: Errno);

    /// Whether its turn may come late although the peer is there.
    fn patient(&self) -> bool {
        false
    }

    /// Whether a late answer matters: then the exchange goes on after its deadline.
    fn outlives(&self) -> bool {
        false
    }
}

struct Entry {
    peer: Rc<Peer>,
    exchange: Rc<dyn Exchange>,
    retry: Retry,
    timed: bool,
    now: bool,
    put_off: u8,
    _once: Option<Once>,
}

const PUT_OFF: u8 = 100;
const PUT_OFF_US: u64 = 2_000;

/// All requests in flight of a node, by id.
#[derive(Default)]
pub struct Exchanges {
    flights: RefCell<BTreeMap<u64, Entry>>,
    last: Cell<u64>,
}

impl Exchanges {
    /// None; ids begin behind `last`.
    pub fn new(last: u64) -> Exchanges {
        Exchanges {
            flights: RefCell::default(),
            last: Cell::new(last),
        }
    }

    /// A request id: increasing, never 0, never given out again.
    pub fn next_request(&self) -> u64 {
        self.last.set(self.last.get() + 1);
        self.last.get()
    }

    /// Ends an exchange: it is not sent again, and neither answered nor expired.
    pub fn finish(&self, request: u64) {
        let entry = self.flights.borrow_mut().remove(&request);
        drop(entry);
    }

    fn outlive(&self, request: u64) {
        if let Some(entry) = self.flights.borrow_mut().get_mut(&request) {
            entry.retry.outlive();
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.flights.borrow().len()
    }

    /// Forgets all of it: the node is dead.
    pub fn clear(&self) {
        let flights = self.flights.take();
        drop(flights);
    }
}

/// Registers a request and sends it. `deadline` is in microseconds from now.
pub fn start(peer: &Rc<Peer>, request: u64, exchange: Rc<dyn Exchange>, deadline: Option<u64>) {
    begin(peer, request, exchange, deadline, None);
}

/// As [`start`], for a request that must not run twice.
pub fn start_once(once: Once, request: u64, exchange: Rc<dyn Exchange>, deadline: Option<u64>) {
    let peer = once.peer.clone();
    begin(&peer, request, exchange, deadline, Some(once));
}

fn begin(
    peer: &Rc<Peer>,
    request: u64,
    exchange: Rc<dyn Exchange>,
    deadline: Option<u64>,
    once: Option<Once>,
) {
    let node = peer.node();
    let now = node.now_us();
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
    node.exchanges.flights.borrow_mut().insert(request, entry);
    node.timer_at(deadline.unwrap_or(NEVER).min(now + rto));
    exchange.send(peer, false);
}

fn waiting(peer: &Rc<Peer>, header: &Header) -> Option<Rc<dyn Exchange>> {
    let node = peer.node();
    let found = {
        let mut flights = node.exchanges.flights.borrow_mut();
        flights
            .get_mut(&header.request)
            .filter(|entry| Rc::ptr_eq(&entry.peer, peer))
            .map(|entry| {
                let now = node.now_us();
                let rtt = if entry.timed {
                    None
                } else {
                    entry.retry.rtt_us(now)
                };
                entry.timed = true;
                entry.put_off = 0;
                entry.retry.progress(now, node.timeout_us());
                if entry.exchange.patient() {
                    peer.note_turn(header.request, now);
                }
                (entry.exchange.clone(), rtt)
            })
    };
    let Some((exchange, rtt)) = found else {
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
pub fn answered(peer: &Rc<Peer>, header: &Header, payload: &[u8]) {
    if waiting(peer, header).is_some_and(|exchange| exchange.answer(peer, header, payload)) {
        peer.node().exchanges.finish(header.request);
    }
}

/// A datagram arrived of an answer with a page. Receive thread.
pub fn piece(peer: &Rc<Peer>, header: &Header, fragment: &[u8]) {
    if waiting(peer, header).is_some_and(|exchange| exchange.piece(peer, header, fragment)) {
        peer.node().exchanges.finish(header.request);
    }
}

/// The peer works on a request of ours: its deadline moves. Receive thread.
pub fn working(peer: &Rc<Peer>, header: &Header) {
    let node = peer.node();
    let mut flights = node.exchanges.flights.borrow_mut();
    let entry = flights
        .get_mut(&header.request)
        .filter(|entry| Rc::ptr_eq(&entry.peer, peer));
    if let Some(entry) = entry {
        entry.timed = true;
        entry.put_off = 0;
        entry.retry.progress(node.now_us(), node.timeout_us());
    }
}

/// Answers to a request are missing although what the peer sent after them is here. Receive thread.
pub fn overtaken(peer: &Rc<Peer>, request: u64) {
    let node = peer.node();
    let wait = peer.round_trip_us();
    let next = {
        let mut flights = node.exchanges.flights.borrow_mut();
        let entry = flights.get_mut(&request);
        entry.map(|entry| entry.retry.overtaken(node.now_us(), wait))
    };
    if let Some(next) = next {
        node.timer_at(next);
    }
}

enum Due {
    Send(Rc<Peer>, Rc<dyn Exchange>),
    Late(Rc<Peer>, Rc<dyn Exchange>),
    Expired(Entry),
}

fn silence(peer: &Peer) -> Errno {
    if peer.epoch() == 0 {
        Errno::ENOTCONN
    } else {
        Errno::ETIMEDOUT
    }
}

/// Does what is due, and says when the next is. Timer.
pub fn tick(node: &Rc<Node>) -> u64 {
    let mut next = NEVER;
    for due in collect(node, &mut next) {
        match due {
            Due::Send(peer, exchange) => exchange.send(&peer, true),
            Due::Late(peer, exchange) => exchange.expired(silence(&peer)),
            Due::Expired(entry) => {
                let error = silence(&entry.peer);
                let exchange = entry.exchange.clone();
                drop(entry);
                exchange.expired(error);
            }
        }
    }
    next
}

fn collect(node: &Rc<Node>, next: &mut u64) -> Vec<Due> {
    let now = node.now_us();
    let timeout = node.timeout_us();
    let silent = node.world.has(Bug::NothingIsSentAgain);
    let mut due = Vec::new();
    let mut over = Vec::new();
    let mut flights = node.exchanges.flights.borrow_mut();
    for (&request, entry) in flights.iter_mut() {
        if entry.exchange.patient() {
            if let Some(time) = entry.peer.turn_before(request) {
                entry.timed |= entry.retry.in_turn(time);
            }
        }
        let before = entry.retry;
        let mut tick = entry.retry.on_tick(now);
        if tick == Tick::Resend && entry.put_off < PUT_OFF && node.backlog() {
            entry.put_off += 1;
            entry.retry = before;
            tick = Tick::Wait(now + PUT_OFF_US);
        }
        let mut send = core::mem::take(&mut entry.now) && matches!(tick, Tick::Wait(_));
        if send {
            entry.timed = true;
        }
        if tick == Tick::Resend {
            send = true;
            tick = entry.retry.on_tick(now);
        }
        if send && !silent {
            due.push(Due::Send(entry.peer.clone(), entry.exchange.clone()));
        }
        if tick == Tick::Expired && entry.exchange.patient() && entry.peer.silent_us(now) < timeout
        {
            entry.retry.progress(now, timeout);
            tick = entry.retry.on_tick(now);
        }
        if tick == Tick::Expired && entry.exchange.outlives() {
            due.push(Due::Late(entry.peer.clone(), entry.exchange.clone()));
            entry.retry.outlive();
            tick = Tick::Wait(now);
        }
        match tick {
            Tick::Wait(time) => *next = (*next).min(time),
            _ => over.push(request),
        }
    }
    for request in over {
        due.extend(flights.remove(&request).map(Due::Expired));
    }
    due
}

/// Sends all requests to this peer again, soon: it has just become reachable.
pub fn resend(peer: &Rc<Peer>) {
    let node = peer.node();
    for entry in node.exchanges.flights.borrow_mut().values_mut() {
        entry.now |= Rc::ptr_eq(&entry.peer, peer);
    }
    node.timer_at(node.now_us());
}

/// Ends all exchanges with this peer.
pub fn end(peer: &Rc<Peer>, error: Errno) {
    let node = peer.node();
    let mut from = 0;
    loop {
        let entry = {
            let mut flights = node.exchanges.flights.borrow_mut();
            let found = flights
                .range(from..)
                .find(|(_, entry)| Rc::ptr_eq(&entry.peer, peer))
                .map(|(request, _)| *request);
            let Some(request) = found else { return };
            from = request;
            flights.remove(&request)
        };
        if let Some(entry) = entry {
            let exchange = entry.exchange.clone();
            drop(entry);
            exchange.expired(error);
        }
    }
}

/// A place among the requests to a peer that must not run twice.
pub struct Once {
    peer: Rc<Peer>,
    number: u64,
}

impl Once {
    /// A place, if there is one.
    pub fn try_begin(peer: &Rc<Peer>) -> Option<Once> {
        let number = peer.once.borrow_mut().begin()?;
        Some(Once {
            peer: peer.clone(),
            number,
        })
    }

    /// A place, waiting for it if too many requests are unanswered.
    pub async fn begin(peer: &Rc<Peer>) -> Result<Once> {
        loop {
            let seen = peer.once_ended.seen();
            if let Some(once) = Once::try_begin(peer) {
                return Ok(once);
            }
            let limit = peer.node().timeout_us();
            if !peer.once_ended.wait(seen, limit, Wait::Killable).await? {
                return Err(Errno::ETIMEDOUT);
            }
        }
    }
}

impl Drop for Once {
    fn drop(&mut self) {
        self.peer.once.borrow_mut().end(self.number);
        self.peer.once_ended.happen();
    }
}

/// The answer to a [`call`].
pub struct Answer {
    /// Its header; `status` is 0.
    pub header: Header,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Takes back what a request has done, when its answer says that it was, and nobody waits for it any more: request, answer.
pub type Undo = fn(&Rc<Peer>, &Header, &Header);

struct Call {
    header: Header,
    payload: Vec<u8>,
    undo: Option<Undo>,
    outcome: RefCell<Outcome>,
    done: Changes,
}

enum Outcome {
    Open,
    Ended(Result<Answer>),
    Taken,
}

impl Call {
    fn end(&self, outcome: Result<Answer>) -> bool {
        let first = {
            let mut place = self.outcome.borrow_mut();
            let first = matches!(*place, Outcome::Open);
            if first {
                *place = Outcome::Ended(outcome);
            }
            first
        };
        self.done.happen();
        first
    }

    fn take(&self) -> Option<Result<Answer>> {
        match self.outcome.replace(Outcome::Taken) {
            Outcome::Ended(outcome) => Some(outcome),
            Outcome::Open | Outcome::Taken => None,
        }
    }
}

impl Exchange for Call {
    fn answer(&self, peer: &Rc<Peer>, header: &Header, payload: &[u8]) -> bool {
        let outcome = if header.status == 0 {
            Ok(Answer {
                header: *header,
                payload: payload.to_vec(),
            })
        } else {
            Err(Errno::from_raw(i32::from(header.status)))
        };
        let was_done = outcome.is_ok();
        if !self.end(outcome) && was_done && !peer.node().world.has(Bug::LateOpenKept) {
            if let Some(undo) = self.undo {
                undo(peer, &self.header, header);
            }
        }
        true
    }

    fn send(&self, peer: &Rc<Peer>, retry: bool) {
        let mut header = self.header;
        if retry {
            header.flags |= flags::RETRY;
        }
        let _ = peer.send(&header, &self.payload);
    }

    fn expired(&self, error: Errno) {
        self.end(Err(error));
    }

    fn outlives(&self) -> bool {
        self.undo.is_some()
    }
}

/// Sends a request and waits for its answer.
pub async fn call(peer: &Rc<Peer>, header: Header, payload: &[u8]) -> Result<Answer> {
    call_or(peer, header, payload, None).await
}

/// As [`call`]. If that gives up, and the answer comes later and says that the request was done, `undo` takes it back.
pub async fn call_or(
    peer: &Rc<Peer>,
    mut header: Header,
    payload: &[u8],
    undo: Option<Undo>,
) -> Result<Answer> {
    let node = peer.node();
    let once = if header.kind.once() {
        Some(Once::begin(peer).await?)
    } else {
        None
    };
    header.request = node.exchanges.next_request();
    let call = Rc::new(Call {
        header,
        payload: payload.to_vec(),
        undo,
        outcome: RefCell::new(Outcome::Open),
        done: Changes::new(&node.world.sim),
    });
    begin(
        peer,
        header.request,
        call.clone(),
        Some(node.timeout_us()),
        once,
    );
    let waited = call
        .done
        .wait_once(longest_wait_us(&node), Wait::Killable)
        .await;
    let outcome = call.take();
    if undo.is_some() {
        // If it is over, this does nothing.
        node.exchanges.outlive(header.request);
    } else {
        node.exchanges.finish(header.request);
    }
    match (outcome, waited) {
        (Some(outcome), _) => outcome,
        (None, Err(error)) => Err(error),
        (None, Ok(())) => Err(Errno::ETIMEDOUT),
    }
}

/// The longest time that an exchange with the module's time-out can take.
pub fn longest_wait_us(node: &Node) -> u64 {
    node.timeout_us() + WORK_LIMIT_US + STOOD_STILL_US + RTO_MAX_US
}
