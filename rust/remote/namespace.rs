// SPDX-License-Identifier: GPL-2.0

//! Directories below `/vremote/<node>/`: listing and changing them. Each call is one request to the origin, which decides as for a
//! program of its own; afterwards the kernel's names here are brought in line.

use kernel::{
    bindings::{
        delayed_call, dentry, dev_t, dir_context, file, iattr, inode, loff_t, mnt_idmap, umode_t,
    },
    ffi::{c_char, c_int, c_uint},
    prelude::*,
    sync::Arc,
};

use super::{
    errno,
    inode::{credentials_and, place, Path},
    state::Inode,
};
use crate::bindings;
use crate::net::{
    exchange::{call, Answer},
    peer::Peer,
};
use crate::proto::wire::{change, flags, Attributes, Change, Entry, Header, Kind, Space, Time};

/// Sends a request with credentials, a path and what the kind has behind it. Sleeps.
pub(super) fn ask(peer: &Arc<Peer>, header: Header, first: &[u8], second: &[u8]) -> Result<Answer> {
    // The value of an extended attribute is too long to be asked for in one piece of memory.
    let mut payload = KVVec::new();
    payload.extend_from_slice(&credentials_and(first)?, GFP_KERNEL)?;
    payload.extend_from_slice(second, GFP_KERNEL)?;
    let header = Header {
        count: first.len() as u32,
        ..header
    };
    call(peer, header, &payload)
}

/// What is kept for a directory, and the path of a name in it.
///
/// # Safety
///
/// `directory` is one of our directories and valid for `'a`, `dentry` a name in it, referenced.
pub(super) unsafe fn of<'a>(
    directory: *mut inode,
    dentry: *mut dentry,
) -> Result<(&'a Inode, Path)> {
    // SAFETY: By this function's contract.
    unsafe { Ok((Inode::of(directory).ok_or(EPERM)?, Path::of(dentry)?)) }
}

/// Sends a request about what a dentry names, or about the file that it named when that is open. What a change has made of it is noted here.
/// Sleeps.
///
/// # Errors
///
/// `EOPNOTSUPP`: it is the root of all nodes, or this node's own name. `ESTALE`: another file has the name by now. Those of the origin, and
/// of the network.
///
/// # Safety
///
/// `inode` is that of `dentry`, which is one of ours and referenced.
pub(super) unsafe fn ask_about(
    dentry: *mut dentry,
    inode: *mut inode,
    kind: Kind,
    size: u64,
    second: &[u8],
) -> Result<Answer> {
    // SAFETY: By this function's contract.
    if unsafe { Inode::of(inode) }.is_none() {
        // There is nobody to ask.
        return Err(EOPNOTSUPP);
    }
    // SAFETY: As above.
    let (kept, path) = unsafe { of(inode, dentry) }?;
    let header = Header {
        file: kept.open_id(),
        index: kept.identity.map_or(0, |identity| identity.ino),
        size,
        ..Header::new(kind)
    };
    let answer = ask(&kept.peer, header, path.at_node()?, second)?;
    if kind.changes() {
        let attributes = Attributes::decode(&answer.payload).ok_or(EPROTO)?;
        kept.learn(&answer.header, &attributes);
    }
    Ok(answer)
}

/// Asks for a new name, and makes the dentry that of what the origin then has there. Gives another dentry if there is one already.
///
/// # Safety
///
/// As `of`; `dentry` has no inode.
unsafe fn add(
    directory: *mut inode,
    dentry: *mut dentry,
    request: impl FnOnce(&Inode, &[u8]) -> Result<Answer>,
) -> Result<*mut dentry> {
    // SAFETY: By this function's contract.
    let (kept, path) = unsafe { of(directory, dentry) }?;
    let answer = request(kept, path.at_node()?)?;
    let attributes = Attributes::decode(&answer.payload).ok_or(EPROTO)?;
    // SAFETY: As above.
    unsafe { place(directory, dentry, &kept.peer, &answer.header, &attributes) }
}

