// SPDX-License-Identifier: GPL-2.0

//! Nodes, pages, network: the state that is explored, and every way in which it can change.
//!
//! A write makes the next [`Version`] of its page; a page's bytes are its version. The ghost of a page (`latest`) knows the
//! version of the last write, whoever made it.
//!
//! What is left out: time (a timer may go off whenever it would have something to do), the page cache's locks (what the
//! kernel does under a folio's lock is one step here), sizes and attributes.

mod actions;
mod canonical;
mod network;
mod origin;
mod remote;

use std::sync::atomic::{AtomicU64, Ordering};

use vremote_proto::copy::{Copy, Pending, State};
use vremote_proto::directory::{Event, Page, Phase, Tx, Want};
use vremote_proto::nodes::Node;

use crate::mutation::Mutation;

/// The contents of a page: how many writes it has seen. 0 is what is on disk at first.
pub type Version = u64;

/// How often each thing may still happen. What must happen for every request to end is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Reads and writes begun, by any node to any page.
    pub operations: u16,
    /// Messages lost.
    pub losses: u16,
    /// Messages delivered twice.
    pub duplicates: u16,
    /// Clean folios reclaimed, pages forgotten with their inode.
    pub evictions: u16,
    /// Pages written home without a recall.
    pub write_backs: u16,
    /// I/O errors at the origin.
    pub errors: u16,
    /// Requests that a remote gives up (a signal, a time-out).
    pub give_ups: u16,
    /// Rounds whose time is up.
    pub time_outs: u16,
    /// Remotes that lose their memory and come back with a new session.
    pub crashes: u16,
}

impl Budget {
    /// Nothing happens.
    pub const NONE: Budget = Budget {
        operations: 0,
        losses: 0,
        duplicates: 0,
        evictions: 0,
        write_backs: 0,
        errors: 0,
        give_ups: 0,
        time_outs: 0,
        crashes: 0,
    };

    /// For a line of results.
    pub fn describe(&self) -> String {
        let parts = [
            (self.operations, "operations"),
            (self.losses, "losses"),
            (self.duplicates, "duplicates"),
            (self.evictions, "evictions"),
            (self.write_backs, "write-backs"),
            (self.errors, "errors"),
            (self.give_ups, "give-ups"),
            (self.time_outs, "time-outs"),
            (self.crashes, "crashes"),
        ];
        let parts: Vec<_> = parts
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, name)| format!("{n} {name}"))
            .collect();
        parts.join(", ")
    }
}

/// What the network carries. Page and remote are those of the [`Message`]; who sends follows from the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Body {
    Get {
        request: u64,
        write: bool,
        held: u64,
        have: bool,
    },
    Grant {
        request: u64,
        seq: u64,
        write: bool,
        data: Option<Version>,
    },
    Refuse {
        request: u64,
    },
    Invalidate {
        seq: u64,
    },
    Recall {
        seq: u64,
        keep: bool,
    },
    Ack {
        seq: u64,
    },
    Put {
        request: u64,
        seq: u64,
        keep: bool,
        data: Version,
    },
    PutDone {
        request: u64,
        ok: bool,
    },
}

/// A message between the origin and a remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Message {
    /// The page.
    pub page: u8,
    /// The remote that sends or receives it.
    pub node: Node,
    /// The rest.
    pub body: Body,
}

/// What the glue at the origin has to do outside the file's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Work {
    Grant {
        node: Node,
        request: u64,
        seq: u64,
        write: bool,
        data: bool,
    },
    Install {
        data: Version,
    },
}

/// A read or write at the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalOperation {
    /// Which one.
    pub want: Want,
    /// It sleeps until `Wake`.
    pub asleep: bool,
    /// It was woken for its turn.
    pub turn: bool,
}

/// A page at its origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Home {
    /// The record of the directory.
    pub page: Page,
    /// Its transaction.
    pub tx: Option<Tx>,
    /// The bytes: of the page cache, or of the disk if it is not there.
    pub data: Version,
    /// Queued to a worker.
    pub work: Option<Work>,
    /// The origin's own reader or writer.
    pub operation: Option<LocalOperation>,
    /// Ghost: the version of the last write, whoever made it.
    pub latest: Version,
    /// Ghost: the highest version ever given out.
    pub last: Version,
}

