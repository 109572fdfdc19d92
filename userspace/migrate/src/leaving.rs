// SPDX-License-Identifier: GPL-2.0

//! Trees that programs of this node move away, as `vremoted` sees it: if such a program ends without a word, the daemon finds out where its
//! tree goes on, and sees to it that it does.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    control::Departure,
    problem::Problem,
    protocol::{Name, Whereabouts},
    source,
    target::{self, Place},
    tree::{ancestors, descendants, is_held, is_stopped, signal, Asleep},
};

/// A target that does not say within this what runs there has stopped it, and ends it when it hears that it goes on here.
const UNCERTAIN_LIMIT: Duration = Duration::from_secs(60);

/// Pause between two questions to the target.
const ASK_PAUSE: Duration = Duration::from_secs(1);

/// A CRIU to which nobody listens any more has ended within this.
const CRIU_ENDS_LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked whether it has.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Looks in a row that show no CRIU: then there is none, and what it has stopped last has stopped.
const QUIET_LOOKS: u32 = 20;

/// Who wants to move a tree of which another program has not let go waits for that so long.
const CHARGE_LIMIT: Duration = Duration::from_secs(10);

/// Trees that are in somebody's charge, by their first processes: one program moves a tree, or one that it is part of, and nobody wakes it
/// meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Charges {
    roots: Mutex<HashSet<i32>>,
    given_back: Condvar,
}

impl Charges {
    /// A panic in another thread leaves the set whole.
    fn lock(&self) -> MutexGuard<'_, HashSet<i32>> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `others`: what is above and below it.
    fn take(&self, root: i32, others: &[i32]) -> Result<Charge<'_>, Problem> {
        let taken = |roots: &mut HashSet<i32>| {
            roots.contains(&root) || others.iter().any(|other| roots.contains(other))
        };
        let waited = self
            .given_back
            .wait_timeout_while(self.lock(), CHARGE_LIMIT, taken);
        let (mut roots, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if taken(&mut roots) {
            return Err(Problem::new(
                format!("process {root} is being moved already"),
                "vremote jobs shows it; try again when that has ended",
            ));
        }
        roots.insert(root);
        Ok(Charge { all: self, root })
    }
}

/// The charge of a tree.
struct Charge<'a> {
    all: &'a Charges,
    root: i32,
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(&self.root);
        self.all.given_back.notify_all();
    }
}

/// Where a tree goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nobody has said yet.
    Open,
    Here,
    There,
}

/// A tree that a program of this node moves away.
pub(crate) struct Leaving<'a> {
    place: &'a Place,
    tree: Departure,
    before: Option<(String, i32)>,
    fate: Fate,
    /// Who is not to be woken. `None`: nobody is, as nobody was stopped but by others.
    asleep: Option<Asleep>,
    /// Processes that stand still since the commit.
    stopped: Vec<i32>,
    /// Given back last.
    _charge: Charge<'a>,
}

