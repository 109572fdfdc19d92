// SPDX-License-Identifier: GPL-2.0

//! Receiving a tree.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, Receiver as Pages, RecvTimeoutError},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use vremote_channel::{Channel, JobId, Node, Reader, Writer};

use crate::{
    cgroup::Cgroup,
    children::Children,
    claims::{self, Claim, Claims},
    commit::{whose, Part, Whose},
    criu::{self, LazyPages, Made, Restore},
    leaving::Charges,
    node,
    problem::Problem,
    protocol::{Answer, Name, Opening, Request, Whereabouts, PIECE, VERSION},
    registry::{Registry, Unconfirmed},
    relay::{AtEnd, Count, Relay},
    tree,
};

/// Where images are put while a tree arrives.
pub const IMAGES: &str = "/var/lib/vremote/jobs";

/// A source that has announced a stream of pages opens it within this.
const PAGES_LIMIT: Duration = Duration::from_secs(30);

/// The source decides within this whether a tree that is ready shall run.
const COMMIT_LIMIT: Duration = Duration::from_secs(60);

/// The source says within this that its tree is no more. If not, it is asked.
const GONE_LIMIT: Duration = Duration::from_secs(20);

/// Between two questions to the source.
const ASK_PAUSE: Duration = Duration::from_secs(1);

/// A node that has been reached answers a question about a tree within this.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// A CRIU of a daemon that was killed has ended within this, and with it, if it was to fail, the tree.
const CRIU_ENDS_LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked whether it has.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Looks in a row that show no CRIU: then there is none.
const QUIET_LOOKS: u32 = 20;

/// Longest name of an image.
const MAX_IMAGE_NAME: usize = 64;

/// What a daemon needs for receiving.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) node: Node,
    pub(crate) registry: Arc<Registry>,
    pub(crate) images: PathBuf,
    pub(crate) children: Arc<Children>,
    pub(crate) charges: Arc<Charges>,
    pub(crate) claims: Claims,
    /// Notes on a tree that is here could not be read: of a move that this node does not know it knows nothing.
    pub(crate) unread: AtomicBool,
}

impl Place {
    /// This node's part in a move.
    pub(crate) fn part(&self, job: &JobId) -> Part {
        if self.claims.holds(job) {
            return Part::Owner;
        }
        match self.registry.part(job) {
            Part::Nothing if self.unread.load(Relaxed) => Part::Undecided,
            part => part,
        }
    }
}

/// A stream of pages.
enum Stream {
    /// Into the images.
    Full(criu::Receiver, Relay),
    /// For later.
    Lazy(Channel),
}

/// A tree that is being received. Dropped before it has arrived, nothing is left of it.
struct Arrival<'a> {
    place: &'a Arc<Place>,
    name: Name,
    id: JobId,
    cgroup: Cgroup,
    directory: PathBuf,
    /// Number of the last stream of pages.
    round: Option<u32>,
    pages: Pages<Channel>,
    stream: Option<Stream>,
    /// Who to ask what has become of the source's tree.
    peer: String,
    boot: String,
    title: String,
    /// It runs, and is not this one's to end any more.
    arrived: bool,
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.place.registry.expect_no_more(&self.id);
        if !self.arrived {
            take_back(self.place, &self.name, &self.directory);
        }
    }
}

/// Ends all that there is of a tree; only then this node says that nothing is. Should the daemon be killed in between, the next one goes on
/// with that, as there is no file that says otherwise.
fn take_back(place: &Place, name: &Name, directory: &Path) {
    let _ = fs::remove_file(directory.join(COMMITTED));
    let group = Cgroup::of(name);
    if let Err(problem) = group.kill() {
        // It has been sent a signal that kills: nothing of it runs any more.
        eprintln!("vremoted: job {name}: {problem}");
    }
    discard(directory);
    place.registry.not_arrived(name);
    group.remove();
}

/// Removes the images of a tree.
fn discard(directory: &Path) {
    if let Some(aside) = set_aside(directory) {
        remove(&aside);
    }
}

/// Takes the images of a tree out of the way of its next arrival, all at once: what is left of a directory must not be taken for a tree that has
/// not arrived.
fn set_aside(directory: &Path) -> Option<PathBuf> {
    let aside = Name::new().map(|name| directory.with_extension(name.as_str()));
    match aside.and_then(|aside| fs::rename(directory, &aside).map(|()| aside)) {
        Ok(aside) => Some(aside),
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                eprintln!("vremoted: {}: {error}", directory.display());
            }
            None
        }
    }
}

