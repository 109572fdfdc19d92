// SPDX-License-Identifier: GPL-2.0

//! What every datagram begins with, and the datagrams of the handshake.
//!
//! The first 24 bytes are not encrypted, but authenticated; a tag follows. All integers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | [`MAGIC`] |
//! | 4 | [`VERSION`] |
//! | 5 | what it is: [`What`] |
//! | 6..8 | bytes of `text`; what is behind that is padding |
//! | 8..16 | the receiver's index of the session; 0 in `First` and `Cookie`; in `Open` the receiver's epoch |
//! | 16..24 | counter of the session's direction, from 0; 0 in the handshake; in `Open` the sender's epoch |
//! | 24..40 | tag; zero in `Open` |
//! | 40.. | text |
//!
//! | what | text |
//! |---|---|
//! | `First`, `Second` | ephemeral public key (32), [`Greeting`] encrypted (16), `mac1` (16), `mac2` (16) |
//! | `Cookie` | nonce (24), cookie encrypted (16); the tag is over the `mac1` that it answers |
//! | `Message` | encrypted: a message's header and a fragment of its payload ([`super::wire`]) |
//! | `Open` | the same, not encrypted: between nodes that were told to, to measure what encryption costs |

use super::secure::{noise::Public, TAG_BYTES};

/// First four bytes of every datagram.
pub const MAGIC: u32 = u32::from_le_bytes(*b"VRMT");

/// Version of this format. Another one is a counted drop.
pub const VERSION: u8 = 1;

/// Bytes before the tag: authenticated, not encrypted.
pub const CLEAR_BYTES: usize = 24;

/// Where the number of bytes of text is.
pub const LENGTH: usize = 6;

/// Where the session's index is.
pub const SESSION: usize = 8;

/// Bytes before the text.
pub const ENVELOPE_BYTES: usize = CLEAR_BYTES + TAG_BYTES;

/// Bytes of an encoded [`Greeting`].
pub const GREETING_BYTES: usize = 16;

/// Where `mac1` begins in `First` and `Second`.
pub const MAC1: usize = ENVELOPE_BYTES + 32 + GREETING_BYTES;

/// Where `mac2` begins.
pub const MAC2: usize = MAC1 + TAG_BYTES;

/// Bytes of `First` and of `Second`.
pub const HANDSHAKE_BYTES: usize = MAC2 + TAG_BYTES;

/// Bytes of `Cookie`: fewer than of what it answers.
pub const COOKIE_BYTES: usize = ENVELOPE_BYTES + 24 + TAG_BYTES;

const _: () = assert!(HANDSHAKE_BYTES == 120 && COOKIE_BYTES < HANDSHAKE_BYTES);

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum What {
    /// A message that is not encrypted, and proves nothing.
    Open = 0,
    /// First message of a handshake.
    First = 1,
    /// Its answer.
    Second = 2,
    /// "I am busy: prove that you are where you say, and come again."
    Cookie = 3,
    /// A message of a session.
    Message = 4,
}

/// Why a datagram was dropped. Each has a counter; nothing else happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than it says, or than a header.
    Truncated,
    /// Not ours.
    Magic,
    /// Another version of the format.
    Version,
    /// A kind that this version does not know.
    Kind,
    /// Unknown flags, or fields outside their limits.
    Field,
}

/// The part that is not encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What the datagram is.
    pub what: What,
    /// Bytes of text.
    pub length: u16,
    /// The receiver's index of the session.
    pub session: u64,
    /// Counter of the direction.
    pub counter: u64,
}

impl Envelope {
    /// The clear bytes.
    pub fn encode(&self) -> [u8; CLEAR_BYTES] {
        let mut out = [0; CLEAR_BYTES];
        out[..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4] = VERSION;
        out[5] = self.what as u8;
        out[LENGTH..SESSION].copy_from_slice(&self.length.to_le_bytes());
        out[SESSION..16].copy_from_slice(&self.session.to_le_bytes());
        out[16..].copy_from_slice(&self.counter.to_le_bytes());
        out
    }

