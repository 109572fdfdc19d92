// SPDX-License-Identifier: GPL-2.0

//! The daemon's side of `vremote_fork()`: moves children of programs of this node, and hears how they end. The protocol is
//! [`vremote::protocol`].

use std::{
    collections::HashMap,
    fs,
    io::{self, ErrorKind},
    net::Ipv4Addr,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    io::Errno,
    net::{
        accept_with, bind, listen, socket_with, sockopt, AddressFamily, SocketAddrUnix,
        SocketFlags, SocketType, UCred,
    },
};
use vremote::protocol::{receive, send, Reply, Request, SOCKET};
use vremote_channel::{Channel, Node};

use crate::{
    problem::Problem,
    protocol::{Answer, End, Name, Opening},
    source::{Move, Order},
    target::out_of_order,
};

/// Programs that are served at once.
const MAX_PROGRAMS: usize = 256;

/// Children at once, those included whose parents have not asked for their end.
const MAX_CHILDREN: usize = 4096;

/// A program's request comes within this.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// A child that has told its number stops within this.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How often it is looked at until then.
const STOP_PAUSE: Duration = Duration::from_millis(2);

/// How often a waiting program is looked at: it may have thought better of it.
const LOOK_PAUSE: Duration = Duration::from_millis(250);

/// Before a node that does not answer is asked again.
const ASK_PAUSE: Duration = Duration::from_secs(2);

/// Programs that wait to be accepted.
const BACKLOG: i32 = 64;

/// A refusal: an errno and the reason.
type Refusal = (Errno, String);

/// A process: its number, and when it was started, in ticks since boot; the two together are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Program {
    pid: i32,
    started: u64,
}

/// A child of a program.
#[derive(Clone, Debug)]
struct Child {
    node: String,
    name: Name,
    end: End,
}

/// All children, by their parents and by what these call them.
#[derive(Debug, Default)]
struct Family {
    children: Mutex<HashMap<(Program, i32), Child>>,
    changed: Condvar,
}

/// What every request needs.
struct Service {
    node: Node,
    family: Family,
}

/// Starts to serve.
pub(crate) fn serve(node: Node) -> Result<(), Problem> {
    let failed = |error: io::Error| Problem::plain(format!("{SOCKET}: {error}"));
    let socket = listening().map_err(failed)?;
    let service = Arc::new(Service {
        node,
        family: Family::default(),
    });
    let served = Arc::new(AtomicUsize::new(0));
    let serve = move || loop {
        let Ok(program) = accept_with(&socket, SocketFlags::CLOEXEC) else {
            thread::sleep(LOOK_PAUSE);
            continue;
        };
        if served.fetch_add(1, Relaxed) >= MAX_PROGRAMS {
            served.fetch_sub(1, Relaxed);
            continue;
        }
        let (service, count) = (service.clone(), served.clone());
        let answer = move || {
            // Who does not keep to the protocol, or has gone, gets nothing.
            let _ = answer(&service, &program);
            count.fetch_sub(1, Relaxed);
        };
        if thread::Builder::new()
            .name("program".into())
            .spawn(answer)
            .is_err()
        {
            served.fetch_sub(1, Relaxed);
        }
    };
    thread::Builder::new().name("fork".into()).spawn(serve)?;
    Ok(())
}

/// The socket, for all users.
fn listening() -> io::Result<OwnedFd> {
    match fs::remove_file(SOCKET) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    bind(&socket, &SocketAddrUnix::new(SOCKET)?)?;
    fs::set_permissions(SOCKET, fs::Permissions::from_mode(0o666))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn answer(service: &Arc<Service>, socket: &OwnedFd) -> io::Result<()> {
    let asker = sockopt::socket_peercred(socket)?;
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(REQUEST_LIMIT))?;
    let (request, descriptor) = receive::<Request>(socket)?;
    let pid = asker.pid.as_raw_pid();
    // It waits for the answer; if it does not, whoever has its number now has no children.
    let started = Stat::of(pid).ok_or(Errno::SRCH)?.started;
    let program = Program { pid, started };
    let reply = match request {
        Request::Fork { to } => match descriptor {
            Some(pidfd) => service.fork(program, asker, to, &pidfd),
            None => Err((Errno::BADF, "no descriptor of a child came along".into())),
        },
        Request::Wait { child, block } => return service.wait((program, child), block, socket),
        Request::Kill { child, signal } => service.kill((program, child), signal),
    };
    let reply = reply.unwrap_or_else(|(errno, why)| {
        eprintln!(
            "vremoted: process {pid} of user {}: {request:?}: {why}",
            asker.uid.as_raw()
        );
        Reply::Failed {
            errno: errno.raw_os_error(),
            why,
        }
    });
    send(socket, &reply, None)
}

