// SPDX-License-Identifier: GPL-2.0

//! Handshake, macs, window and sessions: against another implementation, against simple models, and against a network that does what
//! it likes.

mod primitives;

use std::collections::HashSet;

use primitives::Crates;
use proptest::prelude::*;
use vremote_proto::envelope::{
    Envelope, Greeting, What, CLEAR_BYTES, ENVELOPE_BYTES, HANDSHAKE_BYTES,
};
use vremote_proto::secure::{
    guard::{cookie, Seen, Standing},
    noise::{Initiator, Responder},
    pair::Pair,
    session::{
        Sessions, REJECT_AFTER_MESSAGES, REJECT_AFTER_US, REKEY_AFTER_MESSAGES, REKEY_AFTER_US,
        RETRY_US,
    },
    window::{Window, WINDOW},
    Key, Primitives,
};

const PROLOGUE: &[u8] = b"a prologue";

fn snow<'a>(psk: &'a [u8; 32], secret: &'a [u8; 32]) -> snow::Builder<'a> {
    let builder = snow::Builder::new("Noise_NNpsk0_25519_ChaChaPoly_SHA256".parse().unwrap());
    builder
        .prologue(PROLOGUE)
        .unwrap()
        .psk(0, psk)
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(secret)
}

/// A message as Noise lays it out: public key, payload, tag.
fn noise_message(public: &[u8], payload: &[u8], tag: &[u8]) -> Vec<u8> {
    [public, payload, tag].concat()
}

/// Pre-shared key, both secrets, both payloads.
type Handshake = ([u8; 32], [u8; 32], [u8; 32], [u8; 16], [u8; 16]);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// With the same ephemeral keys the crate `snow` makes the same bytes, in both roles, and the same session keys.
    #[test]
    fn the_handshake_is_noise((psk, a, b, hello, answer) in any::<Handshake>()) {
        let mut initiator = snow(&psk, &a).build_initiator().unwrap();
        let mut responder = snow(&psk, &b).build_responder().unwrap();
        let (mut first, mut second) = ([0; 64], [0; 64]);
        initiator.write_message(&hello, &mut first).unwrap();

        let mut payload = hello;
        let (ours, public, tag) = Initiator::<Crates>::begin(PROLOGUE, &Key::new(psk), Key::new(a), &mut payload);
        prop_assert_eq!(noise_message(&public, &payload, &tag), first);
        let read = Responder::<Crates>::read(PROLOGUE, &Key::new(psk), &public, &mut payload, &tag).unwrap();
        prop_assert_eq!(payload, hello);

        responder.read_message(&first, &mut [0; 64]).unwrap();
        responder.write_message(&answer, &mut second).unwrap();
        let mut payload = answer;
        let (public, tag, keys) = read.answer(&Key::new(b), &mut payload).unwrap();
        prop_assert_eq!(noise_message(&public, &payload, &tag), second);
        let same = ours.finish(&public, &mut payload, &tag).unwrap();
        prop_assert_eq!(payload, answer);

        initiator.read_message(&second, &mut [0; 64]).unwrap();
        let (i, r) = initiator.dangerously_get_raw_split();
        for keys in [keys, same] {
            prop_assert_eq!(keys.initiator.bytes(), &i);
            prop_assert_eq!(keys.responder.bytes(), &r);
        }
    }

    /// Each counter once, if it is not too old.
    #[test]
    fn the_window_is_a_set(steps in prop::collection::vec((0u8..10, any::<u16>(), any::<u64>()), 1..400)) {
        let mut window = Window::new();
        let (mut seen, mut highest) = (HashSet::new(), 0u64);
        for (kind, near, far) in steps {
            let counter = match kind {
                0 => far >> 8,
                1..=4 => highest.saturating_add(u64::from(near % 200)),
                5 => highest.saturating_sub(WINDOW - 2 + u64::from(near % 4)),
                _ => highest.saturating_sub(u64::from(near) % (WINDOW + 100)),
            };
            let recent = counter + WINDOW > highest;
            let new = !seen.contains(&counter);
            let accepted = window.accept(counter);
            prop_assert!(!accepted || new, "{} twice", counter);
            prop_assert!(accepted || !new || !recent, "{} refused behind {}", counter, highest);
            if accepted {
                seen.insert(counter);
                highest = highest.max(counter);
            }
        }
    }

    /// Any bytes are an envelope that encodes to the same bytes, or none.
    #[test]
    fn envelopes_are_exact(mut bytes in prop::collection::vec(any::<u8>(), CLEAR_BYTES..200), genuine in any::<bool>()) {
        if genuine {
            bytes[..5].copy_from_slice(b"VRMT\x01");
            bytes[5] %= 6;
            bytes[7] = 0;
        }
        if let Ok(envelope) = Envelope::decode(&bytes, bytes.len()) {
            prop_assert_eq!(&envelope.encode()[..], &bytes[..CLEAR_BYTES]);
            prop_assert!(ENVELOPE_BYTES + usize::from(envelope.length) <= bytes.len());
        }
    }
}