/// The bytes of a string of the kernel's.
///
/// # Safety
///
/// `string` ends with NUL and stays as it is for `'a`.
pub(super) unsafe fn bytes_of<'a>(string: *const c_char) -> &'a [u8] {
    // SAFETY: By this function's contract.
    unsafe { CStr::from_char_ptr(string) }.to_bytes()
}

/// `mkdir`.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn mkdir(
    _idmap: *mut mnt_idmap,
    directory: *mut inode,
    dentry: *mut dentry,
    mode: umode_t,
) -> *mut dentry {
    let request = |kept: &Inode, path: &[u8]| {
        let header = Header {
            index: u64::from(u32::from(mode) & 0o7777 | bindings::S_IFDIR),
            ..Header::new(Kind::Make)
        };
        ask(&kept.peer, header, path, &[])
    };
    // SAFETY: By this function's contract.
    unsafe { add(directory, dentry, request) }.unwrap_or_else(|error| error.to_ptr())
}

/// `mknod`: FIFOs and sockets. Devices are their own node's: `EPERM`.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn mknod(
    _idmap: *mut mnt_idmap,
    directory: *mut inode,
    dentry: *mut dentry,
    mode: umode_t,
    _device: dev_t,
) -> c_int {
    let kind = u32::from(mode) & bindings::S_IFMT;
    if kind != bindings::S_IFIFO && kind != bindings::S_IFSOCK {
        return EPERM.to_errno();
    }
    // SAFETY: By this function's contract.
    errno(unsafe { add_empty(directory, dentry, mode) })
}

/// `create`: a file by mknod(2), which does not open it.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn create(
    _idmap: *mut mnt_idmap,
    directory: *mut inode,
    dentry: *mut dentry,
    mode: umode_t,
) -> c_int {
    // SAFETY: By this function's contract.
    errno(unsafe { add_empty(directory, dentry, mode) })
}

/// Asks for a new name of what its mode, type included, says all about.
///
/// # Safety
///
/// As `add`.
unsafe fn add_empty(directory: *mut inode, dentry: *mut dentry, mode: umode_t) -> Result {
    let request = |kept: &Inode, path: &[u8]| {
        let header = Header {
            index: mode.into(),
            ..Header::new(Kind::Make)
        };
        ask(&kept.peer, header, path, &[])
    };
    // SAFETY: By this function's contract.
    unsafe { add(directory, dentry, request) }.map(|_| ())
}

/// `symlink`.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn symlink(
    _idmap: *mut mnt_idmap,
    directory: *mut inode,
    dentry: *mut dentry,
    target: *const c_char,
) -> c_int {
    let request = |kept: &Inode, path: &[u8]| {
        let header = Header {
            index: u64::from(bindings::S_IFLNK | 0o777),
            ..Header::new(Kind::Make)
        };
        // SAFETY: By this function's contract.
        ask(&kept.peer, header, path, unsafe { bytes_of(target) })
    };
    // SAFETY: By this function's contract.
    errno(unsafe { add(directory, dentry, request) }.map(|_| ()))
}

/// `link`.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn link(
    from: *mut dentry,
    directory: *mut inode,
    dentry: *mut dentry,
) -> c_int {
    let request = |kept: &Inode, path: &[u8]| {
        // SAFETY: By this function's contract `from` is one of ours and has an inode.
        let (old, other) = unsafe { of((*from).d_inode, from) }?;
        if !Arc::ptr_eq(&old.peer, &kept.peer) {
            return Err(EXDEV);
        }
        ask(&kept.peer, Header::new(Kind::Link), other.at_node()?, path)
    };
    // SAFETY: By this function's contract.
    errno(unsafe { add(directory, dentry, request) }.map(|_| ()))
}

