// SPDX-License-Identifier: GPL-2.0

//! One origin, one remote, and time: leases and fences, to be explored.
//!
//! [`crate::world`] knows no time; what its sessions rest on is modelled here. The origin runs [`Term`], the remote [`Lease`], which the
//! kernel module compiles as well; what `net/peer.rs` and `remote/` do around them is in [`World::apply`]. What the remote holds is one page;
//! what others do to it after a fence is a higher version of it.
//!
//! A pause of the remote needs no action of its own: its clock goes on, and nothing else of it has to happen.

use vremote_proto::lease::{Lease, Term};

/// Ticks that a lease lasts. A term lasts one more.
pub const LENGTH: u64 = 8;

/// A bug for the checks to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// The lease counts from when the answer arrives, not from when the hello was sent.
    CountedFromArrival,
    /// The origin takes back what it granted when the lease is over by its own clock, without a margin.
    FencedWithoutMargin,
    /// A hello that is answered after the term was closed grants a lease all the same.
    GrantedWhileClosed,
    /// The term counts from the first answer only.
    TermNotExtended,
    /// The remote's lease outlives the session in which it was granted.
    LeaseOutlivesSession,
    /// An answer of a session that is over renews the lease of the present one.
    AnswerOfOldSession,
    /// A fence leaves the session as it is.
    FencedWithinSession,
    /// A write counts if the lease held when its bytes were copied.
    ConfirmedBefore,
    /// A write counts although the session has changed since.
    ConfirmedInOtherSession,
    /// What was cached outlives the session.
    CacheOutlivesSession,
    /// An answer reopens a term that was revoked.
    RevokedReopened,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 11] = [
        Mutation::CountedFromArrival,
        Mutation::FencedWithoutMargin,
        Mutation::GrantedWhileClosed,
        Mutation::TermNotExtended,
        Mutation::LeaseOutlivesSession,
        Mutation::AnswerOfOldSession,
        Mutation::FencedWithinSession,
        Mutation::ConfirmedBefore,
        Mutation::ConfirmedInOtherSession,
        Mutation::CacheOutlivesSession,
        Mutation::RevokedReopened,
    ];
}

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Ticks of the origin's clock.
    pub ticks: u8,
    /// Of these, ticks in which the remote's clock stands still. No more than one in [`LENGTH`], which is what the margin is for.
    pub slow: u8,
    /// Hellos of either node.
    pub hellos: u8,
    /// Messages that come twice. That one is lost needs no action: it never comes.
    pub duplicates: u8,
    /// Pages asked for.
    pub gets: u8,
    /// Writes begun.
    pub writes: u8,
    /// Times at which somebody wants what the remote holds.
    pub suspicions: u8,
    /// Times at which it has kept that for too long.
    pub revocations: u8,
    /// Times at which the origin loses its memory.
    pub restarts: u8,
}

/// What the network carries. `epoch` is the origin's: of the session that the message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Message {
    /// Of the remote, sent at this time of its clock.
    Hello {
        epoch: u8,
        sent: u64,
    },
    /// The origin's answer, and the lease that it grants.
    Answer {
        epoch: u8,
        sent: u64,
        length: u64,
    },
    /// Of the origin, to hear whether the remote hears.
    Probe {
        epoch: u8,
    },
    /// The remote's answer.
    Echo {
        epoch: u8,
    },
    Get {
        epoch: u8,
    },
    Grant {
        epoch: u8,
        version: u8,
    },
}

/// The origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    clock: u64,
    epoch: u8,
    term: Term,
    /// The remote is on record as a holder.
    held: bool,
    /// Somebody waits for what it holds.
    wanted: bool,
    /// The page, which others write as soon as they may.
    version: u8,
    /// Ghost: when the remote's term was revoked in this session.
    revoked: Option<u64>,
    /// For [`Mutation::TermNotExtended`].
    granted: bool,
}

/// A write that has changed what is cached: in which session, and whether the lease held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Write {
    epoch: u8,
    leased: bool,
}

/// The remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Remote {
    clock: u64,
    /// The origin's epoch as far as it knows; 0: none.
    epoch: u8,
    lease: Lease,
    /// The page.
    cached: Option<u8>,
    write: Option<Write>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    origin: Origin,
    remote: Remote,
    network: Vec<Message>,
    budget: Budget,
    /// Ticks since the remote's clock stood still.
    steady: u64,
    /// Ghost: the sessions that ended by a fence, a bit each.
    fenced: u32,
    /// What went wrong.
    pub error: Option<&'static str>,
}

