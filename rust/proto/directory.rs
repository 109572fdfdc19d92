// SPDX-License-Identifier: GPL-2.0

//! One page at its origin: who holds it, and the transaction that changes that.
//!
//! [`step`] is the whole protocol of this side: an [`Event`] goes in, [`Action`]s come out. The caller ("the glue")
//! keeps one [`Page`] for every page that remotes have asked for, and a [`Tx`] for those with a transaction under way;
//! it calls [`step`] under the file's lock and carries out the actions, in order, after it has let the lock go.
//!
//! # Transaction
//!
//! ```text
//!  request ──► is the page in the requester's way?
//!                │ owned by another:  Recalling ──Put──► Installing ──Installed──┐
//!                │                        └─────Ack (nothing written)────────────┤
//!                │ write, and shared: Invalidating ──Ack from all────────────────┤
//!                │◄──────────────────────────── look again ──────────────────────┘
//!                ▼ no
//!              a remote: Granting ──Granted──► holder recorded, Grant sent        next in the queue
//!              the origin itself: Wake, Turn ──Taken──►                            next in the queue
//! ```
//!
//! # Turns
//!
//! A remote gets the page with its grant. The origin's own reader or writer is only woken, and the page would be granted
//! to the next remote before it has looked, again and again. So it has a turn like a remote: after `Wake`, others wait
//! until it has looked ([`Event::Taken`]). All local requesters that nothing is in the way of share one turn, because
//! the folio's lock keeps them apart. A task that never looks (it was killed) holds nobody up for long: a turn also ends
//! when a waiting remote sends its request again, or a local request arrives that does not fit it.
//!
//! # What always holds
//!
//! - A page has an owner or sharers, never both.
//! - A remote that may read is recorded as sharer or owner; one that may write is recorded as owner, under the seq
//!   that it holds the page with. The reverse need not be so: a grant may be lost, or its requester gone.
//! - A holder leaves the record only by its own `Ack`, `Put` or Get that gives the page up, or with its session.
//!
//! # Holders that keep a page
//!
//! A round ends by its time-out, and whoever asked fails. So a holder that does not give up the page keeps others out of it, by mistake or
//! on purpose. [`overdue`] counts the rounds that it lets run out, for one holder of a page at a time, because each of several will have its turn.
//! What it does with other pages does not count, nor does it when it merely asks for this one again.
//!
//! # Old and repeated messages
//!
//! - `Ack`s count only for the round that is open: `seq` is the round's.
//! - A `Put` counts only from the owner, under the seq of its grant, and if it is not one that failed before.
//! - A Get of the owner counts only if it is not older than the Get that its grant answered: otherwise a delayed
//!   duplicate that carries the seq of the present grant would end an ownership under which the remote writes.

use super::limits::MAX_WAITERS;
use super::nodes::{Node, NodeSet};

/// Errno values that this file puts into `status`; 0 is success.
pub mod status {
    /// `EIO`: the page's last version could not be installed. Only whose bytes these are is told why, once.
    pub const IO: u16 = 5;
    /// `EAGAIN`: the queue of the page is full. Not an error for a user: wait a little, ask again.
    pub const AGAIN: u16 = 11;
    /// `ETIMEDOUT`: a holder of the page does not answer.
    pub const TIMED_OUT: u16 = 110;
}

/// What a requester wants with the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Want {
    /// To read it: a copy.
    Read,
    /// To write it: ownership.
    Write,
}

/// The record of a page while nothing happens to it. `Default` is a page that no remote holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Page {
    /// Seq of the last grant; while there is an owner, that of its grant.
    pub seq: u64,
    /// While there is an owner: the id of its last request that was dealt with under this grant, that is the Get that
    /// the grant answered, or a `Put` that failed. Older requests of the owner are duplicates.
    pub request: u64,
    /// The remote that may write.
    pub owner: Option<Node>,
    /// The remotes that may read.
    pub sharers: NodeSet,
    /// The holder that has kept it although others wanted it.
    pub overdue: Overdue,
}

