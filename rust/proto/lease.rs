// SPDX-License-Identifier: GPL-2.0

//! Leases: for how long a remote may use what it was granted without hearing from its origin, and from when on the origin may take that
//! back without hearing from the remote.
//!
//! | | the remote's [`Lease`] | the origin's [`Term`] |
//! |---|---|---|
//! | renewed by | a `HelloAck` that grants | a `Hello` that is answered |
//! | counts from | when the hello *was sent* | when it is answered |
//! | lasts | what the answer says | an eighth longer |
//!
//! A hello is sent before it is answered, so a term ends after the lease that it stands for, whatever the network does with both messages:
//! delay, loss, repetition. The eighth is for clocks that do not run alike, and for the remote's mappings, which end a moment after its
//! lease. Neither is checked by anything but time, so a clock must not stand still while others run: both count the time in suspend.
//!
//! A lease that has run out takes nothing away by itself. The remote waits for its renewal before it shows or changes anything; the origin
//! leaves everything as it is until somebody wants what the remote holds. Only then, and if the remote does not answer, the origin
//! [closes](Term::close) the term: hellos are answered without granting. When the term is [over](Term::over), all that was granted is
//! void, and only a new session can follow. A remote that answers before that reopens it; what has arrived by then and was not looked at is
//! [looked at first](Term::ends), for this node may have stood still.
//!
//! A remote that answers hellos, and is asked for a page again and again and keeps it all the same, would keep it for ever. After
//! [`overdue_rounds`] its term is [revoked](Term::revoke): it ends like one that was closed, and no answer reopens it.

use super::limits::{OVERDUE_ROUNDS, OVERDUE_US, UNHEARD_US};

/// After how many rounds that have run out, of `timeout` microseconds each, a holder that has not given up the page has its term revoked.
/// `lease`: what it is granted. Who was silent for less than that is not to lose anything, so that long is not enough.
pub fn overdue_rounds(timeout: u64, lease: u64) -> u16 {
    let rounds = OVERDUE_US
        .max(lease.saturating_mul(2))
        .div_ceil(timeout.max(1));
    u16::try_from(rounds)
        .unwrap_or(u16::MAX)
        .max(OVERDUE_ROUNDS)
}

/// What a remote knows: until when it may use what this origin has granted.
///
/// Times are microseconds of any one clock of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The first moment at which it may not.
    pub until: u64,
}

impl Lease {
    /// The origin has answered a hello that left at `sent`, and grants `length` from then on; 0: nothing.
    pub fn renew(&mut self, sent: u64, length: u64) {
        if length != 0 {
            self.until = self.until.max(sent.saturating_add(length));
        }
    }

    /// Whether it may.
    pub fn holds(&self, now: u64) -> bool {
        now < self.until
    }
}

/// What an origin knows: when a remote's lease has run out for certain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Term {
    until: u64,
    closed: bool,
    /// Closed for good.
    revoked: bool,
    /// When it was seen to be over for the first time, while datagrams waited; 0: it was not.
    unheard: u64,
}

impl Term {
    /// A hello of the present session is about to be answered: what the answer grants.
    pub fn grant(&mut self, now: u64, length: u64) -> u64 {
        if self.closed {
            return 0;
        }
        let end = now.saturating_add(length).saturating_add(length / 8);
        self.until = self.until.max(end);
        length
    }

    /// Nothing is granted any more. Gives when the term will be over: not before `grace` has passed in which the remote can answer, as it may
    /// be this node that stood still.
    pub fn close(&mut self, now: u64, grace: u64) -> u64 {
        if !self.closed {
            self.closed = true;
            self.until = self.until.max(now.saturating_add(grace));
        }
        self.until
    }

    /// Nothing is granted any more in this session, whatever the remote answers. Gives when the term will be over: nothing can change that, so
    /// there is no grace.
    pub fn revoke(&mut self, now: u64) -> u64 {
        self.revoked = true;
        self.close(now, 0)
    }

    /// The remote has answered.
    pub fn reopen(&mut self) {
        self.closed = self.revoked;
        self.unheard = 0;
    }

    /// Whether no answer reopens it.
    pub fn is_revoked(&self) -> bool {
        self.revoked
    }

    /// Whether nothing is granted.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// If nothing is granted: for how long the remote may still use what was.
    pub fn left(&self, now: u64) -> Option<u64> {
        self.closed.then(|| self.until.saturating_sub(now))
    }

    /// Whether it is [over](Term::over), and no answer waits in the socket: this node may have stood still, or its receive thread. `backlog`:
    /// whether any datagrams wait. That counts for [`UNHEARD_US`] at most. To be asked again soon while it says no and the term is over.
    pub fn ends(&mut self, now: u64, backlog: bool) -> bool {
        if !self.over(now) {
            self.unheard = 0;
            return false;
        }
        if self.unheard == 0 {
            self.unheard = now.max(1);
        }
        !backlog || now - self.unheard >= UNHEARD_US
    }

    /// Whether what was granted is void.
    pub fn over(&self, now: u64) -> bool {
        self.closed && now >= self.until
    }
}
