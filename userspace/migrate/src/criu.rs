// SPDX-License-Identifier: GPL-2.0

//! CRIU as a child process: dumps and restores through its RPC (`criu swrk`), page server and lazy pages by command line.
//!
//! CRIU asks at certain points of a dump or a restore whether to go on (*notifications*); a dump that is told no lets its tree run again,
//! a restore that is told no kills what it made. If this process dies in between, CRIU takes that for a no.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt, FdMapping};
use prost::Message;
use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::retry_on_intr,
    net::{socketpair, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType},
    process::{kill_process_group, Pid, Signal},
};

use crate::{first, problem::Problem, relay::Count};

/// The program.
const PROGRAM: &str = "criu";

/// Oldest version that is known to do all that is needed here: 4.1, as CRIU counts.
pub const MIN_VERSION: u32 = 40100;

/// Longest answer that is read; CRIU's are a few hundred bytes.
const MAX_ANSWER: usize = 64 << 10;

/// A CRIU that copies a process and for so long neither answers nor moves memory has lost it: it waits for a stop of the process that has
/// gone by. The process runs on by then.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked how much memory has moved.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// The environment that makes CRIU follow a process from system call to system call up to the point where it wants it, and not by a
/// hardware breakpoint. Some virtual machines lose these, now and then; then CRIU would wait for ever. That CRIU counts it among the faults
/// to test with is only a name: it is what CRIU does by itself where there are no breakpoints.
const NO_BREAKPOINTS: (&str, &str) = ("CRIU_FAULT", "130");

/// Descriptors of CRIU's, as it numbers them.
pub(crate) const RPC_FD: i32 = 3;
const PAGES_FD: i32 = 4;

/// Longest contents of a file without a name that travel in the images, in bytes.
pub const GHOST_LIMIT: u32 = 1 << 30;

/// `criu_page_server_info` of rpc.proto, as far as used; so below.
#[derive(Clone, PartialEq, Message)]
struct PageServer {
    #[prost(int32, optional, tag = "4")]
    fd: Option<i32>,
}

/// `criu_opts`.
#[derive(Clone, PartialEq, Message)]
struct Options {
    #[prost(int32, required, tag = "1")]
    images_dir_fd: i32,
    #[prost(int32, optional, tag = "2")]
    pid: Option<i32>,
    #[prost(bool, optional, tag = "5")]
    tcp_established: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    shell_job: Option<bool>,
    #[prost(int32, optional, tag = "9")]
    log_level: Option<i32>,
    #[prost(string, optional, tag = "10")]
    log_file: Option<String>,
    #[prost(message, optional, tag = "11")]
    ps: Option<PageServer>,
    #[prost(bool, optional, tag = "12")]
    notify_scripts: Option<bool>,
    #[prost(string, optional, tag = "14")]
    parent_img: Option<String>,
    #[prost(bool, optional, tag = "15")]
    track_mem: Option<bool>,
    #[prost(bool, optional, tag = "18")]
    link_remap: Option<bool>,
    #[prost(int32, optional, tag = "34")]
    manage_cgroups_mode: Option<i32>,
    #[prost(uint32, optional, tag = "35")]
    ghost_limit: Option<u32>,
    #[prost(uint32, optional, tag = "45")]
    timeout: Option<u32>,
    #[prost(bool, optional, tag = "48")]
    lazy_pages: Option<bool>,
    #[prost(string, optional, tag = "51")]
    config_file: Option<String>,
    #[prost(string, optional, tag = "68")]
    images_dir: Option<String>,
    #[prost(bool, optional, tag = "69")]
    leave_stopped: Option<bool>,
}

/// `criu_cg_mode.IGNORE`: cgroups are the target's business.
const CGROUPS_IGNORE: i32 = 0;

/// `criu_req_type`.
mod kind {
    pub(super) const DUMP: i32 = 1;
    pub(super) const RESTORE: i32 = 2;
    pub(super) const NOTIFY: i32 = 6;
    pub(super) const FEATURE_CHECK: i32 = 9;
    pub(super) const VERSION: i32 = 10;
    pub(super) const SINGLE_PRE_DUMP: i32 = 13;
}

/// The notification that all images of a dump are written.
const DUMPED: &str = "post-dump";

/// `criu_features`.
#[derive(Clone, PartialEq, Message)]
struct Features {
    #[prost(bool, optional, tag = "1")]
    mem_track: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    lazy_pages: Option<bool>,
}

