// SPDX-License-Identifier: GPL-2.0

//! The network: what becomes of a datagram between two nodes.

use std::rc::Rc;

use crate::executor::{Event, Sim, Time};

/// The longest that a datagram is under way, microseconds: less than the module remembers epochs that are over (`RETIRED_US`).
const MOST_DELAY: u64 = 4_000_000;

/// How good a way from one node to another is. Parts are of a million.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quality {
    /// Shortest time under way, microseconds.
    pub delay: u64,
    /// What comes on top of that, at most; microseconds.
    pub spread: u64,
    /// Lost.
    pub loss: u64,
    /// Delivered twice.
    pub twice: u64,
    /// Held back so that others overtake it.
    pub late: u64,
    /// For how long at most, microseconds.
    pub lateness: u64,
}

#[derive(Clone, Copy, Default)]
struct Way {
    quality: Quality,
    /// How many partitions cut it.
    cuts: u32,
}

/// All ways.
pub struct Network {
    nodes: usize,
    ways: Vec<Way>,
    /// Lost on all ways besides, in parts of a million.
    storm: u64,
}

impl Network {
    /// Between so many nodes; the quality of each way is asked for.
    pub fn new(nodes: usize, mut quality: impl FnMut() -> Quality) -> Network {
        let ways = (0..nodes * nodes).map(|_| Way {
            quality: quality(),
            cuts: 0,
        });
        Network {
            nodes,
            ways: ways.collect(),
            storm: 0,
        }
    }

    fn way(&mut self, from: usize, to: usize) -> &mut Way {
        &mut self.ways[from * self.nodes + to]
    }

    /// From now on nothing passes; a second cut has to be healed as well.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.way(from, to).cuts += 1;
    }

    /// Takes a cut back.
    pub fn heal(&mut self, from: usize, to: usize) {
        let way = self.way(from, to);
        way.cuts = way.cuts.saturating_sub(1);
    }

    /// Loses so many more of a million datagrams on all ways.
    pub fn set_storm(&mut self, loss: u64) {
        self.storm = loss;
    }

    /// From now on it is a good one.
    pub fn calm(&mut self) {
        self.storm = 0;
        for way in &mut self.ways {
            way.cuts = 0;
            way.quality.loss = 0;
        }
    }

    /// A node sends a datagram.
    pub fn send(&mut self, sim: &Sim, from: usize, to: usize, datagram: Rc<[u8]>) {
        let storm = self.storm;
        let Way { quality, cuts } = *self.way(from, to);
        let lost = |sim: &Sim| sim.chance(quality.loss) || sim.chance(storm);
        if cuts != 0 || lost(sim) {
            sim.note(Some(from), &[1, to as u64], || {
                format!("✗ n{to} a datagram is lost")
            });
            return;
        }
        let copies = if sim.chance(quality.twice) { 2 } else { 1 };
        for copy in 0..copies {
            let mut time = quality.delay + sim.below(quality.spread + 1);
            if copy != 0 || sim.chance(quality.late) {
                time += sim.below(quality.lateness + 1);
            }
            let arrival: Time = sim.now() + time.min(MOST_DELAY);
            let datagram = datagram.clone();
            sim.at(arrival, Event::Arrival { from, to, datagram });
        }
    }
}
