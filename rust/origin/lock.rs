// SPDX-License-Identifier: GPL-2.0

//! Locks that remotes hold on files of this node: they stand in this kernel's own tables, beside those of local programs.
//!
//! Every owner at a remote has a descriptor of its own here, its [`Holder`]: for flock(2) the descriptor is who holds a lock, and
//! locks by fcntl(2) are held in its name. Nothing waits here: a lock that somebody else holds is `EAGAIN`, and whoever waits
//! for it asks again, at the latest when told that something was unlocked. Local programs wait in the kernel as ever.
//!
//! The kernel therefore does not see who waits for whom between nodes: there is no `EDEADLK`.

use kernel::{
    error::to_result,
    prelude::*,
    sync::{new_mutex, Mutex},
};

use super::{
    quota::{self, Place},
    serve,
    share::{OwnFile, Share},
};
use crate::bindings;
use crate::net::{
    exchange::next_request,
    peer::{self, Peer},
};
use crate::proto::{
    limits::{MAX_LOCK_OWNERS, MAX_SIZE},
    nodes::{Node, NodeSet},
    wire::{Header, Kind, Lock, LockKind},
};

/// Who holds, or has held, locks of a file.
struct Holder {
    node: Node,
    owner: u64,
    flock: bool,
    file: OwnFile,
    _place: Place,
}

/// The locks of remotes on one file.
#[pin_data]
pub(super) struct Locks {
    #[pin]
    state: Mutex<State>,
}

struct State {
    holders: KVec<Holder>,
    /// Nodes that were refused a lock they wait for.
    waiters: NodeSet,
}

impl Locks {
    /// No locks.
    pub(super) fn new() -> impl PinInit<Locks> {
        pin_init!(Locks {
            state <- new_mutex!(State {
                holders: KVec::new(),
                waiters: NodeSet::new(),
            }),
        })
    }
}

/// The kernel's form of a lock.
fn raw(lock: &Lock) -> bindings::vremote_lock {
    bindings::vremote_lock {
        owner: lock.owner,
        start: lock.start,
        end: lock.end,
        pid: lock.pid,
        kind: lock.kind as u8,
        flock: lock.flock,
        wait: false,
    }
}

impl Share {
    /// Locks, unlocks or tests, as `header` asks, for an owner at `peer`, which has the file open. Gives what is in the way to a test, else
    /// the lock as it is now. Work item; sleeps, but does not wait for anybody's lock.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: somebody else holds it. `ESTALE`: the session is over, and nobody would unlock it. `ENOLCK`: too many owners, of the file or of the node. `ENOMEM`, and those of the file system.
    pub(super) fn lock(&self, peer: &Peer, header: &Header, lock: &Lock) -> Result<Lock> {
        let node = peer.slot;
        let mut state = self.locks.state.lock();
        // With the lock held: what is locked until now is found by `unlock_all`.
        if !serve::is_current(peer, header) {
            return Err(ESTALE);
        }
        let known = state.holders.iter().position(|holder| {
            (holder.node, holder.owner, holder.flock) == (node, lock.owner, lock.flock)
        });
        if lock.test {
            // Without a holder any descriptor will do: nothing is locked in the name of the share's own.
            let file = known.map_or(&self.file, |at| &state.holders[at].file);
            let mut found = raw(lock);
            // SAFETY: The descriptor is open, `found` is ours.
            to_result(unsafe { bindings::vremote_lock_test(file.as_ptr(), &mut found) })?;
            return Ok(Lock {
                owner: 0,
                start: found.start,
                end: found.end.min(MAX_SIZE),
                pid: found.pid & i32::MAX as u32,
                kind: match found.kind {
                    1 => LockKind::Read,
                    2 => LockKind::Write,
                    _ => LockKind::Unlock,
                },
                ..*lock
            });
        }
        let at = match known {
            Some(at) => at,
            None if lock.kind == LockKind::Unlock => return Ok(*lock),
            None => {
                if state.holders.len() >= MAX_LOCK_OWNERS {
                    return Err(ENOLCK);
                }
                let place = quota::LOCK_OWNERS.take(node).ok_or(ENOLCK)?;
                // SAFETY: The share's file is open.
                let file = unsafe { OwnFile::open(self.file.as_ptr()) }?;
                state.holders.push(
                    Holder {
                        node,
                        owner: lock.owner,
                        flock: lock.flock,
                        file,
                        _place: place,
                    },
                    GFP_KERNEL,
                )?;
                state.holders.len() - 1
            }
        };
        let holder = &state.holders[at];
        // SAFETY: The descriptor is open.
        let status = unsafe { bindings::vremote_lock_set(holder.file.as_ptr(), &raw(lock)) };
        let done = to_result(status);
        let all = lock.start == 0 && lock.end == MAX_SIZE;
        if (lock.kind == LockKind::Unlock && all) || (done.is_err() && known.is_none()) {
            let _ = state.holders.remove(at);
        }
        if lock.wait && matches!(done, Err(error) if error == EAGAIN) {
            state.waiters.insert(node);
        }
        // A lock that was lowered, and a failed conversion by flock(2), may let somebody else in as well. Any other that is refused changes
        // nothing: two holders that wait for each other would wake each other all the time.
        let may_be_free = done.is_ok() || lock.flock;
        if lock.kind == LockKind::Unlock || (known.is_some() && may_be_free) {
            self.tell(&mut state);
        }
        done.map(|()| *lock)
    }

    /// Gives back every lock of this node: it has closed the file, or is gone. Process context, sleeps.
    pub(super) fn unlock_all(&self, node: Node) {
        let mut state = self.locks.state.lock();
        state.waiters.remove(node);
        let before = state.holders.len();
        for holder in state.holders.iter().filter(|holder| holder.node == node) {
            let all = Lock {
                end: MAX_SIZE,
                flock: holder.flock,
                ..Lock::default()
            };
            // Closing the descriptor would do, but a work item closes later than at once.
            // SAFETY: The descriptor is open.
            let _ = unsafe { bindings::vremote_lock_set(holder.file.as_ptr(), &raw(&all)) };
        }
        state.holders.retain(|holder| holder.node != node);
        if state.holders.len() != before {
            self.tell(&mut state);
        }
    }

    /// The nodes that hold locks for which somebody waits. Process context, may sleep.
    pub(super) fn contended(&self) -> NodeSet {
        let mut nodes = NodeSet::new();
        let state = self.locks.state.lock();
        for holder in &state.holders {
            // Remotes that wait do not do so in the kernel's tables. Which lock they wait for is not noted.
            let wanted = !state.waiters.without(holder.node).is_empty()
                // SAFETY: The descriptor is open.
                || unsafe { bindings::vremote_lock_contended(holder.file.as_ptr()) };
            if wanted {
                nodes.insert(holder.node);
            }
        }
        nodes
    }

    /// Tells the nodes that wait to try again.
    fn tell(&self, state: &mut State) {
        let waiters = core::mem::replace(&mut state.waiters, NodeSet::new());
        for node in waiters.iter() {
            if let Some(peer) = peer::by_slot(node) {
                let header = Header {
                    request: next_request(),
                    file: self.id,
                    ..Header::new(Kind::Unlocked)
                };
                let _ = peer.send(&header, &[]);
            }
        }
    }
}
