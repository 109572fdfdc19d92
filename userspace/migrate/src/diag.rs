// SPDX-License-Identifier: GPL-2.0

//! Which Unix sockets are connected with each other, as the kernel tells by netlink (sock_diag(7)); /proc does not say.

use std::{collections::HashMap, io};

use prost::bytes::{Buf, BufMut};
use rustix::{
    io::retry_on_intr,
    net::{
        netlink, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags, SocketFlags,
        SocketType,
    },
};

/// Of linux/netlink.h, linux/sock_diag.h and linux/unix_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const AF_UNIX: u8 = 1;
const UDIAG_SHOW_NAME: u32 = 1;
const UDIAG_SHOW_PEER: u32 = 4;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_PEER: u16 = 2;

/// Bytes before the body of a message, and before the attributes in it.
const HEADER: usize = 16;
const UNIX_DIAG_MSG: usize = 16;

/// The kernel's messages are no longer than this.
const MAX_MESSAGES: usize = 64 << 10;

/// A Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnixSocket {
    /// The inode of the socket at its other end, if it is connected.
    pub(crate) peer: Option<u64>,
    /// What it is bound to, for people.
    pub(crate) name: Option<String>,
}

/// All of this network namespace, by inode.
pub(crate) fn unix_sockets() -> io::Result<HashMap<u64, UnixSocket>> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let mut request = Vec::new();
    // nlmsghdr: length, type, flags, sequence number, port.
    request.put_u32_ne(40);
    request.put_u16_ne(SOCK_DIAG_BY_FAMILY);
    request.put_u16_ne(NLM_F_REQUEST | NLM_F_DUMP);
    request.put_u32_ne(1);
    request.put_u32_ne(0);
    // unix_diag_req: family, protocol, padding, states, inode, what to show, cookie.
    request.put_slice(&[AF_UNIX, 0, 0, 0]);
    request.put_u32_ne(!0);
    request.put_u32_ne(0);
    request.put_u32_ne(UDIAG_SHOW_NAME | UDIAG_SHOW_PEER);
    request.put_slice(&[0; 8]);
    send(&socket, &request, SendFlags::empty())?;
    let mut found = HashMap::new();
    let mut buffer = vec![0; MAX_MESSAGES];
    loop {
        let (_, length) = retry_on_intr(|| recv(&socket, &mut buffer[..], RecvFlags::empty()))?;
        let messages = buffer.get(..length).unwrap_or_default();
        if length == 0 || parse(messages, &mut found)? {
            return Ok(found);
        }
    }
}

/// Splits a part of so many bytes, padded to a multiple of 4, off the front.
fn split<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let part = bytes.get(..length)?;
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some(part)
}

/// Adds the sockets of some messages; whether the last one was among them.
fn parse(mut messages: &[u8], found: &mut HashMap<u64, UnixSocket>) -> io::Result<bool> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed netlink message");
    while !messages.is_empty() {
        let length = (&mut &messages[..])
            .try_get_u32_ne()
            .map_err(|_| malformed())?;
        let message = split(&mut messages, length as usize).ok_or_else(malformed)?;
        let body = message.get(HEADER..).ok_or_else(malformed)?;
        let kind = (&message[4..]).get_u16_ne();
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let errno = (&mut &body[..]).try_get_i32_ne().map_err(|_| malformed())?;
                return Err(io::Error::from_raw_os_error(-errno));
            }
            SOCK_DIAG_BY_FAMILY => {
                let (inode, socket) = parse_socket(body).ok_or_else(malformed)?;
                found.insert(inode, socket);
            }
            _ => {}
        }
    }
    Ok(false)
}

/// A `unix_diag_msg` and its attributes.
fn parse_socket(body: &[u8]) -> Option<(u64, UnixSocket)> {
    let inode = body.get(4..)?.try_get_u32_ne().ok()?;
    let mut attributes = body.get(UNIX_DIAG_MSG..)?;
    let mut socket = UnixSocket::default();
    while !attributes.is_empty() {
        let length = (&mut &attributes[..]).try_get_u16_ne().ok()?;
        let attribute = split(&mut attributes, usize::from(length))?;
        let mut value = attribute.get(4..)?;
        match (&attribute[2..]).get_u16_ne() {
            // 0: it is still in the queue of one that listens.
            UNIX_DIAG_PEER => {
                socket.peer =
                    Some(u64::from(value.try_get_u32_ne().ok()?)).filter(|peer| *peer != 0);
            }
            UNIX_DIAG_NAME => socket.name = Some(shown(value)),
            _ => {}
        }
    }
    Some((u64::from(inode), socket))
}

/// A name as people write it: with @ if it is an abstract one.
fn shown(name: &[u8]) -> String {
    match name.strip_prefix(b"\0") {
        Some(rest) => format!("@{}", String::from_utf8_lossy(rest)),
        None => String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixDatagram, UnixStream},
    };

    use super::*;

    fn inode(fd: BorrowedFd<'_>) -> u64 {
        rustix::fs::fstat(fd).unwrap().st_ino
    }

    #[test]
    fn the_other_end_and_the_name() {
        let (one, other) = UnixStream::pair().unwrap();
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("socket");
        let bound = UnixDatagram::bind(&path).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(&path).unwrap();
        let all = match unix_sockets() {
            Ok(all) => all,
            // A kernel without UNIX_DIAG.
            Err(error) => return eprintln!("not tried: {error}"),
        };
        assert_eq!(all[&inode(one.as_fd())].peer, Some(inode(other.as_fd())));
        assert_eq!(all[&inode(sender.as_fd())].peer, Some(inode(bound.as_fd())));
        let name = all[&inode(bound.as_fd())].name.as_deref();
        assert_eq!(name, path.to_str());
    }

    #[test]
    fn short_messages_are_errors() {
        let mut found = HashMap::new();
        for length in [0u32, 3, 15, 17, 1000] {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend([0; 12]);
            assert!(parse(&bytes, &mut found).is_err(), "{length}");
        }
        assert!(found.is_empty());
    }
}
