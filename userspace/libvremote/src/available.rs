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
    let ask = |path, flags| {
        let flags = OFlags::from_bits_retain(flags) | OFlags::CLOEXEC;
        open(path, OFlags::RDONLY | flags, Mode::empty())
    };
    // Alone it is refused by who knows it.
    if ask(c"/", O_ORIGIN).is_ok() {
        return Availability::StockKernel;
    }
    // The module is asked for before the path, which no file has.
    match ask(c"/dev/null/vremote", O_REMOTE | O_ORIGIN) {
        Err(Errno::OPNOTSUPP) => Availability::NoModule,
        _ => Availability::Available,
    }
}