impl<'a> Leaving<'a> {
    /// A program begins to move a tree. Waits until no other one does.
    pub(crate) fn begin(place: &'a Place, tree: Departure) -> Result<Leaving<'a>, Problem> {
        let family = [&descendants(tree.root)?[1..], &ancestors(tree.root)].concat();
        let charge = place.charges.take(tree.root, &family)?;
        let before = place.registry.leave(&tree.name, &tree.title)?;
        Ok(Leaving {
            place,
            tree,
            before,
            fate: Fate::Open,
            asleep: None,
            stopped: Vec::new(),
            _charge: charge,
        })
    }

    /// The tree's name.
    pub(crate) fn name(&self) -> &Name {
        &self.tree.name
    }

    /// It is about to be frozen.
    pub(crate) fn freezing(&mut self, asleep: Asleep) {
        self.asleep = Some(asleep);
    }

    /// These processes may soon run at the target.
    pub(crate) fn committing(&mut self, processes: Vec<i32>) {
        self.stopped = processes;
    }

    /// It goes on here, and whoever moved it wakes it.
    pub(crate) fn stayed(&mut self) {
        // The target hears this when it asks.
        let before = self.before.take();
        self.place.registry.stayed(&self.tree.name, before);
        self.fate = Fate::Here;
    }

    /// It is at this node. What is left of it here is ended before the target can hear that: it may come back under the same numbers.
    pub(crate) fn moved(&mut self, to: &str) {
        self.place.registry.moved(&self.tree.name, to);
        signal(&self.stopped, Signal::KILL);
        self.fate = Fate::There;
    }

    /// Whether the tree runs at the target, which was told that it may. Until that is known it stands still here, and this node says
    /// that it is on its way.
    fn runs_there(&self) -> bool {
        let until = Instant::now() + UNCERTAIN_LIMIT;
        loop {
            match target::ask(&self.place.node, &self.tree.to, &self.tree.name) {
                Ok((Whereabouts::Here, _)) => return true,
                Ok((Whereabouts::Gone | Whereabouts::Moved(_), _)) => return false,
                Ok((Whereabouts::Moving, _)) | Err(_) => {}
            }
            if Instant::now() >= until {
                return false;
            }
            thread::sleep(ASK_PAUSE);
        }
    }

    /// Whoever moved it has ended without a word: where does the tree go on?
    fn settle(&mut self) {
        if self.fate != Fate::Open {
            return;
        }
        if !self.stopped.is_empty() && self.runs_there() {
            let to = self.tree.to.clone();
            return self.moved(&to);
        }
        self.stayed();
        if self.tree.child {
            signal(&[self.tree.root], Signal::KILL);
        } else {
            self.wake();
        }
    }

    /// Waits until no CRIU has the tree in its hands, and sees to it that it runs. Whoever was moving it may have stopped it; and a CRIU takes
    /// the end of its stream of lazy memory for a good one, even if the program behind it was killed, and leaves the tree stopped.
    fn wake(&self) {
        let until = Instant::now() + CRIU_ENDS_LIMIT;
        let mut quiet = 0;
        while quiet < QUIET_LOOKS && Instant::now() < until {
            let tree = descendants(self.tree.root);
            quiet = if tree.is_ok() { quiet + 1 } else { 0 };
            for pid in tree.iter().flatten().chain(&self.stopped) {
                if is_held(*pid) {
                    quiet = 0;
                } else if self.stopped.contains(pid) || is_stopped(*pid) {
                    if let Some(asleep) = &self.asleep {
                        asleep.wake_other(*pid);
                    }
                }
            }
            thread::sleep(LOOK_PAUSE);
        }
    }

    /// Takes what there is of images out of the way of the tree's next move. Of a program that was killed there are some, and CRIU, which
    /// has yet to notice that, makes more.
    fn set_aside(&self) -> Option<PathBuf> {
        let images = source::leaving(&self.tree.name);
        let aside = images.with_extension(Name::new().ok()?.as_str());
        fs::rename(images, &aside).is_ok().then_some(aside)
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let aside = self.set_aside();
        self.settle();
        if let Some(images) = aside {
            remove(&images);
        }
    }
}

/// Removes a directory to which a CRIU that is about to end may be adding.
fn remove(directory: &Path) {
    let until = Instant::now() + CRIU_ENDS_LIMIT;
    while let Err(error) = fs::remove_dir_all(directory) {
        if error.kind() == io::ErrorKind::NotFound {
            return;
        }
        if Instant::now() > until {
            return eprintln!("vremoted: {} remains: {error}", directory.display());
        }
        thread::sleep(LOOK_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_in_the_charge_of_one() {
        let all = Charges::default();
        let first = all.take(7, &[1]).unwrap();
        let other = all.take(8, &[1]);
        assert!(other.is_ok());
        thread::scope(|scope| {
            let second = scope.spawn(|| all.take(9, &[7, 1]).is_ok());
            thread::sleep(LOOK_PAUSE);
            assert!(!second.is_finished());
            drop(first);
            assert!(second.join().unwrap());
        });
    }
}
