// SPDX-License-Identifier: GPL-2.0

//! A connection to a peer: two streams of bytes, one in each direction.

use std::{
    io::{self, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::net::sockopt;

use crate::{
    frame::{Opener, Sealer, MAX_DATA, MAX_FRAME},
    handshake::{self, Timed},
    Error, Key, Node, Peer,
};

/// Longest time for connecting.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Longest time for the handshake, from the first byte to the last.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Longest silence in a read or a write, unless set otherwise.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// A machine that has not acknowledged anything, not even a probe of a connection without traffic, for so long is gone.
pub const DEAD_AFTER: Duration = Duration::from_secs(30);

/// Probes of a connection without traffic begin after so long, and there are so many within [`DEAD_AFTER`].
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBES: u32 = 4;

/// A connection to a peer that has proven to be it. Take it apart to use both directions at once.
pub struct Channel {
    /// Who is at the other end.
    pub peer: Peer,
    /// What comes from there.
    pub reader: Reader,
    /// What goes there.
    pub writer: Writer,
}

impl Channel {
    /// Connects to a peer of this node. Errors: [`Error::Key`], [`Error::Unreachable`], [`Error::Refused`], [`Error::Unproven`],
    /// [`Error::Slow`], [`Error::Io`].
    pub fn connect(node: &Node, peer: &Peer) -> Result<Channel, Error> {
        let key = node.key(peer)?;
        let stream = TcpStream::connect_timeout(&peer.address.into(), CONNECT_LIMIT);
        let stream = stream.map_err(|source| match source.kind() {
            // Who does not know us resets even before we have looked.
            io::ErrorKind::ConnectionReset => Error::Refused {
                peer: peer.name.clone(),
            },
            _ => Error::Unreachable {
                peer: peer.name.clone(),
                address: peer.address,
                source,
            },
        })?;
        Channel::initiate(stream, node, peer, &key)
    }

    /// The handshake on a connection that this node has made to `peer`.
    fn initiate(stream: TcpStream, node: &Node, peer: &Peer, key: &Key) -> Result<Channel, Error> {
        prepare(&stream)?;
        let mut timed = Timed {
            stream: &stream,
            until: Instant::now() + HANDSHAKE_LIMIT,
        };
        let halves = handshake::initiate(&mut timed, node.name(), peer, key)
            .map_err(|error| slow(error, &peer.name))?;
        Channel::of(stream, peer.clone(), halves)
    }

    /// The handshake on a connection that one of `peers` has made to this node.
    pub(crate) fn respond(
        stream: TcpStream,
        node: &Node,
        peers: &[(Peer, Key)],
    ) -> Result<Channel, Error> {
        prepare(&stream)?;
        let mut timed = Timed {
            stream: &stream,
            until: Instant::now() + HANDSHAKE_LIMIT,
        };
        let done = handshake::respond(&mut timed, node.name(), peers);
        let name = peers.first().map_or("", |(peer, _)| &peer.name);
        let (peer, sealer, opener) = done.map_err(|error| slow(error, name))?;
        Channel::of(stream, peer.clone(), (sealer, opener))
    }

    fn of(
        stream: TcpStream,
        peer: Peer,
        (sealer, opener): (Sealer, Opener),
    ) -> Result<Channel, Error> {
        let source = Source {
            stream: stream.try_clone()?,
            until: None,
        };
        let reader = Reader {
            stream: BufReader::with_capacity(MAX_FRAME, source),
            opener,
            data: vec![0; MAX_FRAME].into_boxed_slice(),
            next: 0,
            end: 0,
            ended: false,
            limit: None,
        };
        let writer = Writer {
            stream,
            sealer,
            data: Vec::with_capacity(MAX_DATA),
            broken: false,
            limit: None,
        };
        let mut channel = Channel {
            peer,
            reader,
            writer,
        };
        channel.reader.set_limit(Some(SILENCE_LIMIT))?;
        channel.writer.set_limit(Some(SILENCE_LIMIT))?;
        Ok(channel)
    }

    /// Ends both directions: sends what is left and the end, and waits for the peer's, which does the same. [`Error::NoEnd`] if
    /// the peer sends data instead.
    pub fn close(mut self) -> Result<(), Error> {
        self.writer.end()?;
        match self.reader.more()? {
            true => Err(Error::NoEnd),
            false => Ok(()),
        }
    }

    /// For another thread, to stop it.
    pub fn stopper(&self) -> Result<Stopper, Error> {
        Stopper::of(&self.writer.stream)
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Options of every connection, before its first byte.
fn prepare(stream: &TcpStream) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let set = || -> rustix::io::Result<()> {
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, PROBE_AFTER)?;
        sockopt::set_tcp_keepintvl(stream, (DEAD_AFTER - PROBE_AFTER) / PROBES)?;
        sockopt::set_tcp_keepcnt(stream, PROBES)?;
        sockopt::set_tcp_user_timeout(stream, DEAD_AFTER.as_millis() as u32)
    };
    Ok(set().map_err(io::Error::from)?)
}

/// An error of the handshake, if it was that its time was up.
fn slow(error: Error, peer: &str) -> Error {
    match error {
        Error::Io(error) if is_timeout(&error) => Error::Slow {
            peer: peer.into(),
            limit: HANDSHAKE_LIMIT,
        },
        error => error,
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// What a reader reads from.
struct Source {
    stream: TcpStream,
    /// All has to come by then.
    until: Option<Instant>,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.until {
            Some(until) => Timed {
                stream: &self.stream,
                until,
            }
            .read(buffer),
            None => self.stream.read(buffer),
        }
    }
}

/// What comes from the peer, in order and unchanged. At its end, which the peer has stated, reads give 0 bytes; a connection that
/// ends before that is [`Error::CutOff`].
///
/// Errors of `Read` hold an [`Error`], or are the kernel's own. After [`Error::Silent`] reading can be tried again.
pub struct Reader {
    stream: BufReader<Source>,
    opener: Opener,
    /// Data of the last frame; not yet read is `next..end`.
    data: Box<[u8]>,
    next: usize,
    end: usize,
    ended: bool,
    limit: Option<Duration>,
}

impl Reader {
    /// How long a read may wait for the next byte of the connection; `None`: for as long as the peer's machine answers.
    pub fn set_limit(&mut self, limit: Option<Duration>) -> Result<(), Error> {
        self.limit = limit;
        let source = self.stream.get_mut();
        source.until = None;
        Ok(source.stream.set_read_timeout(limit)?)
    }

    /// All that is read from now on has to come within this, however slowly: a limit for a peer that may want to keep a reader waiting.
    pub fn set_time(&mut self, time: Duration) {
        self.limit = Some(time);
        self.stream.get_mut().until = Some(Instant::now() + time);
    }

    /// Waits until there is something to read; false at the end.
    pub fn more(&mut self) -> Result<bool, Error> {
        if self.next == self.end && !self.ended {
            let opened = self.opener.open(&mut self.data, &mut self.stream);
            self.next = 0;
            self.end = 0;
            self.end = opened.map_err(|error| silent(error, self.limit))?;
            self.ended = self.end == 0;
        }
        Ok(!self.ended)
    }

    /// Fills the buffer; false at the end, if it comes before the first byte, and [`Error::CutOff`] if it comes after that.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, Error> {
        let mut have = 0;
        while have < buffer.len() {
            if !self.more()? {
                return if have == 0 {
                    Ok(false)
                } else {
                    Err(Error::CutOff)
                };
            }
            have += self.take(&mut buffer[have..]);
        }
        Ok(true)
    }

    fn take(&mut self, buffer: &mut [u8]) -> usize {
        let length = buffer.len().min(self.end - self.next);
        buffer[..length].copy_from_slice(&self.data[self.next..self.next + length]);
        self.next += length;
        length
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || !self.more()? {
            return Ok(0);
        }
        Ok(self.take(buffer))
    }
}

/// What goes to the peer. It is sent when a frame is full, and with `flush`. Dropped without [`Writer::finish`], it is cut off for
/// the peer.
///
/// Errors of `Write` hold an [`Error`], or are the kernel's own. After one, nothing more can be sent ([`Error::Broken`]).
pub struct Writer {
    stream: TcpStream,
    sealer: Sealer,
    /// Not yet sent.
    data: Vec<u8>,
    broken: bool,
    limit: Option<Duration>,
}

impl Writer {
    /// How long a write may wait until the connection takes its next byte; `None`: for as long as the peer's machine answers.
    pub fn set_limit(&mut self, limit: Option<Duration>) -> Result<(), Error> {
        self.limit = limit;
        Ok(self.stream.set_write_timeout(limit)?)
    }

    /// Sends what is left, and the end.
    pub fn finish(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        self.send_data()?;
        self.seal(None)?;
        // Nothing can follow the end.
        self.broken = true;
        Ok(self.stream.shutdown(Shutdown::Write)?)
    }

    /// Sends what has been collected.
    pub(crate) fn send_data(&mut self) -> Result<(), Error> {
        if self.data.is_empty() {
            return if self.broken {
                Err(Error::Broken)
            } else {
                Ok(())
            };
        }
        let data = std::mem::take(&mut self.data);
        let sent = self.seal(Some(&data));
        self.data = data;
        self.data.clear();
        sent
    }

    /// Sends one frame; without data it is the end.
    fn seal(&mut self, data: Option<&[u8]>) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Broken);
        }
        let sealed = self.sealer.seal(data.unwrap_or_default(), &mut self.stream);
        self.broken = sealed.is_err();
        sealed.map_err(|error| silent(error, self.limit))
    }
}

