// SPDX-License-Identifier: GPL-2.0

//! The UDP socket of this node, and the thread that receives from it.
//!
//! Both directions move many datagrams at once: the sender hands the kernel up to 64 KB that it cuts into datagrams
//! (`UDP_SEGMENT`), the receiver gets what the kernel has joined (`UDP_GRO`). IP never fragments: a datagram that is too
//! large for the way is refused (`EMSGSIZE`), and [`Peer`] makes smaller ones.

use core::ptr::{null_mut, NonNull};

use kernel::{
    bindings,
    error::{from_err_ptr, to_result},
    prelude::*,
    sync::{global_lock, Arc},
};

use super::{
    exchange,
    peer::{self, Peer},
};
use crate::{
    proto::{
        envelope::{Envelope, What, ENVELOPE_BYTES},
        secure::TAG_BYTES,
        wire::{Header, Kind, DATAGRAM_BYTES},
    },
    shim,
    stats::{dropped, Reason},
};

/// A bound UDP socket in the initial network namespace.
///
/// # Invariants
///
/// The pointer is a valid socket that this value owns.
pub struct Socket(NonNull<bindings::socket>);

// SAFETY: A socket may be used and released by any task.
unsafe impl Send for Socket {}
// SAFETY: The kernel's socket functions lock what they need; all of them may run on many CPUs at once.
unsafe impl Sync for Socket {}

/// What arrived in one go: one datagram, or several that the kernel has joined.
///
/// # Invariants
///
/// `skb` is a packet that this value owns, of `bytes` bytes.
struct Packet(shim::vremote_packet);

impl Packet {
    /// Copies bytes of the packet, from byte `at` on. `false`: it does not have as many.
    fn copy(&self, at: usize, out: &mut [u8]) -> bool {
        let inside = at
            .checked_add(out.len())
            .is_some_and(|end| end <= self.0.bytes as usize);
        if !inside {
            return false;
        }
        let (to, bytes) = (out.as_mut_ptr().cast(), out.len() as c_int);
        // SAFETY: The packet is valid by the type's invariant, the range inside it, and `out` ours.
        unsafe { shim::skb_copy_bits(self.0.skb, at as c_int, to, bytes) == 0 }
    }

    /// Where each datagram begins, and how many bytes it has.
    fn datagrams(&self) -> impl Iterator<Item = (usize, usize)> {
        let bytes = self.0.bytes as usize;
        let segment = match self.0.segment as usize {
            0 => bytes.max(1),
            segment => segment,
        };
        (0..bytes)
            .step_by(segment)
            .map(move |at| (at, segment.min(bytes - at)))
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant the packet is ours.
        unsafe { shim::vremote_net_free(self.0.skb) };
    }
}

impl Socket {
    /// Binds a socket to this port of all addresses (0: any free one), and says which it is. Process context.
    fn open(port: u16) -> Result<(Socket, u16)> {
        let mut socket = null_mut();
        let mut bound = 0;
        // SAFETY: Both out-parameters are valid for writing.
        to_result(unsafe { shim::vremote_net_open(port, &mut socket, &mut bound) })?;
        // INVARIANT: On success the socket is valid and ours.
        Ok((Socket(NonNull::new(socket).ok_or(EIO)?), bound))
    }

    /// Wakes whoever waits in [`Socket::receive`]; nothing is received from now on.
    fn shutdown(&self) {
        // SAFETY: By the type's invariant the socket is valid.
        unsafe { shim::vremote_net_shutdown(self.0.as_ptr()) };
    }

    /// Sends `bytes` bytes from `parts` to an address, cut into datagrams of `segment` bytes (0: as one). Never waits for
    /// buffer space (`EAGAIN`), but may sleep for memory.
    ///
    /// # Safety
    ///
    /// The parts must be readable, and have `bytes` bytes together.
    pub(super) unsafe fn send(
        &self,
        address: u32,
        port: u16,
        parts: &mut [bindings::kvec],
        bytes: usize,
        segment: u16,
    ) -> Result {
        // SAFETY: The socket is valid by the type's invariant, the parts by this function's contract; the kernel reads
        // from them during the call only.
        to_result(unsafe {
            shim::vremote_net_send(
                self.0.as_ptr(),
                address,
                port,
                parts.as_mut_ptr(),
                parts.len(),
                bytes,
                segment,
            )
        })
    }

    /// Whether datagrams have arrived that the receive thread has not looked at. A hint; any context.
    pub(super) fn backlog(&self) -> bool {
        // SAFETY: By the type's invariant the socket is valid.
        unsafe { shim::vremote_net_backlog(self.0.as_ptr()) }
    }

    /// Waits for datagrams, for at most a second (`EAGAIN`). After [`Socket::shutdown`]: `None`.
    fn receive(&self) -> Result<Option<Packet>> {
        let mut packet = shim::vremote_packet::default();
        // SAFETY: The socket is valid by the type's invariant, the packet is ours.
        to_result(unsafe { shim::vremote_net_receive(self.0.as_ptr(), &mut packet) })?;
        // INVARIANT: The shim gives the packet to us.
        Ok((!packet.skb.is_null()).then_some(Packet(packet)))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant the socket is ours, and nobody else uses it any more.
        unsafe { bindings::sock_release(self.0.as_ptr()) };
    }
}

