// SPDX-License-Identifier: GPL-2.0

//! What all parties saw, put together: how often each outcome came, and which were forbidden.

use std::collections::BTreeMap;

use super::{
    plan::{Instance, Plan, Test},
    shape::{Outcome, Shape},
    value::{FIRST_ROUND, IMPOSSIBLE},
};

/// What a party saw, in the order of rounds and instances.
#[derive(Clone, Default)]
pub struct Log {
    /// The values of its own loads
    pub loads: Vec<u8>,
    /// The values of all locations after rounds, of those instances whose reader it is
    pub last: Vec<u8>,
}

impl Log {
    /// As one sequence of bytes.
    pub fn encode(&self) -> Vec<u8> {
        let length = (self.loads.len() as u64).to_le_bytes();
        [&length[..], &self.loads, &self.last].concat()
    }

    /// Back again; an empty log, if it is none.
    pub fn decode(bytes: &[u8]) -> Self {
        let parts = || {
            let (length, rest) = bytes.split_at_checked(8)?;
            let length = u64::from_le_bytes(length.try_into().ok()?);
            rest.split_at_checked(usize::try_from(length).ok()?)
        };
        parts().map_or_else(Log::default, |(loads, last)| Log {
            loads: loads.to_vec(),
            last: last.to_vec(),
        })
    }
}

/// How often each outcome of each test came.
#[derive(Default)]
pub struct Tally {
    counts: BTreeMap<Test, BTreeMap<Outcome, u64>>,
    /// The first forbidden outcomes, readable
    pub examples: Vec<String>,
    /// How many there were
    pub forbidden: u64,
    /// How many instances ran
    pub instances: u64,
}

/// How many forbidden outcomes are told in full.
const EXAMPLES: usize = 10;
/// Up to how many outcomes of a shape are listed one by one.
const LISTED: usize = 16;

impl Tally {
    /// Puts together what the parties logged. Nothing, if the logs do not fit the plan.
    pub fn of(shapes: &[Shape], mut plan: Plan<'_>, rounds: u64, logs: &[Log]) -> Option<Self> {
        let mut tally = Tally::default();
        let mut loads: Vec<&[u8]> = logs.iter().map(|log| log.loads.as_slice()).collect();
        let mut last: Vec<&[u8]> = logs.iter().map(|log| log.last.as_slice()).collect();
        for round in FIRST_ROUND..FIRST_ROUND + rounds {
            for instance in plan.next_round() {
                let shape = &shapes[instance.test.shape];
                let mut outcome = Outcome::new();
                for thread in 0..shape.threads.len() {
                    let party = instance.party_of(thread)?;
                    outcome.extend(take(&mut loads[party], shape.loads(thread))?);
                }
                outcome.extend(take(&mut last[instance.reader], shape.locations)?);
                tally.add(shape, &instance, round, outcome);
            }
        }
        let all = loads.iter().chain(&last).all(|rest| rest.is_empty());
        all.then_some(tally)
    }

    fn add(&mut self, shape: &Shape, instance: &Instance, round: u64, outcome: Outcome) {
        if !shape.allowed.contains(&outcome) {
            self.forbidden += 1;
            if self.examples.len() < EXAMPLES {
                self.examples
                    .push(example(shape, instance, round, &outcome));
            }
        }
        self.instances += 1;
        let counts = self.counts.entry(instance.test).or_default();
        *counts.entry(outcome).or_default() += 1;
    }

    /// A line for each shape: how often it ran, and the outcomes that came, over all layouts and means.
    pub fn lines(&self, shapes: &[Shape]) -> Vec<String> {
        let mut lines = Vec::new();
        for (number, shape) in shapes.iter().enumerate() {
            let mut outcomes: BTreeMap<&Outcome, u64> = BTreeMap::new();
            for (_, counts) in self.counts.iter().filter(|(test, _)| test.shape == number) {
                for (outcome, count) in counts {
                    *outcomes.entry(outcome).or_default() += count;
                }
            }
            let seen = outcomes
                .keys()
                .filter(|outcome| shape.allowed.contains(**outcome))
                .count();
            let total: u64 = outcomes.values().sum();
            let told = |outcome: &Outcome| {
                // Shapes with many outcomes would hide what matters.
                outcomes.len() <= LISTED || !shape.allowed.contains(outcome)
            };
            let counts: Vec<String> = outcomes
                .iter()
                .filter(|(outcome, _)| told(outcome))
                .map(|(outcome, count)| {
                    let mark = match shape.allowed.contains(*outcome) {
                        true => "",
                        false => " FORBIDDEN",
                    };
                    format!("; {}: {count}{mark}", shape.describe(outcome))
                })
                .collect();
            lines.push(format!(
                "litmus: {:5} {total} times, {seen} of {} allowed outcomes{}",
                shape.name,
                shape.allowed.len(),
                counts.concat()
            ));
        }
        lines
    }

