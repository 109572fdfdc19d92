// SPDX-License-Identifier: GPL-2.0

//! What keeps strangers out: the sessions with one peer, and the datagrams that begin them.
//!
//! [`Secure::open`] decrypts what has arrived, in the receive thread; [`Secure::seal`] encrypts what is to leave, in any task. Handshakes cost a
//! Diffie-Hellman, and are made on a workqueue of their own: only after `mac1` has proved that who asks has the key, and only
//! so many in a second. Rules and reasons are in [`crate::proto::secure`].

use kernel::{
    bindings::kvec,
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        global_lock, Arc, SpinLock,
    },
};

use super::{
    crypto::{self, random, random_key, Library},
    keylog, now_us, own_name,
    peer::Peer,
};
use crate::{
    proto::{
        envelope::{
            piece, Envelope, Greeting, What, CLEAR_BYTES, COOKIE_BYTES, ENVELOPE_BYTES,
            HANDSHAKE_BYTES, LENGTH, SESSION,
        },
        limits::HELLO_INTERVAL_US,
        secure::{
            guard::{cookie, Mac, Seen, Standing, COOKIE_LIFE_US},
            pair::{Agreed, Attempt, Pair},
            session::Sessions,
            window::Window,
            Key, TAG_BYTES,
        },
        wire::{Kind, HEADER_BYTES},
    },
    stats::Reason,
};

/// Handshakes of one peer that are begun in a second for who has not proved to be at its address.
const UNPROVED: u32 = 5;

/// And for who has.
const PROVED: u32 = 20;

/// First messages that this node waits for answers to. More than one, as a new one is sent every
/// [`RETRY_US`](crate::proto::secure::session::RETRY_US), and an answer may take longer.
const ATTEMPTS: usize = 4;

/// For how long, microseconds.
const ATTEMPT_LIFE_US: u64 = 5_000_000;

/// Handshake datagrams that wait for the workqueue.
const INBOX: usize = 8;

/// A session: keys of both directions, and what was used of them.
#[pin_data]
pub(super) struct Session {
    /// What the peer calls it by.
    index: u64,
    /// What the peer said of itself.
    theirs: Greeting,
    /// The epoch that this node had for the peer.
    own_epoch: u64,
    send: Key,
    receive: Key,
    /// Datagrams sent: the next counter.
    sent: Atomic<u64>,
    /// Whether something has arrived in it.
    confirmed: Atomic<bool>,
    #[pin]
    window: SpinLock<Window>,
}

impl Session {
    fn new(own: Greeting, agreed: &Agreed) -> Result<Arc<Session>> {
        let (send, receive) = (agreed.send.clone(), agreed.receive.clone());
        let theirs = agreed.peer;
        keylog::note(theirs.index, &send);
        keylog::note(own.index, &receive);
        Arc::pin_init(
            pin_init!(Session {
                index: own.index,
                own_epoch: own.epoch,
                theirs,
                send,
                receive,
                sent: Atomic::new(0),
                confirmed: Atomic::new(false),
                window <- new_spinlock!(Window::new()),
            }),
            GFP_KERNEL,
        )
    }

    fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// The peer's epoch: what arrives in this session is of it.
    pub(super) fn epoch(&self) -> u64 {
        self.theirs.epoch
    }

    /// This node's epoch for which it was meant.
    pub(super) fn own_epoch(&self) -> u64 {
        self.own_epoch
    }
}

/// Why there is no session, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The peer has not answered yet.
    Silent,
    /// Something came from its address that was made with another key.
    OtherKey,
    /// It has the key, but means other nodes: names differ.
    OtherNames,
}

/// What is to be done on the workqueue.
struct Inbox {
    begin: bool,
    datagrams: [[u8; HANDSHAKE_BYTES]; INBOX],
    count: usize,
}

/// The sessions with a peer.
#[pin_data]
pub(super) struct Secure {
    pair: Pair<Library>,
    #[pin]
    state: SpinLock<State>,
}

struct State {
    sessions: Sessions<Arc<Session>>,
    /// What this node has begun, and when; newest last.
    attempts: [Option<(Attempt<Library>, u64)>; ATTEMPTS],
    inbox: Inbox,
    seen: Seen,
    /// First messages of this second, of both kinds, and which second that is.
    unproved: u32,
    proved: u32,
    second: u64,
    trouble: Trouble,
}

