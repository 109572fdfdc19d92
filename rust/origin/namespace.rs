// SPDX-License-Identifier: GPL-2.0

//! Directories below an export, as remotes list and change them: with the rights of the remote user, and the errors of the local
//! file system. What a file has cached elsewhere follows from the change by itself: the inode stays the same.

use kernel::{error::to_result, prelude::*, sync::Arc};

use super::{
    export::{self, c_string, Acting, Export},
    lookup::{last_component, Object},
    serve,
    share::{self, Share},
};
use crate::bindings;
use crate::proto::{
    limits::{MAX_LINKS, MAX_NAME, MAX_PATH, PAGE_BYTES},
    nodes::Node,
    wire::{
        change, flags, Attributes, Change, Credentials, Entry, Header, Kind, Names, Space, Time,
    },
};

/// Bytes of entries in one reply.
const LIST_BYTES: usize = 32 << 10;

/// Directory, of an entry.
const DT_DIR: u16 = 4;

/// The export that a path lies in, and the rest of the path. Elsewhere nothing is to be changed: `EPERM`.
pub(super) fn place(path: &[u8]) -> Result<(Arc<Export>, &[u8])> {
    serve::check_path(path)?;
    export::containing(path).ok_or(EPERM)
}

/// Reads from what a remote sees under a path: gives `call` what [`meant`] finds there. `nothing`: of a directory that only shows the way.
pub(super) fn look<T>(
    user: &Credentials<'_>,
    path: &[u8],
    open: &Option<Arc<Share>>,
    ino: u64,
    nothing: impl FnOnce() -> Result<T>,
    call: impl FnOnce(&Object) -> Result<T>,
) -> Result<T> {
    serve::check_path(path)?;
    if let Some(share) = serve::by_descriptor(path) {
        let root = export::root().ok_or(ENOENT)?;
        let _acting = Acting::begin(user, root.root_squash)?;
        let object = meant(root, &path[1..], open, ino)?;
        if open.is_none() && !object.is(&share) {
            // Renamed over at this moment: what has the name now is nobody's to look at.
            return Err(ESTALE);
        }
        return call(&object);
    }
    if let Some((export, rest)) = export::containing(path) {
        let _acting = Acting::begin(user, export.root_squash)?;
        return call(&meant(&export, rest, &within(&export, open.clone()), ino)?);
    }
    if serve::is_way(path)? {
        return nothing();
    }
    Err(serve::refused(path))
}

/// What has the path now, if that is what is meant: the open file, or what has that inode number (0: anything). An open file is found without
/// its name as well, but by its name first: the mount that it is meant by may be for reading only. The caller acts as the remote user.
///
/// # Errors
///
/// `ESTALE`: another file has the path. Those of [`Export::look_up`].
pub(super) fn meant(
    export: &Export,
    rest: &[u8],
    open: &Option<Arc<Share>>,
    ino: u64,
) -> Result<Object> {
    let found = export.look_up(rest);
    match open {
        Some(share) => Ok(found
            .ok()
            .filter(|object| object.is(share))
            .unwrap_or_else(|| Object::of(share))),
        None => {
            let object = found?;
            if ino != 0 && object.attributes()?.ino != ino {
                return Err(ESTALE);
            }
            Ok(object)
        }
    }
}

/// What a request is about if that is open: found by its id, because its path may lead to another file by now, or to none. `ESTALE`: the
/// peer has no such file open.
pub(super) fn open_file(node: Node, header: &Header) -> Result<Option<Arc<Share>>> {
    if header.file == 0 {
        return Ok(None);
    }
    let share = share::by_id(header.file).ok_or(ESTALE)?;
    let open = share.state.lock().opens_of(node).is_some();
    if open {
        Ok(Some(share))
    } else {
        Err(ESTALE)
    }
}

