// SPDX-License-Identifier: GPL-2.0

//! Names and attributes below `/vremote/<node>/`: each lookup asks the origin.
//!
//! - A name in the middle of a path is asked for once. From then on a directory is taken to be there: what counts is whether the origin
//!   finds the whole path. Symbolic links are asked for each time, and followed here. What the caller may not look up is taken to be a
//!   directory: a file that is shared by a descriptor need not lie in directories that the origin shows everybody.
//! - The last name is asked for each time. Neither names that are missing nor attributes are cached.
//! - Permission is the origin's decision, at `Lookup` and `Open` (to run it as well), with the caller's ids. It is asked about access(2),
//!   chdir(2) and the opening of a directory.
//! - What a symbolic link leads to is said by the origin; never anything out of the export, and what is absolute leads out of it (`ELOOP`).
//! - FIFOs and sockets are names at the origin, and what is opened under them is this node's: who opens the same FIFO on one node meets
//!   there, on two nodes not. Their mode and owner count here, as nothing is opened at the origin. Opening a device is `ENXIO`, and so is
//!   opening a FIFO with `O_REMOTE`, which would promise the other node.

use core::ffi::c_void;

use kernel::{
    bindings::{
        dentry, dev_t, file, iattr, inode, kstat, mnt_idmap, path, qstr, super_block, umode_t,
    },
    ffi::{c_int, c_uint},
    prelude::*,
    sync::{atomic::Relaxed, Arc},
};

use super::{
    device, errno, file as files, fileattr, fs,
    fs::Operations,
    namespace, resolve,
    state::{Identity, Inode},
    xattr, InodeRef,
};
use crate::bindings;
use crate::net::{
    self,
    exchange::call,
    peer::{self, Peer},
};
use crate::proto::{
    limits::{MAX_GROUPS, MAX_NAME, MAX_PATH},
    wire::{Attributes, Credentials, Header, Kind},
};

/// Directories, below the root.
static DIRECTORY: Operations<bindings::inode_operations> = Operations(bindings::inode_operations {
    lookup: Some(lookup),
    atomic_open: Some(atomic_open),
    create: Some(namespace::create),
    mkdir: Some(namespace::mkdir),
    mknod: Some(namespace::mknod),
    rmdir: Some(namespace::rmdir),
    symlink: Some(namespace::symlink),
    link: Some(namespace::link),
    unlink: Some(namespace::unlink),
    rename: Some(namespace::rename),
    getattr: Some(getattr),
    setattr: Some(setattr),
    listxattr: Some(xattr::list),
    fileattr_get: Some(fileattr::get),
    fileattr_set: Some(fileattr::set),
    permission: Some(permission),
    ..pin_init::zeroed()
});

static DIRECTORY_FILE: Operations<bindings::file_operations> =
    Operations(bindings::file_operations {
        open: Some(open_directory),
        iterate_shared: Some(namespace::iterate),
        read: Some(bindings::generic_read_dir),
        llseek: Some(bindings::generic_file_llseek),
        fsync: Some(namespace::fsync),
        ..pin_init::zeroed()
    });

/// Regular files, FIFOs, sockets, and everything that cannot be opened.
static FILE: Operations<bindings::inode_operations> = Operations(bindings::inode_operations {
    getattr: Some(getattr),
    setattr: Some(setattr),
    listxattr: Some(xattr::list),
    fileattr_get: Some(fileattr::get),
    fileattr_set: Some(fileattr::set),
    permission: Some(permission),
    ..pin_init::zeroed()
});

static LINK: Operations<bindings::inode_operations> = Operations(bindings::inode_operations {
    get_link: Some(namespace::get_link),
    readlink: Some(namespace::readlink),
    getattr: Some(getattr),
    setattr: Some(setattr),
    permission: Some(permission),
    ..pin_init::zeroed()
});

/// The path of a dentry, from the root of our superblock.
pub(super) struct Path {
    buffer: KVec<u8>,
    start: usize,
    end: usize,
}