impl State {
    /// The attempt to begin a session that this node calls by this index.
    fn attempt(&mut self, index: u64, now: u64) -> Option<&mut Option<(Attempt<Library>, u64)>> {
        self.attempts.iter_mut().find(|place| {
            place.as_ref().is_some_and(|(attempt, since)| {
                attempt.own.index == index && now.saturating_sub(*since) < ATTEMPT_LIFE_US
            })
        })
    }

    /// A session with the peer of this epoch has begun: nothing that belongs to another one, or was begun meanwhile, may come after it.
    fn settle(&mut self, epoch: u64) {
        self.sessions.keep(|session| session.epoch() == epoch);
        self.attempts = [const { None }; ATTEMPTS];
        self.trouble = Trouble::Silent;
    }

    /// Whether one more first message of this second may cost a handshake.
    fn affords(&mut self, now: u64, standing: Standing) -> bool {
        let second = now / 1_000_000;
        if self.second != second {
            (self.second, self.unproved, self.proved) = (second, 0, 0);
        }
        let (count, most) = match standing {
            Standing::Proved => (&mut self.proved, PROVED),
            _ => (&mut self.unproved, UNPROVED),
        };
        *count = count.saturating_add(1);
        *count <= most
    }
}

global_lock! {
    // SAFETY: Initialised in `prepare`, before anything else.
    /// The secret that cookies are made from, and since when: 0 for never.
    unsafe(uninit) static JAR: SpinLock<(Key, u64)> = (Key::new([0; 32]), 0);
}

pub(super) fn prepare() {
    // SAFETY: Called once, at load.
    unsafe { JAR.init() };
}

/// The cookie of an address.
fn cookie_of(peer: &Peer) -> Mac {
    let now = now_us();
    let old = |since: u64| since == 0 || now.saturating_sub(since) >= COOKIE_LIFE_US;
    let since = JAR.lock().1;
    if old(since) {
        let fresh = random_key();
        let mut jar = JAR.lock();
        if old(jar.1) {
            *jar = (fresh, now.max(1));
        }
    }
    let secret = JAR.lock().0.clone();
    let (address, port) = peer.addr();
    cookie::<Library>(&secret, address, port)
}

/// A random number that is not 0.
pub(super) fn nonzero() -> u64 {
    u64::from_ne_bytes(random()).max(1)
}

impl Secure {
    /// The sessions with the peer of this name. `EINVAL`: the name is too long.
    pub(super) fn new(peer: &[u8], psk: Key) -> Result<impl PinInit<Secure>> {
        let pair = Pair::new(own_name(), peer, psk).ok_or(EINVAL)?;
        Ok(pin_init!(Secure {
            pair,
            state <- new_spinlock!(State {
                sessions: Sessions::new(),
                attempts: [const { None }; ATTEMPTS],
                inbox: Inbox {
                    begin: false,
                    datagrams: [[0; HANDSHAKE_BYTES]; INBOX],
                    count: 0,
                },
                seen: Seen::new(),
                unproved: 0,
                proved: 0,
                second: 0,
                trouble: Trouble::Silent,
            }),
        }))
    }

    /// Begins a session, if there is none, or the one there is gets old. `urgent`: or if nothing comes back in it.
    pub(super) fn begin(&self, peer: &Arc<Peer>, urgent: bool) {
        let mut state = self.state.lock();
        if state
            .sessions
            .begin(now_us(), urgent, |session| session.sent())
        {
            state.inbox.begin = true;
            drop(state);
            peer.shake_hands();
        }
    }

    /// Drops what is too old, and renews what gets so. Timer.
    pub(super) fn tick(&self, peer: &Arc<Peer>, now: u64) {
        self.state.lock().sessions.expire(now);
        self.begin(peer, false);
    }

    /// Drops all sessions, and what would become one: this node has taken a new epoch for the peer. A handshake that goes on meanwhile
    /// finds that out under the lock.
    pub(super) fn forget(&self) {
        let mut state = self.state.lock();
        state.sessions.forget();
        state.attempts = [const { None }; ATTEMPTS];
    }

