// SPDX-License-Identifier: GPL-2.0

//! The protocol without a kernel: no I/O, no clock, no allocation, nothing but `core`.
//!
//! The kernel module and the user-space crate `userspace/proto` compile these same files, so what the model checker,
//! the property tests and the fuzzer run is what runs in the kernel.
//!
//! | file | what it is |
//! |---|---|
//! | [`lease`] | for how long a silent node keeps what it was granted |
//! | [`limits`] | every limit and time-out |
//! | [`envelope`] | what every datagram begins with, and the datagrams of a handshake |
//! | [`wire`] | the layout of messages: header and payloads |
//! | [`nodes`] | a set of nodes |
//! | [`directory`] | one page at its origin: `(state, event) -> (state, actions)` |
//! | [`copy`] | one page at a remote: `(state, message) -> (state, verdict)` |
//! | [`size`] | a file's size at a remote |
//! | [`reliable`] | round-trip times, retransmission, duplicate suppression, reassembly |
//! | [`secure`] | handshake, sessions and envelope of what only the two nodes of a pair can read |

// Each side of the protocol uses its part of it; to the module, which has no users of its own, all of it is private.
#![allow(dead_code, unreachable_pub)]

pub mod copy;
pub mod directory;
pub mod envelope;
pub mod lease;
pub mod limits;
pub mod nodes;
pub mod reliable;
pub mod secure;
pub mod size;
pub mod wire;
