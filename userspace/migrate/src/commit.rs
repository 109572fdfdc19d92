// SPDX-License-Identifier: GPL-2.0

//! Whose a tree is once its move is committed: the source's, which stands still, or the target's. Exactly one of them ever runs.
//!
//! A move is known to both nodes by its [`JobId`](vremote_channel::JobId). Each can ask the other for its *part* in it ([`Part`]), and each keeps
//! its own part in a file, written before anything is done that depends on it: the source below `/run`, for its tree is no more once the node
//! has started anew, the target beside the images.
//!
//! | the source has | its part | the target has | its part |
//! |---|---|---|---|
//! | not sent `Commit` | it goes on here after any failure | received images, restored the tree | undecided |
//! | sent `Commit`; its tree is frozen | undecided | let it go, and may have to take it back (lazy memory) | undecided |
//! | killed its tree | nothing | a tree that runs for good, or has run and ended | owner |
//! | let its tree go on | nothing | failed, and killed what it had made | nothing |
//! | been told by an operator to go on | owner | been told so | owner |
//! | | | let it go in the moment in which its daemon was killed, and finds nothing of it | unsure |
//!
//! *Nothing* says that nothing of this move runs on that node, or ever will. Who does not know a move says that.
//! Both read the other's answer in the same way ([`whose`]):
//!
//! | the other is | so here |
//! |---|---|
//! | owner | what is here is ended |
//! | nothing, or has started anew since the commit | what is here goes on: it is the only one |
//! | undecided, unsure or silent | what is here stays as it is: the source's tree stands still, the target's runs on. It is asked again |
//!
//! So the target's tree needs no lease: once it has begun the source's stands still until it is known that the target's is no more. What is
//! done after a failure:
//!
//! | what fails | the source | the target |
//! |---|---|---|
//! | before `Commit` | goes on at once | takes everything back: the connection has ended |
//! | the connection, after `Commit` | stands still and asks | runs on and asks (lazy, and memory is missing: kills its tree) |
//! | `vremote-migrate` | its daemon asks in its place | as above |
//! | the source's `vremoted` | its file says that it is undecided; the next one asks, if `vremote-migrate` has not found out before | asks until there is one |
//! | the target's `vremoted` | as for the connection | its file says whether the tree was let go. If so, and the tree is there, it runs; if not, what is there is killed |
//! | CRIU of the target | hears "nothing" | kills what there is |
//! | the source starts anew | nothing of it is there | runs on as the only one |
//! | the target starts anew | goes on from where it was frozen; what was done there is not undone | nothing of it is there |
//! | one of them never comes back | stands still; `vremote jobs` says so; `resume` or `stop` | runs on; it cannot be moved before `resume` |
//!
//! An operator who lets a tree go on (`vremote jobs resume`) decides what nobody can know. That is kept on the disk ([`crate::claims`]), so that the
//! other node ends its copy whenever it is back, even if this one has started anew or the tree has moved on since.
//!
//! A child of `vremote_fork()` never runs on its source. If it is not known whether it does at the target, its parent is told that there is no
//! child, and the source claims it, so that the target ends it.

use serde::{Deserialize, Serialize};

/// A node's part in a move, as it tells the other node of that move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// It is not decided yet: ask again.
    Undecided,
    /// The tree is this node's: it runs here or has ended here.
    Owner,
    /// Nothing of it runs here or ever will.
    Nothing,
    /// It was let go here, nothing of it is here, and whether it ran in between is not known.
    Unsure,
}

/// Who has a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// This node.
    Ours,
    /// The other one of the move.
    Theirs,
}

