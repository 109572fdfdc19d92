// SPDX-License-Identifier: GPL-2.0

//! Peers: the other nodes that this one talks to, and the session with each.
//!
//! A peer is known by its address and port: a datagram from anywhere else is counted and dropped, nothing is allocated for it,
//! nothing is answered. `Hello` tells a peer this node's epoch; it is answered by `HelloAck` with the peer's. A node believes an
//! epoch only from a message that carries its own one as `peer_epoch`: who sends that has heard this node in this session,
//! so a forged or old `Hello` ends no session.
//!
//! An epoch that changes ends all that was agreed with the peer: exchanges fail with `ESTALE`, `origin` and `remote` are told
//! (`peer_gone`), and only then are messages of the new session taken.
//!
//! Hellos go out all the time, because their answers renew leases ([`crate::proto::lease`]). A peer that keeps others waiting and answers
//! none of them is *fenced* when its lease has run out: this node takes a new epoch for it, as if it had started anew for this peer.

use kernel::{
    bindings, impl_has_work, new_mutex, new_spinlock, new_work,
    prelude::*,
    str::BStr,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        global_lock, Arc, Mutex, SpinLock,
    },
    workqueue::{Work, WorkItem},
};

use core::{fmt::Write, ops::Deref};

use super::{
    assembly::Assemblies,
    batch, exchange, may_log, now_us, own_name,
    secure::Secure,
    timer,
    udp::{self, Socket},
    Workqueue,
};
use crate::{
    proto::{
        lease::{Lease, Term},
        limits::{
            DEAF_US, FRAGMENT_BYTES, HELLO_HURRY_US, HELLO_INTERVAL_US, MAX_LEASE_US, MAX_NAME,
            MAX_NODES, MAX_PAYLOAD, PEER_DOWN_US,
        },
        reliable::{OnceWindow, RttEstimator},
        secure::{Key, TAG_BYTES},
        wire::{flags, Header, Kind, DATAGRAM_BYTES, HEADER_BYTES},
    },
    shim,
    stats::{self, write_json_string, PeerCounters, Reason},
    wait::Changes,
};

/// Shortest time between two hellos that something received made us send.
const HELLO_PAUSE_US: u64 = 100_000;

/// A peer silent for so long may have lost its sessions: a new one is begun.
const STALE_US: u64 = 3 * HELLO_INTERVAL_US;

/// Payload of a datagram, from the largest to the smallest: the next one is tried when the way to a peer takes no larger
/// ones. For an MTU of 1500, 1280 (the least of IPv6, and of many tunnels) and 576.
const FRAGMENTS: [usize; 3] = [
    FRAGMENT_BYTES,
    1280 - 28 - HEADER_BYTES,
    576 - 28 - HEADER_BYTES,
];

/// Epochs of a peer that are remembered as over.
const RETIRED: usize = 4;

/// How long: no datagram is that long on its way. Not for ever, or one forged session would lock the real one out.
const RETIRED_US: u64 = 5_000_000;

/// Who a peer is: what never changes. [`Peer`] dereferences to it.
///
/// It is a type of its own because a field `slot` is not possible in what `pin_init!` makes.
pub struct Identity {
    /// The peer's number here: unique among the peers of the moment, free for another one after `peer_gone`.
    pub slot: u8,
    name: KVec<u8>,
    address: u32,
    port: u16,
}

/// Another node.
#[pin_data]
pub struct Peer {
    identity: Identity,
    socket: Arc<Socket>,
    /// This node's epoch for this peer: random, nonzero, new each time that it is made a peer or fenced. So what the peer noted for
    /// this node ends when either of both forgets the other, and not only when the module is loaded anew.
    own_epoch: Atomic<u64>,
    /// Session of the peer; 0 while none is agreed.
    epoch: Atomic<u64>,
    /// [`Lease::until`] of what the peer has granted; written under the lock of `link`.
    lease: Atomic<u64>,
    /// Something about that changed: it was renewed, or the session has begun or ended.
    #[pin]
    pub lease_changes: Changes,
    /// When the last hello of this session that was answered had been sent; 0: none was.
    answered: Atomic<u64>,
    /// When something of the peer's session arrived last (microseconds); 0: never.
    heard: Atomic<u64>,
    /// Whether the log says that the peer is up.
    shown_up: Atomic<bool>,
    gone: Atomic<bool>,
    /// Index into [`FRAGMENTS`].
    fragment: Atomic<u32>,
    /// Whether the kernel cuts what is sent; `false` where it has refused.
    segmentation: Atomic<bool>,
    #[pin]
    link: SpinLock<Link>,
    #[pin]
    assemblies: Mutex<Assemblies>,
    /// Requests to it that must not run twice ([`exchange::Once`]), and the ends of such.
    #[pin]
    pub(super) once: SpinLock<OnceWindow>,
    #[pin]
    pub(super) once_ended: Changes,
    #[pin]
    renewal: Work<Peer>,
    /// `None`: what is said with this peer is neither encrypted nor proved.
    secure: Option<Pin<KBox<Secure>>>,
    #[pin]
    handshakes: Work<Peer, HANDSHAKES>,
    /// What was sent and received.
    pub counters: PeerCounters,
}

