// SPDX-License-Identifier: GPL-2.0

//! Long random schedules, far beyond the depth at which every state can be visited.

use std::time::Instant;

use vremote_model::report;
use vremote_model::simulate::run;
use vremote_model::world::{Budget, Config, Turn};

/// More than any of them needs to come to rest.
const STEPS: usize = 5_000;

/// Runs the schedules with the seeds below `count`.
fn schedules<const R: usize, const P: usize>(count: u64, budget: Budget) -> Config {
    let config = Config::default();
    let started = Instant::now();
    let mut steps = 0;
    for seed in 0..count {
        match run::<R, P>(&config, budget, seed, STEPS) {
            Ok(taken) => {
                assert!(taken < STEPS, "schedule {seed} did not come to rest");
                steps += taken;
            }
            Err(found) => {
                for action in &found.schedule {
                    report(&format!("    {action:?}"));
                }
                panic!("schedule {seed}: {}", found.violation);
            }
        }
    }
    report(&format!(
        "    origin, {R} remotes, {P} pages; {}: {count} schedules, {steps} steps, {:.1} s",
        budget.describe(),
        started.elapsed().as_secs_f64()
    ));
    config
}

#[test]
fn everything_goes_wrong() {
    let config = schedules::<3, 2>(
        20_000,
        Budget {
            operations: 40,
            losses: 20,
            duplicates: 20,
            evictions: 10,
            write_backs: 10,
            errors: 3,
            give_ups: 4,
            time_outs: 4,
            crashes: 2,
        },
    );
    // A turn of the protocol that no schedule takes is not tested by any.
    for (turn, name) in Turn::NAMES.iter().enumerate() {
        let count = config.coverage.count(turn);
        report(&format!("    {count:>10} times: {name}"));
        assert!(count > 0, "never taken: {name}");
    }
}

#[test]
fn only_the_network_is_bad() {
    schedules::<3, 1>(
        10_000,
        Budget {
            operations: 60,
            losses: 40,
            duplicates: 40,
            ..Budget::NONE
        },
    );
}

/// More nodes than the queue of a page has places.
#[test]
fn crowded_page() {
    schedules::<10, 1>(
        4_000,
        Budget {
            operations: 60,
            losses: 5,
            duplicates: 5,
            ..Budget::NONE
        },
    );
}
