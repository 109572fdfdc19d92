// SPDX-License-Identifier: GPL-2.0

//! Requests that must not run twice: random schedules by seed, and planted bugs.

use vremote_model::once::{Action, Mutation, World};
use vremote_model::simulate::Random;
use vremote_model::{expect_all_found, report};

/// Schedules, and actions in each: so many that the other side forgets replies.
const SCHEDULES: u64 = 2_000;
const STEPS: usize = 3_000;

/// One of a few things happens, which the seed decides; unlucky requests stay so. How many operations were done, or what went wrong.
fn run(mutation: Option<Mutation>, seed: u64) -> Result<usize, &'static str> {
    let mut random = Random::new(seed);
    let mut world = World::new(mutation);
    // Some networks lose nearly everything that is old, some nothing.
    let old = random.below(4);
    for _ in 0..STEPS {
        let (waiting, network, running) = world.sizes();
        let action = match random.below(44) {
            0..12 => Action::Begin,
            12..24 if network != 0 => {
                // The youngest message in most cases: what is left behind comes late.
                let at = match random.below(4) < old {
                    true => random.below(network),
                    false => network - 1 - random.below(network.min(3)),
                };
                Action::Deliver(at)
            }
            24..34 if running != 0 => Action::End(random.below(running)),
            34 if network != 0 => Action::Duplicate(random.below(network)),
            35 if network != 0 => Action::Lose(random.below(network)),
            36..41 if waiting != 0 => Action::SendAgain(random.below(waiting)),
            41 if running != 0 => Action::Cancel(random.below(running)),
            42 if waiting != 0 && random.below(10) == 0 => Action::GiveUp(random.below(waiting)),
            43 if random.below(10) == 0 => Action::NextSession,
            _ => continue,
        };
        world.apply(action);
        if let Some(error) = world.error {
            return Err(error);
        }
    }
    world.calm();
    world.error.map_or(Ok(world.operations()), Err)
}

#[test]
fn random_schedules() {
    let mut operations = 0;
    for seed in 0..SCHEDULES {
        match run(None, seed) {
            Ok(count) => operations += count,
            Err(error) => panic!("schedule {seed}: {error}"),
        }
    }
    report(&format!(
        "    {SCHEDULES} schedules, {operations} operations"
    ));
    assert!(
        operations as u64 > SCHEDULES * 200,
        "hardly anything is done"
    );
}

#[test]
fn every_planted_bug_is_found() {
    expect_all_found(&Mutation::ALL, |mutation| {
        (0..SCHEDULES).find_map(|seed| Some((seed, run(Some(mutation), seed).err()?)))
    });
}
