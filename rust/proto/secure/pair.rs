// SPDX-License-Identifier: GPL-2.0

//! A pair of nodes: what both know beforehand, and the datagrams of a handshake between them.

use core::marker::PhantomData;

use super::{
    guard::{Guard, Mac},
    noise::{Initiator, Keys, Responder},
    Key, Primitives,
};
use crate::proto::{
    envelope::{Greeting, Handshake, What, HANDSHAKE_BYTES},
    limits::MAX_NAME,
};

/// What the prologue begins with: the protocol and its version.
const LABEL: &[u8; 9] = b"VRemote 1";

/// The prologue: label, then initiator's and responder's name, each behind its length.
struct Prologue {
    bytes: [u8; LABEL.len() + 2 * (1 + MAX_NAME)],
    length: usize,
}

impl Prologue {
    /// `None`: a name is too long.
    fn new(initiator: &[u8], responder: &[u8]) -> Option<Prologue> {
        let mut prologue = Prologue {
            bytes: [0; LABEL.len() + 2 * (1 + MAX_NAME)],
            length: 0,
        };
        prologue.push(LABEL)?;
        for name in [initiator, responder] {
            prologue.push(&[u8::try_from(name.len()).ok()?])?;
            prologue.push(name)?;
        }
        Some(prologue)
    }

    fn push(&mut self, piece: &[u8]) -> Option<()> {
        let end = self.length + piece.len();
        self.bytes.get_mut(self.length..end)?.copy_from_slice(piece);
        self.length = end;
        Some(())
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// This node and one peer.
pub struct Pair<P> {
    psk: Key,
    /// Macs and cookies of this pair.
    pub guard: Guard,
    /// This node begins.
    out: Prologue,
    /// The peer begins.
    back: Prologue,
    primitives: PhantomData<P>,
}

/// What a handshake ends with: what the other end said of itself, and the keys.
pub struct Agreed {
    /// The other end's index of the session, and its epoch.
    pub peer: Greeting,
    /// What this node sends with.
    pub send: Key,
    /// What this node receives with.
    pub receive: Key,
}

/// A first message on its way.
pub struct Attempt<P> {
    initiator: Initiator<P>,
    /// What this node said of itself: its index of the session that may begin, and its epoch.
    pub own: Greeting,
    /// The `mac1` of the datagram, which a cookie would name.
    pub mac1: Mac,
}

/// A first message that was understood.
pub struct Invitation<P> {
    responder: Responder<P>,
    /// What the other end said of itself.
    pub peer: Greeting,
}

impl<P: Primitives> Pair<P> {
    /// Two nodes, by the names under which both know both, and their pre-shared key. `None`: a name of more than
    /// [`MAX_NAME`] bytes.
    pub fn new(own: &[u8], peer: &[u8], psk: Key) -> Option<Pair<P>> {
        Some(Pair {
            guard: Guard::new::<P>(&psk),
            psk,
            out: Prologue::new(own, peer)?,
            back: Prologue::new(peer, own)?,
            primitives: PhantomData,
        })
    }

    /// The first message. `secret`: 32 random bytes; `own`: what this node says of itself, with a new index.
    pub fn first(
        &self,
        secret: Key,
        own: Greeting,
        cookie: Option<&Mac>,
    ) -> (Attempt<P>, [u8; HANDSHAKE_BYTES]) {
        let mut greeting = own.encode();
        let (initiator, public, tag) =
            Initiator::begin(self.out.bytes(), &self.psk, secret, &mut greeting);
        let handshake = Handshake {
            public,
            greeting,
            tag,
        };
        let mut datagram = handshake.encode(What::First, 0);
        let mac1 = self.guard.sign::<P>(&mut datagram, cookie);
        let attempt = Attempt {
            initiator,
            own,
            mac1,
        };
        (attempt, datagram)
    }

    /// Reads a first message, whose macs were checked. `None`: it is none of this peer to this node.
    pub fn invited(&self, datagram: &[u8; HANDSHAKE_BYTES]) -> Option<Invitation<P>> {
        let mut handshake = Handshake::decode(datagram);
        let responder = Responder::read(
            self.back.bytes(),
            &self.psk,
            &handshake.public,
            &mut handshake.greeting,
            &handshake.tag,
        )?;
        let peer = Greeting::decode(&handshake.greeting)?;
        Some(Invitation { responder, peer })
    }

    /// The second message. `secret`: 32 random bytes; `own`: what this node says of itself, with a new index. `None`: the first message
    /// had a public key that is none.
    pub fn second(
        &self,
        invitation: Invitation<P>,
        secret: &Key,
        own: Greeting,
        cookie: Option<&Mac>,
    ) -> Option<(Agreed, [u8; HANDSHAKE_BYTES])> {
        let Invitation { responder, peer } = invitation;
        let mut greeting = own.encode();
        let (public, tag, keys) = responder.answer(secret, &mut greeting)?;
        let handshake = Handshake {
            public,
            greeting,
            tag,
        };
        let mut datagram = handshake.encode(What::Second, peer.index);
        self.guard.sign::<P>(&mut datagram, cookie);
        let Keys {
            initiator,
            responder,
        } = keys;
        let agreed = Agreed {
            peer,
            send: responder,
            receive: initiator,
        };
        Some((agreed, datagram))
    }

    /// Reads the second message, whose macs were checked. `None`: it is none to this attempt, which goes on.
    pub fn finish(&self, attempt: &Attempt<P>, datagram: &[u8; HANDSHAKE_BYTES]) -> Option<Agreed> {
        let mut handshake = Handshake::decode(datagram);
        let Keys {
            initiator,
            responder,
        } = attempt
            .initiator
            .finish(&handshake.public, &mut handshake.greeting, &handshake.tag)?;
        let peer = Greeting::decode(&handshake.greeting)?;
        Some(Agreed {
            peer,
            send: initiator,
            receive: responder,
        })
    }
}
