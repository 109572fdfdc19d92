// SPDX-License-Identifier: GPL-2.0

//! Exported directories, and acting as the remote user who opens something.

use kernel::{
    error::{from_err_ptr, to_result},
    prelude::*,
    sync::{Arc, SetOnce},
};

use super::{lookup::Object, share::OwnFile};
use crate::bindings;
use crate::proto::{limits::MAX_GROUPS, wire::Credentials};

/// A directory whose files remotes may open.
pub(super) struct Export {
    /// Name in configfs.
    id: KVec<u8>,
    /// Absolute, without a slash at the end; empty for the root directory.
    pub(super) path: KVec<u8>,
    /// The directory itself: wherever it is moved to, it stays this export, and is reached by `path`.
    pub(super) root: Object,
    pub(super) root_squash: bool,
}

kernel::sync::global_lock! {
    // SAFETY: Initialised in `init`, before anything can ask.
    unsafe(uninit) static EXPORTS: Mutex<KVec<Arc<Export>>> = KVec::new();
}

/// The root directory of the process that loaded the module: absolute paths of files shared by descriptor start here. It is
/// an export that is not in the list.
static ROOT: SetOnce<Export> = SetOnce::new();

/// Prepares the list. Called once, at load.
pub(super) fn init() {
    // SAFETY: Called once, before any use of the lock.
    unsafe { EXPORTS.init() };
    let mut root = bindings::path::default();
    // SAFETY: `root` is ours; we are in the process that loads the module.
    unsafe { bindings::vremote_origin_root(&mut root) };
    ROOT.populate(Export {
        id: KVec::new(),
        path: KVec::new(),
        // SAFETY: It was counted for us.
        root: unsafe { Object::from_counted(root) },
        root_squash: false,
    });
}

/// Lets go of the root directory. Called once, at unload.
pub(super) fn exit() {
    if let Some(root) = ROOT.as_ref() {
        // SAFETY: The references were taken in `init`, and statics are not dropped.
        unsafe { bindings::path_put(root.root.as_ptr()) };
    }
}

/// The root directory, for files that are shared by a descriptor.
pub(super) fn root() -> Option<&'static Export> {
    ROOT.as_ref()
}

/// Forgets all exports.
pub(super) fn clear() {
    let old = core::mem::take(&mut *EXPORTS.lock());
    drop(old);
}

/// All exports, as they are now.
///
/// # Errors
///
/// `ENOMEM`.
pub(super) fn snapshot() -> Result<KVec<Arc<Export>>> {
    let exports = EXPORTS.lock();
    let mut copy = KVec::with_capacity(exports.len(), GFP_KERNEL)?;
    for export in exports.iter() {
        copy.push_within_capacity(export.clone())
            .map_err(|_| ENOMEM)?;
    }
    Ok(copy)
}

/// The path without the slashes at its end.
fn trim(path: &[u8]) -> &[u8] {
    let end = path
        .iter()
        .rposition(|byte| *byte != b'/')
        .map_or(0, |at| at + 1);
    &path[..end]
}

/// Lets remotes open what lies below the directory `path` (absolute, any bytes but NUL). With `root_squash`, uid and gid 0
/// of a remote count as nobody (65534). `id` names the export for [`del`].
///
/// # Errors
///
/// `EINVAL` (not absolute), `EEXIST` (this id or this directory is exported already), `ENOENT`, `ENOTDIR`, `ENOMEM`.
pub(crate) fn add(id: &[u8], path: &[u8], root_squash: bool) -> Result {
    if path.first() != Some(&b'/') {
        return Err(EINVAL);
    }
    let name = c_string(path)?;
    let mut root = bindings::path::default();
    // SAFETY: The name ends with NUL, `root` is ours; we may sleep.
    to_result(unsafe { bindings::vremote_origin_path(name.as_char_ptr(), &mut root) })?;
    let mut export = Export {
        id: KVec::new(),
        path: KVec::new(),
        // SAFETY: It was counted for us.
        root: unsafe { Object::from_counted(root) },
        root_squash,
    };
    export.id.extend_from_slice(id, GFP_KERNEL)?;
    export.path.extend_from_slice(trim(path), GFP_KERNEL)?;
    let export = Arc::new(export, GFP_KERNEL)?;
    let mut exports = EXPORTS.lock();
    if exports
        .iter()
        .any(|other| other.path[..] == export.path[..] || other.id[..] == export.id[..])
    {
        return Err(EEXIST);
    }
    exports.push(export, GFP_KERNEL)?;
    Ok(())
}

