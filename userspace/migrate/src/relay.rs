// SPDX-License-Identifier: GPL-2.0

//! Carries a stream of CRIU's page server between a local socket and a channel.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        Arc,
    },
    thread::{self, JoinHandle},
};

use vremote_channel::{Channel, Stopper};

use crate::problem::Problem;

/// Bytes in one piece.
const PIECE: usize = 60 << 10;

/// Bytes that have passed.
#[derive(Clone, Debug, Default)]
pub struct Count(Arc<AtomicU64>);

impl Count {
    /// So far, both ways.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// So many more.
    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Relaxed);
    }
}

/// A relay at work.
#[derive(Debug)]
pub struct Relay {
    socket: UnixStream,
    connection: Stopper,
    inward: JoinHandle<io::Result<()>>,
    outward: JoinHandle<io::Result<()>>,
}

/// What CRIU is told when nothing comes from the peer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// That this is so.
    Tell,
    /// Nothing: it would give empty pages to a tree that waits for full ones. The tree is killed first.
    Hide,
}

impl Relay {
    /// Starts it. It ends when both directions have, or when one fails.
    pub fn start(
        channel: Channel,
        socket: UnixStream,
        count: &Count,
        at_end: AtEnd,
    ) -> io::Result<Relay> {
        let stopper = channel.stopper().map_err(io::Error::other)?;
        let inward_stopper = stopper.try_clone().map_err(io::Error::other)?;
        let connection = stopper.try_clone().map_err(io::Error::other)?;
        let Channel {
            mut reader,
            mut writer,
            ..
        } = channel;
        // A tree that is being dumped or that computes says nothing for as long as it likes. A dead machine ends the connection.
        reader.set_limit(None).map_err(io::Error::other)?;
        writer.set_limit(None).map_err(io::Error::other)?;
        let (mut from, mut to) = (socket.try_clone()?, socket.try_clone()?);
        let (counted, count) = (count.clone(), count.clone());
        // After an error in one direction neither end may wait for the other any more.
        let inward = move || {
            let done = copy(&mut reader, &mut to, &counted);
            if done.is_err() {
                inward_stopper.stop();
            }
            if at_end == AtEnd::Tell {
                let how = if done.is_ok() {
                    Shutdown::Write
                } else {
                    Shutdown::Both
                };
                let _ = to.shutdown(how);
            }
            done
        };
        let outward = move || {
            let done = copy(&mut from, &mut writer, &count)
                .and_then(|()| writer.finish().map_err(io::Error::other));
            if done.is_err() {
                stopper.stop();
                if at_end == AtEnd::Tell {
                    let _ = from.shutdown(Shutdown::Both);
                }
            }
            done
        };
        let inward = thread::Builder::new()
            .name("pages in".into())
            .spawn(inward)?;
        let outward = thread::Builder::new()
            .name("pages out".into())
            .spawn(outward)?;
        Ok(Relay {
            socket,
            connection,
            inward,
            outward,
        })
    }

    /// Nothing comes from the peer any more.
    pub fn is_over(&self) -> bool {
        self.inward.is_finished()
    }

    /// Ends the stream in the middle of a message, so that CRIU sees a failure and not an end. The connection ends with it: a peer that has
    /// not begun to ask for pages would keep its side open, until this program ends.
    pub fn break_off(&self) {
        let _ = (&self.socket).write_all(&[0xff]);
        let _ = self.socket.shutdown(Shutdown::Both);
        self.connection.stop();
    }

    /// Waits for its end.
    pub fn finish(self) -> Result<(), Problem> {
        for thread in [self.inward, self.outward] {
            let done = thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("its thread has failed")));
            done.map_err(|error| Problem::plain(format!("the stream of pages: {error}")))?;
        }
        Ok(())
    }
}

fn copy(from: &mut impl Read, to: &mut impl Write, count: &Count) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&buffer[..length])?;
        // CRIU waits for answers to what it has sent so far.
        to.flush()?;
        count.add(length as u64);
    }
}
