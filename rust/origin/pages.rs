// SPDX-License-Identifier: GPL-2.0

//! The directory of a share at work: runs `proto::directory` for one page after another, and does what it asks for. Rounds of
//! invalidations and recalls are here, grants and installs in `grant.rs`, the waiting of local tasks in `local.rs`.
//!
//! Ownership changes only under the folio lock of the page, if it has a folio: who holds that lock and finds the page free
//! keeps it so until the lock is released. Where there is no folio, a grant first marks the page (phase `Granting`), then
//! looks for a folio; a local filler first inserts its locked folio, then looks at the mark; one of them sees the other.
//!
//! The receive thread, timers and hooks call with [`Context::Receive`]: what would sleep is noted in the page's `Active` record and
//! left to the share's work items. There is room for one such note a page, and never more than one: an install or a grant ends
//! before the next step begins.

use kernel::{
    prelude::*,
    rbtree::RBTreeNodeReservation,
    sync::{atomic::ordering::Relaxed, Arc},
};

use super::{
    grant::{Grant, Granting},
    quota,
    share::{Active, Incoming, Share, State},
};
use crate::net::{
    batch::{Batch, Payload},
    exchange::{self, Exchange},
    peer::{self, Peer},
};
use crate::proto::{
    directory::{self, Action, Event, Overdue, Page, Phase},
    nodes::Node,
    wire::{flags, Header, Kind},
};
use crate::trace;

/// Work items take so many pages at a time: what a kernel stack has room for.
const BATCH: usize = 16;

/// Actions of one step that wait to be done, first in, first out.
#[derive(Default)]
pub(super) struct Todo {
    actions: [Option<Action>; Todo::MAX],
    first: usize,
    count: usize,
}

impl Todo {
    /// More than the actions that one step can cause: each waiter of a page once, and a round.
    const MAX: usize = 2 * crate::proto::limits::MAX_WAITERS + 8;

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn push(&mut self, action: Action) {
        if self.count == Todo::MAX {
            // A step that causes more is a mistake in the directory; what is lost here is sent again.
            if crate::net::may_log() {
                pr_warn!("a page's step had too many actions\n");
            }
            return;
        }
        self.actions[(self.first + self.count) % Todo::MAX] = Some(action);
        self.count += 1;
    }

    fn pop(&mut self) -> Option<Action> {
        if self.count == 0 {
            return None;
        }
        let action = self.actions[self.first].take();
        self.first = (self.first + 1) % Todo::MAX;
        self.count -= 1;
        action
    }
}

/// From where the directory is driven.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    /// Receive thread, timers, and the hooks, which come with locks of the file held: no folio lock but by trylock, no
    /// disk, no waiting.
    Receive,
    /// The share's work item for grants: may sleep, and read the file.
    Grants,
    /// The share's work item for installs: may sleep, but must not wait for invalidate_lock.
    Installs,
}

/// Sends messages, those to one peer together.
#[derive(Default)]
pub(super) struct Outbox {
    batch: Option<(Node, Batch)>,
}

impl Outbox {
    /// Queues a message to the peer in slot `node`. A message that cannot be sent counts as lost.
    pub(super) fn send(&mut self, node: Node, header: &Header, payload: Payload<'_>) {
        if self.batch.as_ref().is_none_or(|(to, _)| *to != node) {
            self.batch = peer::by_slot(node).map(|peer| (node, Batch::new(&peer)));
        }
        if let Some((_, batch)) = self.batch.as_mut() {
            let _ = batch.push(header, payload);
        }
    }

    /// Hands what is queued to the network.
    pub(super) fn flush(&mut self) {
        if let Some((_, batch)) = self.batch.as_mut() {
            batch.flush();
        }
    }
}

/// One request of a round: an `Invalidate` or `Recall` to one node.
struct Round {
    share: Arc<Share>,
    header: Header,
    node: Node,
}

impl Exchange for Round {
    fn answer(&self, _: &Arc<Peer>, header: &Header, _: &[u8]) -> bool {
        if header.kind != Kind::Ack {
            return false;
        }
        let event = Event::Acked {
            node: self.node,
            seq: self.header.seq,
        };
        self.share.drive(
            self.header.index,
            event,
            None,
            Context::Receive,
            &mut Outbox::default(),
        );
        true
    }

    fn send(&self, peer: &Arc<Peer>, retry: bool) -> Result {
        peer.send(&self.header.sent(retry), &[])
    }

    /// A holder gives the page up or does not: there is nothing to work on, and a minute is a minute.
    fn firm(&self) -> bool {
        true
    }

