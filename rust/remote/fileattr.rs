// SPDX-License-Identifier: GPL-2.0

//! Flags of remote files and directories, as lsattr(1) shows and chattr(1) sets them: each call asks the origin, which decides. Nothing is
//! kept here, so the kernel's own checks of this node know of no file that is immutable or for appending only; the origin's hold.
//!
//! Of an open file they are reached whatever its name has become, like mode and owner; of an open directory by its present path.

use kernel::{
    bindings::{dentry, file_kattr, mnt_idmap},
    ffi::c_int,
    prelude::*,
};

use super::{errno, namespace::ask_about};
use crate::bindings;
use crate::net::exchange::Answer;
use crate::proto::wire::{file_attr, FileAttr, Kind};

/// As [`ask_about`], of files and directories.
///
/// # Errors
///
/// `ENOIOCTLCMD`: of other things ioctl(2) asks whom they belong to. Those of [`ask_about`].
///
/// # Safety
///
/// `dentry` is one of ours, referenced, and has an inode.
unsafe fn request(dentry: *mut dentry, kind: Kind, size: u64, second: &[u8]) -> Result<Answer> {
    // SAFETY: By this function's contract.
    let (inode, mode) = unsafe { ((*dentry).d_inode, u32::from((*(*dentry).d_inode).i_mode)) };
    if !matches!(
        mode & bindings::S_IFMT,
        bindings::S_IFREG | bindings::S_IFDIR
    ) {
        return Err(ENOIOCTLCMD);
    }
    // SAFETY: As above.
    unsafe { ask_about(dentry, inode, kind, size, second) }
}

/// `fileattr_get`.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn get(dentry: *mut dentry, to: *mut file_kattr) -> c_int {
    // SAFETY: By this function's contract.
    let answer = unsafe { request(dentry, Kind::GetFileAttr, 0, &[]) };
    errno(answer.and_then(|answer| {
        let found = FileAttr::decode(&answer.payload).ok_or(EPROTO)?;
        let raw = bindings::vremote_fileattr {
            flags: found.flags,
            xflags: found.xflags,
            extent_bytes: found.extent_bytes,
            extents: found.extents,
            project: found.project,
            cow_extent_bytes: found.cow_extent_bytes,
        };
        // SAFETY: The kernel wants it filled.
        unsafe { bindings::vremote_fill_fileattr(to, &raw) };
        Ok(())
    }))
}

/// `fileattr_set`. The kernel has looked whether the caller may, as far as this node knows; the inode's i_rwsem is held.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn set(
    _idmap: *mut mnt_idmap,
    dentry: *mut dentry,
    wanted: *mut file_kattr,
) -> c_int {
    let mut raw = bindings::vremote_fileattr::default();
    // SAFETY: The kernel gives us what it wants set.
    let fields = if unsafe { bindings::vremote_wanted_fileattr(wanted, &mut raw) } {
        file_attr::FLAGS
    } else {
        file_attr::XFLAGS
    };
    let attr = FileAttr {
        flags: raw.flags,
        xflags: raw.xflags,
        extent_bytes: raw.extent_bytes,
        extents: raw.extents,
        project: raw.project,
        cow_extent_bytes: raw.cow_extent_bytes,
    };
    // SAFETY: By this function's contract.
    errno(unsafe { request(dentry, Kind::SetFileAttr, fields, &attr.encode()) }.map(|_| ()))
}
