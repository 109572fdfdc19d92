// SPDX-License-Identifier: GPL-2.0

//! A node from its start to its crash: clock, timer (`rust/net/timer.rs`, `peer::tick`), socket and receive thread (`rust/net/udp.rs`), and
//! what hangs on it.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    rc::{Rc, Weak},
};

use vremote_proto::{reliable::Deadline, wire::Header};

use crate::{
    executor::{Event, Home, Time},
    net::{
        exchange::{self, Exchanges},
        peer::Peer,
    },
    origin::{file::LocalFile, serve::Replies, share::Share},
    remote::state::Inode,
    wait::Mutex,
    world::World,
};

/// Due time that means "never".
pub const NEVER: u64 = u64::MAX;

/// Datagrams that wait in the socket; one more is lost.
const SOCKET: usize = 512;

/// Longest time that the timer is late, microseconds.
const TIMER_LATE: u64 = 1_000;

/// Time that a datagram takes at most to be looked at, microseconds.
const RECEIVE: u64 = 20;

/// A clock that goes on in a pause, and not quite as others do.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What it showed when the run began.
    pub start: u64,
    /// Microseconds that it gains in a second.
    pub gain: i64,
}

impl Clock {
    fn show(&self, now: Time) -> u64 {
        (self.start + now).wrapping_add_signed(now as i64 * self.gain / 1_000_000)
    }

    /// When it will show that, not earlier.
    fn when(&self, shown: u64) -> Time {
        let mut time = shown.saturating_sub(self.start);
        time = time.saturating_add_signed(-(time as i64 * self.gain / 1_000_000));
        while self.show(time) < shown {
            time += 1 + (shown - self.show(time)) / 2;
        }
        time
    }
}

/// A node.
pub struct Node {
    /// Where it is.
    pub world: Rc<World>,
    /// Its number, also that of its slot at all others.
    pub number: usize,
    life: u64,
    dead: Cell<bool>,
    clock: Clock,
    /// By their numbers; itself is not there.
    pub peers: Vec<Option<Rc<Peer>>>,
    /// Requests in flight.
    pub exchanges: Exchanges,
    /// Serialises ends of sessions.
    pub admin: Mutex,
    armed: Cell<u64>,
    socket: RefCell<VecDeque<(usize, Rc<[u8]>)>>,
    receiving: Cell<bool>,
    /// Files of its own.
    pub files: Vec<Rc<LocalFile>>,
    /// Those that remotes have opened, by id.
    pub shares: RefCell<BTreeMap<u64, Rc<Share>>>,
    /// Id of the next share.
    pub next_share: Cell<u64>,
    /// Replies that are kept, by peer.
    pub replies: RefCell<Vec<Option<Box<Replies>>>>,
    /// Files of others: by node and number, as the kernel keeps inodes.
    pub inodes: RefCell<BTreeMap<(usize, usize), Rc<Inode>>>,
    /// The same, by slot and file id.
    pub table: RefCell<BTreeMap<(u8, u64), Rc<Inode>>>,
}

impl Node {
    /// Starts a node.
    pub fn start(world: &Rc<World>, number: usize, life: u64, clock: Clock) -> Rc<Node> {
        let home = Home { node: number, life };
        let nodes = world.shape.nodes;
        let node = Rc::new_cyclic(|weak: &Weak<Node>| Node {
            world: world.clone(),
            number,
            life,
            dead: Cell::new(false),
            clock,
            peers: (0..nodes)
                .map(|slot| (slot != number).then(|| Rc::new(Peer::new(weak, home, world, slot))))
                .collect(),
            exchanges: Exchanges::new(world.sim.below(1 << 32)),
            admin: Mutex::new(&world.sim),
            armed: Cell::new(NEVER),
            socket: RefCell::default(),
            receiving: Cell::new(false),
            files: (0..world.shape.files)
                .map(|file| Rc::new(LocalFile::new(weak, world, number, file)))
                .collect(),
            shares: RefCell::default(),
            next_share: Cell::new(1),
            replies: RefCell::new((0..nodes).map(|_| None).collect()),
            inodes: RefCell::default(),
            table: RefCell::default(),
        });
        for peer in node.peers.iter().flatten() {
            peer.hello(true);
        }
        node.timer_at(node.now_us());
        node
    }

    /// It is no more, and sends nothing.
    pub fn die(&self) {
        self.dead.set(true);
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.exchanges.clear();
        self.socket.take();
        for inode in self.inodes.take().into_values() {
            inode.clear();
        }
        self.table.take();
        for share in self.shares.take().into_values() {
            share.clear();
        }
    }

