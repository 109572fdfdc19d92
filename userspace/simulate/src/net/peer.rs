// SPDX-License-Identifier: GPL-2.0

//! Peers and the sessions with them: `rust/net/peer.rs`, `peer/session.rs`, `peer/lease.rs`, `peer/send.rs`, and of `rust/net/udp.rs` what
//! becomes of a datagram, as between nodes that were told not to encrypt (`plain=1`).
//!
//! Left out: handshakes and encryption, names, removing a peer, smaller datagrams, logs and counters.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
};

use nix::errno::Errno;
use vremote_proto::{
    lease::{Lease, Term},
    limits::{
        DEAF_US, FRAGMENT_BYTES, HELLO_HURRY_US, HELLO_INTERVAL_US, MAX_LEASE_US, PEER_DOWN_US,
    },
    reliable::{OnceWindow, RttEstimator},
    wire::{Header, Kind, HEADER_BYTES},
};

use super::{assembly::Assemblies, exchange};
use crate::{
    bug::Bug,
    executor::Home,
    node::{Node, NEVER},
    wait::{Changes, Result, Work},
};

/// How soon to look again whether the datagrams that waited were looked at.
const UNHEARD_PAUSE_US: u64 = 10_000;

/// Shortest time between two hellos that something received made us send.
const HELLO_PAUSE_US: u64 = 100_000;

/// Epochs of a peer that are remembered as over.
const RETIRED: usize = 4;

/// How long.
const RETIRED_US: u64 = 5_000_000;

struct Link {
    rtt: RttEstimator,
    hello_sent: u64,
    term: Term,
    fenced: bool,
    next_epoch: u64,
    agreed: u64,
    retired: [(u64, u64); RETIRED],
}

/// Another node.
pub struct Peer {
    node: Weak<Node>,
    /// Its number, which is also the slot that it has here.
    pub slot: u8,
    own_epoch: Cell<u64>,
    epoch: Cell<u64>,
    lease: Cell<u64>,
    /// Something about the lease changed: it was renewed, or the session has begun or ended.
    pub lease_changes: Changes,
    answered: Cell<u64>,
    heard: Cell<u64>,
    /// As `heard`, by the clock of the simulation, for the checks.
    pub heard_at: Cell<u64>,
    turn: Cell<(u64, u64)>,
    late: Cell<u64>,
    shown_up: Cell<bool>,
    link: RefCell<Link>,
    assemblies: RefCell<Assemblies>,
    /// Requests to it that must not run twice.
    pub once: RefCell<OnceWindow>,
    /// The end of such a request.
    pub once_ended: Changes,
    renewal: Work,
}

impl Peer {
    /// No session yet.
    pub fn new(node: &Weak<Node>, home: Home, world: &crate::world::World, slot: usize) -> Peer {
        Peer {
            node: node.clone(),
            slot: slot as u8,
            own_epoch: Cell::new(world.new_epoch(home)),
            epoch: Cell::new(0),
            lease: Cell::new(0),
            lease_changes: Changes::new(&world.sim),
            answered: Cell::new(0),
            heard: Cell::new(0),
            heard_at: Cell::new(0),
            turn: Cell::new((0, 0)),
            late: Cell::new(0),
            shown_up: Cell::new(false),
            link: RefCell::new(Link {
                rtt: RttEstimator::new(),
                hello_sent: 0,
                term: Term::default(),
                fenced: false,
                next_epoch: 0,
                agreed: 0,
                retired: [(0, 0); RETIRED],
            }),
            assemblies: RefCell::default(),
            once: RefCell::new(OnceWindow::new()),
            once_ended: Changes::new(&world.sim),
            renewal: Work::default(),
        }
    }

    /// The node whose peer it is.
    ///
    /// # Panics
    ///
    /// That node is gone.
    pub fn node(&self) -> Rc<Node> {
        self.node
            .upgrade()
            .expect("nothing of a node outlives its crash")
    }