/// The receive thread with what it works on.
struct Receiver {
    socket: Arc<Socket>,
    /// The datagram in hand, with room for a tag behind it. A longer one is none of ours.
    datagram: [u8; DATAGRAM_BYTES + TAG_BYTES],
    /// The last sender: most datagrams come from the same one as the datagram before.
    last: Option<Arc<Peer>>,
}

/// Socket and thread while they run.
struct Service {
    socket: Arc<Socket>,
    thread: NonNull<bindings::task_struct>,
    receiver: NonNull<Receiver>,
}

// SAFETY: The task may be stopped by any other task, and `receiver` is a box that is handed over to the thread and back.
unsafe impl Send for Service {}

global_lock! {
    // SAFETY: Initialised in `prepare`, before anything else.
    unsafe(uninit) static SERVICE: Mutex<Option<Service>> = None;
}

global_lock! {
    // SAFETY: Initialised in `prepare`, before anything else.
    /// Held by the receive thread while it hands on what came in one go. See [`quiesce`].
    unsafe(uninit) static GATE: Mutex<()> = ();
}

pub(super) fn prepare() {
    // SAFETY: Called once, at load.
    unsafe {
        SERVICE.init();
        GATE.init();
    }
}

/// Waits until the receive thread has handed on what it had begun. Process context, may sleep; not in the receive thread.
pub fn quiesce() {
    drop(GATE.lock());
}

/// The socket to send from; `ENOTCONN` if the service does not run. Process context.
pub(super) fn socket() -> Result<Arc<Socket>> {
    SERVICE
        .lock()
        .as_ref()
        .map(|service| service.socket.clone())
        .ok_or(ENOTCONN)
}

/// Opens the socket and starts the thread.
pub(super) fn start(port: u16) -> Result<u16> {
    let (socket, bound) = Socket::open(port)?;
    let socket = Arc::new(socket, GFP_KERNEL)?;
    let receiver = KBox::new(
        Receiver {
            socket: socket.clone(),
            datagram: [0; DATAGRAM_BYTES + TAG_BYTES],
            last: None,
        },
        GFP_KERNEL,
    )?;
    let receiver = NonNull::from(KBox::leak(receiver));
    // SAFETY: `receive_thread` fits its parameter, which lives until `stop` has seen the thread end.
    let thread = from_err_ptr(unsafe {
        shim::vremote_net_thread(
            Some(receive_thread),
            receiver.as_ptr().cast(),
            c"vremote_rx".as_char_ptr(),
        )
    });
    let thread = match thread {
        Ok(thread) => thread,
        Err(error) => {
            // SAFETY: The pointer comes from `KBox::leak` above, and there is no thread that uses it.
            drop(unsafe { KBox::from_raw(receiver.as_ptr()) });
            return Err(error);
        }
    };
    let thread = NonNull::new(thread).ok_or(EIO)?;
    *SERVICE.lock() = Some(Service {
        socket,
        thread,
        receiver,
    });
    Ok(bound)
}

/// Ends the thread. The socket goes with the last peer that holds it.
pub(super) fn stop() {
    let Some(service) = SERVICE.lock().take() else {
        return;
    };
    service.socket.shutdown();
    // SAFETY: The thread does not end before it is told to, so the task is still valid; it is told only here.
    unsafe { bindings::kthread_stop(service.thread.as_ptr()) };
    // SAFETY: The pointer comes from `KBox::leak` in `start`, and its only user, the thread, has ended.
    drop(unsafe { KBox::from_raw(service.receiver.as_ptr()) });
}

/// Body of the receive thread: no packet and no error ends it, only [`stop`].
///
/// # Safety
///
/// `data` must be the `Receiver` of [`start`], and nobody else may use it while the thread runs.
unsafe extern "C" fn receive_thread(data: *mut c_void) -> c_int {
    // SAFETY: By this function's contract it is a valid `Receiver`, and ours alone.
    let receiver = unsafe { &mut *data.cast::<Receiver>() };
    // SAFETY: Changes nothing but the allocation flags of the current task, which is ours.
    unsafe { shim::vremote_net_thread_begin() };
    loop {
        // SAFETY: No requirements in a kernel thread.
        if unsafe { bindings::kthread_should_stop() } {
            return 0;
        }
        match receiver.socket.receive() {
            Ok(Some(packet)) => receiver.hand_on(&packet),
            Ok(None) => pause(),
            Err(error) if error == EAGAIN || error == EINTR => (),
            Err(error) => {
                dropped(Reason::ReceiveError);
                // A wrong checksum is one packet's, and anybody's: it must not hold up the next ones.
                if error != Error::from_errno(-(bindings::EBADMSG as i32)) {
                    pause();
                }
            }
        }
    }
}