fn remove(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory) {
        eprintln!("vremoted: {}: {error}", directory.display());
    }
}

/// Receives a tree on a connection whose first message was [`Opening::Job`].
pub(crate) fn receive(
    place: &Arc<Place>,
    channel: Channel,
    version: u32,
    name: Name,
    title: &str,
    boot: String,
) -> Result<(), Problem> {
    let stopper = channel.stopper()?;
    let Channel {
        peer,
        mut reader,
        mut writer,
    } = channel;
    if version != VERSION {
        let problem = Problem::new(
            format!(
                "{} speaks version {version} of the protocol, {} version {VERSION}",
                peer.name,
                place.node.name()
            ),
            "install the same release on both",
        );
        writer.send(&Answer::Failed(problem.clone()))?;
        return Err(problem);
    }
    let prepared = prepare(place, &peer.name, name, title, boot, stopper);
    let mut arrival = match prepared {
        Ok(arrival) => arrival,
        Err(problem) => {
            writer.send(&Answer::Failed(problem.clone()))?;
            return Err(problem);
        }
    };
    // The source says nothing while it copies memory or while its user thinks. A dead machine ends the connection.
    reader.set_limit(None)?;
    writer.send(&Answer::Job {
        version: VERSION,
        id: arrival.id,
        boot: node::boot_id()?,
    })?;
    let done = arrival.serve(&mut reader, &mut writer);
    if let Err(problem) = &done {
        // It may be the connection that failed.
        let _ = writer.send(&Answer::Failed(problem.clone()));
    }
    done
}

fn prepare<'a>(
    place: &'a Arc<Place>,
    peer: &str,
    name: Name,
    title: &str,
    boot: String,
    stopper: vremote_channel::Stopper,
) -> Result<Arrival<'a>, Problem> {
    let id = JobId::new();
    place
        .registry
        .arrive(&name, title, peer, id, Some(stopper))?;
    let arrival = Arrival {
        place,
        id,
        cgroup: Cgroup::of(&name),
        directory: place.images.join(name.as_str()),
        round: None,
        pages: place.registry.expect(id, peer),
        stream: None,
        peer: peer.into(),
        boot,
        title: title.into(),
        name,
        arrived: false,
    };
    // Left over from a daemon that was killed.
    let _ = fs::remove_dir_all(&arrival.directory);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&arrival.directory)
        .map_err(|error| Problem::plain(format!("{}: {error}", arrival.directory.display())))?;
    // What has left it may have been killed there frozen.
    Cgroup::make(&arrival.name)?.freeze(false)?;
    Ok(arrival)
}

