// SPDX-License-Identifier: GPL-2.0

//! The kernel's flags of open(2) for files of other nodes, and the place where those are to be seen.

/// Open a file of whichever node has it.
pub const O_REMOTE: u32 = 0o20;

/// With [`O_REMOTE`]: share this node's file while the descriptor is open.
pub const O_ORIGIN: u32 = 0o10;

/// Where the file system of all nodes is mounted, on every node.
pub const MOUNT_POINT: &str = "/vremote";
