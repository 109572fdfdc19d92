// SPDX-License-Identifier: GPL-2.0

//! Leases with a peer, both ways: what it has granted to this node, and what this node has granted to it ([`crate::proto::lease`]).

use kernel::sync::{
    atomic::{Relaxed, Release},
    Arc,
};

use super::{Link, Peer};
use crate::{
    net::{lease_us, now_us, timer},
    proto::{
        lease::Lease,
        limits::{DEAF_US, HELLO_HURRY_US, HELLO_INTERVAL_US, MAX_LEASE_US},
    },
};

/// How soon to look again whether the datagrams that waited were looked at ([`Term::ends`](crate::proto::lease::Term::ends)).
const UNHEARD_PAUSE_US: u64 = 10_000;

/// What is wrong with a peer although there is a session with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    Partitioned,
    Reclaimed,
}

/// A peer that says hello is heard so often.
const HEARD_US: u64 = HELLO_INTERVAL_US * 3 / 2;

const _: () = assert!(HEARD_US < DEAF_US);

impl Peer {
    /// Whether what the peer has granted may be used. Any context.
    pub fn leased(&self) -> bool {
        let until = self.lease.load(Relaxed);
        Lease { until }.holds(now_us())
    }

    /// The peer has answered a hello of the present session that left at `sent`.
    pub(super) fn lease_renewed(&self, link: &mut Link, sent: u64, length: u64) {
        let mut lease = Lease {
            until: self.lease.load(Relaxed),
        };
        lease.renew(sent, length.min(MAX_LEASE_US));
        self.lease.store(lease.until, Relaxed);
        link.mapped = true;
        link.term.reopen();
        if sent > self.answered.load(Relaxed) {
            self.answered.store(sent, Relaxed);
        }
    }

    /// Whether the peer has not answered this node's hellos.
    fn is_deaf(&self, now: u64) -> bool {
        now.saturating_sub(self.answered.load(Relaxed)) >= DEAF_US
    }

    /// Whether it is heard, but does not answer this node's hellos. One that has just fallen silent is not heard.
    pub(super) fn is_partitioned(&self, now: u64) -> bool {
        self.epoch() != 0 && self.silent_us(now) < HEARD_US && self.is_deaf(now)
    }

    /// If others wait for what the peer holds, and it does not answer: after how many microseconds that is taken back.
    pub(super) fn reclaimed_in(&self, now: u64) -> Option<u64> {
        self.link.lock().term.left(now)
    }

    /// Tells the log, and who watches events, of what may need somebody's hand, when it begins and when it is over. Timer.
    pub(super) fn show_trouble(&self, now: u64) {
        let trouble = if self.epoch() == 0 || self.is_revoked() {
            // That has been told.
            Trouble::None
        } else if self.reclaimed_in(now).is_some() {
            Trouble::Reclaimed
        } else if self.is_partitioned(now) {
            Trouble::Partitioned
        } else if self.is_deaf(now) {
            // It is silent by now, which is no better.
            return;
        } else {
            Trouble::None
        };
        {
            let mut link = self.link.lock();
            let (seen, since, told) = &mut link.trouble;
            if *seen != trouble {
                (*seen, *since) = (trouble, now);
            }
            // Who is back is heard before it answers.
            let sure = trouble != Trouble::Partitioned || now - *since >= HELLO_INTERVAL_US;
            if *told == trouble || !sure {
                return;
            }
            *told = trouble;
        }
        match trouble {
            Trouble::Reclaimed => self.log("does not answer: what it holds is wanted, and taken back when its lease has run out"),
            Trouble::Partitioned => self.log("is heard, but does not answer: look at what lies between, from here to there (firewall, routes)"),
            Trouble::None if self.epoch() != 0 && !self.is_revoked() => self.log("answers again"),
            Trouble::None => (),
        }
    }