/// Ends an export, if there is one of this id; what remotes have open below it stays open.
pub(crate) fn del(id: &[u8]) {
    let mut exports = EXPORTS.lock();
    let at = exports.iter().position(|export| export.id[..] == *id);
    let old = at.and_then(|at| exports.remove(at).ok());
    drop(exports);
    drop(old);
}

/// The innermost export that `path` (absolute, normalised) lies in, and the rest of the path below it.
pub(super) fn containing(path: &[u8]) -> Option<(Arc<Export>, &[u8])> {
    let exports = EXPORTS.lock();
    exports
        .iter()
        .filter(|export| {
            path.starts_with(&export.path)
                && matches!(path.get(export.path.len()), None | Some(b'/'))
        })
        .max_by_key(|export| export.path.len())
        .map(|export| {
            (
                export.clone(),
                path[export.path.len()..].strip_prefix(b"/").unwrap_or(&[]),
            )
        })
}

/// The innermost export that an open file lies in, whatever has become of its name.
pub(super) fn around(file: &OwnFile) -> Option<Arc<Export>> {
    let exports = EXPORTS.lock();
    exports
        .iter()
        // SAFETY: The file is open, the export's root is counted.
        .filter(|export| unsafe {
            bindings::vremote_origin_is_below(file.as_ptr(), export.root.as_ptr())
        })
        .max_by_key(|export| export.path.len())
        .cloned()
}

/// Whether `path` is a proper prefix of `below`, component by component.
pub(super) fn is_above(path: &[u8], below: &[u8]) -> bool {
    let path = trim(path);
    below.starts_with(path) && below.get(path.len()) == Some(&b'/')
}

/// A string with a NUL at its end.
///
/// # Errors
///
/// `EINVAL` if there is a NUL inside, `ENOMEM`.
pub(super) fn c_string(bytes: &[u8]) -> Result<CName> {
    if bytes.contains(&0) {
        return Err(EINVAL);
    }
    let mut name = KVec::with_capacity(bytes.len() + 1, GFP_KERNEL)?;
    name.extend_from_slice(bytes, GFP_KERNEL)?;
    name.push(0, GFP_KERNEL)?;
    Ok(CName(name))
}

/// Any bytes but NUL, and a NUL: a file name for the kernel.
pub(super) struct CName(KVec<u8>);

impl CName {
    /// For calls into C.
    pub(super) fn as_char_ptr(&self) -> *const kernel::ffi::c_char {
        self.0.as_ptr().cast()
    }

    /// Without the NUL.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.strip_suffix(b"\0").unwrap_or(&self.0)
    }
}

/// While it lives, the task has the rights of a remote user.
pub(super) struct Acting(*const bindings::cred);

impl Acting {
    /// Takes on the remote user's ids; with `squash`, 0 becomes nobody.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn begin(user: &Credentials<'_>, squash: bool) -> Result<Acting> {
        let mut groups = [0u32; MAX_GROUPS];
        let mut count = 0;
        for (slot, group) in groups.iter_mut().zip(user.groups()) {
            *slot = group;
            count += 1;
        }
        // SAFETY: The array has `count` valid entries; the task is a worker, whose credentials nobody else changes.
        let old = unsafe {
            bindings::vremote_origin_become(user.uid, user.gid, groups.as_ptr(), count, squash)
        };
        from_err_ptr(old.cast_mut()).map(|old| Acting(old.cast_const()))
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        // SAFETY: The pointer is what `begin` replaced, on this very task: the type is not Send.
        unsafe { bindings::vremote_origin_unbecome(self.0) };
    }
}
