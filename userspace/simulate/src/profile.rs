// SPDX-License-Identifier: GPL-2.0

//! What kind of run it is: how many nodes and files, how good network, processors and disks are, what fails and when. All of it follows
//! from the profile's name and the seed.

use vremote_exercise::random::Random;
use vremote_proto::limits::{CALL_TIMEOUT_US, DEAF_US};

use crate::{
    executor::{Jitter, Time},
    network::Quality,
};

/// What a run is mostly about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// One of the others, which the seed decides
    All,
    /// Nothing fails: no call may
    Calm,
    /// Packets are lost, repeated and reordered, but not so that a call may fail
    Rough,
    /// Ways between nodes are cut, in one direction or both
    Partition,
    /// Nodes stand still, most of them for longer than their lease
    Pause,
    /// Nodes crash and start again
    Crash,
    /// Disks are slow, full, or fail
    Disk,
    /// All of that
    Storm,
}

impl Profile {
    /// Those that are not a choice of others.
    pub const EACH: [Profile; 7] = [
        Profile::Calm,
        Profile::Rough,
        Profile::Partition,
        Profile::Pause,
        Profile::Crash,
        Profile::Disk,
        Profile::Storm,
    ];

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Profile::All => "all",
            Profile::Calm => "calm",
            Profile::Rough => "rough",
            Profile::Partition => "partition",
            Profile::Pause => "pause",
            Profile::Crash => "crash",
            Profile::Disk => "disk",
            Profile::Storm => "storm",
        }
    }

    /// How often each kind of fault comes, of any 16.
    fn faults(self) -> [(Kind, u32); 6] {
        let weights = match self {
            Profile::All | Profile::Calm | Profile::Rough => [0, 0, 0, 0, 0, 1],
            Profile::Partition => [12, 0, 0, 0, 2, 2],
            Profile::Pause => [1, 12, 0, 0, 1, 2],
            Profile::Crash => [2, 1, 11, 0, 1, 1],
            Profile::Disk => [0, 0, 3, 11, 0, 2],
            Profile::Storm => [4, 3, 3, 4, 1, 1],
        };
        let kinds = [
            Kind::Cut,
            Kind::Pause,
            Kind::Crash,
            Kind::Disk,
            Kind::Storm,
            Kind::Kill,
        ];
        core::array::from_fn(|at| (kinds[at], weights[at]))
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Cut,
    Pause,
    Crash,
    Disk,
    Storm,
    Kill,
}

/// How a disk is doing badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Everything takes so many times as long.
    Slow(u64),
    /// Nothing is left for pages that have no room yet.
    Full,
    /// Nothing can be read.
    Unreadable,
    /// Nothing can be written.
    Unwritable,
}

/// Something that goes wrong, and how long it lasts (microseconds).
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Nothing passes from one node to another.
    Cut {
        /// From here …
        from: usize,
        /// … to there,
        to: usize,
        /// and back.
        both: bool,
        /// How long.
        time: Time,
    },
    /// A node is alone.
    Isolate {
        /// Which one.
        node: usize,
        /// How long.
        time: Time,
    },
    /// A node stands still; its clock goes on.
    Pause {
        /// Which one.
        node: usize,
        /// How long.
        time: Time,
    },
    /// A node loses its power, and starts again.
    Crash {
        /// Which one.
        node: usize,
        /// After how long.
        time: Time,
    },
    /// The disk of a node has trouble.
    Disk {
        /// Which one.
        node: usize,
        /// What kind.
        trouble: Trouble,
        /// How long.
        time: Time,
    },
    /// So many of a million packets are lost everywhere.
    Storm {
        /// How many.
        loss: u64,
        /// How long.
        time: Time,
    },
    /// Somebody who waits is killed.
    Kill,
}

impl Fault {
    /// Whether calls may fail for it although no disk does.
    pub fn disturbs(&self) -> bool {
        !matches!(self, Fault::Disk { .. } | Fault::Kill)
    }

    /// How long it lasts.
    pub fn time(&self) -> Time {
        match *self {
            Fault::Cut { time, .. }
            | Fault::Isolate { time, .. }
            | Fault::Pause { time, .. }
            | Fault::Crash { time, .. }
            | Fault::Disk { time, .. }
            | Fault::Storm { time, .. } => time,
            Fault::Kill => 0,
        }
    }
}

/// What a run is like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Nodes.
    pub nodes: usize,
    /// Files of each node.
    pub files: usize,
    /// Pages that each file has at first.
    pub pages: u64,
    /// Files that are used: origin and number.
    pub hot: Vec<(usize, usize)>,
    /// Programs on each node.
    pub clients: usize,
    /// Longest pause of a program between two calls, microseconds.
    pub think: u64,
    /// Of 16 operations in files, so many change something.
    pub writes: u64,
    /// Of 16, so many change the size.
    pub resizes: u64,
    /// Memory is short: an open may have to wait for it.
    pub short: bool,
    /// Module parameter `timeout_ms`, microseconds.
    pub timeout: u64,
    /// Module parameter `lease_ms`, microseconds.
    pub lease: u64,
    /// Most microseconds that a clock gains or loses in a second.
    pub gain: u64,
    /// How long things take to be noticed.
    pub jitter: Jitter,
    /// How good the ways are, at most this bad.
    pub network: Quality,
    /// Whether the disk has faults, so that calls may fail for them.
    pub disks_fail: bool,
    /// What goes wrong, and when.
    pub faults: Vec<(Time, Fault)>,
    /// When nothing goes wrong any more.
    pub end: Time,
}