/// For how long a holder has kept a page that it was asked for, in rounds that have run out. See [`overdue`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Overdue {
    node: Option<Node>,
    /// Since it last answered one.
    unanswered: u16,
    /// Of rounds for writers, since it last held nothing. Who lets others read may still keep them from writing.
    kept: u16,
}

impl Overdue {
    /// The holder, if it has let so many rounds run out.
    pub fn after(&self, rounds: u16) -> Option<Node> {
        self.node
            .filter(|_| self.unanswered.max(self.kept) >= rounds)
    }

    /// A round for a reader, or for a writer, has run out; these have not answered it.
    fn count(&mut self, waiting: &NodeSet, want: Want) {
        if !self.node.is_some_and(|node| waiting.contains(node)) {
            *self = Overdue {
                node: waiting.first(),
                ..Overdue::default()
            };
        }
        self.unanswered = self.unanswered.saturating_add(1);
        if want == Want::Write {
            self.kept = self.kept.saturating_add(1);
        }
    }

    /// A node has given the page up, or as much of it as keeps others from reading.
    fn answered(&mut self, by: Node, keeps_copy: bool) {
        if self.node == Some(by) {
            if keeps_copy {
                self.unanswered = 0;
            } else {
                *self = Overdue::default();
            }
        }
    }
}

impl Page {
    /// Whether no remote holds the page: the origin may do anything with it.
    pub fn is_free(&self) -> bool {
        self.owner.is_none() && self.sharers.is_empty()
    }

    /// Whether no remote holds the page in a way that keeps the origin from this.
    fn lets_home(&self, want: Want) -> bool {
        match want {
            Want::Read => self.owner.is_none(),
            Want::Write => self.is_free(),
        }
    }
}

/// Who asks for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Requester {
    /// A remote, by `GetShared` or `GetModified`.
    Remote {
        /// Which one.
        node: Node,
        /// Id of its request; increasing over the remote's session.
        request: u64,
        /// What it wants.
        want: Want,
        /// Seq of the grant that it gives up by asking, 0 for none (the header's `seq`).
        held: u64,
        /// It has a valid read copy and needs no data (flag `HAVE`).
        have: bool,
    },
    /// The origin itself. `Write` also serves to take the page from every remote (truncate, direct I/O, unshare).
    Local {
        /// Names it in [`Action::Wake`].
        ticket: u64,
        /// What it wants.
        want: Want,
    },
    /// A `Put` that nobody asked for, being installed. Made by [`Event::Put`] only.
    WriteBack {
        /// The former owner.
        node: Node,
        /// Id of its `Put`.
        request: u64,
        /// It keeps a read copy.
        keep: bool,
    },
}

/// What a transaction waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// For the acknowledgements of [`Tx::waiting`].
    Invalidating,
    /// For the owner's `Put` or `Ack`.
    Recalling,
    /// For the glue to put the bytes of a `Put` into the page cache.
    Installing,
    /// For the glue to read, copy or remove the origin's page.
    Granting,
    /// For the origin's own requesters to look.
    Turn,
}

/// A `Put` being installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Install {
    /// From whom.
    pub node: Node,
    /// Its id.
    pub request: u64,
    /// The sender keeps a read copy.
    pub keep: bool,
}

/// The requesters that wait for a page, first come first served. There is at most one of a remote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Queue([Option<Requester>; MAX_WAITERS]);

impl Queue {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those who wait, the next one first.
    pub fn iter(&self) -> impl Iterator<Item = &Requester> {
        self.0.iter().flatten()
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Requester> {
        self.0.iter_mut().flatten()
    }

    /// Puts one at the end; says whether there was room.
    fn push(&mut self, requester: Requester) -> bool {
        match self.0.iter_mut().find(|place| place.is_none()) {
            Some(place) => {
                *place = Some(requester);
                true
            }
            None => false,
        }
    }

    fn pop(&mut self) -> Option<Requester> {
        self.0.rotate_left(1);
        self.0[MAX_WAITERS - 1].take()
    }

    /// Removes those that `keep` does not want.
    fn retain(&mut self, mut keep: impl FnMut(&Requester) -> bool) {
        let mut kept = Queue::default();
        for requester in self.iter() {
            if keep(requester) {
                kept.push(*requester);
            }
        }
        *self = kept;
    }

    /// The place of the request of `node`.
    fn of(&mut self, node: Node) -> Option<&mut Requester> {
        self.0
            .iter_mut()
            .flatten()
            .find(|requester| requester.remote() == Some(node))
    }
}

impl Requester {
    /// The remote that asks by a Get.
    fn remote(&self) -> Option<Node> {
        match self {
            Requester::Remote { node, .. } => Some(*node),
            Requester::Local { .. } | Requester::WriteBack { .. } => None,
        }
    }