    /// How many different tests ran, and how many different allowed outcomes came, of how many.
    pub fn variety(&self, shapes: &[Shape]) -> (usize, usize, usize) {
        let (mut seen, mut possible) = (0, 0);
        for (test, counts) in &self.counts {
            let allowed = &shapes[test.shape].allowed;
            seen += counts.keys().filter(|one| allowed.contains(*one)).count();
            possible += allowed.len();
        }
        (self.counts.len(), seen, possible)
    }
}

/// The next bytes of a log.
fn take<'a>(log: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (next, rest) = log.split_at_checked(count)?;
    *log = rest;
    Some(next)
}

fn example(shape: &Shape, instance: &Instance, round: u64, outcome: &[u8]) -> String {
    let Test { layout, means, .. } = instance.test;
    let seats: Vec<String> = instance
        .parts
        .iter()
        .enumerate()
        .filter_map(|(party, part)| {
            let part = part.as_ref()?;
            let ways: Vec<&str> = part
                .steps
                .iter()
                .map(|&(_, mapped)| if mapped { "map" } else { "call" })
                .collect();
            Some(format!(
                "thread {} was party {party} ({})",
                part.thread,
                ways.join(",")
            ))
        })
        .collect();
    let places: Vec<String> = instance
        .spots
        .iter()
        .map(|spot| format!("{:#x}", spot.at))
        .collect();
    let impossible = match outcome.contains(&IMPOSSIBLE) {
        true => " (255: a value that could not be there any more)",
        false => "",
    };
    format!(
        "round {round}: {} in {layout} by {means}: {}{impossible}; {}; locations at {}; read at the end by party {}",
        shape.name,
        shape.describe(outcome),
        seats.join(", "),
        places.join(", "),
        instance.reader,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::litmus::shape::Step;

    /// What parties log that run the threads of each instance one after the other.
    fn logs(shapes: &[Shape], mut plan: Plan<'_>, rounds: u64, parties: usize) -> Vec<Log> {
        let mut logs = vec![Log::default(); parties];
        for _ in 0..rounds {
            for instance in plan.next_round() {
                let shape = &shapes[instance.test.shape];
                let mut memory = vec![0; shape.locations];
                for (thread, steps) in shape.threads.iter().enumerate() {
                    let party = instance.party_of(thread).unwrap();
                    for step in steps {
                        match *step {
                            Step::Store(location, value) => memory[location] = value,
                            Step::Load(location) => logs[party].loads.push(memory[location]),
                        }
                    }
                }
                logs[instance.reader].last.extend(memory);
            }
        }
        logs
    }

    #[test]
    fn what_is_in_order_is_allowed() {
        let shapes = Shape::all(&[]).unwrap();
        let logs = logs(&shapes, Plan::new(3, &shapes, 5, 0), 200, 5);
        let tally = Tally::of(&shapes, Plan::new(3, &shapes, 5, 0), 200, &logs).unwrap();
        assert_eq!(tally.forbidden, 0);
        assert_eq!(tally.instances, 1600);
        assert_eq!(tally.lines(&shapes).len(), shapes.len());
    }

    #[test]
    fn what_is_not_is_found() {
        let shapes = Shape::all(&["MP".to_owned()]).unwrap();
        let plan = || Plan::new(3, &shapes, 2, 0);
        let mut logs = logs(&shapes, plan(), 5, 2);
        // The flag is seen, the message is not; and once there is what nobody can have written.
        let reader = plan().next_round()[0].party_of(1).unwrap();
        assert_eq!(logs[reader].loads[..2], [1, 1]);
        logs[reader].loads[1] = 0;
        let tally = Tally::of(&shapes, plan(), 5, &logs).unwrap();
        assert_eq!(tally.forbidden, 1);
        assert!(tally.examples[0].contains("1:1,0"), "{:?}", tally.examples);
        let holder = plan().next_round()[0].reader;
        logs[holder].last[0] = IMPOSSIBLE;
        let tally = Tally::of(&shapes, plan(), 5, &logs).unwrap();
        assert_eq!(tally.forbidden, 1);
        assert!(tally.examples[0].contains("x=255"), "{:?}", tally.examples);
    }

    #[test]
    fn logs_that_do_not_fit_are_refused() {
        let shapes = Shape::all(&[]).unwrap();
        let plan = || Plan::new(3, &shapes, 4, 0);
        let mut logs = logs(&shapes, plan(), 5, 4);
        assert!(Tally::of(&shapes, plan(), 5, &logs).is_some());
        assert!(Tally::of(&shapes, plan(), 4, &logs).is_none());
        assert!(Tally::of(&shapes, plan(), 6, &logs).is_none());
        logs[2].last.push(1);
        assert!(Tally::of(&shapes, plan(), 5, &logs).is_none());
    }

    #[test]
    fn logs_survive_the_wire() {
        let log = Log {
            loads: vec![1, 2, 3],
            last: vec![4],
        };
        let again = Log::decode(&log.encode());
        assert_eq!((again.loads, again.last), (log.loads, log.last));
        assert!(Log::decode(&[1, 2]).loads.is_empty());
        assert!(Log::decode(&[9, 0, 0, 0, 0, 0, 0, 0, 1]).loads.is_empty());
    }
}
