// SPDX-License-Identifier: GPL-2.0

//! Files of other nodes, used here: a file system of its own, whose superblock shows one directory for each peer.
//!
//! | file | what it is |
//! |---|---|
//! | [`fs`] | superblock, the root directory with the nodes |
//! | [`inode`] | names and attributes: each lookup asks the origin |
//! | [`namespace`] | directories: listing and changing them |
//! | [`device`] | device numbers of other nodes' files |
//! | [`state`] | what is kept for an inode |
//! | [`file`] | descriptors: open, read, write, fsync, close |
//! | [`lock`] | locks by fcntl(2) and flock(2) |
//! | [`xattr`] | extended attributes |
//! | [`map`] | mappings of processes |
//! | [`pages`] | pages: asking for them, getting them |
//! | [`recall`] | giving pages up when the origin says so |
//! | [`writeback`] | dirty pages on their way home |
//! | [`resolve`] | opens with `O_REMOTE` by any path |
//!
//! Order of locks, outermost first: i_rwsem of a directory, of a file; folio lock; [`state::Inode::state`]; the table in
//! [`state`]. The receive thread takes a folio lock only if nobody holds it, and no i_rwsem.

mod device;
pub(crate) mod file;
mod fileattr;
pub(crate) mod fs;
pub(crate) mod inode;
mod lock;
mod map;
mod namespace;
pub(crate) mod pages;
mod recall;
pub(crate) mod resolve;
pub(crate) mod state;
pub(crate) mod writeback;
mod xattr;

use core::fmt::Write;

use kernel::{bindings, prelude::*, sync::Arc};

use crate::net::peer::Peer;
use crate::proto::wire::{Header, Kind};
pub(crate) use resolve::open;

/// Registers the file system. Called once, at load, before the receive thread exists. Process context.
///
/// # Errors
///
/// `ENOMEM`; `EBUSY` if a file system of this name is there already.
pub(crate) fn init() -> Result {
    device::init();
    state::init()?;
    resolve::init();
    fs::register().inspect_err(|_| state::exit())
}

/// The reverse of [`init`]. Nothing is mounted or open any more: both keep the module loaded. Process context, sleeps.
pub(crate) fn exit() {
    fs::unregister();
    resolve::exit();
    state::exit();
    device::exit();
}

/// Takes an `Invalidate`, a `Recall` or an `Unlocked` of `peer`. Receive thread: does not block.
pub(crate) fn receive(peer: &Arc<Peer>, header: &Header, _payload: &[u8]) {
    if header.kind == Kind::Unlocked {
        if let Some(inode) = state::by_file(peer.slot, header.file) {
            inode.unlocked.happen();
        }
        return;
    }
    if !matches!(header.kind, Kind::Invalidate | Kind::Recall) {
        return;
    }
    match state::by_file(peer.slot, header.file) {
        Some(inode) => inode.receive(header),
        // Nothing is kept for this file, so no copy of the page is here.
        None => recall::acknowledge(peer, header),
    }
}

/// The session with `peer` is over, and with it all grants: every copy is dropped, unwritten bytes are lost and reported. Process
/// context, sleeps; all exchanges with the peer have ended before.
pub(crate) fn peer_gone(peer: &Arc<Peer>) {
    state::abandon(peer);
}

/// The lease that `peer` had granted has run out: ends what programs can see without asking, as far as there is memory for that. Any context
/// that may spin.
pub(crate) fn lapse(peer: &Arc<Peer>) {
    state::lapse(peer);
}

/// Writes the remote files that are known here as a JSON array. Process context.
pub(crate) fn status(out: &mut dyn Write) -> core::fmt::Result {
    state::status(out)
}

/// A callback's result as the kernel wants it: 0 or a negative errno.
pub(crate) fn errno(result: Result) -> kernel::ffi::c_int {
    match result {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// An address of the kernel as a reference-counted inode; dropping it may sleep.
///
/// # Invariants
///
/// The pointer is valid and one count of its references is ours.
pub(crate) struct InodeRef(*mut bindings::inode);

impl InodeRef {
    /// Takes over a reference.
    ///
    /// # Safety
    ///
    /// `inode` is valid, and one of its references is the caller's to give away.
    pub(crate) unsafe fn from_raw(inode: *mut bindings::inode) -> InodeRef {
        InodeRef(inode)
    }

    /// The kernel's pointer; valid while `self` lives.
    pub(crate) fn as_ptr(&self) -> *mut bindings::inode {
        self.0
    }

    /// Gives the reference to somebody else.
    pub(crate) fn into_raw(self) -> *mut bindings::inode {
        core::mem::ManuallyDrop::new(self).0
    }
}

impl Drop for InodeRef {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type's invariant.
        unsafe { bindings::iput(self.0) };
    }
}
