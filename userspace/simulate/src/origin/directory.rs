// SPDX-License-Identifier: GPL-2.0

//! The directory of a share at work: `rust/origin/pages.rs` around `proto/directory.rs`.
//!
//! Left out: memory that runs short, and batches of messages (each leaves at once).

use std::{collections::VecDeque, rc::Rc};

use nix::errno::Errno;
use vremote_proto::{
    directory::{self, Action, Event, Phase},
    lease::overdue_rounds,
    nodes::Node as Slot,
    wire::{flags, Header, Kind},
};

use super::{
    grant::{Grant, Granting},
    share::{Active, Bytes, Share, State},
};
use crate::{
    bug::Bug,
    executor::at_once,
    net::{
        exchange::{self, Exchange},
        peer::Peer,
    },
};

/// Actions of one step that wait to be done, first in, first out.
pub type Todo = VecDeque<Action>;

/// From where the directory is driven.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// Receive thread, timers and hooks: no waiting.
    Receive,
    /// The share's work item for grants.
    Grants,
    /// The share's work item for installs.
    Installs,
}

struct Round {
    share: Rc<Share>,
    header: Header,
    node: Slot,
}

impl Exchange for Round {
    fn answer(&self, _: &Rc<Peer>, header: &Header, _: &[u8]) -> bool {
        if header.kind != Kind::Ack {
            return false;
        }
        let event = Event::Acked {
            node: self.node,
            seq: self.header.seq,
        };
        self.share.drive(self.header.index, event, None);
        true
    }

    fn send(&self, peer: &Rc<Peer>, retry: bool) {
        let mut header = self.header;
        if retry {
            header.flags |= flags::RETRY;
        }
        let _ = peer.send(&header, &[]);
    }

    fn expired(&self, error: Errno) {
        if !self.share.waits_for(&self.header, self.node) {
            return;
        }
        let node = self.share.node();
        let seq = self.header.seq;
        let event = if node.world.has(Bug::SilenceTakenAsAck) {
            Event::Acked {
                node: self.node,
                seq,
            }
        } else {
            if error == Errno::ETIMEDOUT {
                self.share.note_overdue(&self.header, self.node);
            }
            let fenced = error == Errno::ETIMEDOUT && node.peer(usize::from(self.node)).suspect();
            if fenced {
                self.share.ask_holder(self.header, self.node);
                return;
            }
            if error == Errno::ETIMEDOUT {
                Event::Unreachable { seq }
            } else {
                Event::Gone { node: self.node }
            }
        };
        if let Event::Gone { node } = event {
            self.share.page_gone(self.header.index, node);
        } else {
            self.share.drive(self.header.index, event, None);
        }
    }
}

impl Share {
    /// Feeds one event of page `index` to the directory and does what follows from it. `incoming`: the bytes of a `Put`.
    pub fn drive(self: &Rc<Self>, index: u64, event: Event, incoming: Option<Bytes>) {
        let mut todo = Todo::new();
        self.step(index, event, incoming, &mut todo);
        at_once(self.work_off(index, &mut todo, Context::Receive));
    }

    /// Does actions until none is left.
    async fn work_off(self: &Rc<Self>, index: u64, todo: &mut Todo, context: Context) {
        while let Some(action) = todo.pop_front() {
            self.perform(index, action, context, todo).await;
        }
    }

    /// One step of the directory for page `index`.
    pub fn step(&self, index: u64, event: Event, incoming: Option<Bytes>, todo: &mut Todo) {
        let finished = self
            .state
            .borrow_mut()
            .step(index, event, incoming, &mut |action| todo.push_back(action));
        if let Some(round) = finished {
            self.node().exchanges.finish(round);
        }
    }

    async fn perform(
        self: &Rc<Self>,
        index: u64,
        action: Action,
        context: Context,
        todo: &mut Todo,
    ) {
        let node = self.node();
        match action {
            Action::Invalidate { to, seq } => {
                for slot in to.iter() {
                    self.round(index, Kind::Invalidate, slot, seq, false);
                }
            }
            Action::Recall { to, seq, keep } => self.round(index, Kind::Recall, to, seq, keep),
            Action::Install { .. } if context == Context::Installs => {
                self.install(index, todo).await;
            }
            Action::Install {
                node: from,
                request,
            } => {
                if node.world.has(Bug::ConfirmedBeforeInstalled) {
                    self.put_done(index, from, request, 0);
                }
                self.defer(index, action);
            }
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
                match self.grant(index, &grant, context, todo).await {
                    Granting::Done => {}
                    Granting::Later => self.defer(index, action),
                    Granting::Failed(error) => {
                        let status = error as u16;
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
                    self.put_done(index, node, request, status);
                }
            }
            Action::Wake { ticket, status } => {
                let waiter = {
                    let mut state = self.state.borrow_mut();
                    let at = state.tickets.iter().position(|t| t.number == ticket);
                    at.map(|at| state.tickets.remove(at).waiter)
                };
                match waiter {
                    Some(waiter) => {
                        waiter.status.set(status);
                        waiter.event.happen();
                    }
                    None if status == 0 => self.step(index, Event::Taken, None, todo),
                    None => {}
                }
            }
            Action::Refuse {
                node: to,
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
                let _ = node.peer(usize::from(to)).send(&header, &[]);
            }
        }
    }

    fn put_done(&self, index: u64, to: Slot, request: u64, status: u16) {
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
        let _ = self.node().peer(usize::from(to)).send(&header, &[]);
    }

    /// Notes what a work item has to do for this page.
    fn defer(self: &Rc<Self>, index: u64, action: Action) {
        if let Some(active) = self.state.borrow_mut().active.get_mut(&index) {
            active.deferred = Some(action);
        }
        self.kick(left_to(&action));
    }