/// A folio at a remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Folio {
    /// The bytes.
    pub data: Version,
    /// Written since it was granted.
    pub dirty: bool,
}

/// A Put in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Put {
    pub request: u64,
    pub seq: u64,
    pub keep: bool,
    pub data: Version,
}

/// A page at a remote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Away {
    /// State and grant.
    pub copy: Copy,
    /// The request in flight.
    pub pending: Option<Pending>,
    /// The fields `held` and `have` that the request carries.
    pub sent: (u64, bool),
    /// The page cache's folio.
    pub folio: Option<Folio>,
    /// The Put in flight.
    pub put: Option<Put>,
    /// A reader or writer that waits.
    pub operation: Option<Want>,
}

/// A remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Remote<const P: usize> {
    /// The next request id.
    pub next: u64,
    /// Its pages.
    pub pages: [Away; P],
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World<const R: usize, const P: usize> {
    /// The file's counter.
    pub next_seq: u64,
    /// The pages at the origin.
    pub home: [Home; P],
    /// The remotes.
    pub remotes: [Remote<P>; R],
    /// Messages under way, sorted; any of them may be the next to arrive.
    pub network: Vec<Message>,
    /// What may still happen.
    pub budget: Budget,
    /// A check within a step that failed.
    pub error: Option<&'static str>,
}

/// One thing that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Action {
    /// A remote begins to read or write.
    Begin {
        node: usize,
        page: usize,
        want: Want,
    },
    /// The origin begins to read or write.
    BeginHome {
        page: usize,
        want: Want,
    },
    /// The writer of a remote gets the folio's lock.
    Write {
        node: usize,
        page: usize,
    },
    /// The origin's reader or writer, awake, gets the folio's lock.
    LookAgain {
        page: usize,
    },
    /// The worker of the origin, with or without an I/O error.
    Work {
        page: usize,
        ok: bool,
    },
    Deliver(Message),
    Duplicate(Message),
    Lose(Message),
    /// Retransmission timers.
    ResendGet {
        node: usize,
        page: usize,
    },
    ResendPut {
        node: usize,
        page: usize,
    },
    ResendRound {
        node: usize,
        page: usize,
    },
    /// A clean folio is reclaimed; `forget`: the inode goes as well.
    Evict {
        node: usize,
        page: usize,
        forget: bool,
    },
    /// fsync or memory pressure.
    WriteBack {
        node: usize,
        page: usize,
        keep: bool,
    },
    GiveUp {
        node: usize,
        page: usize,
    },
    /// A task of the origin that was woken is killed, and never looks.
    GiveUpHome {
        page: usize,
    },
    TimeOut {
        page: usize,
    },
    Crash {
        node: usize,
    },
}

/// How often the interesting turns of the protocol were taken, to see that the exploration reaches them.
#[derive(Debug, Default)]
pub struct Coverage([AtomicU64; Turn::NAMES.len()]);

/// An interesting turn of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(usize)]
pub enum Turn {
    GrantAccepted,
    GrantKilledByBarrier,
    GrantWithoutUse,
    GrantIgnored,
    UpgradeWithoutData,
    SameGrantAgain,
    OwnershipEndedByGet,
    InvalidateDropped,
    InvalidateOld,
    InvalidateDuringPut,
    RecallWroteBack,
    RecallDropped,
    RecallNothing,
    RecallMetPut,
    PutTaken,
    PutOld,
    PutDropped,
    PutFailed,
    PutFailedBefore,
    AckOld,
    OldGetDropped,
    Queued,
    Refused,
    HomeWoken,
    HomeLooksInVain,
    HomeGivesUp,
}

impl Turn {
    /// Their names, in the order of their numbers.
    pub const NAMES: [&'static str; 26] = [
        "grant accepted",
        "grant killed by an invalidation that overtook it",
        "grant without data, no copy left",
        "grant nobody waits for",
        "upgrade without data",
        "same grant again",
        "ownership given up by a Get",
        "copy invalidated",
        "invalidate that means nothing here",
        "invalidate during a Put",
        "recall answered by a Put",
        "recall dropped an unwritten page",
        "recall found nothing",
        "recall met a Put in flight",
        "Put installed",
        "Put old: confirmed, ignored",
        "Put dropped, comes again",
        "Put failed",
        "Put failed before: refused again",
        "acknowledgement of an older round",
        "Get older than the owner's grant",
        "Get queued behind another",
        "request refused",
        "origin woken",
        "origin woken, its turn ended by others",
        "origin woken, never looks",
    ];
}

