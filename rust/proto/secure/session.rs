// SPDX-License-Identifier: GPL-2.0

//! The sessions with one peer: when they begin, take over and end.
//!
//! The rules are WireGuard's (paper, section 6), with shorter times, as a storage system waits for nobody: who made the first message of
//! a handshake renews the session when it is [`REKEY_AFTER_US`] old; a session older than [`REJECT_AFTER_US`] is used by nobody. The
//! initiator sends in a new session at once, the responder after the first datagram has arrived in it: only then it is known that
//! the other end is who it says, and not a recording.
//!
//! Pure: `T` is what belongs to a session elsewhere (its keys), and every clock is passed in, in microseconds since any fixed point.

use super::guard::COOKIE_LIFE_US;

/// Age at which the initiator renews a session.
pub const REKEY_AFTER_US: u64 = 120_000_000;

/// Age at which the responder does, in case the initiator has nothing to send, or has lost it.
pub const REKEY_ANYWAY_US: u64 = 150_000_000;

/// Age from which on nobody sends in a session, or takes anything of it.
pub const REJECT_AFTER_US: u64 = 180_000_000;

/// Datagrams after which a session is renewed.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;

/// Datagrams after which nobody sends in a session.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// Pause between two attempts to begin a session.
pub const RETRY_US: u64 = 500_000;

/// Sessions that were begun by the peer, and of which nothing was heard yet. More than one, so that a recorded first message does not
/// undo a handshake that is on its way.
const UNCONFIRMED: usize = 4;

/// Sessions that the peer may still send in after newer ones have begun. Two, as both ends may renew at the same time.
const PREVIOUS: usize = 2;

/// One session.
#[derive(Clone)]
struct Session<T> {
    /// This node's index of it: what the peer puts into its envelopes.
    index: u64,
    born: u64,
    /// Whether this node began it.
    initiator: bool,
    value: T,
}

impl<T> Session<T> {
    fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.born)
    }
}

/// The sessions with one peer, and the handshake that this node has begun.
pub struct Sessions<T> {
    /// What this node sends in.
    current: Option<Session<T>>,
    /// What the peer may still send in, newest last.
    previous: [Option<Session<T>>; PREVIOUS],
    /// Begun by the peer, newest last.
    unconfirmed: [Option<Session<T>>; UNCONFIRMED],
    /// When this node sent its last first message; 0: never.
    attempted: u64,
    /// The peer's cookie, and when it came.
    cookie: Option<([u8; 16], u64)>,
}

impl<T: Clone> Sessions<T> {
    /// None yet.
    pub const fn new() -> Sessions<T> {
        Sessions {
            current: None,
            previous: [const { None }; PREVIOUS],
            unconfirmed: [const { None }; UNCONFIRMED],
            attempted: 0,
            cookie: None,
        }
    }

    /// What to send in, of which `sent` tells how much was sent already.
    pub fn sending(&self, now: u64, sent: impl FnOnce(&T) -> u64) -> Option<&T> {
        self.current
            .as_ref()
            .filter(|session| session.age(now) < REJECT_AFTER_US)
            .map(|session| &session.value)
            .filter(|value| sent(value) < REJECT_AFTER_MESSAGES)
    }

    /// Whether this node should send a first message now; then it must, as this notes the attempt. `urgent`: the peer does not answer in
    /// the session that there is.
    pub fn begin(&mut self, now: u64, urgent: bool, sent: impl FnOnce(&T) -> u64) -> bool {
        if self.attempted != 0 && now.saturating_sub(self.attempted) < RETRY_US {
            return false;
        }
        let old = match &self.current {
            None => true,
            Some(session) => {
                let limit = match session.initiator {
                    true => REKEY_AFTER_US,
                    false => REKEY_ANYWAY_US,
                };
                session.age(now) >= limit || sent(&session.value) >= REKEY_AFTER_MESSAGES
            }
        };
        if old || urgent {
            self.attempted = now.max(1);
        }
        old || urgent
    }

    /// The second message came: a session of which this node was the initiator begins, and is sent in from now on.
    pub fn finished(&mut self, now: u64, index: u64, value: T) {
        self.enter(Session {
            index,
            born: now,
            initiator: true,
            value,
        });
    }

    /// This node has answered a first message: the session takes over when something has arrived in it.
    pub fn answered(&mut self, now: u64, index: u64, value: T) {
        self.unconfirmed.rotate_left(1);
        self.unconfirmed[UNCONFIRMED - 1] = Some(Session {
            index,
            born: now,
            initiator: false,
            value,
        });
    }

    /// The session that the peer calls by this index, if it may be used.
    pub fn receiving(&self, index: u64, now: u64) -> Option<&T> {
        [&self.current]
            .into_iter()
            .chain(&self.previous)
            .chain(&self.unconfirmed)
            .flatten()
            .find(|session| session.index == index && session.age(now) < REJECT_AFTER_US)
            .map(|session| &session.value)
    }

    /// Something genuine has arrived in this session. Says whether it begins by that.
    pub fn confirmed(&mut self, index: u64) -> bool {
        let found = self
            .unconfirmed
            .iter_mut()
            .find(|place| place.as_ref().is_some_and(|session| session.index == index));
        let Some(session) = found.and_then(Option::take) else {
            return false;
        };
        self.enter(session);
        true
    }

    fn enter(&mut self, session: Session<T>) {
        self.previous.rotate_left(1);
        self.previous[PREVIOUS - 1] = self.current.replace(session);
    }

    /// Drops all sessions but the current one that are not `good` any more: those of a peer that has started anew since.
    pub fn keep(&mut self, good: impl Fn(&T) -> bool) {
        for place in self.previous.iter_mut().chain(&mut self.unconfirmed) {
            if place.as_ref().is_some_and(|session| !good(&session.value)) {
                *place = None;
            }
        }
    }

    /// Drops all of them. The next may be begun at once.
    pub fn forget(&mut self) {
        let cookie = self.cookie.take();
        *self = Sessions::new();
        self.cookie = cookie;
    }

    /// Drops the sessions that nobody may use any more, with their keys.
    pub fn expire(&mut self, now: u64) {
        let all = [&mut self.current]
            .into_iter()
            .chain(&mut self.previous)
            .chain(&mut self.unconfirmed);
        for place in all {
            if place
                .as_ref()
                .is_some_and(|session| session.age(now) >= REJECT_AFTER_US)
            {
                *place = None;
            }
        }
    }

    /// Keeps the peer's cookie; the next attempt may be made at once.
    pub fn take_cookie(&mut self, now: u64, cookie: [u8; 16]) {
        self.cookie = Some((cookie, now));
        self.attempted = 0;
    }

    /// The peer's cookie, if it is still taken.
    pub fn cookie(&self, now: u64) -> Option<&[u8; 16]> {
        self.cookie
            .as_ref()
            .filter(|(_, since)| now.saturating_sub(*since) < COOKIE_LIFE_US)
            .map(|(cookie, _)| cookie)
    }
}

impl<T: Clone> Default for Sessions<T> {
    fn default() -> Sessions<T> {
        Sessions::new()
    }
}