impl Path {
    /// Process context; `ENAMETOOLONG`, `ENOMEM`.
    ///
    /// # Safety
    ///
    /// `dentry` is one of ours, and referenced.
    pub(super) unsafe fn of(dentry: *mut dentry) -> Result<Path> {
        let bytes = 1 + MAX_NAME + MAX_PATH + 1;
        let mut buffer = KVec::<u8>::zeroed(bytes, GFP_KERNEL)?;
        let base = buffer.as_mut_ptr();
        // SAFETY: The dentry is valid by this function's contract, the buffer has so many bytes.
        let start = unsafe { bindings::dentry_path_raw(dentry, base.cast(), bytes as c_int) };
        let start = kernel::error::from_err_ptr(start)?.cast::<u8>() as usize - base as usize;
        let end = buffer[start..]
            .iter()
            .position(|byte| *byte == 0)
            .map_or(bytes, |length| start + length);
        Ok(Path { buffer, start, end })
    }

    /// Without the name of the node: absolute at that node. `ENAMETOOLONG`.
    pub(super) fn at_node(&self) -> Result<&[u8]> {
        let whole = &self.buffer[self.start..self.end];
        let node = whole.get(1..).unwrap_or(&[]);
        let rest = match node.iter().position(|byte| *byte == b'/') {
            Some(slash) => &node[slash..],
            None => b"/",
        };
        if rest.len() > MAX_PATH {
            return Err(ENAMETOOLONG);
        }
        Ok(rest)
    }
}

/// The caller's ids and a path, as `Lookup` and `Open` carry them. Process context; `ENOMEM`.
pub(super) fn credentials_and(path: &[u8]) -> Result<KVec<u8>> {
    let (mut uid, mut gid, mut groups) = (0, 0, [0u32; MAX_GROUPS]);
    let room = groups.as_mut_ptr();
    // SAFETY: The places are ours, and there is room for so many groups.
    let count =
        unsafe { bindings::vremote_current_ids(&mut uid, &mut gid, room, MAX_GROUPS as c_uint) };
    let count = count as usize;
    let groups = groups.get(..count).ok_or(EINVAL)?;
    let mut payload = KVec::zeroed(Credentials::encoded_bytes(count), GFP_KERNEL)?;
    Credentials::encode(uid, gid, groups, &mut payload).ok_or(EINVAL)?;
    payload.extend_from_slice(path, GFP_KERNEL)?;
    Ok(payload)
}

/// Asks a node what it has under a path. Process context, sleeps.
///
/// # Errors
///
/// `ENOENT`, `EACCES` and others of the origin; `ETIMEDOUT`, `ENOTCONN`, `ESTALE`, `EINTR`.
pub(super) fn lookup_at(peer: &Arc<Peer>, path: &[u8]) -> Result<(Header, Attributes)> {
    lookup_with(peer, path, 0)
}

/// As [`lookup_at`]; `EACCES` if the caller has not all of these rights (`MAY_*`).
fn lookup_with(peer: &Arc<Peer>, path: &[u8], rights: u32) -> Result<(Header, Attributes)> {
    let header = Header {
        index: rights.into(),
        ..Header::new(Kind::Lookup)
    };
    let answer = call(peer, header, &credentials_and(path)?)?;
    let attributes = Attributes::decode(&answer.payload).ok_or(EPROTO)?;
    Ok((answer.header, attributes))
}

/// What an inode is found by in the kernel's table.
struct Key<'a> {
    peer: &'a Arc<Peer>,
    identity: Identity,
    /// What a new inode gets.
    fresh: Option<Arc<Inode>>,
}

