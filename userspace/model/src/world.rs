// SPDX-License-Identifier: GPL-2.0

//! Nodes, pages, network: the state that is explored, and every way in which it can change.
//!
//! A write makes the next [`Version`] of its page; a page's bytes are its version. The ghost of a page (`latest`) knows the
//! version of the last write, whoever made it.
//!
//! What is left out: time (a timer may go off whenever it would have something to do), the page cache's locks (what the
//! kernel does under a folio's lock is one step here), sizes and attributes.

use std::sync::atomic::{AtomicU64, Ordering};

use vremote_proto::copy::{Copy, GrantVerdict, InvalidateVerdict, Pending, RecallVerdict, State};
use vremote_proto::directory::{self, Action as Do, Event, Page, Phase, Requester, Tx, Want};
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

    // ---- what can happen -------------------------------------------------------------------------------------

    /// Everything that can happen in this state.
    pub fn actions(&self, config: &Config, out: &mut Vec<Action>) {
        self.progress(config, out);
        self.faults(config, out);
        let b = &self.budget;
        for page in 0..P {
            if b.operations > 0 && self.home[page].operation.is_none() {
                out.push(Action::BeginHome {
                    page,
                    want: Want::Read,
                });
                out.push(Action::BeginHome {
                    page,
                    want: Want::Write,
                });
            }
            for node in 0..R {
                let away = &self.remotes[node].pages[page];
                if b.operations > 0 && away.operation.is_none() {
                    if !away.copy.may_read() {
                        out.push(Action::Begin {
                            node,
                            page,
                            want: Want::Read,
                        });
                    }
                    out.push(Action::Begin {
                        node,
                        page,
                        want: Want::Write,
                    });
                }
            }
        }
    }

    /// What happens in every world, sooner or later: deliveries, timers, work.
    pub fn progress(&self, config: &Config, out: &mut Vec<Action>) {
        for (page, home) in self.home.iter().enumerate() {
            if home.work.is_some() {
                out.push(Action::Work { page, ok: true });
            }
        }
        for message in self.deliverable(config) {
            out.push(Action::Deliver(message));
        }
        if !config.has(Mutation::NoRetransmission) {
            self.timers(out);
        }
        // Tasks that have to be woken are late.
        for (page, home) in self.home.iter().enumerate() {
            if home.operation.is_some_and(|operation| !operation.asleep) {
                out.push(Action::LookAgain { page });
            }
        }
        for node in 0..R {
            for page in 0..P {
                let away = &self.remotes[node].pages[page];
                if away.operation == Some(Want::Write) && may_write(config, away) {
                    out.push(Action::Write { node, page });
                }
            }
        }
    }

    /// The messages that may arrive, equal ones once. A recall of a page that a writer claims is put aside, as if it
    /// were still under way.
    pub fn deliverable<'a>(&'a self, config: &'a Config) -> impl Iterator<Item = Message> + 'a {
        let claimed = |message: &Message| {
            let away = &self.remotes[message.node as usize].pages[message.page as usize];
            matches!(message.body, Body::Recall { .. })
                && away.copy.may_write()
                && away.operation == Some(Want::Write)
                && !config.has(Mutation::ClaimsIgnored)
        };
        let once = |at: &usize| *at == 0 || self.network[*at] != self.network[*at - 1];
        (0..self.network.len())
            .filter(once)
            .map(|at| self.network[at])
            .filter(move |message| !claimed(message))
    }

    /// Retransmission timers. One that goes off while the request or its answer is still under way makes a
    /// duplicate, which [`Action::Duplicate`] stands for.
    fn timers(&self, out: &mut Vec<Action>) {
        for (page, home) in self.home.iter().enumerate() {
            for node in 0..R {
                let away = &self.remotes[node].pages[page];
                let mine = |test: &dyn Fn(&Body) -> bool| {
                    let here = |m: &&Message| m.node == node as Node && m.page == page as u8;
                    self.network.iter().filter(here).any(|m| test(&m.body))
                };
                if let Some(pending) = away.pending {
                    let id = pending.request;
                    let at_origin = home.tx.is_some_and(|tx| {
                        let is_this = |requester: &Requester| {
                            matches!(requester, Requester::Remote { node: n, request, .. }
                                if *n == node as Node && *request == id)
                        };
                        let stuck = tx.phase == Phase::Turn
                            && home.operation.is_none_or(|operation| !operation.turn);
                        (is_this(&tx.current) && !tx.gone)
                            || (tx.queue.iter().any(is_this) && !stuck)
                    });
                    let under_way = mine(&|body| match body {
                        Body::Get { request, .. }
                        | Body::Grant { request, .. }
                        | Body::Refuse { request } => *request == id,
                        _ => false,
                    });
                    if !at_origin && !under_way {
                        out.push(Action::ResendGet { node, page });
                    }
                }
                if let Some(put) = away.put {
                    let under_way = mine(&|body| match body {
                        Body::Put { request, .. } | Body::PutDone { request, .. } => {
                            *request == put.request
                        }
                        _ => false,
                    });
                    let installing = home
                        .tx
                        .is_some_and(|tx| tx.put.is_some_and(|p| p.node == node as Node));
                    if !under_way && !installing {
                        out.push(Action::ResendPut { node, page });
                    }
                }
                if let Some(tx) = home.tx {
                    let open = matches!(tx.phase, Phase::Invalidating | Phase::Recalling)
                        && tx.waiting.contains(node as Node);
                    let answered = mine(&|body| match body {
                        Body::Invalidate { seq } | Body::Recall { seq, .. } | Body::Ack { seq } => {
                            *seq == tx.seq
                        }
                        _ => false,
                    });
                    let put = tx.phase == Phase::Recalling && away.put.is_some();
                    if open && !answered && !put {
                        out.push(Action::ResendRound { node, page });
                    }
                }
            }
        }
    }

    /// Faults and other things that need not happen.
    fn faults(&self, config: &Config, out: &mut Vec<Action>) {
        let b = &self.budget;
        for message in self.deliverable(config) {
            if b.losses > 0 {
                out.push(Action::Lose(message));
            }
            if b.duplicates > 0 {
                out.push(Action::Duplicate(message));
            }
        }
        for (page, home) in self.home.iter().enumerate() {
            if b.errors > 0 && home.work.is_some() {
                out.push(Action::Work { page, ok: false });
            }
            if b.give_ups > 0 && home.operation.is_some_and(|operation| operation.turn) {
                out.push(Action::GiveUpHome { page });
            }
            if b.time_outs > 0
                && home
                    .tx
                    .is_some_and(|tx| matches!(tx.phase, Phase::Invalidating | Phase::Recalling))
            {
                out.push(Action::TimeOut { page });
            }
        }
        for node in 0..R {
            for page in 0..P {
                let away = &self.remotes[node].pages[page];
                if b.give_ups > 0 && away.pending.is_some() {
                    out.push(Action::GiveUp { node, page });
                }
                let dirty = away.folio.is_some_and(|folio| folio.dirty);
                if b.evictions > 0 {
                    let clean = !dirty || config.has(Mutation::EvictionDropsDirty);
                    let clean = clean && matches!(away.copy.state, State::Shared | State::Modified);
                    if clean {
                        out.push(Action::Evict {
                            node,
                            page,
                            forget: false,
                        });
                    }
                    let idle = away.pending.is_none() && away.operation.is_none();
                    if idle
                        && (clean || away.copy.state == State::Invalid)
                        && away.copy != Copy::INVALID
                    {
                        out.push(Action::Evict {
                            node,
                            page,
                            forget: true,
                        });
                    }
                }
                if b.write_backs > 0 && dirty && away.copy.may_write() {
                    out.push(Action::WriteBack {
                        node,
                        page,
                        keep: true,
                    });
                    out.push(Action::WriteBack {
                        node,
                        page,
                        keep: false,
                    });
                }
            }
            if b.crashes > 0 {
                out.push(Action::Crash { node });
            }
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
                            keep: keeps(&tx),
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
                    self.begin_put(node, page, keep);
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

    // ---- network -----------------------------------------------------------------------------------------------

    fn send(&mut self, node: usize, page: usize, body: Body) {
        let message = Message {
            page: page as u8,
            node: node as Node,
            body,
        };
        let at = self.network.partition_point(|other| *other < message);
        self.network.insert(at, message);
    }

    fn take(&mut self, message: &Message) {
        if let Ok(at) = self.network.binary_search(message) {
            self.network.remove(at);
        }
    }

    fn deliver(&mut self, config: &Config, message: Message) {
        let (node, page) = (message.node as usize, message.page as usize);
        match message.body {
            Body::Get {
                request,
                write,
                held,
                have,
            } => {
                self.get(
                    config,
                    node,
                    page,
                    request,
                    if write { Want::Write } else { Want::Read },
                    held,
                    have,
                );
            }
            Body::Ack { mut seq } => {
                if let Some(tx) = self.home[page].tx {
                    if config.has(Mutation::AckOfAnyRound) {
                        seq = tx.seq;
                    }
                }
                self.origin(
                    config,
                    page,
                    Event::Acked {
                        node: message.node,
                        seq,
                    },
                    0,
                );
            }
            Body::Put {
                request,
                seq,
                keep,
                data,
            } => {
                let keep = keep && !config.has(Mutation::KeptCopyNotRecorded);
                self.origin(
                    config,
                    page,
                    Event::Put {
                        node: message.node,
                        request,
                        seq,
                        keep,
                    },
                    data,
                );
            }
            Body::Grant {
                request,
                seq,
                write,
                data,
            } => {
                self.grant(config, node, page, request, seq, write, data);
            }
            Body::Refuse { request } => {
                let away = &mut self.remotes[node].pages[page];
                if away
                    .pending
                    .is_some_and(|pending| pending.request == request)
                {
                    config.coverage.took(Turn::Refused);
                    away.pending = None;
                    away.operation = None;
                }
            }
            Body::Invalidate { seq } => self.invalidate(config, node, page, seq),
            Body::Recall { seq, keep } => self.recall(config, node, page, seq, keep),
            Body::PutDone { request, ok } => self.put_done(config, node, page, request, ok),
        }
    }

    // ---- the origin --------------------------------------------------------------------------------------------

    /// Gives an event to the directory and carries out what it says. `data` are the bytes of a Put.
    fn origin(&mut self, config: &Config, page: usize, event: Event, data: Version) {
        let home = &mut self.home[page];
        let mut actions = Vec::new();
        let before = *home;
        directory::step(
            &mut home.page,
            &mut home.tx,
            &mut self.next_seq,
            event,
            &mut |action| {
                actions.push(action);
            },
        );
        self.cover_event(config, page, event, &actions, &before);
        for action in actions {
            self.carry_out(config, page, action, data);
        }
    }

    fn carry_out(&mut self, config: &Config, page: usize, action: Do, data: Version) {
        match action {
            Do::Invalidate { to, seq } => {
                for node in to {
                    self.send(node as usize, page, Body::Invalidate { seq });
                }
                if config.has(Mutation::InvalidateNotAwaited) {
                    for node in to {
                        self.origin(config, page, Event::Acked { node, seq }, 0);
                    }
                }
            }
            Do::Recall { to, seq, keep } => {
                self.send(to as usize, page, Body::Recall { seq, keep })
            }
            Do::Install { node, request } => {
                self.home[page].work = Some(Work::Install { data });
                if config.has(Mutation::ConfirmedBeforeInstalled) {
                    self.send(node as usize, page, Body::PutDone { request, ok: true });
                }
            }
            Do::Grant {
                node,
                request,
                mut seq,
                write,
                mut data,
            } => {
                let home = &mut self.home[page];
                if config.strict_turns && home.operation.is_some_and(|operation| operation.turn) {
                    self.error = Some("a remote was served in the turn of the origin");
                }
                if home.page.owner == Some(node) && config.has(Mutation::RegrantWithFreshSeq) {
                    seq = directory::take_seq(&mut self.next_seq);
                    if let Some(tx) = &mut home.tx {
                        tx.seq = seq;
                    }
                }
                if config.has(Mutation::UpgradeWithoutData) {
                    data &= !self.remotes[node as usize].pages[page].sent.1;
                }
                home.work = Some(Work::Grant {
                    node,
                    request,
                    seq,
                    write,
                    data,
                });
            }
            Do::PutDone {
                node,
                request,
                status,
            } => {
                if status == 0 && config.has(Mutation::OldPutInstalled) && data != 0 {
                    self.install(page, data);
                }
                if !config.has(Mutation::ConfirmedBeforeInstalled) || data != 0 {
                    self.send(
                        node as usize,
                        page,
                        Body::PutDone {
                            request,
                            ok: status == 0,
                        },
                    );
                }
            }
            Do::Wake { status, .. } => {
                let home = &mut self.home[page];
                match (&mut home.operation, status) {
                    (Some(operation), 0 | directory::status::AGAIN) => {
                        operation.asleep = false;
                        operation.turn = status == 0;
                    }
                    (operation, _) => *operation = None,
                }
                config.coverage.took(Turn::HomeWoken);
                if status == 0 && config.has(Mutation::TurnsIgnored) {
                    self.origin(config, page, Event::Taken, 0);
                }
            }
            Do::Refuse { node, request, .. } => {
                self.send(node as usize, page, Body::Refuse { request })
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn get(
        &mut self,
        config: &Config,
        node: usize,
        page: usize,
        request: u64,
        want: Want,
        held: u64,
        have: bool,
    ) {
        let home = &mut self.home[page];
        if config.has(Mutation::ServesOwnStalePage)
            && want == Want::Read
            && home.page.owner != Some(node as Node)
        {
            home.page.sharers.insert(node as Node);
            let data = Some(home.data);
            let seq = directory::take_seq(&mut self.next_seq);
            self.send(
                node,
                page,
                Body::Grant {
                    request,
                    seq,
                    write: false,
                    data,
                },
            );
            return;
        }
        if config.has(Mutation::OldGetEndsOwnership) {
            home.page.request = 0;
        }
        let requester = Requester::Remote {
            node: node as Node,
            request,
            want,
            held,
            have,
        };
        self.origin(config, page, Event::Request(requester), 0);
    }

    /// The worker: what it does under the folio's lock is one step.
    fn work(&mut self, config: &Config, page: usize, ok: bool) {
        let home = &mut self.home[page];
        match home.work.take() {
            Some(Work::Install { data }) => {
                if ok {
                    self.install(page, data);
                }
                let status = if ok { 0 } else { directory::status::IO };
                self.origin(config, page, Event::Installed { status }, 0);
                if !ok && config.has(Mutation::FailedPutTakenLater) {
                    self.home[page].page.request = 0;
                }
            }
            Some(Work::Grant {
                node,
                request,
                seq,
                write,
                data,
            }) => {
                if !ok || directory::granting(&home.tx) != Some((node, request)) {
                    self.origin(
                        config,
                        page,
                        Event::GrantFailed {
                            status: directory::status::IO,
                        },
                        0,
                    );
                    return;
                }
                let data = data.then_some(home.data);
                self.origin(config, page, Event::Granted, 0);
                self.send(
                    node as usize,
                    page,
                    Body::Grant {
                        request,
                        seq,
                        write,
                        data,
                    },
                );
            }
            None => {}
        }
    }

    fn install(&mut self, page: usize, data: Version) {
        let home = &mut self.home[page];
        if data < home.data {
            self.error = Some("older bytes were installed over newer ones");
        }
        home.data = data;
        // Only after a crash: the bytes that arrived before it are not lost after all.
        home.latest = home.latest.max(data);
    }

    fn look_again(&mut self, config: &Config, page: usize) {
        let home = &mut self.home[page];
        let Some(LocalOperation { want, turn, .. }) = home.operation else {
            return;
        };
        let may = match want {
            Want::Read => {
                directory::home_may_read(&home.page, &home.tx)
                    || config.has(Mutation::HomeReadsAfterGrant)
            }
            Want::Write => {
                directory::home_may_write(&home.page, &home.tx)
                    || config.has(Mutation::HomeWritesUnasked)
            }
        };
        if may {
            home.operation = None;
            match want {
                Want::Read => {
                    if home.data != home.latest {
                        self.error = Some("a read at the origin did not return the last write");
                    }
                }
                Want::Write => {
                    if home.data != home.latest {
                        self.error = Some("a write at the origin went to an old page");
                    }
                    home.last += 1;
                    home.latest = home.last;
                    home.data = home.last;
                }
            }
            if turn {
                self.origin(config, page, Event::Taken, 0);
            }
        } else {
            home.operation = Some(LocalOperation {
                want,
                asleep: true,
                turn: false,
            });
            if turn {
                config.coverage.took(Turn::HomeLooksInVain);
            }
            let requester = Requester::Local {
                ticket: page as u64,
                want,
            };
            self.origin(config, page, Event::Request(requester), 0);
        }
    }

    fn crash(&mut self, config: &Config, node: usize) {
        let name = node as Node;
        if !config.has(Mutation::OldSessionAccepted) {
            self.network.retain(|message| message.node != name);
        }
        self.remotes[node] = Remote {
            next: 1,
            pages: [Away::default(); P],
        };
        for page in 0..P {
            let home = &mut self.home[page];
            if home.page.owner == Some(name) {
                // What it alone had is lost, as with any crash; a Put that has arrived is not.
                home.latest = home.data;
            }
            self.origin(config, page, Event::Gone { node: name }, 0);
        }
    }

    // ---- a remote ----------------------------------------------------------------------------------------------

    /// Asks for the page if its reader or writer needs it, ends the reader that may read.
    fn kick(&mut self, config: &Config, node: usize, page: usize) {
        let remote = &mut self.remotes[node];
        let away = &mut remote.pages[page];
        let Some(want) = away.operation else { return };
        let may = match want {
            Want::Read => away.copy.may_read(),
            Want::Write => may_write(config, away),
        };
        if may {
            if want == Want::Read {
                away.operation = None;
            }
            return;
        }
        let held = match away.copy.held() {
            Some(held) => held,
            None if config.has(Mutation::AskDuringPut) => away.copy.seq,
            None => return,
        };
        if away.pending.is_some() {
            return;
        }
        away.pending = Some(Pending::new(remote.next, want));
        away.sent = (held, want == Want::Write && away.copy.have());
        remote.next += 1;
        if config.has(Mutation::ModifiedWithoutGrant) && want == Want::Write {
            away.copy.state = State::Modified;
            away.folio = away.folio.or(Some(Folio {
                data: 0,
                dirty: false,
            }));
        }
        self.send_get(node, page);
    }

    fn send_get(&mut self, node: usize, page: usize) {
        let away = &self.remotes[node].pages[page];
        let (held, have) = away.sent;
        if let Some(Pending { request, want, .. }) = away.pending {
            self.send(
                node,
                page,
                Body::Get {
                    request,
                    write: want == Want::Write,
                    held,
                    have,
                },
            );
        }
    }

    fn send_put(&mut self, node: usize, page: usize) {
        if let Some(Put {
            request,
            seq,
            keep,
            data,
        }) = self.remotes[node].pages[page].put
        {
            self.send(
                node,
                page,
                Body::Put {
                    request,
                    seq,
                    keep,
                    data,
                },
            );
        }
    }

    fn begin_put(&mut self, node: usize, page: usize, keep: bool) {
        let remote = &mut self.remotes[node];
        let away = &mut remote.pages[page];
        let Some(folio) = away.folio else { return };
        away.put = Some(Put {
            request: remote.next,
            seq: away.copy.seq,
            keep,
            data: folio.data,
        });
        remote.next += 1;
        away.folio = keep.then_some(Folio {
            dirty: false,
            ..folio
        });
        self.send_put(node, page);
    }

    fn write(&mut self, config: &Config, node: usize, page: usize) {
        let away = &mut self.remotes[node].pages[page];
        let home = &mut self.home[page];
        if away.operation != Some(Want::Write) || !may_write(config, away) {
            return;
        }
        away.operation = None;
        match &mut away.folio {
            Some(folio) => {
                if folio.data != home.latest {
                    self.error = Some("a write at a remote went to an old page");
                }
                home.last += 1;
                home.latest = home.last;
                *folio = Folio {
                    data: home.last,
                    dirty: true,
                };
            }
            None => self.error = Some("a write at a remote found no page"),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn grant(
        &mut self,
        config: &Config,
        node: usize,
        page: usize,
        request: u64,
        seq: u64,
        write: bool,
        data: Option<Version>,
    ) {
        let cover = &config.coverage;
        let away = &mut self.remotes[node].pages[page];
        let mut pending = away.pending;
        if let (Some(pending), true) = (&mut pending, config.has(Mutation::BarrierIgnored)) {
            pending.barrier = 0;
        }
        if config.has(Mutation::UpgradeWithoutData) && data.is_none() && away.folio.is_some() {
            away.copy.state = State::Shared;
        }
        let valid = away.folio.is_some();
        match away
            .copy
            .grant(pending.as_ref(), request, seq, write, data.is_some(), valid)
        {
            GrantVerdict::Accept => {
                cover.took(Turn::GrantAccepted);
                away.pending = None;
                match data {
                    Some(data) => away.folio = Some(Folio { data, dirty: false }),
                    None => cover.took(Turn::UpgradeWithoutData),
                }
            }
            GrantVerdict::Retry => {
                let killed = pending.is_some_and(|pending| seq <= pending.barrier);
                cover.took(if killed {
                    Turn::GrantKilledByBarrier
                } else {
                    Turn::GrantWithoutUse
                });
                away.pending = None;
            }
            GrantVerdict::Ignore => cover.took(Turn::GrantIgnored),
        }
        self.kick(config, node, page);
    }

    fn invalidate(&mut self, config: &Config, node: usize, page: usize, seq: u64) {
        let cover = &config.coverage;
        let meant = if config.has(Mutation::UnitsMixed) {
            0
        } else {
            page
        };
        let away = &mut self.remotes[node].pages[meant];
        if config.has(Mutation::AcknowledgedNotDropped) {
            self.send(node, page, Body::Ack { seq });
            return;
        }
        match away.copy.invalidate(away.pending.as_mut(), seq) {
            InvalidateVerdict::Drop => {
                if away.put.is_some() {
                    cover.took(Turn::InvalidateDuringPut);
                }
                cover.took(Turn::InvalidateDropped);
                if !config.has(Mutation::UpgradeWithoutData) {
                    away.folio = None;
                }
            }
            InvalidateVerdict::Ack => cover.took(Turn::InvalidateOld),
        }
        self.send(node, page, Body::Ack { seq });
        self.kick(config, node, page);
    }

    fn recall(&mut self, config: &Config, node: usize, page: usize, seq: u64, keep: bool) {
        let cover = &config.coverage;
        let away = &mut self.remotes[node].pages[page];
        let dirty =
            away.folio.is_some_and(|folio| folio.dirty) && !config.has(Mutation::RecallDropsDirty);
        match away.copy.recall(away.pending.as_mut(), seq, keep, dirty) {
            RecallVerdict::Ack => {
                cover.took(Turn::RecallNothing);
                self.send(node, page, Body::Ack { seq });
            }
            RecallVerdict::Drop => {
                cover.took(Turn::RecallDropped);
                if !config.has(Mutation::UpgradeWithoutData) {
                    away.folio = None;
                }
                self.send(node, page, Body::Ack { seq });
            }
            RecallVerdict::WriteBack { keep } => {
                cover.took(Turn::RecallWroteBack);
                self.begin_put(node, page, keep);
            }
            RecallVerdict::InFlight => {
                cover.took(Turn::RecallMetPut);
                if config.has(Mutation::RecallAckedDuringPut) {
                    self.send(node, page, Body::Ack { seq });
                }
            }
        }
        self.kick(config, node, page);
    }

    fn put_done(&mut self, config: &Config, node: usize, page: usize, request: u64, ok: bool) {
        let away = &mut self.remotes[node].pages[page];
        let Some(put) = away.put.filter(|put| put.request == request) else {
            return;
        };
        away.put = None;
        if ok {
            if self.home[page].data < put.data {
                self.error = Some("a Put was confirmed, its bytes are not at the origin");
            }
            away.copy.put_done();
            if config.has(Mutation::OwnerAfterPut) && away.folio.is_some() {
                away.copy.state = State::Modified;
            }
        } else {
            away.copy.put_failed();
            away.folio = Some(Folio {
                data: put.data,
                dirty: true,
            });
        }
        self.kick(config, node, page);
    }

    fn evict(&mut self, config: &Config, node: usize, page: usize, forget: bool) {
        let away = &mut self.remotes[node].pages[page];
        away.folio = None;
        if config.has(Mutation::EvictionKeepsState) {
            return;
        }
        away.copy.lost();
        if forget {
            away.copy = Copy::INVALID;
        }
        self.kick(config, node, page);
    }

    fn cover_event(
        &self,
        config: &Config,
        page: usize,
        event: Event,
        actions: &[Do],
        before: &Home,
    ) {
        let cover = &config.coverage;
        let after = &self.home[page];
        match event {
            Event::Put { .. } => cover.took(match actions.first() {
                Some(Do::Install { .. }) => Turn::PutTaken,
                Some(Do::PutDone { status: 0, .. }) => Turn::PutOld,
                Some(_) => Turn::PutFailedBefore,
                None => Turn::PutDropped,
            }),
            Event::Installed { status: 1.. } => cover.took(Turn::PutFailed),
            Event::Acked { seq, .. } if before.tx.is_none_or(|tx| tx.seq != seq) => {
                cover.took(Turn::AckOld)
            }
            Event::Request(Requester::Remote { node, .. }) if before.tx.is_none() => {
                if before.page.owner == Some(node) {
                    match actions.first() {
                        None => cover.took(Turn::OldGetDropped),
                        Some(_) if after.page.owner.is_none() => {
                            cover.took(Turn::OwnershipEndedByGet)
                        }
                        Some(_) => cover.took(Turn::SameGrantAgain),
                    }
                }
            }
            Event::Request(Requester::Remote { .. }) if after.tx != before.tx => {
                cover.took(Turn::Queued)
            }
            _ => {}
        }
    }

    // ---- one representative for all states that differ in numbers only ----------------------------------------

    /// Renumbers seqs, request ids and versions, which are compared and never counted, in their order.
    pub fn canonical(&mut self) {
        for home in &mut self.home {
            if home.page.owner.is_none() {
                home.page.seq = 0;
                home.page.request = 0;
            }
        }
        let mut ranks = Ranks::new();
        self.seqs(&mut |seq| ranks.add(*seq));
        self.seqs(&mut |seq| *seq = ranks.of(*seq));
        self.next_seq = ranks.len() + 1;
        for node in 0..R {
            let mut ranks = Ranks::new();
            self.requests(node, &mut |request| ranks.add(*request));
            self.requests(node, &mut |request| *request = ranks.of(*request));
            self.remotes[node].next = ranks.len() + 1;
        }
        for page in 0..P {
            let mut ranks = Ranks::new();
            self.versions(page, &mut |version| ranks.add(*version));
            self.versions(page, &mut |version| *version = ranks.of(*version));
            self.home[page].last = ranks.len();
        }
        self.network.sort_unstable();
    }

    fn seqs(&mut self, visit: &mut impl FnMut(&mut u64)) {
        for home in &mut self.home {
            visit(&mut home.page.seq);
            if let Some(tx) = &mut home.tx {
                visit(&mut tx.seq);
                visit_requesters(tx, &mut |requester| {
                    if let Requester::Remote { held, .. } = requester {
                        visit(held);
                    }
                });
            }
            if let Some(Work::Grant { seq, .. }) = &mut home.work {
                visit(seq);
            }
        }
        for away in self.remotes.iter_mut().flat_map(|remote| &mut remote.pages) {
            visit(&mut away.copy.seq);
            visit(&mut away.sent.0);
            if let Some(pending) = &mut away.pending {
                visit(&mut pending.barrier);
            }
            if let Some(put) = &mut away.put {
                visit(&mut put.seq);
            }
        }
        for message in &mut self.network {
            match &mut message.body {
                Body::Get { held, .. } => visit(held),
                Body::Grant { seq, .. }
                | Body::Invalidate { seq }
                | Body::Recall { seq, .. }
                | Body::Ack { seq }
                | Body::Put { seq, .. } => visit(seq),
                Body::Refuse { .. } | Body::PutDone { .. } => {}
            }
        }
    }

    fn requests(&mut self, of: usize, visit: &mut impl FnMut(&mut u64)) {
        let name = of as Node;
        for home in &mut self.home {
            if home.page.owner == Some(name) {
                visit(&mut home.page.request);
            }
            if let Some(tx) = &mut home.tx {
                if let Some(put) = tx.put.as_mut().filter(|put| put.node == name) {
                    visit(&mut put.request);
                }
                visit_requesters(tx, &mut |requester| match requester {
                    Requester::Remote { node, request, .. }
                    | Requester::WriteBack { node, request, .. }
                        if *node == name =>
                    {
                        visit(request);
                    }
                    _ => {}
                });
            }
            if let Some(Work::Grant { node, request, .. }) = &mut home.work {
                if *node == name {
                    visit(request);
                }
            }
        }
        for away in &mut self.remotes[of].pages {
            if let Some(pending) = &mut away.pending {
                visit(&mut pending.request);
            } else {
                away.sent = (0, false);
            }
            if let Some(put) = &mut away.put {
                visit(&mut put.request);
            }
        }
        for message in self
            .network
            .iter_mut()
            .filter(|message| message.node == name)
        {
            match &mut message.body {
                Body::Get { request, .. }
                | Body::Grant { request, .. }
                | Body::Refuse { request }
                | Body::Put { request, .. }
                | Body::PutDone { request, .. } => visit(request),
                Body::Invalidate { .. } | Body::Recall { .. } | Body::Ack { .. } => {}
            }
        }
    }

    fn versions(&mut self, page: usize, visit: &mut impl FnMut(&mut u64)) {
        let home = &mut self.home[page];
        visit(&mut home.data);
        visit(&mut home.latest);
        if let Some(Work::Install { data }) = &mut home.work {
            visit(data);
        }
        for remote in &mut self.remotes {
            let away = &mut remote.pages[page];
            if let Some(folio) = &mut away.folio {
                visit(&mut folio.data);
            }
            if let Some(put) = &mut away.put {
                visit(&mut put.data);
            }
        }
        for message in self
            .network
            .iter_mut()
            .filter(|message| message.page == page as u8)
        {
            match &mut message.body {
                Body::Grant {
                    data: Some(data), ..
                }
                | Body::Put { data, .. } => visit(data),
                _ => {}
            }
        }
    }
}

/// Whether a remote may write its copy.
fn may_write(config: &Config, away: &Away) -> bool {
    let during_put = matches!(away.copy.state, State::WritingBack { keep: true });
    away.copy.may_write() || (during_put && config.has(Mutation::WriteDuringPut))
}

/// The flag of the recall that a transaction has sent.
fn keeps(tx: &Tx) -> bool {
    match tx.current {
        Requester::Remote { want, .. } | Requester::Local { want, .. } => want == Want::Read,
        Requester::WriteBack { .. } => false,
    }
}

/// Visits the requests that a transaction knows.
fn visit_requesters(tx: &mut Tx, visit: &mut impl FnMut(&mut Requester)) {
    visit(&mut tx.current);
    for requester in tx.queue.iter_mut() {
        visit(requester);
    }
}

/// Most different numbers that a small world has of one kind.
const MAX_RANKS: usize = 64;

/// Numbers in use, in order, to be replaced by their ranks. 0 keeps its meaning.
struct Ranks {
    numbers: [u64; MAX_RANKS],
    count: usize,
}

impl Ranks {
    fn new() -> Ranks {
        Ranks {
            numbers: [0; MAX_RANKS],
            count: 0,
        }
    }

    fn used(&self) -> &[u64] {
        &self.numbers[..self.count]
    }

    fn add(&mut self, number: u64) {
        if number == 0 {
            return;
        }
        if let Err(at) = self.used().binary_search(&number) {
            assert!(
                self.count < MAX_RANKS,
                "this world is too large to be renumbered"
            );
            self.numbers.copy_within(at..self.count, at + 1);
            self.numbers[at] = number;
            self.count += 1;
        }
    }

    fn len(&self) -> u64 {
        self.count as u64
    }

    fn of(&self, number: u64) -> u64 {
        self.used()
            .binary_search(&number)
            .map_or(0, |at| at as u64 + 1)
    }
}
