// SPDX-License-Identifier: GPL-2.0

//! What must hold in every state.

use vremote_proto::copy::State;
use vremote_proto::directory::{home_may_read, home_may_write, Phase, Requester, Tx};
use vremote_proto::nodes::Node;

use crate::world::{Action, Config, Home, World};

/// Most rounds of deliveries after which a world without faults must have come to rest.
const REST_ROUNDS: usize = 200;

impl<const R: usize, const P: usize> World<R, P> {
    /// The first property that does not hold, if any.
    pub fn violation(&self, config: &Config) -> Option<&'static str> {
        let checks = [
            (self.error, true),
            (
                Some("more than one writer, or a writer and readers"),
                !self.one_writer_or_many_readers(),
            ),
            (
                Some("a copy that may be read is not the last write"),
                !self.reads_return_the_last_write(),
            ),
            (
                Some("a holder is not on record"),
                !self.holders_are_on_record(),
            ),
            (Some("the last write is nowhere"), !self.nothing_is_lost()),
            (
                Some("a request never ends"),
                !self.every_request_ends(config),
            ),
        ];
        checks
            .into_iter()
            .find_map(|(name, failed)| name.filter(|_| failed))
    }

    /// A page that one node may write may not be read anywhere else; the origin counts as a node.
    pub fn one_writer_or_many_readers(&self) -> bool {
        (0..P).all(|page| {
            let home = &self.home[page];
            let copies = || self.remotes.iter().map(|remote| remote.pages[page].copy);
            let readers = copies().filter(|copy| copy.may_read()).count()
                + usize::from(home_may_read(&home.page, &home.tx));
            let writers = copies().filter(|copy| copy.may_write()).count()
                + usize::from(home_may_write(&home.page, &home.tx));
            writers == 0 || (writers == 1 && readers == 1)
        })
    }

    /// Whoever may read now, reads the last write.
    pub fn reads_return_the_last_write(&self) -> bool {
        (0..P).all(|page| {
            let home = &self.home[page];
            (!home_may_read(&home.page, &home.tx) || home.data == home.latest)
                && self.remotes.iter().all(|remote| {
                    let away = &remote.pages[page];
                    !away.copy.may_read()
                        || away.folio.is_some_and(|folio| folio.data == home.latest)
                })
        })
    }

    /// The directory knows every holder, and an owner by the seq that it holds the page with.
    pub fn holders_are_on_record(&self) -> bool {
        (0..P).all(|page| {
            let record = &self.home[page].page;
            let either = record.owner.is_none() || record.sharers.is_empty();
            either
                && self.remotes.iter().enumerate().all(|(node, remote)| {
                    let copy = remote.pages[page].copy;
                    let owns = record.owner == Some(node as Node);
                    let shares = record.sharers.contains(node as Node);
                    match copy.state {
                        State::Modified => owns && record.seq == copy.seq,
                        State::Shared | State::WritingBack { keep: true } => owns || shares,
                        State::Invalid | State::WritingBack { keep: false } => true,
                    }
                })
        })
    }

    /// The last write is at the origin, or with the owner on record.
    pub fn nothing_is_lost(&self) -> bool {
        self.home.iter().enumerate().all(|(page, home)| {
            home.data == home.latest
                || home.page.owner.is_some_and(|owner| {
                    let away = &self.remotes[owner as usize].pages[page];
                    let dirty = away
                        .folio
                        .is_some_and(|folio| folio.dirty && folio.data == home.latest);
                    dirty || away.put.is_some_and(|put| put.data == home.latest)
                })
        })
    }

    /// Nothing is under way and nobody waits.
    pub fn at_rest(&self) -> bool {
        let home = |(page, home): (usize, &Home)| {
            home.work.is_none()
                && home.operation.is_none()
                && home
                    .tx
                    .as_ref()
                    .is_none_or(|tx| self.is_left_over(page, tx))
        };
        self.network.is_empty()
            && self.home.iter().enumerate().all(home)
            && self
                .remotes
                .iter()
                .flat_map(|remote| &remote.pages)
                .all(|away| {
                    away.pending.is_none() && away.put.is_none() && away.operation.is_none()
                })
    }

    /// A turn that its task never took, and for which only those wait who have given up: whoever asks next ends it.
    fn is_left_over(&self, page: usize, tx: &Tx) -> bool {
        tx.phase == Phase::Turn
            && tx.queue.iter().all(|requester| match requester {
                Requester::Remote { node, request, .. } => {
                    let pending = self.remotes[*node as usize].pages[page].pending;
                    pending.is_none_or(|pending| pending.request != *request)
                }
                Requester::Local { .. } | Requester::WriteBack { .. } => false,
            })
    }

    /// From here, if no more faults happen and nothing new begins, the world comes to rest.
    ///
    /// Looked at where nothing is under way: every schedule that never ends passes through such a state, because what is
    /// under way arrives and only timers make more.
    pub fn every_request_ends(&self, config: &Config) -> bool {
        if !self.network.is_empty()
            || self.home.iter().any(|home| home.work.is_some())
            || self.at_rest()
        {
            return true;
        }
        let mut world = self.clone();
        let mut actions = Vec::new();
        for _ in 0..REST_ROUNDS {
            if world.at_rest() {
                return true;
            }
            actions.clear();
            world.progress(config, &mut actions);
            if actions.is_empty() {
                return false;
            }
            for action in &actions {
                if !matches!(action, Action::Deliver(message) if !world.deliverable(config).any(|m| m == *message))
                {
                    world.apply(config, *action);
                }
            }
        }
        false
    }
}