    /// Reads the envelope of a datagram of `bytes` bytes, of which `head` is the beginning.
    ///
    /// # Errors
    ///
    /// Says why the datagram must be dropped. No bytes make it panic.
    pub fn decode(head: &[u8], bytes: usize) -> Result<Envelope, Malformed> {
        let clear: &[u8; CLEAR_BYTES] = head.first_chunk().ok_or(Malformed::Truncated)?;
        if clear[..4] != MAGIC.to_le_bytes() {
            return Err(Malformed::Magic);
        }
        if clear[4] != VERSION {
            return Err(Malformed::Version);
        }
        let (what, whole) = match clear[5] {
            0 => (What::Open, None),
            1 => (What::First, Some(HANDSHAKE_BYTES)),
            2 => (What::Second, Some(HANDSHAKE_BYTES)),
            3 => (What::Cookie, Some(COOKIE_BYTES)),
            4 => (What::Message, None),
            _ => return Err(Malformed::Kind),
        };
        let envelope = Envelope {
            what,
            length: u16::from_le_bytes([clear[6], clear[7]]),
            session: word(clear, 8),
            counter: word(clear, 16),
        };
        let length = ENVELOPE_BYTES + usize::from(envelope.length);
        if length > bytes {
            return Err(Malformed::Truncated);
        }
        if whole.is_some_and(|whole| whole != bytes || whole != length) {
            return Err(Malformed::Field);
        }
        Ok(envelope)
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |word| u64::from_le_bytes(*word))
}

/// What both ends tell each other in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The sender's index of the session: random, what the other end is to put into [`Envelope::session`].
    pub index: u64,
    /// The sender's epoch: random, nonzero, new each time that it makes the receiver a peer.
    pub epoch: u64,
}

impl Greeting {
    /// The bytes that are encrypted.
    pub fn encode(&self) -> [u8; GREETING_BYTES] {
        let mut out = [0; GREETING_BYTES];
        out[..8].copy_from_slice(&self.index.to_le_bytes());
        out[8..].copy_from_slice(&self.epoch.to_le_bytes());
        out
    }

    /// Reads them. `None`: an index or epoch of 0, which nobody has.
    pub fn decode(bytes: &[u8; GREETING_BYTES]) -> Option<Greeting> {
        let greeting = Greeting {
            index: word(bytes, 0),
            epoch: word(bytes, 8),
        };
        (greeting.index != 0 && greeting.epoch != 0).then_some(greeting)
    }
}

/// `First` or `Second`, taken apart; the macs are `guard`'s.
pub struct Handshake {
    /// Ephemeral public key.
    pub public: Public,
    /// The encrypted greeting.
    pub greeting: [u8; GREETING_BYTES],
    /// Tag of the greeting.
    pub tag: [u8; TAG_BYTES],
}

impl Handshake {
    /// The datagram, without macs.
    pub fn encode(&self, what: What, session: u64) -> [u8; HANDSHAKE_BYTES] {
        let envelope = Envelope {
            what,
            length: (HANDSHAKE_BYTES - ENVELOPE_BYTES) as u16,
            session,
            counter: 0,
        };
        let mut out = [0; HANDSHAKE_BYTES];
        out[..CLEAR_BYTES].copy_from_slice(&envelope.encode());
        out[CLEAR_BYTES..ENVELOPE_BYTES].copy_from_slice(&self.tag);
        out[ENVELOPE_BYTES..ENVELOPE_BYTES + 32].copy_from_slice(&self.public);
        out[ENVELOPE_BYTES + 32..MAC1].copy_from_slice(&self.greeting);
        out
    }

    /// Takes a datagram apart.
    pub fn decode(datagram: &[u8; HANDSHAKE_BYTES]) -> Handshake {
        Handshake {
            public: piece(datagram, ENVELOPE_BYTES),
            greeting: piece(datagram, ENVELOPE_BYTES + 32),
            tag: piece(datagram, CLEAR_BYTES),
        }
    }
}

/// So many bytes from `at` on, which must be there.
pub fn piece<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
