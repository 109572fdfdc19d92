// SPDX-License-Identifier: MIT

//! Forks, with a daemon that moves nothing: it continues the child where it is.
//!
//! One test per process would be cleaner; here all run in the only test of this file, since children are made.

use std::{
    fs,
    io::{Read, Seek},
    net::Ipv4Addr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{accept, bind, listen, socket, AddressFamily, SocketAddrUnix, SocketType},
    process::{pidfd_send_signal, Signal},
};
use vremote::{
    fork::{fork_by, Who},
    protocol::{receive, send, Reply, Request},
};

/// `Pid:` of a pidfd.
fn number(pidfd: &std::os::fd::OwnedFd) -> i32 {
    let info = fs::read_to_string(format!(
        "/proc/self/fdinfo/{}",
        std::os::fd::AsRawFd::as_raw_fd(pidfd)
    ))
    .unwrap();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .unwrap();
    line.trim().parse().unwrap()
}

/// The letter of its state and its parent, of /proc/PID/stat.
fn stat(pid: i32) -> Option<(String, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = text.rsplit_once(") ")?.1.split(' ');
    Some((words.next()?.into(), words.next()?.parse().ok()?))
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_child_is_made_stopped_and_continued_or_killed() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("fork.sock");
    let here = Ipv4Addr::LOCALHOST;
    let failed = |daemon: &Path| fork_by(daemon, here).unwrap_err();
    assert_eq!(
        Errno::from_io_error(&failed(&path)),
        Some(Errno::HOSTDOWN),
        "no daemon"
    );

    let daemon = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    bind(&daemon, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&daemon, 8).unwrap();
    let (told, tells) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for round in 0.. {
            // Who only looks whether the daemon is there.
            drop(accept(&daemon).unwrap());
            let program = accept(&daemon).unwrap();
            let (request, pidfd) = receive::<Request>(&program).unwrap();
            assert_eq!(request, Request::Fork { to: here });
            let pidfd = pidfd.unwrap();
            let child = number(&pidfd);
            until("the child stops itself", || stat(child).unwrap().0 == "T");
            told.send((child, stat(child).unwrap().1)).unwrap();
            if round == 0 {
                pidfd_send_signal(&pidfd, Signal::CONT).unwrap();
                send(&program, &Reply::Child(child), None).unwrap();
            } else {
                let why = "it is so".into();
                send(
                    &program,
                    &Reply::Failed {
                        errno: Errno::BUSY.raw_os_error(),
                        why,
                    },
                    None,
                )
                .unwrap();
            }
        }
    });

    let mut file = tempfile::tempfile_in(place.path()).unwrap();
    match fork_by(&path, here).unwrap() {
        Who::Child => {
            let own = std::process::id().to_ne_bytes();
            let _ = rustix::io::write(&file, &own);
            // SAFETY: ends the child without what the test harness would do.
            unsafe { libc::_exit(0) };
        }
        Who::Parent(child) => {
            let (seen, parent) = tells.recv().unwrap();
            assert_eq!(seen, child);
            assert_ne!(
                parent,
                std::process::id() as i32,
                "nobody has a child that it does not know of"
            );
            until("the child has run on", || {
                file.metadata().unwrap().len() == 4
            });
            let mut own = [0; 4];
            file.rewind().unwrap();
            file.read_exact(&mut own).unwrap();
            assert_eq!(u32::from_ne_bytes(own) as i32, child, "and knew its number");
        }
    }
    assert_eq!(
        Errno::from_io_error(&failed(&path)),
        Some(Errno::BUSY),
        "what the daemon says"
    );
    let (child, _) = tells.recv().unwrap();
    until("no child is left of a fork that has failed", || {
        stat(child).is_none_or(|(state, _)| state == "Z")
    });
}
