// SPDX-License-Identifier: GPL-2.0

//! What the daemon knows: the trees that come, are here, leave or have left, and the files that it shares for them. Each change of a state
//! is made with the state before it in view, under one lock: an answer that came late changes nothing.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
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
    claims,
    commit::Part,
    control::{self, Departure, HeldFile},
    problem::Problem,
    protocol::{Name, Whereabouts},
    tree::{Asleep, Identity},
};

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

/// A tree that leaves, and how far that has come: all that a daemon that starts anew has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Parting {
    pub(crate) tree: Departure,
    /// If it had come here: from where, and its first process.
    before: Option<(String, i32)>,
    /// Who is not to be woken. `None`: nobody is, as nobody was stopped but by others.
    pub(crate) asleep: Option<Asleep>,
    /// From the commit on.
    pub(crate) doubt: Option<Doubt>,
}

/// A move that is committed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Doubt {
    /// What the target calls it.
    pub(crate) job: JobId,
    /// The target's boot id then.
    pub(crate) boot: String,
    /// All of the tree.
    pub(crate) processes: Vec<Identity>,
    /// The cgroup that each of them was in.
    #[serde(default)]
    pub(crate) homes: Vec<Option<Cgroup>>,
    /// CRIU has them give out their memory.
    #[serde(default)]
    pub(crate) lazy: bool,
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

/// A tree that leaves or has left, in a file, for a daemon that starts anew.
#[derive(Serialize, Deserialize)]
struct Saved {
    title: String,
    at: Away,
    files: Vec<HeldFile>,
}

/// Where it is.
#[derive(Serialize, Deserialize)]
enum Away {
    Leaving(Box<Parting>),
    Moved { to: String },
}

/// What those files say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// Trees that were about to leave.
    pub(crate) leaving: Vec<Name>,
    /// Trees of which a file cannot be read.
    pub(crate) unread: Vec<Name>,
}

/// Where those files are: not for longer than this node runs.
const AWAY: &str = "/run/vremote/away";

/// What the name of a file ends in that is beside one of them: it says of which move the tree goes on here, found out while no daemon ran.
const STAYED: &str = "stayed";

/// [`Registry::stayed`] for the daemon that is started next.
pub(crate) fn note_stayed(name: &Name, job: &JobId) -> io::Result<()> {
    claims::write(
        &Path::new(AWAY).join(name.as_str()).with_extension(STAYED),
        job,
    )
}

/// A job that waits for a stream of pages.
#[derive(Debug)]
struct Waiting {
    peer: String,
    pages: Sender<Channel>,
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

    /// Notes a tree that leaves or has left. On an error the file is as it was.
    fn save(&self, name: &Name, record: &Record) -> io::Result<()> {
        let at = match &record.state {
            State::Leaving(parting) | State::Undecided { parting, .. } => {
                Away::Leaving(Box::new(parting.clone()))
            }
            State::Moved { to } => Away::Moved { to: to.clone() },
            _ => return Ok(()),
        };
        let saved = Saved {
            title: record.title.clone(),
            at,
            files: record.files.iter().map(|(file, _)| file.clone()).collect(),
        };
        claims::make_private(&self.away)?;
        claims::write(&self.away.join(name.as_str()), &saved)
    }

    /// [`Registry::save`], for want of anything better to do than to say if it fails.
    fn save_moved(&self, name: &Name, record: &Record) {
        if let Err(error) = self.save(name, record) {
            eprintln!("vremoted: {}: {error}", self.away.display());
        }
    }

    fn unsave(&self, name: &Name) {
        let path = self.away.join(name.as_str());
        let _ = fs::remove_file(&path);
        let _ = fs::remove_file(path.with_extension(STAYED));
    }

    /// Whether it was found out, while no daemon ran, that the tree of a move goes on here.
    pub(crate) fn has_stayed(&self, name: &Name, job: &JobId) -> bool {
        let path = self.away.join(name.as_str()).with_extension(STAYED);
        let noted = fs::read(path).map(|bytes| serde_json::from_slice::<JobId>(&bytes));
        // Of an earlier move of the tree it says nothing.
        matches!(noted, Ok(Ok(noted)) if noted == *job)
    }

