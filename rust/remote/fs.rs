// SPDX-License-Identifier: GPL-2.0

//! The file system type `vremote`: one superblock, whose root has a directory for each peer and, under this node's own name, a link to
//! `/`.
//!
//! All mounts share the superblock, so a file is the same inode in each of them. Opens by path need no mount: [`Root`] makes one for the
//! moment. A superblock counts as a user of the module, so the module stays as long as anything is mounted or open, and a mount of our own
//! must not last: it is dropped with the last file that was opened through it.

use kernel::{
    bindings::{
        delayed_call, dentry, dir_context, file, inode, kstat, mnt_idmap, path, super_block,
        umode_t,
    },
    ffi::{c_char, c_int, c_uint},
    prelude::*,
};

use super::{errno, inode as names, namespace, state::Inode, InodeRef};
use crate::bindings;
use crate::net::{self, peer};

/// Where users mount it, unless they choose another place: paths below it name a node, whether it is mounted or not.
pub(crate) const MOUNT_POINT: &[u8] = b"/vremote";

/// `statfs` shows it: "vrmt".
const MAGIC: usize = 0x7672_6d74;

/// Pages that are read ahead of a sequential reader: 1 MiB, so that several requests of this size are in flight.
const READAHEAD_PAGES: usize = 256;

/// A table of operations.
pub(super) struct Operations<T>(pub(super) T);

// SAFETY: Tables of function pointers are never changed.
unsafe impl<T> Sync for Operations<T> {}

impl<T> Operations<T> {
    pub(super) const fn get(&'static self) -> *const T {
        &raw const self.0
    }
}

static SUPER: Operations<bindings::super_operations> = Operations(bindings::super_operations {
    drop_inode: Some(bindings::vremote_inode_drop),
    free_inode: Some(free_inode),
    evict_inode: Some(evict_inode),
    statfs: Some(statfs),
    ..pin_init::zeroed()
});

static DENTRY: Operations<bindings::dentry_operations> = Operations(bindings::dentry_operations {
    d_revalidate: Some(names::revalidate),
    ..pin_init::zeroed()
});

static ROOT: Operations<bindings::inode_operations> = Operations(bindings::inode_operations {
    lookup: Some(lookup),
    ..pin_init::zeroed()
});

static ROOT_FILE: Operations<bindings::file_operations> = Operations(bindings::file_operations {
    iterate_shared: Some(iterate),
    read: Some(bindings::generic_read_dir),
    llseek: Some(bindings::generic_file_llseek),
    fsync: Some(bindings::noop_fsync),
    ..pin_init::zeroed()
});

static OWN_NAME: Operations<bindings::inode_operations> = Operations(bindings::inode_operations {
    get_link: Some(get_own_link),
    getattr: Some(getattr),
    ..pin_init::zeroed()
});

/// Registers the type. Process context; `EBUSY` if there is one of this name.
pub(super) fn register() -> Result {
    // SAFETY: The callback lives as long as the module.
    kernel::error::to_result(unsafe { bindings::vremote_fs_register(Some(fill)) })
}

/// Unregisters the type; nothing is mounted. Process context.
pub(super) fn unregister() {
    // SAFETY: Registered before; the module is going, so it has no users.
    unsafe { bindings::vremote_fs_unregister() };
}

/// `statfs`: of the origin's file system, where there is one.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn statfs(dentry: *mut dentry, space: *mut bindings::kstatfs) -> c_int {
    // SAFETY: The kernel gives us a dentry of ours with an inode, and something to fill.
    errno(unsafe {
        kernel::error::to_result(bindings::simple_statfs(dentry, space))
            .and_then(|()| namespace::fill_space(dentry, space))
    })
}

/// Fills a new superblock.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn fill(sb: *mut super_block) -> c_int {
    // SAFETY: The kernel gives us a new superblock.
    errno(unsafe { fill_super(sb) })
}

/// # Safety
///
/// `sb` is a new superblock.
unsafe fn fill_super(sb: *mut super_block) -> Result {
    // SAFETY: By this function's contract; the tables live as long as the module.
    unsafe {
        (*sb).s_magic = MAGIC;
        (*sb).s_blocksize = kernel::page::PAGE_SIZE;
        (*sb).s_blocksize_bits = kernel::page::PAGE_SHIFT as u8;
        (*sb).s_op = SUPER.get();
        // Before the first inode: it notes whether there are any.
        (*sb).s_xattr = super::xattr::HANDLERS.get().cast();
        bindings::set_default_d_op(sb, DENTRY.get());
        kernel::error::to_result(bindings::vremote_fs_set_up(sb, READAHEAD_PAGES))?;
        let root = bindings::new_inode(sb);
        if root.is_null() {
            return Err(ENOMEM);
        }
        (*root).i_ino = 1;
        (*root).i_mode = (bindings::S_IFDIR | 0o555) as umode_t;
        bindings::vremote_inode_is_directory(root);
        (*root).i_op = ROOT.get();
        (*root).__bindgen_anon_3.i_fop = ROOT_FILE.get();
        bindings::simple_inode_init_ts(root);
        // Takes over the reference, also when it fails.
        (*sb).s_root = bindings::d_make_root(root);
        if (*sb).s_root.is_null() {
            return Err(ENOMEM);
        }
    }
    Ok(())
}

