// SPDX-License-Identifier: GPL-2.0

//! Channels over TCP on loopback, as they should be.

use std::{
    io::{Read, Write},
    thread,
    time::{Duration, Instant},
};

use crate::common::{inside, Pair};
use vremote_channel::{frame, message::MAX_MESSAGE, Channel, Error, JobId};

/// Both ends of a channel.
fn both(pair: &Pair) -> (Channel, Channel) {
    let there = Channel::connect(&pair.a, &pair.peer()).unwrap();
    (there, pair.listener.accept().unwrap().unwrap())
}

/// Bytes that are not the same anywhere.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let step = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((*state >> 24) as u8)
    };
    std::iter::repeat_n((), length)
        .scan(seed, |state, ()| step(state))
        .collect()
}

#[test]
fn messages_and_bytes_both_ways_at_once() {
    let pair = Pair::new();
    let (there, here) = both(&pair);
    assert_eq!(
        (there.peer.name.as_str(), here.peer.name.as_str()),
        ("b", "a")
    );
    let send = |mut writer: vremote_channel::Writer, seed| {
        move || {
            let bytes = noise(10_000_019, seed);
            writer.send(&("bytes follow", bytes.len())).unwrap();
            for piece in bytes.chunks(77_777) {
                writer.write_all(piece).unwrap();
            }
            writer.send(&"that was all").unwrap();
            writer.finish().unwrap();
        }
    };
    let receive = |mut reader: vremote_channel::Reader, seed| {
        move || {
            let (text, length): (String, usize) = reader.receive().unwrap().unwrap();
            assert_eq!(text, "bytes follow");
            let mut bytes = vec![0; length];
            reader.read_exact(&mut bytes).unwrap();
            assert!(bytes == noise(length, seed));
            assert_eq!(reader.receive::<String>().unwrap().unwrap(), "that was all");
            assert_eq!(reader.receive::<String>().unwrap(), None, "the end");
            assert_eq!(reader.read(&mut bytes).unwrap(), 0, "it stays the end");
        }
    };
    let (tx, rx, ty, ry) = (there.writer, here.reader, here.writer, there.reader);
    let threads = [
        thread::spawn(send(tx, 1)),
        thread::spawn(send(ty, 2)),
        thread::spawn(receive(rx, 1)),
        thread::spawn(receive(ry, 2)),
    ];
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn keys_are_replaced_on_the_way() {
    let pair = Pair::new();
    let (there, here) = both(&pair);
    let count = frame::REKEY_AFTER + frame::REKEY_AFTER / 4;
    let send = |mut writer: vremote_channel::Writer| {
        move || {
            for number in 0..count {
                writer.write_all(&number.to_le_bytes()).unwrap();
                writer.flush().unwrap();
            }
            writer.finish().unwrap();
        }
    };
    let receive = |mut reader: vremote_channel::Reader| {
        move || {
            let mut bytes = [0; 8];
            for number in 0..count {
                reader.read_exact(&mut bytes).unwrap();
                assert_eq!(u64::from_le_bytes(bytes), number);
            }
            assert!(!reader.more().unwrap());
        }
    };
    let threads = [
        thread::spawn(send(there.writer)),
        thread::spawn(send(here.writer)),
        thread::spawn(receive(there.reader)),
        thread::spawn(receive(here.reader)),
    ];
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn an_end_is_told_from_a_loss() {
    let pair = Pair::new();
    let (there, here) = both(&pair);
    let closing = thread::spawn(move || there.close());
    here.close().unwrap();
    closing.join().unwrap().unwrap();

    let (mut there, mut here) = both(&pair);
    there.writer.write_all(b"not").unwrap();
    there.writer.flush().unwrap();
    drop(there);
    let error = here.reader.read_exact(&mut [0; 10]).unwrap_err();
    assert!(matches!(inside(&error), Error::CutOff), "{error}");

    let (mut there, here) = both(&pair);
    there.writer.write_all(b"more").unwrap();
    there.writer.flush().unwrap();
    assert!(matches!(here.close(), Err(Error::NoEnd)));
}

#[test]
fn silence_has_a_limit_and_can_end() {
    let pair = Pair::new();
    let (mut there, mut here) = both(&pair);
    let limit = Duration::from_millis(100);
    here.reader.set_limit(Some(limit)).unwrap();
    let start = Instant::now();
    assert!(matches!(here.reader.receive::<u32>(), Err(Error::Silent(said)) if said == limit));
    assert!(start.elapsed() < Duration::from_secs(10));
    there.writer.send(&7u32).unwrap();
    here.reader.set_limit(None).unwrap();
    assert_eq!(here.reader.receive::<u32>().unwrap(), Some(7));
}

#[test]
fn a_channel_is_stopped_from_another_thread() {
    let pair = Pair::new();
    let (there, mut here) = both(&pair);
    here.reader.set_limit(None).unwrap();
    let stopper = here.stopper().unwrap();
    let reading = thread::spawn(move || here.reader.receive::<u32>());
    thread::sleep(Duration::from_millis(50));
    stopper.stop();
    assert!(matches!(reading.join().unwrap(), Err(Error::CutOff)));
    drop(there);
}

#[test]
fn what_is_no_message_is_refused() {
    let pair = Pair::new();
    let (mut there, mut here) = both(&pair);
    there.writer.write_all(&u32::MAX.to_be_bytes()).unwrap();
    there.writer.flush().unwrap();
    assert!(
        matches!(here.reader.receive::<Vec<u8>>(), Err(Error::TooLong { bytes, .. }) if bytes == u64::from(u32::MAX))
    );

    assert!(matches!(
        there.writer.send(&vec![0u8; MAX_MESSAGE]),
        Err(Error::TooLong { .. })
    ));
    let most = vec![1u8; MAX_MESSAGE - 4];
    let sent = most.clone();
    let sending = thread::spawn(move || there.writer.send(&sent).map(|()| there));
    assert!(
        here.reader.receive::<Vec<u8>>().unwrap().unwrap() == most,
        "nothing was sent of what is too long"
    );
    let mut there = sending.join().unwrap().unwrap();

    there.writer.send(&(1u8, 2u8)).unwrap();
    assert!(
        matches!(here.reader.receive::<u8>(), Err(Error::Malformed(_))),
        "a byte is left over"
    );
    there.writer.send(&()).unwrap();
    assert!(
        matches!(here.reader.receive::<u8>(), Err(Error::Malformed(_))),
        "a byte is missing"
    );
    there.writer.send(&()).unwrap();
    assert_eq!(here.reader.receive::<()>().unwrap(), Some(()));
}

#[test]
fn a_job_has_several_connections() {
    let pair = Pair::new();
    let (mut there, mut here) = both(&pair);
    let job = JobId::new();
    here.writer.send(&job).unwrap();
    let told: JobId = there.reader.receive().unwrap().unwrap();
    let (mut second, mut joins) = both(&pair);
    second.writer.send(&told).unwrap();
    assert!(joins.reader.receive::<JobId>().unwrap().unwrap() == job && job != JobId::new());
    assert_eq!(joins.peer, here.peer);
    assert!(
        !format!("{job:?}").contains(char::is_numeric),
        "a log does not tell it"
    );
}

#[test]
fn a_listener_ends() {
    let pair = Pair::new();
    let stopper = pair.listener.stopper().unwrap();
    let address = pair.peer();
    let accepting = thread::spawn(move || pair.listener.accept().is_none());
    thread::sleep(Duration::from_millis(50));
    stopper.stop();
    assert!(accepting.join().unwrap());
    let place = tempfile::tempdir().unwrap();
    let key = place.path().join("key");
    vremote_channel::Key::generate().create(&key).unwrap();
    let node = crate::common::node(place.path(), "a", "b", &key);
    assert!(matches!(
        Channel::connect(&node, &address),
        Err(Error::Unreachable { .. })
    ));
}
