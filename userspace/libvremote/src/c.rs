// SPDX-License-Identifier: MIT

//! The interface for C: `include/vremote.h` is made from this file.

use std::{
    ffi::{c_char, c_int, CStr},
    io,
    net::Ipv4Addr,
};

use libc::pid_t;

use crate::fork::{self, Who};

/// vremote_available(): a stock kernel. It ignores O_REMOTE and O_ORIGIN, and opens, or truncates, the local file: do not use them.
pub const VREMOTE_STOCK_KERNEL: c_int = 0;

/// vremote_available(): the kernel knows the flags, but the module vremote is not loaded: open() with them fails with EOPNOTSUPP.
pub const VREMOTE_NO_MODULE: c_int = 1;

/// vremote_available(): O_REMOTE and O_ORIGIN work.
pub const VREMOTE_AVAILABLE: c_int = 2;

/// Whether O_REMOTE and O_ORIGIN can be used: one of the three values above. Never fails; asks no other node, and leaves errno alone.
#[no_mangle]
pub extern "C" fn vremote_available() -> c_int {
    crate::available() as c_int
}

/// Like fork(), but the child runs on the node at the IPv4 address `ip`: there it gets 0; the caller gets its number, which is what
/// getpid() says in the child. Both then run at the same time. Its open files and its program follow page by page.
///
/// The child is the leader of a session of its own; its standard input, output and error are /dev/null if they were a terminal, a pipe or a
/// socket. Other pipes and sockets must not be open, and its working directory must be on the other node, too, or be shared. It is no child
/// for wait(): use vremote_wait(). It cannot be moved on by vremote-migrate.
///
/// Returns -1 and sets errno, and then there is no child:
///
/// EINVAL: `ip` is no IPv4 address. EHOSTDOWN: vremoted does not run on this node. EHOSTUNREACH: no peer has that address, or it cannot be
/// reached. EACCES: the two nodes have no common key. EBUSY: the program has something that cannot be moved, such as a socket. EAGAIN,
/// ENOMEM: no process can be made. EMFILE, ENFILE: no descriptor. EPERM: the daemon refuses it. EPROTO: library and daemon are of different
/// releases. EIO: anything else; if the other node was lost in the moment in which the child was to begin there, it may have begun, and is
/// killed when that node is back. The log of vremoted says the reason in words.
///
/// # Safety
///
/// `ip` is NULL or a string. For what a child of a program with several threads may do, see fork(2).
#[no_mangle]
pub unsafe extern "C" fn vremote_fork(ip: *const c_char) -> pid_t {
    // SAFETY: the caller's promise.
    let forked = unsafe { address(ip) }.and_then(fork::fork);
    result(forked.map(|who| match who {
        Who::Child => 0,
        Who::Parent(child) => child,
    }))
}

/// The old name of vremote_fork().
///
/// # Safety
///
/// As vremote_fork().
#[no_mangle]
pub unsafe extern "C" fn myfork(ip: *const c_char) -> pid_t {
    // SAFETY: the caller's promise.
    unsafe { vremote_fork(ip) }
}

/// Like waitpid() for a child of vremote_fork(): waits for its end and stores its status, for WIFEXITED() and so on, unless `status` is
/// NULL. `options`: 0, or WNOHANG not to wait. Returns `child`; 0 with WNOHANG if the child has not ended.
///
/// Returns -1 and sets errno: ECHILD: no such child of this process, or it was waited for before. EINVAL: unknown options. EINTR: a
/// signal handler ran. EHOSTUNREACH: the child's node has not answered for 60 s: the child may run on, and can be waited for again; or that
/// node does not know the child any more: it is lost, and waiting again is ECHILD. EHOSTDOWN: vremoted does not run on this node.
///
/// vremoted keeps children in its memory. If that of this node ends during the wait, it is EHOSTDOWN; once it has been started anew, ECHILD: the
/// child may run on, but how it ends cannot be learnt any more. If that of the child's node is started anew, the child may run on as well, but is
/// not known there: EHOSTUNREACH once, and then ECHILD.
///
/// # Safety
///
/// `status` is NULL or can be written.
#[no_mangle]
pub unsafe extern "C" fn vremote_wait(child: pid_t, status: *mut c_int, options: c_int) -> pid_t {
    let waited = match options {
        0 => fork::wait(child, true),
        libc::WNOHANG => fork::wait(child, false),
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    };
    result(waited.map(|ended| match ended {
        None => 0,
        Some(value) => {
            if !status.is_null() {
                // SAFETY: the caller's promise.
                unsafe { status.write(value) };
            }
            child
        }
    }))
}

/// Like kill() for a child of vremote_fork(). Returns 0, or -1 and sets errno: ESRCH: no such child of this process, or it has ended.
/// EINVAL: no such signal, or one for real time. EHOSTUNREACH: its node cannot be reached. EHOSTDOWN: vremoted does not run on this node.
#[no_mangle]
pub extern "C" fn vremote_kill(child: pid_t, signal: c_int) -> c_int {
    result(fork::kill(child, signal).map(|()| 0))
}

/// # Safety
///
/// `ip` is NULL or a string.
unsafe fn address(ip: *const c_char) -> io::Result<Ipv4Addr> {
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    if ip.is_null() {
        return Err(invalid());
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(ip) };
    text.to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(invalid)
}

/// The C way to return.
fn result(value: io::Result<c_int>) -> c_int {
    value.unwrap_or_else(|error| {
        // SAFETY: the place of this thread's errno.
        unsafe { *libc::__errno_location() = error.raw_os_error().unwrap_or(libc::EIO) };
        -1
    })
}