/// `evict_inode`.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn evict_inode(inode: *mut inode) {
    // SAFETY: The kernel evicts one of our inodes, which nobody else uses.
    unsafe {
        match Inode::counted(inode) {
            Some(kept) => kept.evict(),
            None => bindings::truncate_inode_pages_final(&raw mut (*inode).i_data),
        }
        bindings::clear_inode(inode);
    }
}

/// `free_inode`.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn free_inode(inode: *mut inode) {
    // SAFETY: Called by RCU for an inode of ours that was evicted a grace period ago.
    unsafe {
        Inode::bury(inode);
        bindings::free_inode_nonrcu(inode);
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
    _flags: c_uint,
) -> *mut dentry {
    // SAFETY: The kernel looks up a name in our root, whose lock keeps the name as it is.
    unsafe {
        let mut length = 0;
        let name = bindings::vremote_dentry_name(dentry, &mut length);
        let name = core::slice::from_raw_parts(name.cast::<u8>(), length as usize);
        names::bind(dentry, names::node((*directory).i_sb, name))
    }
}

/// `iterate_shared`.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn iterate(file: *mut file, context: *mut dir_context) -> c_int {
    // SAFETY: The kernel lists our root, with a context that is ours during the call.
    unsafe {
        if !bindings::vremote_dir_emit_dots(file, context) {
            return 0;
        }
        let emit = |context: *mut dir_context, name: &[u8], ino: u64, link: bool| {
            bindings::vremote_dir_emit(
                context,
                name.as_ptr().cast(),
                name.len() as c_int,
                ino,
                if link {
                    bindings::DT_LNK
                } else {
                    bindings::DT_DIR
                },
            )
        };
        if (*context).pos == 2 {
            if !emit(context, net::own_name(), 2, true) {
                return 0;
            }
            (*context).pos = 3;
        }
        let peers = match peer::snapshot() {
            Ok(peers) => peers,
            Err(error) => return error.to_errno(),
        };
        for peer in peers {
            // A peer's place is its slot's, so that peers that come and go meanwhile move no other.
            let place = 3 + i64::from(peer.slot);
            if (*context).pos <= place {
                (*context).pos = place;
                if !emit(context, peer.name(), place as u64, false) {
                    return 0;
                }
                (*context).pos = place + 1;
            }
        }
        0
    }
}

/// This node's own name: a link to the root of whoever follows it. `ENOMEM`.
///
/// # Safety
///
/// `sb` is our superblock.
pub(super) unsafe fn own_name(sb: *mut super_block) -> Result<InodeRef> {
    // SAFETY: By this function's contract.
    let raw = unsafe { bindings::new_inode(sb) };
    if raw.is_null() {
        return Err(ENOMEM);
    }
    // SAFETY: A new inode, ours alone, whose reference we give to the `InodeRef`.
    unsafe {
        (*raw).i_ino = 2;
        (*raw).i_mode = (bindings::S_IFLNK | 0o777) as umode_t;
        (*raw).i_op = OWN_NAME.get();
        (*raw).i_size = 1;
        bindings::simple_inode_init_ts(raw);
        Ok(InodeRef::from_raw(raw))
    }
}

/// `get_link` of the own name.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn get_own_link(
    _dentry: *mut dentry,
    _inode: *mut inode,
    _done: *mut delayed_call,
) -> *const c_char {
    c"/".as_char_ptr()
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
    unsafe { bindings::vremote_inode_fill_stat((*(*path).dentry).d_inode, stat, mask) };
    0
}

/// The root of our superblock on a mount of our own, for as long as it is needed to open a file.
pub(super) struct Root(path);

impl Root {
    /// Process context, sleeps; `ENOMEM`.
    pub(super) fn pin() -> Result<Root> {
        let mut root = path::default();
        // SAFETY: The type is registered: this is called for opens, which the hooks let through between `init` and `exit`.
        kernel::error::to_result(unsafe { bindings::vremote_fs_pin(&mut root) })?;
        Ok(Root(root))
    }

    pub(super) fn path(&self) -> &path {
        &self.0
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // SAFETY: Pinned in `pin`.
        unsafe { bindings::vremote_fs_unpin(&mut self.0) };
    }
}
