// SPDX-License-Identifier: MIT

//! Children on other nodes.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{fstat, open, FileType, Mode, OFlags},
    io::{retry_on_intr, Errno},
    pipe::{pipe_with, PipeFlags},
    process::{
        getpid, kill_process, pidfd_open, pidfd_send_signal, setsid, waitpid, Pid, PidfdFlags,
        Signal, WaitOptions,
    },
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
};

use crate::protocol::{self, Reply, Request};

/// Which of the two continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The caller, with the child's number.
    Parent(i32),
    /// The child, on the other node.
    Child,
}

/// The child tells its number, or a negative errno, as bytes of an `i32`.
const REPORT: usize = size_of::<i32>();

/// Forks onto the node at an address. Returns in the parent when the child runs there. Errors: as `vremote_fork` in
/// [`crate::c`].
///
/// As after fork(2), a child of a program with several threads has only the calling one.
pub fn fork(to: Ipv4Addr) -> io::Result<Who> {
    fork_by(Path::new(protocol::SOCKET), to)
}

/// The same, by the daemon that listens at `daemon`.
pub fn fork_by(daemon: &Path, to: Ipv4Addr) -> io::Result<Who> {
    // Before anything is made. The child must not have it: made anew below.
    drop(connect(daemon)?);
    let Some(child) = stopped_child()? else {
        return Ok(Who::Child);
    };
    let moved = connect(daemon).and_then(|socket| {
        protocol::send(&socket, &Request::Fork { to }, Some(child.as_fd()))?;
        match outcome(&socket)? {
            Reply::Child(number) => Ok(Who::Parent(number)),
            _ => Err(Errno::PROTO.into()),
        }
    });
    if moved.is_err() {
        // It is still stopped, or has been killed.
        let _ = pidfd_send_signal(&child, Signal::KILL);
    }
    moved
}

/// Waits for the end of a child; without `block` gives `None` if it has not ended. Its status is as of waitpid(2); it is told once.
pub fn wait(child: i32, block: bool) -> io::Result<Option<i32>> {
    wait_by(Path::new(protocol::SOCKET), child, block)
}

/// The same, by the daemon that listens at `daemon`.
pub fn wait_by(daemon: &Path, child: i32, block: bool) -> io::Result<Option<i32>> {
    let socket = connect(daemon)?;
    protocol::send(&socket, &Request::Wait { child, block }, None)?;
    let status = match answer(&socket) {
        Ok(Reply::Ended(status)) => Ok(Some(status)),
        Ok(Reply::Running) => return Ok(None),
        Ok(_) => return Err(Errno::PROTO.into()),
        // The child is lost: that is told once, as well.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::HOSTUNREACH) => Err(error),
        Err(error) => return Err(error),
    };
    // From here on it is this call that gives it, unless another thread's was first.
    if protocol::send(&socket, &Request::Taken, None).is_ok() {
        match outcome(&socket) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::CHILD) => return Err(error),
            // If the daemon has ended, nobody tells it again.
            _ => {}
        }
    }
    status
}

/// Sends a child a signal; 0 only asks whether it runs.
pub fn kill(child: i32, signal: i32) -> io::Result<()> {
    let socket = connect(Path::new(protocol::SOCKET))?;
    protocol::send(&socket, &Request::Kill { child, signal }, None)?;
    match outcome(&socket)? {
        Reply::Done => Ok(()),
        _ => Err(Errno::PROTO.into()),
    }
}

fn connect(daemon: &Path) -> io::Result<OwnedFd> {
    protocol::connect(daemon).map_err(|error| match error.kind() {
        // Nobody is there, or was when the socket was made.
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Errno::HOSTDOWN.into(),
        _ => error,
    })
}

fn answer(socket: &OwnedFd) -> io::Result<Reply> {
    match protocol::receive(socket) {
        Ok((Reply::Failed { errno, .. }, _)) => Err(io::Error::from_raw_os_error(errno)),
        Ok((reply, _)) => Ok(reply),
        // The daemon has ended in the middle.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(Errno::HOSTDOWN.into()),
        Err(error) => Err(error),
    }
}

/// As [`answer`], whatever signals the program takes meanwhile: the daemon does what it was asked, and the caller has to know.
fn outcome(socket: &OwnedFd) -> io::Result<Reply> {
    loop {
        match answer(socket) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// Makes a child that has stopped itself, or is about to; gives its pidfd. `None`: this is the child, continued.
fn stopped_child() -> io::Result<Option<OwnedFd>> {
    let (reports, report) = pipe_with(PipeFlags::CLOEXEC)?;
    let Some(between) = fork_here()? else {
        // From here on nothing but system calls: of the program's other threads, one may have held any lock.
        drop(reports);
        match fork_here() {
            Ok(None) => {}
            Ok(Some(_)) => leave(),
            Err(error) => {
                tell(&report, -error.raw_os_error());
                leave();
            }
        }
        match make_movable() {
            Ok(()) => tell(&report, getpid().as_raw_pid()),
            Err(error) => {
                tell(&report, -error.raw_os_error());
                leave();
            }
        }
        drop(report);
        // A process may always stop itself. It is continued on the other node.
        let _ = kill_process(getpid(), Signal::STOP);
        return Ok(None);
    };
    drop(report);
    let mut bytes = [0; REPORT];
    let read = File::from(reports).read_exact(&mut bytes);
    // It ends right after the second fork. If somebody in the program waits for any child, that is noticed there.
    match retry_on_intr(|| waitpid(Some(between), WaitOptions::empty())) {
        Ok(_) | Err(Errno::CHILD) => {}
        Err(error) => return Err(error.into()),
    }
    read.map_err(|_| Errno::AGAIN)?;
    let number = i32::from_ne_bytes(bytes);
    match Pid::from_raw(number) {
        Some(pid) if number > 0 => Ok(Some(pidfd_open(pid, PidfdFlags::empty())?)),
        _ => Err(io::Error::from_raw_os_error(-number)),
    }
}

/// fork(2); `None` in the child.
fn fork_here() -> Result<Option<Pid>, Errno> {
    // SAFETY: what runs in the child until it returns to the program is only system calls, see its callers; from there on it is what
    // the program would have with a fork of its own.
    match unsafe { libc::fork() } {
        -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::AGAIN)),
        0 => Ok(None),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Ends a process without what the program does at its end.
fn leave() -> ! {
    // SAFETY: it does nothing but end this process, which is a copy of the program's.
    unsafe { libc::_exit(0) }
}

fn tell(report: impl AsFd, number: i32) {
    // So few bytes are written at once. Without them the reader sees the end.
    let _ = rustix::io::write(report, &number.to_ne_bytes());
}

/// Takes away what ties this process to the node that it is on.
fn make_movable() -> Result<(), Errno> {
    setsid()?;
    let null = open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    if has_other_end(rustix::stdio::stdin()) {
        dup2_stdin(&null)?;
    }
    if has_other_end(rustix::stdio::stdout()) {
        dup2_stdout(&null)?;
    }
    if has_other_end(rustix::stdio::stderr()) {
        dup2_stderr(&null)?;
    }
    Ok(())
}

/// Whether it is a terminal, a pipe or a socket, and not closed.
fn has_other_end(descriptor: BorrowedFd<'_>) -> bool {
    let kind = fstat(descriptor).map(|stat| FileType::from_raw_mode(stat.st_mode));
    match kind {
        Ok(FileType::Socket | FileType::Fifo) => true,
        Ok(FileType::CharacterDevice) => rustix::termios::isatty(descriptor),
        _ => false,
    }
}