impl Arrival<'_> {
    fn serve(&mut self, reader: &mut Reader, writer: &mut Writer) -> Result<(), Problem> {
        while let Some(request) = reader.receive()? {
            let answer = match request {
                Request::Ask { ids } => {
                    let facts = node::facts(&self.place.node, &self.directory, &ids, &self.peer);
                    Answer::Facts(facts)
                }
                Request::Look(questions) => {
                    Answer::Looked(questions.iter().map(node::look).collect())
                }
                Request::Receive { lazy } => {
                    let next = self.round.map_or(0, |round| round + 1);
                    self.round = Some(next);
                    fs::create_dir(self.images())?;
                    writer.send(&Answer::Done)?;
                    self.start_stream(lazy)?;
                    continue;
                }
                Request::Received => {
                    let Some(Stream::Full(receiver, relay)) = self.stream.take() else {
                        return Err(out_of_order());
                    };
                    let received = receiver.finish();
                    let relayed = relay.finish();
                    received.and(relayed)?;
                    Answer::Done
                }
                Request::Image { name, piece } => {
                    self.store(&name, &piece)?;
                    continue;
                }
                Request::Restore {
                    shell_job,
                    tcp_established,
                    child,
                } => return self.restore(reader, writer, shell_job, tcp_established, child),
                Request::Commit | Request::Gone => return Err(out_of_order()),
            };
            writer.send(&answer)?;
        }
        // The source has thought better of it, or only looked.
        Ok(())
    }

    /// The directory of the present round.
    fn images(&self) -> PathBuf {
        self.directory.join(self.round.unwrap_or(0).to_string())
    }

    fn start_stream(&mut self, lazy: bool) -> Result<(), Problem> {
        let channel = self.pages.recv_timeout(PAGES_LIMIT).map_err(|_| {
            Problem::plain(format!(
                "no stream of pages came within {} s",
                PAGES_LIMIT.as_secs()
            ))
        })?;
        if lazy {
            self.stream = Some(Stream::Lazy(channel));
            return Ok(());
        }
        let (ours, theirs) = criu::pages_socket()?;
        let parent = self.round.and_then(|round| round.checked_sub(1));
        let parent = parent.map(|round| format!("../{round}"));
        let receiver = criu::Receiver::start(&self.images(), parent.as_deref(), theirs)?;
        let relay = Relay::start(channel, ours, &Count::default(), AtEnd::Tell)?;
        self.stream = Some(Stream::Full(receiver, relay));
        Ok(())
    }

    /// Appends a piece to an image.
    fn store(&self, name: &str, piece: &[u8]) -> Result<(), Problem> {
        check_image(name, piece.len())?;
        let path = self.images().join(name);
        let failed = |error: std::io::Error| Problem::plain(format!("{}: {error}", path.display()));
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(failed)?;
        file.write_all(piece).map_err(failed)
    }

    fn restore(
        &mut self,
        reader: &mut Reader,
        writer: &mut Writer,
        shell_job: bool,
        tcp_established: bool,
        child: Option<i32>,
    ) -> Result<(), Problem> {
        let mut lazy = match self.stream.take() {
            Some(Stream::Lazy(channel)) => {
                Some(Lazy::start(&self.images(), channel, &self.cgroup)?)
            }
            _ => None,
        };
        let runs = child
            .map(|_| self.place.children.expect(&self.name))
            .transpose()?;
        reader.set_limit(Some(COMMIT_LIMIT))?;
        let is_lazy = lazy.is_some();
        let mut decide = || {
            writer.send(&Answer::Prepared)?;
            match reader.receive()? {
                // Without its memory it would be of no use to a daemon that starts anew.
                Some(Request::Commit) if is_lazy => Ok(()),
                Some(Request::Commit) => self.note_commit(None),
                Some(_) => Err(out_of_order()),
                None => Err(Problem::plain("the source has given up")),
            }
        };
        let images = self.images();
        let restore = Restore {
            images: &images,
            shell_job,
            tcp_established,
            cgroup: self.cgroup.path(),
            lazy: is_lazy,
            child,
        };
        let Made { pid, outside } = match &mut lazy {
            Some(lazy) => lazy.guard(|| restore.restore(&mut decide))?,
            None => restore.restore(&mut decide)?,
        };
        if let Some((runs, outside)) = runs.zip(outside) {
            // It is received: the thread waits for it.
            let _ = runs.send(outside);
        }
        let mut running = Answer::Running { pid };
        if let Some(lazy) = &mut lazy {
            writer.send(&running)?;
            // Until this is over the source has the memory, and cannot be gone. Without it the tree must not run on.
            lazy.finish()?;
            self.note_commit(Some(pid))?;
            running = Answer::Complete;
        } else if let Err(problem) = self.note_commit(Some(pid)) {
            // That it was let go is noted; that it runs, a daemon that starts anew can see.
            eprintln!("vremoted: job {}: {problem}", self.name);
        }
        self.place.registry.runs(&self.name, self.unconfirmed(pid));
        self.arrived = true;
        let said = writer.send(&running).and_then(|()| {
            reader.set_limit(Some(GONE_LIMIT))?;
            reader.receive()
        });
        if let Ok(Some(Request::Gone)) = said {
            confirm(self.place, &self.name, &self.id);
            // The tree is here for good. Whether the source hears that is its own affair.
            let _ = writer.send(&Answer::Done);
        } else {
            // The connection has failed in the moment between.
            let unconfirmed = self.unconfirmed(pid);
            start_to_settle(self.place, &self.name, unconfirmed, &self.directory);
        }
        Ok(())
    }

    fn unconfirmed(&self, pid: i32) -> Unconfirmed {
        Unconfirmed {
            from: self.peer.clone(),
            job: self.id,
            boot: self.boot.clone(),
            pid,
        }
    }

    /// From here on a daemon that starts anew does not kill the tree, if it is there. `pid`: it runs, or has run.
    fn note_commit(&self, pid: Option<i32>) -> Result<(), Problem> {
        let committed = Committed {
            peer: self.peer.clone(),
            boot: self.boot.clone(),
            own: node::boot_id()?,
            job: self.id,
            title: self.title.clone(),
            pid,
        };
        claims::write(&self.directory.join(COMMITTED), &committed)?;
        Ok(())
    }
}

