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
//! none of them is *fenced* when its lease has run out: this node takes a new epoch for it, as if it had started anew for this peer. So is
//! one that answers, and keeps for too long what others want.

mod lease;
mod send;
mod session;

use lease::Trouble;
pub(super) use send::part;
pub(super) use session::{start, stop};

use kernel::{
    impl_has_work, new_mutex, new_spinlock, new_work,
    prelude::*,
    str::BStr,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        global_lock, Arc, Mutex, SpinLock,
    },
    workqueue::Work,
};

use core::{fmt::Write, ops::Deref};

use super::{
    assembly::Assemblies,
    exchange, may_log, now_us, own_name,
    secure::Secure,
    timer,
    udp::{self, Socket},
};
use crate::{
    proto::{
        lease::Term,
        limits::{HELLO_INTERVAL_US, MAX_NAME, MAX_NODES, PEER_DOWN_US},
        reliable::{OnceWindow, RttEstimator},
        secure::Key,
        wire::Header,
    },
    stats::{self, write_json_string, PeerCounters, Reason},
    wait::Changes,
};

/// A peer silent for so long may have lost its sessions: a new one is begun.
const STALE_US: u64 = 3 * HELLO_INTERVAL_US;

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
    /// Which request it answered last, of those that are [patient](exchange::Exchange::patient), and when (microseconds). Written without
    /// a lock: a pair that does not fit costs a repetition, or puts one off by a time-out.
    turn: (Atomic<u64>, Atomic<u64>),
    /// The request of which the last answer came that nobody waited for.
    late: Atomic<u64>,
    /// Whether the log says that the peer is up.
    shown_up: Atomic<bool>,
    gone: Atomic<bool>,
    /// Index into `send::FRAGMENTS`.
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
    /// When that one, or else the present one, was agreed on.
    agreed: u64,
    /// Epochs that are over, and until when it stays so: an old datagram must not bring one back.
    retired: [(u64, u64); RETIRED],
    /// Whether the log has said that the peer has another name than the one configured.
    misnamed: bool,
    /// What is wrong with the peer, since when (microseconds), and what of that the log has told last.
    trouble: (Trouble, u64, Trouble),
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

pub(super) fn prepare() {
    // SAFETY: Called once, at load.
    unsafe {
        ADMIN.init();
        TABLE.init();
    }
    session::prepare();
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
            turn: (Atomic::new(0), Atomic::new(0)),
            late: Atomic::new(0),
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
                agreed: 0,
                retired: [(0, 0); RETIRED],
                misnamed: false,
                trouble: (Trouble::None, 0, Trouble::None),
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
        peer.show_trouble(now);
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

    /// It answers this request, of those whose turn may come late.
    pub(super) fn note_turn(&self, request: u64, now: u64) {
        self.turn.0.store(request, Relaxed);
        self.turn.1.store(now, Relaxed);
    }

    /// When it answered a request last, if that one is older than this.
    pub(super) fn turn_before(&self, request: u64) -> Option<u64> {
        (self.turn.0.load(Relaxed) < request).then(|| self.turn.1.load(Relaxed))
    }

    /// Takes a measured round trip.
    pub(super) fn sample_rtt(&self, rtt_us: u64) {
        self.link.lock().rtt.sample(rtt_us, false);
    }

    /// The smoothed round trip, microseconds; before the first measurement the time-out.
    pub(super) fn round_trip_us(&self) -> u64 {
        let link = self.link.lock();
        link.rtt.srtt_us().unwrap_or(link.rtt.rto_us())
    }

    /// An answer to this request arrived that nobody waits for any more. All of one request count once.
    pub(super) fn answered_twice(&self, request: u64) {
        if self.late.xchg(request, Relaxed) != request {
            self.link.lock().rtt.answered_twice();
        }
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
        let now = now_us();
        let lease = self.lease.load(Relaxed).saturating_sub(now);
        write!(
            out,
            ",\"lease_us\":{lease},\"fences\":{},\"revocations\":{},\"lost_bytes\":{},\"partitioned\":{},\"revoked\":{}",
            self.counters.fences.get(),
            self.counters.revocations.get(),
            self.counters.lost_bytes.get(),
            self.is_partitioned(now),
            self.is_revoked()
        )?;
        match self.reclaimed_in(now) {
            Some(us) => write!(out, ",\"reclaim_us\":{us}")?,
            None => write!(out, ",\"reclaim_us\":null")?,
        }
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
