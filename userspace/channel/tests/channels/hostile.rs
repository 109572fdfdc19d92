// SPDX-License-Identifier: GPL-2.0

//! Channels over TCP on loopback, with somebody who means no good.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::common::{between, node, peer, rest, stranger, Meddling, Pair, Way, HERE};
use proptest::prelude::*;
use vremote_channel::{
    channel::HANDSHAKE_LIMIT,
    listener::{Refused, MAX_HANDSHAKES_OF_ONE},
    Channel, Error, Key, Listener,
};

/// A short conversation on a channel of each side. Errors of either side are returned.
fn ask(mut channel: Channel, limit: Duration) -> Result<(), Error> {
    channel.reader.set_limit(Some(limit))?;
    channel.writer.send(&41u32)?;
    let answer = channel.reader.receive::<u32>()?;
    channel.close()?;
    assert_eq!(answer, Some(42), "what arrives is what was sent");
    Ok(())
}

fn answer(mut channel: Channel, limit: Duration) -> Result<(), Error> {
    channel.reader.set_limit(Some(limit))?;
    let question = channel.reader.receive::<u32>()?;
    assert_eq!(question, Some(41), "what arrives is what was sent");
    channel.writer.send(&42u32)?;
    channel.close()
}

/// The conversation with somebody in between: what a sees, what b sees.
fn meddled(pair: &Pair, meddling: Meddling) -> (Result<(), Error>, Result<(), Error>, Vec<u8>) {
    // A length that has grown is waited for.
    let limit = match meddling {
        Meddling::Nothing => Duration::from_secs(20),
        _ => Duration::from_secs(1),
    };
    let (address, passed) = between(pair.listener.address(), meddling);
    let a = pair.a.clone();
    let asking = thread::spawn(move || {
        Channel::connect(&a, &peer("b", address)).and_then(|channel| ask(channel, limit))
    });
    let here = pair
        .listener
        .accept()
        .unwrap()
        .and_then(|channel| answer(channel, limit));
    let there = asking.join().unwrap();
    let passed = passed.lock().unwrap().clone();
    (there, here, passed)
}

#[test]
fn another_key_is_refused() {
    let pair = Pair::new();
    let key = pair.place.path().join("another");
    Key::generate().create(&key).unwrap();
    let other = node(&pair.place.path().join("other"), "a", "b", &key);
    assert!(matches!(
        Channel::connect(&other, &pair.peer()),
        Err(Error::Refused { .. })
    ));
    assert!(matches!(
        pair.listener.accept().unwrap(),
        Err(Error::Unproven { .. })
    ));
}

#[test]
fn other_names_are_refused() {
    let pair = Pair::new();
    let key = pair.place.path().join("key");
    let other = pair.place.path().join("other");
    for (own, called) in [("x", "b"), ("a", "x"), ("b", "a"), ("", "ab"), ("ab", "")] {
        let called_so = if called.is_empty() { "none" } else { called };
        let node = node(&other, &format!("{own}-{called_so}"), called_so, &key);
        // The same directories under the name in question.
        let base = other.join(format!("{own}-{called_so}"));
        drop(node);
        let node = vremote_channel::Node::new(own.into(), base.join("peers"), base.join("keys"));
        let connected = Channel::connect(&node, &peer(called_so, pair.listener.address()));
        assert!(
            matches!(connected, Err(Error::Refused { .. })),
            "{own} -> {called}"
        );
        assert!(matches!(
            pair.listener.accept().unwrap(),
            Err(Error::Unproven { .. })
        ));
    }
}

#[test]
fn without_a_key_there_is_no_channel() {
    let pair = Pair::new();
    fs::remove_file(pair.place.path().join("b/keys/a")).unwrap();
    assert!(matches!(
        Channel::connect(&pair.a, &pair.peer()),
        Err(Error::Refused { .. })
    ));
    assert!(matches!(
        pair.listener.accept().unwrap(),
        Err(Error::Key { .. })
    ));
    fs::remove_file(pair.place.path().join("a/keys/b")).unwrap();
    let error = Channel::connect(&pair.a, &pair.peer()).unwrap_err();
    assert!(error.fix().unwrap().contains("vremote keygen"), "{error}");
}

#[test]
fn a_removed_peer_is_a_stranger() {
    let pair = Pair::new();
    Channel::connect(&pair.a, &pair.peer()).unwrap();
    fs::remove_dir_all(pair.place.path().join("b/peers/a")).unwrap();
    thread::sleep(Duration::from_millis(300));
    assert!(matches!(
        Channel::connect(&pair.a, &pair.peer()),
        Err(Error::Refused { .. })
    ));
    assert_eq!(
        pair.listener.refused(),
        Refused {
            strangers: 1,
            ..Refused::default()
        }
    );
}

#[test]
fn a_node_does_not_talk_to_itself() {
    let pair = Pair::new();
    // a listens, too, and knows b at the address from which its own handshake comes back.
    let reflected = Listener::bind(pair.a.clone(), SocketAddrV4::new(HERE, 0)).unwrap();
    let connected = Channel::connect(&pair.a, &peer("b", reflected.address()));
    assert!(matches!(connected, Err(Error::Refused { .. })));
    assert!(matches!(
        reflected.accept().unwrap(),
        Err(Error::Unproven { .. })
    ));

    // The answer is the question.
    let echo = std::net::TcpListener::bind((HERE, 0)).unwrap();
    let std::net::SocketAddr::V4(address) = echo.local_addr().unwrap() else {
        unreachable!()
    };
    thread::spawn(move || {
        let (mut stream, _) = echo.accept().unwrap();
        let mut message = [0; 48];
        std::io::Read::read_exact(&mut stream, &mut message).unwrap();
        stream.write_all(&message).unwrap();
        rest(&stream);
    });
    assert!(matches!(
        Channel::connect(&pair.a, &peer("b", address)),
        Err(Error::Unproven { .. })
    ));
}

