// SPDX-License-Identifier: GPL-2.0

//! A file's size at a remote: the newest answer counts, but never makes the file shorter than a page that is held.

use proptest::prelude::*;
use vremote_proto::{
    copy::{Copy, State},
    size::Size,
};

fn held(_: u64) -> Copy {
    Copy::of(State::Modified, 1)
}

fn gone(_: u64) -> Copy {
    Copy::INVALID
}

/// Written home, and a copy to read stays: before it is cut off, the origin asks for that copy.
fn stays(_: u64) -> Copy {
    Copy::of(State::WritingBack { keep: true }, 1)
}

/// Asked back by the origin, and not known to have arrived there.
fn on_its_way(_: u64) -> Copy {
    Copy::of(State::WritingBack { keep: false }, 1)
}

#[test]
fn the_answer_that_has_looked_last_counts() {
    let mut size = Size::default();
    size.learn(5, 100, false, gone);
    assert_eq!(size.bytes(), 100);
    size.learn(4, 200, false, gone);
    size.learn(5, 300, false, gone);
    assert_eq!(size.bytes(), 100);
    size.learn(6, 50, false, gone);
    assert_eq!(size.bytes(), 50);
}

#[test]
fn without_a_seq_an_answer_counts_only_where_nothing_is_ordered() {
    let mut size = Size::default();
    size.learn(5, 100, false, gone);
    size.learn(0, 7, false, gone);
    assert_eq!(size.bytes(), 100);
    size.learn(0, 7, true, gone);
    assert_eq!(size.bytes(), 7);
    // It is no decision of the origin: older ones stay older.
    size.learn(5, 100, false, gone);
    assert_eq!(size.bytes(), 7);
}

#[test]
fn a_page_that_is_held_keeps_its_bytes() {
    let mut size = Size::default();
    // A local writer at the origin has made the file 200 bytes long, and the page was granted after that, under seq 9. An answer with seq
    // 10, which had looked before, comes last.
    size.reaches(0, 200, gone);
    size.learn(9, 200, false, held);
    size.learn(10, 100, false, held);
    assert_eq!(size.bytes(), 200);
    // Now somebody has cut the file: for that the page was taken away.
    size.learn(11, 100, false, gone);
    assert_eq!(size.bytes(), 100);
    // And it does not come back.
    size.learn(12, 90, false, held);
    assert_eq!(size.bytes(), 90);
}

#[test]
fn a_page_on_its_way_home_keeps_nothing() {
    let mut size = Size::default();
    size.reaches(0, 200, gone);
    size.learn(9, 200, false, stays);
    assert_eq!(size.bytes(), 200);
    size.learn(10, 100, false, stays);
    assert_eq!(size.bytes(), 200);
    // The origin has asked for the page because the file is cut; that the page has arrived is confirmed after this answer.
    size.learn(11, 100, false, on_its_way);
    assert_eq!(size.bytes(), 100);
}

#[test]
fn the_furthest_page_that_is_held_counts() {
    let mut size = Size::default();
    size.reaches(3, 4 * 4096, gone);
    size.reaches(0, 4096, held);
    size.learn(10, 0, false, held);
    assert_eq!(size.bytes(), 4 * 4096);
    // Granted again when the file was shorter.
    size.reaches(3, 3 * 4096 + 5, held);
    size.learn(11, 0, false, held);
    assert_eq!(size.bytes(), 3 * 4096 + 5);
    // The further one has gone.
    size.reaches(1, 2 * 4096, gone);
    size.learn(12, 0, false, held);
    assert_eq!(size.bytes(), 2 * 4096);
}

#[test]
fn a_new_id_counts_anew() {
    let mut size = Size::default();
    size.reaches(0, 200, gone);
    size.learn(9, 200, false, held);
    size.restart();
    assert_eq!(size.bytes(), 200);
    size.learn(1, 100, false, held);
    assert_eq!(size.bytes(), 100);
}

/// A file at the origin, whose counter rises, and what a remote is told of it.
#[derive(Clone, Debug)]
enum Step {
    /// A program appends so many bytes.
    Append(u64),
    /// Somebody cuts the file to this part of it, in 256ths; the page, if held, is taken away first.
    Cut(u8),
    /// The page is asked for: the seq is taken.
    Ask,
    /// The page, if held, is asked back, and its bytes leave for the origin, which takes them before anything else.
    Recall,
    /// That they have arrived is confirmed.
    Confirm,
    /// … and granted.
    Grant,
    /// An answer is written.
    Answer,
    /// The n-th of those that are under way arrives.
    Arrive(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..200u64).prop_map(Step::Append),
        any::<u8>().prop_map(Step::Cut),
        Just(Step::Ask),
        Just(Step::Recall),
        Just(Step::Confirm),
        Just(Step::Grant),
        Just(Step::Answer),
        (0..4usize).prop_map(Step::Arrive),
    ]
}

proptest! {
    /// Whoever holds the last page knows all of the bytes that it was granted with; and the answer that looked last is right.
    #[test]
    fn no_answer_hides_bytes_of_a_page_that_is_held(steps in prop::collection::vec(step(), 1..200)) {
        let (mut file, mut next) = (100u64, 1u64);
        let mut asked = None;
        let mut granted = 0;
        let mut copy = Copy::INVALID;
        let mut answers: Vec<(u64, u64)> = Vec::new();
        let mut size = Size::default();
        for step in steps {
            match step {
                // An append to a page that is held takes it away.
                Step::Append(bytes) => {
                    recall(&mut copy);
                    file = (file + bytes).min(4096);
                }
                Step::Cut(part) => {
                    recall(&mut copy);
                    asked = None;
                    file = file * u64::from(part) / 256;
                }
                Step::Ask => {
                    asked.get_or_insert(next);
                    next += 1;
                }
                Step::Recall => recall(&mut copy),
                Step::Confirm => copy.put_done(),
                Step::Grant => {
                    // While a `Put` is in flight nobody asks.
                    if let Some(seq) = asked.take().filter(|_| copy.held().is_some()) {
                        size.reaches(0, file, |_| copy);
                        granted = file;
                        copy = Copy::of(State::Modified, seq);
                        size.learn(seq, file, false, |_| copy);
                    }
                }
                Step::Answer => {
                    answers.push((next, file));
                    next += 1;
                }
                Step::Arrive(at) => {
                    if at < answers.len() {
                        let (seq, bytes) = answers.remove(at);
                        size.learn(seq, bytes, false, |_| copy);
                    }
                }
            }
            if copy.may_read() {
                prop_assert!(size.bytes() >= granted);
            }
            // As of now.
            let mut present = size;
            present.learn(next, file, false, |_| copy);
            prop_assert_eq!(present.bytes(), file);
        }
    }
}

/// The page is asked back, and was written.
fn recall(copy: &mut Copy) {
    let _ = copy.recall(None, u64::MAX >> 4, false, true);
}
