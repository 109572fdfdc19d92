// SPDX-License-Identifier: GPL-2.0

//! Requests that must not run twice (appends, renames, opens), on a bad network, in sessions that may end: to be explored by random
//! schedules.
//!
//! Who asks runs [`OnceWindow`], who is asked [`ReplyCache`], which the kernel module compiles as well; what `net/exchange.rs` and
//! `origin/serve.rs` do around them is in [`World::apply`].

use std::collections::HashMap;

use vremote_proto::{
    limits::MAX_REPLIES,
    reliable::{Begin, OnceWindow, ReplyCache},
};

/// A bug for the checks to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// What ran before runs again.
    RunsAgain,
    /// What is too old to be known runs.
    RunsOld,
    /// Requests begin although one is unanswered that the other side is about to forget.
    WindowIgnored,
    /// A request is sent again under a new id.
    RetryUnderNewId,
    /// A request of a session that is over runs in the next one.
    RunsInNextSession,
    /// A request is answered before it has run.
    AnsweredBefore,
    /// The reply that is repeated is that of another request.
    ReplyOfAnother,
    /// A request of a session that is over ends, and so does the one that has its slot by now.
    EndsAnother,
    /// A request that could not be run counts as running.
    NotCancelled,
    /// All that is known of requests is forgotten within a session.
    ForgottenWithinSession,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 10] = [
        Mutation::RunsAgain,
        Mutation::RunsOld,
        Mutation::WindowIgnored,
        Mutation::RetryUnderNewId,
        Mutation::RunsInNextSession,
        Mutation::AnsweredBefore,
        Mutation::ReplyOfAnother,
        Mutation::EndsAnother,
        Mutation::NotCancelled,
        Mutation::ForgottenWithinSession,
    ];
}

/// A request or a reply on its way: of which session, under which id, for which operation. `outcome`: of a reply, what it says.
#[derive(Clone, Copy, Debug)]
struct Message {
    session: u64,
    id: u64,
    operation: u64,
    outcome: Option<u64>,
}

/// An operation that somebody waits for.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    session: u64,
    id: u64,
    operation: u64,
    /// Its place in the window.
    place: Option<u64>,
}

/// A request that runs: in this slot of the cache.
#[derive(Clone, Copy, Debug)]
struct Running {
    message: Message,
    slot: usize,
}

/// One thing that can happen. Numbers are places in the lists of the [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Action {
    /// A program begins an operation, if it may.
    Begin,
    SendAgain(usize),
    Deliver(usize),
    Duplicate(usize),
    Lose(usize),
    /// A request that runs has ended.
    End(usize),
    /// There was no memory to run it.
    Cancel(usize),
    /// Nobody waits for an operation any more.
    GiveUp(usize),
    /// The session ends: the node that is asked forgets all replies. What runs goes on.
    NextSession,
}

/// All of it.
pub struct World {
    mutation: Option<Mutation>,
    session: u64,
    last_id: u64,
    last_operation: u64,
    window: OnceWindow,
    /// Operations without an answer.
    waiting: Vec<Waiting>,
    network: Vec<Message>,
    cache: Box<ReplyCache>,
    /// What is kept for each slot of the cache: the reply, and of which request it is or will be.
    replies: Vec<u64>,
    ids: Vec<u64>,
    running: Vec<Running>,
    /// Ghost: how often each operation was done, in which session last.
    done: HashMap<u64, (u32, u64)>,
    /// What went wrong.
    pub error: Option<&'static str>,
}

impl World {
    /// A session has just begun.
    pub fn new(mutation: Option<Mutation>) -> World {
        World {
            mutation,
            session: 1,
            last_id: 0,
            last_operation: 0,
            window: OnceWindow::new(),
            waiting: Vec::new(),
            network: Vec::new(),
            cache: Box::new(ReplyCache::new()),
            replies: vec![0; MAX_REPLIES],
            ids: vec![0; MAX_REPLIES],
            running: Vec::new(),
            done: HashMap::new(),
            error: None,
        }
    }

    fn has(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// How many operations wait for an answer, messages are on their way, and requests run.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.waiting.len(), self.network.len(), self.running.len())
    }

    /// How many operations were done.
    pub fn operations(&self) -> usize {
        self.done.len()
    }

