// SPDX-License-Identifier: GPL-2.0

//! Accepts channels of peers.
//!
//! A thread accepts connections. One from an address that is no peer's is reset at once: no byte is read or sent, no key is
//! looked for, no thread is started. A peer's connections are limited in rate and number, so that one peer, or what sits at its address, does
//! not keep out the others. Each handshake has a thread of its own, and [`crate::channel::HANDSHAKE_LIMIT`].

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    sync::{
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{sync_channel, Receiver, SyncSender},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::net::sockopt;

use crate::{Channel, Error, Key, Node, Peer, Stopper};

/// Handshakes at once.
pub const MAX_HANDSHAKES: usize = 64;

/// Handshakes at once with one address.
pub const MAX_HANDSHAKES_OF_ONE: usize = 16;

/// Connections of one address in the long run: one in so long …
pub const INTERVAL: Duration = Duration::from_millis(25);

/// … and so many at once.
pub const BURST: u32 = 128;

/// Channels that wait to be accepted.
const MAX_WAITING: usize = 64;

/// The list of peers is not read more often than this, whoever connects; a peer that was added is known after it.
const PEERS_VALID: Duration = Duration::from_millis(250);

/// Pause after an error of accept(2), such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Stack of a handshake's thread, in bytes.
const STACK: usize = 256 << 10;

/// Where peers connect to. Dropping it ends it.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddrV4,
    accepted: Receiver<Result<Channel, Error>>,
    refused: Arc<Counters>,
    stopper: Stopper,
}

/// Connections that came to nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// From addresses that are no peer's.
    pub strangers: u64,
    /// Of peers beyond the limits of rate and number.
    pub limited: u64,
    /// Of peers, with a handshake that failed.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    strangers: AtomicU64,
    limited: AtomicU64,
    failed: AtomicU64,
}

