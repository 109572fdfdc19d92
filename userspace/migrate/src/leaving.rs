// SPDX-License-Identifier: GPL-2.0

//! Trees that programs of this node move away, as `vremoted` sees it: if such a program ends without a word, the daemon finds out where its
//! tree goes on, and sees to it that it does; [`crate::commit`] says by which rules.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    cgroup::Cgroup,
    claims::Claim,
    commit::{whose, Part, Whose},
    control::{Commit, Departure},
    problem::Problem,
    protocol::Name,
    registry::{Doubt, Parting},
    source,
    target::{ask, Place},
    tree::{ancestors, descendants, family, is_held, is_stopped, Asleep, Identity},
};

/// Pause between two questions to the target.
const ASK_PAUSE: Duration = Duration::from_secs(1);

/// A CRIU to which nobody listens any more has ended within this.
const CRIU_ENDS_LIMIT: Duration = Duration::from_secs(60);

/// How often it is looked whether it has.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// The same once it has not within that.
const LONG_PAUSE: Duration = Duration::from_millis(500);

/// Looks in a row that show no CRIU: then there is none, and what it has stopped last has stopped.
const QUIET_LOOKS: u32 = 20;

/// Who wants to move a tree of which another program has not let go waits for that so long.
const CHARGE_LIMIT: Duration = Duration::from_secs(20);

/// Trees that are in somebody's charge, by their first processes: one program moves a tree, or one that it is part of, and nobody wakes it
/// meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Charges {
    roots: Mutex<Vec<i32>>,
    given_back: Condvar,
}

impl Charges {
    /// A panic in another thread leaves the list whole.
    fn lock(&self) -> MutexGuard<'_, Vec<i32>> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `others`: what is above and below it.
    fn take(self: &Arc<Self>, root: i32, others: &[i32]) -> Result<Charge, Problem> {
        let taken = |roots: &mut Vec<i32>| {
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
        roots.push(root);
        Ok(Charge {
            all: self.clone(),
            root,
        })
    }

    /// One that somebody had when the daemon before this one ended. Nobody asks for charges yet.
    fn keep(self: &Arc<Self>, root: i32) -> Charge {
        self.lock().push(root);
        Charge {
            all: self.clone(),
            root,
        }
    }
}

/// The charge of a tree.
pub(crate) struct Charge {
    all: Arc<Charges>,
    root: i32,
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut roots = self.all.lock();
        if let Some(at) = roots.iter().position(|root| *root == self.root) {
            roots.swap_remove(at);
        }
        drop(roots);
        self.all.given_back.notify_all();
    }
}

/// A tree that a program of this node moves away.
pub(crate) struct Leaving<'a> {
    place: &'a Place,
    name: Name,
    /// Given back last.
    _charge: Charge,
}

