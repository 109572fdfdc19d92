// SPDX-License-Identifier: GPL-2.0

//! Locks by fcntl(2) and flock(2): the origin decides, for all nodes and its own programs.
//!
//! What it has granted is noted in this kernel's tables as well, which is how the kernel knows what to give back when the owner closes
//! the file or ends. Hence the order: locked at the origin first, unlocked there last.
//!
//! # Order
//!
//! Messages overtake each other. An unlock that was lost on the way, or a lock that was given up and is granted and given back yet, must not
//! come to the origin after a lock that its owner has asked for since, and take that away. So every [`Operation`] is noted until the
//! origin has answered it, and an owner's next lock waits until none of its operations is.

use kernel::{
    bindings::{file, file_lock},
    error::to_result,
    ffi::c_int,
    prelude::*,
    sync::Arc,
};

use super::{
    errno,
    file::{of_any_file, of_file, Opened},
    state::{self, FileId, Inode},
};
use crate::bindings;
use crate::net::{
    self,
    exchange::{self, call, call_once, gave_up, Exchange, Once},
    peer::Peer,
};
use crate::proto::{
    limits::{LOCK_POLL_MAX_US, LOCK_POLL_MIN_US, UNLOCK_WAIT_US},
    wire::{Header, Kind, Lock, LockKind, LOCK_BYTES},
};
use crate::wait::{Changes, Wait};

/// A lock or an unlock that was sent and not answered: of which file and which owner.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Operation {
    file: FileId,
    owner: u64,
    flock: bool,
}

impl Operation {
    fn new(file: FileId, lock: &Lock) -> Operation {
        Operation {
            file,
            owner: lock.owner,
            flock: lock.flock,
        }
    }
}

/// The kernel's request for the wire.
fn lock_of(kept: &Inode, raw: &bindings::vremote_lock) -> Lock {
    Lock {
        owner: raw.owner ^ kept.salt,
        start: raw.start,
        end: raw.end,
        pid: raw.pid,
        kind: match raw.kind {
            1 => LockKind::Read,
            2 => LockKind::Write,
            _ => LockKind::Unlock,
        },
        flock: raw.flock,
        test: false,
        wait: raw.wait,
    }
}

/// `lock`: fcntl(2), of processes and of open file descriptions.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn lock(
    file: *mut file,
    command: c_int,
    request: *mut file_lock,
) -> c_int {
    // SAFETY: The kernel gives us an open descriptor of ours, and a request that is its caller's.
    errno(unsafe {
        if command == bindings::F_GETLK as c_int {
            test(file, request)
        } else {
            set(file, request)
        }
    })
}

/// `flock`: flock(2).
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn flock(
    file: *mut file,
    _command: c_int,
    request: *mut file_lock,
) -> c_int {
    // SAFETY: As above.
    errno(unsafe { set(file, request) })
}

/// Who holds a lock in the way of this one.
///
/// # Safety
///
/// `file` is an open descriptor of ours, `request` is the caller's.
unsafe fn test(file: *mut file, request: *mut file_lock) -> Result {
    // SAFETY: By this function's contract.
    let kept = unsafe { of_file(file) }?;
    // One of this node is told with its process id, which the origin cannot tell.
    // SAFETY: By this function's contract.
    if unsafe { bindings::vremote_lock_find(file, request) } {
        return Ok(());
    }
    let mut raw = bindings::vremote_lock::default();
    // SAFETY: By this function's contract; `raw` is ours.
    unsafe { bindings::vremote_lock_read(request, &mut raw) };
    let wanted = Lock {
        test: true,
        ..lock_of(&kept, &raw)
    };
    let header = kept.usable()?.header(Kind::Lock);
    let answer = call(&kept.peer, header, &wanted.encode())?;
    let found = Lock::decode(&answer.payload).ok_or(EPROTO)?;
    raw.kind = found.kind as u8;
    (raw.start, raw.end, raw.pid) = (found.start, found.end, found.pid);
    // SAFETY: As above.
    unsafe { bindings::vremote_lock_report(request, &raw) };
    Ok(())
}

impl Opened {
    /// Notes an operation of this owner, when none is noted any more. Sleeps.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`: one was not answered. `ESTALE`, as of [`Opened::usable`]. `EINTR`: killed. `ENOMEM`.
    fn begin(&self, lock: &Lock) -> Result<Operation> {
        let mut deadline = net::deadline();
        loop {
            let seen = self.changes.seen();
            {
                let mut state = self.state.lock();
                let operation = Operation::new(state.usable_in(self.life)?, lock);
                if !state.operations.contains(&operation) {
                    state.operations.push(operation, GFP_ATOMIC)?;
                    return Ok(operation);
                }
            }
            let left = deadline.left(net::now_us()).ok_or(ETIMEDOUT)?;
            self.changes.wait(seen, left, Wait::Killable)?;
        }
    }

    /// Asks the origin for a lock, and waits for the answer. What is granted too late is given back.
    fn ask(&self, once: Once, operation: Operation, lock: &Lock) -> Result {
        let header = operation.file.header(Kind::Lock);
        let answer = call_once(once, header, &lock.encode(), late);
        if !answer.as_ref().is_err_and(|error| gave_up(*error)) {
            self.answered(operation);
        }
        answer.map(drop)
    }
}

/// The answer to a lock that was given up. Receive thread.
fn late(peer: &Arc<Peer>, request: &Header, payload: &[u8], answer: &Header) {
    let Some(lock) = Lock::decode(payload) else {
        return;
    };
    let operation = Operation::new(FileId::of(request), &lock);
    let inode = state::by_file(peer.slot, request.file);
    if answer.status == 0 {
        unlock(peer, inode, operation, &lock);
    } else if let Some(inode) = inode {
        inode.answered(operation);
    }
}

