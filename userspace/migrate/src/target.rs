// SPDX-License-Identifier: GPL-2.0

//! Receiving a tree.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
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
    criu::{self, LazyPages, Made, Restore},
    leaving::Charges,
    node,
    problem::Problem,
    protocol::{Answer, Name, Opening, Request, Whereabouts, PIECE, VERSION},
    registry::Registry,
    relay::{AtEnd, Count, Relay},
    tree,
};

/// Where images are put while a tree arrives.
pub const IMAGES: &str = "/var/lib/vremote/jobs";

/// A source that has announced a stream of pages opens it within this.
const PAGES_LIMIT: Duration = Duration::from_secs(30);

/// The source decides within this whether a tree that is ready shall run.
const COMMIT_LIMIT: Duration = Duration::from_secs(60);

/// A tree that runs is confirmed to be the only one within this. If not, it stops until that is known.
const LEASE: Duration = Duration::from_secs(20);

/// Between two questions to the source.
const ASK_PAUSE: Duration = Duration::from_secs(1);

/// Longest name of an image.
const MAX_IMAGE_NAME: usize = 64;

/// What a daemon needs for receiving.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) node: Node,
    pub(crate) registry: Arc<Registry>,
    pub(crate) images: PathBuf,
    pub(crate) children: Arc<Children>,
    pub(crate) charges: Charges,
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
    place: &'a Place,
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
    /// It stays.
    arrived: bool,
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.place.registry.expect_no_more(&self.id);
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("vremoted: {}: {error}", self.directory.display());
        }
        if !self.arrived {
            if let Err(problem) = self.cgroup.kill() {
                eprintln!("vremoted: job {}: {problem}", self.name);
            }
            self.cgroup.remove();
            self.place.registry.not_arrived(&self.name);
        }
    }
}

/// Receives a tree on a connection whose first message was [`Opening::Job`].
pub(crate) fn receive(
    place: &Place,
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
    place: &'a Place,
    peer: &str,
    name: Name,
    title: &str,
    boot: String,
    stopper: vremote_channel::Stopper,
) -> Result<Arrival<'a>, Problem> {
    place.registry.arrive(&name, title, peer, stopper)?;
    let id = JobId::new();
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
    Cgroup::make(&arrival.name)?;
    Ok(arrival)
}