    fn sending(&self) -> Option<Arc<Session>> {
        let state = self.state.lock();
        state
            .sessions
            .sending(now_us(), |session| session.sent())
            .cloned()
    }

    /// Why no new session begins, if it is for something that the peer has sent.
    pub(super) fn refused(&self) -> Option<&'static str> {
        match self.state.lock().trouble {
            Trouble::Silent => None,
            Trouble::OtherKey => Some("it has another key for this node"),
            Trouble::OtherNames => {
                Some("it has the key, but another name for itself or for this node")
            }
        }
    }

    // Receiving, in the receive thread.

    /// Decrypts a message in place; gives the session that it came in. `datagram` is all of it, without padding, with room for a tag behind
    /// it.
    pub(super) fn open(
        &self,
        peer: &Arc<Peer>,
        envelope: &Envelope,
        datagram: &mut [u8],
    ) -> Result<Arc<Session>, Reason> {
        let now = now_us();
        let found = {
            let state = self.state.lock();
            state.sessions.receiving(envelope.session, now).cloned()
        };
        let Some(session) = found else {
            // Of the time before this node was loaded; or of a peer that has lost the sessions, but then it says nothing else; or forged.
            self.begin(peer, peer.silent_us(now) >= HELLO_INTERVAL_US);
            return Err(Reason::UnknownSession);
        };
        let (head, text) = datagram.split_at_mut(ENVELOPE_BYTES);
        let (clear, tag) = head.split_at(CLEAR_BYTES);
        // The kernel expects it behind the text.
        text.last_chunk_mut::<TAG_BYTES>()
            .ok_or(Reason::Truncated)?
            .copy_from_slice(tag);
        if !crypto::open(&session.receive, envelope.counter, clear, text) {
            return Err(Reason::Forged);
        }
        if !session.window.lock().accept(envelope.counter) {
            return Err(Reason::Replayed);
        }
        if !session.confirmed.load(Relaxed) {
            session.confirmed.store(true, Relaxed);
            let begins = {
                let mut state = self.state.lock();
                let begins = state.sessions.confirmed(session.index);
                if begins {
                    state.settle(session.epoch());
                }
                begins
            };
            if begins {
                peer.agreed(session.epoch());
            }
        }
        Ok(session)
    }

    /// A datagram of a handshake, from the peer's address.
    pub(super) fn handshake(
        &self,
        peer: &Arc<Peer>,
        envelope: &Envelope,
        datagram: &[u8; HANDSHAKE_BYTES],
    ) -> Result<(), Reason> {
        let mut due = None;
        let cookie = || *due.insert(cookie_of(peer));
        let standing = self.pair.guard.check::<Library>(datagram, cookie);
        let now = now_us();
        let mut state = self.state.lock();
        if standing == Standing::Stranger {
            state.trouble = Trouble::OtherKey;
            return Err(Reason::Forged);
        }
        if state.seen.has(datagram) {
            return Err(Reason::Replayed);
        }
        if envelope.what == What::Second {
            // It costs nothing unless this node has asked for it.
            state
                .attempt(envelope.session, now)
                .ok_or(Reason::UnknownSession)?;
        } else if !state.affords(now, standing) {
            drop(state);
            let due = due.filter(|_| standing != Standing::Proved);
            let due = due.ok_or(Reason::TooMany)?;
            let given = self.pair.guard.give::<Library>(datagram, due, &random());
            peer.transmit_open(&given);
            return Ok(());
        }
        if state.inbox.count == INBOX {
            return Err(Reason::TooMany);
        }
        state.seen.note(datagram);
        let place = state.inbox.count;
        state.inbox.datagrams[place] = *datagram;
        state.inbox.count += 1;
        drop(state);
        peer.shake_hands();
        Ok(())
    }

    /// A cookie, from the peer's address.
    pub(super) fn cookie(
        &self,
        peer: &Arc<Peer>,
        datagram: &[u8; COOKIE_BYTES],
    ) -> Result<(), Reason> {
        let mut macs = [None; ATTEMPTS];
        for (mac, attempt) in macs.iter_mut().zip(&self.state.lock().attempts) {
            *mac = attempt.as_ref().map(|(attempt, _)| attempt.mac1);
        }
        let mut got = macs.iter().flatten();
        let got = got.find_map(|mac1| self.pair.guard.take::<Library>(datagram, mac1));
        let got = got.ok_or(Reason::Forged)?;
        self.state.lock().sessions.take_cookie(now_us(), got);
        self.begin(peer, true);
        Ok(())
    }

    // Handshakes, on the workqueue.

    /// Does what is to be done, until there is no more. Process context, may sleep.
    pub(super) fn work(&self, peer: &Arc<Peer>) {
        loop {
            let mut state = self.state.lock();
            let inbox = &mut state.inbox;
            let result = if core::mem::take(&mut inbox.begin) {
                drop(state);
                self.first(peer)
            } else if inbox.count != 0 {
                inbox.count -= 1;
                let datagram = inbox.datagrams[inbox.count];
                drop(state);
                match Envelope::decode(&datagram, datagram.len()) {
                    Ok(envelope) if envelope.what == What::First => self.second(peer, &datagram),
                    Ok(envelope) => self.finish(peer, &envelope, &datagram),
                    Err(malformed) => Err(malformed.into()),
                }
            } else {
                return;
            };
            if let Err(reason) = result {
                peer.dropped(reason);
            }
        }
    }

    fn first(&self, peer: &Arc<Peer>) -> Result<(), Reason> {
        let own = Greeting {
            index: nonzero(),
            epoch: peer.own_epoch(),
        };
        let cookie = self.state.lock().sessions.cookie(now_us()).copied();
        let (attempt, datagram) = self.pair.first(random_key(), own, cookie.as_ref());
        {
            let mut state = self.state.lock();
            if own.epoch != peer.own_epoch() {
                return Err(Reason::WrongEpoch);
            }
            state.attempts.rotate_left(1);
            state.attempts[ATTEMPTS - 1] = Some((attempt, now_us()));
        }
        peer.transmit_open(&datagram);
        Ok(())
    }

    fn second(&self, peer: &Arc<Peer>, first: &[u8; HANDSHAKE_BYTES]) -> Result<(), Reason> {
        let Some(invitation) = self.pair.invited(first) else {
            self.state.lock().trouble = Trouble::OtherNames;
            return Err(Reason::Forged);
        };
        let own = Greeting {
            index: nonzero(),
            epoch: peer.own_epoch(),
        };
        let secret = random_key();
        let (agreed, datagram) = self
            .pair
            .second(invitation, &secret, own, None)
            .ok_or(Reason::Forged)?;
        let session = Session::new(own, &agreed).map_err(|_| Reason::NoMemory)?;
        {
            let mut state = self.state.lock();
            if own.epoch != peer.own_epoch() {
                return Err(Reason::WrongEpoch);
            }
            state.sessions.answered(now_us(), own.index, session);
        }
        peer.transmit_open(&datagram);
        Ok(())
    }

    fn finish(
        &self,
        peer: &Arc<Peer>,
        envelope: &Envelope,
        second: &[u8; HANDSHAKE_BYTES],
    ) -> Result<(), Reason> {
        let taken = {
            let mut state = self.state.lock();
            let place = state.attempt(envelope.session, now_us());
            place.and_then(Option::take)
        };
        let (attempt, since) = taken.ok_or(Reason::UnknownSession)?;
        let Some(agreed) = self.pair.finish(&attempt, second) else {
            // It goes on, if there is still room for it.
            let mut state = self.state.lock();
            if let Some(place) = state.attempts.iter_mut().find(|place| place.is_none()) {
                *place = Some((attempt, since));
            }
            return Err(Reason::Forged);
        };
        let session = Session::new(attempt.own, &agreed).map_err(|_| Reason::NoMemory)?;
        {
            let mut state = self.state.lock();
            if attempt.own.epoch != peer.own_epoch() {
                return Err(Reason::WrongEpoch);
            }
            state
                .sessions
                .finished(now_us(), attempt.own.index, session);
            state.settle(agreed.peer.epoch);
        }
        peer.agreed(agreed.peer.epoch);
        // The peer takes the session for real when something arrives in it.
        peer.hello(true);
        Ok(())
    }

    // Sending.

    /// Encrypts datagrams of `segment` bytes each but the last one (0: only one), of `bytes` bytes together, to `room`, which has
    /// [`TAG_BYTES`] more. Each is a header, then the fragment that it says, then padding, and no part belongs to two of these. `ENOTCONN`:
    /// there is no session; one is being begun. `ESTALE`: the session is with a peer that has started anew since a message was made.
    ///
    /// # Safety
    ///
    /// The parts must be readable, and have `bytes` bytes together.
    pub(super) unsafe fn seal(
        &self,
        peer: &Arc<Peer>,
        parts: &[kvec],
        bytes: usize,
        segment: usize,
        room: &mut [u8],
    ) -> Result {
        let Some(session) = self.sending() else {
            self.begin(peer, false);
            return Err(ENOTCONN);
        };
        let segment = if segment == 0 { bytes } else { segment };
        let mut parts = parts.iter();
        for at in (0..bytes).step_by(segment.max(1)) {
            // One behind the other: the tag behind one is where the next one begins.
            let end = bytes.min(at + segment) + TAG_BYTES;
            let out = room.get_mut(at..end).ok_or(EINVAL)?;
            // SAFETY: By this function's contract.
            unsafe { session.seal_one(&mut parts, out) }?;
        }
        Ok(())
    }
}

