// SPDX-License-Identifier: GPL-2.0

//! Frames: two bytes of length, then a Noise transport message. See the crate's documentation.

use std::{
    io::{self, Read, Write},
    sync::{Arc, PoisonError, RwLock},
};

use snow::StatelessTransportState;

use crate::Error;

/// Longest message of Noise, hence of a frame without its length.
pub const MAX_FRAME: usize = 65535;

/// Bytes that encryption adds.
pub const TAG: usize = 16;

/// Most data in a frame.
pub const MAX_DATA: usize = MAX_FRAME - TAG;

/// After so many frames a direction gets a new key: at most 4 GiB under one.
pub const REKEY_AFTER: u64 = 1 << 16;

/// Bytes of the length.
const HEADER: usize = 2;

/// The keys of both directions. Each half encrypts or decrypts under the read lock, and takes the write lock to replace its own key.
type Keys = Arc<RwLock<StatelessTransportState>>;

/// Encrypts.
pub(crate) struct Sealer {
    keys: Keys,
    number: u64,
    frame: Box<[u8]>,
}

/// Decrypts.
pub(crate) struct Opener {
    keys: Keys,
    number: u64,
    frame: Box<[u8]>,
    /// Bytes of `frame` that have come.
    have: usize,
}

/// Both, of a channel whose handshake is done.
pub(crate) fn halves(keys: StatelessTransportState) -> (Sealer, Opener) {
    let keys = Arc::new(RwLock::new(keys));
    let frame = || vec![0; HEADER + MAX_FRAME].into_boxed_slice();
    (
        Sealer {
            keys: keys.clone(),
            number: 0,
            frame: frame(),
        },
        Opener {
            keys,
            number: 0,
            frame: frame(),
            have: 0,
        },
    )
}

impl Sealer {
    /// Writes one frame with at most [`MAX_DATA`] bytes of data; none is the end. After an error the stream is of no use.
    pub(crate) fn seal(&mut self, data: &[u8], to: &mut impl Write) -> Result<(), Error> {
        if self.number != 0 && self.number % REKEY_AFTER == 0 {
            self.keys
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .rekey_outgoing();
        }
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let length = keys
            .write_message(self.number, data, &mut self.frame[HEADER..])
            .map_err(|_| Error::Broken)?;
        self.number += 1;
        // A Noise message is at most 65535 bytes long.
        let header = u16::try_from(length).map_err(|_| Error::Broken)?;
        self.frame[..HEADER].copy_from_slice(&header.to_be_bytes());
        Ok(to.write_all(&self.frame[..HEADER + length])?)
    }
}

impl Opener {
    /// Reads one frame and puts its data at the start of `data`, which is [`MAX_FRAME`] long; how many bytes, 0 at the end.
    /// After an error of reading the same frame is gone on with by the next call; any other error is for good.
    pub(crate) fn open(&mut self, data: &mut [u8], from: &mut impl Read) -> Result<usize, Error> {
        self.fill(HEADER, from)?;
        let length = usize::from(u16::from_be_bytes([self.frame[0], self.frame[1]]));
        if length < TAG {
            return Err(Error::Forged);
        }
        self.fill(HEADER + length, from)?;
        if self.number != 0 && self.number % REKEY_AFTER == 0 {
            self.keys
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .rekey_incoming();
        }
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let opened = keys.read_message(self.number, &self.frame[HEADER..HEADER + length], data);
        let opened = opened.map_err(|_| Error::Forged)?;
        self.number += 1;
        self.have = 0;
        Ok(opened)
    }

    /// Until there are `need` bytes of the frame.
    fn fill(&mut self, need: usize, from: &mut impl Read) -> Result<(), Error> {
        while self.have < need {
            match from.read(&mut self.frame[self.have..need]) {
                Ok(0) => return Err(Error::CutOff),
                Ok(n) => self.have += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What one side sends to the other, and who can read it.
    fn sent(frames: &[&[u8]]) -> (Vec<u8>, Opener) {
        let noise = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
        let builder = || {
            snow::Builder::new(noise.parse().unwrap())
                .psk(0, &[7; 32])
                .unwrap()
        };
        let (mut a, mut b) = (
            builder().build_initiator().unwrap(),
            builder().build_responder().unwrap(),
        );
        let mut message = [0; 48];
        a.write_message(&[], &mut message).unwrap();
        b.read_message(&message, &mut []).unwrap();
        b.write_message(&[], &mut message).unwrap();
        a.read_message(&message, &mut []).unwrap();
        let (mut sealer, _) = halves(a.into_stateless_transport_mode().unwrap());
        let (_, opener) = halves(b.into_stateless_transport_mode().unwrap());
        let mut bytes = Vec::new();
        for frame in frames {
            sealer.seal(frame, &mut bytes).unwrap();
        }
        (bytes, opener)
    }

    /// All data up to the end.
    fn read(opener: &mut Opener, mut bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        let mut data = vec![0; MAX_FRAME];
        loop {
            match opener.open(&mut data, &mut bytes)? {
                0 => return Ok(all),
                length => all.extend_from_slice(&data[..length]),
            }
        }
    }

    #[test]
    fn frames_of_all_sizes() {
        let longest = vec![3; MAX_DATA];
        let (bytes, mut opener) = sent(&[b"x", &longest, b"yz", b""]);
        assert_eq!(bytes.len(), 4 * (HEADER + TAG) + 1 + MAX_DATA + 2);
        assert_eq!(
            read(&mut opener, &bytes).unwrap(),
            [b"x", &longest[..], b"yz"].concat()
        );
    }

    #[test]
    fn every_bit_counts() {
        let frames: [&[u8]; 3] = [b"first", b"second", b""];
        let (bytes, _) = sent(&frames);
        for bit in 0..bytes.len() * 8 {
            let (mut bytes, mut opener) = sent(&frames);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(
                    read(&mut opener, &bytes),
                    Err(Error::Forged | Error::CutOff)
                ),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn every_byte_is_missed() {
        let (bytes, _) = sent(&[b"first", b"second", b""]);
        for length in 0..bytes.len() {
            let (bytes, mut opener) = sent(&[b"first", b"second", b""]);
            assert!(
                matches!(read(&mut opener, &bytes[..length]), Err(Error::CutOff)),
                "{length}"
            );
        }
    }

    #[test]
    fn frames_have_their_places() {
        let size = HEADER + TAG + 1;
        for (order, what) in [
            ([1, 0, 2], "swapped"),
            ([0, 0, 2], "repeated"),
            ([1, 2, 2], "lost"),
        ] {
            let (bytes, mut opener) = sent(&[b"0", b"1", b"2", b""]);
            let frame = |n: usize| &bytes[n * size..(n + 1) * size];
            let changed = [
                frame(order[0]),
                frame(order[1]),
                frame(order[2]),
                &bytes[3 * size..],
            ]
            .concat();
            assert!(
                matches!(read(&mut opener, &changed), Err(Error::Forged)),
                "{what}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn random_bytes_are_no_frames(bytes in proptest::collection::vec(any::<u8>(), 0..100_000)) {
            let (_, mut opener) = sent(&[]);
            prop_assert!(matches!(read(&mut opener, &bytes), Err(Error::Forged | Error::CutOff)));
        }
    }
}