/// One thing that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Action {
    Tick,
    /// The origin's clock alone.
    Slow,
    Hello,
    Probe,
    Get,
    Deliver(usize),
    Duplicate(usize),
    /// Somebody wants the page, and the remote has not answered.
    Suspect,
    /// Somebody has wanted it for long.
    Revoke,
    Fence,
    Restart,
    /// The remote changes what it has cached.
    Write,
    /// It makes sure that this counts, and returns.
    Confirm,
}

impl World {
    /// A session has just begun.
    pub fn new(budget: Budget) -> World {
        World {
            origin: Origin {
                clock: 0,
                epoch: 1,
                term: Term::default(),
                held: false,
                wanted: false,
                version: 0,
                revoked: None,
                granted: false,
            },
            remote: Remote {
                clock: 0,
                epoch: 1,
                lease: Lease::default(),
                cached: None,
                write: None,
            },
            network: Vec::new(),
            budget,
            steady: LENGTH,
            fenced: 0,
            error: None,
        }
    }

    /// Everything that can happen in this state.
    pub fn actions(&self, mutation: Option<Mutation>, out: &mut Vec<Action>) {
        let b = &self.budget;
        let (origin, remote) = (&self.origin, &self.remote);
        let mut may = |condition: bool, action| {
            if condition {
                out.push(action);
            }
        };
        may(b.ticks > 0, Action::Tick);
        may(
            b.ticks > 0 && b.slow > 0 && self.steady >= LENGTH,
            Action::Slow,
        );
        may(b.hellos > 0, Action::Hello);
        may(b.hellos > 0 && origin.wanted, Action::Probe);
        may(b.gets > 0 && remote.cached.is_none(), Action::Get);
        may(
            b.suspicions > 0 && origin.held && !origin.wanted,
            Action::Suspect,
        );
        may(
            b.revocations > 0 && origin.held && origin.revoked.is_none(),
            Action::Revoke,
        );
        may(origin.wanted && self.fences_now(mutation), Action::Fence);
        may(b.restarts > 0, Action::Restart);
        may(
            b.writes > 0 && remote.cached.is_some() && remote.write.is_none(),
            Action::Write,
        );
        may(self.confirms(mutation), Action::Confirm);
        for at in 0..self.network.len() {
            may(true, Action::Deliver(at));
            may(b.duplicates > 0, Action::Duplicate(at));
        }
    }

    fn fences_now(&self, mutation: Option<Mutation>) -> bool {
        let margin = match mutation {
            Some(Mutation::FencedWithoutMargin) => LENGTH / 8,
            _ => 0,
        };
        self.origin.term.over(self.origin.clock + margin)
    }

    /// Whether a write under way may return. In another session it fails, which is no matter here.
    fn confirms(&self, mutation: Option<Mutation>) -> bool {
        self.remote.write.is_some_and(|write| match mutation {
            Some(Mutation::ConfirmedBefore) => write.leased,
            Some(Mutation::ConfirmedInOtherSession) => self.leased(),
            _ => self.leased() && write.epoch == self.remote.epoch,
        })
    }

    fn leased(&self) -> bool {
        self.remote.lease.holds(self.remote.clock)
    }

