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
        mpsc, Arc, Condvar, Mutex, MutexGuard, PoisonError,
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
    protocol::{Answer, End, Heard, Name, Opening},
    rights::Owner,
    source::{not_own, Move, Order},
    target::out_of_order,
    tree::{descendants, Identity},
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

/// Before a node that does not answer, or has answered at once that a child runs, is asked again.
const ASK_PAUSE: Duration = Duration::from_secs(2);

/// A node answers within this how a child has ended: 20 s, and what the network takes.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Who waits for a child of a node that has not answered for so long is told so. `vremote_wait` documents it.
const SILENT_LIMIT: Duration = Duration::from_secs(60);

/// Programs that wait to be accepted.
const BACKLOG: i32 = 64;

/// A refusal: an errno and the reason.
type Refusal = (Errno, String);

/// A child of a program.
#[derive(Clone, Debug)]
struct Child {
    node: String,
    name: Name,
    end: End,
    /// When its node last said so.
    heard: Instant,
}

/// What a program that waits for a child is told.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// Nothing yet.
    None,
    /// This; it may be told again.
    Now(Reply),
    /// This, for the last time: the child is forgotten when the program has taken it.
    Last(Reply),
}

fn failed(errno: Errno, why: impl Into<String>) -> Reply {
    Reply::Failed {
        errno: errno.raw_os_error(),
        why: why.into(),
    }
}

impl Child {
    /// What there is to tell at this time.
    fn news(&self, block: bool, now: Instant) -> News {
        match self.end {
            End::Ended(status) => News::Last(Reply::Ended(status)),
            End::Unknown => News::Last(failed(
                Errno::HOSTUNREACH,
                format!("{} does not know the child any more", self.node),
            )),
            End::Runs if now.saturating_duration_since(self.heard) > SILENT_LIMIT => {
                News::Now(failed(
                    Errno::HOSTUNREACH,
                    format!(
                        "{} has not answered for {} s: whether the child runs is not known",
                        self.node,
                        SILENT_LIMIT.as_secs()
                    ),
                ))
            }
            End::Runs if block => News::None,
            End::Runs => News::Now(Reply::Running),
        }
    }
}

