// SPDX-License-Identifier: GPL-2.0

//! Keys of peers, and authenticated, encrypted channels between nodes.
//!
//! # Keys
//!
//! Each pair of nodes has one pre-shared key of 256 bits, in a file that is the same on both ([`key`]). `vremote keygen` makes
//! it, `vremote peer add NAME ADDRESS KEY-FILE` puts a copy where this crate looks for it: `/etc/vremote/keys/NAME` ([`node`]).
//!
//! # Handshake
//!
//! TCP, port [`node::PORT`]; `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s`, by the crate `snow`:
//!
//! ```text
//! initiator                                   responder
//!   48 bytes: psk, e                   →        by the source address it finds the peer, hence name and key
//!                                      ←        48 bytes: e, ee
//!   first frame, empty                 →        only now is the channel real to the responder
//! ```
//!
//! - The prologue, which both have to agree on without sending it, holds the name and version of this protocol, the initiator's
//!   name and the responder's name, each with its length. Whoever sends a node its own handshake back, or another pair's that
//!   uses the same key, does not get through. Names are what `uname -n` says, as for the kernel module.
//! - Nothing is answered to what does not prove the key: a stranger, who has no peer's address, is cut off before a byte is
//!   read; a wrong key, name or version, after 48.
//! - The keys are new for each connection (both send ephemeral ones): who records everything and gets the key file later
//!   decrypts nothing. A repeated first message is answered, since it proves the key, with 48 bytes that its sender cannot use: it
//!   has no private key for them, so no first frame comes and nobody is told of a channel.
//! - All of it has to be done in [`channel::HANDSHAKE_LIMIT`], however slowly the bytes come.
//!
//! # Frames
//!
//! After the handshake each direction is a sequence of frames: two bytes of length, most significant first, then so many bytes
//! of a Noise transport message: at most [`frame::MAX_DATA`] bytes of data and a tag of 16. The nonce is the frame's number, which is
//! not sent: what is lost, repeated, swapped or changed does not decrypt, and ends the channel. The key of a direction is
//! replaced (Noise's REKEY) after every [`frame::REKEY_AFTER`] frames. A frame without data is the end of its direction: a
//! connection that ends without it has been cut off, and is reported as such.
//!
//! # Streams and messages
//!
//! A direction is a stream of bytes (`Read`, `Write`); on it messages can be sent, in between and before bytes ([`message`]).
//!
//! A job that needs several streams opens several connections; there is no multiplexing, which would make one stream wait for
//! another. The responder names a job by a [`job::JobId`] of 128 random bits and tells it on the first connection, inside the
//! channel; the first message of each later one repeats it. So it comes from who was told, which is the same peer.
//!
//! # Waiting
//!
//! Every wait has a limit: connecting and the handshake 5 s each, a silent connection 60 s unless set otherwise
//! ([`channel::Reader::set_limit`]), and a machine that does not even acknowledge 30 s ([`channel::DEAD_AFTER`]), whatever is set.

pub mod channel;
mod error;
pub mod frame;
mod handshake;
pub mod job;
pub mod key;
pub mod listener;
pub mod message;
pub mod node;

pub use channel::{Channel, Reader, Stopper, Writer};
pub use error::Error;
pub use job::JobId;
pub use key::Key;
pub use listener::Listener;
pub use node::{Node, Peer};