    /// Number of the other node.
    pub fn number(&self) -> usize {
        usize::from(self.slot)
    }

    /// This node's epoch for this peer.
    pub fn own_epoch(&self) -> u64 {
        self.own_epoch.get()
    }

    /// Session of the peer; 0 while none is agreed.
    pub fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// What the session is known by.
    pub fn session(&self) -> (u64, u64) {
        (self.own_epoch(), self.epoch())
    }

    fn is_up(&self) -> bool {
        self.epoch() != 0 && self.silent_us(self.node().now_us()) < PEER_DOWN_US
    }

    /// Retransmission time-out for requests to it, microseconds.
    pub fn rto_us(&self) -> u64 {
        self.link.borrow().rtt.rto_us()
    }

    /// How long nothing has been heard of it.
    pub fn silent_us(&self, now: u64) -> u64 {
        now.saturating_sub(self.heard.get())
    }

    /// It answers this request, of those whose turn may come late.
    pub fn note_turn(&self, request: u64, now: u64) {
        self.turn.set((request, now));
    }

    /// When it answered a request last, if that one is older than this.
    pub fn turn_before(&self, request: u64) -> Option<u64> {
        let (last, time) = self.turn.get();
        (last < request).then_some(time)
    }

    /// Takes a measured round trip.
    pub fn sample_rtt(&self, rtt: u64) {
        self.link.borrow_mut().rtt.sample(rtt, false);
    }

    /// The smoothed round trip; before the first measurement the time-out.
    pub fn round_trip_us(&self) -> u64 {
        let link = self.link.borrow();
        link.rtt.srtt_us().unwrap_or(link.rtt.rto_us())
    }

    /// An answer to this request arrived that nobody waits for any more. All of one request count once.
    pub fn answered_twice(&self, request: u64) {
        if self.late.replace(request) != request {
            self.link.borrow_mut().rtt.answered_twice();
        }
    }

    fn log(&self, words: u64, what: &str) {
        let node = self.node();
        node.note(&[2, u64::from(self.slot), words], || {
            format!("peer n{}: {what}", self.slot)
        });
    }

    fn heard(&self) {
        let node = self.node();
        self.heard.set(node.now_us());
        self.heard_at.set(node.world.sim.now());
        if !self.shown_up.replace(true) {
            self.log(1, "up");
        }
    }

    // ---- peer/send.rs ------------------------------------------------------------------------------------------

    /// Sends a message in the current session. `ENOTCONN`: there is none; `ESTALE`: the one of the header's `peer_epoch` is over.
    pub fn send(self: &Rc<Peer>, header: &Header, payload: &[u8]) -> Result {
        let epoch = self.epoch();
        if epoch == 0 {
            self.hello(false);
            return Err(Errno::ENOTCONN);
        }
        if header.peer_epoch != 0 && header.peer_epoch != epoch {
            return Err(Errno::ESTALE);
        }
        self.send_in_session(
            Header {
                epoch: self.own_epoch(),
                peer_epoch: epoch,
                ..*header
            },
            payload,
        );
        Ok(())
    }

    fn send_in_session(&self, mut header: Header, payload: &[u8]) {
        let node = self.node();
        if node.is_dead() {
            return;
        }
        header.length = payload.len() as u32;
        header.fragment = FRAGMENT_BYTES as u16;
        node.note_message(true, self.number(), &header);
        let pieces = payload.len().div_ceil(FRAGMENT_BYTES).max(1);
        for piece in 0..pieces {
            let from = piece * FRAGMENT_BYTES;
            let to = payload.len().min(from + FRAGMENT_BYTES);
            header.offset = from as u32;
            let mut datagram = Vec::with_capacity(HEADER_BYTES + to - from);
            datagram.extend_from_slice(&header.encode());
            datagram.extend_from_slice(&payload[from..to]);
            node.world.network.borrow_mut().send(
                &node.world.sim,
                node.number,
                self.number(),
                datagram.into(),
            );
        }
    }

