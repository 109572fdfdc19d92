// SPDX-License-Identifier: GPL-2.0

//! Plants one bug after another and expects each to be found.

use std::time::Instant;

use vremote_model::mutation::Mutation;
use vremote_model::report;
use vremote_model::simulate::{run, Found};
use vremote_model::world::{Budget, Config};

/// Schedules after which a bug counts as not found.
const SCHEDULES: u64 = 200_000;

const STEPS: usize = 1_000;

/// Few things in a small world make short schedules.
const SMALL: Budget = Budget {
    operations: 8,
    losses: 2,
    duplicates: 4,
    evictions: 2,
    write_backs: 2,
    errors: 1,
    give_ups: 1,
    time_outs: 1,
    crashes: 1,
};

fn hunt(mutation: Mutation) -> Option<Found> {
    let config = |strict_turns| Config {
        mutation: Some(mutation),
        strict_turns,
        ..Config::default()
    };
    let (any, strict) = (config(false), config(true));
    let without_duplicates = Budget {
        duplicates: 0,
        ..SMALL
    };
    (0..SCHEDULES).find_map(|seed| {
        let result = match seed % 3 {
            0 => run::<2, 1>(&any, SMALL, seed, STEPS),
            1 => run::<2, 2>(&any, SMALL, seed, STEPS),
            _ => run::<2, 1>(&strict, without_duplicates, seed, STEPS),
        };
        result.err()
    })
}

#[test]
fn every_planted_bug_is_found() {
    report(&format!(
        "    {:24} {:>8} {:>6} {:>8}  what the checks said",
        "bug", "schedule", "steps", "time"
    ));
    let mut missed = Vec::new();
    for mutation in Mutation::ALL {
        let started = Instant::now();
        let found = hunt(mutation);
        let seconds = started.elapsed().as_secs_f64();
        let name = format!("{mutation:?}");
        match found {
            Some(Found {
                seed,
                violation,
                schedule,
            }) => {
                report(&format!(
                    "    {name:24} {seed:>8} {:>6} {seconds:>6.2} s  {violation}",
                    schedule.len()
                ));
            }
            None => {
                report(&format!("    {name:24} not found, {seconds:.2} s"));
                missed.push(mutation);
            }
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
