// SPDX-License-Identifier: GPL-2.0

//! How children of other nodes end here. Kept until their node has said that it has kept it.

use std::{
    collections::HashMap,
    process::Child,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal},
};

use crate::{
    cgroup::Cgroup,
    first,
    problem::Problem,
    protocol::{End, Name},
};

/// Children of other nodes at once, those included that have ended and of which nobody has asked.
const MAX_CHILDREN: usize = 4096;

/// Who asks for the end of a child gets an answer within this, and asks again.
const WAIT: Duration = Duration::from_secs(20);

/// All of them, by the names of their trees.
#[derive(Debug, Default)]
pub(crate) struct Children {
    all: Mutex<HashMap<Name, End>>,
    changed: Condvar,
}

impl Children {
    /// A panic in another thread leaves the map whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<Name, End>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A child runs here; its first process is `outside`.
    pub(crate) fn follow(self: &Arc<Self>, name: &Name, outside: Child) -> Result<(), Problem> {
        let mut all = self.lock();
        if all.len() >= MAX_CHILDREN {
            // Whoever was to hear it has had all the time that there is.
            all.retain(|_, end| *end == End::Runs);
        }
        if all.len() >= MAX_CHILDREN {
            return Err(Problem::plain(format!(
                "{MAX_CHILDREN} children of other nodes run here already"
            )));
        }
        all.insert(name.clone(), End::Runs);
        drop(all);
        let (children, name) = (self.clone(), name.clone());
        let follow = move || {
            let status = first::status(outside);
            children
                .lock()
                .insert(name, status.map_or(End::Unknown, End::Ended));
            children.changed.notify_all();
        };
        thread::Builder::new().name("child".into()).spawn(follow)?;
        Ok(())
    }

    /// How a child has ended, as far as is known now.
    pub(crate) fn now(&self, name: &Name) -> End {
        self.lock().get(name).copied().unwrap_or(End::Unknown)
    }

    /// How a child has ended; waits up to [`WAIT`] for it.
    pub(crate) fn ended(&self, name: &Name) -> End {
        let runs = |all: &mut HashMap<Name, End>| all.get(name) == Some(&End::Runs);
        let waited = self.changed.wait_timeout_while(self.lock(), WAIT, runs);
        let (all, _) = waited.unwrap_or_else(PoisonError::into_inner);
        all.get(name).copied().unwrap_or(End::Unknown)
    }

    /// Its node has kept how it ended.
    pub(crate) fn forget(&self, name: &Name) {
        self.lock().remove(name);
    }
}

/// Sends a signal to the root of a tree that is called `child` in its namespace. Errors are errnos: `ESRCH`, `EINVAL`.
pub(crate) fn signal(name: &Name, child: i32, signal: i32) -> Result<(), Errno> {
    for pid in Cgroup::of(name).processes() {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let ids = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .unwrap_or_default();
        let mut ids = ids.split_whitespace().rev();
        // Its own number, and the one here.
        if ids.next() != Some(&child.to_string()) || ids.next().is_none() {
            continue;
        }
        let Some(pid) = Pid::from_raw(pid) else {
            continue;
        };
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        return match signal {
            0 => Ok(()),
            _ => pidfd_send_signal(&pidfd, Signal::from_named_raw(signal).ok_or(Errno::INVAL)?),
        };
    }
    Err(Errno::SRCH)
}
