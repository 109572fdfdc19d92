// SPDX-License-Identifier: MIT

//! Waits, by a daemon that has no children but says what it is to say.

use std::thread;

use rustix::{
    io::Errno,
    net::{accept, bind, listen, socket, AddressFamily, SocketAddrUnix, SocketType},
};
use vremote::{
    fork::wait_by,
    protocol::{receive, send, Reply, Request},
};

#[test]
fn an_end_is_taken() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("fork.sock");
    let daemon = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    bind(&daemon, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&daemon, 8).unwrap();
    let lost = Reply::Failed {
        errno: Errno::HOSTUNREACH.raw_os_error(),
        why: "it is so".into(),
    };
    let replies = [Reply::Ended(7), Reply::Ended(7), lost, Reply::Running];
    let served = replies.clone();
    let serve = thread::spawn(move || {
        for (round, reply) in served.into_iter().enumerate() {
            let program = accept(&daemon).unwrap();
            let (request, _) = receive::<Request>(&program).unwrap();
            assert!(matches!(request, Request::Wait { child: 5, .. }));
            send(&program, &reply, None).unwrap();
            if reply == Reply::Running {
                continue;
            }
            assert_eq!(receive::<Request>(&program).unwrap().0, Request::Taken);
            // In the second round another thread was first.
            let taken = if round == 1 {
                Reply::Failed {
                    errno: Errno::CHILD.raw_os_error(),
                    why: "it is so".into(),
                }
            } else {
                Reply::Done
            };
            send(&program, &taken, None).unwrap();
        }
    });
    let errno = |waited: std::io::Result<Option<i32>>| Errno::from_io_error(&waited.unwrap_err());
    assert_eq!(wait_by(&path, 5, true).unwrap(), Some(7));
    assert_eq!(errno(wait_by(&path, 5, true)), Some(Errno::CHILD));
    assert_eq!(errno(wait_by(&path, 5, true)), Some(Errno::HOSTUNREACH));
    assert_eq!(wait_by(&path, 5, false).unwrap(), None);
    serve.join().unwrap();
}