/// Locks or unlocks. What cannot be had is waited for, if the request says so: until it can be had or a signal comes.
///
/// # Errors
///
/// `EAGAIN`, `ERESTARTSYS`, and those of the origin and of the network: then nothing is locked. `ETIMEDOUT` also if the origin has not
/// answered what the owner asked for before.
///
/// # Safety
///
/// As [`test`].
unsafe fn set(file: *mut file, request: *mut file_lock) -> Result {
    // SAFETY: By this function's contract.
    let kept = unsafe { of_any_file(file) }?;
    let mut raw = bindings::vremote_lock::default();
    // SAFETY: By this function's contract; `raw` is ours.
    unsafe { bindings::vremote_lock_read(request, &mut raw) };
    let wanted = lock_of(&kept, &raw);
    if wanted.kind == LockKind::Unlock {
        // SAFETY: By this function's contract.
        if unsafe { bindings::vremote_lock_forget(file, request) } {
            kept.unlock(&wanted);
        }
        return Ok(());
    }
    let mut pause = LOCK_POLL_MIN_US;
    loop {
        let seen = kept.unlocked.seen();
        let operation = kept.begin(&wanted)?;
        let once = Once::begin(&kept.peer).inspect_err(|_| kept.answered(operation))?;
        match kept.ask(once, operation, &wanted) {
            Ok(()) => {
                // SAFETY: By this function's contract.
                let noted = unsafe { bindings::vremote_lock_note(file, request) };
                return to_result(noted).inspect_err(|_| kept.unlock(&wanted));
            }
            Err(error) if error == EAGAIN => {}
            Err(error) => {
                if gave_up(error) {
                    // Should it be granted yet, it is given back, and with it what the owner had in this range.
                    // SAFETY: By this function's contract.
                    unsafe { bindings::vremote_lock_forget(file, request) };
                }
                return Err(error);
            }
        }
        if wanted.flock {
            // Refused to convert: the old lock is gone, as flock(2) has it.
            // SAFETY: By this function's contract.
            unsafe { bindings::vremote_lock_forget(file, request) };
        }
        if !wanted.wait {
            return Err(EAGAIN);
        }
        // Changes that come one after another would let no signal in.
        if kernel::current!().signal_pending() {
            return Err(ERESTARTSYS);
        }
        kept.unlocked.wait(seen, pause, Wait::Interruptible)?;
        pause = (pause * 2).min(LOCK_POLL_MAX_US);
    }
}

/// An unlock on its way: sent until the origin has heard it, or the session is over, which unlocks as well.
#[pin_data]
struct Unlocking {
    /// `None`: the kernel has dropped it since; another one gives its owners other names.
    inode: Option<Arc<Inode>>,
    operation: Operation,
    header: Header,
    lock: [u8; LOCK_BYTES],
    #[pin]
    done: Changes,
}

impl Unlocking {
    fn end(&self) {
        if let Some(inode) = &self.inode {
            inode.answered(self.operation);
        }
        self.done.happen();
    }
}

impl Exchange for Unlocking {
    fn answer(&self, _peer: &Arc<Peer>, _header: &Header, _payload: &[u8]) -> bool {
        self.end();
        true
    }

    fn send(&self, peer: &Arc<Peer>, retry: bool) -> Result {
        peer.send(&self.header.sent(retry), &self.lock)
    }

    fn expired(&self, _error: Error) {
        self.end();
    }
}

/// Unlocks at the origin, without waiting for it. Process context, may sleep for memory. `None`: without memory; then the lock is given
/// back when the last descriptor of this node is closed.
fn unlock(
    peer: &Arc<Peer>,
    inode: Option<Arc<Inode>>,
    operation: Operation,
    lock: &Lock,
) -> Option<Arc<Unlocking>> {
    let once = Once::try_begin(peer);
    let header = Header {
        request: exchange::next_request(),
        ..operation.file.header(Kind::Lock)
    };
    let lock = Lock {
        kind: LockKind::Unlock,
        wait: false,
        ..*lock
    }
    .encode();
    let kept = inode.clone();
    let unlocking = Arc::pin_init(
        pin_init!(Unlocking { inode: kept, operation, header, lock, done <- Changes::new() }),
        GFP_KERNEL,
    )
    .and_then(|unlocking| {
        exchange::start_once(peer, once, header.request, unlocking.clone(), None)
            .map(|()| unlocking)
    });
    if unlocking.is_err() {
        if let Some(inode) = inode {
            inode.answered(operation);
        }
    }
    unlocking.ok()
}

impl Inode {
    /// Unlocks at the origin. Waits a moment for the answer, even in a task that was killed: it may be ending, and whoever asks next
    /// for the lock expects to get it. Process context.
    fn unlock(self: &Arc<Inode>, lock: &Lock) {
        let operation = {
            let mut state = self.state.lock();
            let Ok(file) = state.usable() else {
                return;
            };
            let operation = Operation::new(file, lock);
            // See `unlock` about memory.
            if state.operations.push(operation, GFP_ATOMIC).is_err() {
                return;
            }
            operation
        };
        if let Some(unlocking) = unlock(&self.peer, Some(self.clone()), operation, lock) {
            let _ = unlocking.done.wait(0, UNLOCK_WAIT_US, Wait::Always);
        }
    }

    /// The origin has answered an operation, or never will. Any context that may spin.
    fn answered(&self, operation: Operation) {
        {
            let mut state = self.state.lock();
            let at = state
                .operations
                .iter()
                .position(|noted| *noted == operation);
            if let Some(at) = at {
                let _ = state.operations.remove(at);
            }
        }
        self.changes.happen();
    }
}
