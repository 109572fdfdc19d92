// SPDX-License-Identifier: GPL-2.0

//! Messages between nodes: sockets, peers and their sessions, requests in flight.
//!
//! | file | what it is |
//! |---|---|
//! | [`udp`] | the socket, the receive thread, segmentation offload |
//! | [`peer`] | the table of peers; below it sessions and the hello handshake, leases, sending a message |
//! | [`assembly`] | messages of several datagrams that arrive |
//! | [`batch`] | several messages to one peer in one go |
//! | [`secure`] | the sessions with one peer: handshakes, what is encrypted and decrypted |
//! | [`crypto`] | the kernel's crypto library |
//! | [`keylog`] | keys of sessions, for who watches a test cluster |
//! | [`exchange`] | requests in flight: retransmission, answers, deadlines; blocking calls |
//! | [`timer`] | the one timer behind all of that |
//!
//! Order of locks, outermost first: [`peer`]'s table of administration, the receive gate, a peer's assemblies; then spinlocks,
//! none of which is held while another part is called.

mod assembly;
pub mod batch;
mod crypto;
pub mod exchange;
pub mod keylog;
pub mod peer;
mod secure;
pub mod timer;
pub mod udp;

use kernel::{
    bindings,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        SetOnce,
    },
};

use crate::proto::{lease, limits, reliable::Deadline};

/// Longest nodename that a kernel holds, with its final NUL.
const NODENAME: usize = 65;

/// What this node is called.
struct Own {
    name: [u8; NODENAME],
    length: usize,
}

static OWN: SetOnce<Own> = SetOnce::new();

/// How long a call waits for a silent peer, in microseconds.
static TIMEOUT_US: Atomic<u64> = Atomic::new(limits::CALL_TIMEOUT_US);

/// What this node grants to remotes of its files, in microseconds.
static LEASE_US: Atomic<u64> = Atomic::new(limits::LEASE_US);

/// The name of this node, as `uname -n` said when the module was loaded. Any context.
pub fn own_name() -> &'static [u8] {
    OWN.as_ref().map_or(&[], |own| &own.name[..own.length])
}

/// How long a call waits for a silent peer, in microseconds (module parameter `timeout_ms`). Any context.
pub fn timeout_us() -> u64 {
    TIMEOUT_US.load(Relaxed)
}

/// The end of that, from now on. Any context but NMI.
pub fn deadline() -> Deadline {
    Deadline::new(now_us() + timeout_us())
}

/// The lease that this node grants to remotes of its files, in microseconds (module parameter `lease_ms`). Any context.
pub fn lease_us() -> u64 {
    LEASE_US.load(Relaxed)
}

/// After how many rounds that have run out a holder that has not given up a page is fenced ([`lease::overdue_rounds`]). Any context.
pub fn overdue_rounds() -> u16 {
    lease::overdue_rounds(timeout_us(), lease_us())
}

/// The longest time that a local task waits for pages that other nodes hold, in microseconds. Any context.
pub fn longest_round_us() -> u64 {
    timeout_us().saturating_mul(2) + lease_us() + lease_us() / 8
}

/// Microseconds since boot. With the time in suspend: a lease runs out in it. Any context but NMI.
pub fn now_us() -> u64 {
    // SAFETY: May be called in any context but NMI.
    let nanoseconds = unsafe { bindings::ktime_get_with_offset(bindings::tk_offsets_TK_OFFS_BOOT) };
    nanoseconds as u64 / 1000
}

/// Whether one more line may be logged now: 20 lines in 5 seconds for the whole module. Any context.
///
/// For everything that a peer, a user or a lossy network can cause again and again.
pub fn may_log() -> bool {
    // SAFETY: No requirements; the limit's state has its own lock.
    unsafe { crate::shim::vremote_net_may_log() }
}

/// Prepares all locks. First of all, once in the life of the module; cannot fail.
pub fn prepare(timeout_ms: u32, lease_ms: u32) {
    let mut own = Own {
        name: [0; NODENAME],
        length: 0,
    };
    // SAFETY: The buffer is as long as said.
    unsafe { crate::shim::vremote_net_nodename(own.name.as_mut_ptr(), own.name.len()) };
    own.length = own.name.iter().position(|byte| *byte == 0).unwrap_or(0);
    OWN.populate(own);
    TIMEOUT_US.store(u64::from(timeout_ms.max(1)) * 1000, Relaxed);
    let lease_us = u64::from(lease_ms) * 1000;
    LEASE_US.store(
        lease_us.clamp(limits::DEAF_US, limits::MAX_LEASE_US),
        Relaxed,
    );
    batch::prepare();
    exchange::prepare();
    keylog::prepare();
    peer::prepare();
    secure::prepare();
    timer::prepare();
}

/// Opens the socket and starts to receive; gives the port that it listens on. `keep_keys`: those of sessions are kept, see [`keylog`].
/// Process context, may sleep; errors of the socket, such as `EADDRINUSE`.
pub fn init(port: u16, keep_keys: bool) -> Result<u16> {
    timer::start()?;
    batch::fill();
    peer::start()
        .and_then(|()| if keep_keys { keylog::start() } else { Ok(()) })
        .and_then(|()| udp::start(port))
        .inspect_err(|_| {
            peer::stop();
            timer::stop();
            batch::drain();
            keylog::stop();
        })
}

/// Ends everything that [`init`] began: removes all peers, ends all exchanges, waits for the receive thread.
/// Afterwards sending fails with `ENOTCONN`. Process context, may sleep.
pub fn exit() {
    peer::remove_all();
    udp::stop();
    peer::stop();
    timer::stop();
    exchange::end_all();
    batch::drain();
    keylog::stop();
}
