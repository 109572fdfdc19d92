// SPDX-License-Identifier: MIT

//! What a program and the daemon of its node say to each other.
//!
//! A socket of Unix, [`SOCKET`], of type `SOCK_SEQPACKET`: one packet is one message, in the format of the crate `postcard`, at most
//! [`MAX_PACKET`] bytes. The program connects, sends one [`Request`] and gets one [`Reply`]; then the connection ends, but for the end of a
//! child: it is kept until the program has said that it has taken it ([`Request::Taken`]), which is answered once more. The
//! daemon knows who asks by `SO_PEERCRED` and the time at which that process was started, and believes nothing else:
//!
//! - [`Request::Fork`] comes with a descriptor (`SCM_RIGHTS`), a pidfd of the child. Its real, effective, saved and file system
//!   user and group must be the asker's effective ones, and so those of all its threads and descendants, and none may be capable of what the
//!   asker is not, unless that is root (EPERM).
//! - [`Request::Wait`] and [`Request::Kill`] are for the process that has made the child: to all others there is no such
//!   child (`ECHILD`, `ESRCH`).
//!
//! A connection on which the daemon has not received a request within 5 s is closed. The program ends a wait by closing it.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::io::retry_on_intr;
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{de::DeserializeOwned, Deserialize, Serialize};

/// Where the daemon listens for programs of all users.
pub const SOCKET: &str = "/run/vremote/fork.sock";

/// Longest message, in bytes.
pub const MAX_PACKET: usize = 4096;

/// What a program asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Move the stopped child, whose pidfd comes along, to the node at this address, and let it continue there. [`Reply::Child`].
    Fork {
        /// The address of a peer.
        to: Ipv4Addr,
    },
    /// How has the child ended? [`Reply::Ended`]; without `block` also [`Reply::Running`]. `EHOSTUNREACH`: its node does not answer, or does not
    /// know the child any more.
    Wait {
        /// The child.
        child: i32,
        /// Answer when it has ended.
        block: bool,
    },
    /// Send the child a signal. [`Reply::Done`].
    Kill {
        /// The child.
        child: i32,
        /// 0 (only asks whether it runs) to 31; signals for real time are not sent (`EINVAL`).
        signal: i32,
    },
    /// After a reply to [`Request::Wait`] that is told once, on the same connection: it was received. [`Reply::Done`]; `ECHILD` if
    /// another thread was first.
    Taken,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The child runs there, and has this number here and there.
    Child(i32),
    /// It has ended: a status as of waitpid(2).
    Ended(i32),
    /// It has not.
    Running,
    /// The signal was sent; the end of the child is forgotten.
    Done,
    /// Why not.
    Failed {
        /// For the program.
        errno: i32,
        /// For people; the daemon logs it, too.
        why: String,
    },
}

/// Sends a message and perhaps a descriptor.
pub fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let packet = postcard::to_stdvec(message).map_err(io::Error::other)?;
    if packet.len() > MAX_PACKET {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.as_slice();
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    retry_on_intr(|| {
        sendmsg(
            &socket,
            &[IoSlice::new(&packet)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    })?;
    Ok(())
}

/// Receives a message, and a descriptor if one came along. `UnexpectedEof`: the other side has closed; `InvalidData`: no such message.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<(T, Option<OwnedFd>)> {
    let mut packet = [0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut packet)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    match postcard::take_from_bytes(&packet[..received.bytes]) {
        Ok((message, [])) => Ok((message, descriptor)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Connects to the daemon.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    use rustix::net::{socket_with, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let address = SocketAddrUnix::new(path)?;
    retry_on_intr(|| rustix::net::connect(&socket, &address))?;
    Ok(socket)
}
