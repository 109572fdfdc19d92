// SPDX-License-Identifier: GPL-2.0

//! Messages between nodes: what `rust/net` does around `proto/reliable.rs`, `proto/lease.rs` and `proto/wire.rs`.

pub mod assembly;
pub mod exchange;
pub mod peer;