impl Write for Writer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        // A whole frame needs no collecting.
        if self.data.is_empty() && buffer.len() >= MAX_DATA {
            self.seal(Some(&buffer[..MAX_DATA]))?;
            return Ok(MAX_DATA);
        }
        let length = buffer.len().min(MAX_DATA - self.data.len());
        self.data.extend_from_slice(&buffer[..length]);
        if self.data.len() == MAX_DATA {
            self.send_data()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.send_data()?)
    }
}

/// An error of the connection, if it was that nothing moved for too long.
fn silent(error: Error, limit: Option<Duration>) -> Error {
    match (error, limit) {
        (Error::Io(error), Some(limit)) if is_timeout(&error) => Error::Silent(limit),
        (error, _) => error,
    }
}

/// Ends what waits at a channel or a listener, from another thread. The connection is open for as long as this exists.
#[derive(Debug)]
pub struct Stopper(OwnedFd);

impl Stopper {
    pub(crate) fn of(socket: &impl AsFd) -> Result<Stopper, Error> {
        Ok(Stopper(socket.as_fd().try_clone_to_owned()?))
    }

    /// Another one.
    pub fn try_clone(&self) -> Result<Stopper, Error> {
        Ok(Stopper(self.0.try_clone()?))
    }

    /// Both directions of a channel are cut off, a listener ends. What is stopped already stays so.
    pub fn stop(&self) {
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }
}
