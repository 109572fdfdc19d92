// SPDX-License-Identifier: GPL-2.0

//! Moving a tree away.
//!
//! The tree is frozen by CRIU from the dump on. It goes on here unless [`Request::Commit`] has been sent. After that, if the target does
//! not say that it runs there, the target is asked until it is known; the target, which has not been told [`Request::Gone`], stops
//! what it runs after its lease, and asks this node. So one of them goes on, never both.

use std::{
    collections::HashMap,
    fs, io,
    net::Ipv4Addr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{kill_process, Pid, Signal};
use vremote_channel::{Channel, JobId, Node, Peer, Reader, Writer};

use crate::{
    cgroup::Cgroup,
    control::{Command, Departure, Line, Reply},
    criu::{self, Dump},
    files::{self, Else, Ends, Known, Step},
    images::{self, Kind, Place, Places},
    node,
    problem::Problem,
    protocol::{Answer, Facts, Name, Opening, Request, Whereabouts, PIECE, VERSION},
    relay::{AtEnd, Count, Relay},
    target::{ask, out_of_order},
    tree::{descendants, is_stopped, Seen, Tree},
};

/// What becomes of a committed tree is known within this, or the tree goes on here: the target has stopped its own by then.
const UNCERTAIN_LIMIT: Duration = Duration::from_secs(60);

/// The target answers any other question within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// How often progress is looked at.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Between two questions to the target.
const ASK_PAUSE: Duration = Duration::from_secs(1);

/// The target restores within this.
const RESTORE_LIMIT: Duration = Duration::from_secs(600);

/// Pre-copy ends after so many rounds …
const MAX_ROUNDS: u32 = 8;

/// … or when a round had fewer pages than this …
const FEW_PAGES: u64 = 64;

/// … or when a round had so many percent more than the one before.
const MAX_GROWTH: u64 = 10;

/// Trees with less memory than this, in bytes, are not worth a round of pre-copy.
const SMALL: u64 = 32 << 20;

/// Bytes of a page.
const PAGE: u64 = 4096;

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
    pub pid: i32,
    /// The target.
    pub address: Ipv4Addr,
    /// `None`: as seems best.
    pub mode: Option<Mode>,
    /// Move connections by TCP.
    pub tcp_established: bool,
    /// It is the stopped child of a process that stays.
    pub child: bool,
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
    /// From the freeze here to the first instruction there.
    pub downtime: Duration,
    /// From the start.
    pub total: Duration,
}

/// What a preflight has found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name of the target.
    pub node: String,
    /// The tree's command line.
    pub title: String,
    /// Processes in it.
    pub processes: usize,
    /// Threads in it.
    pub threads: usize,
    /// Resident memory, in bytes.
    pub resident: u64,
    /// How memory would move.
    pub mode: Mode,
    /// What is in the way.
    pub blockers: Vec<Problem>,
    /// Files and their places there, by path.
    pub files: Vec<(Vec<u8>, Place)>,
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
    /// Of its processes, those that stood still before.
    asleep: Vec<i32>,
    mode: Mode,
    known: Known,
    peers: Vec<String>,
    exports: Vec<Vec<u8>>,
    mounts: Vec<(Vec<u8>, Vec<u8>)>,
    blockers: Vec<Problem>,
    begun: Instant,
}

/// Whether a move failed because the tree holds locks on files. They would have to be taken at the target before the source lets them
/// go, which nobody can.
pub fn holds_locks(problem: &Problem) -> bool {
    problem.what.contains("file locks are hold")
}

/// How far a hand-over had come when it failed.
enum Failed {
    /// The tree does not run at the target.
    Before(Problem),
    /// It may.
    After(Problem),
}

/// Where the images of a tree that leaves are put, all but its memory. Removed with this; by the daemon, if this program is killed.
struct Images(PathBuf);

