// SPDX-License-Identifier: GPL-2.0

//! What two daemons, or `vremote-migrate` and a daemon, say to each other.
//!
//! A move has one connection for control, on which the source asks and the target answers, one answer to each request but
//! [`Request::Image`]; and one connection for each stream of pages, whose bytes are CRIU's page server protocol.
//!
//! ```text
//! source                               target
//!   Opening::Job                  →
//!                                 ←    Answer::Job           a directory, a cgroup, a secret id
//!   Ask, Look …                   →                          the preflight
//!   Receive, then Opening::Pages  →                          once for each round of pre-copy, and for the dump
//!   Received                      →
//!   Image …                       →                          the tree is frozen from here on
//!   Restore                       →
//!                                 ←    Answer::Prepared      all is restored, nothing runs
//!   Commit                        →                          the source will not let its tree run any more
//!                                 ←    Answer::Running
//!                                 ←    Answer::Complete      if memory is lazy
//!   Gone                          →                          the source's tree is killed
//! ```
//!
//! Before `Commit` the end of the connection means that the target takes everything back, and that the source's tree goes on.
//! After it each asks the other ([`Opening::Part`]) until it knows whose the tree is, as [`crate::commit`] says.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use vremote_channel::JobId;

pub use crate::commit::Part;
use crate::{criu, problem::Problem};

/// Of these messages. Both ends must have the same.
pub const VERSION: u32 = 4;

/// Longest piece of an image in one message, in bytes.
pub const PIECE: usize = 1 << 20;

/// A job's name: 16 hexadecimal digits, the same on all nodes that the tree comes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// A new one.
    pub fn new() -> std::io::Result<Name> {
        let mut bytes = [0; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        Ok(Name(format!("{:016x}", u64::from_ne_bytes(bytes))))
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Nothing else may become a part of a path.
impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Name, &'static str> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == 16 && text.bytes().all(is_digit) {
            Ok(Name(text))
        } else {
            Err("a job's name has 16 hexadecimal digits")
        }
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The first message of a connection.
#[derive(Debug, Serialize, Deserialize)]
pub enum Opening {
    /// A new job.
    Job {
        /// [`VERSION`] of the source.
        version: u32,
        /// The tree's name, from its first node on.
        name: Name,
        /// What is moved, for people.
        title: String,
        /// The source's `/proc/sys/kernel/random/boot_id`.
        boot: String,
    },
    /// Pages of a job, which has sent [`Request::Receive`].
    Pages {
        /// What the target called the job.
        job: JobId,
    },
    /// Has this child ended? Asked by the node that its parent is on, again and again. When it has kept the answer it sends [`Heard`].
    End {
        /// Its tree's name.
        name: Name,
    },
    /// Send this child a signal.
    Signal {
        /// Its tree's name.
        name: Name,
        /// What its parent calls it.
        child: i32,
        /// 0 only asks whether it is there.
        signal: i32,
    },
    /// Where is this tree? Asked by nodes that hold files for it.
    Where {
        /// Its name.
        name: Name,
    },
    /// What is this node's part in a move? Asked by the other node of the move, once it is committed.
    Part {
        /// What the target called it.
        job: JobId,
    },
}

/// The end of a child is kept where its parent is: it may be forgotten where it was.
#[derive(Debug, Serialize, Deserialize)]
pub struct Heard;

/// How a child of another node has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It runs.
    Runs,
    /// With a status as of waitpid(2).
    Ended(i32),
    /// It is not known here, any more or at all.
    Unknown,
}

/// Where a tree is, as far as a node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whereabouts {
    /// It runs here.
    Here,
    /// It is on its way from or to this node; ask again.
    Moving,
    /// It has been moved to this node.
    Moved(String),
    /// It has ended here, or never was.
    Gone,
}

/// What the source wants to know of a path of the target.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Look {
    /// Is it a directory?
    Directory(Vec<u8>),
    /// Is it a file of this size and mode with this content?
    Identical {
        /// The path.
        path: Vec<u8>,
        /// In bytes.
        size: u64,
        /// `st_mode`.
        mode: u32,
        /// SHA-256.
        hash: [u8; 32],
    },
    /// Can it be opened for reading? For files of third nodes.
    Readable(Vec<u8>),
    /// Is there nothing of this name?
    Absent(Vec<u8>),
    /// Is there anything of this type (`st_mode & S_IFMT`) and, if it is a device, number?
    Special {
        /// The path.
        path: Vec<u8>,
        /// `st_mode`.
        mode: u32,
        /// `st_rdev`.
        device: u64,
    },
    /// Can a socket be bound to this address and port, as one of a tree is?
    Bindable {
        /// Of a socket of TCP that listens, or of one of UDP.
        address: SocketAddr,
        /// It is one of TCP.
        stream: bool,
    },
}