/// Whether an inode is the one that is looked for.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn test(inode: *mut inode, key: *mut c_void) -> c_int {
    // SAFETY: `get` passes a `Key`. The inode may be on its way out, but what hangs on it is freed only after a grace period of RCU,
    // under which this runs.
    let (key, kept) = unsafe { (&*key.cast::<Key<'_>>(), Inode::of(inode)) };
    let same = kept.is_some_and(|kept| {
        kept.identity == Some(key.identity) && Arc::ptr_eq(&kept.peer, key.peer)
    });
    same.into()
}

/// Makes a new inode the one that is looked for.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn set(inode: *mut inode, key: *mut c_void) -> c_int {
    // SAFETY: `get` passes a `Key` that nobody else uses.
    let key = unsafe { &mut *key.cast::<Key<'_>>() };
    let Some(fresh) = key.fresh.take() else {
        return EINVAL.to_errno();
    };
    // SAFETY: A new inode that nobody can find yet.
    unsafe {
        (*inode).i_ino = key.identity.ino;
        // What the memory was before is still there; the type comes with the first attributes.
        (*inode).i_mode = 0;
        fresh.hang_on(inode);
    }
    0
}

/// What the kernel finds an inode by: its number, with node and device mixed in, as each of them has numbers of its own.
fn hash(peer: &Peer, identity: Identity) -> u64 {
    let place = identity
        .device
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(u64::from(peer.slot) << 56);
    identity.ino ^ (place & 0x7fff_ffff_0000_0000)
}

/// The inode of what the origin says. Process context, sleeps; `ENOMEM`.
///
/// # Safety
///
/// `sb` is our superblock.
unsafe fn get(
    sb: *mut super_block,
    peer: &Arc<Peer>,
    header: &Header,
    attributes: &Attributes,
) -> Result<InodeRef> {
    let identity = Identity::of(attributes);
    let mut key = Key {
        peer,
        identity,
        fresh: Some(Inode::new(peer, Some(identity))?),
    };
    let hash = hash(peer, identity);
    // SAFETY: The callbacks expect a `Key`.
    let raw =
        unsafe { bindings::iget5_locked(sb, hash, Some(test), Some(set), (&raw mut key).cast()) };
    if raw.is_null() {
        return Err(ENOMEM);
    }
    // SAFETY: The reference is ours.
    let inode = unsafe { InodeRef::from_raw(raw) };
    // SAFETY: The inode is one of ours and referenced.
    let kept = unsafe { Inode::of(raw) }.ok_or(EIO)?;
    // SAFETY: As above.
    let new = unsafe { bindings::vremote_inode_is_new(raw) };
    kept.learn(header, attributes);
    if new {
        // SAFETY: A new inode is ours until it is unlocked.
        unsafe {
            equip(raw);
            bindings::unlock_new_inode(raw);
        }
    }
    Ok(inode)
}

/// Gives a new inode the operations of its type.
///
/// # Safety
///
/// `inode` is a new inode of ours, whose mode is set.
unsafe fn equip(inode: *mut inode) {
    // SAFETY: By this function's contract nobody else uses it yet; the tables live as long as the module.
    unsafe {
        let (operations, file_operations) = match u32::from((*inode).i_mode) & bindings::S_IFMT {
            bindings::S_IFREG => {
                (*inode).i_data.a_ops = files::PAGES.get();
                (FILE.get(), files::OPERATIONS.get())
            }
            bindings::S_IFDIR => (DIRECTORY.get(), DIRECTORY_FILE.get()),
            bindings::S_IFLNK => (LINK.get(), files::SPECIAL.get()),
            bindings::S_IFIFO | bindings::S_IFSOCK => {
                bindings::init_special_inode(inode, (*inode).i_mode, 0);
                (FILE.get(), (*inode).__bindgen_anon_3.i_fop)
            }
            _ => (FILE.get(), files::SPECIAL.get()),
        };
        (*inode).i_op = operations;
        (*inode).__bindgen_anon_3.i_fop = file_operations;
    }
}

/// A directory that is taken to be there. Process context; `ENOMEM`.
///
/// # Safety
///
/// `sb` is our superblock.
pub(super) unsafe fn assume_directory(sb: *mut super_block, peer: &Arc<Peer>) -> Result<InodeRef> {
    let kept = Inode::new(peer, None)?;
    // SAFETY: By this function's contract.
    let raw = unsafe { bindings::new_inode(sb) };
    if raw.is_null() {
        return Err(ENOMEM);
    }
    // SAFETY: A new inode, ours alone, whose reference we give to the `InodeRef`.
    unsafe {
        (*raw).i_ino = u64::from(bindings::get_next_ino());
        (*raw).i_mode = (bindings::S_IFDIR | 0o555) as umode_t;
        bindings::vremote_inode_is_directory(raw);
        kept.hang_on(raw);
        bindings::simple_inode_init_ts(raw);
        equip(raw);
        Ok(InodeRef::from_raw(raw))
    }
}

/// Binds what was found to a dentry in lookup: gives what `lookup` returns.
///
/// # Safety
///
/// `dentry` is the dentry that the kernel looks up.
pub(super) unsafe fn bind(dentry: *mut dentry, found: Result<InodeRef>) -> *mut dentry {
    match found {
        // SAFETY: By this function's contract; the inode's reference goes to the dentry.
        Ok(inode) => unsafe { bindings::d_splice_alias(inode.into_raw(), dentry) },
        // Not a name of ours: a dentry that says so, and is asked about again the next time.
        // SAFETY: By this function's contract.
        Err(error) if error == ENOENT => unsafe {
            bindings::d_splice_alias(core::ptr::null_mut(), dentry)
        },
        Err(error) => error.to_ptr(),
    }
}

/// `lookup`.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn lookup(
    directory: *mut inode,
    dentry: *mut dentry,
    lookup_flags: c_uint,
) -> *mut dentry {
    // SAFETY: The kernel looks up a name in one of our directories.
    unsafe { bind(dentry, find(directory, dentry, lookup_flags)) }
}