#[test]
fn a_repeated_conversation_gives_nothing() {
    let pair = Pair::new();
    let (there, here, passed) = meddled(&pair, Meddling::Nothing);
    there.unwrap();
    here.unwrap();
    assert!(passed.len() > 48 + 18);
    let mut again = stranger(HERE, pair.listener.address());
    again.write_all(&passed).unwrap();
    assert!(
        matches!(pair.listener.accept().unwrap(), Err(Error::Unproven { .. })),
        "no channel comes of it"
    );
    assert_eq!(
        rest(&again).len(),
        48,
        "the answer is of no use without the private key"
    );
}

#[test]
fn every_flipped_byte_is_noticed() {
    let pair = Pair::new();
    let (there, here, passed) = meddled(&pair, Meddling::Nothing);
    there.unwrap();
    here.unwrap();
    // Both say one message of the same length, but for the first frame.
    for (way, length) in [(Way::There, passed.len()), (Way::Back, passed.len() - 18)] {
        for place in 0..length {
            let (there, here, _) = meddled(&pair, Meddling::Flip(way, place, (place % 8) as u8));
            let noticed = if way == Way::There {
                here.is_err()
            } else {
                there.is_err()
            };
            assert!(noticed, "{way:?} {place}");
            // Faster than a peer may come.
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn every_cut_is_noticed() {
    let pair = Pair::new();
    let (there, here, passed) = meddled(&pair, Meddling::Nothing);
    there.unwrap();
    here.unwrap();
    for (way, length) in [(Way::There, passed.len()), (Way::Back, passed.len() - 18)] {
        for place in 0..length {
            let (there, here, _) = meddled(&pair, Meddling::Cut(way, place));
            let noticed = if way == Way::There {
                here.is_err()
            } else {
                there.is_err()
            };
            assert!(noticed, "{way:?} {place}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn slow_handshakes_end_and_keep_nobody_out() {
    let pair = Pair::new();
    let start = Instant::now();
    let slow: Vec<_> = (1..MAX_HANDSHAKES_OF_ONE)
        .map(|_| stranger(HERE, pair.listener.address()))
        .collect();
    let dripping: Vec<_> = slow
        .iter()
        .map(|stream| stream.try_clone().unwrap())
        .collect();
    let drip = thread::spawn(move || {
        // 40 of 48 bytes, each well within any limit for one byte.
        for _ in 0..40 {
            for stream in &dripping {
                let _ = (&mut &*stream as &mut dyn Write).write(&[0]);
            }
            thread::sleep(HANDSHAKE_LIMIT / 20);
        }
    });
    Channel::connect(&pair.a, &pair.peer()).unwrap();
    pair.listener.accept().unwrap().unwrap();
    assert!(
        start.elapsed() < HANDSHAKE_LIMIT,
        "a good one does not wait for them"
    );
    for stream in &slow {
        assert!(rest(stream).is_empty(), "nothing is answered");
        assert!(matches!(
            pair.listener.accept().unwrap(),
            Err(Error::Slow { .. })
        ));
    }
    assert!(
        start.elapsed() < HANDSHAKE_LIMIT + Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    drip.join().unwrap();
}

#[test]
fn one_address_does_not_take_all_places() {
    let pair = Pair::new();
    let idle: Vec<_> = (0..MAX_HANDSHAKES_OF_ONE)
        .map(|_| stranger(HERE, pair.listener.address()))
        .collect();
    assert!(rest(&stranger(HERE, pair.listener.address())).is_empty());
    assert_eq!(
        pair.listener.refused(),
        Refused {
            limited: 1,
            ..Refused::default()
        }
    );
    drop(idle);
    for _ in 0..MAX_HANDSHAKES_OF_ONE {
        assert!(matches!(
            pair.listener.accept().unwrap(),
            Err(Error::CutOff)
        ));
    }
    Channel::connect(&pair.a, &pair.peer()).unwrap();
    pair.listener.accept().unwrap().unwrap();
}

#[test]
fn strangers_get_nothing_and_hinder_nobody() {
    let pair = Pair::new();
    let address = pair.listener.address();
    let strangers: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                for _ in 0..100 {
                    let mut stream = stranger(Ipv4Addr::new(127, 0, 0, 2), address);
                    let _ = stream.write_all(&[0; 48]);
                    assert!(rest(&stream).is_empty());
                }
            })
        })
        .collect();
    // Each within the limits that a channel has anyway.
    for _ in 0..20 {
        Channel::connect(&pair.a, &pair.peer()).unwrap();
        pair.listener.accept().unwrap().unwrap();
    }
    for stranger in strangers {
        stranger.join().unwrap();
    }
    assert_eq!(
        pair.listener.refused(),
        Refused {
            strangers: 400,
            ..Refused::default()
        }
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever comes from a peer's address: no channel, no bytes back, and the next one is served.
    #[test]
    fn random_bytes_give_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let pair = Pair::new();
        let mut stream: TcpStream = stranger(HERE, pair.listener.address());
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        prop_assert!(rest(&stream).is_empty());
        prop_assert!(pair.listener.accept().unwrap().is_err());
        Channel::connect(&pair.a, &pair.peer()).unwrap();
        prop_assert!(pair.listener.accept().unwrap().is_ok());
    }
}