impl Images {
    fn make(name: &Name) -> Result<Images, Problem> {
        let path = leaving(name);
        let _ = fs::remove_dir_all(&path);
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path);
        made.map_err(|error| Problem::plain(format!("{}: {error}", path.display())))?;
        Ok(Images(path))
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The directory for a tree that leaves.
pub(crate) fn leaving(name: &Name) -> PathBuf {
    Path::new("/run/vremote/leaving").join(name.as_str())
}

impl Move {
    /// Looks at the tree and at the target. Errors: what keeps from even looking. What is in the way of the move is in the report.
    pub fn prepare(order: &Order) -> Result<Move, Problem> {
        let begun = Instant::now();
        if !rustix::process::geteuid().is_root() {
            return Err(Problem::new(
                "only root can move processes",
                "run it as root",
            ));
        }
        let node = Node::this();
        let tree = Tree::look(order.pid)?;
        let peer = node.peer_at(order.address)?;
        // A tree that has come here keeps its name, unless only a part of it moves on.
        let is_whole = |name: &Name| {
            let all = Cgroup::of(name).processes();
            all.iter().all(|pid| tree.processes.contains(pid))
        };
        let name = match Cgroup::tree_of(order.pid).filter(is_whole) {
            Some(name) => name,
            None => Name::new()?,
        };
        let mut daemon = Line::connect()?;
        daemon.ask(&Command::Leave(Departure {
            name: name.clone(),
            root: order.pid,
            child: order.child,
            title: tree.title.clone(),
            to: peer.name.clone(),
        }))?;
        let Channel {
            mut reader,
            mut writer,
            ..
        } = connect(&node, &peer)?;
        writer.send(&Opening::Job {
            version: VERSION,
            name: name.clone(),
            title: tree.title.clone(),
            boot: node::boot_id()?,
        })?;
        let (id, boot) = match reader.receive()? {
            Some(Answer::Job { id, boot, version }) if version == VERSION => (id, boot),
            Some(Answer::Failed(problem)) => return Err(problem),
            _ => return Err(out_of_order()),
        };
        let mut asleep = tree.processes.clone();
        asleep.retain(|pid| is_stopped(*pid));
        let mut it = Move {
            order: order.clone(),
            asleep,
            mode: order.mode.unwrap_or(Mode::Stop),
            node,
            peer,
            boot,
            name,
            id,
            reader,
            writer,
            daemon,
            blockers: Vec::new(),
            tree,
            known: Known::new(),
            peers: Vec::new(),
            exports: files::exports(),
            mounts: files::mounts(),
            begun,
        };
        it.preflight()?;
        Ok(it)
    }

    /// What was found.
    pub fn report(&self) -> Report {
        let mut files: Vec<_> = self.known.clone().into_iter().collect();
        files.sort_by(|one, other| one.0.cmp(&other.0));
        Report {
            node: self.peer.name.clone(),
            title: self.tree.title.clone(),
            processes: self.tree.processes.len(),
            threads: self.tree.threads.len(),
            resident: self.tree.resident,
            mode: self.mode,
            blockers: self.blockers.clone(),
            files,
        }
    }

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

    fn preflight(&mut self) -> Result<(), Problem> {
        let ids = self.tree.threads.clone();
        let there = match self.ask(&Request::Ask { ids })? {
            Answer::Facts(facts) => facts,
            _ => return Err(out_of_order()),
        };
        let here = node::facts(&self.node, Path::new("/run"), &[]);
        self.blockers.append(&mut self.tree.blockers);
        self.compare(&here, &there);
        if !self.order.tcp_established {
            for connection in self.tree.connections()? {
                self.blockers.push(Problem::new(
                    connection,
                    "let the program close it; --tcp-established moves it, if the node's address moves, too",
                ));
            }
        }
        if self.order.mode.is_none() && self.tree.resident > SMALL {
            let can = |facts: &Facts| facts.criu.as_ref().is_ok_and(|criu| criu.track_memory);
            if can(&here) && can(&there) {
                self.mode = Mode::Precopy;
            }
        }
        self.peers = there.peers;
        let files: Vec<_> = self.tree.files.clone().into_iter().collect();
        self.place(&files)
    }

