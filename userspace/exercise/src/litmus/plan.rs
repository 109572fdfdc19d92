// SPDX-License-Identifier: GPL-2.0

//! What is to be done in each round: the same for all parties, from the seed alone.

use std::{collections::HashMap, fmt};

use super::shape::Shape;
use crate::{mapping::PAGE, random::Random};

/// How many shapes run in a round, each at other places: the parties meet only once a round.
pub const INSTANCES: u64 = 8;
/// Pages of one instance.
const PAGES: u64 = 3;
/// Rounds take turns with two sets of pages, so that what is done early for the next one, or late for the last one, disturbs nobody.
const SET: u64 = INSTANCES * PAGES * PAGE;
/// Bytes that the places of all instances need.
pub const BYTES: u64 = 2 * SET;

/// Where the locations of a shape are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Layout {
    /// Each in a page of its own
    Pages,
    /// All in one page
    Words,
}

/// How they are read and written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Means {
    /// Loads and stores through a mapping
    Map,
    /// read(2) and write(2)
    Call,
    /// Each step in one way or the other
    Mixed,
}

/// What kind of test an instance is: a shape and what else it can vary in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Test {
    /// Its place in the list of shapes
    pub shape: usize,
    /// Where its locations are
    pub layout: Layout,
    /// How they are accessed
    pub means: Means,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::Pages => "pages",
            Layout::Words => "words",
        })
    }
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Means::Map => "map",
            Means::Call => "call",
            Means::Mixed => "mixed",
        })
    }
}

/// A location of an instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spot {
    /// Offset in the file
    pub at: u64,
    /// The last round that wrote it; 0: none
    pub before: u64,
}

/// A party's thread in an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Which thread of the shape
    pub thread: usize,
    /// For each step, the microseconds to wait before it, and whether it goes through the mapping
    pub steps: Vec<(u32, bool)>,
    /// Locations to be read before the round begins, so that there is a copy
    pub loaded: Vec<usize>,
}

/// One shape that runs in a round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    /// What it is
    pub test: Test,
    /// Where its locations are
    pub spots: Vec<Spot>,
    /// For each party its thread, if it has one
    pub parts: Vec<Option<Part>>,
    /// The party that reads the locations when the round is over
    pub reader: usize,
    /// Whether it does that through its mapping
    pub reader_mapped: bool,
}

impl Instance {
    /// Who is a thread.
    pub fn party_of(&self, thread: usize) -> Option<usize> {
        let is = |part: &Option<Part>| part.as_ref().is_some_and(|part| part.thread == thread);
        self.parts.iter().position(is)
    }
}

/// The rounds, one after the other.
pub struct Plan<'a> {
    seed: u64,
    shapes: &'a [Shape],
    parties: usize,
    base: u64,
    round: u64,
    written: HashMap<u64, u64>,
}

impl<'a> Plan<'a> {
    /// For shapes with at most as many threads as there are parties; all places lie behind `base` in the file.
    pub fn new(seed: u64, shapes: &'a [Shape], parties: usize, base: u64) -> Self {
        Plan {
            seed,
            shapes,
            parties,
            base,
            round: 0,
            written: HashMap::new(),
        }
    }

    /// All instances of the next round, the first of which is round 1.
    pub fn next_round(&mut self) -> Vec<Instance> {
        self.round += 1;
        let mut random = Random::new(self.seed, &[0x117, self.round]);
        let set = self.base + self.round % 2 * SET;
        (0..INSTANCES)
            .map(|number| self.instance(&mut random, set + number * PAGES * PAGE))
            .collect()
    }

