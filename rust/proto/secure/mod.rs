// SPDX-License-Identifier: GPL-2.0

//! What makes a network between nodes closed: every datagram is authenticated and encrypted, under keys that nobody else has.
//!
//! | file | what it is |
//! |---|---|
//! | [`noise`] | the handshake `Noise_NNpsk0_25519_ChaChaPoly_SHA256` (The Noise Protocol Framework, revision 34) |
//! | [`guard`] | `mac1`, `mac2` and cookies: what a handshake costs a stranger (WireGuard paper, section 5.3) |
//! | [`pair`] | two nodes, and the datagrams of a handshake between them |
//! | [`window`] | which counters have been seen (RFC 6479) |
//! | [`session`] | when sessions begin, take over and end |
//!
//! A pair of nodes has one pre-shared key. Who does not have it cannot make a first message that decrypts, so a node computes no
//! Diffie-Hellman for a stranger, and keeps nothing. Both ends send a new ephemeral key in each handshake: what was recorded cannot be
//! read with a key that is stolen later. The names of both ends, in the order of their roles, are in the prologue: a handshake that
//! is sent back to where it came from, or to another node that has the same key, fails.
//!
//! A first message that is repeated by somebody who recorded it costs its receiver a handshake, limited in number by time, and
//! brings nobody anything: the session that would begin is used only after a datagram has arrived in it, which only the
//! real sender can make. So clocks and what a node remembers of the time before it started play no role.
//!
//! Data is never en- or decrypted where a page cache could see it: from the page into memory of the datagram, and back.

pub mod guard;
pub mod noise;
pub mod pair;
pub mod session;
pub mod window;

/// Bytes of a key, of a hash, and of a point of Curve25519.
pub const KEY_BYTES: usize = 32;

/// Bytes of an AEAD's tag.
pub const TAG_BYTES: usize = 16;

/// A secret. Cleared when dropped; never shown.
#[derive(Clone)]
pub struct Key([u8; KEY_BYTES]);

impl Key {
    /// Takes these bytes as a secret; who calls clears his own copy.
    pub const fn new(bytes: [u8; KEY_BYTES]) -> Key {
        Key(bytes)
    }

    /// Takes these bytes as a secret, and clears them where they were.
    pub fn take(bytes: &mut [u8; KEY_BYTES]) -> Key {
        let key = Key(*bytes);
        clear(bytes);
        key
    }

    /// The bytes, for a primitive.
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        clear(&mut self.0);
    }
}

fn clear(bytes: &mut [u8; KEY_BYTES]) {
    *bytes = [0; KEY_BYTES];
    // The compiler must believe that somebody looks at the zeroes, or it would leave them out.
    core::hint::black_box(bytes);
}

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key(secret)")
    }
}

/// What all of this is built from: the kernel's crypto library in the module, well-known crates in user space.
pub trait Primitives {
    /// SHA-256 of the parts, one behind the other.
    fn sha256(parts: &[&[u8]]) -> [u8; KEY_BYTES];

    /// HMAC-SHA-256 of the parts, one behind the other.
    fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_BYTES];

    /// The public value of a secret of Curve25519, which need not be clamped.
    fn public(secret: &Key) -> [u8; KEY_BYTES];

    /// X25519 (RFC 7748). `None`: the result is all zero, because `public` is a point of small order.
    fn agree(secret: &Key, public: &[u8; KEY_BYTES]) -> Option<Key>;

    /// ChaCha20-Poly1305 (RFC 8439), the nonce being four zero bytes and a little-endian number, as Noise has it: encrypts `text`, of at
    /// most 16 bytes, in place, and gives the tag over that and `ad`.
    fn seal(key: &Key, nonce: u64, ad: &[u8], text: &mut [u8]) -> [u8; TAG_BYTES];

    /// The reverse. `false`: the tag is not right, and `text` of no use.
    #[must_use]
    fn open(key: &Key, nonce: u64, ad: &[u8], text: &mut [u8], tag: &[u8; TAG_BYTES]) -> bool;

    /// XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha), whose nonces may be random: as `seal`.
    fn xseal(key: &Key, nonce: &[u8; 24], ad: &[u8], text: &mut [u8]) -> [u8; TAG_BYTES];

    /// The reverse.
    #[must_use]
    fn xopen(
        key: &Key,
        nonce: &[u8; 24],
        ad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> bool;

    /// Whether both are equal, in a time that does not tell where they differ.
    #[must_use]
    fn equal(one: &[u8; TAG_BYTES], other: &[u8; TAG_BYTES]) -> bool;
}