/// All children, by their parents and by what these call them.
#[derive(Debug, Default)]
struct Family {
    children: Mutex<HashMap<(Identity, i32), Child>>,
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
    let program = Identity::of(pid).ok_or(Errno::SRCH)?;
    let reply = match request {
        Request::Fork { to } => match descriptor {
            Some(pidfd) => service.fork(program, asker, to, &pidfd),
            None => Err((Errno::BADF, "no descriptor of a child came along".into())),
        },
        Request::Wait { child, block } => return service.wait((program, child), block, socket),
        Request::Kill { child, signal } => service.kill((program, child), signal),
        Request::Taken => Err((Errno::PROTO, "nothing was given".into())),
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
    fn lock(&self) -> MutexGuard<'_, HashMap<(Identity, i32), Child>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets children whose parents are no more.
    fn forget_orphans(&self) {
        self.lock().retain(|(parent, _), _| parent.is_there());
    }
}

impl Service {
    fn fork(
        self: &Arc<Self>,
        parent: Identity,
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
        // If the descriptor still has that number after the look, it was the child that was looked at: its user may end it whenever it likes.
        let root = number(pidfd).and_then(Identity::of);
        let root = root.filter(|root| number(pidfd) == Some(root.pid)).ok_or((
            Errno::SRCH,
            "the descriptor is no pidfd of a process that runs".into(),
        ))?;
        let child = root.pid;
        let owner = may_move(parent, &asker, child)?;
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
            root,
            address: to,
            mode: None,
            tcp_established: false,
            child: true,
            owner,
        };
        let prepared = Move::prepare(&order)
            .map_err(|failure| (Errno::HOSTUNREACH, failure.problem.to_string()))?;
        let blockers = prepared.report().blockers;
        if !blockers.is_empty() {
            let blockers: Vec<_> = blockers.iter().map(ToString::to_string).collect();
            return Err((Errno::BUSY, blockers.join("; ")));
        }
        // Before it has left: once it has, there is no way back.
        let (left, has_left) = mpsc::channel::<Child>();
        let service = self.clone();
        let follow = move || {
            if let Ok(record) = has_left.recv() {
                service.follow((parent, child), &record);
            }
        };
        let followed = thread::Builder::new().name("follow".into()).spawn(follow);
        followed.map_err(|error| (Errno::AGAIN, error.to_string()))?;
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
            heard: Instant::now(),
        };
        self.family.lock().insert((parent, child), record.clone());
        let _ = left.send(record);
        Ok(Reply::Child(child))
    }

    /// Asks a child's node until it has ended, or nobody is interested any more.
    fn follow(&self, id: (Identity, i32), child: &Child) {
        while id.0.is_there() {
            let begun = Instant::now();
            match self.ask_end(id, child) {
                Ok(true) => return,
                Ok(false) if begun.elapsed() > ASK_PAUSE => {}
                Ok(false) | Err(_) => thread::sleep(ASK_PAUSE),
            }
        }
        self.family.lock().remove(&id);
    }

    /// Asks a child's node once. Whether it has ended; that node forgets that no sooner than it is kept here.
    fn ask_end(&self, id: (Identity, i32), child: &Child) -> Result<bool, Problem> {
        let mut channel = Channel::connect(&self.node, &self.node.peer(&child.node)?)?;
        channel.reader.set_limit(Some(ANSWER_LIMIT))?;
        let name = child.name.clone();
        channel.writer.send(&Opening::End { name })?;
        let Some(Answer::Ended(end)) = channel.reader.receive()? else {
            return Err(out_of_order());
        };
        if let Some(child) = self.family.lock().get_mut(&id) {
            child.end = end;
            child.heard = Instant::now();
        }
        self.family.changed.notify_all();
        if end != End::Runs {
            // Should that not arrive, it is kept there, until there are many.
            if channel.writer.send(&Heard).is_ok() {
                let _ = channel.writer.finish();
            }
        }
        Ok(end != End::Runs)
    }

    fn ask(&self, node: &str, opening: &Opening) -> Result<Answer, Problem> {
        let mut channel = Channel::connect(&self.node, &self.node.peer(node)?)?;
        channel.writer.send(opening)?;
        channel.reader.receive()?.ok_or_else(out_of_order)
    }

    fn wait(&self, id: (Identity, i32), block: bool, socket: &OwnedFd) -> io::Result<()> {
        let mut children = self.family.lock();
        let news = loop {
            match children.get(&id) {
                None => break News::Now(failed(Errno::CHILD, "it has no such child")),
                Some(child) => match child.news(block, Instant::now()) {
                    News::None => {}
                    news => break news,
                },
            }
            let waited = self.family.changed.wait_timeout(children, LOOK_PAUSE);
            (children, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if has_gone(socket) {
                return Ok(());
            }
        };
        drop(children);
        let reply = match news {
            News::None => return Ok(()),
            News::Now(reply) => return send(socket, &reply, None),
            News::Last(reply) => reply,
        };
        send(socket, &reply, None)?;
        // A signal may have ended the wait in that moment: then it is told to the next one.
        if let (Request::Taken, _) = receive(socket)? {
            let taken = match self.family.lock().remove(&id) {
                Some(_) => Reply::Done,
                None => failed(Errno::CHILD, "it was waited for by another thread"),
            };
            send(socket, &taken, None)?;
        }
        Ok(())
    }

    fn kill(&self, id: (Identity, i32), signal: i32) -> Result<Reply, Refusal> {
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

/// Only one's own processes, or root: all of the child's tree, and again once it is frozen. `None`: any.
fn may_move(program: Identity, asker: &UCred, child: i32) -> Result<Option<Owner>, Refusal> {
    if asker.uid.is_root() {
        return Ok(None);
    }
    let owner = Owner::of(program.pid, asker.uid.as_raw(), asker.gid.as_raw())
        .ok_or((Errno::SRCH, "who asks has ended".to_string()))?;
    let tree = descendants(child).map_err(|problem| (Errno::IO, problem.to_string()))?;
    match owner.foreign(&tree) {
        Some(foreign) => Err((Errno::PERM, not_own(foreign, owner.uid).to_string())),
        None => Ok(Some(owner)),
    }
}

/// A child stops itself right after it has told its number.
fn wait_until_stopped(child: i32) -> Result<(), Refusal> {
    let since = Instant::now();
    loop {
        match state(child) {
            Some('T') => return Ok(()),
            None | Some('Z') => return Err((Errno::SRCH, format!("process {child} has ended"))),
            Some(_) if since.elapsed() > STOP_LIMIT => {
                return Err((Errno::BUSY, format!("process {child} does not stop")));
            }
            Some(_) => thread::sleep(STOP_PAUSE),
        }
    }
}

/// The letter of a process's state in /proc/PID/stat.
fn state(pid: i32) -> Option<char> {
    let process = procfs::process::Process::new(pid).ok()?;
    Some(process.stat().ok()?.state)
}

#[cfg(test)]
mod tests {
    use rustix::net::socketpair;

    use super::*;

    fn child(end: End) -> Child {
        Child {
            node: "b".into(),
            name: Name::new().unwrap(),
            end,
            heard: Instant::now(),
        }
    }

    fn errno(news: &News) -> i32 {
        match news {
            News::Now(Reply::Failed { errno, .. }) | News::Last(Reply::Failed { errno, .. }) => {
                *errno
            }
            news => panic!("no failure: {news:?}"),
        }
    }

    #[test]
    fn who_waits_for_a_silent_node_is_told_so_and_may_wait_again() {
        let child = child(End::Runs);
        let early = child.heard + SILENT_LIMIT;
        assert_eq!(child.news(true, early), News::None);
        assert_eq!(child.news(false, early), News::Now(Reply::Running));
        let late = early + Duration::from_millis(1);
        for block in [true, false] {
            let news = child.news(block, late);
            assert!(matches!(news, News::Now(_)));
            assert_eq!(errno(&news), Errno::HOSTUNREACH.raw_os_error());
        }
        // Heard of once more.
        let heard = Child {
            heard: late,
            ..child
        };
        assert_eq!(heard.news(true, late), News::None);
    }

    #[test]
    fn a_status_is_kept_until_it_is_taken() {
        let place = tempfile::tempdir().unwrap();
        let (peers, keys) = (place.path().join("peers"), place.path().join("keys"));
        let service = Service {
            node: Node::new("a".into(), peers, keys),
            family: Family::default(),
        };
        let id = (Identity::of(std::process::id() as i32).unwrap(), 7);
        service.family.lock().insert(id, child(End::Ended(3)));
        let wait = |take: bool| {
            let (program, daemon) = socketpair(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )
            .unwrap();
            thread::scope(|scope| {
                let served = scope.spawn(|| service.wait(id, true, &daemon).is_ok());
                let (reply, _) = receive::<Reply>(&program).unwrap();
                if reply == Reply::Ended(3) && take {
                    send(&program, &Request::Taken, None).unwrap();
                    assert_eq!(receive::<Reply>(&program).unwrap().0, Reply::Done);
                }
                // A signal, or the end of the program.
                drop(program);
                served.join().unwrap();
                reply
            })
        };
        assert_eq!(wait(false), Reply::Ended(3));
        assert_eq!(wait(true), Reply::Ended(3));
        assert!(
            matches!(wait(true), Reply::Failed { errno, .. } if errno == Errno::CHILD.raw_os_error())
        );
    }

    #[test]
    fn an_end_is_told_for_the_last_time() {
        let now = Instant::now();
        let ended = child(End::Ended(7)).news(true, now + 2 * SILENT_LIMIT);
        assert_eq!(ended, News::Last(Reply::Ended(7)));
        let lost = child(End::Unknown).news(false, now);
        assert!(matches!(lost, News::Last(_)));
        assert_eq!(errno(&lost), Errno::HOSTUNREACH.raw_os_error());
    }
}