    fn instance(&mut self, random: &mut Random, first: u64) -> Instance {
        let test = Test {
            shape: random.index(self.shapes.len()),
            layout: [Layout::Pages, Layout::Words][random.index(2)],
            means: [Means::Map, Means::Call, Means::Mixed][random.index(3)],
        };
        let shape = &self.shapes[test.shape];
        let word = random.below(8) * 8;
        let distance = match test.layout {
            Layout::Pages => PAGE,
            // Far enough not to share a line of a processor's cache.
            Layout::Words => 512,
        };
        let spots = (0..shape.locations as u64)
            .map(|location| {
                let at = first + location * distance + word;
                Spot {
                    at,
                    before: self.written.insert(at, self.round).unwrap_or(0),
                }
            })
            .collect();
        let mut seats: Vec<usize> = (0..self.parties).collect();
        random.shuffle(&mut seats);
        // Sometimes all are quick, sometimes each waits for another time.
        let slowest = [0, 0, 100, 1000][random.index(4)];
        let mut parts: Vec<Option<Part>> = vec![None; self.parties];
        for (thread, steps) in shape.threads.iter().enumerate() {
            let steps = steps
                .iter()
                .map(|_| {
                    let mapped = match test.means {
                        Means::Map => true,
                        Means::Call => false,
                        Means::Mixed => random.once_in(2),
                    };
                    (random.between(0, slowest) as u32, mapped)
                })
                .collect();
            let loaded = (0..shape.locations).filter(|_| random.once_in(2)).collect();
            parts[seats[thread]] = Some(Part {
                thread,
                steps,
                loaded,
            });
        }
        Instance {
            test,
            spots,
            parts,
            reader: random.index(self.parties),
            reader_mapped: random.once_in(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn pages(instances: &[Instance]) -> BTreeSet<u64> {
        let spots = instances.iter().flat_map(|instance| &instance.spots);
        spots.map(|spot| spot.at / PAGE).collect()
    }

    #[test]
    fn every_thread_has_a_party_and_every_location_a_place_of_its_own() {
        let shapes = Shape::all(&[]).unwrap();
        let base = 5 * PAGE;
        let mut plan = Plan::new(1, &shapes, 4, base);
        let (mut seats, mut tests) = (BTreeSet::new(), BTreeSet::new());
        let mut last = BTreeSet::new();
        let mut written: HashMap<u64, u64> = HashMap::new();
        for round in 1..3000 {
            let instances = plan.next_round();
            assert_eq!(instances.len() as u64, INSTANCES);
            let mut places = BTreeSet::new();
            for instance in &instances {
                let shape = &shapes[instance.test.shape];
                let mut threads = Vec::new();
                for (party, part) in instance.parts.iter().enumerate() {
                    if let Some(part) = part {
                        assert_eq!(part.steps.len(), shape.threads[part.thread].len());
                        threads.push(part.thread);
                        seats.insert((instance.test.shape, party, part.thread));
                    }
                }
                threads.sort_unstable();
                assert_eq!(threads, (0..shape.threads.len()).collect::<Vec<_>>());
                for spot in &instance.spots {
                    assert!(places.insert(spot.at));
                    assert!(spot.at % 8 == 0 && spot.at >= base && spot.at + 8 <= base + BYTES);
                    assert_eq!(written.insert(spot.at, round).unwrap_or(0), spot.before);
                    let same = spot.at / PAGE == instance.spots[0].at / PAGE;
                    assert!(
                        same == (instance.test.layout == Layout::Words)
                            || *spot == instance.spots[0]
                    );
                }
                tests.insert(instance.test);
            }
            let now = pages(&instances);
            assert!(now.is_disjoint(&last));
            last = now;
        }
        // Everybody has been everything, and all kinds of tests have come.
        let threads: usize = shapes.iter().map(|shape| shape.threads.len()).sum();
        assert_eq!(seats.len(), 4 * threads);
        assert_eq!(tests.len(), shapes.len() * 2 * 3);
    }

    #[test]
    fn a_seed_is_a_plan() {
        let shapes = Shape::all(&[]).unwrap();
        let rounds = |seed| {
            let mut plan = Plan::new(seed, &shapes, 4, 0);
            (0..20).map(|_| plan.next_round()).collect::<Vec<_>>()
        };
        assert_eq!(rounds(1), rounds(1));
        assert_ne!(rounds(1), rounds(2));
    }
}