/// On the control connection of a job.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// What is this node like, and which of these process and thread ids are taken?
    Ask {
        /// All of the tree's.
        ids: Vec<i32>,
    },
    /// Are these paths so?
    Look(Vec<Look>),
    /// Be ready for a stream of pages.
    Receive {
        /// They are fetched through it once the tree runs, instead of coming before.
        lazy: bool,
    },
    /// The stream of pages has ended; are they all there?
    Received,
    /// A piece of an image. Not answered.
    Image {
        /// Its file name.
        name: String,
        /// At most [`PIECE`] bytes, to be put behind those that came before.
        piece: Vec<u8>,
    },
    /// Restore the tree.
    Restore {
        /// Session or terminal are not the tree's own.
        shell_job: bool,
        /// Connections by TCP are restored, too.
        tcp_established: bool,
        /// It is the stopped child, with this number, of a process that stays: it gets a PID namespace of its own, is continued, and
        /// its end is kept for [`Opening::End`].
        child: Option<i32>,
    },
    /// Let it run.
    Commit,
    /// The source's tree is no more.
    Gone,
}

/// What a node is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `uname -m`.
    pub machine: String,
    /// `uname -r`.
    pub kernel: String,
    /// What the processor can, as in /proc/cpuinfo; what programs may use of it.
    pub instructions: Vec<String>,
    /// Of CRIU, or why it does not work.
    pub criu: Result<CriuFacts, Problem>,
    /// The file system of all nodes is mounted at `/vremote`.
    pub mounted: bool,
    /// Ids that are taken, and by what.
    pub taken: Vec<(i32, String)>,
    /// Room for images, in bytes.
    pub room: u64,
    /// Memory that can be had, in bytes.
    pub memory: u64,
    /// Its peers.
    pub peers: Vec<String>,
    /// How the module sees the other node of the move, as in `vremote peer show`; `None` if that cannot be found out.
    pub session: Option<String>,
}

/// [`criu::Abilities`] on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CriuFacts {
    /// 40101 is 4.1.1.
    pub version: u32,
    /// For pre-copy.
    pub track_memory: bool,
    /// For lazy memory.
    pub lazy_pages: bool,
}

impl From<criu::Abilities> for CriuFacts {
    fn from(abilities: criu::Abilities) -> CriuFacts {
        CriuFacts {
            version: abilities.version,
            track_memory: abilities.track_memory,
            lazy_pages: abilities.lazy_pages,
        }
    }
}

/// To each request.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To `Opening::Job`.
    Job {
        /// [`VERSION`] of the target.
        version: u32,
        /// For the openings of page streams.
        id: JobId,
        /// The target's `/proc/sys/kernel/random/boot_id`.
        boot: String,
    },
    /// To `Opening::Where`.
    Where {
        /// Where the tree is.
        at: Whereabouts,
    },
    /// To `Opening::Part`.
    Part {
        /// As it is there.
        part: Part,
        /// Of the node that answers: what ran there before it started anew runs no more.
        boot: String,
    },
    /// To `Opening::End`, within 20 s.
    Ended(End),
    /// To `Opening::Signal`: sent, or an errno.
    Signalled(Result<(), i32>),
    /// To `Ask`.
    Facts(Facts),
    /// To `Look`, one for each.
    Looked(Vec<bool>),
    /// To `Receive`, `Received` and `Gone`.
    Done,
    /// To `Restore`: all of the tree is there, and does not run yet.
    Prepared,
    /// To `Commit`.
    Running {
        /// Its root.
        pid: i32,
    },
    /// After `Running`, with lazy memory: all pages are here.
    Complete,
    /// It could not be done; the job has ended.
    Failed(Problem),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_path() {
        let name = Name::new().unwrap();
        assert_eq!(Name::try_from(name.to_string()), Ok(name));
        for text in [
            "",
            "..",
            "0123456789abcde",
            "0123456789abcde/",
            "0123456789ABCDEF",
            "0123456789abcdef0",
        ] {
            assert!(Name::try_from(text.to_string()).is_err(), "{text}");
        }
    }
}
