// SPDX-License-Identifier: GPL-2.0

//! The primitives of `vremote_proto::secure`, from the RustCrypto crates and curve25519-dalek.

use chacha20poly1305::{aead::AeadInPlace, ChaCha20Poly1305, KeyInit, XChaCha20Poly1305};
use hmac::Mac;
use sha2::{Digest, Sha256};
use vremote_proto::secure::{Key, Primitives, KEY_BYTES, TAG_BYTES};
use x25519_dalek::{PublicKey, StaticSecret};

pub(crate) struct Crates;

impl Primitives for Crates {
    fn sha256(parts: &[&[u8]]) -> [u8; KEY_BYTES] {
        let mut hash = Sha256::new();
        parts.iter().for_each(|part| hash.update(part));
        hash.finalize().into()
    }

    fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_BYTES] {
        let mut mac = <hmac::Hmac<Sha256> as Mac>::new_from_slice(key).unwrap();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }

    fn public(secret: &Key) -> [u8; KEY_BYTES] {
        PublicKey::from(&StaticSecret::from(*secret.bytes())).to_bytes()
    }

    fn agree(secret: &Key, public: &[u8; KEY_BYTES]) -> Option<Key> {
        let shared = StaticSecret::from(*secret.bytes()).diffie_hellman(&PublicKey::from(*public));
        shared
            .was_contributory()
            .then(|| Key::new(shared.to_bytes()))
    }

    fn seal(key: &Key, nonce: u64, ad: &[u8], text: &mut [u8]) -> [u8; TAG_BYTES] {
        ChaCha20Poly1305::new(key.bytes().into())
            .encrypt_in_place_detached(&number(nonce).into(), ad, text)
            .unwrap()
            .into()
    }

    fn open(key: &Key, nonce: u64, ad: &[u8], text: &mut [u8], tag: &[u8; TAG_BYTES]) -> bool {
        ChaCha20Poly1305::new(key.bytes().into())
            .decrypt_in_place_detached(&number(nonce).into(), ad, text, tag.into())
            .is_ok()
    }

    fn xseal(key: &Key, nonce: &[u8; 24], ad: &[u8], text: &mut [u8]) -> [u8; TAG_BYTES] {
        XChaCha20Poly1305::new(key.bytes().into())
            .encrypt_in_place_detached(nonce.into(), ad, text)
            .unwrap()
            .into()
    }

    fn xopen(
        key: &Key,
        nonce: &[u8; 24],
        ad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> bool {
        XChaCha20Poly1305::new(key.bytes().into())
            .decrypt_in_place_detached(nonce.into(), ad, text, tag.into())
            .is_ok()
    }

    fn equal(one: &[u8; TAG_BYTES], other: &[u8; TAG_BYTES]) -> bool {
        one == other
    }
}

fn number(nonce: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&nonce.to_le_bytes());
    bytes
}