#[test]
fn the_largest_counter_is_no_counter() {
    let mut window = Window::new();
    assert!(window.accept(u64::MAX - 1));
    assert!(!window.accept(u64::MAX));
    assert!(!window.accept(u64::MAX - 1));
}

fn pair(own: &str, peer: &str, psk: u8) -> Pair<Crates> {
    Pair::new(own.as_bytes(), peer.as_bytes(), Key::new([psk; 32])).unwrap()
}

fn greeting(n: u64) -> Greeting {
    Greeting {
        index: n,
        epoch: 1000 + n,
    }
}

fn secret(n: u8) -> Key {
    Key::new([n; 32])
}

#[test]
fn a_handshake_gives_both_the_same_keys() {
    let (a, b) = (pair("a", "b", 7), pair("b", "a", 7));
    let (attempt, first) = a.first(secret(1), greeting(11), None);
    assert_eq!(
        b.guard.check::<Crates>(&first, || [0; 16]),
        Standing::Unproved
    );
    let invitation = b.invited(&first).unwrap();
    assert_eq!(invitation.peer, greeting(11));
    let (at_b, second) = b
        .second(invitation, &secret(2), greeting(22), None)
        .unwrap();
    let envelope = Envelope::decode(&second, second.len()).unwrap();
    assert_eq!((envelope.what, envelope.session), (What::Second, 11));
    let at_a = a.finish(&attempt, &second).unwrap();
    assert_eq!((at_a.peer, at_b.peer), (greeting(22), greeting(11)));
    assert_eq!(at_a.send.bytes(), at_b.receive.bytes());
    assert_eq!(at_a.receive.bytes(), at_b.send.bytes());
    assert_ne!(at_a.send.bytes(), at_a.receive.bytes());
}

#[test]
fn other_names_or_keys_do_not_understand_each_other() {
    let (_, first) = pair("a", "b", 7).first(secret(1), greeting(1), None);
    for (own, peer, psk) in [
        ("b", "a", 8), // another key
        ("a", "b", 7), // sent back to where it came from
        ("c", "a", 7), // to another node that has the same key
        ("b", "c", 7), // as if by another node that has the same key
        ("ba", "", 7), // names that are the same one behind the other
    ] {
        assert!(
            pair(own, peer, psk).invited(&first).is_none(),
            "{own} {peer} {psk}"
        );
    }
    assert!(pair("b", "a", 7).invited(&first).is_some());
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let (a, b) = (pair("a", "b", 7), pair("b", "a", 7));
    let (attempt, first) = a.first(secret(1), greeting(1), Some(&[9; 16]));
    let (_, second) = b
        .second(
            b.invited(&first).unwrap(),
            &secret(2),
            greeting(2),
            Some(&[9; 16]),
        )
        .unwrap();
    for bit in 0..HANDSHAKE_BYTES * 8 {
        for datagram in [&first, &second] {
            let mut flipped = *datagram;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(
                b.guard.check::<Crates>(&flipped, || [9; 16]),
                Standing::Proved,
                "bit {bit}"
            );
        }
        // What the macs do not tell: who has the key of the pair, but not that of the handshake.
        let mut flipped = second;
        flipped[bit / 8] ^= 1 << (bit % 8);
        let inside = (CLEAR_BYTES * 8..(ENVELOPE_BYTES + 48) * 8).contains(&bit);
        // X25519 ignores the highest bit of a public key, but the hash of the handshake has it.
        assert_eq!(a.finish(&attempt, &flipped).is_none(), inside, "bit {bit}");
    }
    assert!(
        a.finish(&attempt, &second).is_some(),
        "the attempt survives what was not its answer"
    );
}