    fn expired(&self, error: Error) {
        if !self.share.waits_for(&self.header, self.node) {
            return;
        }
        if error == ETIMEDOUT {
            self.share.note_overdue(&self.header, self.node);
        }
        // A node that is to be fenced is waited for until it is. One that is only slow keeps what it has.
        let fenced = error == ETIMEDOUT
            && peer::by_slot(self.node).is_some_and(|peer| peer.suspect())
            && self.share.ask_holder(self.header, self.node).is_ok();
        if fenced {
            return;
        }
        // Its session is over, or it never had one: it holds nothing.
        let event = if error == ETIMEDOUT {
            Event::Unreachable {
                seq: self.header.seq,
            }
        } else {
            Event::Gone { node: self.node }
        };
        self.share.drive(
            self.header.index,
            event,
            None,
            Context::Receive,
            &mut Outbox::default(),
        );
    }
}

/// Memory for records of a page, got without the lock.
#[derive(Default)]
struct Spare {
    page: Option<RBTreeNodeReservation<u64, Page>>,
    active: Option<RBTreeNodeReservation<u64, Active>>,
}

impl Share {
    /// Feeds one event of page `index` to the directory and does what follows from it. `incoming`: what a `Put` has brought.
    pub(super) fn drive(
        self: &Arc<Self>,
        index: u64,
        event: Event,
        incoming: Option<Incoming>,
        context: Context,
        out: &mut Outbox,
    ) {
        let mut todo = Todo::default();
        self.step(index, event, incoming, &mut todo);
        self.work_off(index, &mut todo, context, out);
    }

    /// Does actions until none is left.
    fn work_off(self: &Arc<Self>, index: u64, todo: &mut Todo, context: Context, out: &mut Outbox) {
        while let Some(action) = todo.pop() {
            self.perform(index, action, context, todo, out);
        }
    }

    /// One step of the directory for page `index`, under the share's lock.
    ///
    /// If memory for a new record is short, the event is dropped as if its message had been lost.
    pub(super) fn step(
        &self,
        index: u64,
        event: Event,
        incoming: Option<Incoming>,
        todo: &mut Todo,
    ) {
        let mut spare = Spare::default();
        let mut incoming = incoming;
        loop {
            let mut state = self.state.lock();
            let lacks_page = state.pages.get(&index).is_none() && spare.page.is_none();
            let lacks_active = state.active.get(&index).is_none() && spare.active.is_none();
            if !lacks_page && !lacks_active {
                state.step(self.id, index, event, &mut incoming, todo, spare);
                return;
            }
            drop(state);
            if lacks_page {
                spare.page = RBTreeNodeReservation::new(GFP_NOWAIT).ok();
            }
            if lacks_active {
                spare.active = RBTreeNodeReservation::new(GFP_NOWAIT).ok();
            }
            if (lacks_page && spare.page.is_none()) || (lacks_active && spare.active.is_none()) {
                return;
            }
        }
    }

    fn perform(
        self: &Arc<Self>,
        index: u64,
        action: Action,
        context: Context,
        todo: &mut Todo,
        out: &mut Outbox,
    ) {
        match action {
            Action::Invalidate { to, seq } => {
                for node in to.iter() {
                    self.round(index, Kind::Invalidate, node, seq, false, todo);
                }
            }
            Action::Recall { to, seq, keep } => {
                self.round(index, Kind::Recall, to, seq, keep, todo)
            }
            Action::Install { .. } if context == Context::Installs => self.install(index, todo),
            Action::Install { .. } => self.defer(index, action),
            Action::Grant {
                node,
                request,
                seq,
                write,
                data,
            } => {
                let grant = Grant {
                    node,
                    request,
                    seq,
                    write,
                    data,
                };
                match self.grant(index, &grant, context, todo, out) {
                    Granting::Done => {}
                    Granting::Later => self.defer(index, action),
                    Granting::Failed(status) => {
                        self.step(index, Event::GrantFailed { status }, None, todo);
                    }
                }
            }
            Action::PutDone {
                node,
                request,
                status,
            } => {
                if request != 0 {
                    let (seq, size) = self.stamp();
                    let header = Header {
                        request,
                        file: self.id,
                        index,
                        seq,
                        size,
                        status,
                        ..Header::new(Kind::Reply)
                    };
                    out.send(node, &header, Payload::Bytes(&[]));
                }
            }
            Action::Wake { ticket, status } => {
                let waiter = {
                    let mut state = self.state.lock();
                    let at = state.tickets.iter().position(|t| t.number == ticket);
                    at.and_then(|at| state.tickets.remove(at).ok())
                        .map(|t| t.waiter)
                };
                match waiter {
                    Some(waiter) => {
                        waiter.status.store(u32::from(status), Relaxed);
                        waiter.event.happen();
                    }
                    // Whoever asked has given up: the page is not kept for him.
                    None if status == 0 => self.step(index, Event::Taken, None, todo),
                    None => {}
                }
            }
            Action::Refuse {
                node,
                request,
                status,
            } => {
                let (seq, size) = self.stamp();
                let header = Header {
                    request,
                    file: self.id,
                    index,
                    seq,
                    size,
                    status,
                    ..Header::new(Kind::Grant)
                };
                out.send(node, &header, Payload::Bytes(&[]));
            }
        }
    }

