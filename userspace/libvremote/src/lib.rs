// SPDX-License-Identifier: MIT

//! What programs need of VRemote: whether it is there, and children on other nodes.
//!
//! # A child on another node
//!
//! [`fork::fork`] makes a process that continues where the caller is, like fork(2), but on the node at an address:
//!
//! 1. It forks twice, so that the child is nobody's whom the program knows of: no SIGCHLD, nothing for a wait(2) that waits for any
//!    child. (The process in between ends at once and is waited for.) The child becomes the leader of a session of its own, without
//!    a terminal. What of its descriptors 0, 1 and 2 is a terminal, a pipe or a socket becomes `/dev/null`, for these have their
//!    other end on this node. Then it stops itself.
//! 2. The caller asks the local daemon, `vremoted`, to move the stopped child ([`protocol`]). It may, since the child is its
//!    user's. All of its files follow page by page.
//! 3. The child is restored in a new PID namespace of the target, where each number is free: it keeps its own, and that is
//!    what the parent is told. `getpid()` gives the same on both sides. That needs no right of the program, only of the daemons, which
//!    have them. It is then continued, and finds itself with 0 as its result.
//!
//! If anything fails the child is killed before it has run an instruction of the program, and the error is reported.
//!
//! Where the child has ended, its exit status is kept until the parent has asked for it ([`fork::wait`]) or has ended.

mod available;
pub mod c;
pub mod fork;
pub mod protocol;

pub use available::{available, Availability};