    /// The state after `action`.
    pub fn apply(&mut self, mutation: Option<Mutation>, action: Action) {
        let has = |wanted| mutation == Some(wanted);
        match action {
            Action::Tick | Action::Slow => {
                self.budget.ticks -= 1;
                self.origin.clock += 1;
                self.steady += 1;
                if action == Action::Slow {
                    self.budget.slow -= 1;
                    self.steady = 0;
                } else {
                    self.remote.clock += 1;
                }
            }
            Action::Hello => {
                self.budget.hellos -= 1;
                let (epoch, sent) = (self.remote.epoch, self.remote.clock);
                self.send(Message::Hello { epoch, sent });
            }
            Action::Probe => {
                self.budget.hellos -= 1;
                let epoch = self.origin.epoch;
                self.send(Message::Probe { epoch });
            }
            Action::Get => {
                self.budget.gets -= 1;
                let epoch = self.remote.epoch;
                self.send(Message::Get { epoch });
            }
            Action::Deliver(at) => {
                let message = self.network.remove(at);
                self.deliver(mutation, message);
            }
            Action::Duplicate(at) => {
                self.budget.duplicates -= 1;
                self.deliver(mutation, self.network[at]);
            }
            Action::Suspect => {
                self.budget.suspicions -= 1;
                self.origin.wanted = true;
                self.origin.term.close(self.origin.clock, 1);
            }
            Action::Revoke => {
                self.budget.revocations -= 1;
                let origin = &mut self.origin;
                origin.wanted = true;
                origin.revoked = Some(origin.clock);
                if has(Mutation::RevokedReopened) {
                    origin.term.close(origin.clock, 0);
                } else {
                    origin.term.revoke(origin.clock);
                }
            }
            Action::Fence => {
                self.fenced |= 1 << self.origin.epoch;
                let epoch = if has(Mutation::FencedWithinSession) {
                    self.origin.epoch
                } else {
                    self.origin.epoch + 1
                };
                self.begin(epoch);
            }
            Action::Restart => {
                self.budget.restarts -= 1;
                self.begin(self.origin.epoch + 1);
                // By that nobody writes: what is cached elsewhere is as good as what is here.
                self.origin.version -= 1;
            }
            Action::Write => {
                self.budget.writes -= 1;
                self.remote.write = Some(Write {
                    epoch: self.remote.epoch,
                    leased: self.leased(),
                });
            }
            Action::Confirm => {
                if let Some(write) = self.remote.write.take() {
                    if self.fenced & (1 << write.epoch) != 0 {
                        self.error = Some("a write returned that nobody else will see");
                    }
                }
            }
        }
        self.network.sort_unstable();
        if self.shows_what_is_over() {
            self.error = Some("the remote may show a page that was taken from it");
        }
        if self.is_left_in_peace() {
            self.error = Some("the remote keeps what it was to give up");
        }
    }

    /// A lease and its margin after it was revoked, nothing that the remote does keeps it from being fenced.
    fn is_left_in_peace(&self) -> bool {
        let origin = &self.origin;
        origin.revoked.is_some_and(|revoked| {
            origin.clock > revoked + LENGTH + LENGTH / 8 && !origin.term.over(origin.clock)
        })
    }

    /// What is cached may be shown by a mapping at any moment.
    fn shows_what_is_over(&self) -> bool {
        self.leased()
            && self
                .remote
                .cached
                .is_some_and(|version| version < self.origin.version)
    }

    /// The origin's next session: all that it had granted is void, and the page is written by others.
    fn begin(&mut self, epoch: u8) {
        let origin = &mut self.origin;
        *origin = Origin {
            clock: origin.clock,
            epoch,
            term: Term::default(),
            held: false,
            wanted: false,
            version: origin.version + 1,
            revoked: None,
            granted: false,
        };
    }

    fn send(&mut self, message: Message) {
        self.network.push(message);
    }

    fn deliver(&mut self, mutation: Option<Mutation>, message: Message) {
        let has = |wanted| mutation == Some(wanted);
        let origin = &mut self.origin;
        match message {
            Message::Hello { epoch, sent } => {
                let length = if epoch != origin.epoch {
                    0
                } else if has(Mutation::GrantedWhileClosed) {
                    let granted = origin.term.grant(origin.clock, LENGTH);
                    granted.max(LENGTH)
                } else if has(Mutation::TermNotExtended) && origin.granted {
                    LENGTH
                } else {
                    origin.term.grant(origin.clock, LENGTH)
                };
                origin.granted |= length != 0;
                let epoch = origin.epoch;
                self.send(Message::Answer {
                    epoch,
                    sent,
                    length,
                });
            }
            Message::Answer {
                epoch,
                sent,
                length,
            } => {
                let remote = &mut self.remote;
                if epoch > remote.epoch {
                    remote.epoch = epoch;
                    if !has(Mutation::LeaseOutlivesSession) {
                        remote.lease = Lease::default();
                    }
                    if !has(Mutation::CacheOutlivesSession) {
                        remote.cached = None;
                    }
                } else if epoch == remote.epoch || has(Mutation::AnswerOfOldSession) {
                    let from = if has(Mutation::CountedFromArrival) {
                        remote.clock
                    } else {
                        sent
                    };
                    remote.lease.renew(from, length);
                }
            }
            Message::Probe { epoch } => {
                if epoch == self.remote.epoch {
                    self.send(Message::Echo { epoch });
                }
            }
            Message::Echo { epoch } => {
                if epoch == origin.epoch {
                    origin.term.reopen();
                    origin.wanted = origin.term.is_closed();
                }
            }
            Message::Get { epoch } => {
                if epoch == origin.epoch {
                    origin.held = true;
                    let version = origin.version;
                    self.send(Message::Grant { epoch, version });
                }
            }
            Message::Grant { epoch, version } => {
                if epoch == self.remote.epoch {
                    self.remote.cached = Some(version);
                }
            }
        }
    }
}
