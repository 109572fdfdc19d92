// SPDX-License-Identifier: GPL-2.0

//! Waiting, bounded: every wait of the module for another node goes through here.

use kernel::{
    bindings,
    prelude::*,
    sync::atomic::{ordering, Atomic},
    types::Opaque,
};

use crate::shim;

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

/// What ends a wait early.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Wait {
    /// Nothing.
    Always = 0,
    /// A signal that kills the task.
    Killable = 1,
    /// Any signal that the task takes.
    Interruptible = 2,
}

/// Something that changes again and again; any number of tasks may wait for the next change.
///
/// Who waits takes [`Changes::seen`], then looks at what it waits for, then calls [`Changes::wait`]: no change is missed.
#[pin_data]
pub struct Changes {
    count: Atomic<u32>,
    #[pin]
    queue: Opaque<bindings::wait_queue_head>,
}

// SAFETY: A wait queue is made to be used by several tasks.
unsafe impl Send for Changes {}
// SAFETY: A wait queue has its own lock.
unsafe impl Sync for Changes {}

impl Changes {
    /// Nothing has changed yet.
    pub fn new() -> impl PinInit<Changes> {
        pin_init!(Changes {
            count: Atomic::new(0),
            // SAFETY: The slot is valid for writes.
            queue <- Opaque::ffi_init(|slot| unsafe { shim::vremote_wait_init(slot) }),
        })
    }

    /// How many changes there were. Taken before the condition is looked at.
    pub fn seen(&self) -> u32 {
        self.count.load(ordering::Acquire)
    }

    /// There is one more: all who wait look again. Any context that may spin.
    pub fn happen(&self) {
        let _ = self.count.fetch_add(1, ordering::Full);
        // SAFETY: Initialised by `new`.
        unsafe { shim::vremote_wait_wake(self.queue.get()) };
    }

    /// Waits for a change after `seen`, for at most `limit_us` microseconds. Says whether there was one. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINTR`, or `ERESTARTSYS` of an interruptible wait: a signal came.
    pub fn wait(&self, seen: u32, limit_us: u64, how: Wait) -> Result<bool> {
        let count = (&raw const self.count).cast::<u32>();
        // SAFETY: The queue was initialised by `new`; the counter lives as long as `self`.
        match unsafe {
            shim::vremote_wait_change(self.queue.get(), count, seen, limit_us as usize, how as u32)
        } {
            0 => Ok(false),
            left if left < 0 && how == Wait::Interruptible => Err(ERESTARTSYS),
            left if left < 0 => Err(EINTR),
            _ => Ok(true),
        }
    }
}
