// SPDX-License-Identifier: GPL-2.0

//! What can happen in a state.

use vremote_proto::copy::{Copy, State};
use vremote_proto::directory::{Phase, Requester, Want};
use vremote_proto::nodes::Node;

use super::remote::may_write;
use super::{Action, Body, Config, Message, World};
use crate::mutation::Mutation;

impl<const R: usize, const P: usize> World<R, P> {
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
}