    /// A tree arrives. It must not be here, nor leaving.
    pub(crate) fn arrive(
        &self,
        name: &Name,
        title: &str,
        from: &str,
        job: JobId,
        stopper: Option<Stopper>,
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
        let left = trees.remove(name);
        let away = left.is_some();
        let state = State::Arriving {
            from: from.into(),
            job,
            stopper,
        };
        let files = left.map(|record| record.files).unwrap_or_default();
        let record = Record {
            away,
            ..Record::new(title, state, files)
        };
        trees.insert(name.clone(), record);
        Ok(())
    }

    /// It did not arrive. If it had been here before, it is where it came from.
    pub(crate) fn not_arrived(&self, name: &Name) {
        let mut trees = lock(&self.trees);
        let Some(record) = trees.get_mut(name) else {
            return;
        };
        if let State::Arriving { from, .. } = &record.state {
            if record.away {
                let to = from.clone();
                record.set(State::Moved { to });
                self.save_moved(name, record);
            } else {
                trees.remove(name);
            }
        }
    }

    /// It runs, and all of it is here, or has been: from now on this node says that it is its own.
    pub(crate) fn runs(&self, name: &Name, unconfirmed: Unconfirmed) {
        if let Some(record) = lock(&self.trees).get_mut(name) {
            record.set(State::Unconfirmed(unconfirmed));
        }
    }

    /// It was let go, and it is not known whether it ran.
    pub(crate) fn unsure(&self, name: &Name) {
        if let Some(record) = lock(&self.trees).get_mut(name) {
            if let State::Arriving { from, job, .. } = &record.state {
                let (from, job) = (from.clone(), *job);
                record.set(State::Unsure { from, job });
            }
        }
    }

    /// Whether the source is still to be asked about this move.
    pub(crate) fn is_open(&self, name: &Name, job: &JobId) -> bool {
        let trees = lock(&self.trees);
        match trees.get(name).map(|record| &record.state) {
            Some(State::Unconfirmed(unconfirmed)) => unconfirmed.job == *job,
            Some(State::Unsure { job: own, .. }) => own == job,
            _ => false,
        }
    }

    /// The source's is no more: it is here for good, and what was shared for it is its own again. If it was not known whether it ran, nothing of
    /// it is left to be known. `before`: what is to be done before anybody can hear of that.
    pub(crate) fn confirm(&self, name: &Name, job: &JobId, before: impl FnOnce()) {
        let mut trees = lock(&self.trees);
        let Some(record) = trees.get_mut(name) else {
            return;
        };
        match &record.state {
            State::Unconfirmed(known) if known.job == *job => {
                let (from, pid) = (known.from.clone(), known.pid);
                // First: a daemon that is killed before the rest of this asks once more, and none says that it is elsewhere.
                self.unsave(name);
                before();
                record.set(State::Here {
                    from,
                    pid,
                    job: Some(*job),
                });
                record.away = false;
                record.files.clear();
            }
            State::Unsure { job: own, .. } if own == job => {
                self.unsave(name);
                before();
                trees.remove(name);
                Cgroup::of(name).remove();
            }
            _ => {}
        }
    }

    /// The source has taken it back. Whether anything of it is to be ended here; until then this node does not say that it has.
    pub(crate) fn taken_back(&self, name: &Name, job: &JobId) -> bool {
        let mut trees = lock(&self.trees);
        let Some(record) = trees.get_mut(name) else {
            return false;
        };
        let from = match &record.state {
            State::Unconfirmed(known) if known.job == *job => known.from.clone(),
            State::Unsure { from, job: own } if own == job => from.clone(),
            _ => return false,
        };
        record.set(State::Arriving {
            from,
            job: *job,
            stopper: None,
        });
        true
    }

