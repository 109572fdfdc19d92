// SPDX-License-Identifier: GPL-2.0

//! The protocol of VRemote as a user-space crate.
//!
//! The source is `rust/proto`: the files that the kernel module compiles, unchanged.

#![no_std]

#[path = "../../../rust/proto/mod.rs"]
mod proto;

pub use proto::*;