    // ---- udp.rs ------------------------------------------------------------------------------------------------

    /// A datagram of the peer arrived. Receive thread.
    pub fn take(self: &Rc<Peer>, datagram: &[u8]) {
        let Ok((header, fragment)) = Header::decode(datagram) else {
            self.node().world.fail("a datagram was malformed".into());
            return;
        };
        let node = self.node();
        if matches!(header.kind, Kind::Hello | Kind::HelloAck) {
            node.note_message(false, self.number(), &header);
            self.hello_received(&header);
            return;
        }
        let current = header.peer_epoch == self.own_epoch() && header.epoch == self.epoch();
        if !current && !node.world.has(Bug::OldEpochTaken) {
            node.note(&[3, u64::from(self.slot)], || {
                format!(
                    "from n{}: {} of another session",
                    self.slot,
                    header.kind.name()
                )
            });
            self.hello(false);
            return;
        }
        self.heard();
        if header.kind == Kind::Grant && !fragment.is_empty() {
            return exchange::piece(self, &header, fragment);
        }
        if header.length as usize == fragment.len() {
            return self.dispatch(&header, fragment);
        }
        let whole = self
            .assemblies
            .borrow_mut()
            .accept(node.now_us(), &header, fragment);
        if let Some((header, payload)) = whole {
            self.dispatch(&header, &payload);
        }
    }

    fn dispatch(self: &Rc<Peer>, header: &Header, payload: &[u8]) {
        let node = self.node();
        node.note_message(false, self.number(), header);
        match header.kind {
            Kind::Reply | Kind::Grant | Kind::Ack => exchange::answered(self, header, payload),
            Kind::Working => exchange::working(self, header),
            Kind::Invalidate | Kind::Recall => crate::remote::receive(self, header),
            _ => crate::origin::serve::receive(self, header, payload),
        }
    }

    // ---- peer/session.rs ---------------------------------------------------------------------------------------

    /// Says hello; without `always` at most every [`HELLO_PAUSE_US`].
    pub fn hello(&self, always: bool) {
        let now = self.node().now_us().max(1);
        let peer_epoch = {
            let mut link = self.link.borrow_mut();
            if !always && now.saturating_sub(link.hello_sent) < HELLO_PAUSE_US {
                return;
            }
            link.hello_sent = now;
            self.epoch().max(link.next_epoch)
        };
        self.greet(Kind::Hello, peer_epoch, now, 0);
    }

    fn greet(&self, kind: Kind, peer_epoch: u64, request: u64, lease: u64) {
        let header = Header {
            kind,
            epoch: self.own_epoch(),
            peer_epoch,
            request,
            size: lease,
            ..Header::default()
        };
        self.send_in_session(header, b"");
    }

    fn hello_received(self: &Rc<Peer>, header: &Header) {
        let node = self.node();
        let world = &node.world;
        let meant = header.peer_epoch == self.own_epoch();
        if header.kind == Kind::Hello {
            let lease = {
                let mut link = self.link.borrow_mut();
                if meant && !link.fenced && header.epoch == self.epoch() {
                    let length = node.lease_us();
                    let granted = link.term.grant(node.now_us(), length);
                    if world.has(Bug::GrantedWhileClosed) {
                        length
                    } else {
                        granted
                    }
                } else {
                    0
                }
            };
            self.greet(Kind::HelloAck, header.epoch, header.request, lease);
            if !meant || self.is_doubtful(header) {
                if header.epoch != self.epoch() {
                    self.challenge(header.epoch);
                }
                return;
            }
        } else if !meant || self.is_doubtful(header) {
            return;
        }
        let now = node.now_us();
        let answers = header.kind == Kind::HelloAck && header.request != 0 && header.request <= now;
        {
            let mut link = self.link.borrow_mut();
            if answers && header.request == link.hello_sent {
                link.rtt.sample(now.saturating_sub(header.request), false);
            }
        }
        self.agreed(header.epoch);
        if answers {
            {
                let mut link = self.link.borrow_mut();
                let current = header.epoch == self.epoch() && header.peer_epoch == self.own_epoch();
                if link.fenced || !current {
                    return;
                }
                let from = if world.has(Bug::LeaseFromAnswer) {
                    now
                } else {
                    header.request
                };
                let mut lease = Lease {
                    until: self.lease.get(),
                };
                lease.renew(from, header.size.min(MAX_LEASE_US));
                self.lease.set(lease.until);
                link.term.reopen();
                self.answered.set(self.answered.get().max(header.request));
            }
            self.lease_changes.happen();
        }
    }