    /// Whether a request of `node` with this id is the same as `self`, or older.
    fn covers(&self, of: Node, id: u64) -> bool {
        matches!(self, Requester::Remote { node, request, .. } if *node == of && id <= *request)
    }
}

/// A transaction: one requester is served, others wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tx {
    /// Who is served.
    pub current: Requester,
    /// What is waited for.
    pub phase: Phase,
    /// Seq of the round of invalidations, of the recall, or of the grant.
    pub seq: u64,
    /// Who has not answered the round.
    pub waiting: NodeSet,
    /// The `Put` being installed, in phase `Installing`, unless its sender is gone.
    pub put: Option<Install>,
    /// Local requesters that were woken and have not looked, in phase `Turn`.
    pub turns: u8,
    /// The session of `current` ended while the glue was at work for it: it is not to be granted anything.
    pub gone: bool,
    /// Who waits.
    pub queue: Queue,
}

impl Tx {
    fn new(current: Requester) -> Tx {
        Tx {
            current,
            phase: Phase::Granting,
            seq: 0,
            waiting: NodeSet::new(),
            put: None,
            turns: 0,
            gone: false,
            queue: Queue::default(),
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Somebody asks: a Get arrived, or a hook of the origin found that it may not go on.
    Request(Requester),
    /// An `Ack` arrived.
    Acked {
        /// From whom.
        node: Node,
        /// Seq of the round that it answers.
        seq: u64,
    },
    /// A `Put` arrived, complete.
    Put {
        /// From whom.
        node: Node,
        /// Its id.
        request: u64,
        /// Seq of the grant that the page was held under.
        seq: u64,
        /// The sender keeps a read copy.
        keep: bool,
    },
    /// The glue carried out [`Action::Install`].
    Installed {
        /// errno; 0: the bytes are in the page cache. If they are not, the sender stays owner.
        status: u16,
    },
    /// The glue carried out [`Action::Grant`]: it holds the folio's lock, has copied the page and, for a write, removed
    /// it. Only if [`granting`] still says so under the file's lock.
    ///
    /// The `Grant` leaves after this event and before the actions that come out of it: the next in the queue may need
    /// a recall of this very page, and sent first it would overtake the grant and kill it, every time.
    Granted,
    /// The glue could not carry out [`Action::Grant`] (I/O error, beyond the end of the file), or [`granting`] said
    /// that the requester is gone: nobody was granted anything.
    GrantFailed {
        /// Why: an errno, not 0.
        status: u16,
    },
    /// A local requester that was woken with status 0 has looked, under the folio's lock, and may go on; or it does not
    /// want the page any more. A grant that comes out of this event is left to a worker: the task goes on first.
    Taken,
    /// The time of the round with this seq is up. The requester fails, the holders stay on record.
    Unreachable {
        /// Seq of the round.
        seq: u64,
    },
    /// The session with a node is over: all that it held, asked and owed is void. A new session must follow, with
    /// other epochs, before anything of this node is taken again: otherwise a `Put` of bytes written in the old one
    /// would be confirmed as a duplicate.
    Gone {
        /// Which one.
        node: Node,
    },
}

/// What the glue has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send `Invalidate` to these nodes until each has answered, or until its time is up: then [`Event::Unreachable`].
    Invalidate {
        /// To whom.
        to: NodeSet,
        /// Seq of the round.
        seq: u64,
    },
    /// Send `Recall` until it is answered by `Put` or `Ack`, or until its time is up: then [`Event::Unreachable`].
    Recall {
        /// The owner.
        to: Node,
        /// Seq of the round.
        seq: u64,
        /// A read copy may stay there.
        keep: bool,
    },
    /// Put the bytes of this `Put` into the page cache, uptodate and dirty; then [`Event::Installed`].
    Install {
        /// From whom.
        node: Node,
        /// Id of the `Put`.
        request: u64,
    },
    /// Under the folio's lock: read the page if `data`, and if `write` keep its bytes when they are dirty and remove it from the
    /// page cache; nothing of this if the node is the page's owner already, whose grant was lost; then [`Event::Granted`] or [`Event::GrantFailed`]; then send `Grant`.
    Grant {
        /// To whom.
        node: Node,
        /// Id of the Get that it answers.
        request: u64,
        /// Seq of the grant.
        seq: u64,
        /// Ownership.
        write: bool,
        /// With the page's bytes.
        data: bool,
    },
    /// Send `Reply` to a `Put`.
    PutDone {
        /// To whom.
        node: Node,
        /// Id of the `Put`.
        request: u64,
        /// 0: the sender may forget the bytes. Else it stays owner and keeps them.
        status: u16,
    },
    /// A local requester has its turn (0), is to ask again a little later ([`status::AGAIN`]), or fails.
    ///
    /// After 0 it takes the folio's lock, looks ([`home_may_read`], [`home_may_write`]), and reports [`Event::Taken`]
    /// under the same lock; if it may not go on after all, it asks again.
    Wake {
        /// Which one.
        ticket: u64,
        /// An errno, or 0.
        status: u16,
    },
    /// Send `Grant` with this status and nothing else.
    Refuse {
        /// To whom.
        node: Node,
        /// Id of its Get.
        request: u64,
        /// An errno, not 0.
        status: u16,
    },
}

/// Takes the next seq of a file; never 0. `next` is the one that is given out next.
pub fn take_seq(next: &mut u64) -> u64 {
    let seq = (*next).max(1);
    *next = seq.saturating_add(1);
    seq
}

/// Whether the origin may read its own page now: no remote owns it or is about to, no `Put` is being installed.
/// Looked at under the folio's lock and the file's lock.
pub fn home_may_read(page: &Page, tx: &Option<Tx>) -> bool {
    page.owner.is_none()
        && match tx {
            Some(tx) if tx.phase == Phase::Granting => !matches!(
                tx.current,
                Requester::Remote {
                    want: Want::Write,
                    ..
                }
            ),
            Some(tx) => tx.phase != Phase::Installing,
            None => true,
        }
}

/// Whether the origin may write its own page now: no remote holds it or is about to, no `Put` is being installed.
/// Looked at under the folio's lock and the file's lock. The glue that installs a `Put` does not ask.
pub fn home_may_write(page: &Page, tx: &Option<Tx>) -> bool {
    page.is_free()
        && !matches!(
            tx,
            Some(Tx {
                phase: Phase::Granting | Phase::Installing,
                ..
            })
        )
}

/// The node and the request that [`Action::Grant`] was for, while that still counts. The glue looks here, under the
/// file's lock, right before [`Event::Granted`]; on `None`, or another pair than its action named, it sends nothing.
pub fn granting(tx: &Option<Tx>) -> Option<(Node, u64)> {
    match tx {
        Some(Tx {
            phase: Phase::Granting,
            gone: false,
            current: Requester::Remote { node, request, .. },
            ..
        }) => Some((*node, *request)),
        _ => None,
    }
}

/// The transaction, if the round with this seq is open and waits for `node`.
pub fn waits_for(tx: &Option<Tx>, seq: u64, node: Node) -> Option<&Tx> {
    tx.as_ref().filter(|tx| {
        tx.seq == seq
            && matches!(tx.phase, Phase::Invalidating | Phase::Recalling)
            && tx.waiting.contains(node)
    })
}

/// `node` was asked in the round with this seq, and has not answered within the round's time: counts that. Gives who has kept the page for how
/// long, or `None` if the round is over. Who asks the node once more, instead of ending the round by [`Event::Unreachable`], calls this when
/// that time is up as well.
///
/// All nodes of a round are asked at the same time, so it is counted once for all of them: when the time of the first is up.
pub fn overdue(page: &mut Page, tx: &Option<Tx>, seq: u64, node: Node) -> Option<Overdue> {
    let tx = waits_for(tx, seq, node)?;
    let want = match tx.current {
        Requester::Remote { want, .. } | Requester::Local { want, .. } => want,
        Requester::WriteBack { .. } => return None,
    };
    if tx.waiting.first() == Some(node) {
        page.overdue.count(&tx.waiting, want);
    }
    Some(page.overdue)
}

/// One step of the protocol for one page: changes `page` and `tx` as `event` demands and hands the actions to `out`.
///
/// `next_seq` is the file's counter (see [`take_seq`]). Events that do not fit, because they are old, repeated or wrong, change
/// nothing.
pub fn step(
    page: &mut Page,
    tx: &mut Option<Tx>,
    next_seq: &mut u64,
    event: Event,
    out: &mut impl FnMut(Action),
) {
    let mut step = Step {
        page,
        tx,
        next_seq,
        out,
    };
    match event {
        Event::Request(requester) => step.request(requester),
        Event::Acked { node, seq } => step.acked(node, seq),
        Event::Put {
            node,
            request,
            seq,
            keep,
        } => step.put(
            Install {
                node,
                request,
                keep,
            },
            seq,
        ),
        Event::Installed { status } => step.installed(status),
        Event::Granted => step.granted(),
        Event::Taken => step.taken(),
        Event::GrantFailed { status } => step.grant_failed(status),
        Event::Unreachable { seq } => step.unreachable(seq),
        Event::Gone { node } => step.gone(node),
    }
}

/// The arguments of [`step`], for its parts.
struct Step<'a, F> {
    page: &'a mut Page,
    tx: &'a mut Option<Tx>,
    next_seq: &'a mut u64,
    out: &'a mut F,
}