/// Memory that comes while the tree runs.
struct Lazy {
    pages: LazyPages,
    relay: Option<Relay>,
    cgroup: Cgroup,
    complete: bool,
}

/// The tree goes first: without who gives it its memory it would see an empty one.
impl Drop for Lazy {
    fn drop(&mut self) {
        if !self.complete {
            let _ = self.cgroup.kill();
        }
    }
}

/// CRIU ends within this after its stream has, if it has all pages.
const LAZY_END: Duration = Duration::from_secs(5);

/// The same while the tree is still being restored. The source does not end a stream then, but by its own end.
const LAZY_LOST: Duration = Duration::from_secs(1);

/// Between two looks at it.
const LAZY_PAUSE: Duration = Duration::from_millis(20);

impl Lazy {
    fn start(images: &Path, channel: Channel, cgroup: &Cgroup) -> Result<Lazy, Problem> {
        let (ours, theirs) = criu::pages_socket()?;
        let relay = Relay::start(channel, ours, &Count::default(), AtEnd::Hide)?;
        Ok(Lazy {
            pages: LazyPages::start(images, theirs, cgroup.path())?,
            relay: Some(relay),
            cgroup: cgroup.clone(),
            complete: false,
        })
    }

    /// Waits until all pages are there. If that fails, the tree is killed before it can see an empty one.
    fn finish(&mut self) -> Result<(), Problem> {
        let done = self.wait();
        self.complete = done.is_ok();
        if done.is_err() {
            self.cgroup.kill()?;
        }
        if let Some(relay) = self.relay.take().filter(|_| done.is_ok()) {
            // All is there; how the source ends its side does not matter.
            let _ = relay.finish();
        }
        done
    }

    fn wait(&mut self) -> Result<(), Problem> {
        let mut over = None;
        while !self.is_done(&mut over, LAZY_END)? {
            thread::sleep(LAZY_PAUSE);
        }
        Ok(())
    }

    /// Whether all pages are there. An error if they will not come any more: nothing has come from the source since `over`, for longer than
    /// `limit`.
    fn is_done(&mut self, over: &mut Option<Instant>, limit: Duration) -> Result<bool, Problem> {
        if self.pages.is_done()? {
            return Ok(true);
        }
        if self.relay.as_ref().is_some_and(Relay::is_over)
            && over.get_or_insert_with(Instant::now).elapsed() > limit
        {
            return Err(Problem::plain(
                "the source is gone before all memory was here",
            ));
        }
        Ok(false)
    }

    /// Restores while memory comes. Should it not come any more, all in the cgroup is killed: a CRIU that restores waits for a tree that
    /// waits for a page, as long as it takes.
    fn guard<T>(&mut self, restore: impl FnOnce() -> Result<T, Problem>) -> Result<T, Problem> {
        let cgroup = self.cgroup.clone();
        let (done, is_done) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let guard = scope.spawn(move || {
                let mut over = None;
                let mut here = Ok(false);
                while is_done.recv_timeout(LAZY_PAUSE) == Err(RecvTimeoutError::Timeout) {
                    if matches!(here, Ok(false)) {
                        here = self.is_done(&mut over, LAZY_LOST);
                    }
                    if here.is_err() {
                        let _ = cgroup.kill();
                    }
                }
                here
            });
            let restored = restore();
            drop(done);
            let here = guard
                .join()
                .unwrap_or_else(|_| Err(Problem::plain("the thread of the memory has failed")));
            here.and(restored)
        })
    }
}

/// Asks a node a question that needs no more than a connection.
fn question(node: &Node, peer: &str, question: &Opening) -> Result<Answer, Problem> {
    let mut channel = Channel::connect(node, &node.peer(peer)?)?;
    channel.writer.send(question)?;
    channel.reader.set_limit(Some(ASK_LIMIT))?;
    match channel.reader.receive()? {
        Some(Answer::Failed(problem)) => Err(problem),
        Some(answer) => Ok(answer),
        None => Err(out_of_order()),
    }
}

/// Asks a node where a tree is.
pub(crate) fn ask_where(node: &Node, peer: &str, name: &Name) -> Result<Whereabouts, Problem> {
    match question(node, peer, &Opening::Where { name: name.clone() })? {
        Answer::Where { at } => Ok(at),
        _ => Err(out_of_order()),
    }
}

/// Asks a node for its part in a move; also gives its boot id.
pub(crate) fn ask(node: &Node, peer: &str, job: &JobId) -> Result<(Part, String), Problem> {
    match question(node, peer, &Opening::Part { job: *job })? {
        Answer::Part { part, boot } => Ok((part, boot)),
        _ => Err(out_of_order()),
    }
}