/// Where the session with a peer stands.
struct Link {
    rtt: RttEstimator,
    /// When the last hello went out; it is also the hello's request id.
    hello_sent: u64,
    /// What was granted to the peer.
    term: Term,
    /// The session is being ended by this node: nothing of it counts any more.
    fenced: bool,
    /// There was a lease in this session: what is mapped ends with it.
    mapped: bool,
    /// The epoch that comes into force when everybody has let go of the one before; 0: none.
    next_epoch: u64,
    /// Epochs that are over, and until when it stays so: an old datagram must not bring one back.
    retired: [(u64, u64); RETIRED],
    /// Whether the log has said that the peer has another name than the one configured.
    misnamed: bool,
}

/// Tells [`Peer`]'s works apart.
const HANDSHAKES: u64 = 1;

impl_has_work! {
    impl HasWork<Self> for Peer { self.renewal }
    impl HasWork<Self, HANDSHAKES> for Peer { self.handshakes }
}

impl Deref for Peer {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.identity
    }
}

/// All peers, by slot.
struct Table {
    slots: [Option<Arc<Peer>>; MAX_NODES],
    /// Address and port of each slot; 0: nobody is to be found there.
    keys: [u64; MAX_NODES],
    /// One more than the highest slot that was ever used.
    used: usize,
}

global_lock! {
    // SAFETY: Initialised in `prepare`, before anything else.
    /// Serialises what changes the set of peers or ends a session. Held while `peer_gone` runs.
    unsafe(uninit) static ADMIN: Mutex<()> = ();
}

global_lock! {
    // SAFETY: Initialised in `prepare`, before anything else.
    unsafe(uninit) static TABLE: SpinLock<Table> =
        Table { slots: [const { None }; MAX_NODES], keys: [0; MAX_NODES], used: 0 };
}

global_lock! {
    // SAFETY: Initialised in `prepare`, before anything else.
    /// Where old sessions are ended.
    unsafe(uninit) static RENEWALS: Mutex<Option<Workqueue>> = None;
}

global_lock! {
    // SAFETY: Initialised in `prepare`, before anything else.
    /// Where handshakes are made. Not in the queue above: what ends a session may wait for memory, and freeing memory for a new session.
    unsafe(uninit) static HANDSHAKERS: Mutex<Option<Workqueue>> = None;
}

/// Makes sessions possible. Process context; `ENOMEM`.
pub(super) fn start() -> Result {
    *RENEWALS.lock() = Some(Workqueue::new(c"vremote_session", false)?);
    *HANDSHAKERS.lock() = Some(Workqueue::new(c"vremote_handshake", false)?);
    Ok(())
}

/// Waits until all sessions that ended are cleaned up. The receive thread must have ended.
pub(super) fn stop() {
    let handshakers = HANDSHAKERS.lock().take();
    drop(handshakers);
    let queue = RENEWALS.lock().take();
    drop(queue);
}

pub(super) fn prepare() {
    // SAFETY: Called once, at load.
    unsafe {
        RENEWALS.init();
        HANDSHAKERS.init();
        ADMIN.init();
        TABLE.init();
    }
    udp::prepare();
}

fn key(address: u32, port: u16) -> u64 {
    u64::from(address) << 16 | u64::from(port)
}

/// The peer that is configured under this name. Any context but hard interrupts.
pub fn by_name(name: &[u8]) -> Option<Arc<Peer>> {
    let table = TABLE.lock();
    let found = table.slots[..table.used]
        .iter()
        .flatten()
        .find(|peer| peer.name() == name);
    found.filter(|peer| !peer.is_gone()).cloned()
}

/// The peer in this slot. Any context but hard interrupts.
pub fn by_slot(slot: u8) -> Option<Arc<Peer>> {
    let table = TABLE.lock();
    table.slots[usize::from(slot)]
        .as_ref()
        .filter(|peer| !peer.is_gone())
        .cloned()
}

/// The peer that sends from here. Any context but hard interrupts.
pub(super) fn by_address(address: u32, port: u16) -> Option<Arc<Peer>> {
    let wanted = key(address, port);
    let table = TABLE.lock();
    let slot = table.keys[..table.used]
        .iter()
        .position(|key| *key == wanted)?;
    table.slots[slot].clone()
}

/// How many peers there are. Any context but hard interrupts.
pub fn count() -> usize {
    let table = TABLE.lock();
    table.slots[..table.used]
        .iter()
        .flatten()
        .filter(|peer| !peer.is_gone())
        .count()
}

/// All peers of the moment, by slot. Process context, may sleep; `ENOMEM`.
pub fn snapshot() -> Result<KVec<Arc<Peer>>> {
    loop {
        let wanted = count();
        let mut peers = KVec::with_capacity(wanted, GFP_KERNEL)?;
        let table = TABLE.lock();
        let mut present = table.slots[..table.used]
            .iter()
            .flatten()
            .filter(|peer| !peer.is_gone());
        if present.all(|peer| peers.push_within_capacity(peer.clone()).is_ok()) {
            return Ok(peers);
        }
        drop(table);
    }
}

