// SPDX-License-Identifier: GPL-2.0

//! What the daemon knows: the trees that come, are here, leave or have left, and the files that it shares for them. Each change of a state
//! is made with the state before it in view, under one lock: an answer that came late changes nothing.

mod arriving;
mod jobs;
mod parting;
mod saved;
mod streams;

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use vremote_channel::{JobId, Stopper};

use crate::{
    cgroup::Cgroup,
    commit::Part,
    control::HeldFile,
    problem::Problem,
    protocol::{Name, Whereabouts},
};

pub(crate) use parting::{Doubt, Parting};
pub(crate) use saved::note_stayed;

use saved::AWAY;
use streams::Waiting;

/// Where a tree is.
#[derive(Debug)]
pub(crate) enum State {
    /// It is being received from this node, or what was received is being ended.
    Arriving {
        from: String,
        job: JobId,
        /// `None`: the connection has ended.
        stopper: Option<Stopper>,
    },
    /// It runs here, or has run here and ended. That its source's is no more is not known yet.
    Unconfirmed(Unconfirmed),
    /// It was let go here, and nothing of it is here: whether it has run is not known.
    Unsure { from: String, job: JobId },
    /// It runs here.
    Here {
        from: String,
        pid: i32,
        /// By which move it came, if this daemon knows.
        job: Option<JobId>,
    },
    /// A program moves it away.
    Leaving(Parting),
    /// It stands still, as it is not known whether it runs at the target.
    Undecided {
        parting: Parting,
        /// The target has said that it does not know.
        unsure: bool,
    },
    /// It has left for this node.
    Moved { to: String },
    /// What the daemon before this one has noted of it cannot be read: it stays as it is.
    Unread,
}

/// A tree that runs here, and its move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unconfirmed {
    pub(crate) from: String,
    pub(crate) job: JobId,
    /// The source's boot id at the commit.
    pub(crate) boot: String,
    pub(crate) pid: i32,
}

/// What is known of a tree.
#[derive(Debug)]
struct Record {
    title: String,
    state: State,
    since: Instant,
    /// It had left from here, and is not back for good.
    away: bool,
    /// Open, so that they are shared.
    files: Vec<(HeldFile, File)>,
}

/// All trees.
#[derive(Debug)]
pub(crate) struct Registry {
    trees: Mutex<BTreeMap<Name, Record>>,
    waiting: Mutex<HashMap<JobId, Waiting>>,
    away: PathBuf,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry::at(AWAY.into())
    }
}

/// A panic in another thread leaves both maps whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Record {
    fn new(title: &str, state: State, files: Vec<(HeldFile, File)>) -> Record {
        Record {
            title: title.into(),
            state,
            since: Instant::now(),
            away: false,
            files,
        }
    }

    fn set(&mut self, state: State) {
        self.state = state;
        self.since = Instant::now();
    }
}

fn no_such(name: &Name) -> Problem {
    Problem::new(format!("there is no job {name}"), "vremote jobs lists them")
}

fn not_read(name: &Name) -> Problem {
    Problem::new(
        format!("what is noted about the job {name} cannot be read"),
        "vremote jobs says what to do",
    )
}

impl Registry {
    /// Which keeps what has left in this directory.
    fn at(away: PathBuf) -> Registry {
        Registry {
            trees: Mutex::default(),
            waiting: Mutex::default(),
            away,
        }
    }

    /// A tree that is here already, as the daemon starts, and of which no file says anything else.
    pub(crate) fn found(&self, name: &Name, title: &str, pid: i32) {
        let state = State::Here {
            from: String::new(),
            pid,
            job: None,
        };
        let mut trees = lock(&self.trees);
        trees
            .entry(name.clone())
            .or_insert_with(|| Record::new(title, state, Vec::new()));
    }

    /// Nothing is to be done with it, as nobody knows where it runs.
    pub(crate) fn unread(&self, name: &Name) {
        let mut trees = lock(&self.trees);
        trees
            .entry(name.clone())
            .or_insert_with(|| Record::new("", State::Unread, Vec::new()));
    }

    /// Forgets a tree that has ended here, and removes its cgroup.
    pub(crate) fn forget_if_ended(&self, name: &Name) {
        let mut trees = lock(&self.trees);
        let group = Cgroup::of(name);
        // It may be on its way by now.
        if let Some(State::Here { .. }) = trees.get(name).map(|record| &record.state) {
            if !group.is_populated() {
                trees.remove(name);
                group.remove();
            }
        }
    }

    /// Where it is.
    pub(crate) fn whereabouts(&self, name: &Name) -> Whereabouts {
        match lock(&self.trees).get(name).map(|record| &record.state) {
            None => Whereabouts::Gone,
            Some(State::Here { .. } | State::Unconfirmed(_)) => Whereabouts::Here,
            Some(
                State::Arriving { .. }
                | State::Unsure { .. }
                | State::Leaving(_)
                | State::Undecided { .. }
                | State::Unread,
            ) => Whereabouts::Moving,
            Some(State::Moved { to }) => Whereabouts::Moved(to.clone()),
        }
    }

    /// This node's part in a move, as [`crate::commit`] says; claims are not looked at.
    pub(crate) fn part(&self, job: &JobId) -> Part {
        let trees = lock(&self.trees);
        let known = trees.values().find_map(|record| match &record.state {
            State::Arriving { job: own, .. } if own == job => Some(Part::Undecided),
            State::Unconfirmed(known) if known.job == *job => Some(Part::Owner),
            State::Unsure { job: own, .. } if own == job => Some(Part::Unsure),
            State::Here { job: Some(own), .. } if own == job => Some(Part::Owner),
            State::Leaving(parting) | State::Undecided { parting, .. } => {
                let doubt = parting.doubt.as_ref();
                doubt
                    .filter(|doubt| doubt.job == *job)
                    .map(|_| Part::Undecided)
            }
            _ => None,
        });
        known.unwrap_or(Part::Nothing)
    }

    /// Names of trees that run here.
    pub(crate) fn here(&self) -> Vec<Name> {
        self.filter(|record| matches!(record.state, State::Here { .. }).then_some(()))
            .into_iter()
            .map(|(name, ())| name)
            .collect()
    }

    /// Names of trees that have left, where they are, and since when.
    pub(crate) fn away(&self) -> Vec<(Name, (String, Instant))> {
        self.filter(|record| match &record.state {
            State::Moved { to } => Some((to.clone(), record.since)),
            _ => None,
        })
    }

    fn filter<T>(&self, wanted: impl Fn(&Record) -> Option<T>) -> Vec<(Name, T)> {
        let trees = lock(&self.trees);
        let found = trees.iter();
        found
            .filter_map(|(name, record)| Some((name.clone(), wanted(record)?)))
            .collect()
    }
}

/// What the tests of these files need.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::Departure, tree::Identity};
    use std::io;

    pub(super) fn tree(name: &Name) -> Departure {
        Departure {
            name: name.clone(),
            root: Identity::of(std::process::id() as i32).unwrap(),
            child: false,
            title: "prog".into(),
            to: "b".into(),
        }
    }

    pub(super) fn registry() -> (tempfile::TempDir, Registry) {
        let place = tempfile::tempdir().unwrap();
        let registry = Registry::at(place.path().join("away"));
        (place, registry)
    }

    pub(super) fn never(_: &HeldFile) -> io::Result<File> {
        Err(io::Error::other("there are none"))
    }
}