/// The peer does not keep to the protocol.
pub(crate) fn out_of_order() -> Problem {
    Problem::plain("the other node's message is out of order")
}

/// An image's name is a plain file name, as CRIU makes them.
fn check_image(name: &str, bytes: usize) -> Result<(), Problem> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty()
        || name.len() > MAX_IMAGE_NAME
        || name.starts_with('.')
        || !name.chars().all(plain)
        || !name.ends_with(".img")
        || bytes > PIECE
    {
        return Err(Problem::plain(format!("'{name}' is no image")));
    }
    Ok(())
}

/// Notes on a tree that was let go, in a file among its images, for a daemon that starts anew before its source is known to be gone.
#[derive(Serialize, Deserialize)]
struct Committed {
    peer: String,
    /// The source's boot id.
    boot: String,
    /// This node's: what ran before it started anew is no more.
    own: String,
    job: JobId,
    title: String,
    /// It runs, or has run. `None`: CRIU was about to let it go.
    pid: Option<i32>,
}

/// The name of that file.
const COMMITTED: &str = "committed";

/// When the daemon starts: finds the trees that are here, and removes those that had not fully arrived. `unread`: of these it is not known whether
/// they were about to leave.
pub(crate) fn recover(place: &Arc<Place>, mut unread: Vec<Name>) -> Result<(), Problem> {
    let own = node::boot_id()?;
    let mut open = Vec::new();
    for entry in fs::read_dir(&place.images).into_iter().flatten().flatten() {
        let directory = entry.path();
        let Ok(name) = Name::try_from(entry.file_name().to_string_lossy().into_owned()) else {
            // Set aside by a daemon that was killed.
            if directory.extension().is_some() {
                remove(&directory);
            }
            continue;
        };
        let committed = match read_committed(&directory) {
            // Nobody knows whether it was let go: what runs is not ended, and none of its sources is told that nothing does.
            Err(error) if Cgroup::of(&name).is_populated() => {
                eprintln!(
                    "vremoted: job {name}: {}: {error}; remove that directory if you know that the tree is not at another node",
                    directory.join(COMMITTED).display()
                );
                unread.push(name);
                continue;
            }
            committed => committed.ok().flatten(),
        };
        match committed.filter(|committed| committed.own == own) {
            Some(committed) => {
                let Committed {
                    peer, job, title, ..
                } = &committed;
                match place.registry.arrive(&name, title, peer, *job, None) {
                    Ok(()) => open.push((name, committed, directory)),
                    Err(_) => {
                        // It is about to leave: it has long been confirmed.
                        discard(&directory);
                    }
                }
            }
            // What is there may as well be a tree that was about to leave.
            None if unread.contains(&name) => {}
            None => take_back(place, &name, &directory),
        }
    }
    for name in unread {
        place.unread.store(true, Relaxed);
        place.registry.unread(&name);
    }
    for name in Cgroup::all() {
        if open.iter().any(|(known, ..)| *known == name) {
            continue;
        }
        match Cgroup::of(&name).first() {
            Some(pid) => {
                let title = procfs::process::Process::new(pid).map(|process| tree::title(&process));
                place.registry.found(&name, &title.unwrap_or_default(), pid);
            }
            None => Cgroup::of(&name).remove(),
        }
    }
    for (name, committed, directory) in open {
        let served = place.clone();
        let go_on = move || find(&served, &name, committed, &directory);
        // Without a thread it stays as it is: the source is told to ask again.
        thread::Builder::new().name("settle".into()).spawn(go_on)?;
    }
    Ok(())
}

