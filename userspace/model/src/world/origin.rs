// SPDX-License-Identifier: GPL-2.0

//! The origin: `directory.rs`, and what the kernel does around it.

use vremote_proto::directory::{self, Action as Do, Event, Requester, Tx, Want};
use vremote_proto::nodes::Node;

use super::{Away, Body, Config, Home, LocalOperation, Remote, Turn, Version, Work, World};
use crate::mutation::Mutation;

impl<const R: usize, const P: usize> World<R, P> {
    /// Gives an event to the directory and carries out what it says. `data` are the bytes of a Put.
    pub(super) fn origin(&mut self, config: &Config, page: usize, event: Event, data: Version) {
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
                data |= home.page.owner == Some(node) && config.has(Mutation::RegrantWithData);
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
    pub(super) fn get(
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
    pub(super) fn work(&mut self, config: &Config, page: usize, ok: bool) {
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
                if data && home.page.owner.is_some() {
                    // The glue would read it into the page cache, where local programs find it.
                    self.error = Some("the origin reads a page that a remote owns");
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

    pub(super) fn look_again(&mut self, config: &Config, page: usize) {
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

    pub(super) fn crash(&mut self, config: &Config, node: usize) {
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
}

/// The flag of the recall that a transaction has sent.
pub(super) fn keeps(tx: &Tx) -> bool {
    match tx.current {
        Requester::Remote { want, .. } | Requester::Local { want, .. } => want == Want::Read,
        Requester::WriteBack { .. } => false,
    }
}
