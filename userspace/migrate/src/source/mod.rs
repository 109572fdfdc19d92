// SPDX-License-Identifier: GPL-2.0

//! Moving a tree away.
//!
//! The tree is frozen by CRIU from the dump on. It goes on here unless [`Request::Commit`] has been sent. After that it stands still until it
//! is known whose it is, as [`crate::commit`] says: this program asks for a minute, then the daemon of this node does.

mod hand_over;
mod images;
mod memory;
mod preflight;

use std::{
    io,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use vremote_channel::{Channel, JobId, Node, Peer, Reader, Writer};

use crate::{
    cgroup::Cgroup,
    control::{Command, Line},
    files::Known,
    problem::Problem,
    protocol::{Answer, Name, Request},
    registry::note_stayed,
    relay::Count,
    rights::Owner,
    target::out_of_order,
    tree::{family, title, Asleep, Identity, Tree},
};

pub(crate) use images::{leaving, LEAVING};
pub use preflight::Report;

use images::Images;

/// The target answers any other question within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// How memory moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// While the tree stands still.
    Stop,
    /// In rounds while it runs, the last one while it stands still.
    Precopy,
    /// After it, page by page as the tree touches them, and in time all.
    Lazy,
}

impl Mode {
    /// As it is called on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Stop => "stop",
            Mode::Precopy => "precopy",
            Mode::Lazy => "lazy",
        }
    }
}

/// What to move, and how.
#[derive(Clone, Debug)]
pub struct Order {
    /// Root of the tree.
    pub root: Identity,
    /// The target.
    pub address: Ipv4Addr,
    /// `None`: as seems best.
    pub mode: Option<Mode>,
    /// Move connections by TCP.
    pub tcp_established: bool,
    /// It is the stopped child of a process that stays.
    pub child: bool,
    /// All of the tree must be this owner's. `None`: root asks.
    pub owner: Option<Owner>,
}

/// What happens, for progress bars and the timeline.
#[derive(Clone, Debug)]
pub enum Event {
    /// A phase begins.
    Phase(&'static str),
    /// A round of pre-copy has ended.
    Round {
        /// From 1.
        number: u32,
        /// Pages that it took.
        pages: u64,
        /// How long so many would take at the rate of this round: what the tree would stand still for, restoring not counted.
        still: Duration,
    },
    /// Bytes of pages that have been sent since the start.
    Bytes(u64),
}

/// Hears of events.
pub type Watch<'a> = dyn FnMut(Event) + 'a;

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Name of the target.
    pub node: String,
    /// Root of the tree there.
    pub pid: i32,
    /// Its job.
    pub job: String,
    /// How memory moved.
    pub mode: Mode,
    /// Rounds of pre-copy.
    pub rounds: u32,
    /// Bytes of pages on the wire.
    pub bytes: u64,
    /// Of these, those of each round of pre-copy, and last those that moved while it stood still. None if memory is lazy.
    pub copied: Vec<u64>,
    /// Bytes of pages and images that were sent before it ran there.
    pub early: u64,
    /// From the freeze here to the first instruction there.
    pub downtime: Duration,
    /// From the start.
    pub total: Duration,
}

/// A move that has been prepared: connected, looked at, nothing frozen.
pub struct Move {
    order: Order,
    node: Node,
    peer: Peer,
    boot: String,
    name: Name,
    id: JobId,
    reader: Reader,
    writer: Writer,
    daemon: Line,
    tree: Tree,
    /// All of it, as it is frozen.
    processes: Vec<Identity>,
    /// Who is not to be woken if it goes on here; `None`: nobody is, as nothing has been frozen.
    asleep: Option<Asleep>,
    mode: Mode,
    known: Known,
    peers: Vec<String>,
    exports: Vec<Vec<u8>>,
    mounts: Vec<(Vec<u8>, Vec<u8>)>,
    blockers: Vec<Problem>,
    warnings: Vec<String>,
    /// It is not known whether it runs at the target.
    undecided: bool,
    /// As in [`Outcome`].
    copied: Vec<u64>,
    early: u64,
    /// Bytes of images.
    sent_images: u64,
    begun: Instant,
}

/// Why a tree was not moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason.
    pub problem: Problem,
    /// The tree stands still: it is not known whether it runs at the target. If not, it goes on here.
    pub undecided: bool,
    /// What else would have been in the way: of what the tree itself has, if the target could not even be asked.
    pub also: Vec<Problem>,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        Failure {
            problem,
            undecided: false,
            also: Vec::new(),
        }
    }
}

/// A process of the tree is not its owner's alone.
pub(crate) fn not_own(pid: i32, uid: u32) -> Problem {
    let process = procfs::process::Process::new(pid);
    let what = process.map_or_else(|_| "ended".into(), |process| title(&process));
    Problem::new(
        format!(
            "process {pid} ({what}) is not user {uid}'s alone: it has another user's or group's rights, or capabilities"
        ),
        "only root can have it moved: vremote-migrate",
    )
}