impl Arrival<'_> {
    fn serve(&mut self, reader: &mut Reader, writer: &mut Writer) -> Result<(), Problem> {
        while let Some(request) = reader.receive()? {
            let answer = match request {
                Request::Ask { ids } => {
                    Answer::Facts(node::facts(&self.place.node, &self.directory, &ids))
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
            Some(Stream::Lazy(channel)) => Some(Lazy::start(&self.images(), channel)?),
            _ => None,
        };
        reader.set_limit(Some(COMMIT_LIMIT))?;
        let is_lazy = lazy.is_some();
        let mut decide = || {
            writer.send(&Answer::Prepared)?;
            match reader.receive()? {
                Some(Request::Commit) if is_lazy => Ok(()),
                Some(Request::Commit) => self.note_commit(),
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
            Some(lazy) => lazy.guard(&self.cgroup, || restore.restore(&mut decide))?,
            None => restore.restore(&mut decide)?,
        };
        if let Some(outside) = outside {
            self.place.children.follow(&self.name, outside)?;
        }
        let mut running = Answer::Running { pid };
        if let Some(lazy) = &mut lazy {
            writer.send(&running)?;
            // Until this is over the source has the memory, and cannot be gone. Without it the tree must not run on.
            lazy.finish(&self.cgroup)?;
            self.note_commit()?;
            running = Answer::Complete;
        }
        self.place.registry.runs(&self.name);
        self.confirm(reader, writer, &running)?;
        self.place.registry.arrived(&self.name, pid);
        self.arrived = true;
        // The tree is here for good. Whether the source hears that is its own affair.
        let _ = writer.send(&Answer::Done);
        Ok(())
    }

    /// From here on a daemon that starts anew does not kill the tree.
    fn note_commit(&self) -> Result<(), Problem> {
        let committed = Committed {
            peer: self.peer.clone(),
            boot: self.boot.clone(),
            title: self.title.clone(),
        };
        let bytes =
            serde_json::to_vec(&committed).map_err(|error| Problem::plain(error.to_string()))?;
        fs::write(self.directory.join(COMMITTED), bytes)?;
        Ok(())
    }

    /// Finds out that the source's tree is no more.
    fn confirm(
        &self,
        reader: &mut Reader,
        writer: &mut Writer,
        news: &Answer,
    ) -> Result<(), Problem> {
        let said = writer.send(news).and_then(|()| {
            reader.set_limit(Some(LEASE))?;
            reader.receive()
        });
        if let Ok(Some(Request::Gone)) = said {
            return Ok(());
        }
        // The connection has failed in the moment between.
        settle(self.place, &self.name, &self.peer, &self.boot)
    }
}

/// Memory that comes while the tree runs.
struct Lazy {
    pages: LazyPages,
    relay: Option<Relay>,
}

/// CRIU ends within this after its stream has, if it has all pages.
const LAZY_END: Duration = Duration::from_secs(5);

/// The same while the tree is still being restored. The source does not end a stream then, but by its own end.
const LAZY_LOST: Duration = Duration::from_secs(1);

/// Between two looks at it.
const LAZY_PAUSE: Duration = Duration::from_millis(20);

impl Lazy {
    fn start(images: &Path, channel: Channel) -> Result<Lazy, Problem> {
        let (ours, theirs) = criu::pages_socket()?;
        let relay = Relay::start(channel, ours, &Count::default(), AtEnd::Hide)?;
        Ok(Lazy {
            pages: LazyPages::start(images, theirs)?,
            relay: Some(relay),
        })
    }

    /// Waits until all pages are there. If that fails, the tree is killed before it can see an empty one.
    fn finish(&mut self, cgroup: &Cgroup) -> Result<(), Problem> {
        let done = self.wait();
        if done.is_err() {
            cgroup.kill()?;
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
    fn guard<T>(
        &mut self,
        cgroup: &Cgroup,
        restore: impl FnOnce() -> Result<T, Problem>,
    ) -> Result<T, Problem> {
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

/// Asks a node where a tree is; also gives its boot id.
pub(crate) fn ask(node: &Node, peer: &str, name: &Name) -> Result<(Whereabouts, String), Problem> {
    let mut channel = Channel::connect(node, &node.peer(peer)?)?;
    channel
        .writer
        .send(&Opening::Where { name: name.clone() })?;
    match channel.reader.receive()? {
        Some(Answer::Where { at, boot }) => Ok((at, boot)),
        Some(Answer::Failed(problem)) => Err(problem),
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

/// Notes on a tree that may run, in a file among its images, for a daemon that starts anew before its source is known to be gone.
#[derive(Serialize, Deserialize)]
struct Committed {
    peer: String,
    boot: String,
    title: String,
}

/// The name of that file.
const COMMITTED: &str = "committed";

/// When the daemon starts: finds the trees that are here, and removes those that had not fully arrived.
pub(crate) fn recover(place: &Arc<Place>) {
    let mut unsettled = Vec::new();
    for entry in fs::read_dir(&place.images).into_iter().flatten().flatten() {
        let Ok(name) = Name::try_from(entry.file_name().to_string_lossy().into_owned()) else {
            continue;
        };
        let group = Cgroup::of(&name);
        let committed = fs::read(entry.path().join(COMMITTED))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Committed>(&bytes).ok());
        if let (Some(committed), Some(_)) = (committed, group.first()) {
            unsettled.push((name, committed, entry.path()));
            continue;
        }
        if let Err(problem) = group.kill() {
            eprintln!("vremoted: job {name}: {problem}");
        }
        group.remove();
        let _ = fs::remove_dir_all(entry.path());
    }
    for name in Cgroup::all() {
        match Cgroup::of(&name).first() {
            Some(pid) => {
                let title = procfs::process::Process::new(pid).map(|process| tree::title(&process));
                place
                    .registry
                    .found(&name, &title.unwrap_or_default(), "", pid);
            }
            None => Cgroup::of(&name).remove(),
        }
    }
    for (name, committed, directory) in unsettled {
        let place = place.clone();
        let settle = move || {
            let Committed { peer, boot, .. } = committed;
            if let Err(problem) = settle(&place, &name, &peer, &boot) {
                eprintln!("vremoted: job {name}: {problem}");
                let _ = Cgroup::of(&name).kill();
                place.registry.forget(&name);
                Cgroup::of(&name).remove();
            }
            let _ = fs::remove_dir_all(directory);
        };
        // Without a thread the tree stays, and so do its images.
        let _ = thread::Builder::new().name("settle".into()).spawn(settle);
    }
}

/// Asks the source what has become of its tree, until it is known that it is gone; an error if it has taken the tree back. The tree here
/// stops after its lease. The source lets its own run again no sooner than after that.
fn settle(place: &Place, name: &Name, peer: &str, boot: &str) -> Result<(), Problem> {
    let since = Instant::now();
    let cgroup = Cgroup::of(name);
    loop {
        match ask(&place.node, peer, name) {
            // What ran on the source before it started anew runs no more: the tree here is the only one.
            Ok((_, now)) if now != boot => break,
            Ok((Whereabouts::Moved(to), _)) if to == place.node.name() => break,
            Ok((Whereabouts::Here | Whereabouts::Gone | Whereabouts::Moved(_), _)) => {
                return Err(Problem::plain(format!("{peer} has taken it back")))
            }
            Ok((Whereabouts::Moving, _)) | Err(_) => {}
        }
        if since.elapsed() > LEASE {
            cgroup.freeze(true)?;
        }
        thread::sleep(ASK_PAUSE);
    }
    cgroup.freeze(false)?;
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
