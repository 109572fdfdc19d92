// SPDX-License-Identifier: GPL-2.0

//! Long random schedules, each repeated exactly by its seed.

use crate::world::{Action, Budget, Config, World};

/// A small generator of random numbers (xorshift64*), the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed; every seed gives another sequence.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

/// What a schedule found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The schedule.
    pub seed: u64,
    /// What does not hold.
    pub violation: &'static str,
    /// What led there.
    pub schedule: Vec<Action>,
}

/// How likely an action is against the others of its state.
fn weight(action: &Action, style: usize) -> usize {
    match action {
        Action::Deliver(_) => [40, 12, 60][style],
        Action::Begin { .. } | Action::BeginHome { .. } => [4, 8, 16][style],
        Action::Write { .. } | Action::LookAgain { .. } => 30,
        Action::Work { ok: true, .. } => [40, 10, 30][style],
        Action::ResendGet { .. } | Action::ResendPut { .. } | Action::ResendRound { .. } => 8,
        Action::Duplicate(_) | Action::Lose(_) => [2, 6, 1][style],
        Action::Evict { .. } | Action::WriteBack { .. } => 4,
        Action::Work { ok: false, .. } => 2,
        Action::GiveUp { .. }
        | Action::GiveUpHome { .. }
        | Action::TimeOut { .. }
        | Action::Crash { .. } => 1,
    }
}

/// Runs one schedule until its budget is used up and the world is at rest, or for `steps` steps. Returns the number of
/// steps.
///
/// # Errors
///
/// The property that did not hold, and the schedule that led there.
pub fn run<const R: usize, const P: usize>(
    config: &Config,
    budget: Budget,
    seed: u64,
    steps: usize,
) -> Result<usize, Found> {
    let mut random = Random::new(seed);
    let style = random.below(3);
    let mut world = World::<R, P>::new(budget);
    let mut schedule = Vec::new();
    let mut actions = Vec::new();
    for step in 0..steps {
        actions.clear();
        world.actions(config, &mut actions);
        let total: usize = actions.iter().map(|action| weight(action, style)).sum();
        if total == 0 {
            return Ok(step);
        }
        let mut at = random.below(total);
        let action = actions.iter().find(|action| {
            let weight = weight(action, style);
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        });
        let Some(action) = action else { continue };
        schedule.push(*action);
        world.apply(config, *action);
        if let Some(violation) = world.violation(config) {
            return Err(Found {
                seed,
                violation,
                schedule,
            });
        }
    }
    Ok(steps)
}