impl Session {
    /// Encrypts one datagram, whose parts come next, to these bytes, of which the last [`TAG_BYTES`] do not belong to it. `ESTALE`: it is
    /// for a peer of before. `EINVAL`: it is none.
    ///
    /// # Safety
    ///
    /// The parts must be readable.
    unsafe fn seal_one(&self, parts: &mut core::slice::Iter<'_, kvec>, out: &mut [u8]) -> Result {
        let whole = out.len() - TAG_BYTES;
        let left = parts.as_slice();
        let mut count = 0;
        let mut bytes = 0;
        while bytes < whole && count < left.len() {
            bytes += left[count].iov_len;
            count += 1;
        }
        let (these, rest) = left.split_at(count);
        *parts = rest.iter();
        let head = these.first().filter(|head| head.iov_len == HEADER_BYTES);
        let head = head.ok_or(EINVAL)?;
        // SAFETY: By this function's contract.
        let head = unsafe { core::slice::from_raw_parts(head.iov_base.cast::<u8>(), head.iov_len) };
        // What says hello finds out who the peer is now; everything else is meant for the one that it was made for. (As no session
        // says, the envelope is that of an open message.)
        let greets = [Kind::Hello as u8, Kind::HelloAck as u8].contains(&head[ENVELOPE_BYTES]);
        if !greets && u64::from_le_bytes(piece(head, SESSION)) != self.epoch() {
            return Err(ESTALE);
        }
        let length = u16::from_le_bytes(piece(head, LENGTH));
        let envelope = Envelope {
            what: What::Message,
            length,
            session: self.theirs.index,
            counter: self.sent.fetch_add(1, Relaxed),
        };
        let (length, header) = (usize::from(length), &head[ENVELOPE_BYTES..]);
        let (clear, rest) = out.split_at_mut(CLEAR_BYTES);
        let (tag, text) = rest.split_at_mut(TAG_BYTES);
        clear.copy_from_slice(&envelope.encode());
        let room = text.get_mut(..length).ok_or(EINVAL)?;
        let (to_header, to_fragment) = room.split_at_mut_checked(header.len()).ok_or(EINVAL)?;
        to_header.copy_from_slice(header);
        if !to_fragment.is_empty() {
            let fragment = these
                .get(1)
                .filter(|part| part.iov_len == to_fragment.len());
            let from = fragment.ok_or(EINVAL)?.iov_base.cast::<u8>();
            // SAFETY: By this function's contract so many bytes are readable; `to_fragment` is memory of our own. Who writes to a page
            // meanwhile is not waited for: what is encrypted is this copy.
            unsafe {
                core::ptr::copy_nonoverlapping(from, to_fragment.as_mut_ptr(), to_fragment.len());
            }
        }
        let sealed = text.get_mut(..length + TAG_BYTES).ok_or(EINVAL)?;
        crypto::seal(&self.send, envelope.counter, clear, sealed);
        tag.copy_from_slice(&sealed[length..]);
        text[length..whole - ENVELOPE_BYTES].fill(0);
        Ok(())
    }
}
