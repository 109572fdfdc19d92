// SPDX-License-Identifier: GPL-2.0

//! Extended attributes of remote files and directories: those of users (`user.`), each call one request to the origin. Nothing is kept
//! here. All others are `EOPNOTSUPP` without asking: they would be taken for rights on this node.
//!
//! As with its mode and owner, a file that this node has open is meant whatever its path has become. All else is meant by its present path:
//! `ESTALE` if another one has that by now.

use core::ffi::c_void;

use kernel::{
    bindings::{dentry, inode, mnt_idmap, xattr_handler},
    ffi::{c_char, c_int},
    prelude::*,
};

use super::{
    fs::Operations,
    namespace::{ask_about, bytes_of},
};
use crate::bindings;
use crate::proto::{
    limits::MAX_XATTR,
    wire::{xattr as bits, Kind, Xattr},
};

static USER: Operations<xattr_handler> = Operations(xattr_handler {
    prefix: bindings::XATTR_USER_PREFIX.as_ptr().cast(),
    get: Some(get),
    set: Some(set),
    ..pin_init::zeroed()
});

/// The handlers of the superblock, and a null.
pub(super) static HANDLERS: Operations<[*const xattr_handler; 2]> =
    Operations([USER.get(), core::ptr::null()]);

/// An attribute as it goes behind the path. `suffix`: the name without its prefix, as handlers get it.
///
/// # Safety
///
/// For handlers only: `suffix` is behind the prefix of a whole name.
unsafe fn encoded(
    handler: *const xattr_handler,
    suffix: *const c_char,
    value: &[u8],
) -> Result<KVVec<u8>> {
    // SAFETY: By this function's contract.
    let name = unsafe { bytes_of(bindings::xattr_full_name(handler, suffix)) };
    let head = Xattr { name, value }.head().ok_or(ERANGE)?;
    let mut bytes = KVVec::with_capacity(head.len() + name.len() + value.len(), GFP_KERNEL)?;
    for part in [&head, name, value] {
        bytes.extend_from_slice(part, GFP_KERNEL)?;
    }
    Ok(bytes)
}

/// Gives the caller bytes, of which it has room for so many. `EPROTO`: these are more than it may ever get.
///
/// # Safety
///
/// `buffer` has room for `room` bytes, or is null.
unsafe fn hand_over(bytes: &[u8], buffer: *mut c_void, room: usize) -> Result<usize> {
    if bytes.len() > MAX_XATTR {
        return Err(EPROTO);
    }
    if room != 0 && !buffer.is_null() {
        if bytes.len() > room {
            return Err(ERANGE);
        }
        // SAFETY: By this function's contract, and the ranges cannot overlap: these bytes are ours.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast(), bytes.len()) };
    }
    Ok(bytes.len())
}

/// `get` of a handler.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn get(
    handler: *const xattr_handler,
    dentry: *mut dentry,
    inode: *mut inode,
    suffix: *const c_char,
    buffer: *mut c_void,
    room: usize,
) -> c_int {
    let get = || {
        let size = if buffer.is_null() { 0 } else { room as u64 };
        // SAFETY: By this function's contract.
        let answer = unsafe {
            let name = encoded(handler, suffix, &[])?;
            ask_about(dentry, inode, Kind::GetXattr, size, &name)?
        };
        if size == 0 {
            let bytes = answer.header.count as usize;
            return if bytes <= MAX_XATTR {
                Ok(bytes)
            } else {
                Err(EPROTO)
            };
        }
        // SAFETY: By this function's contract.
        unsafe { hand_over(&answer.payload, buffer, room) }
    };
    get().map_or_else(|error: Error| error.to_errno(), |bytes| bytes as c_int)
}

/// `set` of a handler; without a value it removes.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn set(
    handler: *const xattr_handler,
    _idmap: *mut mnt_idmap,
    dentry: *mut dentry,
    inode: *mut inode,
    suffix: *const c_char,
    value: *const c_void,
    bytes: usize,
    flags: c_int,
) -> c_int {
    let (value, flags) = if value.is_null() {
        (&[][..], bits::REMOVE)
    } else {
        // SAFETY: By this function's contract the value has so many bytes.
        let value = unsafe { core::slice::from_raw_parts(value.cast::<u8>(), bytes) };
        (value, flags as u64 & (bits::CREATE | bits::REPLACE))
    };
    // SAFETY: By this function's contract.
    let set = unsafe {
        encoded(handler, suffix, value)
            .and_then(|xattr| ask_about(dentry, inode, Kind::SetXattr, flags, &xattr))
    };
    super::errno(set.map(|_| ()))
}

/// `listxattr`.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn list(
    dentry: *mut dentry,
    buffer: *mut c_char,
    room: usize,
) -> isize {
    // SAFETY: By this function's contract the dentry is one of ours and has an inode.
    let answer = unsafe { ask_about(dentry, (*dentry).d_inode, Kind::ListXattr, 0, &[]) };
    let listed = answer.and_then(|answer| {
        // SAFETY: By this function's contract.
        unsafe { hand_over(&answer.payload, buffer.cast(), room) }
    });
    listed.map_or_else(|error| error.to_errno() as isize, |bytes| bytes as isize)
}
