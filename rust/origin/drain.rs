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

use super::{
    local::QUEUED_PASSES,
    share::{self, Share},
};
use crate::proto::directory::Want;

static DRAINED: Atomic<bool> = Atomic::new(false);

/// Whether remotes are refused what [changes](crate::proto::wire::Kind::changes) something. Any context.
pub(crate) fn is_drained() -> bool {
    DRAINED.load(Relaxed)
}

/// Begins a hand-over, or ends it. When the beginning has succeeded, everything that any remote was ever confirmed is on this node's
/// disks, but for names: those need a sync of their file systems. Process context; for each page waits as long as a round may take.
///
/// # Errors
///
/// The last of those that are in the log: `ETIMEDOUT`, `EINTR`, `ENOMEM`, or what writing to disk returned. Changes are refused even so.
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
    // Writes that were let through before run to their end.
    super::flush();
    let mut result = Ok(());
    for share in share::snapshot()? {
        if let Err(error) = bring_home(&share) {
            pr_warn!("file {}: cannot be drained: {:?}\n", share.id, error);
            result = Err(error);
        }
    }
    result
}

fn bring_home(share: &Arc<Share>) -> Result {
    for _ in 0..QUEUED_PASSES {
        share.acquire_range(0, u64::MAX, Want::Read)?;
    }
    share.sync(false)
}