/// Makes a node a peer, and says hello to it. Process context, may sleep.
///
/// # Errors
///
/// `EINVAL`: no name, or one with a slash, or the name, address and port are no peer's. `EEXIST`: the name is this node's own,
/// or a peer has that name or that address. `ENOSPC`: there are [`MAX_NODES`] peers. `ENOTCONN`: the service does not run.
/// `ENOMEM`.
pub fn add(name: &[u8], address: u32, port: u16, psk: Option<Key>) -> Result<Arc<Peer>> {
    let bad_name =
        name.is_empty() || name.len() > MAX_NAME || name.contains(&b'/') || name.contains(&0);
    if bad_name || name == b"." || name == b".." || port == 0 || !is_unicast(address) {
        return Err(EINVAL);
    }
    if name == own_name() {
        return Err(EEXIST);
    }
    let _admin = ADMIN.lock();
    let slot = {
        let table = TABLE.lock();
        let wanted = key(address, port);
        if table
            .slots
            .iter()
            .flatten()
            .any(|peer| peer.name() == name || key(peer.address, peer.port) == wanted)
        {
            return Err(EEXIST);
        }
        table.slots.iter().position(Option::is_none).ok_or(ENOSPC)?
    };
    let socket = udp::socket()?;
    let mut owned_name = KVec::with_capacity(name.len(), GFP_KERNEL)?;
    owned_name.extend_from_slice(name, GFP_KERNEL)?;
    // Not inside `pin_init!`, where `slot` is something else.
    let identity = Identity {
        slot: slot as u8,
        name: owned_name,
        address,
        port,
    };
    let secure = match psk {
        Some(psk) => Some(KBox::pin_init(Secure::new(name, psk)?, GFP_KERNEL)?),
        None => None,
    };
    let peer = Arc::pin_init(
        pin_init!(Peer {
            identity,
            secure,
            socket,
            own_epoch: Atomic::new(super::secure::nonzero()),
            epoch: Atomic::new(0),
            lease: Atomic::new(0),
            lease_changes <- Changes::new(),
            answered: Atomic::new(0),
            heard: Atomic::new(0),
            shown_up: Atomic::new(false),
            gone: Atomic::new(false),
            fragment: Atomic::new(0),
            segmentation: Atomic::new(true),
            link <- new_spinlock!(Link {
                rtt: RttEstimator::new(),
                hello_sent: 0,
                term: Term::default(),
                fenced: false,
                mapped: false,
                next_epoch: 0,
                retired: [(0, 0); RETIRED],
                misnamed: false,
            }),
            assemblies <- new_mutex!(Assemblies::new()),
            once <- new_spinlock!(OnceWindow::new()),
            once_ended <- Changes::new(),
            renewal <- new_work!("vremote::peer"),
            handshakes <- new_work!("vremote::handshakes"),
            counters: PeerCounters::new(),
        }),
        GFP_KERNEL,
    )?;
    {
        let mut table = TABLE.lock();
        table.slots[slot] = Some(peer.clone());
        table.keys[slot] = key(address, port);
        table.used = table.used.max(slot + 1);
    }
    peer.hello(true);
    timer::at(now_us() + HELLO_INTERVAL_US);
    Ok(peer)
}

/// Ends the session with a peer and forgets it; returns when nobody works on its messages any more. Process context, may
/// sleep; not in the receive thread. `ENOENT`.
pub fn remove(name: &[u8]) -> Result {
    // Not yet under the lock: what is waited for here may need it, to fence others.
    let peer = by_name(name).ok_or(ENOENT)?;
    peer.take_leave();
    let _admin = ADMIN.lock();
    let peer = by_name(name).ok_or(ENOENT)?;
    let slot = usize::from(peer.slot);
    TABLE.lock().keys[slot] = 0;
    peer.gone.store(true, Release);
    udp::quiesce();
    {
        // A handshake may just end.
        let _link = peer.link.lock();
        peer.epoch.store(0, Relaxed);
    }
    exchange::end(&peer, ENOTCONN);
    crate::origin::peer_gone(peer.slot);
    crate::remote::peer_gone(&peer);
    peer.lease_changes.happen();
    let entry = TABLE.lock().slots[slot].take();
    drop(entry);
    Ok(())
}

/// [`remove`] for each of them.
pub(super) fn remove_all() {
    loop {
        let some = {
            let table = TABLE.lock();
            let found = table
                .slots
                .iter()
                .flatten()
                .find(|peer| !peer.is_gone())
                .cloned();
            found
        };
        let Some(peer) = some else { return };
        let _ = remove(peer.name());
    }
}

/// Not 0.0.0.0, not multicast, not broadcast.
fn is_unicast(address: u32) -> bool {
    address != 0 && address >> 28 < 0xe
}

