// SPDX-License-Identifier: GPL-2.0

//! The handshake `Noise_NNpsk0_25519_ChaChaPoly_SHA256`: two messages, each with an ephemeral key, under a pre-shared key.
//!
//! Reference: The Noise Protocol Framework, revision 34, sections 4, 5, 7 and 9. Function names are those of the
//! specification.
//!
//! ```text
//! NNpsk0:  -> psk, e
//!          <- e, ee
//! ```

use core::marker::PhantomData;

use super::{Key, Primitives, KEY_BYTES, TAG_BYTES};

/// Name of the protocol; longer than a hash, so that its hash is the first value of `h`.
const NAME: &[u8] = b"Noise_NNpsk0_25519_ChaChaPoly_SHA256";

/// An ephemeral public key.
pub type Public = [u8; KEY_BYTES];

/// The keys of a session, by direction.
pub struct Keys {
    /// What the initiator sends with.
    pub initiator: Key,
    /// What the responder sends with.
    pub responder: Key,
}

/// `SymmetricState` and the `CipherState` in it.
struct Symmetric<P> {
    /// Chaining key.
    ck: Key,
    /// Hash of all that was said.
    h: [u8; KEY_BYTES],
    /// Key of the next payload, which is the only one under it: every message mixes a key before its payload.
    k: Key,
    primitives: PhantomData<P>,
}

impl<P: Primitives> Symmetric<P> {
    fn initialize(prologue: &[u8]) -> Symmetric<P> {
        let h = P::sha256(&[NAME]);
        let mut state = Symmetric {
            ck: Key::new(h),
            h,
            k: Key::new([0; KEY_BYTES]),
            primitives: PhantomData,
        };
        state.mix_hash(&[prologue]);
        state
    }

    fn mix_hash(&mut self, data: &[&[u8]]) {
        // At most a ciphertext and its tag.
        self.h = match data {
            [one] => P::sha256(&[&self.h, one]),
            [one, two] => P::sha256(&[&self.h, one, two]),
            _ => P::sha256(&[&self.h]),
        };
    }

    fn mix_key(&mut self, input: &[u8]) {
        let [ck, k, _] = hkdf::<P>(&self.ck, input);
        self.ck = ck;
        self.k = k;
    }

    fn mix_key_and_hash(&mut self, input: &[u8]) {
        let [ck, h, k] = hkdf::<P>(&self.ck, input);
        self.ck = ck;
        self.mix_hash(&[h.bytes()]);
        self.k = k;
    }

    fn encrypt_and_hash(&mut self, text: &mut [u8]) -> [u8; TAG_BYTES] {
        let tag = P::seal(&self.k, 0, &self.h, text);
        self.mix_hash(&[text, &tag]);
        tag
    }

    fn decrypt_and_hash(&mut self, text: &mut [u8], tag: &[u8; TAG_BYTES]) -> bool {
        let h = self.h;
        self.mix_hash(&[text, tag]);
        P::open(&self.k, 0, &h, text, tag)
    }

    /// The same state once more: what comes next may be none of the other end's.
    fn fork(&self) -> Symmetric<P> {
        Symmetric {
            ck: self.ck.clone(),
            h: self.h,
            k: self.k.clone(),
            primitives: PhantomData,
        }
    }

    fn split(self) -> Keys {
        let [initiator, responder, _] = hkdf::<P>(&self.ck, &[]);
        Keys {
            initiator,
            responder,
        }
    }
}

/// The specification's HKDF with three outputs; who needs two takes the first two, which are the same.
fn hkdf<P: Primitives>(ck: &Key, input: &[u8]) -> [Key; 3] {
    let temp = Key::new(P::hmac(ck.bytes(), &[input]));
    let one = Key::new(P::hmac(temp.bytes(), &[&[1]]));
    let two = Key::new(P::hmac(temp.bytes(), &[one.bytes(), &[2]]));
    let three = Key::new(P::hmac(temp.bytes(), &[two.bytes(), &[3]]));
    [one, two, three]
}

/// Who began, and waits for the second message.
pub struct Initiator<P> {
    state: Symmetric<P>,
    secret: Key,
}

impl<P: Primitives> Initiator<P> {
    /// Makes the first message: gives the ephemeral public key, encrypts `payload` in place, and gives its tag. `secret`: 32 random
    /// bytes, used for nothing else.
    pub fn begin(
        prologue: &[u8],
        psk: &Key,
        secret: Key,
        payload: &mut [u8],
    ) -> (Initiator<P>, Public, [u8; TAG_BYTES]) {
        let mut state = Symmetric::<P>::initialize(prologue);
        let public = P::public(&secret);
        state.mix_key_and_hash(psk.bytes());
        state.mix_hash(&[&public]);
        state.mix_key(&public);
        let tag = state.encrypt_and_hash(payload);
        (Initiator { state, secret }, public, tag)
    }

    /// Reads the second message: decrypts `payload` in place, and gives the keys. `None`: it is none of the other end's to this
    /// handshake, which goes on waiting.
    pub fn finish(
        &self,
        public: &Public,
        payload: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Option<Keys> {
        let mut state = self.state.fork();
        state.mix_hash(&[public]);
        state.mix_key(public);
        state.mix_key(P::agree(&self.secret, public)?.bytes());
        state.decrypt_and_hash(payload, tag).then(|| state.split())
    }
}

/// Who has read a first message, and may answer it.
pub struct Responder<P> {
    state: Symmetric<P>,
    theirs: Public,
}

impl<P: Primitives> Responder<P> {
    /// Reads the first message: decrypts `payload` in place. `None`: whoever sent it does not have the key, or means somebody else.
    /// Symmetric cryptography only.
    pub fn read(
        prologue: &[u8],
        psk: &Key,
        public: &Public,
        payload: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Option<Responder<P>> {
        let mut state = Symmetric::<P>::initialize(prologue);
        state.mix_key_and_hash(psk.bytes());
        state.mix_hash(&[public]);
        state.mix_key(public);
        state.decrypt_and_hash(payload, tag).then_some(Responder {
            state,
            theirs: *public,
        })
    }

    /// Makes the second message: gives the ephemeral public key, encrypts `payload` in place, and gives its tag and the keys.
    /// `secret`: 32 random bytes, used for nothing else. `None`: the other end's public key is a point of small order.
    pub fn answer(
        mut self,
        secret: &Key,
        payload: &mut [u8],
    ) -> Option<(Public, [u8; TAG_BYTES], Keys)> {
        let public = P::public(secret);
        self.state.mix_hash(&[&public]);
        self.state.mix_key(&public);
        self.state.mix_key(P::agree(secret, &self.theirs)?.bytes());
        let tag = self.state.encrypt_and_hash(payload);
        Some((public, tag, self.state.split()))
    }
}
