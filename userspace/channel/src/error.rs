// SPDX-License-Identifier: GPL-2.0

//! What can go wrong, in words, and what to do about it.

use std::{io, net::SocketAddrV4, path::PathBuf, time::Duration};

use crate::key;

/// Why there is no channel, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key file does not do.
    #[error("the key {}: {why}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: key::Fault,
    },
    /// No peer of that name or address is configured.
    #[error("no peer {0} is configured here")]
    UnknownPeer(String),
    /// The module's list of peers cannot be read.
    #[error("the list of peers {}: {source}", path.display())]
    Peers {
        /// Directory or file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The address to listen at cannot be had.
    #[error("cannot listen at TCP {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddrV4,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No connection.
    #[error("{peer} cannot be reached at TCP {address}: {source}")]
    Unreachable {
        /// Name of the peer.
        peer: String,
        /// Its address.
        address: SocketAddrV4,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The responder ended the connection without an answer to our first message.
    #[error("{peer} ended the connection without an answer")]
    Refused {
        /// Name of the peer.
        peer: String,
    },
    /// What came as a handshake message is none of ours.
    #[error("{peer} does not prove that it has the key")]
    Unproven {
        /// Name of the peer, or the address if it has several names.
        peer: String,
    },
    /// The handshake took too long.
    #[error("{peer} did not finish the handshake within {} s", limit.as_secs_f32())]
    Slow {
        /// Name of the peer.
        peer: String,
        /// The limit.
        limit: Duration,
    },
    /// No byte in or out for as long as is allowed.
    #[error("the connection was silent for {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// The connection ended before its authenticated end.
    #[error("the connection was cut off")]
    CutOff,
    /// A frame that did not come from the peer in this place.
    #[error("a frame of the connection was forged, changed, repeated or lost")]
    Forged,
    /// The channel had an error before, after which nothing can be sent.
    #[error("the channel has failed before")]
    Broken,
    /// Data where the end should be.
    #[error("the peer goes on sending where its end is expected")]
    NoEnd,
    /// A message longer than [`crate::message::MAX_MESSAGE`].
    #[error("a message of {bytes} bytes, where at most {max} are allowed")]
    TooLong {
        /// Its length.
        bytes: u64,
        /// The limit.
        max: usize,
    },
    /// A message that is not of the expected kind.
    #[error("a message cannot be understood: {0}")]
    Malformed(#[from] postcard::Error),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

impl Error {
    /// What to do about it.
    pub fn fix(&self) -> Option<String> {
        Some(match self {
            Error::Key { path, why } => return why.fix(path),
            Error::UnknownPeer(_) => "vremote peer add NAME ADDRESS KEY-FILE; vremote peer show lists the peers".into(),
            Error::Peers { .. } => {
                "load the module vremote, mount configfs at /sys/kernel/config, and run this as root".into()
            }
            Error::Listen { address, .. } => {
                format!("ss -ltnp shows who has port {}; another port can be given on both nodes", address.port())
            }
            Error::Unreachable { peer, address, .. } => {
                format!("start vremoted on {peer}, and let TCP port {} through between the nodes", address.port())
            }
            Error::Refused { peer } => format!(
                "on {peer} this node must be a peer by its `uname -n` and the address that it connects from, with the same key file, and \
                 the same release of VRemote: vremote peer show, vremote peer add NAME ADDRESS KEY-FILE; the log of vremoted there says why"
            ),
            Error::Unproven { peer } => {
                format!("give both nodes the same key file (vremote peer add NAME ADDRESS KEY-FILE), and each the other's `uname -n` as NAME: here {peer}")
            }
            Error::Slow { .. } | Error::Silent(_) => "see that the other node runs and that the network between is well".into(),
            Error::Malformed(_) | Error::TooLong { .. } => "use the same release of VRemote on both nodes".into(),
            Error::CutOff | Error::Forged | Error::Broken | Error::NoEnd | Error::Io(_) => return None,
        })
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error {
            Error::Io(error) => return error,
            Error::Silent(_) | Error::Slow { .. } => io::ErrorKind::TimedOut,
            Error::CutOff => io::ErrorKind::UnexpectedEof,
            Error::Forged | Error::TooLong { .. } | Error::Malformed(_) | Error::NoEnd => {
                io::ErrorKind::InvalidData
            }
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
