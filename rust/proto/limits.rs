// SPDX-License-Identifier: GPL-2.0

//! Every limit and time-out of the protocol, in one place.
//!
//! Times are microseconds, sizes are bytes, unless the name says otherwise.

/// UDP port on which a node serves, unless the module parameter `port=` says otherwise.
pub const PORT: u16 = 1104;

/// Unit of coherence. Origin and remote must agree on it; a kernel with other pages is refused at load.
pub const PAGE_BYTES: usize = 4096;

/// Largest size of a file and largest byte offset, as the kernel's `loff_t` has it.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// Pages of the largest file, the last one not whole: one more than the largest page index.
pub const MAX_PAGES: u64 = MAX_SIZE / PAGE_BYTES as u64 + 1;

/// Largest seq: what fits, with a page's state, the 63 bits of an `XArray` value. A file would have to change hands a
/// million times a second for 36,000 years to reach it.
pub const MAX_SEQ: u64 = (1 << 60) - 1;

/// Nodes that one directory can name, the origin not counted. Slots are local to an origin, so this is a limit on the
/// peers of one node, not on the size of a cluster.
pub const MAX_NODES: usize = 256;

/// Payload of one datagram. Three of them carry a page, and with the header, UDP (8) and IPv4 (20) a datagram has
/// 1490 bytes: it fits the 1500 of Ethernet, so IP never fragments.
pub const FRAGMENT_BYTES: usize = 1366;

/// Data that one `Write` carries.
pub const MAX_WRITE: usize = 64 * 1024;

/// Largest value of an extended attribute, and longest list of their names, as the kernel has them.
pub const MAX_XATTR: usize = 64 * 1024;

/// Largest payload of one message: the largest value of an extended attribute, with credentials, path and name before it.
pub const MAX_PAYLOAD: usize = 72 * 1024;

const _: () = assert!(10 + 4 * MAX_GROUPS + MAX_PATH + 1 + MAX_NAME + MAX_XATTR <= MAX_PAYLOAD);

/// Fragments of the largest message.
pub const MAX_FRAGMENTS: usize = MAX_PAYLOAD.div_ceil(FRAGMENT_BYTES);

/// Pages that one `GetShared` or `GetModified` may ask for.
pub const MAX_BATCH_PAGES: usize = 256;

/// Owners of locks, of all remotes together, that one file may have.
pub const MAX_LOCK_OWNERS: usize = 4096;

/// Longest pause before a remote asks again for a lock that it waits for, should nobody tell it that something was unlocked: local
/// programs of the origin do not.
pub const LOCK_POLL_MAX_US: u64 = 250_000;
/// The first such pause; it doubles.
pub const LOCK_POLL_MIN_US: u64 = 5_000;

/// How long a close waits for the origin to hear that locks are free, so that the next to ask finds them free. It hears of it
/// later in any case.
pub const UNLOCK_WAIT_US: u64 = 1_000_000;

/// Longest path, as `PATH_MAX` counts it less the final NUL.
pub const MAX_PATH: usize = 4095;

/// How often the origin looks a name up in all while directories of it are moved at that very moment; then the answer is `EAGAIN`. One
/// look-up takes microseconds.
pub const LOOKUP_TRIES: usize = 32;

/// Symlinks that are followed from one name: as many as the kernel follows.
pub const MAX_LINKS: usize = 40;

/// Longest name of a node, and of one path component.
pub const MAX_NAME: usize = 255;

/// Supplementary groups that travel with an opener's credentials; further ones are left out, which can only refuse
/// access, never grant it.
pub const MAX_GROUPS: usize = 64;

/// Requests that may wait for one page at the origin. One more is dropped; its sender retransmits.
pub const MAX_WAITERS: usize = 8;

/// Descriptors that the programs of one remote may have open at an origin; one more is `ENFILE`.
pub const MAX_OPENS: u32 = 65_536;