/// # Safety
///
/// As `lookup`.
unsafe fn find(
    directory: *mut inode,
    dentry: *mut dentry,
    lookup_flags: c_uint,
) -> Result<InodeRef> {
    // SAFETY: By this function's contract.
    let kept = unsafe { Inode::of(directory) }.ok_or(EIO)?;
    // SAFETY: As above.
    let sb = unsafe { (*directory).i_sb };
    // SAFETY: As above; the dentry is referenced during the call.
    let path = unsafe { Path::of(dentry) }?;
    let path = path.at_node()?;
    if path
        .rsplit(|byte| *byte == b'/')
        .next()
        .is_some_and(|name| name.len() > MAX_NAME)
    {
        return Err(ENAMETOOLONG);
    }
    match lookup_at(&kept.peer, path) {
        // SAFETY: As above.
        Ok((header, attributes)) => unsafe { get(sb, &kept.peer, &header, &attributes) },
        Err(error)
            if error == EACCES && lookup_flags & bindings::VREMOTE_LOOKUP_PARENT as c_uint != 0 =>
        {
            // SAFETY: As above.
            unsafe { assume_directory(sb, &kept.peer) }
        }
        Err(error) => Err(error),
    }
}

/// Says whether a name still means what it did: see the top. Of the root's names that is whether the node is still a peer.
///
/// # Safety
///
/// Called by the kernel for a dentry of our superblock.
pub(super) unsafe extern "C" fn revalidate(
    _directory: *mut inode,
    _name: *const qstr,
    dentry: *mut dentry,
    lookup_flags: c_uint,
) -> c_int {
    if lookup_flags & bindings::VREMOTE_LOOKUP_RCU as c_uint != 0 {
        return ECHILD.to_errno();
    }
    // SAFETY: By this function's contract.
    match unsafe { is_valid(dentry, lookup_flags) } {
        Ok(valid) => valid.into(),
        Err(error) => error.to_errno(),
    }
}

/// # Safety
///
/// As [`revalidate`].
unsafe fn is_valid(dentry: *mut dentry, lookup_flags: c_uint) -> Result<bool> {
    let has = |mask: c_uint| lookup_flags & mask != 0;
    // SAFETY: By this function's contract; a referenced dentry keeps its inode.
    let inode = unsafe { (*dentry).d_inode };
    if inode.is_null() {
        return Ok(false);
    }
    // SAFETY: As above.
    let Some(kept) = (unsafe { Inode::of(inode) }) else {
        // The root, and this node's own name.
        return Ok(true);
    };
    if kept.peer.is_gone() {
        return Ok(false);
    }
    // SAFETY: As above.
    let (kind, path) = unsafe {
        (
            u32::from((*inode).i_mode) & bindings::S_IFMT,
            Path::of(dentry)?,
        )
    };
    let path = path.at_node()?;
    let is_directory = kind == bindings::S_IFDIR;
    if path == b"/" {
        return Ok(is_directory);
    }
    let in_the_middle = has(bindings::VREMOTE_LOOKUP_PARENT as c_uint);
    let trusts = !has(bindings::VREMOTE_LOOKUP_REVAL as c_uint);
    if is_directory && in_the_middle && trusts {
        return Ok(true);
    }
    let is_opened = has(bindings::VREMOTE_LOOKUP_OPEN as c_uint)
        && !has((bindings::VREMOTE_LOOKUP_CREATE | bindings::VREMOTE_LOOKUP_DIRECTORY) as c_uint);
    if kind == bindings::S_IFREG && is_opened && !in_the_middle && trusts {
        // `open` asks, and comes back here if it was another file.
        return Ok(true);
    }
    let (header, attributes) = match lookup_at(&kept.peer, path) {
        Err(error) if error == ENOENT => return Ok(false),
        answer => answer?,
    };
    let found = Some(Identity::of(&attributes));
    if kept.identity == found {
        kept.learn(&header, &attributes);
        return Ok(true);
    }
    Ok(kept.identity.is_none() && attributes.mode & bindings::S_IFMT == bindings::S_IFDIR)
}

