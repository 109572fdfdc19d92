// SPDX-License-Identifier: GPL-2.0

//! Files of this node that other nodes use.

mod drain;
mod export;
mod fileattr;
mod grant;
mod local;
mod lock;
mod lookup;
mod namespace;
mod pages;
mod quota;
mod serve;
mod share;
mod xattr;

use core::fmt::{self, Write};

use kernel::{
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        Arc,
    },
};

use crate::bindings;
use crate::net::peer;
use crate::proto::{directory::Want, nodes::Node};
use crate::workqueue::ModuleQueue;

pub(crate) use drain::{drain, is_drained};
pub(crate) use export::add as export_add;
pub(crate) use serve::receive;
pub(crate) use share::by_mapping;

/// For requests, and what else may wait for pages.
static REQUESTS: ModuleQueue = ModuleQueue::new();
/// For grants and installs: never behind requests that wait for them.
static PAGES: ModuleQueue = ModuleQueue::new();

/// The module is about to go: nobody may open anything any more.
static CLOSING: Atomic<bool> = Atomic::new(false);

/// Waits until all work has ended that was queued before. Not in a work item of a queue.
fn flush() {
    REQUESTS.flush();
    PAGES.flush();
}

/// A number that tells the running task from all others.
fn task() -> usize {
    // SAFETY: No precondition.
    unsafe { bindings::vremote_origin_task() }
}

/// Prepares everything; nothing is shared yet.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn init() -> Result {
    // SAFETY: Called once, before any use of the credentials.
    kernel::error::to_result(unsafe { bindings::vremote_origin_init() })?;
    share::init();
    export::init();
    serve::init();
    REQUESTS
        .init(c"vremote")
        .and_then(|()| PAGES.init(c"vremote_pages"))
        .inspect_err(|_| exit())
}

/// Takes home what remotes still have cached of files that nobody has open, and ends all shares. Called at unload, with the
/// network and the hooks still at work.
pub(crate) fn quiesce() {
    CLOSING.store(true, Relaxed);
    export::clear();
    for share in share::all() {
        settle(&share);
    }
}

/// Frees everything. Called at unload, after the network and the hooks are gone.
pub(crate) fn exit() {
    // In this order: requests leave work for pages behind.
    REQUESTS.exit();
    PAGES.exit();
    serve::exit();
    share::exit();
    export::exit();
    // SAFETY: `init` succeeded in this, and nothing is written any more.
    unsafe { bindings::vremote_origin_exit() };
}

/// Takes home every page of the share; then ends it, if still nobody uses it.
fn settle(share: &Arc<share::Share>) {
    if let Err(error) = share.acquire_range(0, u64::MAX, Want::Write) {
        if crate::net::may_log() {
            pr_warn!("file {}: not all pages came home: {:?}\n", share.id, error);
        }
    }
    share.retire();
}

/// A local open with `O_REMOTE|O_ORIGIN` succeeded: shares the file.
///
/// # Errors
///
/// Those of `Share::of`; `ESHUTDOWN` if the module is about to go.
///
/// # Safety
///
/// `file` must be valid during the call.
pub(crate) unsafe fn share(file: *mut bindings::file) -> Result {
    loop {
        if CLOSING.load(Relaxed) {
            return Err(ESHUTDOWN);
        }
        // SAFETY: `file` is valid by this function's contract.
        let share = unsafe { share::Share::of(file) }?;
        let mut state = share.state.lock();
        if !state.dead {
            state.descriptors += 1;
            crate::pin::pin();
            return Ok(());
        }
    }
}

/// The last reference to a descriptor for which [`share`] succeeded is gone.
///
/// # Safety
///
/// `file` must be valid during the call.
pub(crate) unsafe fn unshare(file: *mut bindings::file) {
    // SAFETY: `file` is valid by this function's contract.
    let mapping = unsafe { bindings::vremote_origin_mapping(file) };
    let Some(share) = by_mapping(mapping) else {
        return;
    };
    {
        let mut state = share.state.lock();
        state.descriptors = state.descriptors.saturating_sub(1);
    }
    // In a work item: an exiting task has no root directory any more, by which paths are named, and nobody wants its close to wait.
    let _ = REQUESTS
        .queue()
        .try_spawn(GFP_KERNEL, move || serve::settle_if_idle(&share));
    crate::pin::unpin();
}

