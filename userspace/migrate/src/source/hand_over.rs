// SPDX-License-Identifier: GPL-2.0

//! The handing over: the target has the tree, and is told to let it run. From then on one node has to find out from the other where it does.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{Move, ANSWER_LIMIT};
use crate::{
    control::Command,
    problem::Problem,
    protocol::{Answer, Request, Whereabouts},
    target::{ask, out_of_order},
    tree::descendants,
};

/// What becomes of a committed tree is known within this, or the tree goes on here: the target has stopped its own by then.
const UNCERTAIN_LIMIT: Duration = Duration::from_secs(60);

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
            child: self.order.child.then_some(self.order.pid),
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
        // on, but it stops at once, until the daemon has found out.
        self.tree.processes = descendants(self.order.pid)?;
        self.daemon
            .ask(&Command::Committing(self.tree.processes.clone()))?;
        self.signal(Signal::STOP);
        Ok(())
    }

    /// Tells the daemon that the tree is at the target.
    pub(super) fn left(&mut self) {
        let moved = Command::Moved(self.peer.name.clone());
        if let Err(problem) = self.daemon.ask(&moved) {
            eprintln!("vremote-migrate: the daemon of this node does not hear that the tree has left: {problem}");
        }
    }

    /// After a commit without an answer: where does the tree run?
    pub(super) fn find_out(&self, problem: Problem) -> Result<i32, Problem> {
        let since = Instant::now();
        loop {
            match ask(&self.node, &self.peer.name, &self.name) {
                Ok((_, boot)) if boot != self.boot => {
                    return Err(problem.within(&format!("{} has started anew", self.peer.name)))
                }
                Ok((Whereabouts::Here, _)) => return Ok(self.order.pid),
                Ok((Whereabouts::Gone | Whereabouts::Moved(_), _)) => return Err(problem),
                Ok((Whereabouts::Moving, _)) | Err(_) => {}
            }
            if since.elapsed() > UNCERTAIN_LIMIT {
                return Err(problem.within(&format!(
                    "{} does not say whether the tree runs there; if it does, it stands still, and ends when it hears that \
                     it goes on here",
                    self.peer.name
                )));
            }
            thread::sleep(ASK_PAUSE);
        }
    }
}
