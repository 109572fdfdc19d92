// SPDX-License-Identifier: GPL-2.0

//! The handshake, of either side. See the crate's documentation.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use snow::{Builder, HandshakeState};

use crate::{
    frame::{halves, Opener, Sealer},
    Error, Key, Peer,
};

/// Patterns and primitives.
const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// Name and version of everything that the two sides must agree on.
const PROTOCOL: &[u8] = b"VRemote channel 1";

/// Bytes of each of the two messages: an ephemeral public key, and the tag of nothing.
const MESSAGE: usize = 32 + 16;

/// A connection with a time by which everything must be done.
pub(crate) struct Timed<'a> {
    pub(crate) stream: &'a TcpStream,
    pub(crate) until: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Proves to the peer `to` that this node, called `own`, has the key, and has it proven.
pub(crate) fn initiate(
    stream: &mut (impl Read + Write),
    own: &str,
    to: &Peer,
    key: &Key,
) -> Result<(Sealer, Opener), Error> {
    let mut noise = state(key, own, &to.name, true)?;
    let mut message = [0; MESSAGE];
    noise
        .write_message(&[], &mut message)
        .map_err(|_| Error::Broken)?;
    let answered = stream
        .write_all(&message)
        .and_then(|()| stream.read_exact(&mut message));
    answered.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => Error::Refused {
            peer: to.name.clone(),
        },
        _ => error.into(),
    })?;
    let unproven = |_| Error::Unproven {
        peer: to.name.clone(),
    };
    noise.read_message(&message, &mut []).map_err(unproven)?;
    let (mut sealer, opener) = finish(noise)?;
    sealer.seal(&[], stream)?;
    Ok((sealer, opener))
}

/// The other side of it: which of `peers` it is, of whom there is rarely more than one at an address.
pub(crate) fn respond<'a>(
    stream: &mut (impl Read + Write),
    own: &str,
    peers: &'a [(Peer, Key)],
) -> Result<(&'a Peer, Sealer, Opener), Error> {
    let unproven = || Error::Unproven {
        peer: peers
            .iter()
            .map(|(peer, _)| peer.name.as_str())
            .collect::<Vec<_>>()
            .join(" or "),
    };
    let mut message = [0; MESSAGE];
    stream
        .read_exact(&mut message)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::CutOff,
            _ => error.into(),
        })?;
    for (peer, key) in peers {
        let mut noise = state(key, &peer.name, own, false)?;
        if noise.read_message(&message, &mut []).is_err() {
            continue;
        }
        noise
            .write_message(&[], &mut message)
            .map_err(|_| Error::Broken)?;
        stream.write_all(&message)?;
        let (sealer, mut opener) = finish(noise)?;
        return match opener.open(&mut [0; MESSAGE], stream) {
            Ok(0) => Ok((peer, sealer, opener)),
            Ok(_) | Err(Error::Forged) => Err(unproven()),
            Err(error) => Err(error),
        };
    }
    Err(unproven())
}

fn state(
    key: &Key,
    initiator: &str,
    responder: &str,
    initiates: bool,
) -> Result<HandshakeState, Error> {
    let mut prologue = PROTOCOL.to_vec();
    for name in [initiator, responder] {
        prologue.extend_from_slice(&(name.len() as u64).to_be_bytes());
        prologue.extend_from_slice(name.as_bytes());
    }
    let parameters = NOISE.parse().map_err(|_| Error::Broken)?;
    let builder = Builder::new(parameters)
        .prologue(&prologue)
        .and_then(|builder| builder.psk(0, key.bytes()));
    let state = builder.and_then(|builder| {
        if initiates {
            builder.build_initiator()
        } else {
            builder.build_responder()
        }
    });
    state.map_err(|_| Error::Broken)
}

fn finish(mut noise: HandshakeState) -> Result<(Sealer, Opener), Error> {
    // The handshake's own copy of the key.
    noise
        .set_psk(0, &[0; crate::key::KEY_BYTES])
        .map_err(|_| Error::Broken)?;
    Ok(halves(
        noise
            .into_stateless_transport_mode()
            .map_err(|_| Error::Broken)?,
    ))
}