/// Requests of one peer that are run, or wait to be, other than those for pages. One more is dropped; its sender retransmits. Half of what the
/// kernel runs at once of one queue: requests that a disk keeps waiting must not keep everybody's pages waiting.
pub const MAX_WORK: u32 = 512;

/// Pages that are being brought into a state to be granted because one peer has asked first. Requests for further ones are dropped; their
/// sender retransmits.
pub const MAX_GETS: u32 = 65_536;

/// Owners of locks that one remote may have in all files of an origin; one more is `ENOLCK`.
pub const MAX_PEER_LOCK_OWNERS: u32 = 65_536;

/// Pages of one peer that wait to be put into the page cache although nobody has asked for them. One more is dropped; its sender
/// retransmits.
pub const MAX_INSTALLS: u32 = 4096;

/// What part of an origin's memory may be taken by last versions of pages that are on no disk while remotes own them: one of so many parts.
/// With more than that, pages are written to disk before they are granted away; those of a file that a disk has refused bytes of are not,
/// until there is room again.
pub const MAX_STASH: u64 = 16;

/// Replies to requests that must not run twice, kept per peer.
pub const MAX_REPLIES: usize = 256;

/// Messages of one peer that may be in reassembly at once. The oldest gives way.
pub const MAX_ASSEMBLIES: usize = 128;

/// First retransmission time-out, before a round trip has been measured.
pub const RTO_INITIAL_US: u64 = 50_000;

/// Bounds of the retransmission time-out (RFC 6298, with a floor for networks of milliseconds, not of seconds).
pub const RTO_MIN_US: u64 = 10_000;
/// See [`RTO_MIN_US`].
pub const RTO_MAX_US: u64 = 1_000_000;

/// Who looks so late at what was due stood still, for all that is known; see [`Deadline`](super::reliable::Deadline).
pub const STOOD_STILL_US: u64 = 1_000_000;

/// How long a call waits for a silent peer before it ends in `ETIMEDOUT`; the module parameter `timeout_ms=` changes it.
pub const CALL_TIMEOUT_US: u64 = 5_000_000;

/// How long a request may take in all while the peer says that it works on it; then too it ends in `ETIMEDOUT`. An fsync of much data,
/// or the first open of a large file that is cached, takes longer than a silence may.
pub const WORK_LIMIT_US: u64 = 120_000_000;

/// Pause between hellos: signs of life, which renew leases.
pub const HELLO_INTERVAL_US: u64 = 1_000_000;

/// How long a remote may use what it was granted after it was last heard, unless the origin's module parameter `lease_ms=` says
/// otherwise. See [`lease`](super::lease).
pub const LEASE_US: u64 = 5_000_000;

/// For how long a peer is not fenced because datagrams wait that may be its answer. Others can see to it that some always do.
pub const UNHEARD_US: u64 = 2 * HELLO_HURRY_US;

/// Longest lease that an origin may be set to grant, and a remote believes.
pub const MAX_LEASE_US: u64 = 60_000_000;

/// Pause between hellos while the peer has answered none for [`DEAF_US`] although it is heard, or while nothing is granted to it.
pub const HELLO_HURRY_US: u64 = 250_000;

/// Who has answered no hello of so long takes part in no decision: what it holds is taken back when its lease has run out.
pub const DEAF_US: u64 = 2 * HELLO_INTERVAL_US;

/// For how long a peer is asked for a page in vain, in all rounds since it last gave that page up, before everything that it was granted
/// is taken back. Far longer than a node needs that is there and has much to do: what it has written and not synced is lost by it.
/// See [`overdue_rounds`](super::lease::overdue_rounds).
pub const OVERDUE_US: u64 = 60_000_000;

/// The fewest rounds that this takes. One may run out because this node stood still.
pub const OVERDUE_ROUNDS: u16 = 3;

/// A peer silent for so long is shown as down.
pub const PEER_DOWN_US: u64 = 5_000_000;