/// Whether a move failed because the tree holds locks on files: it took them after the preflight. CRIU could note them (`file_locks`), and take
/// them anew at the target; but there they would have to be had before the tree here, which may have to go on, lets them go, which nobody can.
pub fn holds_locks(problem: &Problem) -> bool {
    problem.what.contains("file locks are hold")
}

impl Move {
    fn ask(&mut self, request: &Request) -> Result<Answer, Problem> {
        self.writer.send(request)?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer, Problem> {
        match self.reader.receive()? {
            Some(Answer::Failed(problem)) => Err(problem.within(&self.peer.name)),
            Some(answer) => Ok(answer),
            None => Err(Problem::new(
                format!("{} has ended the connection", self.peer.name),
                "the log of vremoted there says why",
            )),
        }
    }

    fn done(&mut self, request: &Request) -> Result<(), Problem> {
        match self.ask(request)? {
            Answer::Done => Ok(()),
            _ => Err(out_of_order()),
        }
    }

    /// Leaves it at that.
    pub fn abandon(mut self) {
        // If nobody hears it, the connections end all the same.
        let _ = self.daemon.ask(&Command::Stayed);
        let _ = self.writer.finish();
    }

    /// Moves it. On an error the tree goes on here, unless that says otherwise: then the daemon finds out.
    pub fn run(mut self, watch: &mut Watch<'_>) -> Result<Outcome, Failure> {
        let moved = self.try_run(watch);
        if moved.is_err() && !self.undecided {
            self.stay();
        }
        moved.map_err(|problem| Failure {
            problem,
            undecided: self.undecided,
            also: Vec::new(),
        })
    }

    /// From here on the tree may be made to stand still. Who stands still already is to do so on, and the daemon knows that as well, should
    /// this program be killed.
    fn before_freezing(&mut self) -> Result<(), Problem> {
        self.processes = self.family()?;
        let asleep = Asleep::among(&self.processes);
        self.daemon.ask(&Command::Freezing(asleep.clone()))?;
        self.asleep = Some(asleep);
        Ok(())
    }

    /// The tree, as it is now.
    fn family(&self) -> Result<Vec<Identity>, Problem> {
        let all = family(self.order.root);
        if all.is_empty() {
            let pid = self.order.root.pid;
            return Err(Problem::plain(format!("process {pid} has ended")));
        }
        Ok(all)
    }

    /// It goes on here: the daemon sees to that, even if this program is killed. A child never runs here.
    fn stay(&mut self) {
        if self.daemon.ask(&Command::Stayed).is_ok() {
            return;
        }
        // The daemon has ended.
        if self.order.child {
            return say(self.order.root.signal(Signal::KILL));
        }
        // The next one puts it back where it was, and is not to freeze it again first.
        if self.asleep.is_some() {
            say(note_stayed(&self.name, &self.id));
        }
        say(Cgroup::of(&self.name).thaw());
        if let Some(asleep) = &self.asleep {
            // Also those that were born before it was frozen. None is left out by waking one twice.
            for process in self.processes.iter().chain(&family(self.order.root)) {
                say(asleep.wake_other(*process));
            }
        }
    }

    fn try_run(&mut self, watch: &mut Watch<'_>) -> Result<Outcome, Problem> {
        if let Some(blocker) = self.blockers.first() {
            return Err(blocker.clone());
        }
        let images = Images::make(&self.name)?;
        let count = Count::default();
        let mut rounds = 0;
        if self.mode == Mode::Precopy {
            rounds = self.copy_rounds(&images.0, &count, watch)?;
        }
        watch(Event::Phase("freeze and dump"));
        let (pid, downtime) = match self.mode {
            Mode::Lazy => self.leave_memory(&images.0, &count, watch)?,
            Mode::Stop | Mode::Precopy => self.last_round(&images.0, rounds, &count, watch)?,
        };
        Ok(Outcome {
            node: self.peer.name.clone(),
            pid,
            job: self.name.to_string(),
            mode: self.mode,
            rounds,
            bytes: count.get(),
            copied: std::mem::take(&mut self.copied),
            early: self.early,
            downtime,
            total: self.begun.elapsed(),
        })
    }

    /// Sends all of it a signal, whatever fails with some.
    fn signal(&self, number: Signal) -> io::Result<()> {
        let all = self.processes.iter();
        let sent: Vec<_> = all.map(|process| process.signal(number)).collect();
        sent.into_iter().collect()
    }
}

/// What cannot be done here the daemon does, or the next one.
fn say(done: io::Result<()>) {
    if let Err(error) = done {
        eprintln!("vremote-migrate: {error}");
    }
}

fn connect(node: &Node, peer: &Peer) -> Result<Channel, Problem> {
    Channel::connect(node, peer).map_err(|error| {
        let what = error.to_string();
        match error.fix() {
            Some(fix) => Problem::new(what, fix),
            None => Problem::plain(what),
        }
    })
}