    /// Whether it is no more.
    pub fn is_dead(&self) -> bool {
        self.dead.get()
    }

    /// Whom its tasks belong to.
    pub fn home(&self) -> Home {
        Home {
            node: self.number,
            life: self.life,
        }
    }

    /// The peer with this number.
    ///
    /// # Panics
    ///
    /// There is none, or it is this node.
    pub fn peer(&self, number: usize) -> &Rc<Peer> {
        self.peers[number]
            .as_ref()
            .expect("a node has no slot for itself")
    }

    /// What its clock shows, microseconds.
    pub fn now_us(&self) -> u64 {
        self.clock.show(self.world.sim.now())
    }

    /// The module parameter `timeout_ms`, microseconds.
    pub fn timeout_us(&self) -> u64 {
        self.world.shape.timeout
    }

    /// The module parameter `lease_ms`, microseconds.
    pub fn lease_us(&self) -> u64 {
        self.world.shape.lease
    }

    /// The end of its time-out, from now on.
    pub fn deadline(&self) -> Deadline {
        Deadline::new(self.now_us() + self.timeout_us())
    }

    /// The longest time that a local task waits for pages that other nodes hold, microseconds.
    pub fn longest_round_us(&self) -> u64 {
        self.timeout_us() * 2 + self.lease_us() + self.lease_us() / 8
    }

    /// Notes something that happens on it.
    pub fn note(&self, words: &[u64], text: impl FnOnce() -> String) {
        self.world.sim.note(Some(self.number), words, text);
    }

    /// Notes a message that leaves, or one that has arrived as a whole.
    pub fn note_message(&self, sent: bool, other: usize, header: &Header) {
        let h = header;
        let words = [
            4 + u64::from(sent),
            other as u64,
            h.kind as u64,
            (u64::from(h.flags) << 16) | u64::from(h.status),
            h.seq,
            h.request,
            (h.file << 32) | h.index,
            h.size,
            h.epoch ^ h.peer_epoch,
        ];
        self.note(&words, || {
            let way = if sent { '→' } else { '←' };
            let mut text = format!("{way} n{other} {} #{}", h.kind.name(), h.request);
            let fields = [
                ("file", h.file),
                ("index", h.index),
                ("seq", h.seq),
                ("size", h.size),
                ("count", u64::from(h.count)),
                ("flags", u64::from(h.flags)),
                ("status", u64::from(h.status)),
                ("bytes", u64::from(h.length)),
            ];
            for (name, value) in fields {
                if value != 0 {
                    text += &format!(" {name} {value}");
                }
            }
            text
        });
    }

    // ---- timer -------------------------------------------------------------------------------------------------

    /// Makes sure that the timer runs not later than `due` (microseconds of this node's clock).
    pub fn timer_at(&self, due: u64) {
        if due < self.armed.get() {
            self.armed.set(due);
            let time = self.clock.when(due) + self.world.sim.below(TIMER_LATE);
            self.world.sim.at(time, Event::Timer(self.home()));
        }
    }

    /// One run of the timer.
    pub fn timer(self: &Rc<Node>) {
        let now = self.now_us();
        // Armed anew since: that event comes.
        if self.armed.get() > now {
            return;
        }
        self.armed.set(NEVER);
        let mut next = NEVER;
        for peer in self.peers.iter().flatten() {
            next = next.min(peer.look_after_leases(now));
        }
        next = next.min(exchange::tick(self));
        if next != NEVER {
            self.timer_at(next);
        }
    }

    // ---- socket ------------------------------------------------------------------------------------------------

    /// A datagram came out of the network.
    pub fn arrived(&self, from: usize, datagram: Rc<[u8]>) {
        let mut socket = self.socket.borrow_mut();
        if socket.len() < SOCKET {
            socket.push_back((from, datagram));
        }
        drop(socket);
        if !self.receiving.replace(true) {
            let sim = &self.world.sim;
            sim.at(sim.now() + sim.delay(), Event::Receive(self.home()));
        }
    }

    /// Whether datagrams have arrived that nobody has looked at yet.
    pub fn backlog(&self) -> bool {
        !self.socket.borrow().is_empty()
    }

    /// The receive thread takes a datagram.
    pub fn receive(&self) {
        let first = self.socket.borrow_mut().pop_front();
        if let Some((from, datagram)) = first {
            self.peer(from).take(&datagram);
        }
        let more = self.backlog();
        self.receiving.set(more);
        if more {
            let sim = &self.world.sim;
            sim.at(
                sim.now() + 1 + sim.below(RECEIVE),
                Event::Receive(self.home()),
            );
        }
    }
}