/// Whose the tree is, by the other node's answer; `started_anew`: that node has, since the commit. `None`: that is not known yet.
pub(crate) fn whose(part: Part, started_anew: bool) -> Option<Whose> {
    match part {
        // Also if it has started anew: an operator has said so, and the tree was that node's until then.
        Part::Owner => Some(Whose::Theirs),
        Part::Nothing => Some(Whose::Ours),
        Part::Undecided | Part::Unsure => started_anew.then_some(Whose::Ours),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashSet, VecDeque};

    use super::*;

    /// The source's side of a move from the commit on.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    enum Source {
        /// `Commit` is about to be sent; the file says "undecided", the tree stands still.
        Undecided,
        /// Its tree goes on.
        Runs,
        /// An operator has said so.
        Claims,
        /// Its tree was killed.
        Killed,
        /// The node has started anew, and has claimed the tree before or not.
        Anew { claims: bool },
    }

    /// The target's side.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    enum Target {
        /// Restored, waiting.
        Prepared,
        /// `Commit` has come and is noted; CRIU has not been told yet.
        Noted,
        /// It runs; for good, or until its memory turns out to be missing.
        Runs { complete: bool },
        /// It has ended by itself, and the source does not know.
        Ended,
        /// Its daemon was killed with the tree just noted; nothing is there.
        Unsure,
        /// The source's is known to be no more; the tree runs or has ended.
        Settled { runs: bool },
        /// An operator has said that it is this node's.
        Claims { runs: bool },
        /// All was killed.
        Nothing,
        /// The node has started anew.
        Anew { claims: bool },
    }

    /// Of both, and what is under way between them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct World {
        source: Source,
        target: Target,
        /// `Commit` may still arrive.
        commit: bool,
        /// An operator has decided.
        forced: bool,
        /// The target's tree may have run to its end, or was lost with its node.
        done: bool,
    }

    impl World {
        fn start() -> World {
            World {
                source: Source::Undecided,
                target: Target::Prepared,
                commit: true,
                forced: false,
                done: false,
            }
        }

        fn source_part(&self) -> Part {
            match self.source {
                Source::Undecided => Part::Undecided,
                Source::Claims | Source::Anew { claims: true } => Part::Owner,
                Source::Runs | Source::Killed | Source::Anew { claims: false } => Part::Nothing,
            }
        }

        fn target_part(&self) -> Part {
            match self.target {
                Target::Prepared | Target::Noted | Target::Runs { complete: false } => {
                    Part::Undecided
                }
                Target::Runs { complete: true }
                | Target::Ended
                | Target::Claims { .. }
                | Target::Anew { claims: true } => Part::Owner,
                // It may have moved on: then it is not known any more.
                Target::Settled { .. } | Target::Nothing | Target::Anew { claims: false } => {
                    Part::Nothing
                }
                Target::Unsure => Part::Unsure,
            }
        }

        fn source_runs(&self) -> bool {
            matches!(self.source, Source::Runs | Source::Claims)
        }

        fn target_runs(&self) -> bool {
            matches!(
                self.target,
                Target::Runs { .. }
                    | Target::Settled { runs: true }
                    | Target::Claims { runs: true }
            )
        }

        /// All that can happen next.
        fn next(&self, operators: bool) -> Vec<World> {
            let mut all = Vec::new();
            let mut add = |world: World| all.push(world);
            // The source asks, as long as it is undecided.
            if self.source == Source::Undecided {
                let anew = matches!(self.target, Target::Anew { .. });
                match whose(self.target_part(), anew) {
                    Some(Whose::Ours) => add(World {
                        source: Source::Runs,
                        ..*self
                    }),
                    Some(Whose::Theirs) => add(World {
                        source: Source::Killed,
                        ..*self
                    }),
                    None => {}
                }
                if operators {
                    add(World {
                        source: Source::Claims,
                        forced: true,
                        ..*self
                    });
                }
            }
            if !matches!(self.source, Source::Anew { .. }) {
                add(World {
                    source: Source::Anew {
                        claims: self.source == Source::Claims,
                    },
                    commit: false,
                    ..*self
                });
            }
            let target = |target| World { target, ..*self };
            let done = |target| World {
                target,
                done: true,
                ..*self
            };
            match self.target {
                Target::Prepared => {
                    if self.commit {
                        // Either way: memory is there, or follows.
                        add(target(Target::Noted));
                        add(target(Target::Runs { complete: false }));
                    }
                    // The connection ends, or the daemon: it takes all back.
                    add(World {
                        target: Target::Nothing,
                        commit: false,
                        ..*self
                    });
                }
                Target::Noted => {
                    add(target(Target::Runs { complete: true }));
                    // CRIU fails; the daemon is killed.
                    add(target(Target::Nothing));
                    // It may have run, and ended.
                    add(done(Target::Unsure));
                }
                Target::Runs { complete: false } => {
                    add(target(Target::Runs { complete: true }));
                    add(target(Target::Nothing));
                }
                Target::Runs { complete: true } => add(done(Target::Ended)),
                Target::Settled { runs: true } => add(done(Target::Settled { runs: false })),
                Target::Claims { runs: true } => add(done(Target::Claims { runs: false })),
                _ => {}
            }
            // The target asks, as long as the source is not known to be no more.
            if matches!(
                self.target,
                Target::Runs { complete: true } | Target::Ended | Target::Unsure
            ) {
                let runs = self.target_runs();
                let anew = matches!(self.source, Source::Anew { .. });
                match whose(self.source_part(), anew) {
                    Some(Whose::Ours) => add(target(Target::Settled { runs })),
                    Some(Whose::Theirs) => add(target(Target::Nothing)),
                    None => {}
                }
                if operators && self.target != Target::Unsure {
                    add(World {
                        target: Target::Claims { runs },
                        forced: true,
                        ..*self
                    });
                }
            }
            if !matches!(self.target, Target::Anew { .. }) {
                add(World {
                    target: Target::Anew {
                        claims: matches!(self.target, Target::Claims { .. }),
                    },
                    commit: false,
                    done: self.done || self.target_runs(),
                    ..*self
                });
            }
            all
        }
    }

    fn reachable(operators: bool) -> HashSet<World> {
        let mut seen = HashSet::from([World::start()]);
        let mut next = VecDeque::from([World::start()]);
        while let Some(world) = next.pop_front() {
            for world in world.next(operators) {
                if seen.insert(world) {
                    next.push_back(world);
                }
            }
        }
        seen
    }

    #[test]
    fn both_never_run() {
        for world in reachable(false) {
            assert!(!(world.source_runs() && world.target_runs()), "{world:?}");
        }
    }

    #[test]
    fn one_is_left_while_nodes_do_not_start_anew() {
        for world in reachable(false) {
            let anew = matches!(world.source, Source::Anew { .. })
                || matches!(world.target, Target::Anew { .. });
            let none = world.source == Source::Killed
                && !world.target_runs()
                && !world.done
                && world.target != Target::Ended;
            assert!(anew || !none, "{world:?}");
            // The source's tree was killed only for a target's that ran.
            assert!(
                world.source != Source::Killed || world.target != Target::Nothing,
                "{world:?}"
            );
        }
    }

    #[test]
    fn what_has_run_elsewhere_is_not_run_again_while_that_node_does_not_start_anew() {
        for world in reachable(false) {
            let anew = matches!(world.target, Target::Anew { .. });
            assert!(anew || !world.done || !world.source_runs(), "{world:?}");
        }
    }

    #[test]
    fn it_is_decided_once_both_answer() {
        for world in reachable(false) {
            let next = world.next(false);
            let decided = |next: &World| matches!(next.source, Source::Runs | Source::Killed);
            let waits = matches!(
                world.target,
                Target::Prepared | Target::Noted | Target::Runs { complete: false }
            );
            // Where the target is unsure only an operator can.
            if world.source == Source::Undecided && !waits && world.target != Target::Unsure {
                assert!(next.iter().any(decided), "{world:?}");
            }
            let open = matches!(
                world.target,
                Target::Runs { complete: true } | Target::Ended | Target::Unsure
            );
            let settled =
                |next: &World| matches!(next.target, Target::Settled { .. } | Target::Nothing);
            if open && world.source != Source::Undecided {
                assert!(next.iter().any(settled), "{world:?}");
            }
        }
    }

    #[test]
    fn what_an_operator_lets_go_on_is_the_only_one_once_the_other_hears() {
        for world in reachable(true) {
            let source = matches!(world.source, Source::Claims | Source::Anew { claims: true });
            let target = matches!(
                world.target,
                Target::Claims { .. } | Target::Anew { claims: true }
            );
            if source && target {
                // Two operators have said so, of both.
                continue;
            }
            // Whoever hears of a claim does not take the tree for its own.
            let taken = matches!(world.target, Target::Settled { .. });
            assert!(!(source && taken), "{world:?}");
            assert!(
                !(target && matches!(world.source, Source::Runs)),
                "{world:?}"
            );
            // Where both run the target ends its own as soon as it hears, or finds that its memory does not come.
            if world.source_runs() && world.target_runs() {
                assert!(world.forced, "{world:?}");
                let next = world.next(false);
                assert!(
                    next.iter().any(|next| next.target == Target::Nothing),
                    "{world:?}"
                );
            }
        }
    }

    #[test]
    fn a_claim_outlives_a_start() {
        assert_eq!(whose(Part::Owner, true), Some(Whose::Theirs));
        assert_eq!(whose(Part::Nothing, true), Some(Whose::Ours));
        assert_eq!(whose(Part::Undecided, true), Some(Whose::Ours));
        assert_eq!(whose(Part::Unsure, true), Some(Whose::Ours));
        assert_eq!(whose(Part::Undecided, false), None);
        assert_eq!(whose(Part::Unsure, false), None);
    }
}
