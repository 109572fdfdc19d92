// SPDX-License-Identifier: GPL-2.0

//! The handing over: the target has the tree, and is told to let it run. From then on one node has to find out from the other where it does.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{not_own, Mode, Move, ANSWER_LIMIT};
use crate::{
    commit::{whose, Whose},
    control::{Command, Commit},
    problem::Problem,
    protocol::{Answer, Request},
    target::{ask, out_of_order},
    tree::is_held,
};

/// What has become of a committed tree is asked by this program for so long; then by the daemon of this node.
const ASK_LIMIT: Duration = Duration::from_secs(60);

/// Between two questions to the target.
const ASK_PAUSE: Duration = Duration::from_secs(1);

/// The target restores within this.
const RESTORE_LIMIT: Duration = Duration::from_secs(600);

/// How far a hand-over had come when it failed.
pub(super) enum Failed {
    /// The tree does not run at the target.
    Before(Problem),
    /// It may.
    After(Problem),
}

impl Move {
    /// With the tree frozen and all pages sent: sends the images, has the target restore them and let the tree run.
    pub(super) fn hand_over(&mut self, images: &Path) -> Result<i32, Problem> {
        self.send_images(images)?;
        let pid = match self.commit() {
            Ok(pid) => pid,
            Err(Failed::Before(problem)) => return Err(problem),
            Err(Failed::After(problem)) => self.find_out(problem)?,
        };
        self.left();
        Ok(pid)
    }

    /// Has the target restore the tree and let it run.
    pub(super) fn commit(&mut self) -> Result<i32, Failed> {
        let restore = Request::Restore {
            shell_job: self.tree.shell_job,
            tcp_established: self.order.tcp_established,
            child: self.order.child.then_some(self.order.root.pid),
        };
        self.prepare_target(&restore).map_err(Failed::Before)?;
        match self.ask(&Request::Commit) {
            Ok(Answer::Running { pid }) => Ok(pid),
            Ok(_) => Err(Failed::After(out_of_order())),
            Err(problem) => Err(Failed::After(problem)),
        }
    }

    fn prepare_target(&mut self, restore: &Request) -> Result<(), Problem> {
        self.reader.set_limit(Some(RESTORE_LIMIT))?;
        match self.ask(restore)? {
            Answer::Prepared => {}
            _ => return Err(out_of_order()),
        }
        self.reader.set_limit(Some(ANSWER_LIMIT))?;
        // From here on it does not run again before the target's fate is known, even if this program is killed: CRIU would let it go
        // on, but the daemon has it frozen, until it has found out.
        self.processes = self.family()?;
        // Now that nobody can become somebody else any more.
        if let Some(owner) = &self.order.owner {
            let all: Vec<_> = self.processes.iter().map(|process| process.pid).collect();
            if let Some(foreign) = owner.foreign(&all) {
                return Err(not_own(foreign, owner.uid));
            }
        }
        self.daemon.ask(&Command::Committing(Commit {
            job: self.id,
            boot: self.boot.clone(),
            processes: self.processes.clone(),
            lazy: self.mode == Mode::Lazy,
        }))?;
        // Of lazy memory it is CRIU that keeps it, and only then the daemon: in between it is stopped.
        self.signal(Signal::STOP)?;
        if !is_held(self.order.root.pid) {
            // It has gone on since it was dumped.
            return Err(Problem::new(
                "CRIU ended and let the process go before it was handed over",
                "try again; the process goes on here",
            ));
        }
        Ok(())
    }

    /// Tells the daemon that the tree is at the target.
    pub(super) fn left(&mut self) {
        if let Err(problem) = self.daemon.ask(&Command::Moved) {
            eprintln!(
                "vremote-migrate: the daemon of this node does not hear that the tree has left: {problem}; when it is started it asks, \
                 and until then shares none of its files"
            );
        }
    }

    /// After a commit without an answer: whose is the tree?
    pub(super) fn find_out(&mut self, problem: Problem) -> Result<i32, Problem> {
        let since = Instant::now();
        let peer = self.peer.name.clone();
        loop {
            if let Ok((part, boot)) = ask(&self.node, &peer, &self.id) {
                let anew = boot != self.boot;
                match whose(part, anew) {
                    Some(Whose::Theirs) => return Ok(self.order.root.pid),
                    Some(Whose::Ours) if anew => {
                        return Err(problem.within(&format!("{peer} has started anew")))
                    }
                    Some(Whose::Ours) => return Err(problem),
                    None => {}
                }
            }
            if since.elapsed() > ASK_LIMIT {
                self.undecided = true;
                return Err(Problem::new(
                    format!(
                        "{}: {peer} was told to run it and does not say what has become of it; it stands still here until that is known",
                        problem.what
                    ),
                    format!(
                        "vremoted asks {peer} until it answers; vremote jobs says what to do if it never does (job {})",
                        self.name
                    ),
                ));
            }
            thread::sleep(ASK_PAUSE);
        }
    }
}