    /// A work item: does all that was left to it.
    pub async fn run_deferred(self: &Rc<Self>, context: Context) {
        let task = self.node().world.sim.current_number();
        let mut after = 0;
        loop {
            let found = {
                let mut state = self.state.borrow_mut();
                let mine =
                    |active: &Active| active.deferred.filter(|action| left_to(action) == context);
                let next = state
                    .active
                    .range_mut(after..)
                    .find_map(|(index, active)| Some((*index, mine(active)?, active)));
                next.map(|(index, action, active)| {
                    active.deferred = None;
                    active.worker = task;
                    (index, action)
                })
            };
            let Some((index, action)) = found else {
                if after == 0 {
                    return;
                }
                after = 0;
                continue;
            };
            after = index + 1;
            let mut todo = Todo::from([action]);
            self.work_off(index, &mut todo, context).await;
        }
    }

    fn round(self: &Rc<Self>, index: u64, kind: Kind, node: Slot, seq: u64, keep: bool) {
        let header = Header {
            file: self.id,
            index,
            seq,
            flags: if keep { flags::KEEP } else { 0 },
            ..Header::new(kind)
        };
        self.ask_holder(header, node);
    }

    fn waits_for(&self, header: &Header, node: Slot) -> bool {
        let state = self.state.borrow();
        let active = state.active.get(&header.index);
        active.is_some_and(|active| directory::waits_for(&active.tx, header.seq, node).is_some())
    }

    /// The time of this request of a round is up. Who has kept the page for too long by now gets no new lease.
    fn note_overdue(&self, header: &Header, node: Slot) {
        let here = self.node();
        let rounds = overdue_rounds(here.timeout_us(), here.lease_us());
        let holder = {
            let state = &mut *self.state.borrow_mut();
            let (Some(page), Some(active)) = (
                state.pages.get_mut(&header.index),
                state.active.get(&header.index),
            ) else {
                return;
            };
            let overdue = directory::overdue(page, &active.tx, header.seq, node);
            overdue.and_then(|overdue| overdue.after(rounds))
        };
        if let Some(holder) = holder {
            here.peer(usize::from(holder)).revoke();
        }
    }

    /// Sends a request of a round, under a new id, for as long as a silent node is waited for.
    fn ask_holder(self: &Rc<Self>, header: Header, slot: Slot) {
        let node = self.node();
        let request = node.exchanges.next_request();
        let header = Header { request, ..header };
        if let Some(active) = self.state.borrow_mut().active.get_mut(&header.index) {
            active.round = request;
        }
        let peer = node.peer(usize::from(slot));
        let round = Rc::new(Round {
            share: self.clone(),
            header,
            node: slot,
        });
        exchange::start(peer, request, round, Some(node.timeout_us()));
        peer.suspect_if_silent();
    }

    /// One page of [`Share::gone`]: if the node was its owner, the last version is the one here from now on.
    fn page_gone(self: &Rc<Self>, index: u64, node: Slot) {
        let owned = {
            let state = self.state.borrow();
            let installing = state
                .active
                .get(&index)
                .and_then(|active| active.tx)
                .is_some_and(|tx| tx.phase == Phase::Installing);
            let owner = state.pages.get(&index).and_then(|page| page.owner);
            // What has arrived is not lost.
            owner == Some(node) && !installing
        };
        if owned {
            self.file.taken_back(index);
        }
        self.drive(index, Event::Gone { node }, None);
    }

    /// A remote started anew, or was fenced: forgets all that it held.
    pub fn gone(self: &Rc<Self>, node: Slot) {
        let mut from = 0;
        loop {
            let next = self
                .state
                .borrow()
                .pages
                .range(from..)
                .next()
                .map(|(index, _)| *index);
            let Some(index) = next else { break };
            self.page_gone(index, node);
            from = index + 1;
        }
        let mut state = self.state.borrow_mut();
        state.opens.retain(|opens| opens.node != node);
    }
}

fn left_to(action: &Action) -> Context {
    match action {
        Action::Install { .. } => Context::Installs,
        _ => Context::Grants,
    }
}

impl State {
    /// One step of the directory. Gives the request of a round of recalls that is over by it.
    fn step(
        &mut self,
        index: u64,
        event: Event,
        mut incoming: Option<Bytes>,
        out: &mut impl FnMut(Action),
    ) -> Option<u64> {
        let mut page = self.pages.get(&index).copied().unwrap_or_default();
        let active = self.active.get_mut(&index);
        let mut tx = active.and_then(|active| active.tx.take());
        let recalling =
            |tx: &Option<directory::Tx>| tx.is_some_and(|tx| tx.phase == Phase::Recalling);
        let was_recalling = recalling(&tx);
        let mut installs = false;
        directory::step(
            &mut page,
            &mut tx,
            &mut self.next_seq,
            event,
            &mut |action| {
                installs |= matches!(action, Action::Install { .. });
                out(action);
            },
        );
        // While a transaction runs there is a record.
        if page.is_free() && tx.is_none() {
            self.pages.remove(&index);
        } else {
            self.pages.insert(index, page);
        }
        let round = if was_recalling && !recalling(&tx) {
            self.active.get(&index).map(|active| active.round)
        } else {
            None
        };
        if tx.is_none() {
            self.active.remove(&index);
        } else {
            let active = self.active.entry(index).or_default();
            let phase = tx.map(|tx| tx.phase);
            if !matches!(phase, Some(Phase::Installing | Phase::Granting)) {
                active.worker = 0;
            }
            active.tx = tx;
            if installs {
                active.incoming = incoming.take();
            }
        }
        round
    }
}
