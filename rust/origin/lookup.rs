// SPDX-License-Identifier: GPL-2.0

//! From a name below an export to what has it: the one look-up for all that remotes ask for by name, with the rights of the remote user.
//!
//! It is that of openat2(2) with `RESOLVE_BENEATH`: neither `..` nor a symlink nor a link of procfs leads out of the export, nor does a
//! directory that is moved meanwhile. What was found lay below the export at a moment of the look-up, whatever becomes of it after that.
//!
//! No name is followed twice. What was found ([`Object`]) is itself opened, read or changed. What is to be made, removed or renamed is a
//! [`Name`] in a directory that was found, and is no path any more.

use kernel::{
    error::{from_err_ptr, to_result},
    prelude::*,
};

use super::{
    export::{c_string, CName, Export},
    share::{File, Share},
};
use crate::bindings;
use crate::proto::{
    limits::{LOOKUP_TRIES, MAX_PATH},
    wire::{Attributes, Time},
};

/// Something of this node: a mount and a dentry, counted.
pub(super) struct Object(bindings::path);

// SAFETY: The path is counted and immutable; paths may be used and put on any task.
unsafe impl Send for Object {}
// SAFETY: As above.
unsafe impl Sync for Object {}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: The references are ours by the type's construction.
        unsafe { bindings::path_put(&self.0) };
    }
}

/// A name in a directory: of something, or of nothing yet. It is one component, and not followed if it is that of a symlink.
pub(super) struct Name {
    pub(super) directory: Object,
    pub(super) last: CName,
}

impl Export {
    /// What has this path (normalised, relative; empty: the root). The last name is not followed. Sleeps; the caller acts as the remote
    /// user.
    ///
    /// # Errors
    ///
    /// `ELOOP`: it leads out, or in a circle. `EAGAIN`: directories of this node are moved all the time. `EACCES`, `ENAMETOOLONG`,
    /// `ENOENT`, `ENOMEM`, `ENOTDIR`, and those of the file system.
    pub(super) fn look_up(&self, path: &[u8]) -> Result<Object> {
        find(&self.root, &c_string(path)?, false)
    }

    /// As [`Export::look_up`], but a symlink at the end is followed.
    pub(super) fn follow(&self, path: &[u8]) -> Result<Object> {
        find(&self.root, &c_string(path)?, true)
    }

    /// The last name of a path, in its directory.
    ///
    /// # Errors
    ///
    /// `EBUSY`: the path is that of the root, which has no name here. Those of [`Export::look_up`], of the directory.
    pub(super) fn name(&self, path: &[u8]) -> Result<Name> {
        // With its slash: then it is a directory, also by a symlink.
        let (directory, last) = path.split_at(last_component(path));
        if last.is_empty() {
            return Err(EBUSY);
        }
        Ok(Name {
            directory: self.look_up(directory)?,
            last: c_string(last)?,
        })
    }
}

/// Where the last component of a path begins.
pub(super) fn last_component(path: &[u8]) -> usize {
    path.iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |slash| slash + 1)
}

/// The look-up, from `root` on.
fn find(root: &Object, path: &CName, follow: bool) -> Result<Object> {
    let mut found = bindings::path::default();
    let mut tries = 0;
    loop {
        // SAFETY: The root is counted, the path ends with NUL, `found` is ours; we may sleep.
        let error = match to_result(unsafe {
            bindings::vremote_origin_lookup(&root.0, path.as_char_ptr(), follow, &mut found)
        }) {
            Ok(()) => return Ok(Object(found)),
            Err(error) => error,
        };
        // The kernel cannot tell where it is because something was moved; or it is outside, which may be for the same reason.
        let moved = error == EAGAIN || error == EXDEV;
        tries += 1;
        if !moved || tries == LOOKUP_TRIES {
            return Err(if error == EXDEV { ELOOP } else { error });
        }
    }
}

impl Object {
    /// Takes over the references of a path.
    ///
    /// # Safety
    ///
    /// They must be the caller's to give.
    pub(super) unsafe fn from_counted(path: bindings::path) -> Object {
        Object(path)
    }

    /// A shared file.
    pub(super) fn of(share: &Share) -> Object {
        let mut path = bindings::path::default();
        // SAFETY: The file is open, `path` is ours.
        unsafe { bindings::vremote_origin_path_of_file(share.file.as_ptr(), &mut path) };
        Object(path)
    }