    /// Whether this is of another session than the peer's present one, and may be older: only the answer to a hello that left since then is
    /// not.
    fn is_doubtful(&self, header: &Header) -> bool {
        let link = self.link.borrow();
        let present = self.epoch().max(link.next_epoch);
        let fresh = header.kind == Kind::HelloAck && header.request > link.agreed;
        present != 0 && header.epoch != present && !fresh
    }

    fn challenge(&self, epoch: u64) {
        let now = self.node().now_us().max(1);
        {
            let mut link = self.link.borrow_mut();
            if now.saturating_sub(link.hello_sent) < HELLO_PAUSE_US
                && link.hello_sent != 0
                && self.epoch() != 0
            {
                return;
            }
            link.hello_sent = now;
        }
        self.greet(Kind::Hello, epoch, now, 0);
    }

    fn agreed(self: &Rc<Peer>, epoch: u64) {
        let node = self.node();
        let now = node.now_us();
        let renew = {
            let mut link = self.link.borrow_mut();
            let current = self.epoch();
            let retired = |(over, until): &(u64, u64)| *over == epoch && now < *until;
            if link.fenced {
                return;
            } else if epoch == current || epoch == link.next_epoch {
                false
            } else if link.retired.iter().any(retired) {
                return;
            } else if current == 0 && link.next_epoch == 0 {
                link.agreed = now;
                self.epoch.set(epoch);
                false
            } else {
                let over = if current != 0 {
                    current
                } else {
                    link.next_epoch
                };
                link.retired.rotate_right(1);
                link.retired[0] = (over, now + RETIRED_US);
                link.agreed = now;
                link.next_epoch = epoch;
                self.epoch.set(0);
                true
            }
        };
        if renew {
            self.shown_up.set(false);
            self.log(2, "started anew");
            self.renew();
        } else if self.epoch() != 0 {
            let first = !self.shown_up.get();
            self.heard();
            if first {
                exchange::resend(self);
            }
        }
    }

    fn renew(self: &Rc<Peer>) {
        if self.renewal.queue() {
            let peer = self.clone();
            let node = self.node();
            node.world.sim.spawn(node.home(), async move {
                while peer.renewal.begin() {
                    peer.end_session().await;
                }
            });
        }
    }

    /// Ends the peer's old session, then lets the new one begin.
    async fn end_session(self: &Rc<Peer>) {
        let node = self.node();
        let _admin = node.admin.lock_always().await;
        {
            let link = self.link.borrow();
            if !link.fenced && link.next_epoch == 0 {
                return;
            }
        }
        exchange::end(self, Errno::ESTALE);
        if !node.world.has(Bug::RestartKeepsGrants) {
            crate::origin::peer_gone(&node, self.slot);
        }
        crate::remote::peer_gone(self).await;
        self.assemblies.borrow_mut().clear();
        let epoch = {
            let mut link = self.link.borrow_mut();
            if core::mem::take(&mut link.fenced) && !node.world.has(Bug::FencedWithinSession) {
                self.own_epoch.set(node.world.new_epoch(node.home()));
            }
            link.term = Term::default();
            self.lease.set(0);
            self.answered.set(0);
            let epoch = core::mem::take(&mut link.next_epoch);
            if epoch != 0 {
                link.rtt = RttEstimator::new();
                self.epoch.set(epoch);
            }
            epoch
        };
        if epoch == 0 {
            self.lease_changes.happen();
            self.hello(true);
            return;
        }
        self.heard();
        self.lease_changes.happen();
        exchange::resend(self);
        self.hello(true);
    }