const SECOND: Time = 1_000_000;

impl Shape {
    /// Draws one.
    pub fn draw(profile: Profile, random: &mut Random) -> Shape {
        let profile = match profile {
            Profile::All => Profile::EACH[random.index(Profile::EACH.len())],
            profile => profile,
        };
        let nodes = random.between(3, 8) as usize;
        let files = random.between(1, 2) as usize;
        let origins = random.between(1, nodes.min(3) as u64) as usize;
        let mut names: Vec<usize> = (0..nodes).collect();
        random.shuffle(&mut names);
        let hot: Vec<_> = (0..random.between(1, 3))
            .map(|_| (names[random.index(origins)], random.index(files)))
            .collect();
        let rough = !matches!(profile, Profile::Calm);
        let network = Quality {
            delay: random.between(50, 1_000),
            spread: *pick(random, &[50, 500, 5_000]),
            loss: if rough { random.below(40_000) } else { 0 },
            twice: if rough { random.below(60_000) } else { 0 },
            late: if rough { random.below(100_000) } else { 10_000 },
            lateness: *pick(random, &[2_000, 50_000, 1_000_000]),
        };
        let quiet = matches!(profile, Profile::Calm | Profile::Rough);
        let timeout = match random.between(2, 5) * SECOND {
            // A `Put` is sent again once a second at worst: within less than this all its copies are lost now and then, and few calls may
            // fail here.
            _ if quiet || profile == Profile::Disk => CALL_TIMEOUT_US,
            drawn => drawn,
        };
        let lease = random.between(DEAF_US / SECOND, 5) * SECOND;
        let end = random.between(6, 10) * SECOND + if quiet { 0 } else { 2 * lease + timeout };
        let mut shape = Shape {
            nodes,
            files,
            pages: random.between(1, 6),
            hot,
            clients: random.between(1, 2) as usize,
            think: *pick(random, &[4_000, 40_000, 400_000]),
            writes: random.between(2, 12),
            resizes: random.below(3),
            short: profile == Profile::Crash,
            timeout,
            lease,
            gain: *pick(random, &[0, 100, 30_000]),
            jitter: Jitter {
                usual: *pick(random, &[20, 200]),
                rare: *pick(random, &[500, 5_000, 30_000]),
                once_in: *pick(random, &[20, 500]),
            },
            network,
            disks_fail: false,
            faults: Vec::new(),
            end,
        };
        shape.draw_faults(profile, random);
        shape
    }

    fn draw_faults(&mut self, profile: Profile, random: &mut Random) {
        let kinds = profile.faults();
        // Long ones end a lease, short ones are to be survived.
        let long = 2 * self.lease + self.timeout;
        let mut time = SECOND;
        loop {
            time += random.between(SECOND / 10, 2 * SECOND);
            if time >= self.end {
                break;
            }
            let lasts = match random.below(3) {
                0 => random.between(1_000, SECOND),
                1 => random.between(SECOND, self.lease),
                _ => random.between(self.lease, long),
            };
            // Files are at home on few nodes: those are what failures are about, half of the time.
            let node = match random.below(2) {
                0 => self.hot[random.index(self.hot.len())].0,
                _ => random.index(self.nodes),
            };
            let other = (node + random.between(1, self.nodes as u64 - 1) as usize) % self.nodes;
            let kind = kinds[random.weighted(kinds.iter().map(|(_, weight)| *weight))].0;
            let fault = match kind {
                Kind::Cut if random.once_in(3) => Fault::Isolate { node, time: lasts },
                Kind::Cut => {
                    let (from, to) = match random.below(2) {
                        0 => (node, other),
                        _ => (other, node),
                    };
                    Fault::Cut {
                        from,
                        to,
                        both: random.below(2) == 0,
                        time: lasts,
                    }
                }
                Kind::Pause => Fault::Pause { node, time: lasts },
                Kind::Crash => Fault::Crash { node, time: lasts },
                Kind::Disk => Fault::Disk {
                    node: self.hot[random.index(self.hot.len())].0,
                    trouble: *pick(
                        random,
                        &[
                            Trouble::Slow(20),
                            Trouble::Slow(2_000),
                            Trouble::Full,
                            Trouble::Unreadable,
                            Trouble::Unwritable,
                        ],
                    ),
                    time: lasts,
                },
                Kind::Storm => Fault::Storm {
                    loss: *pick(random, &[100_000, 300_000, 700_000]),
                    time: lasts,
                },
                Kind::Kill => Fault::Kill,
            };
            if let Fault::Disk { trouble, .. } = fault {
                self.disks_fail |= !matches!(trouble, Trouble::Slow(_));
            }
            self.faults.push((time, fault));
        }
    }
}

fn pick<'a, T>(random: &mut Random, from: &'a [T]) -> &'a T {
    &from[random.index(from.len())]
}
