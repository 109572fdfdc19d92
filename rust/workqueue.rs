// SPDX-License-Identifier: GPL-2.0

//! The module's workqueues: unbound, and each with a worker of its own for when memory is short, because reclaim waits for them.

use core::ptr::NonNull;

use kernel::{
    bindings,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
    workqueue::Queue,
};

use crate::shim;

/// A workqueue. Dropping it waits for everything that was queued.
///
/// # Invariants
///
/// The pointer is a workqueue that this value owns.
pub struct Workqueue(NonNull<bindings::workqueue_struct>);

// SAFETY: Workqueues may be used and destroyed by any task.
unsafe impl Send for Workqueue {}
// SAFETY: Queueing is safe from many CPUs at once.
unsafe impl Sync for Workqueue {}

impl Workqueue {
    /// Creates one. Process context, may sleep; `ENOMEM`.
    pub fn new(name: &CStr) -> Result<Workqueue> {
        // SAFETY: `name` is a string that is copied during the call.
        let queue = unsafe { shim::vremote_net_workqueue(name.as_char_ptr(), false) };
        // INVARIANT: Just created, owned by nobody else.
        NonNull::new(queue).map(Workqueue).ok_or(ENOMEM)
    }

    /// The kernel crate's view of it.
    pub fn queue(&self) -> &Queue {
        // SAFETY: By the type's invariant the queue is valid as long as `self`.
        unsafe { Queue::from_raw(self.0.as_ptr()) }
    }
}

impl Drop for Workqueue {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant it is ours to destroy; this waits for what is queued.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// A workqueue in a static, there from the module's load to its unload: read without a lock, as the receive thread and RCU callbacks must.
///
/// # Invariants
///
/// The address is 0, or that of a workqueue that this value owns.
pub struct ModuleQueue(Atomic<usize>);

impl ModuleQueue {
    /// None yet.
    pub const fn new() -> ModuleQueue {
        // INVARIANT: 0.
        ModuleQueue(Atomic::new(0))
    }

    /// Creates it; once. Process context, may sleep; `ENOMEM`.
    pub fn init(&self, name: &CStr) -> Result {
        let queue = Workqueue::new(name)?;
        // INVARIANT: It owns it from now on.
        self.0.store(queue.0.as_ptr() as usize, Relaxed);
        core::mem::forget(queue);
        Ok(())
    }

    /// Waits for everything that was queued, and destroys it, if it was ever created. Nothing can queue any more but what runs in it.
    pub fn exit(&self) {
        // INVARIANT: The value that is dropped here takes it over. It is forgotten only afterwards, for what runs in it and queues more.
        drop(self.raw().map(Workqueue));
        self.0.store(0, Relaxed);
    }

    /// The kernel crate's view of it; between [`ModuleQueue::init`] and [`ModuleQueue::exit`], else the system's own.
    pub fn queue(&self) -> &'static Queue {
        match self.raw() {
            // SAFETY: By the type's invariant it is a workqueue; it lives until `exit`, after which nobody has work.
            Some(queue) => unsafe { Queue::from_raw(queue.as_ptr()) },
            None => kernel::workqueue::system_unbound(),
        }
    }

    /// Waits until all work has ended that was queued before. Not in a work item of it. Sleeps.
    pub fn flush(&self) {
        if let Some(queue) = self.raw() {
            // SAFETY: As in `queue`.
            unsafe { shim::vremote_net_workqueue_flush(queue.as_ptr()) };
        }
    }

    fn raw(&self) -> Option<NonNull<bindings::workqueue_struct>> {
        NonNull::new(self.0.load(Relaxed) as *mut bindings::workqueue_struct)
    }
}
