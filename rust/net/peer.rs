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
    batch, exchange, may_log, now_us, own_name,
    secure::Secure,
    timer,
    udp::{self, Socket},
    Workqueue,
};
use crate::{
    proto::{
        limits::{
            FRAGMENT_BYTES, HELLO_INTERVAL_US, MAX_ASSEMBLIES, MAX_NAME, MAX_NODES, MAX_PAYLOAD,
            PEER_DOWN_US,
        },
        reliable::{Assembly, OnceWindow, RttEstimator},
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
    /// This node's epoch for this peer: random, nonzero, new each time that it is made a peer. So what the peer noted for this node
    /// ends when either of both forgets the other, and not only when the module is loaded anew.
    pub own_epoch: u64,
    name: KVec<u8>,
    address: u32,
    port: u16,
}

/// Another node.
#[pin_data]
pub struct Peer {
    identity: Identity,
    socket: Arc<Socket>,
    /// Session of the peer; 0 while none is agreed.
    epoch: Atomic<u64>,
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
    /// The epoch that comes into force when everybody has let go of the one before; 0: none.
    next_epoch: u64,
    /// Epochs that are over, and until when it stays so: an old datagram must not bring one back.
    retired: [(u64, u64); RETIRED],
    /// Whether the log has said that the peer has another name than the one configured.
    misnamed: bool,
}

/// One message of which some fragments have arrived.
struct Partial {
    /// The first fragment's header with offset 0: what all fragments have in common.
    header: Header,
    state: Assembly,
    bytes: KVVec<u8>,
    since: u64,
}

/// Messages in reassembly, oldest first.
struct Assemblies {
    partial: KVec<Partial>,
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
        own_epoch: super::secure::nonzero(),
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
            epoch: Atomic::new(0),
            heard: Atomic::new(0),
            shown_up: Atomic::new(false),
            gone: Atomic::new(false),
            fragment: Atomic::new(0),
            segmentation: Atomic::new(true),
            link <- new_spinlock!(Link {
                rtt: RttEstimator::new(),
                hello_sent: 0,
                next_epoch: 0,
                retired: [(0, 0); RETIRED],
                misnamed: false,
            }),
            assemblies <- new_mutex!(Assemblies { partial: KVec::new() }),
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
    let _admin = ADMIN.lock();
    let peer = by_name(name).ok_or(ENOENT)?;
    if peer.is_up() {
        crate::origin::peer_leaving();
    }
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
        next = now + HELLO_INTERVAL_US;
        let silent = peer.silent_us(now);
        if let Some(secure) = &peer.secure {
            secure.tick(&peer, now);
            if silent >= STALE_US {
                secure.begin(&peer, true);
            }
        }
        if silent >= HELLO_INTERVAL_US {
            peer.hello(true);
        }
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

    // Sessions.

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
    pub(super) fn hello(self: &Arc<Self>, always: bool) {
        let now = now_us().max(1);
        let peer_epoch = {
            let mut link = self.link.lock();
            if !always && now.saturating_sub(link.hello_sent) < HELLO_PAUSE_US {
                return;
            }
            link.hello_sent = now;
            self.epoch().max(link.next_epoch)
        };
        self.greet(Kind::Hello, peer_epoch, now);
    }

    /// Whether datagrams have arrived, perhaps of this peer, that nobody has looked at yet. A hint; any context.
    pub(super) fn backlog(&self) -> bool {
        self.socket.backlog()
    }

    fn greet(self: &Arc<Self>, kind: Kind, peer_epoch: u64, request: u64) {
        let header = Header {
            kind,
            epoch: self.own_epoch,
            peer_epoch,
            request,
            ..Header::default()
        };
        // A hello that is lost comes again; a peer that is gone needs none.
        let _ = self.send_in_session(header, own_name());
    }

    /// A `Hello` or `HelloAck` arrived. Receive thread.
    pub(super) fn hello_received(self: &Arc<Self>, header: &Header, name: &[u8]) {
        let meant = header.peer_epoch == self.own_epoch;
        if header.kind == Kind::Hello {
            self.greet(Kind::HelloAck, header.epoch, header.request);
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
        {
            let mut link = self.link.lock();
            if header.kind == Kind::HelloAck
                && header.request != 0
                && header.request == link.hello_sent
            {
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
        self.greet(Kind::Hello, epoch, now);
    }

    /// The peer's epoch is proven. Process context.
    pub(super) fn agreed(self: &Arc<Self>, epoch: u64) {
        let renew = {
            let mut link = self.link.lock();
            let current = self.epoch();
            if self.is_gone() {
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
            // It may be queued already: then it takes the youngest epoch.
            if let Some(queue) = &*RENEWALS.lock() {
                let _ = queue.queue().enqueue::<_, 0>(self.clone());
            }
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
            epoch: self.own_epoch,
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
        while assemblies
            .partial
            .first()
            .is_some_and(|partial| now.saturating_sub(partial.since) > PEER_DOWN_US)
        {
            self.dropped(Reason::Incomplete);
            let _ = assemblies.partial.remove(0);
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
            self.own_epoch
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
        if peer.is_gone() {
            return;
        }
        exchange::end(&peer, ESTALE);
        crate::origin::peer_gone(peer.slot);
        crate::remote::peer_gone(&peer);
        {
            let mut assemblies = peer.assemblies.lock();
            assemblies.partial.clear();
        }
        let mut link = peer.link.lock();
        let epoch = link.next_epoch;
        if epoch == 0 {
            return;
        }
        link.next_epoch = 0;
        link.rtt = RttEstimator::new();
        peer.fragment.store(0, Relaxed);
        peer.segmentation.store(true, Relaxed);
        peer.epoch.store(epoch, Release);
        drop(link);
        peer.heard();
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

impl Assemblies {
    /// Takes a fragment; gives the message if that completes it.
    fn accept(&mut self, header: &Header, fragment: &[u8]) -> Result<Option<Partial>, Reason> {
        let common = Header {
            offset: 0,
            flags: header.flags & !flags::RETRY,
            ..*header
        };
        let place = match self
            .partial
            .iter()
            .rposition(|partial| partial.header == common)
        {
            Some(place) => place,
            None => self.begin(common)?,
        };
        let partial = &mut self.partial[place];
        if let Some(range) = partial.state.accept(header) {
            let room = partial.bytes.get_mut(range).ok_or(Reason::Field)?;
            if room.len() != fragment.len() {
                return Err(Reason::Field);
            }
            room.copy_from_slice(fragment);
        }
        if !partial.state.complete() {
            return Ok(None);
        }
        Ok(self.partial.remove(place).ok())
    }

    /// A new message, in place of the oldest one if there are too many.
    fn begin(&mut self, header: Header) -> Result<usize, Reason> {
        let state = Assembly::new(&header);
        let bytes = KVVec::zeroed(state.length(), GFP_KERNEL).map_err(|_| Reason::NoMemory)?;
        if self.partial.len() >= MAX_ASSEMBLIES {
            stats::dropped(Reason::Incomplete);
            let _ = self.partial.remove(0);
        }
        let partial = Partial {
            header,
            state,
            bytes,
            since: now_us(),
        };
        self.partial
            .push(partial, GFP_KERNEL)
            .map_err(|_| Reason::NoMemory)?;
        Ok(self.partial.len() - 1)
    }
}
