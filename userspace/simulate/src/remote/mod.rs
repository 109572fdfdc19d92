// SPDX-License-Identifier: GPL-2.0

//! Files of other nodes, used here: `rust/remote`.

pub mod file;
pub mod pages;
pub mod recall;
pub mod state;
pub mod writeback;

use std::rc::Rc;

use vremote_proto::wire::Header;

use crate::net::peer::Peer;

/// Takes an `Invalidate` or a `Recall` of a peer. Receive thread.
pub fn receive(peer: &Rc<Peer>, header: &Header) {
    let inode = peer
        .node()
        .table
        .borrow()
        .get(&(peer.slot, header.file))
        .cloned();
    match inode {
        Some(inode) => inode.receive(header),
        // Nothing is kept for this file, so no copy of the page is here.
        None => recall::acknowledge(peer, header),
    }
}

/// The session with a peer is over, and with it all grants.
pub async fn peer_gone(peer: &Rc<Peer>) {
    state::abandon(peer).await;
}
