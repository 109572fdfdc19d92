// SPDX-License-Identifier: GPL-2.0

//! The primitives that [`crate::proto::secure`] is built from, by the kernel's crypto library.

use core::ptr::NonNull;

use kernel::{bindings::kvec, prelude::*};

use super::peer::part;
use crate::{
    proto::secure::{Key, Primitives, KEY_BYTES, TAG_BYTES},
    shim,
};

/// Most parts that something is hashed from.
const MAX_PARTS: usize = 4;

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

    fn seal(key: &Key, nonce: &[u8; 12], ad: &[u8], text: &mut [u8]) -> [u8; TAG_BYTES] {
        let mut tag = [0; TAG_BYTES];
        // SAFETY: Key, nonce and tag have as many bytes as they must, the others as many as said.
        unsafe {
            shim::vremote_gcm_seal_once(
                key.bytes().as_ptr(),
                nonce.as_ptr(),
                ad.as_ptr(),
                ad.len(),
                text.as_mut_ptr(),
                text.len(),
                tag.as_mut_ptr(),
            );
        }
        tag
    }

    fn open(
        key: &Key,
        nonce: &[u8; 12],
        ad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> bool {
        // SAFETY: As in `seal`.
        unsafe {
            shim::vremote_gcm_open_once(
                key.bytes().as_ptr(),
                nonce.as_ptr(),
                ad.as_ptr(),
                ad.len(),
                text.as_mut_ptr(),
                text.len(),
                tag.as_ptr(),
            )
        }
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

/// A key of AES-256-GCM, prepared. Dropping it clears it.
///
/// # Invariants
///
/// The pointer is a prepared key that this value owns.
pub(super) struct Gcm(NonNull<shim::vremote_gcm>);

// SAFETY: A prepared key may be used and freed by any task.
unsafe impl Send for Gcm {}
// SAFETY: Using it does not change it.
unsafe impl Sync for Gcm {}

impl Gcm {
    /// Prepares a key. May sleep; `ENOMEM`.
    pub(super) fn new(key: &Key) -> Result<Gcm> {
        // SAFETY: The key has as many bytes as it must.
        let gcm = unsafe { shim::vremote_gcm_new(key.bytes().as_ptr()) };
        // INVARIANT: Just made, owned by nobody else.
        NonNull::new(gcm).map(Gcm).ok_or(ENOMEM)
    }

    /// Encrypts `parts`, one behind the other, into `out`, and gives the tag over that and `ad`.
    ///
    /// # Safety
    ///
    /// The parts must be readable, and have as many bytes as `out` together.
    pub(super) unsafe fn seal(
        &self,
        nonce: &[u8; 12],
        ad: &[u8],
        parts: &[kvec],
        out: &mut [u8],
    ) -> [u8; TAG_BYTES] {
        debug_assert!(parts.iter().map(|part| part.iov_len).sum::<usize>() == out.len());
        let mut tag = [0; TAG_BYTES];
        // SAFETY: The key is valid by the type's invariant, the parts by this function's contract; `out` has room for them.
        unsafe {
            shim::vremote_gcm_seal(
                self.0.as_ptr(),
                nonce.as_ptr(),
                ad.as_ptr(),
                ad.len(),
                parts.as_ptr(),
                parts.len(),
                out.as_mut_ptr(),
                tag.as_mut_ptr(),
            );
        }
        tag
    }

    /// Decrypts `text` in place. `false`: the tag is not right, and `text` of no use.
    #[must_use]
    pub(super) fn open(
        &self,
        nonce: &[u8; 12],
        ad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> bool {
        // SAFETY: The key is valid by the type's invariant, all else has as many bytes as it must, or as said.
        unsafe {
            shim::vremote_gcm_open(
                self.0.as_ptr(),
                nonce.as_ptr(),
                ad.as_ptr(),
                ad.len(),
                text.as_mut_ptr(),
                text.len(),
                tag.as_ptr(),
            )
        }
    }
}

impl Drop for Gcm {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant it is ours.
        unsafe { shim::vremote_gcm_free(self.0.as_ptr()) };
    }
}