#[test]
fn a_public_key_of_small_order_is_refused() {
    // Made by somebody who has the key of the pair, as others get no further than the tag. With these points the result of X25519 would
    // be known without any secret: 0 and 1 (RFC 7748, section 6.1).
    let one = [1]
        .into_iter()
        .chain([0; 31])
        .collect::<Vec<u8>>()
        .try_into()
        .unwrap();
    for point in [[0; 32], one] {
        assert!(Crates::agree(&secret(1), &point).is_none());
    }
    let psk = Key::new([7; 32]);
    let (initiator, _, _) = Initiator::<Crates>::begin(PROLOGUE, &psk, secret(1), &mut [0; 16]);
    assert!(initiator.finish(&[0; 32], &mut [0; 16], &[0; 16]).is_none());
}

#[test]
fn cookies_belong_to_one_address_and_one_datagram() {
    let (a, b) = (pair("a", "b", 7), pair("b", "a", 7));
    let jar = secret(99);
    let from = |address, port| cookie::<Crates>(&jar, address, port);
    let (attempt, first) = a.first(secret(1), greeting(1), None);
    let given = b.guard.give::<Crates>(&first, from(1, 1104), &[5; 24]);
    let got = a.guard.take::<Crates>(&given, &attempt.mac1).unwrap();
    let (other, _) = a.first(secret(2), greeting(2), None);
    assert!(a.guard.take::<Crates>(&given, &other.mac1).is_none());
    assert!(pair("a", "b", 8)
        .guard
        .take::<Crates>(&given, &attempt.mac1)
        .is_none());
    let (_, again) = a.first(secret(3), greeting(3), Some(&got));
    assert_eq!(
        b.guard.check::<Crates>(&again, || from(1, 1104)),
        Standing::Proved
    );
    assert_eq!(
        b.guard.check::<Crates>(&again, || from(2, 1104)),
        Standing::Unproved
    );
    assert_eq!(
        b.guard.check::<Crates>(&again, || from(1, 1105)),
        Standing::Unproved
    );
    assert_eq!(
        pair("b", "a", 8)
            .guard
            .check::<Crates>(&again, || from(1, 1104)),
        Standing::Stranger
    );
}

#[test]
fn a_handshake_datagram_is_good_once() {
    let a = pair("a", "b", 7);
    let mut seen = Seen::new();
    let datagrams: Vec<_> = (1..100)
        .map(|n| a.first(secret(n), greeting(n.into()), None).1)
        .collect();
    for datagram in &datagrams {
        assert!(!seen.has(datagram));
        seen.note(datagram);
        assert!(seen.has(datagram));
    }
    assert!(datagrams[datagrams.len() - 32..]
        .iter()
        .all(|datagram| seen.has(datagram)));
}

/// One end of the simulation below: what is in a session is the number of the handshake and who made it.
struct End {
    sessions: Sessions<(u64, bool)>,
    /// Sessions by own index: handshake.
    attempts: Vec<u64>,
    sent: u64,
}

