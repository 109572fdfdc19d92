// SPDX-License-Identifier: GPL-2.0

//! Keeping the module loaded while something of it is in use.

use kernel::{bindings, module::this_module};

/// This module, for structures with an owner.
pub(crate) const THIS_MODULE: *mut bindings::module = this_module::<crate::VRemote>().as_ptr();

/// Keeps the module from being unloaded, until [`unpin`]. The caller runs in it, so it is not being unloaded already.
pub(crate) fn pin() {
    // SAFETY: The module is loaded: we run in it.
    unsafe { bindings::__module_get(THIS_MODULE) };
}

/// Undoes one [`pin`].
pub(crate) fn unpin() {
    // SAFETY: Paired with a `pin`.
    unsafe { bindings::module_put(THIS_MODULE) };
}
