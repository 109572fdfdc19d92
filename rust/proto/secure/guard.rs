// SPDX-License-Identifier: GPL-2.0

//! What a handshake costs a stranger: `mac1`, `mac2` and cookies.
//!
//! Reference: J. A. Donenfeld, WireGuard: Next Generation Kernel Network Tunnel, section 5.4.4 to 5.4.7, with the primitives of
//! [`super::noise`], and keys derived from the pre-shared key in place of a public one.
//!
//! Every handshake datagram carries `mac1`, which only who has the pre-shared key can make: without it nothing more is computed. A
//! node that gets more of them than it likes answers with a cookie, which only who is at the address can read; the next attempt
//! shows it in `mac2`. So who replays recorded datagrams from a forged address gets no further.

use super::{Key, Primitives, TAG_BYTES};
use crate::proto::envelope::{
    piece, Envelope, What, CLEAR_BYTES, COOKIE_BYTES, ENVELOPE_BYTES, HANDSHAKE_BYTES, MAC1, MAC2,
};

/// How long a cookie is taken, and shown, microseconds.
pub const COOKIE_LIFE_US: u64 = 120_000_000;

/// A mac, or a cookie.
pub type Mac = [u8; TAG_BYTES];

/// Handshake datagrams that are remembered.
const SEEN: usize = 32;

/// The handshake datagrams that were taken last, by `mac1`. Each is good once: who repeats a recorded one makes a node compute nothing.
/// What is too long ago to be remembered costs a handshake, of which there are only so many in a second.
pub struct Seen {
    macs: [Mac; SEEN],
    next: usize,
}

impl Seen {
    /// None yet.
    pub const fn new() -> Seen {
        Seen {
            macs: [[0; TAG_BYTES]; SEEN],
            next: 0,
        }
    }

    /// Whether this datagram was taken before.
    pub fn has(&self, datagram: &[u8; HANDSHAKE_BYTES]) -> bool {
        self.macs.contains(&piece(datagram, MAC1))
    }

    /// Notes that it is.
    pub fn note(&mut self, datagram: &[u8; HANDSHAKE_BYTES]) {
        self.macs[self.next] = piece(datagram, MAC1);
        self.next = (self.next + 1) % SEEN;
    }
}

impl Default for Seen {
    fn default() -> Seen {
        Seen::new()
    }
}

/// A pair's keys for macs and cookies; both ends have the same.
pub struct Guard {
    mac1: Key,
    cookie: Key,
}

/// What is known about a handshake datagram before anything is decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// `mac1` is wrong: of a stranger.
    Stranger,
    /// `mac1` is right, but nothing shows that the sender is where it says.
    Unproved,
    /// Both are right.
    Proved,
}

impl Guard {
    /// The keys that follow from a pre-shared key.
    pub fn new<P: Primitives>(psk: &Key) -> Guard {
        Guard {
            mac1: Key::new(P::sha256(&[b"VRemote mac1", psk.bytes()])),
            cookie: Key::new(P::sha256(&[b"VRemote cookie", psk.bytes()])),
        }
    }

    /// Puts the macs into a handshake datagram. `cookie`: the other end's, if there is one that is still taken. Gives `mac1`, which
    /// a cookie that comes back must name.
    pub fn sign<P: Primitives>(
        &self,
        datagram: &mut [u8; HANDSHAKE_BYTES],
        cookie: Option<&Mac>,
    ) -> Mac {
        let mac1 = mac::<P>(self.mac1.bytes(), &datagram[..MAC1]);
        datagram[MAC1..MAC2].copy_from_slice(&mac1);
        if let Some(cookie) = cookie {
            let mac2 = mac::<P>(cookie, &datagram[..MAC2]);
            datagram[MAC2..].copy_from_slice(&mac2);
        }
        mac1
    }

    /// Checks the macs. `cookie`: what the sender's address was given, or would be.
    pub fn check<P: Primitives>(
        &self,
        datagram: &[u8; HANDSHAKE_BYTES],
        cookie: impl FnOnce() -> Mac,
    ) -> Standing {
        let mac1 = mac::<P>(self.mac1.bytes(), &datagram[..MAC1]);
        if !P::equal(&mac1, &piece(datagram, MAC1)) {
            return Standing::Stranger;
        }
        let mac2 = mac::<P>(&cookie(), &datagram[..MAC2]);
        if P::equal(&mac2, &piece(datagram, MAC2)) {
            Standing::Proved
        } else {
            Standing::Unproved
        }
    }

    /// The datagram that gives a cookie to the sender of a handshake datagram. `nonce`: random.
    pub fn give<P: Primitives>(
        &self,
        datagram: &[u8; HANDSHAKE_BYTES],
        mut cookie: Mac,
        nonce: &[u8; 24],
    ) -> [u8; COOKIE_BYTES] {
        let envelope = Envelope {
            what: What::Cookie,
            length: (COOKIE_BYTES - ENVELOPE_BYTES) as u16,
            session: 0,
            counter: 0,
        };
        let tag = P::xseal(&self.cookie, nonce, &datagram[MAC1..MAC2], &mut cookie);
        let mut out = [0; COOKIE_BYTES];
        out[..CLEAR_BYTES].copy_from_slice(&envelope.encode());
        out[CLEAR_BYTES..ENVELOPE_BYTES].copy_from_slice(&tag);
        out[ENVELOPE_BYTES..ENVELOPE_BYTES + 24].copy_from_slice(nonce);
        out[ENVELOPE_BYTES + 24..].copy_from_slice(&cookie);
        out
    }

    /// Reads a cookie. `mac1`: that of the handshake datagram sent last. `None`: it does not belong to that.
    pub fn take<P: Primitives>(&self, datagram: &[u8; COOKIE_BYTES], mac1: &Mac) -> Option<Mac> {
        let nonce = piece(datagram, ENVELOPE_BYTES);
        let mut cookie = piece(datagram, ENVELOPE_BYTES + 24);
        let tag = piece(datagram, CLEAR_BYTES);
        P::xopen(&self.cookie, &nonce, mac1, &mut cookie, &tag).then_some(cookie)
    }
}

/// The cookie of an address. `secret`: this node's, random, replaced every [`COOKIE_LIFE_US`].
pub fn cookie<P: Primitives>(secret: &Key, address: u32, port: u16) -> Mac {
    let mut place = [0; 6];
    place[..4].copy_from_slice(&address.to_le_bytes());
    place[4..].copy_from_slice(&port.to_le_bytes());
    mac::<P>(secret.bytes(), &place)
}

fn mac<P: Primitives>(key: &[u8], data: &[u8]) -> Mac {
    piece(&P::hmac(key, &[data]), 0)
}