/// `criu_req`.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(int32, required, tag = "1")]
    kind: i32,
    #[prost(message, optional, tag = "2")]
    opts: Option<Options>,
    #[prost(bool, optional, tag = "3")]
    notify_success: Option<bool>,
    #[prost(message, optional, tag = "5")]
    features: Option<Features>,
}

/// `criu_restore_resp`.
#[derive(Clone, PartialEq, Message)]
struct Restored {
    #[prost(int32, required, tag = "1")]
    pid: i32,
}

/// `criu_notify`.
#[derive(Clone, PartialEq, Message)]
struct Notification {
    #[prost(string, optional, tag = "1")]
    script: Option<String>,
}

/// `criu_version`.
#[derive(Clone, PartialEq, Message)]
struct Version {
    #[prost(int32, required, tag = "1")]
    major: i32,
    #[prost(int32, required, tag = "2")]
    minor: i32,
    #[prost(int32, optional, tag = "4")]
    sublevel: Option<i32>,
}

/// `criu_resp`.
#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(int32, required, tag = "1")]
    kind: i32,
    #[prost(bool, required, tag = "2")]
    success: bool,
    #[prost(message, optional, tag = "4")]
    restore: Option<Restored>,
    #[prost(message, optional, tag = "5")]
    notify: Option<Notification>,
    #[prost(message, optional, tag = "8")]
    features: Option<Features>,
    #[prost(string, optional, tag = "9")]
    error: Option<String>,
    #[prost(message, optional, tag = "10")]
    version: Option<Version>,
}

/// What the CRIU of this node can do.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// As CRIU counts: 40101 is 4.1.1.
    pub version: u32,
    /// It can find the pages that were written since a round before, for pre-copy.
    pub track_memory: bool,
    /// It can fetch pages when they are touched, for lazy memory.
    pub lazy_pages: bool,
}

/// How a tree is dumped.
#[derive(Debug)]
pub struct Dump<'a> {
    /// Root of the tree.
    pub pid: i32,
    /// Where the images go, all but pages.
    pub images: &'a Path,
    /// The directory of the round before, relative to `images`.
    pub parent: Option<String>,
    /// Where pages go: a page server is at the other end.
    pub pages: UnixStream,
    /// The tree's session or terminal is not its own.
    pub shell_job: bool,
    /// Connections by TCP are dumped, too.
    pub tcp_established: bool,
    /// Memory is left where it is, and given out through `pages` once the dump is done.
    pub lazy: bool,
    /// What has passed through `pages`.
    pub moved: &'a Count,
}

/// What a CRIU at work tells.
enum Told<'a> {
    /// It has come to a point at which it asks whether to go on: the name of the notification.
    Asks(&'a str),
    /// It has moved memory: so many bytes since the start of the move.
    Moved(u64),
}

/// What a dump tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dumping {
    /// So many bytes of memory have moved since the start of the move.
    Moved(u64),
    /// All images are written; shall it go on?
    Written,
}

/// Lines of CRIU's log that say why it failed.
fn reasons(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().filter(|line| line.contains("Error"));
    // "(00.123456) Error (criu/files-reg.c:12): what": time and place say nothing to the user.
    let said = lines.map(|line| line.split_once("): ").map_or(line, |(_, what)| what));
    let mut said: Vec<_> = said.filter(|line| !line.contains("FAILED")).collect();
    said.dedup();
    said.truncate(3);
    if said.is_empty() {
        "it says no reason".into()
    } else {
        said.join("; ")
    }
}

/// A CRIU that serves one request.
struct Worker {
    socket: OwnedFd,
    /// `None`: somebody else waits for it.
    child: Option<Child>,
}

/// A CRIU may say nothing for `limit`, and then again if memory has moved meanwhile.
#[derive(Clone, Copy)]
struct Patience<'a> {
    moved: &'a Count,
    limit: Duration,
}

/// CRIU that serves what is at its descriptor [`RPC_FD`].
pub(crate) fn worker() -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("swrk").arg(RPC_FD.to_string());
    command.env(NO_BREAKPOINTS.0, NO_BREAKPOINTS.1);
    command
}

