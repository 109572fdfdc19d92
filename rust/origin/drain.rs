// SPDX-License-Identifier: GPL-2.0

//! Hand-over of this origin, before it is taken down on purpose: what remotes have written comes home and onto disk, and they write
//! nothing more. They may read on; whoever wants to change something is refused with `EROFS`, as after a remount for reading.
//!
//! It lasts until it is ended, or the module goes.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            ordering::{Full, Relaxed},
            Atomic,
        },
        Arc,
    },
};

use super::share::{self, Share};
use crate::proto::directory::Want;

/// Times that a file is looked through until nothing is away: each takes what others had asked for before the drain.
const PASSES: usize = 100;

static DRAINED: Atomic<bool> = Atomic::new(false);

/// Whether remotes are refused what [changes](crate::proto::wire::Kind::changes) something. Any context.
pub(crate) fn is_drained() -> bool {
    DRAINED.load(Relaxed)
}

/// Begins a hand-over, or ends it. When the beginning has succeeded, everything that any remote was ever confirmed is on this node's
/// disks, but for names, and for files that are shared no more: those need a sync of their file systems. Process context; for each page
/// waits as long as a round may take.
///
/// # Errors
///
/// The last of those that are in the log: `ETIMEDOUT`, `EINTR`, `ENOMEM`, `EAGAIN` (pages are wanted by too many), or what writing to disk
/// returned. Changes are refused even so.
pub(crate) fn drain(begin: bool) -> Result {
    let before = DRAINED.xchg(begin, Full);
    if before != begin {
        pr_info!(
            "{}\n",
            if begin {
                "drained: remotes may read here, and change nothing"
            } else {
                "no longer drained"
            }
        );
    }
    if !begin {
        return Ok(());
    }
    // What was let through before runs to its end.
    crate::net::udp::quiesce();
    super::flush();
    let mut result = Ok(());
    for share in share::all() {
        let done = bring_home(&share);
        // What has come is written, whatever has not.
        let mut known = share.errors();
        let synced = share.sync_since(&mut known, false);
        let synced = synced.and_then(|lost| kernel::error::to_result(-i32::from(lost)));
        if let Err(error) = done.and(synced) {
            pr_warn!("file {}: cannot be drained: {:?}\n", share.id, error);
            result = Err(error);
        }
    }
    result
}

/// Takes home what remotes have written, until nothing is away.
fn bring_home(share: &Arc<Share>) -> Result {
    for _ in 0..PASSES {
        share.acquire_range(0, u64::MAX, Want::Read)?;
        if share.is_home() {
            return Ok(());
        }
    }
    Err(EAGAIN)
}
