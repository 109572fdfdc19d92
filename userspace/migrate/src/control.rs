// SPDX-License-Identifier: GPL-2.0

//! The daemon's socket for programs of its own node: one command and one answer at a time, each a line of JSON.
//!
//! What a connection holds is let go when it ends, unless it has said where the tree is now.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use serde::{de::DeserializeOwned, Deserialize, Serialize};

use vremote_channel::JobId;

use crate::{
    problem::Problem,
    protocol::Name,
    tree::{Asleep, Identity},
};

/// Where it is. Only root may connect.
pub const SOCKET: &str = "/run/vremote/vremoted.sock";

/// Longest line, in bytes.
const MAX_LINE: u64 = 16 << 20;

/// A file of this node that shall stay shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldFile {
    /// Its path.
    pub path: Vec<u8>,
    /// `st_dev`, by which it is known again.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// A tree that is about to leave this node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Departure {
    /// Its name.
    pub name: Name,
    /// Its first process.
    pub root: Identity,
    /// It is a child that has never run, and is not to run here.
    pub child: bool,
    /// What it is, for people.
    pub title: String,
    /// Where it goes.
    pub to: String,
}

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Command {
    /// A tree is about to leave this node.
    Leave(Departure),
    /// Share these files for it. Within `Leave`.
    Hold(Vec<HeldFile>),
    /// It is about to be frozen, and whoever moves it may stop it from now on; all but these are to be woken if it goes on here. Within
    /// `Leave`.
    Freezing(Asleep),
    /// The other node is about to be told to let it run. Within `Leave`.
    Committing(Commit),
    /// It goes on here: it is woken. Within `Leave`.
    Stayed,
    /// It is at the other node. Within `Leave`.
    Moved,
    /// All jobs.
    List,
    /// End a job.
    Stop(Name),
    /// Let a tree go on here, of which it is not known whether it is at the other node.
    Resume(Name),
    /// Let go what is kept for a tree whose other node never comes back.
    Forget(Name),
}

/// A move that is about to be committed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Commit {
    /// What the target calls it.
    pub job: JobId,
    /// The target's boot id.
    pub boot: String,
    /// All of the tree: they stand still until it is known whose it is.
    pub processes: Vec<Identity>,
    /// CRIU has them give out their memory: until it has done with them they must not be frozen otherwise.
    pub lazy: bool,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// To `Leave`, `Freezing`, `Committing`, `Stayed`, `Moved`, `Stop`, `Resume` and `Forget`.
    Done,
    /// To `Hold`: for each file, why it cannot be shared.
    Held(Vec<Option<String>>),
    /// To `List`.
    Jobs(Vec<Job>),
    /// It could not be done.
    Failed(Problem),
}

/// A job for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// What it is.
    pub title: String,
    /// `arriving`, `unconfirmed`, `unsure`, `here`, `leaving`, `undecided`, `moved`, `unread`.
    pub state: String,
    /// The other node.
    pub node: String,
    /// Its root process, if it is here.
    pub pid: Option<i32>,
    /// Files that are shared for it.
    pub files: usize,
    /// For how long it has been so, in seconds.
    pub seconds: u64,
    /// What an operator may have to do about it.
    pub advice: Option<String>,
}

/// A connection, of either end.
#[derive(Debug)]
pub struct Line(BufReader<UnixStream>);

impl Line {
    /// On a socket.
    pub fn new(stream: UnixStream) -> Line {
        Line(BufReader::new(stream))
    }

    /// To the daemon of this node.
    pub fn connect() -> Result<Line, Problem> {
        match UnixStream::connect(Path::new(SOCKET)) {
            Ok(stream) => Ok(Line::new(stream)),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                Err(Problem::new(format!("{SOCKET}: {error}"), "run it as root"))
            }
            Err(error) => Err(Problem::new(
                format!("vremoted does not run on this node ({SOCKET}: {error})"),
                "systemctl start vremoted, or run vremoted",
            )),
        }
    }

    /// Sends a line.
    pub fn send(&mut self, what: &impl Serialize) -> Result<(), Problem> {
        let mut line =
            serde_json::to_vec(what).map_err(|error| Problem::plain(error.to_string()))?;
        line.push(b'\n');
        self.0.get_mut().write_all(&line)?;
        Ok(())
    }

    /// Receives a line; `None` at the end.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Problem> {
        let mut line = Vec::new();
        self.0
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        let parsed = serde_json::from_slice(&line);
        parsed
            .map(Some)
            .map_err(|error| Problem::plain(error.to_string()))
    }

    /// Sends a command and receives its reply; a failure is an error.
    pub fn ask(&mut self, command: &Command) -> Result<Reply, Problem> {
        self.send(command)?;
        match self.receive()? {
            Some(Reply::Failed(problem)) => Err(problem),
            Some(reply) => Ok(reply),
            None => Err(Problem::new(
                "vremoted has ended the connection",
                "its log says why: journalctl -u vremoted",
            )),
        }
    }
}