/// [`worker`], of which nothing is heard but answers.
fn quiet() -> Command {
    let mut command = worker();
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Worker {
    /// Starts it.
    fn start() -> Result<Worker, Problem> {
        Worker::start_by(quiet(), None)
    }

    /// Starts one for a dump, with `pages` as its descriptor [`PAGES_FD`].
    fn start_dump(pages: UnixStream) -> Result<Worker, Problem> {
        let mut command = quiet();
        // Of its own, to be ended with all that it starts.
        command.process_group(0);
        Worker::start_by(command, Some(pages))
    }

    /// Starts it by this command.
    fn start_by(mut command: Command, pages: Option<UnixStream>) -> Result<Worker, Problem> {
        let flags = SocketFlags::CLOEXEC;
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(io::Error::from)?;
        let mut mappings = vec![FdMapping {
            parent_fd: theirs,
            child_fd: RPC_FD,
        }];
        mappings.extend(pages.map(|pages| FdMapping {
            parent_fd: pages.into(),
            child_fd: PAGES_FD,
        }));
        command.stdin(Stdio::null());
        command.fd_mappings(mappings).map_err(|_| {
            Problem::plain("the descriptors for CRIU collide, which should not happen")
        })?;
        let child = Some(spawn(&mut command)?);
        Ok(Worker { socket, child })
    }

    fn send(&self, request: &Request) -> io::Result<()> {
        rustix::net::send(&self.socket, &request.encode_to_vec(), SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for a message. A CRIU that does not get on is ended, along with what it has started; what it has put into a process ends
    /// with it and lets the process go on.
    fn wait(
        &self,
        Patience { moved, limit }: Patience<'_>,
        what: &str,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(), Problem> {
        let pause = Timespec::try_from(limit.min(LOOK_PAUSE)).map_err(io::Error::other)?;
        let mut last = (moved.get(), Instant::now());
        while last.1.elapsed() < limit {
            let mut sockets = [PollFd::new(&self.socket, PollFlags::IN)];
            if retry_on_intr(|| poll(&mut sockets, Some(&pause))).map_err(io::Error::from)? > 0 {
                return Ok(());
            }
            if moved.get() != last.0 {
                last = (moved.get(), Instant::now());
                tell(last.0);
            }
        }
        if let Some(child) = &self.child {
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
        }
        Err(Problem::new(
            format!("CRIU was to {what} and did not get on for {limit:?}; it was ended"),
            "try again; the process goes on here",
        ))
    }

    fn receive(&self) -> io::Result<Response> {
        let mut buffer = vec![0; MAX_ANSWER];
        let (_, length) =
            retry_on_intr(|| rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()))?;
        if length == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Response::decode(&buffer[..length.min(MAX_ANSWER)])
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
    }

    /// Sends a request and answers notifications until its response is there.
    fn run(
        &self,
        request: &Request,
        what: &str,
        log: &Path,
        mut patience: Option<Patience<'_>>,
        told: &mut dyn FnMut(Told<'_>) -> Result<(), Problem>,
    ) -> Result<Response, Problem> {
        self.send(request)?;
        let mut refused = None;
        loop {
            let mut tell = |moved| {
                // Nothing is asked by that.
                let _ = told(Told::Moved(moved));
            };
            let waited = patience.map(|patience| self.wait(patience, what, &mut tell));
            if let Some(Err(stalled)) = waited {
                return Err(refused.unwrap_or(stalled));
            }
            let response = match self.receive() {
                Ok(response) => response,
                Err(error) => {
                    return Err(refused.unwrap_or_else(|| {
                        Problem::plain(format!(
                            "CRIU ended in the {what} ({error}): {}",
                            reasons(log)
                        ))
                    }))
                }
            };
            if response.kind == kind::NOTIFY {
                let script = response.notify.and_then(|notify| notify.script);
                let answer = told(Told::Asks(script.as_deref().unwrap_or_default()));
                // What is left to do may last: lazy memory is given out.
                patience = patience.filter(|_| script.as_deref() != Some(DUMPED));
                let notify_success = Some(answer.is_ok());
                // The first refusal is the reason; what follows it is only cleaning up.
                refused = refused.or(answer.err());
                let sent = self.send(&Request {
                    kind: kind::NOTIFY,
                    notify_success,
                    ..Request::default()
                });
                if let Err(error) = sent {
                    return Err(refused.unwrap_or_else(|| error.into()));
                }
                continue;
            }
            return match (refused, response.success) {
                (Some(problem), _) => Err(problem),
                (None, true) => Ok(response),
                (None, false) => {
                    let said = response.error.unwrap_or_default();
                    let said = said.lines().last().unwrap_or_default().trim();
                    let why = match (said, reasons(log)) {
                        ("", why) => why,
                        (_, why) => why,
                    };
                    Err(Problem::plain(format!("CRIU could not {what}: {why}")))
                }
            };
        }
    }
}

/// Also waits for its end: no zombies, and nothing of the tree is touched any more.
impl Drop for Worker {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}

fn spawn(command: &mut Command) -> Result<Child, Problem> {
    command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => Problem::new("CRIU is not installed", "apt-get install criu"),
        _ => Problem::plain(format!("CRIU does not start: {error}")),
    })
}

/// What CRIU can do here.
pub fn abilities() -> Result<Abilities, Problem> {
    let request = Request {
        kind: kind::VERSION,
        ..Request::default()
    };
    let log = PathBuf::new();
    let mut silent = |_: Told<'_>| Ok(());
    let response = Worker::start()?.run(&request, "tell its version", &log, None, &mut silent)?;
    let version = response.version.unwrap_or_default();
    let number = version.major * 10000 + version.minor * 100 + version.sublevel.unwrap_or(0);
    let request = Request {
        kind: kind::FEATURE_CHECK,
        features: Some(Features {
            mem_track: Some(true),
            lazy_pages: Some(true),
        }),
        ..Request::default()
    };
    let response = Worker::start()?.run(&request, "tell its features", &log, None, &mut silent)?;
    let features = response.features.unwrap_or_default();
    Ok(Abilities {
        version: u32::try_from(number).unwrap_or(0),
        track_memory: features.mem_track.unwrap_or(false),
        lazy_pages: features.lazy_pages.unwrap_or(false),
    })
}

fn base_options(images: &File, log: &str) -> Options {
    Options {
        images_dir_fd: images.as_raw_fd(),
        log_level: Some(2),
        log_file: Some(log.into()),
        manage_cgroups_mode: Some(CGROUPS_IGNORE),
        ..Options::default()
    }
}

impl Dump<'_> {
    fn options(&self, images: &File, log: &str) -> Options {
        let ps = PageServer { fd: Some(PAGES_FD) };
        Options {
            pid: Some(self.pid),
            parent_img: self.parent.clone(),
            shell_job: Some(self.shell_job),
            tcp_established: Some(self.tcp_established),
            ghost_limit: Some(GHOST_LIMIT),
            link_remap: Some(true),
            ps: (!self.lazy).then_some(ps),
            lazy_pages: self.lazy.then_some(true),
            leave_stopped: self.lazy.then_some(true),
            ..base_options(images, log)
        }
    }

    /// For lazy memory the RPC takes no descriptor, but CRIU's configuration file does.
    fn configuration(&self) -> Result<Option<String>, Problem> {
        if !self.lazy {
            return Ok(None);
        }
        let path = self.images.join("criu.conf");
        fs::write(&path, format!("ps-socket {PAGES_FD}\n"))?;
        let path = path.into_os_string().into_string();
        path.map(Some).map_err(|path| {
            Problem::plain(format!(
                "{}: a path for CRIU must be UTF-8",
                path.to_string_lossy()
            ))
        })
    }

    /// Copies memory while the tree runs, and notes from then on what it writes. `moved` hears how many bytes have moved.
    pub fn pre_dump(self, moved: &mut dyn FnMut(u64)) -> Result<(), Problem> {
        let images = File::open(self.images)?;
        let log = "pre-dump.log";
        let options = Options {
            track_mem: Some(true),
            ..self.options(&images, log)
        };
        let request = Request {
            kind: kind::SINGLE_PRE_DUMP,
            opts: Some(options),
            ..Request::default()
        };
        let log = self.images.join(log);
        let patience = Some(Patience {
            moved: self.moved,
            limit: STALL_LIMIT,
        });
        Worker::start_dump(self.pages)?.run(
            &request,
            "copy the memory",
            &log,
            patience,
            &mut |told| {
                if let Told::Moved(bytes) = told {
                    moved(bytes);
                }
                Ok(())
            },
        )?;
        Ok(())
    }

    /// Freezes the tree and dumps it; when all images are written, `told` decides: if it is content, the tree is killed (if lazy:
    /// stopped, once the stream of pages has ended); if not, the tree runs on, as after any other error.
    pub fn dump(self, told: &mut dyn FnMut(Dumping) -> Result<(), Problem>) -> Result<(), Problem> {
        let images = File::open(self.images)?;
        let log = "dump.log";
        let options = Options {
            notify_scripts: Some(true),
            track_mem: Some(self.parent.is_some()),
            config_file: self.configuration()?,
            ..self.options(&images, log)
        };
        let request = Request {
            kind: kind::DUMP,
            opts: Some(options),
            ..Request::default()
        };
        let log = self.images.join(log);
        let mut notified = |it: Told<'_>| match it {
            Told::Asks(DUMPED) => told(Dumping::Written),
            Told::Asks(_) => Ok(()),
            Told::Moved(bytes) => told(Dumping::Moved(bytes)),
        };
        let patience = Some(Patience {
            moved: self.moved,
            limit: STALL_LIMIT,
        });
        Worker::start_dump(self.pages)?.run(
            &request,
            "dump the process",
            &log,
            patience,
            &mut notified,
        )?;
        Ok(())
    }
}

