// SPDX-License-Identifier: GPL-2.0

//! The primitives that [`crate::proto::secure`] is built from, by the kernel's crypto library.

use kernel::bindings::kvec;

use super::peer::part;
use crate::{
    proto::{
        envelope::piece,
        secure::{Key, Primitives, KEY_BYTES, TAG_BYTES},
    },
    shim,
};

/// Most parts that something is hashed from.
const MAX_PARTS: usize = 4;

/// Longest text of a handshake: a greeting, a cookie.
const MAX_SMALL: usize = 16;

/// The kernel's crypto library. Process context: it uses the FPU.
pub(super) struct Library;

/// The parts for the C side, and how many there are.
fn parts_of(parts: &[&[u8]]) -> ([kvec; MAX_PARTS], usize) {
    let mut out = [const { part(&[]) }; MAX_PARTS];
    debug_assert!(parts.len() <= MAX_PARTS);
    for (place, bytes) in out.iter_mut().zip(parts) {
        *place = part(bytes);
    }
    (out, parts.len().min(MAX_PARTS))
}

impl Primitives for Library {
    fn sha256(parts: &[&[u8]]) -> [u8; KEY_BYTES] {
        let mut digest = [0; KEY_BYTES];
        let (parts, count) = parts_of(parts);
        // SAFETY: The parts are valid, and the digest has as many bytes as it must.
        unsafe { shim::vremote_sha256(parts.as_ptr(), count, digest.as_mut_ptr()) };
        digest
    }

    fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_BYTES] {
        let mut digest = [0; KEY_BYTES];
        let (parts, count) = parts_of(parts);
        // SAFETY: Key and parts are valid, and the digest has as many bytes as it must.
        unsafe {
            shim::vremote_hmac_sha256(
                key.as_ptr(),
                key.len(),
                parts.as_ptr(),
                count,
                digest.as_mut_ptr(),
            );
        }
        digest
    }

    fn public(secret: &Key) -> [u8; KEY_BYTES] {
        let mut public = [0; KEY_BYTES];
        // SAFETY: Both have as many bytes as they must.
        unsafe { shim::vremote_x25519_public(public.as_mut_ptr(), secret.bytes().as_ptr()) };
        public
    }

    fn agree(secret: &Key, public: &[u8; KEY_BYTES]) -> Option<Key> {
        let mut shared = [0; KEY_BYTES];
        // SAFETY: All three have as many bytes as they must.
        let some = unsafe {
            shim::vremote_x25519(
                shared.as_mut_ptr(),
                secret.bytes().as_ptr(),
                public.as_ptr(),
            )
        };
        let shared = Key::take(&mut shared);
        some.then_some(shared)
    }

    fn seal(key: &Key, nonce: u64, ad: &[u8], text: &mut [u8]) -> [u8; TAG_BYTES] {
        small(text, [0; TAG_BYTES], |room| seal(key, nonce, ad, room)).0
    }

    fn open(key: &Key, nonce: u64, ad: &[u8], text: &mut [u8], tag: &[u8; TAG_BYTES]) -> bool {
        small(text, *tag, |room| open(key, nonce, ad, room)).1
    }

    fn xseal(key: &Key, nonce: &[u8; 24], ad: &[u8], text: &mut [u8]) -> [u8; TAG_BYTES] {
        let seal = |room: &mut [u8]| {
            let (text, bytes) = (room.as_mut_ptr(), room.len() - TAG_BYTES);
            // SAFETY: Key and nonce have as many bytes as they must; behind the text is room for the tag.
            unsafe {
                shim::xchacha20poly1305_encrypt(
                    text,
                    text,
                    bytes,
                    ad.as_ptr(),
                    ad.len(),
                    nonce.as_ptr(),
                    key.bytes().as_ptr(),
                );
            }
        };
        small(text, [0; TAG_BYTES], seal).0
    }

    fn xopen(
        key: &Key,
        nonce: &[u8; 24],
        ad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> bool {
        let open = |room: &mut [u8]| {
            let (text, bytes) = (room.as_mut_ptr(), room.len());
            // SAFETY: Key and nonce have as many bytes as they must; the tag is behind the text, and counted.
            unsafe {
                shim::xchacha20poly1305_decrypt(
                    text,
                    text,
                    bytes,
                    ad.as_ptr(),
                    ad.len(),
                    nonce.as_ptr(),
                    key.bytes().as_ptr(),
                )
            }
        };
        small(text, *tag, open).1
    }

    fn equal(one: &[u8; TAG_BYTES], other: &[u8; TAG_BYTES]) -> bool {
        // SAFETY: Both have so many bytes.
        unsafe { shim::vremote_equal(one.as_ptr(), other.as_ptr(), TAG_BYTES) }
    }
}

/// Random bytes. May sleep, early after boot.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // SAFETY: The array has so many bytes.
    unsafe { shim::vremote_random(bytes.as_mut_ptr(), N) };
    bytes
}

/// A random secret. May sleep, early after boot.
pub(super) fn random_key() -> Key {
    Key::take(&mut random())
}

/// ChaCha20-Poly1305 (RFC 8439, the nonce being a number): encrypts in place all but the last [`TAG_BYTES`] bytes, which become the tag.
/// Of fewer bytes nothing is done.
pub(super) fn seal(key: &Key, nonce: u64, ad: &[u8], text_and_tag: &mut [u8]) {
    let Some(bytes) = text_and_tag.len().checked_sub(TAG_BYTES) else {
        return;
    };
    let text = text_and_tag.as_mut_ptr();
    // SAFETY: The key has as many bytes as it must; behind the text is room for the tag.
    unsafe {
        shim::chacha20poly1305_encrypt(
            text,
            text,
            bytes,
            ad.as_ptr(),
            ad.len(),
            nonce,
            key.bytes().as_ptr(),
        );
    }
}

/// The reverse. `false`: the tag is not right, and nothing was decrypted.
#[must_use]
pub(super) fn open(key: &Key, nonce: u64, ad: &[u8], text_and_tag: &mut [u8]) -> bool {
    let text = text_and_tag.as_mut_ptr();
    // SAFETY: The key has as many bytes as it must; the kernel refuses what is shorter than a tag.
    unsafe {
        shim::chacha20poly1305_decrypt(
            text,
            text,
            text_and_tag.len(),
            ad.as_ptr(),
            ad.len(),
            nonce,
            key.bytes().as_ptr(),
        )
    }
}

/// Has `work` do something in place to a short text with its tag behind it; gives the tag of afterwards, and what `work` says.
fn small<T>(
    text: &mut [u8],
    tag: [u8; TAG_BYTES],
    work: impl FnOnce(&mut [u8]) -> T,
) -> ([u8; TAG_BYTES], T) {
    let mut room = [0; MAX_SMALL + TAG_BYTES];
    let bytes = text.len().min(MAX_SMALL);
    debug_assert!(text.len() <= MAX_SMALL);
    let room = &mut room[..bytes + TAG_BYTES];
    room[..bytes].copy_from_slice(&text[..bytes]);
    room[bytes..].copy_from_slice(&tag);
    let said = work(room);
    text[..bytes].copy_from_slice(&room[..bytes]);
    (piece(room, bytes), said)
}
