// SPDX-License-Identifier: GPL-2.0

//! How much a peer may have this node hold for it at a time, of what the peer alone decides about.

use kernel::sync::atomic::{ordering::Relaxed, Atomic};

use crate::proto::{
    limits::{MAX_GETS, MAX_INSTALLS, MAX_NODES, MAX_OPENS, MAX_PEER_LOCK_OWNERS, MAX_WORK},
    nodes::Node,
};

/// Descriptors that remotes have open.
pub(super) static OPENS: Quota = Quota::new(MAX_OPENS);
/// Requests that work items run, or are to run.
pub(super) static WORK: Quota = Quota::new(MAX_WORK);
/// Owners of locks.
pub(super) static LOCK_OWNERS: Quota = Quota::new(MAX_PEER_LOCK_OWNERS);
/// Pages with a transaction that a `Get` began.
pub(super) static GETS: Quota = Quota::new(MAX_GETS);
/// `Put`s to be installed that nobody has asked for.
pub(super) static INSTALLS: Quota = Quota::new(MAX_INSTALLS);

/// How many of one thing there are for each peer, and how many there may be.
pub(super) struct Quota {
    used: [Atomic<u32>; MAX_NODES],
    most: u32,
}

impl Quota {
    const fn new(most: u32) -> Quota {
        Quota {
            used: [const { Atomic::new(0) }; MAX_NODES],
            most,
        }
    }

    /// One more for this peer, or `None` if it has as many as it may. Any context.
    pub(super) fn take(&'static self, node: Node) -> Option<Place> {
        let used = self.used[usize::from(node)].fetch_add(1, Relaxed);
        // Given back at once if there are too many.
        let place = Place { quota: self, node };
        (used < self.most).then_some(place)
    }

    /// So many less, of those that were [kept](Place::keep). Any context.
    pub(super) fn give_back(&self, node: Node, count: u32) {
        self.used[usize::from(node)].fetch_sub(count, Relaxed);
    }
}

/// One of them. It ends with this value.
pub(super) struct Place {
    quota: &'static Quota,
    node: Node,
}

impl Place {
    /// It ends with [`Quota::give_back`].
    pub(super) fn keep(self) {
        core::mem::forget(self);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.quota.give_back(self.node, 1);
    }
}