    /// It is about to leave; `of`: the tree that it is a part of, or is. What may have to be ended here must not be elsewhere by then, under
    /// another name.
    pub(crate) fn leave(&self, tree: Departure, of: Option<&Name>) -> Result<(), Problem> {
        let mut trees = lock(&self.trees);
        let name = tree.name.clone();
        for name in [Some(&name), of].into_iter().flatten() {
            match trees.get(name).map(|record| &record.state) {
                None | Some(State::Here { .. }) => {}
                Some(State::Unconfirmed(Unconfirmed { from, .. })) => {
                    return Err(Problem::new(
                        format!(
                            "it has come from {from}, and it is not known yet that it does not go on there"
                        ),
                        format!("wait until {from} answers; vremote jobs says what to do if it never does"),
                    ))
                }
                Some(State::Unread) => {
                    return Err(not_read(name))
                }
                Some(_) => {
                    return Err(Problem::new(
                        format!("the job {name} is being moved already"),
                        "vremote jobs shows it",
                    ))
                }
            }
        }
        let before = match trees.get(&name).map(|record| &record.state) {
            Some(State::Here { from, pid, .. }) => Some((from.clone(), *pid)),
            _ => None,
        };
        let title = tree.title.clone();
        let parting = Parting {
            tree,
            before,
            asleep: None,
            doubt: None,
        };
        trees.insert(
            name,
            Record::new(&title, State::Leaving(parting), Vec::new()),
        );
        Ok(())
    }

    /// How far a tree that leaves has come.
    pub(crate) fn parting(&self, name: &Name) -> Option<Parting> {
        match lock(&self.trees).get(name).map(|record| &record.state) {
            Some(State::Leaving(parting) | State::Undecided { parting, .. }) => {
                Some(parting.clone())
            }
            _ => None,
        }
    }

    /// It has come further. That is noted when this returns; on an error it has not.
    pub(crate) fn advance(
        &self,
        name: &Name,
        change: impl FnOnce(&mut Parting),
    ) -> Result<(), Problem> {
        let mut trees = lock(&self.trees);
        let Some(record) = trees.get_mut(name) else {
            return Err(no_such(name));
        };
        let State::Leaving(parting) = &mut record.state else {
            return Err(Problem::plain("it does not leave"));
        };
        let before = parting.clone();
        change(parting);
        let saved = self.save(name, record);
        saved.map_err(|error| {
            record.state = State::Leaving(before);
            Problem::new(
                format!("{}: {error}", self.away.display()),
                "is there room in /run?",
            )
        })
    }

    /// Nobody moves it any more, and it is not known whose it is: an operator may decide, or this daemon when it is known.
    pub(crate) fn undecided(&self, name: &Name) {
        if let Some(record) = lock(&self.trees).get_mut(name) {
            if let State::Leaving(parting) = &record.state {
                let parting = parting.clone();
                record.set(State::Undecided {
                    parting,
                    unsure: false,
                });
            }
        }
    }

    /// Whether its target has said that it does not know either.
    pub(crate) fn unsure_there(&self, name: &Name, is_so: bool) {
        if let Some(record) = lock(&self.trees).get_mut(name) {
            if let State::Undecided { unsure, .. } = &mut record.state {
                *unsure = is_so;
            }
        }
    }

    /// Takes the decision whose it is, which nobody else can take then. `None`: somebody has.
    pub(crate) fn decide(&self, name: &Name) -> Option<Parting> {
        let mut trees = lock(&self.trees);
        let record = trees.get_mut(name)?;
        let State::Undecided { parting, .. } = &record.state else {
            return None;
        };
        let parting = parting.clone();
        record.state = State::Leaving(parting.clone());
        Some(parting)
    }