    /// Notes what the work item has to do for this page.
    fn defer(self: &Arc<Self>, index: u64, action: Action) {
        if let Some(active) = self.state.lock().active.get_mut(&index) {
            active.deferred = Some(action);
            // This task is done with it, and may go on to something that the hooks must not let pass.
            active.worker = 0;
        }
        self.kick(&action);
    }

    /// A work item: does all that was left to it.
    pub(super) fn run_deferred(self: &Arc<Self>, context: Context) {
        let task = super::task();
        let mut out = Outbox::default();
        let mut after = 0;
        loop {
            let mut batch: [Option<(u64, Action)>; BATCH] = [None; BATCH];
            let mut count = 0;
            {
                let mut state = self.state.lock();
                let mut cursor = state.active.cursor_lower_bound_mut(&after);
                while let Some(mut at) = cursor {
                    let (&index, active) = at.current_mut();
                    if let Some(action) =
                        active.deferred.filter(|action| left_to(action) == context)
                    {
                        active.deferred = None;
                        active.worker = task;
                        batch[count] = Some((index, action));
                        count += 1;
                        if count == BATCH {
                            break;
                        }
                    }
                    cursor = at.move_next();
                }
            }
            if count == 0 {
                if after == 0 {
                    if context == Context::Grants {
                        self.flush(&mut out);
                    }
                    return;
                }
                after = 0;
                continue;
            }
            if context == Context::Grants {
                // It may wait for the disk.
                self.flush(&mut out);
                self.read_ahead(&batch[..count]);
            }
            for (index, action) in batch[..count].iter().flatten() {
                after = *index + 1;
                let mut todo = Todo::default();
                todo.push(*action);
                self.work_off(*index, &mut todo, context, &mut out);
            }
        }
    }

    /// Sends one request of a round.
    fn round(
        self: &Arc<Self>,
        index: u64,
        kind: Kind,
        node: Node,
        seq: u64,
        keep: bool,
        todo: &mut Todo,
    ) {
        let header = Header {
            file: self.id,
            index,
            seq,
            flags: if keep { flags::KEEP } else { 0 },
            ..Header::new(kind)
        };
        if self.ask_holder(header, node).is_err() {
            self.step(index, Event::Unreachable { seq }, None, todo);
        }
    }

    /// Whether the round of this request is still open, and this node has not answered.
    fn waits_for(&self, header: &Header, node: Node) -> bool {
        let state = self.state.lock();
        let active = state.active.get(&header.index);
        active.is_some_and(|active| directory::waits_for(&active.tx, header.seq, node).is_some())
    }

    /// The time of this request of a round is up. Who has kept the page for too long by now gets no new lease.
    fn note_overdue(&self, header: &Header, node: Node) {
        let rounds = crate::net::overdue_rounds();
        let overdue = self.state.lock().note_overdue(header, node);
        let Some(peer) = overdue
            .and_then(|overdue| overdue.after(rounds))
            .and_then(peer::by_slot)
        else {
            return;
        };
        // In this order: what is noted here of a session is forgotten before the next one begins.
        let session = peer.session();
        let still = self
            .state
            .lock()
            .pages
            .get(&header.index)
            .is_some_and(|page| page.overdue.after(rounds) == Some(peer.slot));
        if still && peer.revoke(session) && crate::net::may_log() {
            pr_warn!(
                "file {}: page {} is kept by a peer that was asked for it {} times, for {} ms each\n",
                self.id,
                header.index,
                rounds,
                crate::net::timeout_us() / 1000
            );
        }
    }

    /// Sends a request of a round, under a new id, for as long as a silent node is waited for.
    fn ask_holder(self: &Arc<Self>, header: Header, node: Node) -> Result {
        let request = exchange::next_request();
        let header = Header { request, ..header };
        if let Some(active) = self.state.lock().active.get_mut(&header.index) {
            active.round = request;
        }
        let peer = peer::by_slot(node).ok_or(ENOTCONN)?;
        let round = Arc::new(
            Round {
                share: self.clone(),
                header,
                node,
            },
            GFP_NOWAIT,
        )?;
        exchange::start(&peer, request, round, Some(crate::net::timeout_us()))?;
        peer.suspect_if_silent();
        Ok(())
    }