impl Family {
    /// A panic in another thread leaves the map whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<(Program, i32), Child>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets children whose parents are no more.
    fn forget_orphans(&self) {
        self.lock().retain(|(parent, _), _| parent.is_there());
    }
}

impl Program {
    fn is_there(&self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.started == self.started)
    }
}

impl Service {
    fn fork(
        self: &Arc<Self>,
        parent: Program,
        asker: UCred,
        to: Ipv4Addr,
        pidfd: &OwnedFd,
    ) -> Result<Reply, Refusal> {
        let peer = self
            .node
            .peer_at(to)
            .map_err(|error| (Errno::HOSTUNREACH, error.to_string()))?;
        self.node
            .key(&peer)
            .map_err(|error| (Errno::ACCESS, error.to_string()))?;
        let child = number(pidfd).ok_or((
            Errno::SRCH,
            "the descriptor is no pidfd of a process that runs".into(),
        ))?;
        may_move(&asker, child)?;
        self.family.forget_orphans();
        {
            let children = self.family.lock();
            if children.len() >= MAX_CHILDREN {
                return Err((
                    Errno::AGAIN,
                    format!("programs of this node have {MAX_CHILDREN} children already"),
                ));
            }
            if children.contains_key(&(parent, child)) {
                return Err((
                    Errno::AGAIN,
                    format!("process {} has a child {child} already", parent.pid),
                ));
            }
        }
        wait_until_stopped(child)?;
        let order = Order {
            pid: child,
            address: to,
            mode: None,
            tcp_established: false,
            child: true,
        };
        let prepared =
            Move::prepare(&order).map_err(|problem| (Errno::HOSTUNREACH, problem.to_string()))?;
        let blockers = prepared.report().blockers;
        if !blockers.is_empty() {
            let blockers: Vec<_> = blockers.iter().map(ToString::to_string).collect();
            return Err((Errno::BUSY, blockers.join("; ")));
        }
        let moved = prepared.run(&mut |_| {}).map_err(|failure| {
            let problem = failure.problem;
            // What CRIU finds no sooner than in the dump is something of the child's, too.
            let errno = if problem.what.starts_with("CRIU could not dump") {
                Errno::BUSY
            } else {
                Errno::IO
            };
            (errno, problem.to_string())
        })?;
        let name = Name::try_from(moved.job).map_err(|why| (Errno::IO, why.into()))?;
        let record = Child {
            node: moved.node,
            name,
            end: End::Runs,
        };
        self.family.lock().insert((parent, child), record.clone());
        let service = self.clone();
        let follow = move || service.follow((parent, child), &record);
        let followed = thread::Builder::new().name("follow".into()).spawn(follow);
        followed.map_err(|error| (Errno::AGAIN, error.to_string()))?;
        Ok(Reply::Child(child))
    }

    /// Asks a child's node until it has ended, or nobody is interested any more.
    fn follow(&self, id: (Program, i32), child: &Child) {
        while id.0.is_there() {
            match self.ask(
                &child.node,
                &Opening::End {
                    name: child.name.clone(),
                },
            ) {
                Ok(Answer::Ended(End::Runs)) => {}
                Ok(Answer::Ended(end)) => {
                    if let Some(child) = self.family.lock().get_mut(&id) {
                        child.end = end;
                    }
                    self.family.changed.notify_all();
                    return;
                }
                Ok(_) | Err(_) => thread::sleep(ASK_PAUSE),
            }
        }
        self.family.lock().remove(&id);
    }