    /// It has not left.
    pub(crate) fn stayed(&self, name: &Name) {
        let mut trees = lock(&self.trees);
        let Some(record) = trees.get_mut(name) else {
            return;
        };
        let State::Leaving(parting) = &record.state else {
            return;
        };
        // What could not be put back where it was is a job as if it had come here.
        let kept = Cgroup::of(name).is_populated();
        let kept = kept.then(|| (String::new(), parting.tree.root.pid));
        match parting.before.clone().or(kept) {
            Some((from, pid)) => {
                record.set(State::Here {
                    from,
                    pid,
                    job: None,
                });
                record.files.clear();
            }
            None => {
                trees.remove(name);
            }
        }
        self.unsave(name);
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
            if !matches!(record.state, State::Leaving(_)) {
                return;
            }
            record.set(State::Moved { to: node.into() });
            // If that fails the file says that it is undecided: a daemon that starts anew asks.
            self.save_moved(name, record);
        }
    }

    /// What the node `at` has said about a tree that had left for it `since` then.
    pub(crate) fn follow(
        &self,
        name: &Name,
        at: &str,
        since: Instant,
        said: &Whereabouts,
        own: &str,
    ) {
        let mut trees = lock(&self.trees);
        let Some(record) = trees.get_mut(name) else {
            return;
        };
        let is_same = matches!(&record.state, State::Moved { to } if to == at);
        if !is_same || record.since != since {
            // It has come back in the meantime, and may have left again.
            return;
        }
        match said {
            Whereabouts::Gone => {
                trees.remove(name);
                self.unsave(name);
                Cgroup::of(name).remove();
            }
            Whereabouts::Moved(to) if to != own => {
                record.set(State::Moved { to: to.clone() });
                self.save_moved(name, record);
            }
            _ => {}
        }
    }

    /// Removes the cgroup of a tree that has left, if it is empty. Another one may be arriving by then.
    pub(crate) fn tidy(&self, name: &Name) {
        let trees = lock(&self.trees);
        if let Some(State::Moved { .. }) = trees.get(name).map(|record| &record.state) {
            Cgroup::of(name).remove();
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

    /// Trees that had left, or were about to, before the daemon started; `hold` opens their files.
    pub(crate) fn load(&self, hold: impl Fn(&HeldFile) -> io::Result<File>) -> io::Result<Loaded> {
        let mut loaded = Loaded::default();
        claims::tidy(&self.away);
        let entries = match fs::read_dir(&self.away) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(loaded),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = Name::try_from(entry.file_name().to_string_lossy().into_owned());
            let Ok(name) = name else {
                continue;
            };
            let saved = fs::read(entry.path())
                .and_then(|bytes| serde_json::from_slice::<Saved>(&bytes).map_err(io::Error::from));
            let saved = match saved {
                Ok(saved) => saved,
                Err(error) => {
                    eprintln!(
                        "vremoted: job {name}: {}: {error}; remove it if you know that the tree is not at another node",
                        entry.path().display()
                    );
                    loaded.unread.push(name);
                    continue;
                }
            };
            let files = saved
                .files
                .into_iter()
                .filter_map(|file| match hold(&file) {
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
            let state = match saved.at {
                Away::Leaving(parting) => {
                    loaded.leaving.push(name.clone());
                    State::Leaving(*parting)
                }
                Away::Moved { to } => State::Moved { to },
            };
            lock(&self.trees).insert(name, Record::new(&saved.title, state, files));
        }
        Ok(loaded)
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

    /// Ends a job: kills a tree that is here, refuses one that arrives. One that is undecided is for [`crate::leaving`].
    pub(crate) fn stop(&self, name: &Name) -> Result<(), Problem> {
        match lock(&self.trees).get(name).map(|record| &record.state) {
            None => Err(no_such(name)),
            Some(State::Here { .. } | State::Unconfirmed(_) | State::Unread) => {
                Cgroup::of(name).kill()
            }
            Some(State::Arriving { stopper, .. }) => match stopper {
                Some(stopper) => {
                    stopper.stop();
                    Ok(())
                }
                None => Err(Problem::new(
                    "it is being found out what has become of it",
                    "try again in a minute: vremote jobs shows it",
                )),
            },
            Some(State::Unsure { from, .. }) => Err(Problem::new(
                "nothing of it is here",
                format!("vremote jobs stop, or resume, {name} at {from}; vremote jobs forget {name} here has {from} resume it, once it asks"),
            )),
            Some(State::Leaving(_) | State::Undecided { .. }) => Err(Problem::new(
                "it is leaving: vremote-migrate is at work",
                "stop that with Ctrl-C",
            )),
            Some(State::Moved { to }) => Err(Problem::new(
                format!("it is at {to}"),
                format!("vremote jobs stop {name}, there; vremote jobs forget {name}, if that node never comes back"),
            )),
        }
    }

    /// A tree that runs here, and may run at its source, for all that is known.
    pub(crate) fn unconfirmed(&self, name: &Name) -> Result<Unconfirmed, Problem> {
        match lock(&self.trees).get(name).map(|record| &record.state) {
            None => Err(no_such(name)),
            Some(State::Unconfirmed(unconfirmed)) => Ok(unconfirmed.clone()),
            Some(State::Unsure { from, .. }) => Err(Problem::new(
                "nothing of it is here",
                format!("vremote jobs resume {name} at {from}"),
            )),
            Some(State::Unread) => Err(not_read(name)),
            Some(_) => Err(Problem::plain(
                "it is not in doubt where it runs: there is nothing to decide",
            )),
        }
    }

    /// Lets go what is kept for a tree whose other node never comes back. `before`: what is to be done before anybody can hear of that; it is
    /// told of a tree that has run here and ended, which its source must not run again.
    pub(crate) fn forget(
        &self,
        name: &Name,
        before: impl FnOnce(Option<&Unconfirmed>) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let mut trees = lock(&self.trees);
        let ended = match trees.get(name).map(|record| &record.state) {
            None => return Err(no_such(name)),
            Some(State::Moved { .. } | State::Unsure { .. }) => None,
            Some(State::Unconfirmed(known)) if !Cgroup::of(name).is_populated() => Some(known),
            Some(State::Unread) => return Err(not_read(name)),
            Some(_) => {
                return Err(Problem::new(
                    "there are processes of it here",
                    format!("vremote jobs stop {name}"),
                ))
            }
        };
        before(ended)?;
        trees.remove(name);
        self.unsave(name);
        Cgroup::of(name).remove();
        Ok(())
    }

    /// All jobs for people.
    pub(crate) fn list(&self) -> Vec<control::Job> {
        let trees = lock(&self.trees);
        let jobs = trees.iter().map(|(name, record)| {
            let (state, node, pid, advice) = match &record.state {
                State::Arriving { from, .. } => ("arriving", from.as_str(), None, None),
                State::Unconfirmed(Unconfirmed { from, pid, .. }) => (
                    "unconfirmed",
                    from.as_str(),
                    Some(*pid),
                    Some(format!(
                        "it is here; whether {from} has ended its copy is asked until {from} says so, and until then it cannot be moved. \
                         If {from} never comes back: vremote jobs resume {name}"
                    )),
                ),
                State::Unsure { from, .. } => (
                    "unsure",
                    from.as_str(),
                    None,
                    Some(format!(
                        "nothing of it is here, and vremoted was killed in the moment in which it was to begin: whether it has run is not \
                         known. At {from}: vremote jobs resume {name} lets it go on from where it was, vremote jobs stop {name} ends it. \
                         vremote jobs forget {name}, here, is as good as that resume"
                    )),
                ),
                State::Here { from, pid, .. } => ("here", from.as_str(), Some(*pid), None),
                State::Leaving(parting) => ("leaving", parting.tree.to.as_str(), None, None),
                State::Undecided { parting, unsure } => {
                    let to = &parting.tree.to;
                    let why = if *unsure {
                        format!("{to} does not know whether it has run there")
                    } else {
                        format!("{to} was told to run it and has not said yet what became of it; it is asked until it does")
                    };
                    (
                        "undecided",
                        to.as_str(),
                        Some(parting.tree.root.pid),
                        Some(format!(
                            "it stands still: {why}. If you know that it does not run there: vremote jobs resume {name}; to end it here: \
                             vremote jobs stop {name}"
                        )),
                    )
                }
                State::Moved { to } => ("moved", to.as_str(), None, None),
                State::Unread => (
                    "unread",
                    "",
                    Cgroup::of(name).first(),
                    Some(format!(
                        "what is noted about it cannot be read: the log of vremoted says where. It stays as it is, and this node says of moves \
                         that it does not know that they are undecided, until that is put right and vremoted is started anew. vremote jobs \
                         stop {name} ends what is here of it"
                    )),
                ),
            };
            control::Job {
                name: name.to_string(),
                title: record.title.clone(),
                state: state.into(),
                node: node.into(),
                pid,
                files: record.files.len(),
                seconds: record.since.elapsed().as_secs(),
                advice,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(name: &Name) -> Departure {
        Departure {
            name: name.clone(),
            root: Identity::of(std::process::id() as i32).unwrap(),
            child: false,
            title: "prog".into(),
            to: "b".into(),
        }
    }

    fn commit(registry: &Registry, name: &Name, job: JobId) {
        let doubt = Doubt {
            job,
            boot: "1".into(),
            processes: Vec::new(),
            homes: Vec::new(),
            lazy: false,
        };
        registry
            .advance(name, |parting| parting.doubt = Some(doubt))
            .unwrap();
    }

    fn registry() -> (tempfile::TempDir, Registry) {
        let place = tempfile::tempdir().unwrap();
        let registry = Registry::at(place.path().join("away"));
        (place, registry)
    }

    fn never(_: &HeldFile) -> io::Result<File> {
        Err(io::Error::other("there are none"))
    }

    #[test]
    fn a_commit_outlives_the_daemon() {
        let (place, registry) = registry();
        let (name, job) = (Name::new().unwrap(), JobId::new());
        registry.leave(tree(&name), None).unwrap();
        assert_eq!(registry.part(&job), Part::Nothing);
        commit(&registry, &name, job);
        assert_eq!(registry.part(&job), Part::Undecided);
        let again = Registry::at(place.path().join("away"));
        assert_eq!(again.load(never).unwrap().leaving, [name.clone()]);
        assert_eq!(again.part(&job), Part::Undecided);
        again.undecided(&name);
        assert!(again.list()[0].advice.is_some());
        // Two decide: one does.
        assert!(again.decide(&name).is_some());
        assert!(again.decide(&name).is_none());
        again.moved(&name, "b");
        assert_eq!(again.part(&job), Part::Nothing);
        let last = Registry::at(place.path().join("away"));
        assert_eq!(last.load(never).unwrap(), Loaded::default());
        assert_eq!(last.whereabouts(&name), Whereabouts::Moved("b".into()));
    }

    #[test]
    fn what_was_found_out_is_of_one_move() {
        let (place, registry) = registry();
        let (name, job) = (Name::new().unwrap(), JobId::new());
        registry.leave(tree(&name), None).unwrap();
        commit(&registry, &name, job);
        assert!(!registry.has_stayed(&name, &job));
        let note = place
            .path()
            .join("away")
            .join(name.as_str())
            .with_extension(STAYED);
        claims::write(&note, &job).unwrap();
        assert!(registry.has_stayed(&name, &job));
        assert!(!registry.has_stayed(&name, &JobId::new()));
        registry.stayed(&name);
        assert!(!note.exists());
    }

    #[test]
    fn what_cannot_be_read_does_not_leave() {
        let (place, registry) = registry();
        let (name, job) = (Name::new().unwrap(), JobId::new());
        let away = place.path().join("away");
        assert_eq!(registry.load(never).unwrap(), Loaded::default());
        fs::create_dir(&away).unwrap();
        fs::write(away.join(name.as_str()), "{}").unwrap();
        assert_eq!(registry.load(never).unwrap().unread, [name.clone()]);
        registry.unread(&name);
        registry.found(&name, "prog", 7);
        assert!(registry.leave(tree(&name), None).is_err());
        assert!(registry.arrive(&name, "prog", "b", job, None).is_err());
        assert_eq!(registry.whereabouts(&name), Whereabouts::Moving);
        assert!(away.join(name.as_str()).exists());
    }

    #[test]
    fn a_commit_that_cannot_be_noted_is_none() {
        let (place, registry) = registry();
        let (name, job) = (Name::new().unwrap(), JobId::new());
        registry.leave(tree(&name), None).unwrap();
        fs::write(place.path().join("away"), "no directory").unwrap();
        let doubt = Doubt {
            job,
            boot: "1".into(),
            processes: Vec::new(),
            homes: Vec::new(),
            lazy: false,
        };
        assert!(registry
            .advance(&name, |parting| parting.doubt = Some(doubt))
            .is_err());
        assert_eq!(registry.part(&job), Part::Nothing);
        assert!(registry.parting(&name).unwrap().doubt.is_none());
    }

    #[test]
    fn an_unconfirmed_tree_is_owned_and_stays() {
        let (_place, registry) = registry();
        let (name, job) = (Name::new().unwrap(), JobId::new());
        registry.arrive(&name, "prog", "a", job, None).unwrap();
        assert_eq!(registry.part(&job), Part::Undecided);
        let known = Unconfirmed {
            from: "a".into(),
            job,
            boot: "1".into(),
            pid: 7,
        };
        registry.runs(&name, known);
        assert_eq!(registry.part(&job), Part::Owner);
        assert!(registry.is_open(&name, &job));
        let part = Name::new().unwrap();
        assert!(registry.leave(tree(&name), None).is_err());
        assert!(registry.leave(tree(&part), Some(&name)).is_err());
        // An answer about another move changes nothing.
        assert!(!registry.taken_back(&name, &JobId::new()));
        registry.confirm(&name, &JobId::new(), || unreachable!());
        assert!(registry.is_open(&name, &job));
        registry.confirm(&name, &job, || ());
        assert_eq!(registry.part(&job), Part::Owner);
        assert!(!registry.taken_back(&name, &job));
        registry.leave(tree(&part), Some(&name)).unwrap();
        registry.leave(tree(&name), Some(&name)).unwrap();
        assert_eq!(registry.part(&job), Part::Nothing);
    }

    #[test]
    fn what_is_away_stays_so_if_it_does_not_come_back() {
        let (place, registry) = registry();
        let (name, job) = (Name::new().unwrap(), JobId::new());
        registry.leave(tree(&name), None).unwrap();
        registry.moved(&name, "b");
        // By way of another node; with no files that are shared for it.
        registry.arrive(&name, "prog", "c", job, None).unwrap();
        assert!(registry.stop(&name).is_err());
        registry.not_arrived(&name);
        assert_eq!(registry.whereabouts(&name), Whereabouts::Moved("c".into()));
        let again = Registry::at(place.path().join("away"));
        again.load(never).unwrap();
        assert_eq!(again.whereabouts(&name), Whereabouts::Moved("c".into()));
        let other = Name::new().unwrap();
        registry.arrive(&other, "prog", "c", job, None).unwrap();
        registry.not_arrived(&other);
        assert_eq!(registry.whereabouts(&other), Whereabouts::Gone);
    }

    #[test]
    fn a_late_answer_forgets_nothing() {
        let (_place, registry) = registry();
        let (name, job) = (Name::new().unwrap(), JobId::new());
        registry.leave(tree(&name), None).unwrap();
        registry.moved(&name, "b");
        let (_, (at, since)) = registry.away().remove(0);
        // It comes back, fails to arrive, or leaves once more, before the answer.
        registry.arrive(&name, "prog", "b", job, None).unwrap();
        registry.follow(&name, &at, since, &Whereabouts::Gone, "a");
        assert_eq!(registry.whereabouts(&name), Whereabouts::Moving);
        let known = Unconfirmed {
            from: "b".into(),
            job,
            boot: "1".into(),
            pid: 7,
        };
        registry.runs(&name, known);
        registry.confirm(&name, &job, || ());
        registry.leave(tree(&name), None).unwrap();
        registry.moved(&name, "b");
        registry.follow(&name, &at, since, &Whereabouts::Gone, "a");
        assert_eq!(registry.whereabouts(&name), Whereabouts::Moved("b".into()));
        let (_, (at, since)) = registry.away().remove(0);
        registry.follow(&name, &at, since, &Whereabouts::Moved("c".into()), "a");
        assert_eq!(registry.whereabouts(&name), Whereabouts::Moved("c".into()));
        let (_, (at, since)) = registry.away().remove(0);
        registry.follow(&name, &at, since, &Whereabouts::Gone, "a");
        assert_eq!(registry.whereabouts(&name), Whereabouts::Gone);
    }
}
