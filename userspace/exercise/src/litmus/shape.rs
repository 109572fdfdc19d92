// SPDX-License-Identifier: GPL-2.0

//! Litmus tests: tiny programs for several threads, and what they may do if memory is sequentially consistent.
//!
//! A program is text: threads separated by `|`, each a sequence of steps; `x=1` stores, `x` loads. All locations begin as 0. What may
//! happen is found by trying all interleavings; nothing else is believed about a shape.

use std::collections::BTreeSet;

/// One step of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A store to a location
    Store(usize, u8),
    /// A load of a location
    Load(usize),
}

impl Step {
    /// The location.
    pub fn location(self) -> usize {
        match self {
            Step::Store(location, _) | Step::Load(location) => location,
        }
    }
}

/// What was loaded, thread by thread, and what the locations hold at the end.
pub type Outcome = Vec<u8>;

/// A litmus test.
#[derive(Clone)]
pub struct Shape {
    /// What it is called everywhere
    pub name: &'static str,
    /// Its threads
    pub threads: Vec<Vec<Step>>,
    /// How many locations it has
    pub locations: usize,
    /// All outcomes that sequential consistency allows
    pub allowed: BTreeSet<Outcome>,
}

/// Names and programs of all shapes.
const SHAPES: [(&str, &str); 14] = [
    // A message and its flag; store buffers; loads before stores.
    ("MP", "x=1 y=1 | y x"),
    ("SB", "x=1 y | y=1 x"),
    ("LB", "x y=1 | y x=1"),
    // Order of stores to two places, against each other and against a load.
    ("2+2W", "x=1 y=2 | y=1 x=2"),
    ("S", "x=2 y=1 | y x=1"),
    ("R", "x=1 y=1 | y=2 x"),
    // What was seen is passed on.
    ("WRC", "x=1 | x y=1 | y x"),
    ("ISA2", "x=1 y=1 | y z=1 | z x"),
    ("RWC", "x=1 | x y | y=1 x"),
    ("3SB", "x=1 y | y=1 z | z=1 x"),
    // Two readers agree on the order of independent stores.
    ("IRIW", "x=1 | y=1 | x y | y x"),
    // One location: loads do not go back; all agree on its order.
    ("CoRR", "x=1 | x x"),
    ("CoWR", "x=1 x | x=2 x"),
    ("CoRR2", "x=1 | x=2 | x x | x x"),
];

impl Shape {
    /// Reads a program.
    fn parse(name: &'static str, program: &str) -> Self {
        let location = |text: &str| match text {
            "x" => 0,
            "y" => 1,
            "z" => 2,
            _ => panic!("'{text}' in {name} is no location"),
        };
        let threads: Vec<Vec<Step>> = program
            .split('|')
            .map(|thread| {
                let steps = thread.split_whitespace();
                steps
                    .map(|step| match step.split_once('=') {
                        Some((place, value)) => {
                            Step::Store(location(place), value.as_bytes()[0] - b'0')
                        }
                        None => Step::Load(location(step)),
                    })
                    .collect()
            })
            .collect();
        let steps = || threads.iter().flatten();
        let locations = 1 + steps().map(|step| step.location()).max().unwrap_or(0);
        let allowed = outcomes(&threads, locations);
        Shape {
            name,
            threads,
            locations,
            allowed,
        }
    }

    /// All shapes, or those that are named.
    pub fn all(names: &[String]) -> Result<Vec<Self>, String> {
        if let Some(name) = names
            .iter()
            .find(|name| SHAPES.iter().all(|(known, _)| known != name))
        {
            let known = SHAPES.map(|(name, _)| name).join(", ");
            return Err(format!("'{name}' is none of {known}"));
        }
        Ok(SHAPES
            .iter()
            .filter(|(name, _)| names.is_empty() || names.iter().any(|wanted| wanted == name))
            .map(|(name, program)| Shape::parse(name, program))
            .collect())
    }

    /// How many loads a thread has.
    pub fn loads(&self, thread: usize) -> usize {
        self.threads[thread]
            .iter()
            .filter(|step| matches!(step, Step::Load(_)))
            .count()
    }