    // ---- peer/lease.rs -----------------------------------------------------------------------------------------

    /// Whether what the peer has granted may be used.
    pub fn leased(&self) -> bool {
        let until = self.lease.get();
        Lease { until }.holds(self.node().now_us())
    }

    fn is_deaf(&self, now: u64) -> bool {
        now.saturating_sub(self.answered.get()) >= DEAF_US
    }

    /// Somebody waits for what the peer holds, and it does not give it up. Says whether it is fenced, unless it answers.
    pub fn suspect(&self) -> bool {
        let node = self.node();
        let now = node.now_us();
        if self.link.borrow().term.is_revoked() {
            return true;
        }
        if !self.is_deaf(now) {
            return false;
        }
        let over = self.link.borrow_mut().term.close(now, DEAF_US);
        node.timer_at(over.min(now + HELLO_HURRY_US));
        true
    }

    /// It keeps a page that others want, although it answers: it is fenced. No node here does that, whatever else goes wrong.
    pub fn revoke(&self) {
        let node = self.node();
        let now = node.now_us();
        if self.link.borrow().term.is_revoked() {
            return;
        }
        let over = self.link.borrow_mut().term.revoke(now);
        self.log(
            4,
            "answers, but does not give up a page that others want: it gets no new lease",
        );
        node.world.fail(format!(
            "n{} takes n{} for one that gives up no page",
            node.number, self.slot
        ));
        node.timer_at(over.min(now + HELLO_HURRY_US));
    }

    /// [`Peer::suspect`], only if it has been silent for longer than any lease.
    pub fn suspect_if_silent(&self) {
        let node = self.node();
        if self.silent_us(node.now_us()) >= node.lease_us() {
            self.suspect();
        }
    }

    /// Timer: hellos that are due, the end of terms. Returns when to look again.
    pub fn look_after_leases(self: &Rc<Peer>, now: u64) -> u64 {
        let margin = if self.node().world.has(Bug::FencedWithoutMargin) {
            self.node().lease_us() * 3 / 8
        } else {
            0
        };
        let (pause, due, over, ends) = {
            let mut link = self.link.borrow_mut();
            let hurry = link.term.is_closed() || (self.is_deaf(now) && self.is_up());
            let pause = if hurry {
                HELLO_HURRY_US
            } else {
                HELLO_INTERVAL_US
            };
            (
                pause,
                now.saturating_sub(link.hello_sent) >= pause,
                link.term.over(now + margin),
                link.term.ends(now + margin, self.node().backlog()),
            )
        };
        if due {
            self.hello(true);
        }
        self.assemblies.borrow_mut().expire(now);
        if ends {
            self.fence(margin);
        } else if over {
            return now + UNHEARD_PAUSE_US;
        }
        let until = self.lease.get();
        let ends = if until > now { until } else { NEVER };
        (now + pause).min(ends)
    }

    fn fence(self: &Rc<Peer>, margin: u64) {
        let node = self.node();
        {
            let mut link = self.link.borrow_mut();
            if self.epoch() == 0 || !link.term.over(node.now_us() + margin) {
                return;
            }
            link.fenced = true;
            link.next_epoch = 0;
            self.epoch.set(0);
        }
        self.shown_up.set(false);
        self.log(
            3,
            "does not answer, and its lease has run out: what it held is taken back",
        );
        node.world.fenced(self.own_epoch());
        self.renew();
    }
}
