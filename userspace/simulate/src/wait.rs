// SPDX-License-Identifier: GPL-2.0

//! Waiting: `rust/wait.rs`, the kernel's mutexes and its work items.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use nix::errno::Errno;

use crate::executor::{Event, Sim, TaskId, Time};

/// A result as the kernel has them.
pub type Result<T = ()> = core::result::Result<T, Errno>;

/// What ends a wait early.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Nothing.
    Always,
    /// A signal that kills the task.
    Killable,
}

/// Something that changes again and again; any number of tasks may wait for the next change.
pub struct Changes {
    sim: Rc<Sim>,
    count: Cell<u32>,
    waiters: RefCell<Vec<TaskId>>,
}

impl Changes {
    /// Nothing has changed yet.
    pub fn new(sim: &Rc<Sim>) -> Changes {
        Changes {
            sim: sim.clone(),
            count: Cell::new(0),
            waiters: RefCell::default(),
        }
    }

    /// How many changes there were. Taken before the condition is looked at.
    pub fn seen(&self) -> u32 {
        self.count.get()
    }

    /// There is one more: all who wait look again.
    pub fn happen(&self) {
        self.count.set(self.count.get().wrapping_add(1));
        let mut waiters = self.waiters.take();
        for waiter in waiters.drain(..) {
            self.sim.wake(waiter);
        }
        // Its memory serves again.
        let more = self.waiters.replace(waiters);
        self.waiters.borrow_mut().extend(more);
    }

    /// Waits for a change after `seen`, for at most `limit` microseconds (`u64::MAX`: for ever). Says whether there was one. `EINTR`: a
    /// signal came.
    pub fn wait(&self, seen: u32, limit: u64, how: Wait) -> Waiting<'_> {
        Waiting {
            changes: self,
            seen,
            end: self.sim.now().saturating_add(limit),
            how,
            armed: limit == u64::MAX,
        }
    }

    /// Waits until it has happened once, for at most `limit` microseconds: a completion.
    pub async fn wait_once(&self, limit: u64, how: Wait) -> Result {
        if self.wait(0, limit, how).await? {
            Ok(())
        } else {
            Err(Errno::ETIMEDOUT)
        }
    }
}

/// See [`Changes::wait`].
pub struct Waiting<'a> {
    changes: &'a Changes,
    seen: u32,
    end: Time,
    how: Wait,
    armed: bool,
}

impl Future for Waiting<'_> {
    type Output = Result<bool>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<bool>> {
        let (changes, sim) = (self.changes, &self.changes.sim);
        if changes.count.get() != self.seen {
            return Poll::Ready(Ok(true));
        }
        if self.how == Wait::Killable && sim.killed() {
            return Poll::Ready(Err(Errno::EINTR));
        }
        if sim.now() >= self.end {
            return Poll::Ready(Ok(false));
        }
        let id = sim.current();
        if !changes.waiters.borrow().contains(&id) {
            changes.waiters.borrow_mut().push(id);
        }
        if !self.armed {
            self.armed = true;
            sim.at(self.end, Event::Task { id, alarm: true });
        }
        Poll::Pending
    }
}

/// Sleeps for so many microseconds. No signal ends it.
pub fn sleep(sim: &Rc<Sim>, time: u64) -> Sleeping {
    Sleeping {
        sim: sim.clone(),
        end: sim.now() + time,
        armed: false,
    }
}

/// See [`sleep`].
pub struct Sleeping {
    sim: Rc<Sim>,
    end: Time,
    armed: bool,
}

impl Future for Sleeping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.sim.now() >= self.end {
            return Poll::Ready(());
        }
        if !self.armed {
            self.armed = true;
            let id = self.sim.current();
            self.sim.at(self.end, Event::Task { id, alarm: true });
        }
        Poll::Pending
    }
}

/// A mutex that tasks wait for.
pub struct Mutex {
    locked: Cell<bool>,
    changes: Changes,
}

impl Mutex {
    /// Nobody holds it.
    pub fn new(sim: &Rc<Sim>) -> Mutex {
        Mutex {
            locked: Cell::new(false),
            changes: Changes::new(sim),
        }
    }

    /// Takes it. `EINTR`: the task was killed.
    pub async fn lock(&self, how: Wait) -> Result<Guard<'_>> {
        loop {
            let seen = self.changes.seen();
            if !self.locked.replace(true) {
                return Ok(Guard(self));
            }
            self.changes.wait(seen, u64::MAX, how).await?;
        }
    }

    /// Takes it, killed or not.
    pub async fn lock_always(&self) -> Guard<'_> {
        loop {
            if let Ok(guard) = self.lock(Wait::Always).await {
                return guard;
            }
        }
    }
}

/// Holds a [`Mutex`].
pub struct Guard<'a>(&'a Mutex);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.locked.set(false);
        self.0.changes.happen();
    }
}

/// A work item: runs when it was queued, once for all times that it was queued before it begins, and never twice at a time.
#[derive(Default)]
pub struct Work {
    queued: Cell<bool>,
    running: Cell<bool>,
}

impl Work {
    /// Queues it. `true`: whoever calls has to have a task run [`Work::begin`], the work, and so on until it says no.
    pub fn queue(&self) -> bool {
        !self.queued.replace(true) && !self.running.replace(true)
    }

    /// Whether to run (again).
    pub fn begin(&self) -> bool {
        let wanted = self.queued.replace(false);
        self.running.set(wanted);
        wanted
    }
}