/// Removes a name.
///
/// # Safety
///
/// As `of`; `dentry` has an inode.
unsafe fn remove(directory: *mut inode, dentry: *mut dentry, is_directory: bool) -> Result {
    // SAFETY: By this function's contract.
    let (kept, path) = unsafe { of(directory, dentry) }?;
    let header = Header {
        index: is_directory.into(),
        ..Header::new(Kind::Remove)
    };
    ask(&kept.peer, header, path.at_node()?, &[])?;
    // SAFETY: By this function's contract it has an inode.
    unsafe { bindings::vremote_inode_loses_name((*dentry).d_inode) };
    Ok(())
}

/// `unlink`.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn unlink(directory: *mut inode, dentry: *mut dentry) -> c_int {
    // SAFETY: By this function's contract.
    errno(unsafe { remove(directory, dentry, false) })
}

/// `rmdir`.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn rmdir(directory: *mut inode, dentry: *mut dentry) -> c_int {
    // SAFETY: By this function's contract.
    errno(unsafe { remove(directory, dentry, true) })
}

/// `rename`, with all flags that the origin's file system knows.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn rename(
    _idmap: *mut mnt_idmap,
    from: *mut inode,
    old: *mut dentry,
    to: *mut inode,
    new: *mut dentry,
    flags: c_uint,
) -> c_int {
    let rename = || {
        // SAFETY: By this function's contract.
        let replaced = unsafe { (*new).d_inode };
        // SAFETY: As above.
        let ((from, old), (to, new)) = unsafe { (of(from, old)?, of(to, new)?) };
        if !Arc::ptr_eq(&from.peer, &to.peer) {
            return Err(EXDEV);
        }
        let header = Header {
            index: flags.into(),
            ..Header::new(Kind::Rename)
        };
        ask(&from.peer, header, old.at_node()?, new.at_node()?)?;
        if !replaced.is_null() && flags & bindings::RENAME_EXCHANGE == 0 {
            // SAFETY: The kernel keeps what has the new name.
            unsafe { bindings::vremote_inode_loses_name(replaced) };
        }
        Ok(())
    };
    errno(rename())
}

/// The names in a path.
fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> + '_ {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty())
}

/// The way from the directory of `link` to `target`, both absolute at one node: no more steps up than it takes, because above a mount or
/// a root of a process that lies in between is this node's own tree. `ENOMEM`.
fn way(link: &[u8], target: &[u8]) -> Result<KVec<u8>> {
    let above = parts(link).count().saturating_sub(1);
    let common = parts(link)
        .take(above)
        .zip(parts(target))
        .take_while(|(one, other)| one == other)
        .count();
    let mut steps = KVec::with_capacity(3 * above + target.len() + 2, GFP_KERNEL)?;
    for _ in common..above {
        steps.extend_from_slice(b"../", GFP_KERNEL)?;
    }
    for part in parts(target).skip(common) {
        steps.extend_from_slice(part, GFP_KERNEL)?;
        steps.push(b'/', GFP_KERNEL)?;
    }
    // What it leads to need not be a directory.
    steps.pop();
    if steps.is_empty() {
        steps.push(b'.', GFP_KERNEL)?;
    }
    Ok(steps)
}

/// `get_link`: follows a symlink. The origin says what it leads to at last, and from the link's directory that is reached by way of
/// the node's own: a path of the origin never becomes one of this node.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn get_link(
    dentry: *mut dentry,
    inode: *mut inode,
    done: *mut delayed_call,
) -> *const c_char {
    if dentry.is_null() {
        return ECHILD.to_ptr();
    }
    let follow = || {
        // SAFETY: By this function's contract the dentry is one of ours with this inode, and referenced.
        let (kept, path) = unsafe { of(inode, dentry) }?;
        let path = path.at_node()?;
        let header = Header {
            index: 1,
            ..Header::new(Kind::ReadLink)
        };
        let answer = ask(&kept.peer, header, path, &[])?;
        let target = &answer.payload[..];
        let upwards = parts(target).any(|part| part == b"..");
        if target.first() != Some(&b'/') || upwards || target.contains(&0) {
            return Err(EPROTO);
        }
        let mut steps = way(path, target)?;
        steps.push(0, GFP_KERNEL)?;
        Ok(steps)
    };
    match follow() {
        Ok(steps) => {
            let (target, _, _) = steps.into_raw_parts();
            // SAFETY: Memory of kmalloc, given to the call, which frees it.
            unsafe { bindings::vremote_link_keep(done, target.cast()) };
            target.cast()
        }
        Err(error) => error.to_ptr(),
    }
}