impl<'a> Leaving<'a> {
    /// A program begins to move a tree. Waits until no other one does.
    pub(crate) fn begin(place: &'a Place, tree: Departure) -> Result<Leaving<'a>, Problem> {
        let root = tree.root.pid;
        let family = [&descendants(root)?[1..], &ancestors(root)].concat();
        let charge = place.charges.take(root, &family)?;
        let name = tree.name.clone();
        let of = Cgroup::tree_of(root);
        place.registry.leave(tree, of.as_ref())?;
        Ok(Leaving {
            place,
            name,
            _charge: charge,
        })
    }

    /// As the daemon starts, before it hears anybody: the charge of a tree that was leaving when the one before it ended.
    pub(crate) fn charge(place: &Place, name: &Name) -> Charge {
        let parting = place.registry.parting(name);
        place
            .charges
            .keep(parting.map_or(0, |parting| parting.tree.root.pid))
    }

    /// That tree. Whoever moves it may still be at work: it hears that the daemon is gone as soon as it has something to say. Waits until CRIU has
    /// done with lazy memory: it could not get at that of a frozen tree.
    pub(crate) fn again(place: &'a Place, name: Name, charge: Charge) -> Leaving<'a> {
        let doubt = place.registry.parting(&name).and_then(|it| it.doubt);
        if let Some(doubt) = doubt.filter(|doubt| doubt.lazy) {
            while doubt.processes.iter().any(|process| is_held(process.pid)) {
                thread::sleep(LOOK_PAUSE);
            }
        }
        Leaving {
            place,
            name,
            _charge: charge,
        }
    }

    /// The tree's name.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// It is about to be frozen.
    pub(crate) fn freezing(&self, asleep: Asleep) -> Result<(), Problem> {
        let advance = |parting: &mut Parting| parting.asleep = Some(asleep);
        self.place.registry.advance(&self.name, advance)
    }

    /// The target is about to be told to let it run: from then on it is frozen.
    pub(crate) fn committing(&self, commit: Commit) -> Result<(), Problem> {
        let all = commit.processes.iter();
        let doubt = Doubt {
            job: commit.job,
            boot: commit.boot,
            homes: all.map(|process| Cgroup::around(process.pid)).collect(),
            processes: commit.processes,
            lazy: commit.lazy,
        };
        let noted = doubt.clone();
        let advance = |parting: &mut Parting| parting.doubt = Some(noted);
        self.place.registry.advance(&self.name, advance)?;
        if commit.lazy {
            return Ok(());
        }
        freeze(&self.name, &doubt)
    }

    /// It goes on here. No CRIU has it in its hands.
    pub(crate) fn stayed(&self) {
        if let Some(parting) = self.place.registry.parting(&self.name) {
            release(&parting);
            if let Some(asleep) = parting.asleep.as_ref().filter(|_| !parting.tree.child) {
                for process in still_there(&parting) {
                    insist(&self.name, || asleep.wake_other(process));
                }
            }
            self.place.registry.stayed(&self.name);
        }
    }

    /// It is at the target.
    pub(crate) fn moved(&self) {
        if let Some(parting) = self.place.registry.parting(&self.name) {
            end(self.place, &parting, Whose::Theirs);
        }
    }

    /// Whoever moved it has ended without a word, or does not know: whose is it? Until that is known it stands still here, and this node says
    /// that it is undecided.
    fn settle(&self) {
        let registry = &self.place.registry;
        let Some(parting) = registry.parting(&self.name) else {
            return;
        };
        let Some(doubt) = &parting.doubt else {
            return end(self.place, &parting, Whose::Ours);
        };
        // An operator has said so, and the daemon that was told was killed before it had let the tree go on; or whoever moved it has found it out
        // while there was no daemon, and it runs.
        let is_ours =
            || self.place.claims.holds(&doubt.job) || registry.has_stayed(&self.name, &doubt.job);
        if !parting.tree.child && is_ours() {
            return end(self.place, &parting, Whose::Ours);
        }
        if let Err(problem) = freeze(&self.name, doubt) {
            // It is stopped, until somebody has it go on.
            eprintln!("vremoted: job {}: it is not frozen: {problem}", self.name);
        }
        // Only now may an operator decide: nobody freezes again what was let go.
        registry.undecided(&self.name);
        loop {
            let whose = if parting.tree.child {
                self.claim_child(&parting, doubt)
            } else if is_ours() {
                Some(Whose::Ours)
            } else {
                match ask(&self.place.node, &parting.tree.to, &doubt.job) {
                    Ok((part, boot)) => {
                        registry.unsure_there(&self.name, part == Part::Unsure);
                        whose(part, boot != doubt.boot)
                    }
                    Err(_) => None,
                }
            };
            // Looked at after the answer: what was killed here is not this node's, whatever the target has forgotten since.
            let mut processes = doubt.processes.iter();
            let whose = if processes.any(|process| process.look().unwrap_or(true)) {
                whose
            } else {
                Some(Whose::Theirs)
            };
            if let Some(whose) = whose {
                if let Some(parting) = registry.decide(&self.name) {
                    end(self.place, &parting, whose);
                }
            }
            // An operator may be about it. Nobody else moves the tree before its charge is given back.
            if registry.parting(&self.name).is_none() {
                return;
            }
            thread::sleep(ASK_PAUSE);
        }
    }

    /// A child's parent has been told that there is none: the target is to end it, whenever it hears that.
    fn claim_child(&self, parting: &Parting, doubt: &Doubt) -> Option<Whose> {
        match claim(self.place, parting, doubt) {
            Ok(()) => Some(Whose::Ours),
            Err(problem) => {
                eprintln!("vremoted: job {}: {problem}", self.name);
                None
            }
        }
    }

    /// Takes what there is of images out of the way of the tree's next move. Of a program that was killed there are some, and CRIU, which
    /// has yet to notice that, makes more.
    fn set_aside(&self) -> Option<PathBuf> {
        let images = source::leaving(&self.name);
        let aside = images.with_extension(Name::new().ok()?.as_str());
        fs::rename(images, &aside).is_ok().then_some(aside)
    }
}

/// Does what may fail only for a while, as without a free descriptor or memory, until it is done: what comes after it relies on that.
fn insist(name: &Name, attempt: impl Fn() -> io::Result<()>) {
    let mut said = false;
    while let Err(error) = attempt() {
        if !said {
            eprintln!("vremoted: job {name}: {error}; that is tried until it succeeds");
        }
        said = true;
        thread::sleep(ASK_PAUSE);
    }
}

/// Sees to it that a tree stands still, whatever signals it is sent: in a cgroup that is frozen. One that has come here is in its own already.
fn freeze(name: &Name, doubt: &Doubt) -> Result<(), Problem> {
    let group = Cgroup::make(name)?;
    let frozen = group.freeze(true).and_then(|()| {
        let mut all = doubt.processes.iter();
        all.try_for_each(|process| group.take_one(process))
    });
    frozen.map_err(|error| Problem::plain(format!("{}: {error}", group.path().display())))
}

/// Puts a tree back where it was, and no longer freezes it. If that place is gone, as with a session that has ended, it goes on where it is. A
/// child, which is never to run here, is ended.
fn release(parting: &Parting) {
    let name = &parting.tree.name;
    let group = Cgroup::of(name);
    if parting.tree.child {
        insist(name, || parting.tree.root.signal(Signal::KILL));
        if let Err(problem) = group.kill() {
            eprintln!("vremoted: job {name}: {problem}");
        }
        return group.remove();
    }
    let Some(doubt) = &parting.doubt else {
        return;
    };
    for (process, home) in doubt.processes.iter().zip(&doubt.homes) {
        let home = home.as_ref().filter(|home| **home != group);
        if let Some(home) = home.filter(|_| process.is_there()) {
            if let Err(error) = home.take(process.pid) {
                eprintln!(
                    "vremoted: process {} is not put back into {}: {error}",
                    process.pid,
                    home.path().display()
                );
            }
        }
    }
    // There may be none, if memory was lazy.
    insist(name, || group.thaw());
    group.remove();
}

/// Notes on the disk that the tree of a move is this node's.
fn claim(place: &Place, parting: &Parting, doubt: &Doubt) -> Result<(), Problem> {
    let claimed = place.claims.add(Claim {
        job: doubt.job,
        peer: parting.tree.to.clone(),
        boot: doubt.boot.clone(),
    });
    claimed.map_err(|error| {
        Problem::new(
            format!("that it is this node's cannot be noted: {error}"),
            "is there room in /var/lib/vremote?",
        )
    })
}

/// An operator lets a tree go on here of which it is not known whether it runs at its target. The claim is made first: from then on the target
/// hears that it is this node's.
pub(crate) fn resume(place: &Place, name: &Name) -> Result<(), Problem> {
    let parting = place.registry.decide(name).ok_or_else(|| {
        Problem::new(
            "it is not in doubt where it runs, or vremote-migrate is at work",
            "vremote jobs shows it",
        )
    })?;
    if let Some(doubt) = &parting.doubt {
        if let Err(problem) = claim(place, &parting, doubt) {
            place.registry.undecided(name);
            return Err(problem);
        }
    }
    end(place, &parting, Whose::Ours);
    Ok(())
}

/// An operator ends a tree here of which it is not known whether it runs at its target: if it does, it is the only one. Whether it was one.
pub(crate) fn stop(place: &Place, name: &Name) -> bool {
    let parting = place.registry.decide(name);
    if let Some(parting) = &parting {
        end(place, parting, Whose::Theirs);
    }
    parting.is_some()
}

/// It is decided whose a tree is.
fn end(place: &Place, parting: &Parting, whose: Whose) {
    let name = &parting.tree.name;
    let processes = parting.doubt.iter().flat_map(|doubt| &doubt.processes);
    match whose {
        Whose::Ours => {
            release(parting);
            if let Some(asleep) = parting.asleep.as_ref().filter(|_| !parting.tree.child) {
                wake(asleep, parting);
            }
            place.registry.stayed(name);
        }
        Whose::Theirs => {
            // Before the target can hear it: the tree may come back under the same numbers.
            for process in processes {
                insist(name, || process.signal(Signal::KILL));
            }
            // Should anybody else be in there. None of the tree is to go on any more.
            insist(name, || Cgroup::of(name).thaw());
            place.registry.moved(name, &parting.tree.to);
        }
    }
}

/// All of a tree that is there: also who was born before it was frozen. Some are named twice.
fn still_there(parting: &Parting) -> Vec<Identity> {
    let known = parting.doubt.iter().flat_map(|doubt| &doubt.processes);
    let known = known.filter(|process| process.look().unwrap_or(true));
    known.copied().chain(family(parting.tree.root)).collect()
}

/// Waits until no CRIU has the tree in its hands, as long as it takes, and sees to it that it runs. Whoever was moving it may have stopped it; and a CRIU takes
/// the end of its stream of lazy memory for a good one, even if the program behind it was killed, and leaves the tree stopped.
fn wake(asleep: &Asleep, parting: &Parting) {
    // These were stopped by us, or are about to stop.
    let known = parting.doubt.iter().flat_map(|doubt| &doubt.processes);
    let known: Vec<_> = known.collect();
    let mut until = Some(Instant::now() + CRIU_ENDS_LIMIT);
    let mut pause = LOOK_PAUSE;
    let mut quiet = 0;
    while quiet < QUIET_LOOKS {
        quiet += 1;
        if until.take_if(|until| Instant::now() > *until).is_some() {
            eprintln!(
                "vremoted: job {}: a CRIU has it in its hands for more than {} s: it stands still until that ends",
                parting.tree.name,
                CRIU_ENDS_LIMIT.as_secs()
            );
            pause = LONG_PAUSE;
        }
        for process in still_there(parting) {
            let is_ours = || known.contains(&&process) || is_stopped(process.pid);
            if is_held(process.pid) || is_ours() && asleep.wake_other(process).is_err() {
                quiet = 0;
            }
        }
        thread::sleep(pause);
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

/// As the daemon starts: removes the images that the one before it had set aside.
pub(crate) fn tidy() {
    let entries = fs::read_dir(source::LEAVING)
        .into_iter()
        .flatten()
        .flatten();
    for path in entries.map(|entry| entry.path()) {
        if path.extension().is_some() {
            let _ = fs::remove_dir_all(path);
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
        let all = Arc::new(Charges::default());
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
