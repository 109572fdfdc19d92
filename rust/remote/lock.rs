// SPDX-License-Identifier: GPL-2.0

//! Locks by fcntl(2) and flock(2): the origin decides, for all nodes and its own programs.
//!
//! What it has granted is noted in this kernel's tables as well, which is how the kernel knows what to give back when the owner closes
//! the file or ends. Hence the order: locked at the origin first, unlocked there last.

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
    state::{FileId, Inode},
};
use crate::bindings;
use crate::net::{
    exchange::{self, call_or, Exchange, Once},
    peer::Peer,
};
use crate::proto::{
    limits::{LOCK_POLL_MAX_US, LOCK_POLL_MIN_US, UNLOCK_WAIT_US},
    wire::{flags, Header, Kind, Lock, LockKind, LOCK_BYTES},
};
use crate::wait::{Changes, Wait};

/// The kernel's request for the wire.
fn lock_of(raw: &bindings::vremote_lock) -> Lock {
    Lock {
        owner: raw.owner,
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
        ..lock_of(&raw)
    };
    let found = Lock::decode(&ask(&kept, &wanted)?).ok_or(EPROTO)?;
    raw.kind = found.kind as u8;
    (raw.start, raw.end, raw.pid) = (found.start, found.end, found.pid);
    // SAFETY: As above.
    unsafe { bindings::vremote_lock_report(request, &raw) };
    Ok(())
}

/// Sends a lock to the origin and waits for the answer. A grant that comes too late is given back.
fn ask(kept: &Opened, lock: &Lock) -> Result<KVVec<u8>> {
    let header = kept.usable()?.header(Kind::Lock);
    let undo = |peer: &Arc<Peer>, request: &Header, payload: &[u8], _: &Header| {
        if let Some(lock) = Lock::decode(payload).filter(|lock| !lock.test) {
            unlock(peer, FileId::of(request), &lock);
        }
    };
    Ok(call_or(&kept.peer, header, &lock.encode(), Some(undo))?.payload)
}

/// Locks or unlocks. What cannot be had is waited for, if the request says so: until it can be had or a signal comes.
///
/// # Errors
///
/// `EAGAIN`, `ERESTARTSYS`, and those of the origin and of the network: then nothing is locked.
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
    let wanted = lock_of(&raw);
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
        match ask(&kept, &wanted) {
            Ok(_) => {
                // SAFETY: By this function's contract.
                let noted = unsafe { bindings::vremote_lock_note(file, request) };
                return to_result(noted).inspect_err(|_| kept.unlock(&wanted));
            }
            Err(error) if error == EAGAIN => {}
            Err(error) => {
                if [ETIMEDOUT, ENOTCONN, EINTR].contains(&error) {
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
    header: Header,
    lock: [u8; LOCK_BYTES],
    #[pin]
    done: Changes,
}

impl Exchange for Unlocking {
    fn answer(&self, _peer: &Arc<Peer>, header: &Header, _payload: &[u8]) -> bool {
        self.done.happen();
        header.kind == Kind::Reply
    }

    fn send(&self, peer: &Arc<Peer>, retry: bool) -> Result {
        let mut header = self.header;
        header.flags |= if retry { flags::RETRY } else { 0 };
        peer.send(&header, &self.lock)
    }

    fn expired(&self, _error: Error) {
        self.done.happen();
    }
}

/// Unlocks at the origin, without waiting for it. Process context, may sleep for memory. `None`: without memory, or after the session;
/// then the lock is given back when the last descriptor of this node is closed.
fn unlock(peer: &Arc<Peer>, file: FileId, lock: &Lock) -> Option<Arc<Unlocking>> {
    let once = Once::try_begin(peer);
    let header = Header {
        request: exchange::next_request(),
        ..file.header(Kind::Lock)
    };
    let lock = Lock {
        kind: LockKind::Unlock,
        wait: false,
        ..*lock
    }
    .encode();
    let unlocking = Arc::pin_init(
        pin_init!(Unlocking { header, lock, done <- Changes::new() }),
        GFP_KERNEL,
    )
    .ok()?;
    let started = match once {
        Some(once) => exchange::start_once(once, header.request, unlocking.clone(), None),
        None => exchange::start(peer, header.request, unlocking.clone(), None),
    };
    started.ok().map(|()| unlocking)
}

impl Inode {
    /// Unlocks at the origin. Waits a moment for the answer, even in a task that was killed: it may be ending, and whoever asks next
    /// for the lock expects to get it. Process context.
    fn unlock(&self, lock: &Lock) {
        // A statement of its own: what follows must not run with the lock held.
        let file = self.state.lock().usable();
        if let Some(unlocking) = file.ok().and_then(|file| unlock(&self.peer, file, lock)) {
            let _ = unlocking.done.wait(0, UNLOCK_WAIT_US, Wait::Always);
        }
    }
}