    /// Somebody waits for what the peer holds, and it does not give it up. If it answers nothing at all, it is fenced as soon as its lease
    /// has run out, unless it answers before that; after [`Peer::revoke`], whatever it answers. Says whether it is so. Any context but hard
    /// interrupts.
    pub fn suspect(&self) -> bool {
        let now = now_us();
        if self.link.lock().term.is_revoked() {
            return !self.is_gone();
        }
        if self.is_gone() || !self.is_deaf(now) {
            return false;
        }
        // What has arrived and was not looked at may be an answer: there is time for that.
        let over = self.link.lock().term.close(now, DEAF_US);
        timer::at(over.min(now + HELLO_HURRY_US));
        true
    }

    /// The peer, in this [session](Peer::session), keeps a page that others want, although it answers: it gets no new lease, and is fenced when
    /// the one that it has has run out. Says whether this is news. Any context but hard interrupts.
    pub fn revoke(&self, session: (u64, u64)) -> bool {
        let now = now_us();
        let over = {
            let mut link = self.link.lock();
            // In the next session it has not kept anything.
            let present = session.1 != 0 && self.session() == session && !link.fenced;
            if !present || self.is_gone() || link.term.is_revoked() {
                return false;
            }
            link.term.revoke(now)
        };
        self.log("answers, but does not give up a page that others want: it gets no new lease");
        timer::at(over.min(now + HELLO_HURRY_US));
        true
    }

    /// Whether it was, and is not fenced yet.
    pub(super) fn is_revoked(&self) -> bool {
        self.link.lock().term.is_revoked()
    }

    /// [`Peer::suspect`] where nobody knows yet whether the peer answers: only if it has been silent for longer than any lease.
    pub fn suspect_if_silent(&self) {
        if self.silent_us(now_us()) >= lease_us() {
            self.suspect();
        }
    }

    /// The peer is to be removed: takes home what it holds. If it does not answer, waits until its lease has run out, for at most two of them.
    /// Process context, sleeps.
    pub(super) fn take_leave(&self) {
        if self.is_up() {
            crate::origin::peer_leaving(self.slot);
        }
        let end = now_us() + 2 * lease_us();
        while crate::origin::holds(self.slot) {
            let now = now_us();
            let over = self.link.lock().term.close(now, 0);
            if now >= over.min(end) {
                return;
            }
            let pause = (over - now).min(HELLO_HURRY_US);
            kernel::time::delay::fsleep(kernel::time::Delta::from_micros(pause as i64));
        }
    }

    /// Sends the hellos that are due, ends what was mapped when the lease has run out, and the session when the term is over. Returns when to
    /// look again. Timer.
    pub(super) fn look_after_leases(self: &Arc<Self>, now: u64) -> u64 {
        let (pause, due, lapsed, over, ends) = {
            let mut link = self.link.lock();
            let hurry = link.term.is_closed() || (self.is_deaf(now) && self.is_up());
            let pause = if hurry {
                HELLO_HURRY_US
            } else {
                HELLO_INTERVAL_US
            };
            (
                pause,
                now.saturating_sub(link.hello_sent) >= pause,
                link.mapped && !self.leased(),
                link.term.over(now),
                link.term.ends(now, self.backlog()),
            )
        };
        if due {
            self.hello(true);
        }
        // Again and again: a fault that has seen the lease may map a page later.
        if lapsed {
            crate::remote::lapse(self);
        }
        if ends {
            self.fence();
        } else if over {
            return now + UNHEARD_PAUSE_US;
        }
        let until = self.lease.load(Relaxed);
        let ends = if until > now { until } else { timer::NEVER };
        (now + pause).min(ends)
    }

    /// Ends the session because the peer is silent, or keeps a page, and what it was granted void.
    fn fence(self: &Arc<Self>) {
        let revoked = {
            let mut link = self.link.lock();
            // It may just have answered, or the session is over anyway.
            if self.is_gone() || self.epoch() == 0 || !link.term.over(now_us()) {
                return;
            }
            link.fenced = true;
            link.next_epoch = 0;
            self.epoch.store(0, Release);
            link.term.is_revoked()
        };
        self.shown_up.store(false, Relaxed);
        self.counters.fences.add(1);
        if revoked {
            self.counters.revocations.add(1);
            self.log("kept a page that others want, and its lease has run out: all that it held is taken back");
        } else {
            self.log("does not answer, and its lease has run out: what it held is taken back");
        }
        self.renew();
    }
}
