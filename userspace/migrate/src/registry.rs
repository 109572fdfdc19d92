// SPDX-License-Identifier: GPL-2.0

//! What the daemon knows: the trees that come, are here, leave or have left, and the files that it shares for them.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    path::PathBuf,
    sync::{
        mpsc::{Receiver, Sender},
        Mutex, MutexGuard, PoisonError,
    },
    time::Instant,
};

use serde::{Deserialize, Serialize};
use vremote_channel::{Channel, JobId, Stopper};

use crate::{
    cgroup::Cgroup,
    control::{self, HeldFile},
    problem::Problem,
    protocol::{Name, Whereabouts},
};

/// Where a tree is.
#[derive(Debug)]
pub(crate) enum State {
    /// It is being received from this node.
    Arriving {
        from: String,
        stopper: Stopper,
        /// It runs, all of it is here, but its source may not know that yet.
        runs: bool,
    },
    /// It runs here.
    Here { from: String, pid: i32 },
    /// It is about to leave.
    Leaving,
    /// It has left for this node.
    Moved { to: String },
}

/// What is known of a tree.
#[derive(Debug)]
struct Record {
    title: String,
    state: State,
    since: Instant,
    /// Open, so that they are shared.
    files: Vec<(HeldFile, File)>,
}

/// A tree that has left, in a file, for a daemon that starts anew.
#[derive(Serialize, Deserialize)]
struct Away {
    title: String,
    to: String,
    files: Vec<HeldFile>,
}

/// Where those files are: not for longer than this node runs.
const AWAY: &str = "/run/vremote/away";

/// A job that waits for a stream of pages.
#[derive(Debug)]
struct Waiting {
    peer: String,
    pages: Sender<Channel>,
}

/// All trees.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    trees: Mutex<BTreeMap<Name, Record>>,
    waiting: Mutex<HashMap<JobId, Waiting>>,
}

/// A panic in another thread leaves both maps whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn path_of(name: &Name) -> PathBuf {
    PathBuf::from(AWAY).join(name.as_str())
}

/// Notes a tree that has left.
fn save(name: &Name, record: &Record) -> std::io::Result<()> {
    let State::Moved { to } = &record.state else {
        return Ok(());
    };
    let away = Away {
        title: record.title.clone(),
        to: to.clone(),
        files: record.files.iter().map(|(file, _)| file.clone()).collect(),
    };
    fs::create_dir_all(AWAY)?;
    fs::write(path_of(name), serde_json::to_vec(&away)?)
}

impl Registry {
    /// A tree arrives. It must not be here, nor leaving.
    pub(crate) fn arrive(
        &self,
        name: &Name,
        title: &str,
        from: &str,
        stopper: Stopper,
    ) -> Result<(), Problem> {
        let mut trees = lock(&self.trees);
        match trees.get(name).map(|record| &record.state) {
            None | Some(State::Moved { .. }) => {}
            Some(_) => {
                return Err(Problem::new(
                    format!("the job {name} is at this node already"),
                    "vremote jobs shows it; stop it there if it is left over",
                ))
            }
        }
        // What was held for it stays so until it is here: it may fail to arrive.
        let files = trees.remove(name).map(|record| record.files);
        trees.insert(
            name.clone(),
            Record {
                title: title.into(),
                state: State::Arriving {
                    from: from.into(),
                    stopper,
                    runs: false,
                },
                since: Instant::now(),
                files: files.unwrap_or_default(),
            },
        );
        Ok(())
    }

    /// It did not arrive. If it had been here before, it is where it came from.
    pub(crate) fn not_arrived(&self, name: &Name) {
        let mut trees = lock(&self.trees);
        let Some(record) = trees.get_mut(name) else {
            return;
        };
        if let State::Arriving { from, .. } = &record.state {
            if record.files.is_empty() {
                trees.remove(name);
            } else {
                record.state = State::Moved { to: from.clone() };
            }
        }
    }