    /// The state after `action`.
    pub fn apply(&mut self, action: Action) {
        match action {
            Action::Begin => {
                let place = self.window.begin();
                if place.is_none() && !self.has(Mutation::WindowIgnored) {
                    return;
                }
                self.last_operation += 1;
                self.last_id += 1;
                let waiting = Waiting {
                    session: self.session,
                    id: self.last_id,
                    operation: self.last_operation,
                    place,
                };
                self.waiting.push(waiting);
                self.ask(waiting);
            }
            Action::SendAgain(at) => {
                if self.has(Mutation::RetryUnderNewId) {
                    self.last_id += 1;
                    self.waiting[at].id = self.last_id;
                }
                self.ask(self.waiting[at]);
            }
            Action::Deliver(at) => {
                let message = self.network.swap_remove(at);
                self.deliver(message);
            }
            // The copy takes the longest way.
            Action::Duplicate(at) => self.network.insert(0, self.network[at]),
            Action::Lose(at) => {
                self.network.swap_remove(at);
            }
            Action::End(at) => {
                let Running { message, slot } = self.running.swap_remove(at);
                let outcome = self.run(message);
                if !self.has(Mutation::AnsweredBefore) {
                    self.answered(slot, message, outcome);
                }
            }
            Action::Cancel(at) => {
                let Running { message, slot } = self.running.swap_remove(at);
                if !self.has(Mutation::NotCancelled) {
                    self.cache.cancel(slot, message.id);
                }
            }
            Action::GiveUp(at) => self.over(at),
            Action::NextSession => {
                self.session += 1;
                *self.cache = ReplyCache::new();
                // Who waits is told that the session is over.
                while !self.waiting.is_empty() {
                    self.over(0);
                }
            }
        }
    }

    fn over(&mut self, at: usize) {
        let waiting = self.waiting.swap_remove(at);
        if let Some(place) = waiting.place {
            self.window.end(place);
        }
    }

    fn ask(&mut self, waiting: Waiting) {
        self.network.push(Message {
            session: waiting.session,
            id: waiting.id,
            operation: waiting.operation,
            outcome: None,
        });
    }

    /// Does what a request asks for.
    fn run(&mut self, message: Message) -> u64 {
        let (times, session) = self.done.entry(message.operation).or_default();
        *times += 1;
        *session = self.session;
        if *times > 1 {
            self.error = Some("an operation was done twice");
        }
        message.operation
    }

    fn answered(&mut self, slot: usize, message: Message, outcome: u64) {
        let ended = if self.has(Mutation::EndsAnother) {
            self.ids[slot]
        } else {
            message.id
        };
        if self.cache.done(slot, ended) {
            self.replies[slot] = outcome;
        }
        self.network.push(Message {
            outcome: Some(outcome),
            ..message
        });
    }

    fn deliver(&mut self, message: Message) {
        match message.outcome {
            None => self.asked(message),
            Some(outcome) => self.told(message, outcome),
        }
    }

    fn asked(&mut self, message: Message) {
        if message.session != self.session && !self.has(Mutation::RunsInNextSession) {
            return;
        }
        if self.has(Mutation::ForgottenWithinSession) && message.id % 50 == 0 {
            *self.cache = ReplyCache::new();
            self.running.clear();
        }
        match self.cache.begin(message.id) {
            Begin::New(slot) => {
                self.ids[slot] = message.id;
                if self.has(Mutation::AnsweredBefore) {
                    self.answered(slot, message, message.operation);
                }
                self.running.push(Running { message, slot });
            }
            Begin::Done(_) if self.has(Mutation::RunsAgain) => {
                self.run(message);
            }
            Begin::Done(slot) => {
                let slot = if self.has(Mutation::ReplyOfAnother) {
                    (slot + 1) % MAX_REPLIES
                } else {
                    slot
                };
                self.network.push(Message {
                    outcome: Some(self.replies[slot]),
                    ..message
                });
            }
            Begin::TooOld if self.has(Mutation::RunsOld) => {
                self.run(message);
            }
            Begin::Running | Begin::TooOld => {}
        }
    }

    fn told(&mut self, message: Message, outcome: u64) {
        let found = self
            .waiting
            .iter()
            .position(|waiting| (waiting.session, waiting.id) == (message.session, message.id));
        let Some(at) = found else { return };
        if outcome != self.waiting[at].operation {
            self.error = Some("an answer is that of another operation");
        } else if !self.done.contains_key(&outcome) {
            self.error = Some("an operation was confirmed that was not done");
        }
        self.over(at);
    }

    /// A network that loses nothing any more: whoever waits gets his answer.
    pub fn calm(&mut self) {
        for _ in 0..4 {
            for at in 0..self.waiting.len() {
                self.apply(Action::SendAgain(at));
            }
            for message in core::mem::take(&mut self.network) {
                self.deliver(message);
            }
            while !self.running.is_empty() {
                self.apply(Action::End(0));
            }
            for message in core::mem::take(&mut self.network) {
                self.deliver(message);
            }
        }
        if !self.waiting.is_empty() {
            self.error
                .get_or_insert("an operation is never answered, on a network that loses nothing");
        }
    }
}
