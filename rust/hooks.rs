// SPDX-License-Identifier: GPL-2.0

//! The functions that the patched kernel calls (`struct coherent_ops`); each forwards to `origin/` or `remote/`.
//!
//! The kernel calls them for opens with `O_REMOTE`, and for mappings that carry the coherent mark. It counts them, so that after
//! [`exit`] none runs any more.

use kernel::{
    error::to_result,
    ffi::{c_char, c_int, c_uint, c_ulong},
    prelude::*,
    str::{CStr, CStrExt},
};

use crate::bindings::{self, address_space, file, folio, inode, loff_t, umode_t};
use crate::origin;
use crate::proto::{directory::Want, limits::PAGE_BYTES};

/// `coherent_ops` has raw pointers; this one never changes.
#[repr(transparent)]
struct Ops(bindings::coherent_ops);

// SAFETY: Immutable, and its pointers are to functions and to this module, which outlive the registration.
unsafe impl Sync for Ops {}

static OPS: Ops = Ops(bindings::coherent_ops {
    owner: crate::pin::THIS_MODULE,
    open: Some(open),
    share: Some(share),
    unshare: Some(unshare),
    read_folio: Some(read_folio),
    readahead: Some(readahead),
    acquire: Some(acquire),
    exclusive: Some(exclusive),
    pull: Some(pull),
    resize_begin: Some(resize_begin),
    resize_end: Some(resize_end),
});

/// Registers the hooks.
///
/// # Errors
///
/// `EBUSY` if another module has registered.
pub(crate) fn init() -> Result {
    // SAFETY: The operations are static, and unregistered before the module goes.
    to_result(unsafe { bindings::coherent_register(&OPS.0) })
}

/// Unregisters the hooks and waits for those in progress. Before that takes home what remotes still have cached: without
/// hooks nothing keeps local programs from reading old pages.
pub(crate) fn exit() {
    origin::quiesce();
    // SAFETY: Registered by `init`.
    unsafe { bindings::coherent_unregister(&OPS.0) };
}

/// 0 or a negative errno.
fn status(result: Result) -> c_int {
    result.map_or_else(|error| error.to_errno(), |()| 0)
}

/// `open` with `O_REMOTE` and without `O_ORIGIN`.
///
/// # Safety
///
/// Called by the kernel only, with valid arguments as `struct coherent_ops` documents them.
unsafe extern "C" fn open(
    dfd: c_int,
    path: *const c_char,
    flags: c_int,
    mode: umode_t,
) -> *mut file {
    // SAFETY: The kernel gives a C string that lives during the call.
    let path = unsafe { CStr::from_char_ptr(path) };
    crate::remote::open(dfd, path, flags, mode)
}

/// A local file was opened with `O_REMOTE | O_ORIGIN`.
///
/// # Safety
///
/// Called by the kernel only, with valid arguments as `struct coherent_ops` documents them.
unsafe extern "C" fn share(file: *mut file) -> c_int {
    // SAFETY: The kernel gives an open file.
    let result = unsafe { origin::share(file) };
    if let Err(error) = result {
        if crate::net::may_log() {
            pr_info!("refused to share a file: {:?}\n", error);
        }
    }
    status(result)
}

/// The last reference to a file for which [`share`] succeeded is gone.
///
/// # Safety
///
/// Called by the kernel only, with valid arguments as `struct coherent_ops` documents them.
unsafe extern "C" fn unshare(file: *mut file) {
    // SAFETY: The kernel gives a file that is about to be freed, for which `share` succeeded.
    unsafe { origin::unshare(file) };
}