/// `atomic_open`: for files to be created.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn atomic_open(
    directory: *mut inode,
    dentry: *mut dentry,
    file: *mut file,
    open_flags: c_uint,
    mode: umode_t,
) -> c_int {
    let mut dentry = dentry;
    let mut looked_up = core::ptr::null_mut();
    // SAFETY: The kernel opens a name in one of our directories, with a dentry that has no inode yet.
    unsafe {
        if bindings::vremote_dentry_in_lookup(dentry) {
            looked_up = lookup(directory, dentry, bindings::VREMOTE_LOOKUP_OPEN as c_uint);
            match kernel::error::from_err_ptr(looked_up) {
                Err(error) => return error.to_errno(),
                Ok(other) if !other.is_null() => dentry = other,
                Ok(_) => {}
            }
        }
        if open_flags & bindings::O_CREAT == 0 || !(*dentry).d_inode.is_null() {
            // Takes over the reference of `looked_up`.
            return bindings::finish_no_open(file, looked_up);
        }
        let status = errno(create(directory, dentry, file, open_flags, mode));
        if !looked_up.is_null() {
            bindings::dput(looked_up);
        }
        status
    }
}

/// Creates and opens a file.
///
/// # Safety
///
/// As `atomic_open`; `dentry` is hashed and has no inode.
unsafe fn create(
    directory: *mut inode,
    dentry: *mut dentry,
    file: *mut file,
    open_flags: c_uint,
    mode: umode_t,
) -> Result {
    // SAFETY: By this function's contract.
    let (kept, path) = unsafe { (Inode::of(directory).ok_or(EIO)?, Path::of(dentry)?) };
    let (id, header, attributes) =
        files::open_at(&kept.peer, path.at_node()?, open_flags, u32::from(mode))?;
    let close = |error: Error| {
        files::close_at(
            &kept.peer,
            files::session_of(&header),
            id,
            open_flags & bindings::O_ACCMODE != bindings::O_RDONLY,
        );
        error
    };
    // SAFETY: By this function's contract.
    let inode = unsafe { get((*directory).i_sb, &kept.peer, &header, &attributes) };
    let inode = inode.map_err(close)?;
    let raw = inode.as_ptr();
    // SAFETY: As above; the inode is referenced.
    unsafe {
        if u32::from((*raw).i_mode) & bindings::S_IFMT != bindings::S_IFREG {
            return Err(close(EIO));
        }
        bindings::d_drop(dentry);
        let alias = bindings::d_splice_alias(inode.into_raw(), dentry);
        kernel::error::from_err_ptr(alias).map_err(close)?;
        files::adopt(raw, file, id, &header, &attributes)?;
        bindings::vremote_mark_created(file);
        let opened =
            kernel::error::to_result(bindings::finish_open(file, dentry, Some(files::opened)));
        // What got as far as being opened is released by the kernel.
        if opened.is_err() && !bindings::vremote_file_is_opened(file) {
            files::disown(raw, file);
        }
        opened
    }
}

/// Makes a dentry that has no inode the name of what the origin says is there. Gives another dentry if the kernel has one for it already,
/// else null. `ENOMEM`.
///
/// # Safety
///
/// `directory` is one of our directories, `dentry` a name in it that is being created.
pub(super) unsafe fn place(
    directory: *mut inode,
    dentry: *mut dentry,
    peer: &Arc<Peer>,
    header: &Header,
    attributes: &Attributes,
) -> Result<*mut dentry> {
    // SAFETY: By this function's contract.
    unsafe {
        let inode = get((*directory).i_sb, peer, header, attributes)?;
        bindings::d_drop(dentry);
        kernel::error::from_err_ptr(bindings::d_splice_alias(inode.into_raw(), dentry))
    }
}

