// SPDX-License-Identifier: GPL-2.0

//! Device numbers: what stat(2) shows as `st_dev` of another node's files.
//!
//! `st_ino` is the origin's, so that a program that moves between nodes finds its files' numbers unchanged (SQLite looks at them
//! before it writes). They are unique on one device of one node only; so each of these has a device number of its own here, as file
//! systems with subvolumes do it. The superblock's number is that of the root and of the nodes' names.

use kernel::{
    bindings::{self, dev_t},
    error::to_result,
    prelude::*,
    sync::global_lock,
};

/// A device of a peer, by the peer's slot and the number there, and its number here.
struct Device {
    slot: u8,
    theirs: u64,
    number: dev_t,
}

global_lock! {
    // SAFETY: Initialised in `init`, before the file system is registered.
    /// All devices that were seen since load. A peer that takes over a slot takes over its devices: what was opened of the one before is over.
    unsafe(uninit) static DEVICES: Mutex<KVec<Device>> = KVec::new();
}

/// Called once, at load.
pub(super) fn init() {
    // SAFETY: Called once, before any use of the lock.
    unsafe { DEVICES.init() };
}

/// Gives all numbers back; nothing is mounted any more.
pub(super) fn exit() {
    // Taken out, because nobody drops a static.
    let devices = core::mem::take(&mut *DEVICES.lock());
    for device in &devices {
        // SAFETY: The number is ours, and no superblock of ours is left.
        unsafe { bindings::free_anon_bdev(device.number) };
    }
}

/// The number of a device. Process context, may sleep; `ENOMEM`, `EMFILE` if the kernel has no more numbers.
pub(super) fn number(slot: u8, theirs: u64) -> Result<dev_t> {
    let mut devices = DEVICES.lock();
    let known = devices
        .iter()
        .find(|device| device.slot == slot && device.theirs == theirs);
    if let Some(device) = known {
        return Ok(device.number);
    }
    devices.reserve(1, GFP_KERNEL)?;
    let mut number = 0;
    // SAFETY: The number is valid for writing.
    to_result(unsafe { bindings::get_anon_bdev(&mut number) })?;
    let device = Device {
        slot,
        theirs,
        number,
    };
    // There is room for it.
    let _ = devices.push_within_capacity(device);
    Ok(number)
}
