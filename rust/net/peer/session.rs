// SPDX-License-Identifier: GPL-2.0

//! Sessions with a peer: hellos, epochs, and how an old session ends before the next one begins.

use kernel::{
    prelude::*,
    str::BStr,
    sync::{
        atomic::{Acquire, Relaxed, Release},
        global_lock, Arc,
    },
    workqueue::WorkItem,
};

use super::{Peer, ADMIN, HANDSHAKES, RETIRED_US};
use crate::{
    net::{
        exchange, lease_us, now_us, own_name,
        secure::{nonzero, Secure},
        udp,
    },
    proto::{
        lease::Term,
        reliable::RttEstimator,
        wire::{Header, Kind},
    },
    shim,
    stats::Reason,
    workqueue::Workqueue,
};

/// Shortest time between two hellos that something received made us send.
const HELLO_PAUSE_US: u64 = 100_000;

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

pub(super) fn prepare() {
    // SAFETY: Called once, at load.
    unsafe {
        RENEWALS.init();
        HANDSHAKERS.init();
    }
}

/// Makes sessions possible. Process context; `ENOMEM`.
pub(in crate::net) fn start() -> Result {
    *RENEWALS.lock() = Some(Workqueue::new(c"vremote_session")?);
    *HANDSHAKERS.lock() = Some(Workqueue::new(c"vremote_handshake")?);
    Ok(())
}

/// Waits until all sessions that ended are cleaned up. The receive thread must have ended.
pub(in crate::net) fn stop() {
    let handshakers = HANDSHAKERS.lock().take();
    drop(handshakers);
    let queue = RENEWALS.lock().take();
    drop(queue);
}

impl Peer {
    /// This node's epoch for this peer.
    pub fn own_epoch(&self) -> u64 {
        self.own_epoch.load(Acquire)
    }

    /// The sessions that are encrypted; `None`: none of this peer's are.
    pub(in crate::net) fn secure(&self) -> Option<&Secure> {
        self.secure.as_deref()
    }

    /// Has the workqueue look at what [`Secure`] has to do.
    pub(in crate::net) fn shake_hands(self: &Arc<Self>) {
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
    pub(in crate::net) fn backlog(&self) -> bool {
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
    pub(in crate::net) fn hello_received(self: &Arc<Self>, header: &Header, name: &[u8]) {
        let meant = header.peer_epoch == self.own_epoch();
        if header.kind == Kind::Hello {
            let lease = {
                let mut link = self.link.lock();
                if meant && !link.fenced && header.epoch == self.epoch() {
                    link.term.grant(now_us(), lease_us())
                } else {
                    0
                }
            };
            self.greet(Kind::HelloAck, header.epoch, header.request, lease);
            if !meant || self.is_doubtful(header) {
                // It does not know our session yet, or is an old one, so this proves nothing. The answer to our own hello will.
                if header.epoch != self.epoch() {
                    self.challenge(header.epoch);
                }
                return;
            }
        } else if !meant || self.is_doubtful(header) {
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

    /// Whether this is of another session than the peer's present one, and may be older: of a life of the peer that was over before anything
    /// of it arrived here, so that it is not among those that are known to be. Only the answer to a hello that left since then is not.
    fn is_doubtful(&self, header: &Header) -> bool {
        let link = self.link.lock();
        let present = self.epoch().max(link.next_epoch);
        let fresh = header.kind == Kind::HelloAck && header.request > link.agreed;
        present != 0 && header.epoch != present && !fresh
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
    pub(in crate::net) fn agreed(self: &Arc<Self>, epoch: u64) {
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
                link.agreed = now_us();
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
                link.agreed = now_us();
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

    /// Has the workqueue end the old session.
    pub(super) fn renew(self: &Arc<Self>) {
        // It may be queued already: then it takes the youngest epoch.
        if let Some(queue) = &*RENEWALS.lock() {
            let _ = queue.queue().enqueue::<_, 0>(self.clone());
        }
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
            peer.own_epoch.store(nonzero(), Release);
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
