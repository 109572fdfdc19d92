// SPDX-License-Identifier: GPL-2.0

//! Messages: sent, lost, delivered.

use vremote_proto::directory::{Event, Want};
use vremote_proto::nodes::Node;

use super::{Body, Config, Message, Turn, World};
use crate::mutation::Mutation;

impl<const R: usize, const P: usize> World<R, P> {
    pub(super) fn send(&mut self, node: usize, page: usize, body: Body) {
        let message = Message {
            page: page as u8,
            node: node as Node,
            body,
        };
        let at = self.network.partition_point(|other| *other < message);
        self.network.insert(at, message);
    }

    pub(super) fn take(&mut self, message: &Message) {
        if let Ok(at) = self.network.binary_search(message) {
            self.network.remove(at);
        }
    }

    pub(super) fn deliver(&mut self, config: &Config, message: Message) {
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
}
