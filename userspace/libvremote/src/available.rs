// SPDX-License-Identifier: MIT

//! Whether the kernel knows the flags.

use rustix::{
    fs::{open, Mode, OFlags},
    io::Errno,
};

/// Octal 10 and 20; see vremote.h.
const O_ORIGIN: u32 = 0o10;
const O_REMOTE: u32 = 0o20;

/// What a program that wants to open files of other nodes can count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// A stock kernel: it ignores the flags, and opens or truncates the local file. Do not use them.
    StockKernel = 0,
    /// A kernel that refuses the flags, since the module is not loaded: `EOPNOTSUPP`.
    NoModule = 1,
    /// They work.
    Available = 2,
}

/// Asks the kernel. Opens nothing but `/`, and asks no other node.
pub fn available() -> Availability {
    // To share a directory is refused by the module, with EISDIR. Who does not know the flags opens it.
    let flags = OFlags::from_bits_retain(O_REMOTE | O_ORIGIN) | OFlags::CLOEXEC;
    match open("/", OFlags::RDONLY | flags, Mode::empty()) {
        Ok(_) => Availability::StockKernel,
        Err(Errno::OPNOTSUPP) => Availability::NoModule,
        Err(_) => Availability::Available,
    }
}