/// Nodes that talk over a network which loses, repeats, delays and replays: as soon as it works for a while they have a session, and
/// never send in one that is too old, or that nothing was heard of.
#[derive(Clone, Debug)]
enum Packet {
    First {
        from: usize,
        handshake: u64,
    },
    Second {
        from: usize,
        handshake: u64,
        answer: u64,
    },
    /// In the session that the receiver calls `index`.
    Data {
        from: usize,
        index: u64,
    },
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn sessions_come_to_be_and_end(steps in prop::collection::vec((0u8..12, any::<u16>()), 1..300)) {
        let mut ends = [(); 2].map(|()| End { sessions: Sessions::new(), attempts: Vec::new(), sent: 0 });
        let mut network: Vec<Packet> = Vec::new();
        let mut recorded: Vec<Packet> = Vec::new();
        let (mut now, mut next) = (1u64, 1u64);
        // What index the other end has in the session that an end calls `index`, and when that began.
        let mut other = std::collections::HashMap::<u64, u64>::new();
        let mut born = std::collections::HashMap::<u64, u64>::new();

        fn deliver(
            packet: Packet, now: u64, next: &mut u64, ends: &mut [End; 2], network: &mut Vec<Packet>,
            other: &mut std::collections::HashMap<u64, u64>, born: &mut std::collections::HashMap<u64, u64>,
        ) {
            match packet {
                Packet::First { from, handshake } => {
                    let to = &mut ends[1 - from];
                    let answer = *next;
                    *next += 1;
                    other.insert(answer, handshake);
                    born.insert(answer, now);
                    to.sessions.answered(now, answer, (answer, false));
                    network.push(Packet::Second { from: 1 - from, handshake, answer });
                }
                Packet::Second { from, handshake, answer } => {
                    let to = &mut ends[1 - from];
                    // An attempt is answered once, and only the last one is waited for.
                    if to.attempts.last() == Some(&handshake) {
                        to.attempts.clear();
                        other.insert(handshake, answer);
                        born.insert(handshake, now);
                        to.sessions.finished(now, handshake, (handshake, true));
                    }
                }
                Packet::Data { from, index } => {
                    let to = &mut ends[1 - from];
                    if to.sessions.receiving(index, now).is_some() {
                        to.sessions.confirmed(index);
                    }
                }
            }
        }
        fn attempt(end: usize, now: u64, next: &mut u64, ends: &mut [End; 2], network: &mut Vec<Packet>, urgent: bool) {
            let this = &mut ends[end];
            let sent = this.sent;
            if this.sessions.begin(now, urgent, |_| sent) {
                this.attempts.push(*next);
                network.push(Packet::First { from: end, handshake: *next });
                *next += 1;
            }
        }

        for (step, value) in steps {
            let (end, value) = (usize::from(value & 1), u64::from(value >> 1));
            match step {
                0..=2 => attempt(end, now, &mut next, &mut ends, &mut network, step == 2),
                3..=5 => {
                    let sent = ends[end].sent;
                    if let Some((index, _)) = ends[end].sessions.sending(now, |_| sent).copied() {
                        prop_assert!(now - born[&index] < REJECT_AFTER_US);
                        network.push(Packet::Data { from: end, index: other[&index] });
                    }
                }
                6..=8 if !network.is_empty() => {
                    let at = value as usize % network.len();
                    let packet = network.swap_remove(at);
                    recorded.push(packet.clone());
                    deliver(packet, now, &mut next, &mut ends, &mut network, &mut other, &mut born);
                }
                9 if !network.is_empty() => {
                    let at = value as usize % network.len();
                    network.swap_remove(at);
                }
                10 if !recorded.is_empty() => {
                    let packet = recorded[value as usize % recorded.len()].clone();
                    deliver(packet, now, &mut next, &mut ends, &mut network, &mut other, &mut born);
                }
                _ => {
                    now += value * 4000;
                    ends.iter_mut().for_each(|end| { end.sessions.expire(now); });
                }
            }
        }
        // The network works again: within some attempts both can send, and each understands the other.
        network.clear();
        for _ in 0..4 {
            now += RETRY_US;
            for end in 0..2 {
                attempt(end, now, &mut next, &mut ends, &mut network, true);
            }
            for _ in 0..3 {
                for packet in std::mem::take(&mut network) {
                    deliver(packet, now, &mut next, &mut ends, &mut network, &mut other, &mut born);
                }
                for (from, end) in ends.iter().enumerate() {
                    if let Some((index, _)) = end.sessions.sending(now, |_| 0).copied() {
                        network.push(Packet::Data { from, index: other[&index] });
                    }
                }
            }
        }
        for end in 0..2 {
            let (index, _) = *ends[end].sessions.sending(now, |_| 0).expect("a session to send in");
            prop_assert!(ends[1 - end].sessions.receiving(other[&index], now).is_some(), "the other end does not know it");
        }
    }
}