    fn compare(&mut self, here: &Facts, there: &Facts) {
        let name = self.peer.name.clone();
        let mut block = |what: String, fix: &str| self.blockers.push(Problem::new(what, fix));
        if here.machine != there.machine {
            block(
                format!("{name} is {}, this node is {}", there.machine, here.machine),
                "move to a node of the same kind",
            );
        }
        for (node, facts) in [("this node", here), (&name, there)] {
            match &facts.criu {
                Err(problem) => block(format!("{node}: {problem}"), problem.fix.as_deref().unwrap_or("criu check")),
                Ok(criu) if criu.version < criu::MIN_VERSION => {
                    block(format!("{node}: CRIU is older than 4.1"), "install CRIU 4.1 or later");
                }
                Ok(criu) if self.mode == Mode::Lazy && !criu.lazy_pages => block(
                    format!("{node}: the kernel does not let CRIU serve page faults (CONFIG_USERFAULTFD)"),
                    "--mode precopy; sysctl vm.unprivileged_userfaultfd does not matter",
                ),
                Ok(criu) if self.mode == Mode::Precopy && !criu.track_memory => block(
                    format!("{node}: the kernel does not tell which pages were written (CONFIG_MEM_SOFT_DIRTY)"),
                    "--mode stop",
                ),
                Ok(_) => {}
            }
            if !facts.mounted {
                block(
                    format!("{node}: the file system of all nodes is not mounted"),
                    "mount -t vremote vremote /vremote",
                );
            }
        }
        // A child has all numbers for itself.
        for (id, owner) in there.taken.iter().filter(|_| !self.order.child) {
            block(
                format!("{name}: the id {id} is taken, by {owner}"),
                "wait until that has ended, or end it; processes keep their ids",
            );
        }
        // Images and memory at once, for a moment.
        if self.tree.resident > there.room {
            block(
                format!(
                    "{name}: {} MiB are free for images, {} MiB are needed",
                    there.room >> 20,
                    self.tree.resident >> 20
                ),
                "make room in /var/lib/vremote",
            );
        }
        if self.tree.resident > there.memory {
            block(
                format!(
                    "{name}: {} MiB of memory are free, {} MiB are needed",
                    there.memory >> 20,
                    self.tree.resident >> 20
                ),
                "end something there",
            );
        }
        if !there.peers.iter().any(|peer| peer == self.node.name()) {
            block(
                format!("{name} does not know this node as {}", self.node.name()),
                "vremote peer add, there, with the name that uname -n gives here",
            );
        }
    }

    /// Finds the places of files, and shares those that follow.
    fn place(&mut self, seen: &[(Vec<u8>, Seen)]) -> Result<(), Problem> {
        let ends = Ends {
            source: self.node.name(),
            target: &self.peer.name,
            peers: &self.peers,
            exports: &self.exports,
            mounts: &self.mounts,
        };
        let mut questions = Vec::new();
        let mut asked = Vec::new();
        let mut hold = Vec::new();
        for (path, seen) in seen {
            match files::step(path, seen, &ends)? {
                Step::Known(place) => {
                    self.known.insert(path.clone(), place);
                }
                Step::Ask(look, otherwise) => {
                    questions.push(look);
                    asked.push((path, seen, otherwise));
                }
                Step::Hold => hold.push((path, seen)),
                Step::Blocked(problem) => self.blockers.push(problem),
            }
        }
        self.writer.send(&Request::Look(questions))?;
        let answers = match self.reader.receive()? {
            Some(Answer::Looked(answers)) if answers.len() == asked.len() => answers,
            Some(Answer::Failed(problem)) => return Err(problem),
            _ => return Err(out_of_order()),
        };
        for ((path, seen, otherwise), is_so) in asked.into_iter().zip(answers) {
            match otherwise {
                _ if is_so => {
                    self.known
                        .insert(path.clone(), files::found(path, seen, &ends));
                }
                Else::Hold => hold.push((path, seen)),
                Else::Blocked(problem) => self.blockers.push(problem),
            }
        }
        let files = hold
            .iter()
            .map(|(path, seen)| files::to_hold(path, seen))
            .collect();
        let replies = match self.daemon.ask(&Command::Hold(files))? {
            Reply::Held(replies) if replies.len() == hold.len() => replies,
            _ => return Err(out_of_order()),
        };
        for ((path, seen), refused) in hold.into_iter().zip(replies) {
            match refused {
                None => {
                    self.known.insert(path.clone(), files::held(path, &ends));
                }
                // The program has removed it meanwhile. If it has it open all the same, the dump finds it without a name.
                Some(_) if !files::is_there(path, seen) => {}
                Some(why) => self.blockers.push(files::not_shared(path, &why)),
            }
        }
        Ok(())
    }

    /// Leaves it at that.
    pub fn abandon(mut self) {
        // If nobody hears it, the connections end all the same.
        let _ = self.daemon.ask(&Command::Stayed);
        let _ = self.writer.finish();
    }

    /// Moves it. On any error the tree goes on here.
    pub fn run(mut self, watch: &mut Watch<'_>) -> Result<Outcome, Problem> {
        let moved = self.try_run(watch);
        if moved.is_err() {
            self.stay();
        }
        moved
    }