/// Keeps the thread from spinning on a socket that is shut down, or on an error.
fn pause() {
    // SAFETY: No requirements in process context.
    unsafe { bindings::msleep(1) };
}

impl Receiver {
    /// Everything that came in one go, datagram by datagram.
    fn hand_on(&mut self, packet: &Packet) {
        let _gate = GATE.lock();
        let (address, port) = (packet.0.address, packet.0.port);
        let known = self
            .last
            .take()
            .filter(|peer| peer.is_at(address, port) && !peer.is_gone());
        let Some(peer) = known.or_else(|| peer::by_address(address, port)) else {
            dropped(Reason::UnknownSender);
            return;
        };
        for (at, bytes) in packet.datagrams() {
            peer.counters.rx_bytes.add(bytes as u64);
            let taken = if packet.copy(at, &mut self.datagram[..bytes.min(DATAGRAM_BYTES)]) {
                take(&peer, &mut self.datagram, bytes)
            } else {
                Err(Reason::ReceiveError)
            };
            if let Err(reason) = taken {
                peer.dropped(reason);
            }
        }
        self.last = Some(peer);
    }
}

/// One datagram of `bytes` bytes from a peer's address, with room for a tag behind it: opens its envelope.
fn take(peer: &Arc<Peer>, datagram: &mut [u8], bytes: usize) -> Result<(), Reason> {
    let shown = bytes.min(datagram.len());
    let envelope = Envelope::decode(&datagram[..shown], bytes)?;
    let end = ENVELOPE_BYTES + usize::from(envelope.length);
    let datagram = datagram.get_mut(..end + TAG_BYTES).ok_or(Reason::Field)?;
    let (epoch, peer_epoch) = match (peer.secure(), envelope.what) {
        (None, What::Open) => (envelope.counter, envelope.session),
        (Some(secure), What::Message) => {
            let session = secure.open(peer, &envelope, datagram)?;
            (session.epoch(), session.own_epoch())
        }
        (Some(secure), What::First | What::Second) => {
            let datagram = datagram.first_chunk().ok_or(Reason::Truncated)?;
            return secure.handshake(peer, &envelope, datagram);
        }
        (Some(secure), What::Cookie) => {
            return secure.cookie(peer, datagram.first_chunk().ok_or(Reason::Truncated)?);
        }
        (None, _) | (Some(_), What::Open) => return Err(Reason::Open),
    };
    let (header, fragment) =
        Header::decode_text(&datagram[ENVELOPE_BYTES..end], epoch, peer_epoch)?;
    hand_on(peer, &header, fragment);
    Ok(())
}

/// One datagram's part of a message of a peer.
fn hand_on(peer: &Arc<Peer>, header: &Header, fragment: &[u8]) {
    let session = matches!(header.kind, Kind::Hello | Kind::HelloAck);
    if !session {
        if header.peer_epoch != peer.own_epoch() || header.epoch != peer.epoch() {
            peer.dropped(Reason::WrongEpoch);
            peer.hello(false);
            return;
        }
        peer.heard();
        if header.kind == Kind::Grant && !fragment.is_empty() {
            return exchange::piece(peer, header, fragment);
        }
        if header.length as usize != fragment.len() {
            return peer.assemble(header, fragment);
        }
    }
    let mut payload = KVVec::new();
    if payload.extend_from_slice(fragment, GFP_KERNEL).is_err() {
        peer.dropped(Reason::NoMemory);
    } else if session {
        peer.counters.rx.of(header.kind).add(1);
        peer.hello_received(header, &payload);
    } else {
        dispatch(peer, header, &mut payload);
    }
}

/// One whole message of a peer's current session. Who needs the payload for longer takes it.
pub(super) fn dispatch(peer: &Arc<Peer>, header: &Header, payload: &mut KVVec<u8>) {
    peer.count_received(header);
    match header.kind {
        Kind::Reply | Kind::Grant | Kind::Ack => exchange::answered(peer, header, payload),
        Kind::Working => exchange::working(peer, header),
        Kind::Invalidate | Kind::Recall | Kind::Unlocked => {
            crate::remote::receive(peer, header, payload)
        }
        Kind::Lookup
        | Kind::Open
        | Kind::Close
        | Kind::GetAttr
        | Kind::SetSize
        | Kind::Write
        | Kind::Commit
        | Kind::List
        | Kind::ReadLink
        | Kind::Make
        | Kind::Link
        | Kind::Remove
        | Kind::Rename
        | Kind::SetAttr
        | Kind::Lock
        | Kind::Allocate
        | Kind::GetShared
        | Kind::GetModified
        | Kind::Put
        | Kind::GetXattr
        | Kind::SetXattr
        | Kind::ListXattr
        | Kind::StatFs
        | Kind::GetFileAttr
        | Kind::SetFileAttr => crate::origin::receive(peer, header, payload),
        Kind::Hello | Kind::HelloAck => (),
    }
}
