// SPDX-License-Identifier: GPL-2.0

//! Several nodes that run the protocol of VRemote, on a network, processors and disks that fail: each run is named by a profile and a
//! seed, and repeats exactly.
//!
//! The protocol is the files that the kernel module compiles (`rust/proto`): messages are encoded and cut into datagrams, arrive late,
//! twice or never, are put together again, and go through `reliable.rs`, `directory.rs`, `copy.rs` and `lease.rs`. What the module does
//! around those, and what the kernel does around the module, is modelled as closely as it can be read beside it:
//!
//! | here | stands for |
//! |---|---|
//! | [`net`] | `rust/net`: peers, sessions, leases, requests in flight, messages of several datagrams |
//! | [`origin`] | `rust/origin`: shared files, the directory at work, grants and installs, local tasks, requests of remotes |
//! | [`remote`] | `rust/remote`: descriptors, pages, recalls, writeback |
//! | [`node`] | `rust/net/udp.rs`, `rust/net/timer.rs`: the receive thread, the timer; and a clock |
//! | [`wait`], [`folio`], [`errseq`] | the kernel's wait queues, mutexes, work items, page cache, errors of writing |
//! | [`origin::file`], [`disk`] | ext4 as far as it calls the hooks, and the disk below it |
//! | [`executor`], [`network`] | time, processors, wires |
//!
//! Not here: encryption (messages are those of `plain=1`), names, attributes, locks, mappings of processes (but see
//! [`world`]: what a mapping could show is checked), memory that runs short, draining, removing peers, unloading.
//!
//! On every node [programs](client) read and write; the [ghost] sees everything at once and says what is wrong. A [bug] can be planted, and
//! must be found.

pub mod bug;
pub mod client;
pub mod disk;
pub mod errseq;
pub mod executor;
pub mod folio;
pub mod ghost;
pub mod net;
pub mod network;
pub mod node;
pub mod origin;
pub mod profile;
pub mod remote;
pub mod wait;
pub mod world;