impl Coverage {
    fn took(&self, turn: Turn) {
        self.0[turn as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often this turn was taken.
    pub fn count(&self, turn: usize) -> u64 {
        self.0[turn].load(Ordering::Relaxed)
    }
}

/// What does not change while a world is explored.
#[derive(Debug, Default)]
pub struct Config {
    /// The planted bug.
    pub mutation: Option<Mutation>,
    /// Nobody may be served in the turn of the origin's own task. Not so in a world with duplicates: a request that
    /// comes again ends a turn.
    pub strict_turns: bool,
    /// Counters.
    pub coverage: Coverage,
}

impl Config {
    fn has(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

impl<const R: usize, const P: usize> World<R, P> {
    /// Nobody holds anything.
    pub fn new(budget: Budget) -> World<R, P> {
        World {
            next_seq: 1,
            home: [Home::default(); P],
            remotes: [Remote {
                next: 1,
                pages: [Away::default(); P],
            }; R],
            network: Vec::new(),
            budget,
            error: None,
        }
    }

    /// The state after `action`.
    pub fn apply(&mut self, config: &Config, action: Action) {
        let b = &mut self.budget;
        match action {
            Action::Begin { node, page, want } => {
                b.operations -= 1;
                self.remotes[node].pages[page].operation = Some(want);
                self.kick(config, node, page);
                if want == Want::Write {
                    self.write(config, node, page);
                }
            }
            Action::BeginHome { page, want } => {
                b.operations -= 1;
                self.home[page].operation = Some(LocalOperation {
                    want,
                    asleep: false,
                    turn: false,
                });
                self.look_again(config, page);
            }
            Action::Write { node, page } => self.write(config, node, page),
            Action::LookAgain { page } => self.look_again(config, page),
            Action::Work { page, ok } => {
                if !ok {
                    b.errors -= 1;
                }
                self.work(config, page, ok);
            }
            Action::Deliver(message) => {
                self.take(&message);
                self.deliver(config, message);
            }
            Action::Duplicate(message) => {
                b.duplicates -= 1;
                self.deliver(config, message);
            }
            Action::Lose(message) => {
                b.losses -= 1;
                self.take(&message);
            }
            Action::ResendGet { node, page } => self.send_get(node, page),
            Action::ResendPut { node, page } => self.send_put(node, page),
            Action::ResendRound { node, page } => {
                if let Some(tx) = self.home[page].tx {
                    let body = match tx.phase {
                        Phase::Recalling => Body::Recall {
                            seq: tx.seq,
                            keep: origin::keeps(&tx),
                        },
                        _ => Body::Invalidate { seq: tx.seq },
                    };
                    self.send(node, page, body);
                }
            }
            Action::Evict { node, page, forget } => {
                b.evictions -= 1;
                self.evict(config, node, page, forget);
            }
            Action::WriteBack { node, page, keep } => {
                b.write_backs -= 1;
                if self.remotes[node].pages[page].copy.write_back(keep) {
                    self.begin_put(config, node, page, keep);
                }
            }
            Action::GiveUp { node, page } => {
                b.give_ups -= 1;
                let away = &mut self.remotes[node].pages[page];
                if config.has(Mutation::TimeoutTakenAsShared) {
                    away.copy = Copy {
                        state: State::Shared,
                        seq: away.copy.seq,
                    };
                    away.folio = away.folio.or(Some(Folio {
                        data: 0,
                        dirty: false,
                    }));
                }
                away.pending = None;
                away.operation = None;
            }
            Action::GiveUpHome { page } => {
                b.give_ups -= 1;
                config.coverage.took(Turn::HomeGivesUp);
                self.home[page].operation = None;
            }
            Action::TimeOut { page } => {
                b.time_outs -= 1;
                if let Some(tx) = self.home[page].tx {
                    if config.has(Mutation::TimeoutTakenAsAck) {
                        for node in tx.waiting {
                            self.origin(config, page, Event::Acked { node, seq: tx.seq }, 0);
                        }
                    } else {
                        self.origin(config, page, Event::Unreachable { seq: tx.seq }, 0);
                    }
                }
            }
            Action::Crash { node } => {
                b.crashes -= 1;
                self.crash(config, node);
            }
        }
    }
}
