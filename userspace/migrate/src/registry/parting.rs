// SPDX-License-Identifier: GPL-2.0

//! A tree that leaves: until it has left or stays; and, once it has left, where it goes from there.

use std::{fs::File, time::Instant};

use serde::{Deserialize, Serialize};
use vremote_channel::JobId;

use super::{lock, no_such, not_read, Record, Registry, State, Unconfirmed};
use crate::{
    cgroup::Cgroup,
    control::{Departure, HeldFile},
    problem::Problem,
    protocol::{Name, Whereabouts},
    tree::{Asleep, Identity},
};

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

impl Registry {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        commit::Part,
        registry::tests::{registry, tree},
    };
    use std::fs;

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