    fn ask(&self, node: &str, opening: &Opening) -> Result<Answer, Problem> {
        let mut channel = Channel::connect(&self.node, &self.node.peer(node)?)?;
        channel.writer.send(opening)?;
        channel.reader.receive()?.ok_or_else(out_of_order)
    }

    fn wait(&self, id: (Program, i32), block: bool, socket: &OwnedFd) -> io::Result<()> {
        let failed = |errno: Errno, why: &str| Reply::Failed {
            errno: errno.raw_os_error(),
            why: why.into(),
        };
        let mut children = self.family.lock();
        let reply = loop {
            match children.get(&id).map(|child| child.end) {
                None => break failed(Errno::CHILD, "it has no such child"),
                Some(End::Ended(status)) => break Reply::Ended(status),
                Some(End::Unknown) => {
                    break failed(
                        Errno::HOSTUNREACH,
                        "the child's node does not know it any more",
                    )
                }
                Some(End::Runs) if !block => break Reply::Running,
                Some(End::Runs) => {}
            }
            let waited = self.family.changed.wait_timeout(children, LOOK_PAUSE);
            (children, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if has_gone(socket) {
                return Ok(());
            }
        };
        let ended = !matches!(reply, Reply::Running);
        send(socket, &reply, None)?;
        if ended {
            children.remove(&id);
        }
        Ok(())
    }

    fn kill(&self, id: (Program, i32), signal: i32) -> Result<Reply, Refusal> {
        let none = || (Errno::SRCH, "it has no such child that runs".to_string());
        let child = self
            .family
            .lock()
            .get(&id)
            .filter(|child| child.end == End::Runs)
            .cloned()
            .ok_or_else(none)?;
        let opening = Opening::Signal {
            name: child.name,
            child: id.1,
            signal,
        };
        match self.ask(&child.node, &opening) {
            Ok(Answer::Signalled(Ok(()))) => Ok(Reply::Done),
            Ok(Answer::Signalled(Err(errno))) => {
                let errno = Errno::from_raw_os_error(errno);
                Err((errno, errno.to_string()))
            }
            Ok(_) => Err((Errno::PROTO, out_of_order().to_string())),
            Err(problem) => Err((Errno::HOSTUNREACH, problem.to_string())),
        }
    }
}

/// Whether the program at the other end has closed its.
fn has_gone(socket: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(events) if events > 0)
}

/// The process that a pidfd is of.
fn number(pidfd: &OwnedFd) -> Option<i32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    pid.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Only one's own processes, or root.
fn may_move(asker: &UCred, child: i32) -> Result<(), Refusal> {
    let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
    let all_are = |field: &str, id: u32| {
        let ids = status.lines().find_map(|line| line.strip_prefix(field));
        ids.is_some_and(|ids| ids.split_whitespace().all(|one| one == id.to_string()))
    };
    let own = all_are("Uid:", asker.uid.as_raw()) && all_are("Gid:", asker.gid.as_raw());
    if asker.uid.is_root() || own {
        Ok(())
    } else {
        Err((
            Errno::PERM,
            format!("process {child} is not that user's alone"),
        ))
    }
}

/// A child stops itself right after it has told its number.
fn wait_until_stopped(child: i32) -> Result<(), Refusal> {
    let since = Instant::now();
    loop {
        match Stat::of(child).map(|stat| stat.state) {
            Some('T') => return Ok(()),
            None | Some('Z') => return Err((Errno::SRCH, format!("process {child} has ended"))),
            Some(_) if since.elapsed() > STOP_LIMIT => {
                return Err((Errno::BUSY, format!("process {child} does not stop")));
            }
            Some(_) => thread::sleep(STOP_PAUSE),
        }
    }
}

/// What /proc/PID/stat says.
struct Stat {
    state: char,
    started: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Stat> {
        let stat = procfs::process::Process::new(pid).ok()?.stat().ok()?;
        Some(Stat {
            state: stat.state,
            started: stat.starttime,
        })
    }
}