    /// It runs, and all of it is here.
    pub(crate) fn runs(&self, name: &Name) {
        if let Some(record) = lock(&self.trees).get_mut(name) {
            if let State::Arriving { runs, .. } = &mut record.state {
                *runs = true;
            }
        }
    }

    /// It has arrived and runs; what was shared for it is its own again.
    pub(crate) fn arrived(&self, name: &Name, pid: i32) {
        if let Some(record) = lock(&self.trees).get_mut(name) {
            if let State::Arriving { from, .. } = &record.state {
                record.state = State::Here {
                    from: from.clone(),
                    pid,
                };
                record.since = Instant::now();
                record.files.clear();
                let _ = fs::remove_file(path_of(name));
            }
        }
    }

    /// It is about to leave. Gives what is known of it, for [`Registry::stayed`].
    pub(crate) fn leave(&self, name: &Name, title: &str) -> Result<Option<(String, i32)>, Problem> {
        let trees = lock(&self.trees);
        let before = match trees.get(name).map(|record| &record.state) {
            None => None,
            Some(State::Here { from, pid }) => Some((from.clone(), *pid)),
            Some(_) => {
                return Err(Problem::new(
                    format!("the job {name} is being moved already"),
                    "vremote jobs shows it",
                ))
            }
        };
        drop(trees);
        self.put(name, title, State::Leaving, Vec::new());
        Ok(before)
    }

    /// It has not left.
    pub(crate) fn stayed(&self, name: &Name, before: Option<(String, i32)>) {
        let mut trees = lock(&self.trees);
        match (before, trees.get_mut(name)) {
            (Some((from, pid)), Some(record)) => {
                record.state = State::Here { from, pid };
                record.files.clear();
            }
            _ => {
                trees.remove(name);
            }
        }
    }

    /// Shares files for it.
    pub(crate) fn hold(&self, name: &Name, files: Vec<(HeldFile, File)>) {
        if let Some(record) = lock(&self.trees).get_mut(name) {
            record.files.extend(files);
        }
    }

    /// It is at `node` now.
    pub(crate) fn moved(&self, name: &Name, node: &str) {
        if let Some(record) = lock(&self.trees).get_mut(name) {
            record.state = State::Moved { to: node.into() };
            record.since = Instant::now();
            if let Err(error) = save(name, record) {
                eprintln!("vremoted: {}: {error}", path_of(name).display());
            }
        }
    }

    /// A tree that is here already, as the daemon starts.
    pub(crate) fn found(&self, name: &Name, title: &str, from: &str, pid: i32) {
        let state = State::Here {
            from: from.into(),
            pid,
        };
        self.put(name, title, state, Vec::new());
    }

    /// Trees that had left before the daemon started; `hold` opens their files.
    pub(crate) fn load(&self, hold: impl Fn(&HeldFile) -> std::io::Result<File>) {
        for entry in fs::read_dir(AWAY).into_iter().flatten().flatten() {
            let name = Name::try_from(entry.file_name().to_string_lossy().into_owned());
            let away = fs::read(entry.path())
                .ok()
                .and_then(|bytes| serde_json::from_slice::<Away>(&bytes).ok());
            let (Ok(name), Some(away)) = (name, away) else {
                continue;
            };
            let files = away.files.into_iter().filter_map(|file| match hold(&file) {
                Ok(open) => Some((file, open)),
                Err(error) => {
                    eprintln!(
                        "vremoted: job {name}: {}: {error}",
                        String::from_utf8_lossy(&file.path)
                    );
                    None
                }
            });
            let files = files.collect();
            self.put(&name, &away.title, State::Moved { to: away.to }, files);
        }
    }

    fn put(&self, name: &Name, title: &str, state: State, files: Vec<(HeldFile, File)>) {
        let record = Record {
            title: title.into(),
            state,
            since: Instant::now(),
            files,
        };
        lock(&self.trees).insert(name.clone(), record);
    }

    /// It is no more.
    pub(crate) fn forget(&self, name: &Name) {
        lock(&self.trees).remove(name);
        let _ = fs::remove_file(path_of(name));
    }

