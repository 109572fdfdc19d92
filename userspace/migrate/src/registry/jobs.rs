// SPDX-License-Identifier: GPL-2.0

//! What people see of the trees, and do to them: `vremote jobs`.

use super::{lock, no_such, not_read, Registry, State, Unconfirmed};
use crate::{cgroup::Cgroup, control, problem::Problem, protocol::Name};

impl Registry {
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
}