impl<F: FnMut(Action)> Step<'_, F> {
    fn emit(&mut self, action: Action) {
        (self.out)(action);
    }

    fn request(&mut self, requester: Requester) {
        if let Requester::WriteBack { .. } = requester {
            return;
        }
        let Some(tx) = self.tx else {
            *self.tx = Some(Tx::new(requester));
            if !self.start() {
                self.next();
            }
            return;
        };
        match requester {
            Requester::Remote { node, request, .. } => {
                if tx.current.covers(node, request) && !tx.gone {
                    return;
                }
                match tx.queue.of(node) {
                    Some(Requester::Remote {
                        request: queued, ..
                    }) if request <= *queued => {
                        if request == *queued {
                            // It has waited long enough to send again.
                            self.end_turn();
                        }
                    }
                    Some(queued) => *queued = requester,
                    // If there is no room, it comes again.
                    None => _ = tx.queue.push(requester),
                }
            }
            Requester::Local { ticket, want } => {
                if tx.phase == Phase::Turn && self.page.lets_home(want) {
                    tx.turns = tx.turns.saturating_add(1);
                    self.emit(Action::Wake { ticket, status: 0 });
                } else if tx.queue.push(requester) {
                    self.end_turn();
                } else {
                    self.emit(Action::Wake {
                        ticket,
                        status: status::AGAIN,
                    });
                    self.end_turn();
                }
            }
            Requester::WriteBack { .. } => {}
        }
    }

    /// Ends the transaction and begins those that wait, until one of them has to wait for something.
    fn next(&mut self) {
        while let Some(tx) = self.tx {
            let queue = &mut tx.queue;
            match queue.pop() {
                Some(requester) => {
                    *tx = Tx {
                        queue: *queue,
                        ..Tx::new(requester)
                    };
                    if self.start() {
                        return;
                    }
                }
                None => *self.tx = None,
            }
        }
    }

    /// Begins to serve `current`. Says whether it has to wait for something; if not, it is done.
    fn start(&mut self) -> bool {
        if let Some(Tx {
            current:
                Requester::Remote {
                    node,
                    request,
                    held,
                    ..
                },
            ..
        }) = *self.tx
        {
            if self.page.owner == Some(node) {
                if request < self.page.request {
                    return false;
                }
                if held == self.page.seq && request > self.page.request {
                    // It dropped the page unwritten: the origin's version is the last one.
                    self.page.owner = None;
                }
            }
        }
        self.advance()
    }

    /// Finds what is in the way of `current` and begins to remove it. Says whether there is something to wait for.
    fn advance(&mut self) -> bool {
        let Some(tx) = self.tx else { return false };
        let (me, want) = match tx.current {
            Requester::Remote { node, want, .. } => (Some(node), want),
            Requester::Local { want, .. } => (None, want),
            Requester::WriteBack { .. } => return false,
        };
        tx.waiting = NodeSet::new();
        tx.put = None;
        let others = match me {
            Some(me) => self.page.sharers.without(me),
            None => self.page.sharers,
        };
        let action = match self.page.owner {
            Some(owner) if me != Some(owner) => {
                tx.phase = Phase::Recalling;
                tx.seq = take_seq(self.next_seq);
                tx.waiting = owner.into();
                Action::Recall {
                    to: owner,
                    seq: tx.seq,
                    keep: want == Want::Read,
                }
            }
            None if want == Want::Write && !others.is_empty() => {
                tx.phase = Phase::Invalidating;
                tx.seq = take_seq(self.next_seq);
                tx.waiting = others;
                Action::Invalidate {
                    to: others,
                    seq: tx.seq,
                }
            }
            owner => match tx.current {
                Requester::Remote {
                    node,
                    request,
                    have,
                    ..
                } => {
                    // The grant to an owner was lost: the same one again. Another seq would void the one that may
                    // still arrive, and the Put of what is written under it. Without data, for if that one has arrived the origin has
                    // none: it would read old bytes from its disk into its page cache, where its own programs find them.
                    let again = owner.is_some();
                    let write = again || want == Want::Write;
                    tx.phase = Phase::Granting;
                    tx.seq = if again {
                        self.page.seq
                    } else {
                        take_seq(self.next_seq)
                    };
                    let upgrade = have && want == Want::Write && self.page.sharers.contains(node);
                    Action::Grant {
                        node,
                        request,
                        seq: tx.seq,
                        write,
                        data: !again && !upgrade,
                    }
                }
                Requester::Local { ticket, .. } => {
                    tx.phase = Phase::Turn;
                    tx.turns = 1;
                    let (page, turns, out) = (&*self.page, &mut tx.turns, &mut *self.out);
                    tx.queue.retain(|requester| match requester {
                        Requester::Local { ticket, want } if page.lets_home(*want) => {
                            *turns = turns.saturating_add(1);
                            out(Action::Wake {
                                ticket: *ticket,
                                status: 0,
                            });
                            false
                        }
                        _ => true,
                    });
                    Action::Wake { ticket, status: 0 }
                }
                Requester::WriteBack { .. } => return false,
            },
        };
        self.emit(action);
        true
    }

    /// Something that was in the way is gone: looks again, or serves the next one.
    fn go_on(&mut self) {
        if !self.advance() {
            self.next();
        }
    }

    /// Tells `current` that it gets nothing, and serves the next one.
    fn fail(&mut self, status: u16) {
        if let Some(tx) = self.tx {
            let gone = tx.gone;
            match tx.current {
                Requester::Remote { node, request, .. } if !gone => self.emit(Action::Refuse {
                    node,
                    request,
                    status,
                }),
                Requester::Local { ticket, .. } => self.emit(Action::Wake { ticket, status }),
                Requester::Remote { .. } | Requester::WriteBack { .. } => {}
            }
        }
        self.next();
    }

    /// The open round, if this is its seq.
    fn round(&mut self, seq: u64) -> Option<&mut Tx> {
        self.tx.as_mut().filter(|tx| {
            tx.seq == seq && matches!(tx.phase, Phase::Invalidating | Phase::Recalling)
        })
    }

    fn acked(&mut self, node: Node, seq: u64) {
        let Some(tx) = self.round(seq) else { return };
        if !tx.waiting.remove(node) {
            return;
        }
        let done = tx.waiting.is_empty();
        match tx.phase {
            Phase::Recalling => self.page.owner = None,
            _ => _ = self.page.sharers.remove(node),
        }
        self.page.overdue.answered(node, false);
        if done {
            self.go_on();
        }
    }

    fn put(&mut self, put: Install, seq: u64) {
        let Install {
            node,
            request,
            keep,
        } = put;
        if self.page.owner != Some(node) || self.page.seq != seq {
            // It was taken before, or the page was given up since.
            self.emit(Action::PutDone {
                node,
                request,
                status: 0,
            });
            return;
        }
        if request <= self.page.request {
            // This very one failed, and its sender may have written more since.
            self.emit(Action::PutDone {
                node,
                request,
                status: status::IO,
            });
            return;
        }
        match self.tx {
            None => {
                *self.tx = Some(Tx::new(Requester::WriteBack {
                    node,
                    request,
                    keep,
                }))
            }
            Some(tx) if tx.phase == Phase::Recalling => {}
            // It comes again.
            Some(_) => return,
        }
        if let Some(tx) = self.tx {
            tx.phase = Phase::Installing;
            tx.waiting = NodeSet::new();
            tx.put = Some(put);
        }
        self.emit(Action::Install { node, request });
    }

    fn installed(&mut self, status: u16) {
        let Some(tx) = self.tx.as_mut().filter(|tx| tx.phase == Phase::Installing) else {
            return;
        };
        let gone = tx.gone;
        if let Some(Install {
            node,
            request,
            keep,
        }) = tx.put.take()
        {
            if status == 0 {
                self.page.owner = None;
                if keep {
                    self.page.sharers.insert(node);
                }
                self.page.overdue.answered(node, keep);
                self.emit(Action::PutDone {
                    node,
                    request,
                    status: 0,
                });
            } else {
                // The only copy of the bytes is the sender's: it stays owner. Whoever asked for the page fails.
                self.page.request = request;
                self.emit(Action::PutDone {
                    node,
                    request,
                    status,
                });
                self.fail(status::IO);
                return;
            }
        }
        if gone {
            self.next();
        } else {
            self.go_on();
        }
    }

    fn granted(&mut self) {
        let Some(tx) = self.tx.as_ref().filter(|tx| tx.phase == Phase::Granting) else {
            return;
        };
        if let (
            Requester::Remote {
                node,
                request,
                want,
                ..
            },
            false,
        ) = (tx.current, tx.gone)
        {
            self.page.seq = tx.seq;
            if want == Want::Write || self.page.owner.is_some() {
                self.page.owner = Some(node);
                self.page.request = request;
                self.page.sharers = NodeSet::new();
            } else {
                self.page.sharers.insert(node);
            }
        }
        self.next();
    }

    fn grant_failed(&mut self, status: u16) {
        if matches!(
            self.tx,
            Some(Tx {
                phase: Phase::Granting,
                ..
            })
        ) {
            self.fail(status);
        }
    }

    fn taken(&mut self) {
        if let Some(tx) = self.tx.as_mut().filter(|tx| tx.phase == Phase::Turn) {
            tx.turns = tx.turns.saturating_sub(1);
            if tx.turns == 0 {
                self.next();
            }
        }
    }

    fn end_turn(&mut self) {
        if matches!(
            self.tx,
            Some(Tx {
                phase: Phase::Turn,
                ..
            })
        ) {
            self.next();
        }
    }

    fn unreachable(&mut self, seq: u64) {
        if self.round(seq).is_some() {
            self.fail(status::TIMED_OUT);
        }
    }

    fn gone(&mut self, node: Node) {
        self.page.sharers.remove(node);
        if self.page.owner == Some(node) {
            self.page.owner = None;
        }
        self.page.overdue.answered(node, false);
        let Some(tx) = self.tx else { return };
        tx.queue
            .retain(|requester| requester.remote() != Some(node));
        let answered = tx.waiting.remove(node) && tx.waiting.is_empty();
        tx.put = tx.put.filter(|put| put.node != node);
        tx.gone |= tx.current.remote() == Some(node);
        if matches!(tx.phase, Phase::Invalidating | Phase::Recalling) {
            if tx.gone {
                self.next();
            } else if answered {
                self.go_on();
            }
        }
    }
}