/// A locked folio that is not uptodate is about to be filled from disk.
///
/// # Safety
///
/// Called by the kernel only, with valid arguments as `struct coherent_ops` documents them.
unsafe extern "C" fn read_folio(folio: *mut folio) -> c_int {
    // SAFETY: The folio is locked, so its mapping and index stay.
    let (mapping, index) = unsafe {
        (
            bindings::vremote_folio_mapping(folio),
            bindings::vremote_folio_index(folio),
        )
    };
    let Some(share) = origin::by_mapping(mapping) else {
        return 0;
    };
    if share.look(index as u64, Want::Read) {
        return 0;
    }
    // SAFETY: The lock is ours to release when we do not return 0.
    unsafe { bindings::folio_unlock(folio) };
    match share.acquire(index as u64, Want::Read) {
        Ok(()) => bindings::positive_aop_returns_AOP_TRUNCATED_PAGE as c_int,
        Err(error) => error.to_errno(),
    }
}

/// Locked folios are in the cache and about to be filled from disk.
///
/// # Safety
///
/// Called by the kernel only, with valid arguments as `struct coherent_ops` documents them.
unsafe extern "C" fn readahead(mapping: *mut address_space, index: c_ulong, count: c_uint) -> bool {
    let Some(share) = origin::by_mapping(mapping) else {
        return true;
    };
    (0..u64::from(count)).all(|at| share.at_home(index as u64 + at, Want::Read))
}

/// A page is about to be written here.
///
/// # Safety
///
/// Called by the kernel only, with valid arguments as `struct coherent_ops` documents them.
unsafe extern "C" fn acquire(mapping: *mut address_space, index: c_ulong, nowait: bool) -> c_int {
    let Some(share) = origin::by_mapping(mapping) else {
        return 0;
    };
    if nowait && !share.at_home(index as u64, Want::Write) {
        return EAGAIN.to_errno();
    }
    status(share.acquire(index as u64, Want::Write))
}

/// Whether the page of a locked folio still may be written here.
///
/// # Safety
///
/// Called by the kernel only, with valid arguments as `struct coherent_ops` documents them.
unsafe extern "C" fn exclusive(folio: *mut folio) -> bool {
    // SAFETY: The folio is locked, so its mapping and index stay.
    let (mapping, index) = unsafe {
        (
            bindings::vremote_folio_mapping(folio),
            bindings::vremote_folio_index(folio),
        )
    };
    origin::by_mapping(mapping).is_none_or(|share| share.look(index as u64, Want::Write))
}

/// First and last page of a byte range.
fn pages(start: loff_t, end: loff_t) -> (u64, u64) {
    (
        start as u64 / PAGE_BYTES as u64,
        end as u64 / PAGE_BYTES as u64,
    )
}

/// A range is about to be read past the hooks, or synced.
///
/// # Safety
///
/// Called by the kernel only, with valid arguments as `struct coherent_ops` documents them.
unsafe extern "C" fn pull(mapping: *mut address_space, start: loff_t, end: loff_t) -> c_int {
    let Some(share) = origin::by_mapping(mapping) else {
        return 0;
    };
    let (first, last) = pages(start, end);
    status(share.pull(first, last))
}

/// A range is about to be truncated, zeroed or moved.
///
/// # Safety
///
/// Called by the kernel only, with valid arguments as `struct coherent_ops` documents them.
unsafe extern "C" fn resize_begin(inode: *mut inode, start: loff_t, end: loff_t) -> c_int {
    // SAFETY: The kernel gives a referenced inode.
    let mapping = unsafe { bindings::vremote_origin_inode_mapping(inode) };
    let Some(share) = origin::by_mapping(mapping) else {
        return 0;
    };
    let (first, last) = pages(start, end);
    status(share.freeze(first, last))
}

/// The end of [`resize_begin`].
///
/// # Safety
///
/// Called by the kernel only, with valid arguments as `struct coherent_ops` documents them.
unsafe extern "C" fn resize_end(inode: *mut inode, start: loff_t, end: loff_t) {
    // SAFETY: The kernel gives a referenced inode.
    let mapping = unsafe { bindings::vremote_origin_inode_mapping(inode) };
    if let Some(share) = origin::by_mapping(mapping) {
        let (first, last) = pages(start, end);
        share.thaw(first, last);
    }
}
