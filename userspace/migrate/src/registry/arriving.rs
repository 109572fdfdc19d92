// SPDX-License-Identifier: GPL-2.0

//! A tree that comes: until its source's is no more, or until it is clear that it does not come.

use vremote_channel::{JobId, Stopper};

use super::{lock, Record, Registry, State, Unconfirmed};
use crate::{cgroup::Cgroup, problem::Problem, protocol::Name};

impl Registry {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        commit::Part,
        protocol::Whereabouts,
        registry::tests::{never, registry, tree},
    };

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
}