/// `readlink`: shows where a symlink of the origin leads, as it is written there.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn readlink(
    dentry: *mut dentry,
    buffer: *mut c_char,
    bytes: c_int,
) -> c_int {
    let read = || {
        // SAFETY: By this function's contract the dentry is one of ours and has an inode.
        let (kept, path) = unsafe { of((*dentry).d_inode, dentry) }?;
        let answer = ask(
            &kept.peer,
            Header::new(Kind::ReadLink),
            path.at_node()?,
            &[],
        )?;
        let count = answer.payload.len().min(bytes.max(0) as usize);
        // SAFETY: The bytes are ours; the kernel checks where they go.
        let status =
            unsafe { bindings::vremote_to_user(buffer, answer.payload.as_ptr().cast(), count) };
        kernel::error::to_result(status).map(|()| count as c_int)
    };
    read().unwrap_or_else(|error: Error| error.to_errno())
}

/// Asks how much room there is where a dentry is. Of the root, and of this node's own name, there is nothing to ask.
///
/// # Errors
///
/// Those of the origin, and of the network.
///
/// # Safety
///
/// `dentry` is one of ours with an inode, `space` is the caller's.
pub(super) unsafe fn fill_space(dentry: *mut dentry, space: *mut bindings::kstatfs) -> Result {
    // SAFETY: By this function's contract.
    let Ok((kept, path)) = (unsafe { of((*dentry).d_inode, dentry) }) else {
        return Ok(());
    };
    let payload = credentials_and(path.at_node()?)?;
    let answer = match call(&kept.peer, Header::new(Kind::StatFs), &payload) {
        // An open file without a name, or a node that shares nothing.
        Err(error) if error == ENOENT => return Ok(()),
        answer => answer?,
    };
    let found = Space::decode(&answer.payload).ok_or(EPROTO)?;
    let raw = bindings::vremote_space {
        block_bytes: found.block_bytes,
        blocks: found.blocks,
        free: found.free,
        available: found.available,
        files: found.files,
        files_free: found.files_free,
    };
    // SAFETY: By this function's contract.
    unsafe { bindings::vremote_fill_space(space, &raw) };
    Ok(())
}

/// `fsync` of a directory: its names are on the disk of the origin when it returns.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn fsync(
    file: *mut file,
    _start: loff_t,
    _end: loff_t,
    datasync: c_int,
) -> c_int {
    // SAFETY: By this function's contract.
    errno(unsafe { commit(file, datasync != 0) })
}

/// # Safety
///
/// As `fsync`.
unsafe fn commit(file: *mut file, datasync: bool) -> Result {
    // SAFETY: By this function's contract.
    let (kept, path) = unsafe { of((*file).f_inode, bindings::vremote_file_dentry(file)) }?;
    // SAFETY: By this function's contract. There is nothing to put on a disk of what was removed.
    if unsafe { bindings::vremote_inode_links((*file).f_inode) } == 0 {
        return Ok(());
    }
    let header = Header {
        index: kept.identity.map_or(0, |identity| identity.ino),
        flags: if datasync { flags::DATASYNC } else { 0 },
        ..Header::new(Kind::Commit)
    };
    ask(&kept.peer, header, path.at_node()?, &[]).map(|_| ())
}