/// How a tree is restored.
#[derive(Debug)]
pub struct Restore<'a> {
    /// The images.
    pub images: &'a Path,
    /// As for the dump.
    pub shell_job: bool,
    /// As for the dump.
    pub tcp_established: bool,
    /// Where to put what is restored.
    pub cgroup: &'a Path,
    /// A [`LazyPages`] for these images is at work.
    pub lazy: bool,
    /// It gets namespaces of its own ([`first`]), and this is its root.
    pub child: Option<i32>,
}

impl Restore<'_> {
    /// Makes the tree; when all of it is there, `restored` decides: it runs if that is content, and is killed if not.
    pub fn restore(
        self,
        restored: &mut dyn FnMut() -> Result<(), Problem>,
    ) -> Result<Made, Problem> {
        let images = File::open(self.images)?;
        let log = "restore.log";
        let mut options = Options {
            shell_job: Some(self.shell_job),
            tcp_established: Some(self.tcp_established),
            notify_scripts: Some(true),
            lazy_pages: self.lazy.then_some(true),
            ..base_options(&images, log)
        };
        if self.child.is_some() {
            // From within its namespace CRIU does not see this process, whose descriptor it would be. A path has to be a link.
            let link = self.images.with_extension("link");
            std::os::unix::fs::symlink(self.images, &link)?;
            options.images_dir_fd = -1;
            options.images_dir = Some(link.to_string_lossy().into_owned());
        }
        let request = Request {
            kind: kind::RESTORE,
            opts: Some(options),
            ..Request::default()
        };
        let log = self.images.join(log);
        let mut notified = |told: Told<'_>| match told {
            Told::Asks("post-restore") => restored(),
            _ => Ok(()),
        };
        let mut worker = match self.child {
            Some(root) => Worker::start_by(first::criu(root, self.cgroup), None)?,
            None => Worker::start()?,
        };
        // It waits for its request: all that it makes will be in the cgroup.
        if let Some(child) = &worker.child {
            fs::write(self.cgroup.join("cgroup.procs"), child.id().to_string())?;
        }
        let response = worker.run(&request, "restore the process", &log, None, &mut notified);
        if response.is_err() && self.child.is_some() {
            // If CRIU was killed, what it has made of a child waits for it for ever, and who is around it for them.
            fs::write(self.cgroup.join("cgroup.kill"), "1")?;
        }
        let response = response?;
        Ok(Made {
            pid: response.restore.unwrap_or_default().pid,
            outside: worker.child.take_if(|_| self.child.is_some()),
        })
    }
}

