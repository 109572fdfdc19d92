// SPDX-License-Identifier: GPL-2.0

//! The remotes: `copy.rs`, and what the kernel does around it.

use vremote_proto::copy::{Copy, GrantVerdict, InvalidateVerdict, Pending, RecallVerdict, State};
use vremote_proto::directory::Want;

use super::{Away, Body, Config, Folio, Put, Turn, Version, World};
use crate::mutation::Mutation;

impl<const R: usize, const P: usize> World<R, P> {
    /// Asks for the page if its reader or writer needs it, ends the reader that may read.
    pub(super) fn kick(&mut self, config: &Config, node: usize, page: usize) {
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

    pub(super) fn send_get(&mut self, node: usize, page: usize) {
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

    pub(super) fn send_put(&mut self, node: usize, page: usize) {
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

    pub(super) fn begin_put(&mut self, config: &Config, node: usize, page: usize, keep: bool) {
        let remote = &mut self.remotes[node];
        let away = &mut remote.pages[page];
        let Some(folio) = away.folio else { return };
        away.put = Some(Put {
            request: remote.next,
            seq: away.copy.seq - u64::from(config.has(Mutation::PutOfAnotherGrant)),
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

    pub(super) fn write(&mut self, config: &Config, node: usize, page: usize) {
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
    pub(super) fn grant(
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

    pub(super) fn invalidate(&mut self, config: &Config, node: usize, page: usize, seq: u64) {
        let cover = &config.coverage;
        let meant = if config.has(Mutation::UnitsMixed) {
            0
        } else {
            page
        };
        let away = &mut self.remotes[node].pages[meant];
        if config.has(Mutation::AckLostWhenCachedAgain) && away.pending.is_some() {
            return;
        }
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

    pub(super) fn recall(
        &mut self,
        config: &Config,
        node: usize,
        page: usize,
        seq: u64,
        keep: bool,
    ) {
        let cover = &config.coverage;
        let away = &mut self.remotes[node].pages[page];
        let held = away.copy.may_read();
        if config.has(Mutation::AckLostWhenCachedAgain) && away.pending.is_some() && !held {
            return;
        }
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
                self.begin_put(config, node, page, keep);
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

    pub(super) fn put_done(
        &mut self,
        config: &Config,
        node: usize,
        page: usize,
        request: u64,
        ok: bool,
    ) {
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

    pub(super) fn evict(&mut self, config: &Config, node: usize, page: usize, forget: bool) {
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
}

/// Whether a remote may write its copy.
pub(super) fn may_write(config: &Config, away: &Away) -> bool {
    let during_put = matches!(away.copy.state, State::WritingBack { keep: true });
    away.copy.may_write() || (during_put && config.has(Mutation::WriteDuringPut))
}