    /// Where it is.
    pub(crate) fn whereabouts(&self, name: &Name) -> Whereabouts {
        match lock(&self.trees).get(name).map(|record| &record.state) {
            None => Whereabouts::Gone,
            Some(State::Here { .. } | State::Arriving { runs: true, .. }) => Whereabouts::Here,
            Some(State::Arriving { .. } | State::Leaving) => Whereabouts::Moving,
            Some(State::Moved { to }) => Whereabouts::Moved(to.clone()),
        }
    }

    /// Names of trees that run here.
    pub(crate) fn here(&self) -> Vec<Name> {
        self.filter(|state| matches!(state, State::Here { .. }).then_some(()))
            .into_iter()
            .map(|(name, ())| name)
            .collect()
    }

    /// Names of trees that have left, and where they are.
    pub(crate) fn away(&self) -> Vec<(Name, String)> {
        self.filter(|state| match state {
            State::Moved { to } => Some(to.clone()),
            _ => None,
        })
    }

    fn filter<T>(&self, wanted: impl Fn(&State) -> Option<T>) -> Vec<(Name, T)> {
        let trees = lock(&self.trees);
        let found = trees.iter();
        found
            .filter_map(|(name, record)| Some((name.clone(), wanted(&record.state)?)))
            .collect()
    }

    /// Ends a job: kills a tree that is here, refuses one that arrives.
    pub(crate) fn stop(&self, name: &Name) -> Result<(), Problem> {
        match lock(&self.trees).get(name).map(|record| &record.state) {
            None => Err(Problem::new(
                format!("there is no job {name}"),
                "vremote jobs lists them",
            )),
            Some(State::Here { .. }) => Cgroup::of(name).kill(),
            Some(State::Arriving { stopper, .. }) => {
                stopper.stop();
                Ok(())
            }
            Some(State::Leaving) => Err(Problem::new(
                "it is leaving: vremote-migrate is at work",
                "stop that with Ctrl-C",
            )),
            Some(State::Moved { to }) => Err(Problem::new(
                format!("it is at {to}"),
                format!("vremote jobs stop {name}, there"),
            )),
        }
    }

    /// All jobs for people.
    pub(crate) fn list(&self) -> Vec<control::Job> {
        let trees = lock(&self.trees);
        let jobs = trees.iter().map(|(name, record)| {
            let (state, node, pid) = match &record.state {
                State::Arriving { from, .. } => ("arriving", from.as_str(), None),
                State::Here { from, pid } => ("here", from.as_str(), Some(*pid)),
                State::Leaving => ("leaving", "", None),
                State::Moved { to } => ("moved", to.as_str(), None),
            };
            control::Job {
                name: name.to_string(),
                title: record.title.clone(),
                state: state.into(),
                node: node.into(),
                pid,
                files: record.files.len(),
                seconds: record.since.elapsed().as_secs(),
            }
        });
        jobs.collect()
    }

    /// Whoever knows `id`, and is `peer`, may send a stream of pages, which comes out of the receiver.
    pub(crate) fn expect(&self, id: JobId, peer: &str) -> Receiver<Channel> {
        let (pages, receiver) = std::sync::mpsc::channel();
        let peer = peer.into();
        lock(&self.waiting).insert(id, Waiting { peer, pages });
        receiver
    }

    /// The job `id` expects nothing any more.
    pub(crate) fn expect_no_more(&self, id: &JobId) {
        lock(&self.waiting).remove(id);
    }

    /// A stream of pages has come.
    pub(crate) fn pages(&self, id: &JobId, channel: Channel) -> Result<(), Problem> {
        let waiting = lock(&self.waiting);
        match waiting.get(id) {
            Some(job) if job.peer == channel.peer.name => job
                .pages
                .send(channel)
                .map_err(|_| Problem::plain("the job has ended")),
            _ => Err(Problem::plain("there is no such job")),
        }
    }
}