impl Listener {
    /// Listens at an address, for the peers of `node`, whoever they are at any time. [`Error::Listen`].
    pub fn bind(node: Node, address: SocketAddrV4) -> Result<Listener, Error> {
        let failed = |source| Error::Listen { address, source };
        let socket = TcpListener::bind(address).map_err(failed)?;
        let address = match socket.local_addr().map_err(failed)? {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(_) => address,
        };
        let stopper = Stopper::of(&socket)?;
        let (sender, accepted) = sync_channel(MAX_WAITING);
        let refused = Arc::<Counters>::default();
        let gate = Gate {
            node: Arc::new(node),
            known: Vec::new(),
            read_at: None,
            places: HashMap::new(),
            handshakes: Arc::default(),
            accepted: sender,
            refused: refused.clone(),
        };
        thread::Builder::new()
            .name("listener".into())
            .spawn(move || gate.run(&socket))?;
        Ok(Listener {
            address,
            accepted,
            refused,
            stopper,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Waits for the next channel, without limit; `None` once it has been stopped. An error is a peer's failed handshake, to be logged.
    pub fn accept(&self) -> Option<Result<Channel, Error>> {
        self.accepted.recv().ok()
    }

    /// What came to nothing since the start.
    pub fn refused(&self) -> Refused {
        Refused {
            strangers: self.refused.strangers.load(Relaxed),
            limited: self.refused.limited.load(Relaxed),
            failed: self.refused.failed.load(Relaxed),
        }
    }

    /// For another thread, to stop it.
    pub fn stopper(&self) -> Result<Stopper, Error> {
        self.stopper.try_clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stopper.stop();
    }
}

/// Decides who gets a handshake.
struct Gate {
    node: Arc<Node>,
    known: Vec<Peer>,
    read_at: Option<Instant>,
    places: HashMap<Ipv4Addr, Place>,
    handshakes: Arc<AtomicUsize>,
    accepted: SyncSender<Result<Channel, Error>>,
    refused: Arc<Counters>,
}

/// What is noted for an address of a peer.
#[derive(Default)]
struct Place {
    /// When its allowance of connections is whole again; `None`: it is.
    whole_at: Option<Instant>,
    handshakes: Arc<AtomicUsize>,
}

/// Why a connection gets no handshake.
enum Refusal {
    Stranger,
    Limited,
}

/// A handshake that is counted, in all and for its address.
struct Permit([Arc<AtomicUsize>; 2]);

impl Permit {
    fn new(counts: [Arc<AtomicUsize>; 2]) -> Permit {
        for count in &counts {
            count.fetch_add(1, Relaxed);
        }
        Permit(counts)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        for count in &self.0 {
            count.fetch_sub(1, Relaxed);
        }
    }
}

impl Gate {
    fn run(mut self, socket: &TcpListener) {
        loop {
            let (stream, from) = match socket.accept() {
                Ok((stream, SocketAddr::V4(from))) => (stream, from),
                // Not on a socket for IPv4.
                Ok((_, SocketAddr::V6(_))) => continue,
                // It has been stopped.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
                Err(_) => {
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            let refused = match self.admit(*from.ip()) {
                Ok((peers, permit)) => {
                    self.begin(stream, peers, permit);
                    continue;
                }
                Err(Refusal::Stranger) => &self.refused.strangers,
                Err(Refusal::Limited) => &self.refused.limited,
            };
            refused.fetch_add(1, Relaxed);
            // The connection is reset: nothing of it stays here.
            let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        }
    }

    /// The peers at an address, if it may have one more handshake.
    fn admit(&mut self, from: Ipv4Addr) -> Result<(Vec<Peer>, Permit), Refusal> {
        let now = Instant::now();
        let peers = self.peers_at(from, now);
        if peers.is_empty() {
            return Err(Refusal::Stranger);
        }
        let place = self.places.entry(from).or_default();
        let whole_at = use_allowance(place.whole_at, now).ok_or(Refusal::Limited)?;
        if place.handshakes.load(Relaxed) >= MAX_HANDSHAKES_OF_ONE
            || self.handshakes.load(Relaxed) >= MAX_HANDSHAKES
        {
            return Err(Refusal::Limited);
        }
        place.whole_at = Some(whole_at);
        Ok((
            peers,
            Permit::new([place.handshakes.clone(), self.handshakes.clone()]),
        ))
    }

    /// Who is configured with an address. Whatever cannot be read, the module not being loaded for one, has no peers.
    fn peers_at(&mut self, from: Ipv4Addr, now: Instant) -> Vec<Peer> {
        if self.read_at.is_none_or(|at| now - at >= PEERS_VALID) {
            self.read_at = Some(now);
            self.known = self.node.peers().unwrap_or_default();
            let known = &self.known;
            self.places
                .retain(|address, _| known.iter().any(|peer| peer.address.ip() == address));
        }
        self.known
            .iter()
            .filter(|peer| *peer.address.ip() == from)
            .cloned()
            .collect()
    }

    /// Starts the handshake.
    fn begin(&self, stream: TcpStream, peers: Vec<Peer>, permit: Permit) {
        let (node, accepted, refused) = (
            self.node.clone(),
            self.accepted.clone(),
            self.refused.clone(),
        );
        let handshake = move || {
            let channel =
                with_keys(&node, peers).and_then(|peers| Channel::respond(stream, &node, &peers));
            if channel.is_err() {
                refused.failed.fetch_add(1, Relaxed);
            }
            // Nobody takes it when the listener ends.
            let _ = accepted.send(channel);
            drop(permit);
        };
        // Without a thread the connection is closed.
        if thread::Builder::new()
            .name("handshake".into())
            .stack_size(STACK)
            .spawn(handshake)
            .is_err()
        {
            self.refused.limited.fetch_add(1, Relaxed);
        }
    }
}

/// Takes one connection from an allowance that is whole at a time, or now: when it is whole then. `None` if nothing is left of it.
fn use_allowance(whole_at: Option<Instant>, now: Instant) -> Option<Instant> {
    let whole_at = whole_at.map_or(now, |at| at.max(now)) + INTERVAL;
    (whole_at <= now + INTERVAL * BURST).then_some(whole_at)
}

/// Those of the peers that have a key; an error if none has.
fn with_keys(node: &Node, peers: Vec<Peer>) -> Result<Vec<(Peer, Key)>, Error> {
    let mut with = Vec::new();
    let mut without = None;
    for peer in peers {
        match node.key(&peer) {
            Ok(key) => with.push((peer, key)),
            Err(error) => without = Some(error),
        }
    }
    match without {
        Some(error) if with.is_empty() => Err(error),
        _ => Ok(with),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_used_up_and_comes_back() {
        let start = Instant::now();
        let mut whole_at = None;
        for _ in 0..BURST {
            whole_at = Some(use_allowance(whole_at, start).unwrap());
        }
        assert_eq!(use_allowance(whole_at, start), None);
        assert_eq!(
            use_allowance(whole_at, start + INTERVAL - Duration::from_nanos(1)),
            None
        );
        let later = start + INTERVAL;
        let whole_at = use_allowance(whole_at, later).unwrap();
        assert_eq!(use_allowance(Some(whole_at), later), None);
        let much_later = start + INTERVAL * BURST * 10;
        assert_eq!(
            use_allowance(Some(whole_at), much_later),
            Some(much_later + INTERVAL),
            "no more than a whole one is saved up"
        );
    }
}
