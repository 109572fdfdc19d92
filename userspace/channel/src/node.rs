// SPDX-License-Identifier: GPL-2.0

//! This node and its peers: who they are, from the module's configuration, and where their keys are.
//!
//! Address → name → key: the peers are the directories of `/sys/kernel/config/vremote/peers`, `NAME/address` says "A.B.C.D:PORT",
//! and the key is the file NAME in `/etc/vremote/keys`, a directory for root alone (0700, files 0600). A peer without a key
//! file is one for the file system only.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
};

use crate::{Error, Key};

/// Port for channels where a peer's address says none: the number that the module has for UDP.
pub const PORT: u16 = 1104;

/// Where the module lists peers.
pub const PEERS: &str = "/sys/kernel/config/vremote/peers";

/// Where the keys of peers are.
pub const KEYS: &str = "/etc/vremote/keys";

/// This node.
#[derive(Clone, Debug)]
pub struct Node {
    name: String,
    peers: PathBuf,
    keys: PathBuf,
}

/// Another node, as it is configured here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name: what `uname -n` says there.
    pub name: String,
    /// Its address, and the port that it listens at, for UDP and TCP alike.
    pub address: SocketAddrV4,
}

impl Node {
    /// The machine that this runs on, with the module's peers.
    pub fn this() -> Node {
        let name = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        Node::new(name, PEERS.into(), KEYS.into())
    }

    /// A node called `name`, whose peers and keys are in these directories.
    pub fn new(name: String, peers: PathBuf, keys: PathBuf) -> Node {
        Node { name, peers, keys }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All peers that have an address. [`Error::Peers`] without the module, configfs or the right to look.
    pub fn peers(&self) -> Result<Vec<Peer>, Error> {
        let failed = |path: &Path, source| Error::Peers {
            path: path.into(),
            source,
        };
        let mut peers = Vec::new();
        for entry in fs::read_dir(&self.peers).map_err(|error| failed(&self.peers, error))? {
            let entry = entry.map_err(|error| failed(&self.peers, error))?;
            let path = entry.path().join("address");
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                // Removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(&path, error)),
            };
            // A name that is not UTF-8 is no node's; an address that has not been written is empty.
            if let (Ok(name), Some(address)) = (
                entry.file_name().into_string(),
                parse_address(text.trim_end()),
            ) {
                peers.push(Peer { name, address });
            }
        }
        Ok(peers)
    }

    /// The peer of this name; [`Error::UnknownPeer`] if there is none, and the errors of [`Node::peers`].
    pub fn peer(&self, name: &str) -> Result<Peer, Error> {
        self.find(name, |peer| peer.name == name)
    }

    /// The peer at this address; [`Error::UnknownPeer`] if there is none, and the errors of [`Node::peers`].
    pub fn peer_at(&self, address: Ipv4Addr) -> Result<Peer, Error> {
        self.find(address, |peer| *peer.address.ip() == address)
    }

    fn find(&self, what: impl ToString, is_it: impl Fn(&Peer) -> bool) -> Result<Peer, Error> {
        self.peers()?
            .into_iter()
            .find(is_it)
            .ok_or_else(|| Error::UnknownPeer(what.to_string()))
    }

    /// What this node shares with a peer; [`Error::Key`].
    pub fn key(&self, peer: &Peer) -> Result<Key, Error> {
        Key::read(&self.keys.join(&peer.name))
    }
}

/// "A.B.C.D" or "A.B.C.D:PORT".
fn parse_address(text: &str) -> Option<SocketAddrV4> {
    let alone = || text.parse().map(|address| SocketAddrV4::new(address, PORT));
    text.parse().or_else(|_| alone()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_found_by_name_and_address() {
        let place = tempfile::tempdir().unwrap();
        let node = Node::new(
            "a".into(),
            place.path().join("peers"),
            place.path().join("keys"),
        );
        assert!(
            matches!(node.peers(), Err(Error::Peers { .. })),
            "no module"
        );
        for (name, address) in [
            ("b", "10.0.0.2:1104\n"),
            ("c", "10.0.0.3:7\n"),
            ("d", "10.0.0.4"),
            ("new", "\n"),
            ("odd", "::1\n"),
        ] {
            fs::create_dir_all(place.path().join("peers").join(name)).unwrap();
            fs::write(
                place.path().join("peers").join(name).join("address"),
                address,
            )
            .unwrap();
        }
        assert_eq!(
            node.peer("b").unwrap().address,
            SocketAddrV4::new([10, 0, 0, 2].into(), 1104)
        );
        assert_eq!(node.peer("d").unwrap().address.port(), PORT);
        let found = node.peer_at([10, 0, 0, 3].into()).unwrap();
        assert_eq!((found.name.as_str(), found.address.port()), ("c", 7));
        for none in ["new", "odd", "e"] {
            assert!(
                matches!(node.peer(none), Err(Error::UnknownPeer(_))),
                "{none}"
            );
        }
        assert!(matches!(
            node.peer_at([10, 0, 0, 9].into()),
            Err(Error::UnknownPeer(_))
        ));
        let key = Key::generate();
        key.store(&place.path().join("keys"), "b").unwrap();
        assert_eq!(
            node.key(&node.peer("b").unwrap()).unwrap().bytes(),
            key.bytes()
        );
        assert!(matches!(node.key(&found), Err(Error::Key { .. })));
    }
}