    /// Whether something is under way with the page.
    pub(super) fn is_active(&self, index: u64) -> bool {
        self.state.lock().active.get(&index).is_some()
    }

    /// Whether a remote holds a page of the file.
    pub(super) fn holds(&self, node: Node) -> bool {
        let state = self.state.lock();
        let held = state
            .pages
            .values()
            .any(|page| page.owner == Some(node) || page.sharers.contains(node));
        held
    }

    /// A remote vanished, or started anew: forgets all that it held. Gives how many pages it owned. Process context.
    pub(super) fn gone(self: &Arc<Self>, node: Node) -> u64 {
        let mut out = Outbox::default();
        let mut owned = 0;
        let mut from = 0;
        loop {
            // A page with a transaction has a record too.
            let Some((index, page)) = self
                .state
                .lock()
                .pages
                .cursor_lower_bound(&from)
                .map(|c| (*c.current().0, *c.current().1))
            else {
                break;
            };
            owned += u64::from(page.owner == Some(node));
            self.drive(
                index,
                Event::Gone { node },
                None,
                Context::Receive,
                &mut out,
            );
            from = index + 1;
        }
        let (mut readers, mut writers) = (0, 0);
        self.state.lock().opens.retain(|opens| {
            if opens.node == node {
                readers += opens.readers;
                writers += opens.writers;
            }
            opens.node != node
        });
        for _ in 0..writers {
            self.end_writing();
        }
        quota::OPENS.give_back(node, readers + writers);
        for _ in 0..readers + writers {
            crate::pin::unpin();
        }
        owned
    }
}

/// The work item that does such an action.
pub(super) fn left_to(action: &Action) -> Context {
    match action {
        Action::Install { .. } => Context::Installs,
        _ => Context::Grants,
    }
}

impl State {
    /// See [`directory::overdue`].
    fn note_overdue(&mut self, header: &Header, node: Node) -> Option<Overdue> {
        let page = self.pages.get_mut(&header.index)?;
        let active = self.active.get(&header.index)?;
        directory::overdue(page, &active.tx, header.seq, node)
    }

    /// The step in which a page is granted: its records are there.
    pub(super) fn granted(&mut self, file: u64, index: u64, todo: &mut Todo) {
        self.step(
            file,
            index,
            Event::Granted,
            &mut None,
            todo,
            Spare::default(),
        );
    }

    /// One step of the directory. `spare` is memory for records that may have to be made.
    fn step(
        &mut self,
        file: u64,
        index: u64,
        event: Event,
        incoming: &mut Option<Incoming>,
        todo: &mut Todo,
        spare: Spare,
    ) {
        if self.dead && matches!(event, Event::Request(directory::Requester::Remote { .. })) {
            // It comes again, and finds no share.
            return;
        }
        let mut page = self.pages.get(&index).copied().unwrap_or_default();
        let mut tx = self
            .active
            .get_mut(&index)
            .and_then(|active| active.tx.take());
        let was_recalling = tx.as_ref().is_some_and(|tx| tx.phase == Phase::Recalling);
        let mut installs = false;
        directory::step(
            &mut page,
            &mut tx,
            &mut self.next_seq,
            event,
            &mut |action| {
                installs |= matches!(action, Action::Install { .. });
                todo.push(action);
            },
        );

        // While a transaction runs there is a record, so that its end needs no memory.
        if page.is_free() && tx.is_none() {
            drop(self.pages.remove_node(&index));
        } else if let Some(record) = self.pages.get_mut(&index) {
            *record = page;
        } else if let Some(node) = spare.page {
            self.pages.insert(node.into_node(index, page));
        }

        trace::directory(file, index, &page, &tx);
        if was_recalling && !tx.as_ref().is_some_and(|tx| tx.phase == Phase::Recalling) {
            if let Some(active) = self.active.get(&index) {
                exchange::finish(active.round);
            }
        }
        match (tx, self.active.get_mut(&index)) {
            (None, Some(_)) => drop(self.active.remove_node(&index)),
            (None, None) => {}
            (tx, Some(active)) => {
                if !matches!(
                    tx.as_ref().map(|tx| tx.phase),
                    Some(Phase::Installing | Phase::Granting)
                ) {
                    active.worker = 0;
                }
                active.tx = tx;
                if installs {
                    active.incoming = incoming.take();
                }
            }
            (tx, None) => {
                if let Some(node) = spare.active {
                    let incoming = if installs { incoming.take() } else { None };
                    self.active.insert(node.into_node(
                        index,
                        Active {
                            tx,
                            incoming,
                            ..Active::default()
                        },
                    ));
                }
            }
        }
    }
}