#[test]
fn a_recorded_first_message_begins_nothing() {
    let mut sessions = Sessions::new();
    sessions.finished(1, 1, "real");
    for replay in 2..20 {
        sessions.answered(10, replay, "recorded");
    }
    assert_eq!(sessions.sending(20, |_| 0), Some(&"real"));
    assert!(sessions.receiving(1, 20).is_some());
}

#[test]
fn both_ends_may_renew_twice_before_an_old_session_is_over() {
    let mut sessions = Sessions::new();
    for index in 1..=3 {
        sessions.finished(index, index, index);
    }
    assert_eq!(sessions.sending(10, |_| 0), Some(&3));
    assert!((1..=3).all(|index| sessions.receiving(index, 10) == Some(&index)));
    sessions.finished(4, 4, 4);
    assert_eq!(sessions.receiving(1, 10), None);
}

#[test]
fn sessions_of_a_peer_that_was_before_are_over() {
    let mut sessions = Sessions::new();
    sessions.finished(1, 1, "before");
    sessions.finished(2, 2, "after");
    sessions.answered(3, 3, "before");
    sessions.answered(3, 4, "after");
    sessions.finished(5, 5, "after");
    sessions.keep(|epoch| *epoch == "after");
    for (index, there) in [(1, false), (2, true), (3, false), (4, true), (5, true)] {
        assert_eq!(sessions.receiving(index, 10).is_some(), there, "{index}");
    }
}

#[test]
fn sessions_are_renewed_and_end_by_time_and_by_use() {
    let mut sessions = Sessions::new();
    assert!(sessions.begin(1, false, |_: &()| 0));
    assert!(!sessions.begin(2, true, |_| 0), "an attempt takes its time");
    sessions.finished(10, 1, ());
    assert!(!sessions.begin(RETRY_US * 3, false, |_| REKEY_AFTER_MESSAGES - 1));
    assert!(sessions.begin(RETRY_US * 3, false, |_| REKEY_AFTER_MESSAGES));
    assert!(sessions.begin(10 + REKEY_AFTER_US, false, |_| 0));
    assert!(sessions.sending(9 + REJECT_AFTER_US, |_| 0).is_some());
    assert!(sessions
        .sending(9 + REJECT_AFTER_US, |_| REJECT_AFTER_MESSAGES)
        .is_none());
    assert!(sessions.sending(10 + REJECT_AFTER_US, |_| 0).is_none());
    assert!(sessions.receiving(1, 10 + REJECT_AFTER_US).is_none());
    assert!(sessions.receiving(1, 10).is_some());
    sessions.expire(10 + REJECT_AFTER_US);
    assert!(
        sessions.receiving(1, 10).is_none(),
        "it is not there any more"
    );
    assert!(sessions.begin(10 + REJECT_AFTER_US, false, |_| 0));
}