/// As [`open_file`], for a change with the rights that a path in this export gives: `None` also for what is open elsewhere, which only
/// its name can mean then.
pub(super) fn open_file_in(
    node: Node,
    header: &Header,
    export: &Arc<Export>,
) -> Result<Option<Arc<Share>>> {
    Ok(within(export, open_file(node, header)?))
}

/// The open file if it is in this export. What is open elsewhere is not to be had with the rights that this one gives.
fn within(export: &Arc<Export>, open: Option<Arc<Share>>) -> Option<Arc<Share>> {
    open.filter(|share| {
        export::around(&share.file).is_some_and(|around| Arc::ptr_eq(&around, export))
    })
}

/// How much room there is where a path is; none on the way to something.
pub(super) fn space(payload: &[u8]) -> Result<Space> {
    let (user, path) = serve::who_and_where(payload)?;
    let nothing = || {
        Ok(Space {
            block_bytes: PAGE_BYTES as u64,
            ..Space::default()
        })
    };
    look(&user, path, &None, 0, nothing, |object| {
        let mut space = bindings::vremote_space::default();
        // SAFETY: The path is counted, the space is ours; we may sleep.
        to_result(unsafe { bindings::vremote_names_space(object.as_ptr(), &mut space) })?;
        Ok(Space {
            block_bytes: space.block_bytes,
            blocks: space.blocks,
            free: space.free,
            available: space.available,
            files: space.files,
            files_free: space.files_free,
        })
    })
}

/// fsync of a directory. There is nothing to write on the way to something.
pub(super) fn commit(header: &Header, payload: &[u8]) -> Result {
    let (user, path) = serve::who_and_where(payload)?;
    let nothing = || Ok(());
    look(&user, path, &None, header.index, nothing, |object| {
        // SAFETY: The path is counted; we may sleep.
        to_result(unsafe {
            bindings::vremote_names_sync(object.as_ptr(), header.has(flags::DATASYNC))
        })
    })
}

/// The entries of a directory from the position in the header on.
pub(super) fn list(header: &Header, payload: &[u8], entries: &mut KVVec<u8>) -> Result {
    let (user, path) = serve::who_and_where(payload)?;
    let Some((export, rest)) = export::containing(path) else {
        return list_way(path, header.size, entries);
    };
    let mut position = header.size;
    *entries = KVVec::zeroed(LIST_BYTES, GFP_KERNEL)?;
    let _acting = Acting::begin(&user, export.root_squash)?;
    let object = export.look_up(rest)?;
    // SAFETY: The path is counted, all else is ours; we may sleep.
    let bytes = unsafe {
        bindings::vremote_names_list(
            object.as_ptr(),
            &mut position,
            entries.as_mut_ptr(),
            entries.len(),
        )
    };
    to_result(bytes.min(0) as i32)?;
    entries.truncate(bytes as usize);
    Ok(())
}

/// The entries of a directory that only shows the way to what is shared below it: the next parts of the paths of all that is. The
/// position counts them.
fn list_way(path: &[u8], position: u64, entries: &mut KVVec<u8>) -> Result {
    let mut names: KVec<KVec<u8>> = KVec::new();
    let mut add = |below: &[u8]| -> Result {
        if !export::is_above(path, below) {
            return Ok(());
        }
        let depth = if path == b"/" { 1 } else { path.len() + 1 };
        let name = below[depth..].split(|byte| *byte == b'/').next();
        let Some(name) = name.filter(|name| !name.is_empty() && name.len() <= MAX_NAME) else {
            return Ok(());
        };
        if !names.iter().any(|other| other[..] == *name) {
            let mut owned = KVec::with_capacity(name.len(), GFP_KERNEL)?;
            owned.extend_from_slice(name, GFP_KERNEL)?;
            names.push(owned, GFP_KERNEL)?;
        }
        Ok(())
    };
    for export in export::snapshot()? {
        add(&export.path)?;
    }
    for share in share::all() {
        if serve::is_by_descriptor(&share) {
            add(&Object::of(&share).path()?)?;
        }
    }
    if names.is_empty() {
        return Err(serve::refused(path));
    }
    for (at, name) in names.iter().enumerate().skip(position as usize) {
        let entry = Entry {
            next: at as u64 + 1,
            ino: at as u64 + 1,
            kind: DT_DIR,
            name,
        };
        if entries.len() + Entry::HEAD_BYTES + name.len() > LIST_BYTES {
            break;
        }
        entries.extend_from_slice(&entry.head(), GFP_KERNEL)?;
        entries.extend_from_slice(name, GFP_KERNEL)?;
    }
    Ok(())
}

