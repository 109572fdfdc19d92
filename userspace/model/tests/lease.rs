// SPDX-License-Identifier: GPL-2.0

//! Leases: every state within a budget, long random schedules, and planted bugs.

use std::time::Instant;

use stateright::{Checker, Model, Property};
use vremote_model::lease::{Action, Budget, Mutation, World, LENGTH};
use vremote_model::simulate::Random;
use vremote_model::{expect_all_found, report};

struct Explore(Budget);

impl Model for Explore {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.0)]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        state.actions(None, actions);
    }

    fn next_state(&self, state: &World, action: Action) -> Option<World> {
        let mut next = state.clone();
        next.apply(None, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("nothing is wrong", |_, state: &World| {
            state.error.is_none()
        })]
    }
}

fn explore(budget: Budget) {
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
    let checker = Explore(budget)
        .checker()
        .threads(threads)
        .spawn_bfs()
        .join();
    if let Some((_, path)) = checker.discoveries().into_iter().next() {
        let error = path.last_state().error;
        for action in path.into_actions() {
            report(&format!("    {action:?}"));
        }
        panic!("{error:?}");
    }
    assert!(checker.is_done());
    report(&format!(
        "    {budget:?}: {} states, {} deep, {:.1} s",
        checker.unique_state_count(),
        checker.max_depth(),
        started.elapsed().as_secs_f64()
    ));
}

const NONE: Budget = Budget {
    ticks: 0,
    slow: 0,
    hellos: 0,
    duplicates: 0,
    gets: 0,
    writes: 0,
    suspicions: 0,
    revocations: 0,
    restarts: 0,
};

/// A lease, its margin, and a moment before and after.
const TERM: u8 = LENGTH as u8 + 1 + 2;

#[test]
fn a_fence() {
    explore(Budget {
        ticks: TERM,
        slow: 1,
        hellos: 2,
        gets: 1,
        writes: 1,
        suspicions: 1,
        ..NONE
    });
}

#[test]
fn a_fence_in_spite_of_answers() {
    explore(Budget {
        ticks: TERM,
        slow: 1,
        hellos: 2,
        gets: 1,
        writes: 1,
        revocations: 1,
        ..NONE
    });
}

#[test]
fn two_sessions() {
    explore(Budget {
        ticks: TERM,
        hellos: 2,
        gets: 2,
        suspicions: 1,
        restarts: 1,
        ..NONE
    });
}

#[test]
fn messages_twice() {
    explore(Budget {
        ticks: TERM,
        hellos: 2,
        duplicates: 1,
        gets: 1,
        writes: 1,
        suspicions: 1,
        ..NONE
    });
}

/// Much of everything, for random schedules.
const LONG: Budget = Budget {
    ticks: 100,
    slow: 12,
    hellos: 60,
    duplicates: 20,
    gets: 20,
    writes: 20,
    suspicions: 10,
    revocations: 3,
    restarts: 2,
};

/// How likely an action is against the others of its state. Time and messages keep pace.
fn weight(action: &Action) -> usize {
    match action {
        Action::Deliver(_) => 4,
        Action::Hello | Action::Get | Action::Write => 6,
        Action::Tick | Action::Confirm => 12,
        Action::Fence | Action::Suspect => 4,
        Action::Slow | Action::Probe | Action::Duplicate(_) => 1,
        Action::Restart | Action::Revoke => 1,
    }
}

/// One schedule; gives how many fences there were, or what went wrong.
fn run(mutation: Option<Mutation>, seed: u64) -> Result<usize, &'static str> {
    let mut random = Random::new(seed);
    let mut world = World::new(LONG);
    let mut actions = Vec::new();
    let mut fences = 0;
    for _ in 0..1_000 {
        actions.clear();
        world.actions(mutation, &mut actions);
        let total: usize = actions.iter().map(weight).sum();
        if total == 0 {
            break;
        }
        let mut at = random.below(total);
        let action = actions.iter().find(|action| {
            let weight = weight(action);
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        });
        let Some(action) = action else { continue };
        fences += usize::from(*action == Action::Fence);
        world.apply(mutation, *action);
        if let Some(error) = world.error {
            return Err(error);
        }
    }
    Ok(fences)
}

#[test]
fn random_schedules() {
    let mut fences = 0;
    for seed in 0..20_000 {
        match run(None, seed) {
            Ok(count) => fences += count,
            Err(error) => panic!("schedule {seed}: {error}"),
        }
    }
    report(&format!("    20000 schedules, {fences} fences"));
    assert!(fences > 1_000, "hardly anybody is fenced");
}

#[test]
fn every_planted_bug_is_found() {
    expect_all_found(&Mutation::ALL, |mutation| {
        (0..100_000).find_map(|seed| Some((seed, run(Some(mutation), seed).err()?)))
    });
}
