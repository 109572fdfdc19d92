// SPDX-License-Identifier: GPL-2.0

//! Flags of this node's files and directories, as remotes read and set them with lsattr(1) and chattr(1): with the rights of the remote user
//! and the errors of the local file system.
//!
//! They are read of everything that a remote may look up, and set where names are changed: below an export. Flags that say how bytes or
//! names are kept are for local programs alone (`EOPNOTSUPP`).
//!
//! Of a file that is immutable, or for appending only, no remote owns a page: the kernel's own checks meet all else that may be done from
//! afar, and would not see what is written to a page that is owned there.

use kernel::{error::to_result, prelude::*, sync::Arc};

use super::{
    export::Acting,
    namespace::{look, meant, open_file, open_file_in, place},
    serve,
    share::{self, Share},
    REQUESTS,
};
use crate::bindings;
use crate::proto::{
    directory::Want,
    nodes::Node,
    wire::{file_attr, Attributes, Credentials, FileAttr, Header, Names},
};

/// `GetFileAttr`. What only shows the way to something has no flags.
pub(super) fn get(node: Node, header: &Header, payload: &[u8]) -> Result<FileAttr> {
    let (user, path) = serve::who_and_where(payload)?;
    let open = open_file(node, header)?;
    let nothing = || Ok(FileAttr::default());
    look(&user, path, &open, header.index, nothing, |object| {
        let mut found = bindings::vremote_fileattr::default();
        // SAFETY: The path is counted, `found` is ours; we may sleep.
        to_result(unsafe { bindings::vremote_names_get_fileattr(object.as_ptr(), &mut found) })?;
        Ok(FileAttr {
            flags: found.flags,
            xflags: found.xflags,
            extent_bytes: found.extent_bytes,
            extents: found.extents,
            project: found.project,
            cow_extent_bytes: found.cow_extent_bytes,
        })
    })
}

/// `SetFileAttr`; gives the attributes of the file then. When it returns, what it says of the file's bytes holds on all nodes.
pub(super) fn set(node: Node, header: &Header, payload: &[u8]) -> Result<Attributes> {
    let (user, rest) = Credentials::decode(payload).ok_or(EINVAL)?;
    let names = Names::decode(header, rest).ok_or(EINVAL)?;
    let wanted = FileAttr::decode(names.second).ok_or(EINVAL)?;
    let wanted = bindings::vremote_fileattr {
        flags: wanted.flags,
        xflags: wanted.xflags,
        extent_bytes: wanted.extent_bytes,
        extents: wanted.extents,
        project: wanted.project,
        cow_extent_bytes: wanted.cow_extent_bytes,
    };
    let by_flags = match header.size {
        file_attr::FLAGS => true,
        file_attr::XFLAGS => false,
        _ => return Err(EINVAL),
    };
    let (export, rest) = place(names.first)?;
    let open = open_file_in(node, header, &export)?;
    let mut mapping = core::ptr::null_mut();
    let attributes = {
        let _acting = Acting::begin(&user, export.root_squash)?;
        let object = meant(&export, rest, &open, header.index)?;
        // SAFETY: The path is counted, all else is ours; we may sleep.
        to_result(unsafe {
            bindings::vremote_names_set_fileattr(object.as_ptr(), &wanted, by_flags, &mut mapping)
        })?;
        object.attributes()
    };
    // Should the file have gone since, and another one have come to its address, nothing is lost by that.
    if let Some(share) = share::by_mapping(mapping) {
        share.end_ownership()?;
    }
    attributes
}

impl Share {
    /// Whether bytes that are there may be replaced: not if the file is immutable, or for appending only.
    pub(super) fn overwritable(&self) -> bool {
        // SAFETY: The file is open.
        unsafe { bindings::vremote_origin_overwritable(self.file.as_ptr()) }
    }

    /// Takes all pages from their owners if nothing is to be overwritten; from then on nobody gets any. Sleeps.
    fn end_ownership(self: &Arc<Self>) -> Result {
        if self.overwritable() {
            return Ok(());
        }
        self.acquire_range(0, u64::MAX, Want::Read)
    }

    /// The same for a file of which a local program may have made that: leaves it to a work item. Called about every second.
    pub(super) fn end_ownership_soon(self: &Arc<Self>) {
        if self.overwritable() {
            return;
        }
        {
            let mut state = self.state.lock();
            if state.disowning || !state.pages.values().any(|page| page.owner.is_some()) {
                return;
            }
            state.disowning = true;
        }
        let share = self.clone();
        // What does not succeed is tried again the next time.
        let spawned = REQUESTS.queue().try_spawn(GFP_KERNEL, move || {
            let _ = share.end_ownership();
            share.state.lock().disowning = false;
        });
        if spawned.is_err() {
            self.state.lock().disowning = false;
        }
    }
}
