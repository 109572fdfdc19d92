// SPDX-License-Identifier: GPL-2.0

//! Every state that a budget allows, by stateright, breadth first.
//!
//! A budget bounds what may go wrong and how much is begun, not the depth: each exploration ends because there is nothing
//! left to happen. Within it, any message may arrive at any time after any other, and any timer may go off.

use std::time::Instant;

use stateright::{Checker, Model, Property};
use vremote_model::report;
use vremote_model::world::{Action, Budget, Config, World};

struct Explore<const R: usize, const P: usize> {
    budget: Budget,
    config: Config,
}

impl<const R: usize, const P: usize> Model for Explore<R, P> {
    type State = World<R, P>;
    type Action = Action;

    fn init_states(&self) -> Vec<Self::State> {
        vec![World::new(self.budget)]
    }

    fn actions(&self, state: &Self::State, actions: &mut Vec<Self::Action>) {
        state.actions(&self.config, actions);
    }

    fn next_state(&self, state: &Self::State, action: Self::Action) -> Option<Self::State> {
        let mut next = state.clone();
        next.apply(&self.config, action);
        next.canonical();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no step went wrong", |_, state: &World<R, P>| {
                state.error.is_none()
            }),
            Property::always("one writer or many readers", |_, state: &World<R, P>| {
                state.one_writer_or_many_readers()
            }),
            Property::always("reads return the last write", |_, state: &World<R, P>| {
                state.reads_return_the_last_write()
            }),
            Property::always("holders are on record", |_, state: &World<R, P>| {
                state.holders_are_on_record()
            }),
            Property::always("no write is lost", |_, state: &World<R, P>| {
                state.nothing_is_lost()
            }),
            Property::always(
                "every request ends",
                |model: &Explore<R, P>, state: &World<R, P>| {
                    state.every_request_ends(&model.config)
                },
            ),
        ]
    }
}

fn explore<const R: usize, const P: usize>(budget: Budget) {
    // With duplicates, a request that comes again ends a turn.
    let config = Config {
        strict_turns: budget.duplicates == 0,
        ..Config::default()
    };
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
    let model = Explore::<R, P> { budget, config };
    let checker = model.checker().threads(threads).spawn_bfs().join();
    if let Some((name, path)) = checker.discoveries().into_iter().next() {
        let last = path.last_state().clone();
        for action in path.into_actions() {
            report(&format!("    {action:?}"));
        }
        panic!("\"{name}\" does not hold in {last:?}");
    }
    assert!(checker.is_done());
    report(&format!(
        "    origin, {R} remotes, {P} pages; {}: {} states, {} transitions, {} deep, {:.1} s",
        budget.describe(),
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64()
    ));
}

const NONE: Budget = Budget::NONE;

#[test]
fn two_pages() {
    explore::<2, 2>(Budget {
        operations: 3,
        losses: 1,
        duplicates: 1,
        ..NONE
    });
}

#[test]
fn five_operations() {
    explore::<2, 1>(Budget {
        operations: 5,
        losses: 1,
        duplicates: 1,
        ..NONE
    });
}

#[test]
fn three_remotes() {
    explore::<3, 1>(Budget {
        operations: 3,
        losses: 1,
        duplicates: 1,
        ..NONE
    });
}

#[test]
fn bad_network() {
    explore::<2, 1>(Budget {
        operations: 2,
        losses: 2,
        duplicates: 2,
        ..NONE
    });
}

#[test]
fn evictions_and_write_backs() {
    explore::<2, 1>(Budget {
        operations: 3,
        duplicates: 1,
        evictions: 1,
        write_backs: 1,
        ..NONE
    });
}

#[test]
fn evictions_and_signals() {
    explore::<2, 1>(Budget {
        operations: 3,
        duplicates: 1,
        evictions: 1,
        give_ups: 1,
        ..NONE
    });
}

#[test]
fn disk_errors() {
    explore::<2, 1>(Budget {
        operations: 3,
        duplicates: 1,
        write_backs: 1,
        errors: 1,
        ..NONE
    });
}

#[test]
fn crashes() {
    explore::<2, 1>(Budget {
        operations: 3,
        losses: 1,
        duplicates: 1,
        crashes: 1,
        ..NONE
    });
}

#[test]
fn one_of_each_fault() {
    explore::<2, 1>(Budget {
        operations: 2,
        losses: 1,
        duplicates: 1,
        evictions: 1,
        write_backs: 1,
        errors: 0,
        give_ups: 1,
        time_outs: 1,
        crashes: 0,
    });
}

#[test]
fn turns() {
    explore::<2, 1>(Budget {
        operations: 3,
        losses: 1,
        time_outs: 1,
        give_ups: 1,
        ..NONE
    });
}
