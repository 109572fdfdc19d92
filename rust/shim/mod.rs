// SPDX-License-Identifier: GPL-2.0

//! The C side: our shim functions (`rust/shim/*.c`), the kernel functions named in `rust/shim/allowlist`, and everything in
//! `kernel::bindings`, whose types all of them use.
//!
//! `crate::bindings` is another name of this module.

#![allow(
    clippy::all,
    clippy::disallowed_methods,
    clippy::undocumented_unsafe_blocks,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused
)]

pub(crate) use kernel::bindings::*;
use kernel::ffi;
use pin_init::MaybeZeroable;

include!("bindings_generated.rs");