/// That file; `None`: there is none, as nothing was let go.
fn read_committed(directory: &Path) -> io::Result<Option<Committed>> {
    match fs::read(directory.join(COMMITTED)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A tree that was let go by a daemon that was killed: does it run?
fn find(place: &Arc<Place>, name: &Name, committed: Committed, directory: &Path) {
    let Committed {
        peer,
        boot,
        job,
        pid,
        ..
    } = committed;
    let group = Cgroup::of(name);
    // What runs, or has run, is known; else CRIU may be about to let it go, or to kill it.
    let pid = pid.or_else(|| {
        wait_for_criu(&group);
        group.first()
    });
    match pid {
        Some(pid) => {
            let unconfirmed = Unconfirmed {
                from: peer,
                job,
                boot,
                pid,
            };
            place.registry.runs(name, unconfirmed.clone());
            settle(place, name, &unconfirmed, directory);
        }
        None => {
            place.registry.unsure(name);
            let unsure = Unconfirmed {
                from: peer,
                job,
                boot,
                pid: 0,
            };
            settle(place, name, &unsure, directory);
        }
    }
}

/// Waits until no CRIU is in a cgroup. One that does not end is killed, with all that is there.
fn wait_for_criu(group: &Cgroup) {
    let until = Instant::now() + CRIU_ENDS_LIMIT;
    let mut quiet = 0;
    while quiet < QUIET_LOOKS {
        quiet += 1;
        if group.processes().into_iter().any(tree::is_of_criu) {
            quiet = 0;
        }
        if Instant::now() > until {
            let _ = group.kill();
            return;
        }
        thread::sleep(LOOK_PAUSE);
    }
}

/// [`settle`], by a thread of its own.
fn start_to_settle(place: &Arc<Place>, name: &Name, known: Unconfirmed, directory: &Path) {
    eprintln!(
        "vremoted: job {name}: {} has not confirmed that its copy is no more; it is asked",
        known.from
    );
    let (place, name, directory) = (place.clone(), name.clone(), directory.to_path_buf());
    let settle = move || settle(&place, &name, &known, &directory);
    if let Err(error) = thread::Builder::new().name("settle".into()).spawn(settle) {
        // The tree runs on, and is not moved; a daemon that starts anew asks.
        eprintln!("vremoted: the source is not asked: {error}");
    }
}

/// Asks the source what has become of its tree, until it is known that it is no more, or that it has taken the tree back; or until an operator
/// has decided. The tree here runs on: the source's stands still.
fn settle(place: &Place, name: &Name, known: &Unconfirmed, directory: &Path) {
    while place.registry.is_open(name, &known.job) {
        let said = ask(&place.node, &known.from, &known.job);
        match said.map(|(part, boot)| whose(part, boot != known.boot)) {
            Ok(Some(Whose::Ours)) => confirm(place, name, &known.job),
            Ok(Some(Whose::Theirs)) => {
                if place.registry.taken_back(name, &known.job) {
                    eprintln!("vremoted: job {name}: {} has taken it back", known.from);
                    take_back(place, name, directory);
                }
            }
            Ok(None) | Err(_) => thread::sleep(ASK_PAUSE),
        }
    }
}

/// It is here for good. Its images go first: from then on it may leave, and come back to the same place.
fn confirm(place: &Place, name: &Name, job: &JobId) {
    let mut aside = None;
    let before = || aside = set_aside(&place.images.join(name.as_str()));
    place.registry.confirm(name, job, before);
    if let Some(aside) = aside {
        remove(&aside);
    }
}

/// An operator takes a tree that runs here, and may run at its source for all that is known, for this node's.
pub(crate) fn resume(place: &Place, name: &Name) -> Result<(), Problem> {
    let known = place.registry.unconfirmed(name)?;
    claim(place, &known)?;
    confirm(place, name, &known.job);
    Ok(())
}

/// Notes on the disk that a tree is this node's: it runs here, or has run here and ended.
fn claim(place: &Place, known: &Unconfirmed) -> Result<(), Problem> {
    place.claims.add(Claim {
        job: known.job,
        peer: known.from.clone(),
        boot: known.boot.clone(),
    })?;
    Ok(())
}

/// An operator lets go what is kept for a tree whose other node never comes back.
pub(crate) fn forget(place: &Place, name: &Name) -> Result<(), Problem> {
    let mut aside = None;
    place.registry.forget(name, |ended| {
        // What has ended here its source would run a second time.
        if let Some(ended) = ended {
            claim(place, ended)?;
        }
        aside = set_aside(&place.images.join(name.as_str()));
        Ok(())
    })?;
    if let Some(aside) = aside {
        remove(&aside);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_images_are_stored() {
        for name in [
            "files.img",
            "core-4711.img",
            "tty-info.img",
            "pages-1.img",
            "netns-ct-9.img",
        ] {
            assert_eq!(check_image(name, PIECE), Ok(()));
        }
        for name in [
            "",
            ".img",
            "../x.img",
            "a/b.img",
            "committed",
            "parent",
            "x.img\0",
            "x.conf",
        ] {
            assert!(check_image(name, 1).is_err(), "{name}");
        }
        assert!(check_image("files.img", PIECE + 1).is_err());
        assert!(check_image(&format!("{}.img", "x".repeat(MAX_IMAGE_NAME)), 1).is_err());
    }
}