/// Where a symlink leads: its text, or as [`resolve`] says.
pub(super) fn read_link(header: &Header, payload: &[u8], target: &mut KVVec<u8>) -> Result {
    let (user, path) = serve::who_and_where(payload)?;
    let (export, rest) = place(path)?;
    let _acting = Acting::begin(&user, export.root_squash)?;
    if header.index == 1 {
        target.extend_from_slice(&resolve(&export, rest)?, GFP_KERNEL)?;
    } else {
        *target = text_of_link(&export.look_up(rest)?)?;
    }
    Ok(())
}

/// The text of a symlink. `EINVAL`: it is none, or one of procfs and the like, which leads where no text does.
fn text_of_link(object: &Object) -> Result<KVVec<u8>> {
    let mut text = KVVec::zeroed(MAX_PATH, GFP_KERNEL)?;
    // SAFETY: The path is counted, the buffer is ours; we may sleep.
    let bytes = unsafe {
        bindings::vremote_names_read_link(object.as_ptr(), text.as_mut_ptr(), text.len())
    };
    to_result(bytes.min(0) as i32)?;
    text.truncate(bytes as usize);
    Ok(text)
}

/// Where a path leads when its last name is followed as well: an absolute path of this node. Of what is not there, but its directory is, as
/// well: it can be made.
fn resolve(export: &Export, rest: &[u8]) -> Result<KVec<u8>> {
    match export.follow(rest) {
        Err(error) if error == ENOENT => {}
        found => return found?.path(),
    }
    let mut at = KVec::new();
    at.extend_from_slice(rest, GFP_KERNEL)?;
    for _ in 0..MAX_LINKS {
        let last = last_component(&at);
        let object = match export.look_up(&at) {
            Err(error) if error == ENOENT => {
                if matches!(&at[last..], b"" | b"." | b"..") {
                    return Err(ENOENT);
                }
                return export.name(&at)?.path();
            }
            found => found?,
        };
        if object.attributes()?.mode & bindings::S_IFMT != bindings::S_IFLNK {
            // It was made in this moment.
            return object.path();
        }
        let text =
            text_of_link(&object).map_err(|error| if error == EINVAL { ELOOP } else { error })?;
        if text.first() == Some(&b'/') {
            return Err(ELOOP);
        }
        at.truncate(last);
        at.extend_from_slice(&text, GFP_KERNEL)?;
    }
    Err(ELOOP)
}