/// Sets mode, owner and times. The size is another request.
///
/// # Safety
///
/// `dentry` is one of ours with an inode, `wanted` what the kernel wants set.
pub(super) unsafe fn set_attributes(dentry: *mut dentry, wanted: *const iattr) -> Result {
    // SAFETY: By this function's contract.
    let ((kept, path), wanted) = unsafe { (of((*dentry).d_inode, dentry)?, &*wanted) };
    let set = |mask: u32| wanted.ia_valid & mask != 0;
    let time = |at: &bindings::timespec64| Time {
        seconds: at.tv_sec,
        nanoseconds: at.tv_nsec as u32,
    };
    let (atime_bit, atime) = match (set(bindings::ATTR_ATIME), set(bindings::ATTR_ATIME_SET)) {
        (true, true) => (change::ATIME, time(&wanted.ia_atime)),
        (true, false) => (change::ATIME_NOW, Time::default()),
        (false, _) => (0, Time::default()),
    };
    let (mtime_bit, mtime) = match (set(bindings::ATTR_MTIME), set(bindings::ATTR_MTIME_SET)) {
        (true, true) => (change::MTIME, time(&wanted.ia_mtime)),
        (true, false) => (change::MTIME_NOW, Time::default()),
        (false, _) => (0, Time::default()),
    };
    let mut ids = [0u32; 2];
    // SAFETY: `wanted` is valid, and `ids` has room for both.
    unsafe { bindings::vremote_wanted_ids(wanted, ids.as_mut_ptr()) };
    let bit = |mask: u32, ours: u32| if set(mask) { ours } else { 0 };
    // With a new owner the origin itself takes the set-id bits away.
    let kills = bindings::ATTR_KILL_SUID | bindings::ATTR_KILL_SGID;
    let mode_bit = if set(kills) { 0 } else { change::MODE };
    let change = Change {
        valid: bit(bindings::ATTR_MODE, mode_bit)
            | bit(kills, change::CHOWN)
            | bit(bindings::ATTR_UID, change::UID)
            | bit(bindings::ATTR_GID, change::GID)
            | atime_bit
            | mtime_bit,
        mode: u32::from(wanted.ia_mode) & 0o7777,
        uid: ids[0],
        gid: ids[1],
        atime,
        mtime,
    };
    // A file may have lost its name to another one.
    let header = Header {
        file: kept.open_id(),
        index: kept.identity.map_or(0, |identity| identity.ino),
        ..Header::new(Kind::SetAttr)
    };
    let answer = ask(&kept.peer, header, path.at_node()?, &change.encode())?;
    let attributes = Attributes::decode(&answer.payload).ok_or(EPROTO)?;
    kept.learn(&answer.header, &attributes);
    Ok(())
}

/// `iterate_shared`: asks for as many entries as fit a message, again and again, until the caller has enough. Positions are the origin's.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn iterate(file: *mut file, context: *mut dir_context) -> c_int {
    // SAFETY: By this function's contract.
    errno(unsafe { list(file, &mut *context) })
}

/// # Safety
///
/// As `iterate`.
unsafe fn list(file: *mut file, context: &mut dir_context) -> Result {
    // SAFETY: By this function's contract.
    let (kept, path) = unsafe { of((*file).f_inode, bindings::vremote_file_dentry(file)) }?;
    loop {
        let header = Header {
            size: context.pos as u64,
            ..Header::new(Kind::List)
        };
        let answer = ask(&kept.peer, header, path.at_node()?, &[])?;
        let mut rest = &answer.payload[..];
        if rest.is_empty() {
            return Ok(());
        }
        while !rest.is_empty() {
            let (entry, behind) = Entry::decode(rest).ok_or(EPROTO)?;
            // SAFETY: The context is the kernel's, the name has so many bytes.
            let more = unsafe {
                bindings::vremote_dir_emit(
                    context,
                    entry.name.as_ptr().cast(),
                    entry.name.len() as c_int,
                    entry.ino,
                    entry.kind.into(),
                )
            };
            if !more {
                return Ok(());
            }
            context.pos = entry.next as i64;
            rest = behind;
        }
    }
}