/// `permission`: see the top.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn permission(idmap: *mut mnt_idmap, inode: *mut inode, mask: c_int) -> c_int {
    // SAFETY: The kernel gives us one of our inodes.
    let mode = u32::from(unsafe { (*inode).i_mode });
    let executes = mask & bindings::MAY_EXEC as c_int != 0;
    let opens = mask & bindings::MAY_OPEN as c_int != 0;
    if matches!(
        mode & bindings::S_IFMT,
        bindings::S_IFIFO | bindings::S_IFSOCK
    ) {
        if opens && resolve::is_opening() {
            return ENXIO.to_errno();
        }
        // SAFETY: Passes on what the kernel gave us.
        return unsafe { bindings::generic_permission(idmap, inode, mask) };
    }
    let asks = mask & (bindings::MAY_ACCESS | bindings::MAY_CHDIR) as c_int != 0;
    let rights = mask as u32 & (bindings::MAY_READ | bindings::MAY_WRITE | bindings::MAY_EXEC);
    let kind = mode & bindings::S_IFMT;
    if asks && rights != 0 && (kind == bindings::S_IFREG || kind == bindings::S_IFDIR) {
        if mask & bindings::MAY_NOT_BLOCK as c_int != 0 {
            return ECHILD.to_errno();
        }
        // SAFETY: The kernel gives us one of our inodes, referenced.
        return match unsafe { may(inode, rights) } {
            // SAFETY: Passes on what the kernel gave us.
            Ok(None) => unsafe { bindings::generic_permission(idmap, inode, mask) },
            answer => errno(answer.map(|_| ())),
        };
    }
    // What is opened to be run is opened at the origin, which decides.
    if executes && !opens && kind == bindings::S_IFREG && mode & 0o111 == 0 {
        return EACCES.to_errno();
    }
    0
}

/// Asks whether the caller has rights. `None`: it has no path to ask about, or several, of which the caller may have no right to search
/// one; then what is known of mode and owner has to do.
///
/// # Safety
///
/// `inode` is one of our files or directories, and referenced.
unsafe fn may(inode: *mut inode, rights: u32) -> Result<Option<()>> {
    // SAFETY: By this function's contract.
    let Some(kept) = (unsafe { Inode::of(inode) }) else {
        return Ok(None);
    };
    // SAFETY: As above. The dentry is given back at once, its path is a copy.
    let path = unsafe {
        if bindings::vremote_inode_links(inode) != 1
            && u32::from((*inode).i_mode) & bindings::S_IFMT != bindings::S_IFDIR
        {
            return Ok(None);
        }
        let dentry = bindings::d_find_any_alias(inode);
        if dentry.is_null() {
            return Ok(None);
        }
        let path = Path::of(dentry);
        bindings::dput(dentry);
        path?
    };
    let path = path.at_node()?;
    if path == b"/" {
        return Ok(None);
    }
    match lookup_with(&kept.peer, path, rights) {
        Ok((_, attributes)) => Ok(kept
            .identity
            .is_none_or(|identity| identity == Identity::of(&attributes))
            .then_some(())),
        Err(error) if error == ENOENT && kept.identity.is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

/// `open` of a directory: whether its names may be read.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn open_directory(inode: *mut inode, file: *mut file) -> c_int {
    // SAFETY: The kernel opens `file` on `inode`, one of our directories.
    errno(unsafe { may_list(inode, file) })
}

/// # Safety
///
/// As `open_directory`.
unsafe fn may_list(inode: *mut inode, file: *mut file) -> Result {
    // SAFETY: By this function's contract.
    let Some(kept) = (unsafe { Inode::of(inode) }) else {
        return Ok(());
    };
    // SAFETY: As above. Of one that was removed there are no names.
    if unsafe { bindings::vremote_inode_links(inode) } == 0 {
        return Ok(());
    }
    // SAFETY: As above: the path of a file being opened is set, and the file keeps its dentry.
    let path = unsafe { Path::of(bindings::vremote_file_dentry(file)) }?;
    let path = path.at_node()?;
    if path == b"/" {
        return Ok(());
    }
    let (_, attributes) = lookup_with(&kept.peer, path, bindings::MAY_READ)?;
    match kept.identity {
        // Another directory has the name by now: the kernel looks the name up again, and comes back with that one.
        Some(identity) if identity != Identity::of(&attributes) => Err(EOPENSTALE),
        _ if attributes.mode & bindings::S_IFMT != bindings::S_IFDIR => Err(ENOTDIR),
        _ => Ok(()),
    }
}

/// `getattr`.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn getattr(
    _idmap: *mut mnt_idmap,
    path: *const path,
    stat: *mut kstat,
    mask: u32,
    _query: c_uint,
) -> c_int {
    // SAFETY: The kernel gives us a path on our superblock, with an inode.
    unsafe {
        let inode = (*(*path).dentry).d_inode;
        errno(refresh((*path).dentry, inode).map(|seen| {
            bindings::vremote_inode_fill_stat(inode, stat, mask);
            if let Some((device, ino)) = seen {
                (*stat).dev = device;
                (*stat).ino = ino;
            }
        }))
    }
}