    /// The kernel's pointer; valid while `self` lives.
    pub(super) fn as_ptr(&self) -> *const bindings::path {
        &self.0
    }

    /// Whether this is the shared file, by whatever name.
    pub(super) fn is(&self, share: &Share) -> bool {
        // SAFETY: The path is counted, the file is open.
        unsafe { bindings::vremote_origin_is_of(&self.0, share.file.as_ptr()) }
    }

    /// Its attributes: of a symlink those of the symlink.
    ///
    /// # Errors
    ///
    /// Those of the file system.
    pub(super) fn attributes(&self) -> Result<Attributes> {
        let mut stat = bindings::kstat::default();
        let mut generation = 0;
        // SAFETY: The path is counted, `stat` and `generation` are ours; we may sleep.
        to_result(unsafe { bindings::vremote_origin_stat(&self.0, &mut stat, &mut generation) })?;
        let time = |t: &bindings::timespec64| Time {
            seconds: t.tv_sec,
            nanoseconds: t.tv_nsec as u32,
        };
        Ok(Attributes {
            ino: stat.ino,
            generation: u64::from(generation),
            device: u64::from(stat.dev),
            size: stat.size as u64,
            blocks: stat.blocks,
            mode: u32::from(stat.mode),
            nlink: stat.nlink,
            uid: stat.uid.val,
            gid: stat.gid.val,
            atime: time(&stat.atime),
            mtime: time(&stat.mtime),
            ctime: time(&stat.ctime),
        })
    }

    /// `EACCES` if the caller has not all of these rights (bits of access(2)).
    pub(super) fn check(&self, rights: u32) -> Result {
        // SAFETY: The path is counted; we may sleep.
        to_result(unsafe { bindings::vremote_origin_may(&self.0, rights as c_int) })
    }

    /// Its present absolute path.
    ///
    /// # Errors
    ///
    /// `ENAMETOOLONG`, `ENOMEM`; `ESRCH` in a task that is ending.
    pub(super) fn path(&self) -> Result<KVec<u8>> {
        let mut buffer = KVec::<u8>::zeroed(MAX_PATH + 1, GFP_KERNEL)?;
        // SAFETY: The path is counted, the buffer is ours and has so many bytes.
        let start = unsafe {
            bindings::vremote_origin_path_text(
                &self.0,
                buffer.as_mut_ptr().cast(),
                buffer.len() as c_int,
            )
        };
        let start = from_err_ptr(start)? as usize - buffer.as_ptr() as usize;
        let end = buffer[start..]
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(EIO)?;
        buffer.copy_within(start..start + end, 0);
        buffer.truncate(end);
        Ok(buffer)
    }

    /// Opens it as open(2) does, with all checks; with `O_TRUNC` it is empty then. `O_CREAT` is for [`Name::create`].
    pub(super) fn open(&self, flags: u32) -> Result<File> {
        // SAFETY: The path is counted; we may sleep. The reference returned is ours.
        unsafe { File::from_ret(bindings::vremote_origin_open(&self.0, flags as c_int)) }
    }

    /// Opens a program, if the caller may run it.
    pub(super) fn open_to_run(&self) -> Result<File> {
        // SAFETY: As above.
        unsafe { File::from_ret(bindings::vremote_origin_open_to_run(&self.0)) }
    }
}

impl Name {
    /// What has it now.
    pub(super) fn look_up(&self) -> Result<Object> {
        find(&self.directory, &self.last, false)
    }

    /// Its absolute path.
    ///
    /// # Errors
    ///
    /// Those of [`Object::path`].
    pub(super) fn path(&self) -> Result<KVec<u8>> {
        let mut path = self.directory.path()?;
        if path[..] != *b"/" {
            path.push(b'/', GFP_KERNEL)?;
        }
        path.extend_from_slice(self.last.as_bytes(), GFP_KERNEL)?;
        if path.len() > MAX_PATH {
            return Err(ENAMETOOLONG);
        }
        Ok(path)
    }

    /// open(2) with `O_CREAT`; a new file gets the mode as it is.
    pub(super) fn create(&self, flags: u32, mode: u16) -> Result<File> {
        // SAFETY: The directory is counted, the name ends with NUL; we may sleep. The reference returned is ours.
        unsafe {
            File::from_ret(bindings::vremote_origin_create(
                self.directory.as_ptr(),
                self.last.as_char_ptr(),
                flags as c_int,
                mode,
            ))
        }
    }
}
