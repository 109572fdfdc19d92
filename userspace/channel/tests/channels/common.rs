// SPDX-License-Identifier: GPL-2.0

//! Nodes on loopback, and somebody between them.

use std::{
    fs,
    io::{
        ErrorKind::{ConnectionReset, NotConnected},
        Read, Write,
    },
    net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use vremote_channel::{Error, Key, Listener, Node, Peer};

/// Where nodes are in these tests.
pub(crate) const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A node whose only peer is `peer` at an address of its own.
pub(crate) fn node(place: &Path, own: &str, peer: &str, key: &Path) -> Node {
    let place = place.join(own);
    let peers = place.join("peers");
    fs::create_dir_all(peers.join(peer)).unwrap();
    fs::write(peers.join(peer).join("address"), format!("{HERE}:1104\n")).unwrap();
    let keys = place.join("keys");
    Key::read(key).unwrap().store(&keys, peer).unwrap();
    Node::new(own.into(), peers, keys)
}

/// Nodes a and b, which have the same key, and where b listens.
pub(crate) struct Pair {
    pub(crate) place: TempDir,
    pub(crate) a: Node,
    pub(crate) listener: Listener,
}

impl Pair {
    pub(crate) fn new() -> Pair {
        let place = tempfile::tempdir().unwrap();
        let key = place.path().join("key");
        Key::generate().create(&key).unwrap();
        let a = node(place.path(), "a", "b", &key);
        let b = node(place.path(), "b", "a", &key);
        let listener = Listener::bind(b, SocketAddrV4::new(HERE, 0)).unwrap();
        Pair { place, a, listener }
    }

    /// b as a sees it.
    pub(crate) fn peer(&self) -> Peer {
        peer("b", self.listener.address())
    }
}

pub(crate) fn peer(name: &str, address: SocketAddrV4) -> Peer {
    Peer {
        name: name.into(),
        address,
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    There,
    Back,
}

/// What the one in the middle does to the byte at a place of a direction.
#[derive(Clone, Copy)]
pub(crate) enum Meddling {
    Nothing,
    Flip(Way, usize, u8),
    Cut(Way, usize),
}

/// Passes one connection on to `target`, meddling. Gives its address, and what has passed there.
pub(crate) fn between(
    target: SocketAddrV4,
    meddling: Meddling,
) -> (SocketAddrV4, Arc<Mutex<Vec<u8>>>) {
    let socket = TcpListener::bind((HERE, 0)).unwrap();
    let SocketAddr::V4(address) = socket.local_addr().unwrap() else {
        unreachable!()
    };
    let passed = Arc::<Mutex<Vec<u8>>>::default();
    let seen = passed.clone();
    thread::spawn(move || {
        let (client, _) = socket.accept().unwrap();
        let server = TcpStream::connect(target).unwrap();
        let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
        thread::spawn(move || pass(back.0, back.1, Way::Back, meddling, &Mutex::default()));
        pass(client, server, Way::There, meddling, &seen);
    });
    (address, passed)
}

fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    way: Way,
    meddling: Meddling,
    seen: &Mutex<Vec<u8>>,
) {
    let mut at = 0;
    let mut buffer = [0; 4096];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        let mut bytes = &mut buffer[..length];
        let mut cut = false;
        match meddling {
            Meddling::Flip(of, place, bit) if of == way && (at..at + length).contains(&place) => {
                bytes[place - at] ^= 1 << bit
            }
            Meddling::Cut(of, place) if of == way && at + length > place => {
                bytes = &mut bytes[..place - at];
                cut = true;
            }
            _ => {}
        }
        seen.lock().unwrap().extend_from_slice(bytes);
        if to.write_all(bytes).is_err() {
            break;
        }
        at += length;
        if cut {
            // As if both machines were told that the other had closed.
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// A connection that some other loopback address makes; perhaps one that has been reset already, which connect(2) may come to know.
pub(crate) fn stranger(from: Ipv4Addr, to: SocketAddrV4) -> TcpStream {
    use rustix::net::{bind, connect, socket, AddressFamily, SocketType};
    let stream = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&stream, &SocketAddrV4::new(from, 0)).unwrap();
    match connect(&stream, &to) {
        Ok(()) | Err(rustix::io::Errno::CONNRESET) => {}
        Err(error) => panic!("no connection: {error}"),
    }
    let stream = TcpStream::from(stream);
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// What a stream says before it ends, however it ends.
pub(crate) fn rest(mut stream: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return all,
            Ok(length) => all.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), ConnectionReset | NotConnected) => return all,
            Err(error) => panic!("the connection is still there: {error}"),
        }
    }
}

/// The error inside one of `Read` or `Write`.
pub(crate) fn inside(error: &std::io::Error) -> &Error {
    error
        .get_ref()
        .and_then(|error| error.downcast_ref())
        .unwrap_or_else(|| panic!("not of the channel: {error}"))
}
