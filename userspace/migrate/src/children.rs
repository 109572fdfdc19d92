// SPDX-License-Identifier: GPL-2.0

//! How children of other nodes end here. Kept until their node has said that it has kept it.

use std::{
    collections::HashMap,
    process::Child,
    sync::{
        mpsc::{self, Sender},
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
    },
    thread,
    time::{Duration, Instant},
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

/// All of them, by the names of their trees, and since when they are so.
#[derive(Debug, Default)]
pub(crate) struct Children {
    all: Mutex<HashMap<Name, (End, Instant)>>,
    changed: Condvar,
}

impl Children {
    /// A panic in another thread leaves the map whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<Name, (End, Instant)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A child is about to run here; when it does its first process, the one outside, is to be sent. Then nothing is left that could fail.
    pub(crate) fn expect(self: &Arc<Self>, name: &Name) -> Result<Sender<Child>, Problem> {
        let mut all = self.lock();
        if all.len() >= MAX_CHILDREN {
            // Whoever was to hear how that one ended has had the most time.
            let ended = all.iter().filter(|(_, (end, _))| *end != End::Runs);
            let oldest = ended.min_by_key(|(_, (_, since))| *since);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else {
                return Err(Problem::plain(format!(
                    "{MAX_CHILDREN} children of other nodes run here already"
                )));
            };
            all.remove(&oldest);
        }
        let (runs, outside) = mpsc::channel();
        let (children, followed) = (self.clone(), name.clone());
        let follow = move || {
            match outside.recv() {
                Ok(outside) => {
                    let end = first::status(outside).map_or(End::Unknown, End::Ended);
                    children.lock().insert(followed, (end, Instant::now()));
                }
                // It was not restored.
                Err(_) => children.forget(&followed),
            }
            children.changed.notify_all();
        };
        thread::Builder::new().name("child".into()).spawn(follow)?;
        all.insert(name.clone(), (End::Runs, Instant::now()));
        Ok(runs)
    }

    /// As far as is known now.
    fn end(all: &HashMap<Name, (End, Instant)>, name: &Name) -> End {
        all.get(name).map_or(End::Unknown, |(end, _)| *end)
    }

    /// How a child has ended, as far as is known now.
    pub(crate) fn now(&self, name: &Name) -> End {
        Children::end(&self.lock(), name)
    }

    /// How a child has ended; waits up to [`WAIT`] for it.
    pub(crate) fn ended(&self, name: &Name) -> End {
        let runs = |all: &mut HashMap<_, _>| Children::end(all, name) == End::Runs;
        let waited = self.changed.wait_timeout_while(self.lock(), WAIT, runs);
        let (all, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Children::end(&all, name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_end_makes_room() {
        let children = Arc::new(Children::default());
        let names: Vec<_> = (0..MAX_CHILDREN).map(|_| Name::new().unwrap()).collect();
        for name in &names {
            let runs = (End::Runs, Instant::now());
            children.lock().insert(name.clone(), runs);
        }
        let more = Name::new().unwrap();
        assert!(children.expect(&more).is_err());
        for (name, status) in [(&names[7], 1), (&names[3], 2)] {
            let ended = (End::Ended(status), Instant::now());
            children.lock().insert(name.clone(), ended);
        }
        let runs = children.expect(&more).unwrap();
        assert_eq!(children.now(&names[7]), End::Unknown);
        assert_eq!(children.now(&names[3]), End::Ended(2));
        // It was not restored.
        drop(runs);
        assert_eq!(children.ended(&more), End::Unknown);
    }
}