/// Ends an export, if there is one of this id. What remotes have open below it stays open; all else is let go, so that its file
/// system can be unmounted.
pub(crate) fn export_del(id: &[u8]) {
    export::del(id);
    for share in share::all() {
        serve::settle_if_idle(&share);
    }
}

/// Lets go of deleted files that nobody has open, so that their blocks are freed, and of locks whose holders are silent; takes pages home
/// that nobody is to write to any more. Called about every second, by the timer: the work is done in a work item.
pub(crate) fn sweep() {
    let _ = REQUESTS.queue().try_spawn(GFP_NOWAIT, || {
        for share in share::all() {
            if share.deleted() {
                serve::settle_if_idle(&share);
            }
            share.end_ownership_soon();
            for node in share.contended().iter() {
                if let Some(peer) = peer::by_slot(node) {
                    peer.suspect_if_silent();
                }
            }
        }
    });
}

/// Whether this node itself has a file at this path (absolute, normalised) that remotes may open.
pub(crate) fn local_share(path: &[u8]) -> bool {
    serve::by_descriptor(path).is_some() || export::containing(path).is_some()
}

/// A peer is about to be removed: brings home what it holds, while it still can be asked. Process context, waits for it within the
/// module's time-out.
pub(crate) fn peer_leaving(slot: Node) {
    for share in share::all() {
        if let Err(error) = share.acquire_from(Some(slot), 0, u64::MAX, Want::Write) {
            if crate::net::may_log() {
                pr_warn!("file {}: not all pages came home: {:?}\n", share.id, error);
            }
        }
    }
}

/// Whether the peer in this slot holds a page. Process context.
pub(crate) fn holds(slot: Node) -> bool {
    share::all().any(|share| share.holds(slot))
}

/// A peer was removed, has started anew, or was fenced. Process context.
pub(crate) fn peer_gone(slot: Node) {
    serve::forget(slot);
    for share in share::all() {
        let owned = share.gone(slot);
        if owned != 0 && crate::net::may_log() {
            pr_warn!(
                "file {}: {} pages that a node may have written are taken back in their last versions here\n",
                share.id,
                owned
            );
        }
        share.unlock_all(slot);
        serve::settle_if_idle(&share);
    }
}

/// Writes the members `"drained"`, `"exports"` and `"shares"` of a JSON object.
pub(crate) fn status(out: &mut impl Write) -> fmt::Result {
    write!(out, "\"drained\":{},\"exports\":[", is_drained())?;
    for (at, export) in export::snapshot().unwrap_or_default().iter().enumerate() {
        let path: &[u8] = if export.path.is_empty() {
            b"/"
        } else {
            &export.path
        };
        write!(out, "{}{{\"path\":", if at == 0 { "" } else { "," })?;
        crate::stats::write_json_string(out, path)?;
        write!(out, ",\"root_squash\":{}}}", export.root_squash)?;
    }
    out.write_str("],\"shares\":[")?;
    for (at, share) in share::all().enumerate() {
        let (pages, owned, active, stashed, descriptors, opens) = {
            let state = share.state.lock();
            (
                state.pages.values().count(),
                state
                    .pages
                    .values()
                    .filter(|page| page.owner.is_some())
                    .count(),
                state.active.values().count(),
                state.stash.values().count(),
                state.descriptors,
                state
                    .opens
                    .iter()
                    .map(|opens| opens.readers + opens.writers)
                    .sum::<u32>(),
            )
        };
        write!(
            out,
            "{}{{\"file\":{},\"path\":",
            if at == 0 { "" } else { "," },
            share.id
        )?;
        crate::stats::write_json_string(
            out,
            lookup::Object::of(&share).path().as_deref().unwrap_or(b""),
        )?;
        write!(
            out,
            ",\"size\":{},\"descriptors\":{descriptors},\"remote_opens\":{opens},\"pages_shared\":{},\"pages_owned\":{owned},\
             \"transactions\":{active},\"pages_stashed\":{stashed}}}",
            share.size(),
            pages - owned,
        )?;
    }
    out.write_str("]")
}
