// SPDX-License-Identifier: GPL-2.0

//! Files of a node that other nodes use: `rust/origin`.

pub mod directory;
pub mod file;
pub mod grant;
pub mod local;
pub mod serve;
pub mod share;

use std::rc::Rc;

use vremote_proto::nodes::Node as Slot;

use crate::node::Node;

/// A peer has started anew, or was fenced: `origin::peer_gone`.
pub fn peer_gone(node: &Rc<Node>, slot: Slot) {
    serve::forget(node, slot);
    let shares: Vec<_> = node.shares.borrow().values().cloned().collect();
    for share in shares {
        share.gone(slot);
    }
}