/// When the origin's idle files were last looked at.
static SWEPT: Atomic<u64> = Atomic::new(0);

/// Looks after the sessions: hellos to peers that are silent, and who is down. Returns when to look again. Timer.
pub(super) fn tick(now: u64) -> u64 {
    let mut next = timer::NEVER;
    if now.saturating_sub(SWEPT.load(Relaxed)) >= HELLO_INTERVAL_US {
        SWEPT.store(now, Relaxed);
        crate::origin::sweep();
    }
    for slot in 0..MAX_NODES {
        let Some(peer) = by_slot(slot as u8) else {
            continue;
        };
        let silent = peer.silent_us(now);
        if let Some(secure) = &peer.secure {
            secure.tick(&peer, now);
            if silent >= STALE_US {
                secure.begin(&peer, true);
            }
        }
        next = next.min(peer.look_after_leases(now));
        if silent >= PEER_DOWN_US && peer.shown_up.cmpxchg(true, false, Relaxed).is_ok() {
            peer.log("down");
        }
        peer.expire_assemblies(now);
    }
    next
}

impl Peer {
    /// The name that it is configured under.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// IPv4 address, in host order, and port.
    pub fn addr(&self) -> (u32, u16) {
        (self.address, self.port)
    }

    /// This node's epoch and that of the peer: what a session is known by.
    pub fn session(&self) -> (u64, u64) {
        (self.own_epoch(), self.epoch())
    }

    /// Session of the peer; 0 while none is agreed. Differs from the epoch of a message in hand when that message's session
    /// has ended.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    /// Whether there is a session and something of it was heard in the last [`PEER_DOWN_US`].
    pub fn is_up(&self) -> bool {
        self.epoch() != 0 && self.silent_us(now_us()) < PEER_DOWN_US
    }