/// Brings the attributes up to date; gives device and number, but for what is only taken to be there.
///
/// # Safety
///
/// `dentry` is one of ours, `inode` its inode.
unsafe fn refresh(dentry: *mut dentry, inode: *mut inode) -> Result<Option<(dev_t, u64)>> {
    // SAFETY: By this function's contract.
    let Some(kept) = (unsafe { Inode::of(inode) }) else {
        return Ok(None);
    };
    let seen = |identity: Identity| -> Result<Option<(dev_t, u64)>> {
        let device = device::number(kept.peer.slot, identity.device)?;
        Ok(Some((device, identity.ino)))
    };
    if let Some(identity) = kept.identity.filter(|_| kept.open_id() != 0) {
        kept.refresh_times()?;
        return seen(identity);
    }
    // SAFETY: By this function's contract.
    if let (Some(identity), true) = (kept.identity, unsafe {
        bindings::vremote_inode_links(inode) == 0
    }) {
        // There is nothing left that the origin could be asked about.
        return seen(identity);
    }
    // SAFETY: By this function's contract.
    let path = unsafe { Path::of(dentry) }?;
    let path = path.at_node()?;
    if path == b"/" {
        // A node's own directory: what is there is nobody's business but the origin's.
        return Ok(None);
    }
    let (header, attributes) = lookup_at(&kept.peer, path)?;
    // SAFETY: By this function's contract.
    let kind = u32::from(unsafe { (*inode).i_mode }) & bindings::S_IFMT;
    let found = Identity::of(&attributes);
    let same = match kept.identity {
        Some(identity) => identity == found,
        None => attributes.mode & bindings::S_IFMT == kind,
    };
    if !same {
        return Err(ESTALE);
    }
    kept.learn(&header, &attributes);
    seen(found)
}

/// `setattr`.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn setattr(
    _idmap: *mut mnt_idmap,
    dentry: *mut dentry,
    attributes: *mut iattr,
) -> c_int {
    // SAFETY: The kernel gives us a dentry of ours with an inode, and what to set.
    unsafe {
        let inode = (*dentry).d_inode;
        let valid = (*attributes).ia_valid;
        if valid & bindings::ATTR_SIZE == 0 {
            // A time that is set is later than what was written before.
            if let Some(kept) = Inode::of(inode).filter(|kept| kept.touched.load(Relaxed)) {
                let _ = kept.refresh_times();
            }
            return errno(namespace::set_attributes(dentry, attributes));
        }
        // What comes along with a size, times and the loss of set-id bits, is for the origin to do.
        if valid & bindings::ATTR_OPEN != 0 {
            // O_TRUNC: `Open` has carried it to the origin.
            return 0;
        }
        // The caller's limit of file sizes is not known at the origin.
        let allowed = bindings::inode_newsize_ok(inode, (*attributes).ia_size);
        if allowed != 0 {
            return allowed;
        }
        let descriptor = (valid & bindings::ATTR_FILE != 0).then_some((*attributes).ia_file);
        errno(files::set_size(
            dentry,
            inode,
            descriptor,
            (*attributes).ia_size as u64,
        ))
    }
}

/// The node of this name, for the root: a directory, or a link to the root of the caller if it is this node itself. `ENOENT`, `ENOMEM`.
///
/// # Safety
///
/// `sb` is our superblock.
pub(super) unsafe fn node(sb: *mut super_block, name: &[u8]) -> Result<InodeRef> {
    if name == net::own_name() {
        // SAFETY: By this function's contract.
        return unsafe { fs::own_name(sb) };
    }
    let peer = peer::by_name(name).ok_or(ENOENT)?;
    // SAFETY: By this function's contract.
    unsafe { assume_directory(sb, &peer) }
}
