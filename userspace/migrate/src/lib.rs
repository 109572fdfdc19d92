// SPDX-License-Identifier: GPL-2.0

//! Moves running processes to another node. Memory and state move by CRIU, files follow page by page through `/vremote`.

mod cgroup;
mod children;
mod claims;
mod commit;
pub mod control;
pub mod criu;
pub mod daemon;
mod diag;
pub mod files;
pub mod first;
pub mod flags;
mod fork;
mod huge;
pub mod images;
mod leaving;
pub mod node;
pub mod problem;
pub mod progress;
pub mod protocol;
mod registry;
pub mod relay;
mod rights;
pub mod source;
pub mod target;
pub mod timeline;
pub mod tree;