/// What has been restored.
#[derive(Debug)]
pub struct Made {
    /// The tree's root, as it is called in its namespace.
    pub pid: i32,
    /// Of a child: what to give to [`first::status`].
    pub outside: Option<Child>,
}

/// Starts CRIU in a mode of its own command line, with `pages` as its descriptor [`PAGES_FD`].
fn start_mode(
    mode: &str,
    arguments: &[&str],
    images: &Path,
    pages: UnixStream,
) -> Result<Mode, Problem> {
    let log = format!("{mode}.log");
    let mut command = Command::new(PROGRAM);
    command
        .args([mode, "-v2", "--log-file", &log, "--images-dir"])
        .arg(images)
        .arg("--work-dir")
        .arg(images)
        .args(["--ps-socket", &PAGES_FD.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mapping = FdMapping {
        parent_fd: pages.into(),
        child_fd: PAGES_FD,
    };
    command
        .fd_mappings(vec![mapping])
        .map_err(|_| Problem::plain("the descriptors for CRIU collide, which should not happen"))?;
    Ok(Mode {
        child: spawn(&mut command)?,
        log: images.join(log),
    })
}

/// A CRIU that was started by its command line.
#[derive(Debug)]
struct Mode {
    child: Child,
    log: PathBuf,
}

impl Mode {
    fn ended(&self, status: ExitStatus, what: &str) -> Result<(), Problem> {
        if status.success() {
            Ok(())
        } else {
            Err(Problem::plain(format!(
                "CRIU's {what} failed: {}",
                reasons(&self.log)
            )))
        }
    }
}

impl Drop for Mode {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A page server: what comes through `pages` goes to `images`.
#[derive(Debug)]
pub struct Receiver(Mode);

impl Receiver {
    /// Starts it. `parent`: the directory of the round before, relative to `images`.
    pub fn start(
        images: &Path,
        parent: Option<&str>,
        pages: UnixStream,
    ) -> Result<Receiver, Problem> {
        let parent = parent.map(|parent| ["--prev-images-dir", parent]);
        let arguments = parent.iter().flatten().copied().collect::<Vec<_>>();
        start_mode("page-server", &arguments, images, pages).map(Receiver)
    }

    /// Waits until all pages are there.
    pub fn finish(mut self) -> Result<(), Problem> {
        let status = self.0.child.wait()?;
        self.0.ended(status, "page server")
    }
}

/// Gives pages to a tree that has been restored without them: those that it touches first, and in time all.
#[derive(Debug)]
pub struct LazyPages(Mode);

/// It listens within this, for the restore to come.
const LISTEN_LIMIT: Duration = Duration::from_secs(30);

impl LazyPages {
    /// Starts it; `pages` leads to the dump. `cgroup`: that of the tree. Until the restore has come to it, it does not notice that it is alone:
    /// if this process is killed, it ends together with the tree.
    pub fn start(images: &Path, pages: UnixStream, cgroup: &Path) -> Result<LazyPages, Problem> {
        let mut mode = start_mode("lazy-pages", &["--page-server"], images, pages)?;
        fs::write(cgroup.join("cgroup.procs"), mode.child.id().to_string())?;
        let until = Instant::now() + LISTEN_LIMIT;
        while !images.join("lazy-pages.socket").exists() {
            if let Some(status) = mode.child.try_wait()? {
                mode.ended(status, "lazy pages")?;
            }
            if Instant::now() > until {
                return Err(Problem::plain(format!(
                    "CRIU's lazy pages do not listen within {} s",
                    LISTEN_LIMIT.as_secs()
                )));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(LazyPages(mode))
    }

    /// Whether all pages have been given out.
    pub fn is_done(&mut self) -> Result<bool, Problem> {
        match self.0.child.try_wait()? {
            Some(status) => self.0.ended(status, "lazy pages").map(|()| true),
            None => Ok(false),
        }
    }
}

/// A pair of sockets: one end for CRIU, the other for us.
pub fn pages_socket() -> io::Result<(UnixStream, UnixStream)> {
    UnixStream::pair()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stalls(patience: Duration, moves: bool) -> (Duration, String) {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & wait"]).process_group(0);
        let worker = Worker::start_by(command, None).unwrap();
        let moved = Count::default();
        let mover = moved.clone();
        let moving = thread::spawn(move || {
            for _ in 0..if moves { 10 } else { 0 } {
                thread::sleep(patience / 2);
                mover.add(1);
            }
        });
        let begun = Instant::now();
        let patience = Some(Patience {
            moved: &moved,
            limit: patience,
        });
        let mut silent = |_: Told<'_>| Ok(());
        let request = Request::default();
        let said = worker.run(&request, "try", Path::new(""), patience, &mut silent);
        let lasted = begun.elapsed();
        let group = Pid::from_child(worker.child.as_ref().unwrap());
        // Waits for the shell; its child ends by the same signal.
        drop(worker);
        let until = Instant::now() + Duration::from_secs(10);
        while rustix::process::test_kill_process_group(group).is_ok() {
            assert!(Instant::now() < until, "what it started is still there");
            thread::sleep(Duration::from_millis(5));
        }
        moving.join().unwrap();
        (lasted, said.unwrap_err().to_string())
    }

    #[test]
    fn a_worker_that_does_not_get_on_is_ended_with_all_that_it_started() {
        let (_, said) = stalls(Duration::from_millis(100), false);
        assert!(said.contains("did not get on"), "{said}");
    }

    #[test]
    fn one_that_moves_memory_gets_on() {
        let limit = Duration::from_secs(1);
        let (lasted, _) = stalls(limit, true);
        assert!(lasted > limit * 4, "{lasted:?}");
    }
}
