// SPDX-License-Identifier: GPL-2.0

//! Waiting for one event, bounded and killable: every wait of the module for another node goes through here.

use kernel::{bindings, prelude::*, types::Opaque};

/// An event that happens once; any number of tasks may wait for it.
#[pin_data]
pub struct Event {
    #[pin]
    inner: Opaque<bindings::completion>,
}

// SAFETY: A completion is made to be used by several tasks.
unsafe impl Send for Event {}
// SAFETY: A completion has its own lock.
unsafe impl Sync for Event {}

impl Event {
    /// An event that has not happened.
    pub fn new() -> impl PinInit<Event> {
        pin_init!(Event {
            // SAFETY: The slot is valid for writes; a completion needs nothing else.
            inner <- Opaque::ffi_init(|slot| unsafe { bindings::init_completion(slot) }),
        })
    }

    /// Makes it happen: all who wait, now or later, go on. Any context.
    pub fn happen(&self) {
        // SAFETY: Initialised by `new`.
        unsafe { bindings::complete_all(self.inner.get()) };
    }

    /// Waits until it happens, for at most `limit_us` microseconds. Sleeps.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`, or `EINTR` if the task was killed.
    pub fn wait(&self, limit_us: u64) -> Result {
        let limit = limit_us.min(u64::from(u32::MAX)) as u32;
        // SAFETY: No precondition.
        let jiffies = unsafe { bindings::__usecs_to_jiffies(limit) } + 1;
        // SAFETY: Initialised by `new`; we may sleep.
        match unsafe { bindings::wait_for_completion_killable_timeout(self.inner.get(), jiffies) } {
            0 => Err(ETIMEDOUT),
            left if left < 0 => Err(EINTR),
            _ => Ok(()),
        }
    }
}