    /// It goes on here. The daemon hears that first: else it would ask the target, and believe that. A child never runs here.
    fn stay(&mut self) {
        let _ = self.daemon.ask(&Command::Stayed);
        if self.order.child {
            return self.signal(Signal::KILL);
        }
        self.tree.processes.retain(|pid| !self.asleep.contains(pid));
        self.signal(Signal::CONT);
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
            downtime,
            total: self.begun.elapsed(),
        })
    }

    /// Copies memory while the tree runs, until it is not worth while any more.
    fn copy_rounds(
        &mut self,
        images: &Path,
        count: &Count,
        watch: &mut Watch<'_>,
    ) -> Result<u32, Problem> {
        watch(Event::Phase("copy while it runs"));
        let mut before = None;
        let mut round = 0;
        loop {
            let directory = images.join(round.to_string());
            fs::create_dir(&directory)?;
            let begun = (Instant::now(), count.get());
            let (pages, relay) = self.open_stream(count)?;
            let dumped = self.dump(&directory, round, pages, count).pre_dump();
            self.end_stream(relay, dumped)?;
            round += 1;
            let rate = (count.get() - begun.1) as f64 / begun.0.elapsed().as_secs_f64();
            let statistics = directory.join("stats-dump");
            let pages = fs::read(&statistics)
                .and_then(|bytes| images::pages_written(&bytes).map_err(io::Error::other))
                .map_err(|error| {
                    Problem::new(
                        format!(
                            "CRIU's statistics of the round, {}: {error}",
                            statistics.display()
                        ),
                        "is there room on that file system?",
                    )
                })?;
            watch(Event::Round {
                number: round,
                pages,
                still: Duration::try_from_secs_f64((pages * PAGE) as f64 / rate)
                    .unwrap_or_default(),
            });
            watch(Event::Bytes(count.get()));
            let grows = before.is_some_and(|before| pages * 100 > before * (100 + MAX_GROWTH));
            if round == MAX_ROUNDS || pages < FEW_PAGES || grows {
                return Ok(round);
            }
            before = Some(pages);
        }
    }

    fn dump<'a>(
        &self,
        images: &'a Path,
        round: u32,
        pages: std::os::unix::net::UnixStream,
        moved: &'a Count,
    ) -> Dump<'a> {
        Dump {
            pid: self.order.pid,
            images,
            parent: round.checked_sub(1).map(|before| format!("../{before}")),
            pages,
            shell_job: self.tree.shell_job,
            tcp_established: self.order.tcp_established,
            lazy: self.mode == Mode::Lazy,
            moved,
        }
    }

    /// Opens a stream of pages; gives CRIU's end.
    fn open_stream(
        &mut self,
        count: &Count,
    ) -> Result<(std::os::unix::net::UnixStream, Relay), Problem> {
        let lazy = self.mode == Mode::Lazy;
        self.done(&Request::Receive { lazy })?;
        let mut channel = connect(&self.node, &self.peer)?;
        channel.writer.send(&Opening::Pages { job: self.id })?;
        let (ours, theirs) = criu::pages_socket()?;
        // Lazy: what the end means is not for CRIU to decide.
        let at_end = if lazy { AtEnd::Hide } else { AtEnd::Tell };
        Ok((theirs, Relay::start(channel, ours, count, at_end)?))
    }

    /// Waits until all pages are there. A failure of the dump is more telling than that of the stream.
    fn end_stream(&mut self, relay: Relay, dumped: Result<(), Problem>) -> Result<(), Problem> {
        let relayed = relay.finish();
        dumped.and(relayed)?;
        self.done(&Request::Received)
    }

    fn last_round(
        &mut self,
        images: &Path,
        round: u32,
        count: &Count,
        watch: &mut Watch<'_>,
    ) -> Result<(i32, Duration), Problem> {
        let directory = images.join(round.to_string());
        fs::create_dir(&directory)?;
        let (pages, relay) = self.open_stream(count)?;
        let dump = self.dump(&directory, round, pages, count);
        let frozen = Instant::now();
        let mut relay = Some(relay);
        let mut running = None;
        let dumped = dump.dump(&mut || {
            if let Some(relay) = relay.take() {
                self.end_stream(relay, Ok(()))?;
            }
            watch(Event::Bytes(count.get()));
            watch(Event::Phase("restore"));
            let pid = self.hand_over(&directory)?;
            running = Some((pid, frozen.elapsed()));
            Ok(())
        });
        match (running, dumped) {
            (Some(done), dumped) => {
                if dumped.is_err() {
                    // It has been handed over: whatever CRIU did, it must not go on here.
                    self.signal(Signal::KILL);
                }
                watch(Event::Phase("finish"));
                // Whether the target hears that does not matter: it can ask the daemon.
                let _ = self.done(&Request::Gone);
                Ok(done)
            }
            (None, Err(problem)) => Err(problem),
            (None, Ok(())) => Err(Problem::plain("CRIU has dumped the process without asking")),
        }
    }

    /// Hands the tree over first and its memory later.
    fn leave_memory(
        &mut self,
        images: &Path,
        count: &Count,
        watch: &mut Watch<'_>,
    ) -> Result<(i32, Duration), Problem> {
        let directory = images.join("0");
        fs::create_dir(&directory)?;
        let (pages, relay) = self.open_stream(count)?;
        let dump = self.dump(&directory, 0, pages, count);
        let begun = Instant::now();
        // CRIU serves pages until all are taken, while this thread talks to the target.
        let (written, is_written) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        thread::scope(|scope| {
            let dumping = scope.spawn(move || {
                dump.dump(&mut || {
                    let given_up = |_| Problem::plain("the move has been given up");
                    written.send(()).map_err(|_| given_up(()))?;
                    may_go_on.recv().map_err(|_| given_up(()))
                })
            });
            let talked = is_written.recv().map_err(|_| None).and_then(|()| {
                self.send_images(&directory)
                    .map_err(|problem| Some(Failed::Before(problem)))?;
                let _ = go_on.send(());
                watch(Event::Phase("restore"));
                let pid = self.commit().map_err(Some)?;
                let downtime = begun.elapsed();
                watch(Event::Phase("its memory follows"));
                self.wait_for_memory(count, watch)
                    .map_err(|problem| Some(Failed::After(problem)))?;
                Ok((pid, downtime))
            });
            // CRIU keeps the tree frozen until its stream of pages ends: so nothing runs here while this is found out.
            let talked = match talked {
                Err(Some(Failed::After(problem))) => match self.find_out(problem) {
                    Ok(pid) => Ok((pid, begun.elapsed())),
                    Err(problem) => Err(Some(problem.within(
                        "it goes on here, from where it was frozen; what it did on the target since then is not undone",
                    ))),
                },
                Err(Some(Failed::Before(problem))) => Err(Some(problem)),
                Err(None) => Err(None),
                Ok(done) => Ok(done),
            };
            drop(go_on);
            if talked.is_ok() {
                self.left();
                self.signal(Signal::KILL);
            }
            relay.break_off();
            let dumped = dumping
                .join()
                .unwrap_or_else(|_| Err(Problem::plain("the thread of the dump has failed")));
            let _ = relay.finish();
            match (talked, dumped) {
                (Ok(done), _) => {
                    let _ = self.done(&Request::Gone);
                    Ok(done)
                }
                (Err(said), dumped) => Err(said.or(dumped.err()).unwrap_or_else(out_of_order)),
            }
        })
    }

    /// With lazy memory: until the target has all of it.
    fn wait_for_memory(&mut self, count: &Count, watch: &mut Watch<'_>) -> Result<(), Problem> {
        self.reader.set_limit(Some(LOOK_PAUSE))?;
        loop {
            watch(Event::Bytes(count.get()));
            match self.reader.receive() {
                Ok(Some(Answer::Complete)) => break,
                Ok(Some(Answer::Failed(problem))) => return Err(problem.within(&self.peer.name)),
                Ok(_) => return Err(out_of_order()),
                Err(vremote_channel::Error::Silent(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.reader.set_limit(Some(ANSWER_LIMIT))?;
        Ok(())
    }

    /// With the tree frozen and all pages sent: sends the images, has the target restore them and let the tree run.
    fn hand_over(&mut self, images: &Path) -> Result<i32, Problem> {
        self.send_images(images)?;
        let pid = match self.commit() {
            Ok(pid) => pid,
            Err(Failed::Before(problem)) => return Err(problem),
            Err(Failed::After(problem)) => self.find_out(problem)?,
        };
        self.left();
        Ok(pid)
    }

    /// Has the target restore the tree and let it run.
    fn commit(&mut self) -> Result<i32, Failed> {
        let restore = Request::Restore {
            shell_job: self.tree.shell_job,
            tcp_established: self.order.tcp_established,
            child: self.order.child.then_some(self.order.pid),
        };
        self.prepare_target(&restore).map_err(Failed::Before)?;
        match self.ask(&Request::Commit) {
            Ok(Answer::Running { pid }) => Ok(pid),
            Ok(_) => Err(Failed::After(out_of_order())),
            Err(problem) => Err(Failed::After(problem)),
        }
    }

    fn prepare_target(&mut self, restore: &Request) -> Result<(), Problem> {
        self.reader.set_limit(Some(RESTORE_LIMIT))?;
        match self.ask(restore)? {
            Answer::Prepared => {}
            _ => return Err(out_of_order()),
        }
        self.reader.set_limit(Some(ANSWER_LIMIT))?;
        // From here on it does not run again before the target's fate is known, even if this program is killed: CRIU would let it go
        // on, but it stops at once, until the daemon has found out.
        self.tree.processes = descendants(self.order.pid)?;
        self.daemon
            .ask(&Command::Committing(self.tree.processes.clone()))?;
        self.signal(Signal::STOP);
        Ok(())
    }

    /// Tells the daemon that the tree is at the target.
    fn left(&mut self) {
        let moved = Command::Moved(self.peer.name.clone());
        if let Err(problem) = self.daemon.ask(&moved) {
            eprintln!("vremote-migrate: the daemon of this node does not hear that the tree has left: {problem}");
        }
    }

    fn signal(&self, signal: Signal) {
        for pid in self
            .tree
            .processes
            .iter()
            .filter_map(|pid| Pid::from_raw(*pid))
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// After a commit without an answer: where does the tree run?
    fn find_out(&self, problem: Problem) -> Result<i32, Problem> {
        let since = Instant::now();
        loop {
            match ask(&self.node, &self.peer.name, &self.name) {
                Ok((_, boot)) if boot != self.boot => {
                    return Err(problem.within(&format!("{} has started anew", self.peer.name)))
                }
                Ok((Whereabouts::Here, _)) => return Ok(self.order.pid),
                Ok((Whereabouts::Gone | Whereabouts::Moved(_), _)) => return Err(problem),
                Ok((Whereabouts::Moving, _)) | Err(_) => {}
            }
            if since.elapsed() > UNCERTAIN_LIMIT {
                return Err(problem.within(&format!(
                    "{} does not say whether the tree runs there; if it does, it stands still, and ends when it hears that \
                     it goes on here",
                    self.peer.name
                )));
            }
            thread::sleep(ASK_PAUSE);
        }
    }

    fn send_images(&mut self, directory: &Path) -> Result<(), Problem> {
        let mut images = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".img") && entry.file_type()?.is_file() {
                images.push(name);
            }
        }
        let places = self.places(directory, &images)?;
        for name in images {
            let path = directory.join(&name);
            let kind = Kind::of(&name);
            let bytes = fs::read(&path)?;
            let bytes = images::rewrite(kind, &bytes, &places)
                .map_err(|error| Problem::plain(format!("{name}: {error}")))?;
            let mut pieces = bytes.chunks(PIECE).peekable();
            if pieces.peek().is_none() {
                self.send_piece(&name, &[])?;
            }
            for piece in pieces {
                self.send_piece(&name, piece)?;
            }
        }
        Ok(())
    }

    fn send_piece(&mut self, name: &str, piece: &[u8]) -> Result<(), Problem> {
        self.writer.send(&Request::Image {
            name: name.into(),
            piece: piece.into(),
        })?;
        Ok(())
    }

    /// The places of the files in the images, now that nothing changes any more.
    fn places(&mut self, directory: &Path, names: &[String]) -> Result<Places, Problem> {
        let malformed = |name: &str, error| Problem::plain(format!("{name}: {error}"));
        let mut found = Vec::new();
        let mut nameless = Vec::new();
        for name in names {
            let kind = Kind::of(name);
            if kind == Kind::Other {
                continue;
            }
            let bytes = fs::read(directory.join(name))?;
            found.extend(images::files(kind, &bytes).map_err(|error| malformed(name, error))?);
            if kind == Kind::Remap {
                nameless.extend(images::nameless(&bytes).map_err(|error| malformed(name, error))?);
            }
        }
        found.retain(|file| !nameless.contains(&file.id));
        // What it has opened since the preflight.
        if found
            .iter()
            .any(|file| !self.known.contains_key(&file.path))
        {
            let now = Tree::look(self.order.pid)?;
            let new: Vec<_> = now
                .files
                .into_iter()
                .filter(|(path, _)| !self.known.contains_key(path))
                .collect();
            self.blockers = now.blockers;
            self.place(&new)?;
            if let Some(blocker) = self.blockers.first() {
                return Err(blocker.clone());
            }
        }
        let places = found.into_iter().map(|file| {
            let place = self.known.get(&file.path).cloned();
            (file.id, place.unwrap_or(Place::Same))
        });
        Ok(places.collect::<HashMap<_, _>>())
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
