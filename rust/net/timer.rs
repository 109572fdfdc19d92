// SPDX-License-Identifier: GPL-2.0

//! The one timer of the module: runs when the earliest of all retransmissions, deadlines and hellos is due, and not at all
//! when nothing waits.
//!
//! It runs as a delayed work in its own urgent workqueue, in process context, never twice at the same time. Arming it later
//! than it is armed already costs a comparison: requests that are answered in time hardly touch it.

use kernel::{error::to_result, prelude::*, sync::global_lock};

use super::{exchange, now_us, peer};
use crate::shim;

/// Due time that means "never".
pub const NEVER: u64 = u64::MAX;

global_lock! {
    // SAFETY: Initialised in `prepare`, before anything else.
    /// When the work will run (microseconds); 0 once the timer has been stopped, so that nothing arms it again.
    unsafe(uninit) static ARMED: SpinLock<u64> = 0;
}

pub(super) fn prepare() {
    // SAFETY: Called once, at load.
    unsafe { ARMED.init() };
}

/// Makes the timer able to run. `ENOMEM`.
pub(super) fn start() -> Result {
    // SAFETY: `run` is a function of this module, and `stop` waits for its last run before the module goes.
    to_result(unsafe { shim::vremote_net_timer_start(Some(run)) })?;
    *ARMED.lock() = NEVER;
    Ok(())
}

/// Ends the timer and waits for its last run.
pub(super) fn stop() {
    *ARMED.lock() = 0;
    // SAFETY: It has been started, and no arming follows: `at` does so only under the lock and never with 0 in it.
    unsafe { shim::vremote_net_timer_stop() };
}

/// Makes sure that the timer runs not later than `due` (microseconds of [`now_us`]). Any context but hard interrupts.
pub fn at(due: u64) {
    // 0 means that it was stopped.
    let due = due.max(1);
    let mut armed = ARMED.lock();
    if due < *armed {
        *armed = due;
        let wait = due.saturating_sub(now_us());
        // SAFETY: The timer is started, as `ARMED` is not 0.
        unsafe { shim::vremote_net_timer_arm(wait) };
    }
}

/// One run: everybody does what is due and says when the next is.
extern "C" fn run() {
    {
        let mut armed = ARMED.lock();
        if *armed == 0 {
            return;
        }
        *armed = NEVER;
    }
    let next = peer::tick(now_us()).min(exchange::tick());
    if next != NEVER {
        at(next);
    }
}