/// `Make`, `Link`, `Remove`, `Rename`, `SetAttr`; gives the attributes of what is there then, if the kind says so.
pub(super) fn change(node: Node, header: &Header, payload: &[u8]) -> Result<Option<Attributes>> {
    let (user, rest) = Credentials::decode(payload).ok_or(EINVAL)?;
    if header.kind == Kind::Remove {
        let (export, rest) = place(rest)?;
        let _acting = Acting::begin(&user, export.root_squash)?;
        let name = export.name(rest)?;
        // SAFETY: The directory is counted, the name ends with NUL; we may sleep.
        to_result(unsafe {
            bindings::vremote_names_remove(
                name.directory.as_ptr(),
                name.last.as_char_ptr(),
                header.index == 1,
            )
        })?;
        return Ok(None);
    }
    let names = Names::decode(header, rest).ok_or(EINVAL)?;
    let (export, rest) = place(names.first)?;
    match header.kind {
        Kind::Make => {
            let target = c_string(names.second)?;
            let _acting = Acting::begin(&user, export.root_squash)?;
            let name = export.name(rest)?;
            // SAFETY: As above, and so does the target.
            to_result(unsafe {
                bindings::vremote_names_make(
                    name.directory.as_ptr(),
                    name.last.as_char_ptr(),
                    header.index as u16,
                    target.as_char_ptr(),
                )
            })?;
            name.look_up()?.attributes().map(Some)
        }
        Kind::Link | Kind::Rename => {
            let (other, other_rest) = place(names.second)?;
            if !Arc::ptr_eq(&export, &other) {
                return Err(EXDEV);
            }
            let _acting = Acting::begin(&user, export.root_squash)?;
            if header.kind == Kind::Rename {
                let (from, to) = (export.name(rest)?, export.name(other_rest)?);
                // SAFETY: As above, for both.
                to_result(unsafe {
                    bindings::vremote_names_rename(
                        from.directory.as_ptr(),
                        from.last.as_char_ptr(),
                        to.directory.as_ptr(),
                        to.last.as_char_ptr(),
                        header.index as u32,
                    )
                })?;
                return Ok(None);
            }
            let (object, name) = (export.look_up(rest)?, export.name(other_rest)?);
            // SAFETY: As above.
            to_result(unsafe {
                bindings::vremote_names_link(
                    object.as_ptr(),
                    name.directory.as_ptr(),
                    name.last.as_char_ptr(),
                )
            })?;
            object.attributes().map(Some)
        }
        Kind::SetAttr => {
            let change = Change::decode(names.second).ok_or(EINVAL)?;
            let open = open_file_in(node, header, &export)?;
            let _acting = Acting::begin(&user, export.root_squash)?;
            let object = meant(&export, rest, &open, header.index)?;
            // SAFETY: The path is counted, the change is ours; we may sleep.
            to_result(unsafe {
                bindings::vremote_names_change(object.as_ptr(), &for_kernel(&change))
            })?;
            object.attributes().map(Some)
        }
        _ => Err(EOPNOTSUPP),
    }
}

/// A change as the kernel has it.
fn for_kernel(change: &Change) -> bindings::vremote_change {
    let bits = [
        (change::MODE, bindings::ATTR_MODE),
        (change::UID, bindings::ATTR_UID),
        (change::GID, bindings::ATTR_GID),
        (change::CHOWN, bindings::ATTR_KILL_SUID),
        (change::ATIME_NOW, bindings::ATTR_ATIME),
        (
            change::ATIME,
            bindings::ATTR_ATIME | bindings::ATTR_ATIME_SET,
        ),
        (change::MTIME_NOW, bindings::ATTR_MTIME),
        (
            change::MTIME,
            bindings::ATTR_MTIME | bindings::ATTR_MTIME_SET,
        ),
    ];
    let mut valid = bits
        .iter()
        .filter(|(ours, _)| change.valid & ours != 0)
        .fold(bindings::ATTR_CTIME, |valid, (_, kernels)| valid | kernels);
    // As utimes(2): who may write may set both times to now, all else is for the owner.
    let times =
        change.valid & (change::ATIME_NOW | change::ATIME | change::MTIME_NOW | change::MTIME);
    if times == change::ATIME_NOW | change::MTIME_NOW {
        valid |= bindings::ATTR_TOUCH;
    } else if times != 0 {
        valid |= bindings::ATTR_TIMES_SET;
    }
    let time = |time: &Time| bindings::timespec64 {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds as isize,
    };
    bindings::vremote_change {
        valid,
        mode: change.mode,
        uid: change.uid,
        gid: change.gid,
        atime: time(&change.atime),
        mtime: time(&change.mtime),
    }
}
