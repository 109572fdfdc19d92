// SPDX-License-Identifier: GPL-2.0

//! The keys of sessions for who watches the packets of a test cluster: `/sys/kernel/debug/vremote/keylog`, which
//! `scripts/wireshark/vremote.lua` reads.
//!
//! Only if the module was loaded with `keylog=1`; otherwise there is no file, and nothing is kept. A line for each direction of a
//! session: `VREMOTE`, the number that its datagrams carry, the key, both in hexadecimal. Secrets live for longer by that than sessions do:
//! until newer ones take their place here, or the module goes; and what was read lies in memory that nobody clears.

use kernel::{fmt, fmt::Write, prelude::*, sync::global_lock};

use crate::proto::secure::Key;

/// Keys that are kept, of all peers together: those of the last 128 sessions.
const KEYS: usize = 256;

/// The last keys, and where the next one goes once there are [`KEYS`]. Never longer than it was made: no copy is left behind.
struct Log {
    keys: KVec<(u64, Key)>,
    next: usize,
}

global_lock! {
    // SAFETY: Initialised in `prepare`, before anything else.
    /// `None`: not asked for.
    unsafe(uninit) static LOG: Mutex<Option<Log>> = None;
}

pub(super) fn prepare() {
    // SAFETY: Called once, at load.
    unsafe { LOG.init() };
}

/// From now on keys are kept. Process context, may sleep; `ENOMEM`.
pub(super) fn start() -> Result {
    let keys = KVec::with_capacity(KEYS, GFP_KERNEL)?;
    *LOG.lock() = Some(Log { keys, next: 0 });
    Ok(())
}

/// Clears and forgets them. Process context, may sleep.
pub(super) fn stop() {
    *LOG.lock() = None;
}

/// Whether keys are kept. Process context, may sleep.
pub fn is_on() -> bool {
    LOG.lock().is_some()
}

/// Keeps the key of one direction of a session, in place of the oldest one if there are too many; nothing if nobody asked for that. Process
/// context, may sleep.
pub(super) fn note(session: u64, key: &Key) {
    let mut log = LOG.lock();
    let Some(log) = &mut *log else {
        return;
    };
    if log.keys.len() < KEYS {
        // It was made as long as this.
        let _ = log.keys.push_within_capacity((session, key.clone()));
    } else {
        // Who is replaced is cleared.
        log.keys[log.next] = (session, key.clone());
        log.next = (log.next + 1) % KEYS;
    }
}

/// Writes the lines, oldest first. Process context, may sleep.
pub fn write(out: &mut impl Write) -> fmt::Result {
    let log = LOG.lock();
    let Some(log) = &*log else {
        return Ok(());
    };
    let (newer, older) = log.keys.split_at(log.next);
    for (session, key) in [older, newer].into_iter().flatten() {
        write!(out, "VREMOTE {session:016x} ")?;
        for byte in key.bytes() {
            write!(out, "{byte:02x}")?;
        }
        out.write_char('\n')?;
    }
    Ok(())
}