    /// An outcome, readable: `0:1 2 1:0 x=1 y=2`.
    pub fn describe(&self, outcome: &[u8]) -> String {
        let mut values = outcome.iter();
        let mut words = Vec::new();
        for thread in 0..self.threads.len() {
            let count = self.loads(thread);
            if count != 0 {
                let loads: Vec<String> = values.by_ref().take(count).map(u8::to_string).collect();
                words.push(format!("{thread}:{}", loads.join(",")));
            }
        }
        for (name, value) in ["x", "y", "z"].iter().zip(values) {
            words.push(format!("{name}={value}"));
        }
        words.join(" ")
    }
}

/// All outcomes of all interleavings.
fn outcomes(threads: &[Vec<Step>], locations: usize) -> BTreeSet<Outcome> {
    struct Search<'a> {
        threads: &'a [Vec<Step>],
        found: BTreeSet<Outcome>,
    }
    impl Search<'_> {
        fn go(&mut self, at: &mut [usize], memory: &mut [u8], loads: &mut [Vec<u8>]) {
            let mut last = true;
            for thread in 0..self.threads.len() {
                let Some(&step) = self.threads[thread].get(at[thread]) else {
                    continue;
                };
                last = false;
                let before = memory[step.location()];
                match step {
                    Step::Store(location, value) => memory[location] = value,
                    Step::Load(_) => loads[thread].push(before),
                }
                at[thread] += 1;
                self.go(at, memory, loads);
                at[thread] -= 1;
                memory[step.location()] = before;
                if matches!(step, Step::Load(_)) {
                    loads[thread].pop();
                }
            }
            if last {
                self.found.insert(
                    loads
                        .iter()
                        .flatten()
                        .chain(memory.iter())
                        .copied()
                        .collect(),
                );
            }
        }
    }
    let mut search = Search {
        threads,
        found: BTreeSet::new(),
    };
    search.go(
        &mut vec![0; threads.len()],
        &mut vec![0; locations],
        &mut vec![Vec::new(); threads.len()],
    );
    search.found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(name: &str) -> Shape {
        Shape::all(&[name.to_owned()]).unwrap().remove(0)
    }

    /// The outcomes that each shape is known for.
    #[test]
    fn what_is_forbidden_is_not_allowed() {
        for (name, outcome) in [
            ("MP", &[1, 0, 1, 1][..]),
            ("SB", &[0, 0, 1, 1]),
            ("LB", &[1, 1, 1, 1]),
            ("2+2W", &[1, 1]),
            ("S", &[1, 2, 1]),
            ("R", &[0, 1, 2]),
            ("WRC", &[1, 1, 0, 1, 1]),
            ("ISA2", &[1, 1, 0, 1, 1, 1]),
            ("RWC", &[1, 0, 0, 1, 1]),
            ("3SB", &[0, 0, 0, 1, 1, 1]),
            ("IRIW", &[1, 0, 1, 0, 1, 1]),
            ("CoRR", &[1, 0, 1]),
            ("CoWR", &[2, 1, 1]),
            ("CoRR2", &[1, 2, 2, 1, 1]),
        ] {
            let shape = shape(name);
            let any = shape.allowed.iter().next().unwrap();
            assert_eq!(any.len(), outcome.len(), "{name}");
            assert!(!shape.allowed.contains(outcome), "{name}");
        }
    }

    #[test]
    fn what_is_allowed_is() {
        for (name, count, outcome) in [
            ("MP", 3, &[0, 1, 1, 1][..]),
            ("SB", 3, &[1, 1, 1, 1]),
            ("CoRR", 3, &[0, 1, 1]),
            ("2+2W", 3, &[2, 2]),
            ("IRIW", 15, &[1, 0, 0, 0, 1, 1]),
        ] {
            let shape = shape(name);
            assert_eq!(shape.allowed.len(), count, "{name}");
            assert!(shape.allowed.contains(outcome), "{name}");
        }
    }

    #[test]
    fn outcomes_are_readable() {
        assert_eq!(shape("MP").describe(&[1, 0, 1, 1]), "1:1,0 x=1 y=1");
        assert_eq!(shape("2+2W").describe(&[1, 2]), "x=1 y=2");
    }

    #[test]
    fn only_known_names() {
        assert!(Shape::all(&["MQ".to_owned()]).is_err());
        assert_eq!(Shape::all(&[]).unwrap().len(), SHAPES.len());
    }
}