    /// Whether it was removed.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Acquire)
    }

    /// Retransmission time-out for requests to it, microseconds.
    pub fn rto_us(&self) -> u64 {
        self.link.lock().rtt.rto_us()
    }

    pub(super) fn is_at(&self, address: u32, port: u16) -> bool {
        self.address == address && self.port == port
    }

    /// How long nothing has been heard of it.
    pub(super) fn silent_us(&self, now: u64) -> u64 {
        now.saturating_sub(self.heard.load(Relaxed))
    }

    /// Takes a measured round trip.
    pub(super) fn sample_rtt(&self, rtt_us: u64) {
        self.link.lock().rtt.sample(rtt_us, false);
    }

    /// An answer arrived that nobody waits for any more.
    pub(super) fn answered_twice(&self) {
        self.link.lock().rtt.answered_twice();
    }

    /// Counts a datagram of the peer, or for it, that went nowhere.
    pub(super) fn dropped(&self, reason: Reason) {
        self.counters.drops.add(1);
        stats::dropped(reason);
    }

    fn log(&self, what: &str) {
        crate::trace::peer(self.name(), what);
        if may_log() {
            pr_info!("peer {} {}\n", BStr::from_bytes(&self.name), what);
        }
    }

    /// Something of the current session arrived.
    pub(super) fn heard(&self) {
        self.heard.store(now_us(), Relaxed);
        if !self.shown_up.load(Relaxed) && self.shown_up.cmpxchg(false, true, Relaxed).is_ok() {
            self.log("up");
        }
    }

    // Leases.

    /// Whether what the peer has granted may be used. Any context.
    pub fn leased(&self) -> bool {
        let until = self.lease.load(Relaxed);
        Lease { until }.holds(now_us())
    }

    /// The peer has answered a hello of the present session that left at `sent`.
    fn lease_renewed(&self, link: &mut Link, sent: u64, length: u64) {
        let mut lease = Lease {
            until: self.lease.load(Relaxed),
        };
        lease.renew(sent, length.min(MAX_LEASE_US));
        self.lease.store(lease.until, Relaxed);
        link.mapped = true;
        link.term.reopen();
        if sent > self.answered.load(Relaxed) {
            self.answered.store(sent, Relaxed);
        }
    }

    /// Whether the peer has not answered this node's hellos.
    fn is_deaf(&self, now: u64) -> bool {
        now.saturating_sub(self.answered.load(Relaxed)) >= DEAF_US
    }

    /// Somebody waits for what the peer holds, and it does not give it up. If it answers nothing at all, it is fenced as soon as its lease
    /// has run out, unless it answers before that. Says whether it is so. Any context but hard interrupts.
    pub fn suspect(&self) -> bool {
        let now = now_us();
        // What has arrived and was not looked at may be an answer.
        if self.is_gone() || !self.is_deaf(now) || self.backlog() {
            return false;
        }
        let over = self.link.lock().term.close(now, DEAF_US);
        timer::at(over.min(now + HELLO_HURRY_US));
        true
    }

    /// [`Peer::suspect`] where nobody knows yet whether the peer answers: only if it has been silent for longer than any lease.
    pub fn suspect_if_silent(&self) {
        if self.silent_us(now_us()) >= super::lease_us() {
            self.suspect();
        }
    }

    /// The peer is to be removed: takes home what it holds. If it does not answer, waits until its lease has run out, for at most two of them.
    /// Process context, sleeps.
    fn take_leave(&self) {
        if self.is_up() {
            crate::origin::peer_leaving(self.slot);
        }
        let end = now_us() + 2 * super::lease_us();
        while crate::origin::holds(self.slot) {
            let now = now_us();
            let over = self.link.lock().term.close(now, 0);
            if now >= over.min(end) {
                return;
            }
            let pause = (over - now).min(HELLO_HURRY_US);
            kernel::time::delay::fsleep(kernel::time::Delta::from_micros(pause as i64));
        }
    }

    /// Sends the hellos that are due, ends what was mapped when the lease has run out, and the session when the term is over. Returns when to
    /// look again. Timer.
    fn look_after_leases(self: &Arc<Self>, now: u64) -> u64 {
        let (pause, due, lapsed, over) = {
            let link = self.link.lock();
            let hurry = link.term.is_closed() || (self.is_deaf(now) && self.is_up());
            let pause = if hurry {
                HELLO_HURRY_US
            } else {
                HELLO_INTERVAL_US
            };
            (
                pause,
                now.saturating_sub(link.hello_sent) >= pause,
                link.mapped && !self.leased(),
                link.term.over(now),
            )
        };
        if due {
            self.hello(true);
        }
        // Again and again: a fault that has seen the lease may map a page later.
        if lapsed {
            crate::remote::lapse(self);
        }
        if over {
            self.fence();
        }
        let until = self.lease.load(Relaxed);
        let ends = if until > now { until } else { timer::NEVER };
        (now + pause).min(ends)
    }

    /// Ends the session because the peer is silent, and what it was granted void.
    fn fence(self: &Arc<Self>) {
        {
            let mut link = self.link.lock();
            // It may just have answered, or the session is over anyway.
            if self.is_gone() || self.epoch() == 0 || !link.term.over(now_us()) {
                return;
            }
            link.fenced = true;
            link.next_epoch = 0;
            self.epoch.store(0, Release);
        }
        self.shown_up.store(false, Relaxed);
        self.counters.fences.add(1);
        self.log("does not answer, and its lease has run out: what it held is taken back");
        self.renew();
    }

    /// Has the workqueue end the old session.
    fn renew(self: &Arc<Self>) {
        // It may be queued already: then it takes the youngest epoch.
        if let Some(queue) = &*RENEWALS.lock() {
            let _ = queue.queue().enqueue::<_, 0>(self.clone());
        }
    }

    // Sessions.

    /// This node's epoch for this peer.
    pub fn own_epoch(&self) -> u64 {
        self.own_epoch.load(Acquire)
    }

    /// The sessions that are encrypted; `None`: none of this peer's are.
    pub(super) fn secure(&self) -> Option<&Secure> {
        self.secure.as_deref()
    }

    /// Has the workqueue look at what [`Secure`] has to do.
    pub(super) fn shake_hands(self: &Arc<Self>) {
        if let Some(queue) = &*HANDSHAKERS.lock() {
            let _ = queue.queue().enqueue::<_, HANDSHAKES>(self.clone());
        }
    }

    /// Says hello; without `always` at most every [`HELLO_PAUSE_US`].
    pub fn hello(self: &Arc<Self>, always: bool) {
        let now = now_us().max(1);
        let peer_epoch = {
            let mut link = self.link.lock();
            if !always && now.saturating_sub(link.hello_sent) < HELLO_PAUSE_US {
                return;
            }
            link.hello_sent = now;
            self.epoch().max(link.next_epoch)
        };
        self.greet(Kind::Hello, peer_epoch, now, 0);
    }

    /// Whether datagrams have arrived, perhaps of this peer, that nobody has looked at yet. A hint; any context.
    pub(super) fn backlog(&self) -> bool {
        self.socket.backlog()
    }

    fn greet(self: &Arc<Self>, kind: Kind, peer_epoch: u64, request: u64, lease: u64) {
        let header = Header {
            kind,
            epoch: self.own_epoch(),
            peer_epoch,
            request,
            size: lease,
            ..Header::default()
        };
        // A hello that is lost comes again; a peer that is gone needs none.
        let _ = self.send_in_session(header, own_name());
    }

    /// A `Hello` or `HelloAck` arrived. Receive thread.
    pub(super) fn hello_received(self: &Arc<Self>, header: &Header, name: &[u8]) {
        let meant = header.peer_epoch == self.own_epoch();
        if header.kind == Kind::Hello {
            let lease = {
                let mut link = self.link.lock();
                if meant && !link.fenced && header.epoch == self.epoch() {
                    link.term.grant(now_us(), super::lease_us())
                } else {
                    0
                }
            };
            self.greet(Kind::HelloAck, header.epoch, header.request, lease);
            if !meant {
                // It does not know our session yet, so this proves nothing. The answer to our own hello will.
                if header.epoch != self.epoch() {
                    self.challenge(header.epoch);
                }
                return;
            }
        } else if !meant {
            self.dropped(Reason::WrongEpoch);
            return;
        }
        let now = now_us();
        let answers = header.kind == Kind::HelloAck && header.request != 0 && header.request <= now;
        {
            let mut link = self.link.lock();
            if answers && header.request == link.hello_sent {
                link.rtt.sample(now.saturating_sub(header.request), false);
            }
            if !link.misnamed && name != self.name() {
                link.misnamed = true;
                drop(link);
                pr_warn!(
                    "peer {} calls itself {}: paths below its name here are not those below that name there\n",
                    BStr::from_bytes(&self.name),
                    BStr::from_bytes(name)
                );
            }
        }
        self.agreed(header.epoch);
        if answers {
            {
                let mut link = self.link.lock();
                let current = header.epoch == self.epoch() && header.peer_epoch == self.own_epoch();
                if link.fenced || !current {
                    return;
                }
                self.lease_renewed(&mut link, header.request, header.size);
            }
            self.lease_changes.happen();
        }
    }

    /// Says hello to a session that has not been proven.
    fn challenge(self: &Arc<Self>, epoch: u64) {
        let now = now_us().max(1);
        {
            let mut link = self.link.lock();
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

    /// The peer's epoch is proven. Process context.
    pub(super) fn agreed(self: &Arc<Self>, epoch: u64) {
        let renew = {
            let mut link = self.link.lock();
            let current = self.epoch();
            if self.is_gone() || link.fenced {
                return;
            } else if epoch == current || epoch == link.next_epoch {
                false
            } else if link
                .retired
                .iter()
                .any(|(over, until)| *over == epoch && now_us() < *until)
            {
                drop(link);
                self.dropped(Reason::WrongEpoch);
                return;
            } else if current == 0 && link.next_epoch == 0 {
                self.epoch.store(epoch, Release);
                false
            } else {
                let over = if current != 0 {
                    current
                } else {
                    link.next_epoch
                };
                link.retired.rotate_right(1);
                link.retired[0] = (over, now_us() + RETIRED_US);
                link.next_epoch = epoch;
                self.epoch.store(0, Release);
                true
            }
        };
        if renew {
            self.shown_up.store(false, Relaxed);
            self.log("started anew");
            self.renew();
        } else if self.epoch() != 0 {
            let first = !self.shown_up.load(Relaxed);
            self.heard();
            if first {
                exchange::resend(self);
            }
        }
    }

    // Sending.

    /// Sends a message in the current session, cut into as many datagrams as it needs. Fills in both epochs, `length`,
    /// `offset` and `fragment`; a `peer_epoch` other than 0 names the only session in which the message makes sense, such
    /// as that of the request it answers. Process context, may sleep for memory, not for the network.
    ///
    /// A datagram that the socket does not take (its buffer is full, the link is down) is lost: counted, no error.
    ///
    /// # Errors
    ///
    /// `ENOTCONN`: no session yet (a hello has been sent), or the peer was removed. `ESTALE`: the session of the header's
    /// `peer_epoch` is over. `EINVAL`: more than [`MAX_PAYLOAD`] bytes.
    pub fn send(self: &Arc<Self>, header: &Header, payload: &[u8]) -> Result {
        self.send_in_session(self.address_header(header)?, payload)
    }

    /// The header with both epochs.
    pub(super) fn address_header(self: &Arc<Self>, header: &Header) -> Result<Header> {
        let epoch = self.epoch();
        if epoch == 0 {
            self.hello(false);
            return Err(ENOTCONN);
        }
        if header.peer_epoch != 0 && header.peer_epoch != epoch {
            return Err(ESTALE);
        }
        Ok(Header {
            epoch: self.own_epoch(),
            peer_epoch: epoch,
            ..*header
        })
    }

    /// Payload of each datagram but a message's last one.
    pub(super) fn fragment_bytes(&self) -> usize {
        FRAGMENTS[(self.fragment.load(Relaxed) as usize).min(FRAGMENTS.len() - 1)]
    }

    fn send_in_session(self: &Arc<Self>, mut header: Header, payload: &[u8]) -> Result {
        if payload.len() > MAX_PAYLOAD {
            return Err(EINVAL);
        }
        if self.is_gone() {
            return Err(ENOTCONN);
        }
        let fragment = self.fragment_bytes();
        header.length = payload.len() as u32;
        header.fragment = fragment as u16;
        header.offset = 0;
        self.count_sent(&header);
        if payload.len() > fragment && batch::send(self, &header, payload) {
            return Ok(());
        }
        self.send_singly(header, payload);
        Ok(())
    }

    /// Sends a message with all its fields, datagram by datagram. Not inlined: what needs no room on the stack should not have it.
    #[inline(never)]
    fn send_singly(self: &Arc<Self>, mut header: Header, payload: &[u8]) {
        let fragment = usize::from(header.fragment);
        let mut room = [0; DATAGRAM_BYTES + TAG_BYTES];
        let pieces = payload.len().div_ceil(fragment.max(1)).max(1);
        for piece in 0..pieces {
            let from = piece * fragment;
            let to = payload.len().min(from + fragment);
            header.offset = from as u32;
            let mut parts = [part(&header.encode()), part(&payload[from..to])];
            self.transmit(&mut parts, 0, &mut room);
        }
    }

    /// Counts and traces a whole message that arrived. Any context.
    pub fn count_received(&self, header: &Header) {
        self.counters.rx.of(header.kind).add(1);
        crate::trace::message(false, self.name(), header);
    }

    /// Counts and traces a message that is about to leave.
    pub(super) fn count_sent(&self, header: &Header) {
        self.counters.tx.of(header.kind).add(1);
        crate::trace::message(true, self.name(), header);
        if header.has(flags::RETRY) {
            self.counters.retransmits.add(1);
        }
    }

    /// Hands datagrams to the socket: with segment 0 all parts are one, else they are datagrams of `segment` bytes each but the
    /// last one, and no part belongs to two of them. `room`: for as many bytes, and a tag, to encrypt them to.
    pub(super) fn transmit(
        self: &Arc<Self>,
        parts: &mut [bindings::kvec],
        segment: usize,
        room: &mut [u8],
    ) {
        let Some(secure) = &self.secure else {
            return self.put(parts, segment);
        };
        let bytes = parts.iter().map(|part| part.iov_len).sum();
        // SAFETY: All parts were made by `part` from slices that outlive this call, and the sum is right.
        match unsafe { secure.seal(self, parts, bytes, segment, room) } {
            Ok(()) => self.put(&mut [part(&room[..bytes])], segment),
            // Hellos to a peer with which no session has begun: that is what they are for.
            Err(error) if error == ENOTCONN && self.epoch() == 0 => (),
            Err(error) => self.not_sent(error),
        }
    }

    /// Hands one datagram to the socket that is not to be encrypted: one of a handshake.
    pub(super) fn transmit_open(&self, datagram: &[u8]) {
        self.put(&mut [part(datagram)], 0);
    }

    /// Hands datagrams to the socket as they are: all parts are one with segment 0, else `segment` bytes each but the last one.
    fn put(&self, parts: &mut [bindings::kvec], segment: usize) {
        if segment != 0 && !self.segmentation.load(Relaxed) {
            return self.put_singly(parts, segment);
        }
        let bytes = parts.iter().map(|part| part.iov_len).sum();
        // SAFETY: All parts were made by `part` from slices that outlive this call, and the sum is right.
        let result = unsafe {
            self.socket
                .send(self.address, self.port, parts, bytes, segment as u16)
        };
        match result {
            Ok(()) => self.counters.tx_bytes.add(bytes as u64),
            Err(error) if segment != 0 && self.refused_segments(error) => {
                self.put_singly(parts, segment);
            }
            Err(error) => self.not_sent(error),
        }
    }

    /// [`Peer::put`] where the kernel does not cut.
    fn put_singly(&self, parts: &mut [bindings::kvec], segment: usize) {
        let mut datagram = [const { part(&[]) }; batch::PARTS];
        let mut count = 0;
        let mut bytes = 0;
        for one in parts {
            let mut left = *one;
            while left.iov_len != 0 {
                let here = left.iov_len.min(segment - bytes);
                datagram[count] = bindings::kvec {
                    iov_len: here,
                    ..left
                };
                left = bindings::kvec {
                    iov_base: left.iov_base.wrapping_byte_add(here),
                    iov_len: left.iov_len - here,
                };
                count += 1;
                bytes += here;
                if bytes == segment || count == batch::PARTS {
                    self.put(&mut datagram[..count], 0);
                    (count, bytes) = (0, 0);
                }
            }
        }
        if count != 0 {
            self.put(&mut datagram[..count], 0);
        }
    }

    /// Whether the error means that the way to the peer cannot cut; then it is not asked to again in this session.
    fn refused_segments(&self, error: Error) -> bool {
        let refused = error == EINVAL || error == EIO;
        if refused {
            self.segmentation.store(false, Relaxed);
        }
        refused
    }

    /// The socket did not take something.
    fn not_sent(&self, error: Error) {
        self.dropped(Reason::NotSent);
        let step = self.fragment.load(Relaxed);
        if error == EMSGSIZE && (step as usize) < FRAGMENTS.len() - 1 {
            // Only one of those who fail at the same time makes the step.
            let _ = self.fragment.cmpxchg(step, step + 1, Relaxed);
        }
    }

    // Reassembly.

    /// A fragment of a larger message. Receive thread; hands the message on when it is complete.
    pub(super) fn assemble(self: &Arc<Self>, header: &Header, fragment: &[u8]) {
        let outcome = self.assemblies.lock().accept(header, fragment);
        match outcome {
            Ok(None) => (),
            Ok(Some(mut done)) => udp::dispatch(self, &done.header, &mut done.bytes),
            Err(reason) => self.dropped(reason),
        }
    }

    /// Drops messages that will never be complete.
    fn expire_assemblies(&self, now: u64) {
        let mut assemblies = self.assemblies.lock();
        while assemblies.expire(now) {
            self.dropped(Reason::Incomplete);
        }
    }

    // Showing.

    /// One element of the status document's `peers`.
    pub(crate) fn write_status(&self, out: &mut impl Write) -> core::fmt::Result {
        let up = self.is_up();
        let refused = self.secure().filter(|_| !up).and_then(Secure::refused);
        let state = match (self.heard.load(Relaxed), refused) {
            _ if up => "up",
            (_, Some(_)) => "unauthenticated",
            (0, None) => "unknown",
            (_, None) => "down",
        };
        write!(out, "{{\"name\":")?;
        write_json_string(out, &self.name)?;
        let a = self.address.to_be_bytes();
        write!(
            out,
            ",\"address\":\"{}.{}.{}.{}:{}\"",
            a[0], a[1], a[2], a[3], self.port
        )?;
        write!(
            out,
            ",\"slot\":{},\"state\":\"{state}\",\"epoch\":\"{:016x}\",\"own_epoch\":\"{:016x}\"",
            self.slot,
            self.epoch(),
            self.own_epoch()
        )?;
        let lease = self.lease.load(Relaxed).saturating_sub(now_us());
        write!(
            out,
            ",\"lease_us\":{lease},\"fences\":{}",
            self.counters.fences.get()
        )?;
        let (srtt, rto) = {
            let link = self.link.lock();
            (link.rtt.srtt_us(), link.rtt.rto_us())
        };
        match srtt {
            Some(us) => write!(out, ",\"rtt_us\":{us}")?,
            None => write!(out, ",\"rtt_us\":null")?,
        }
        write!(
            out,
            ",\"rto_us\":{rto},\"encrypted\":{}",
            self.secure.is_some()
        )?;
        if let Some(why) = refused {
            write!(out, ",\"reason\":\"{why}\"")?;
        }
        write!(out, ",\"tx\":")?;
        self.counters.tx.write(out)?;
        write!(out, ",\"rx\":")?;
        self.counters.rx.write(out)?;
        write!(
            out,
            ",\"tx_bytes\":{},\"rx_bytes\":{},\"retransmits\":{},\"drops\":{}}}",
            self.counters.tx_bytes.get(),
            self.counters.rx_bytes.get(),
            self.counters.retransmits.get(),
            self.counters.drops.get()
        )
    }
}

/// A part of what the socket sends. It is as valid as `bytes`.
pub(super) const fn part(bytes: &[u8]) -> bindings::kvec {
    bindings::kvec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}

impl WorkItem for Peer {
    type Pointer = Arc<Peer>;

    /// Ends the peer's old session, then lets the new one begin.
    fn run(peer: Arc<Peer>) {
        let _admin = ADMIN.lock();
        // Another run may have done it all.
        let nothing = {
            let link = peer.link.lock();
            !link.fenced && link.next_epoch == 0
        };
        if peer.is_gone() || nothing {
            return;
        }
        // What the receive thread has begun to hand on is of the old session.
        udp::quiesce();
        exchange::end(&peer, ESTALE);
        crate::origin::peer_gone(peer.slot);
        crate::remote::peer_gone(&peer);
        peer.assemblies.lock().clear();
        let mut link = peer.link.lock();
        if core::mem::take(&mut link.fenced) {
            // Whatever the peer has sent or will send in the old session is for an epoch that is over. In this order: see `Secure::forget`.
            peer.own_epoch.store(super::secure::nonzero(), Release);
            if let Some(secure) = peer.secure() {
                secure.forget();
            }
        }
        link.term = Term::default();
        link.mapped = false;
        peer.lease.store(0, Relaxed);
        peer.answered.store(0, Relaxed);
        let epoch = link.next_epoch;
        if epoch == 0 {
            drop(link);
            peer.lease_changes.happen();
            peer.hello(true);
            return;
        }
        link.next_epoch = 0;
        link.rtt = RttEstimator::new();
        peer.fragment.store(0, Relaxed);
        peer.segmentation.store(true, Relaxed);
        peer.epoch.store(epoch, Release);
        drop(link);
        peer.heard();
        peer.lease_changes.happen();
        exchange::resend(&peer);
        peer.hello(true);
    }
}

impl WorkItem<HANDSHAKES> for Peer {
    type Pointer = Arc<Peer>;

    fn run(peer: Arc<Peer>) {
        if let Some(secure) = peer.secure().filter(|_| !peer.is_gone()) {
            // SAFETY: Changes the current task's allocation flags only, back below. Freeing memory may wait for the session that is
            // being begun, so getting memory for it must not wait for that.
            let flags = unsafe { shim::vremote_net_noio_begin() };
            secure.work(&peer);
            // SAFETY: As above; these are the flags of before.
            unsafe { shim::vremote_net_noio_end(flags) };
        }
    }
}
