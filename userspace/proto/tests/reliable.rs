// SPDX-License-Identifier: GPL-2.0

//! Round-trip times, retransmission, duplicate suppression.

use proptest::prelude::*;
use vremote_proto::limits::*;
use vremote_proto::reliable::*;

#[test]
fn time_out_follows_the_round_trip() {
    let mut rtt = RttEstimator::new();
    assert_eq!((rtt.srtt_us(), rtt.rto_us()), (None, RTO_INITIAL_US));
    // RFC 6298: the first measurement counts fully, with half of it as variation.
    rtt.sample(40_000, false);
    assert_eq!((rtt.srtt_us(), rtt.rto_us()), (Some(40_000), 120_000));
    for _ in 0..100 {
        rtt.sample(40_000, false);
    }
    assert_eq!(rtt.srtt_us(), Some(40_000));
    assert!(rtt.rto_us() < 45_000);
    // One slow answer raises it by four times its deviation.
    rtt.sample(80_000, false);
    assert!((80_000..90_000).contains(&rtt.rto_us()), "{}", rtt.rto_us());
}

#[test]
fn a_retransmitted_exchange_is_no_measurement() {
    let mut rtt = RttEstimator::new();
    rtt.sample(900_000, true);
    assert_eq!(rtt, RttEstimator::new());
    let mut retry = Retry::new(0, 20_000, None);
    assert_eq!(retry.rtt_us(5_000), Some(5_000));
    assert_eq!(retry.on_tick(20_000), Tick::Resend);
    assert_eq!(retry.rtt_us(21_000), None);
}

#[test]
fn second_answers_lengthen_the_time_out_and_measurements_shorten_it() {
    let mut rtt = RttEstimator::new();
    rtt.sample(1_000, false);
    let before = rtt.rto_us();
    for times in 1..=3 {
        rtt.answered_twice();
        assert_eq!(rtt.rto_us(), before * 5_u64.pow(times) / 4_u64.pow(times));
    }
    for _ in 0..1000 {
        rtt.answered_twice();
    }
    assert_eq!(rtt.rto_us(), 100_000);
    let mut samples = 0;
    while rtt.rto_us() > RTO_MIN_US {
        rtt.sample(1_000, false);
        samples += 1;
    }
    assert!((200..400).contains(&samples), "{samples}");
    // A network that repeats one datagram in a hundred does not lengthen it in the long run.
    for _ in 0..100 {
        rtt.answered_twice();
        (0..100).for_each(|_| rtt.sample(1_000, false));
    }
    assert!(rtt.rto_us() < 2 * RTO_MIN_US, "{}", rtt.rto_us());
}

#[test]
fn retransmission_backs_off_and_gives_up() {
    let mut retry = Retry::new(1_000, 50_000, Some(5_000_000));
    assert_eq!(retry.on_tick(1_000), Tick::Wait(51_000));
    assert_eq!(retry.on_tick(51_000), Tick::Resend);
    assert_eq!(retry.on_tick(51_000), Tick::Wait(151_000));
    assert_eq!(retry.on_tick(151_000), Tick::Resend);
    let mut now = 160_000;
    assert_eq!(retry.on_tick(now), Tick::Wait(351_000));
    // Late by far: once, not once for each time-out that went by.
    now += 1_190_999;
    assert_eq!(retry.on_tick(now), Tick::Resend);
    assert_eq!(retry.resends(), 3);
    loop {
        match retry.on_tick(now) {
            Tick::Wait(until) => now = until,
            Tick::Resend => {}
            Tick::Expired => break,
        }
    }
    assert_eq!(now, 5_000_000);
}

/// All nodes of a test are on one machine, and that may not be run for longer than any time-out.
#[test]
fn who_stood_still_does_not_blame_the_peer() {
    for stood in [STOOD_STILL_US, 4_900_000, 6_000_000, 60_000_000] {
        let mut retry = Retry::new(0, 50_000, Some(CALL_TIMEOUT_US));
        let mut now = 50_000 + stood;
        let (woke, mut tries) = (now, 0);
        loop {
            match retry.on_tick(now) {
                Tick::Wait(until) => now = until,
                Tick::Resend => tries += 1,
                Tick::Expired => break,
            }
        }
        assert_eq!(now, CALL_TIMEOUT_US.max(woke + RTO_MAX_US), "{stood}");
        assert!(tries >= 3, "{stood}: {tries}");
    }
}

/// A timer that is always late does not make it go on for ever, but what changes nothing is not counted.
#[test]
fn standing_still_counts_once() {
    let mut retry = Retry::new(0, 50_000, Some(CALL_TIMEOUT_US));
    assert_eq!(retry.on_tick(2_000_000), Tick::Resend);
    assert_eq!(retry.on_tick(10_000_000), Tick::Resend);
    assert_eq!(retry.on_tick(20_000_000), Tick::Expired);
}

#[test]
fn a_wait_ends_in_time_or_a_second_after_standing_still() {
    let mut deadline = Deadline::new(5_000_000);
    assert_eq!(deadline.left(1_000_000), Some(4_000_000));
    assert_eq!(deadline.left(4_999_999), Some(1));
    let mut late = deadline;
    assert_eq!(deadline.left(5_000_000), None);
    assert_eq!(late.left(6_000_000), Some(RTO_MAX_US));
    assert_eq!(late.left(7_000_000), None);
    assert_eq!(late.left(9_000_000), None);
}

#[test]
fn progress_puts_the_next_retransmission_off() {
    let mut retry = Retry::new(0, 50_000, None);
    retry.progress(49_000, 1);
    assert_eq!(retry.on_tick(50_000), Tick::Wait(99_000));
    assert_eq!(retry.on_tick(99_000), Tick::Resend);
}

#[test]
fn a_request_waits_for_its_turn() {
    let mut retry = Retry::new(0, 50_000, None);
    // The peer answers older ones: again and again, and this one is not sent again.
    for now in (0..1_000_000).step_by(40_000) {
        retry.in_turn(now);
        assert!(matches!(retry.on_tick(now + 10_000), Tick::Wait(_)));
    }
    // It has stopped: this one may be lost after all.
    assert_eq!(retry.on_tick(1_010_000), Tick::Resend);
    // What was long ago changes nothing.
    retry.in_turn(0);
    assert_eq!(retry.on_tick(1_010_000), Tick::Wait(1_110_000));
}

#[test]
fn what_was_overtaken_is_asked_for_after_a_round_trip() {
    let mut retry = Retry::new(0, 50_000, Some(CALL_TIMEOUT_US));
    retry.progress(10_000, CALL_TIMEOUT_US);
    assert_eq!(retry.overtaken(10_000, 2_000), 12_000);
    // Some of it was only late.
    retry.progress(11_000, CALL_TIMEOUT_US);
    assert_eq!(retry.on_tick(12_000), Tick::Wait(13_000));
    assert_eq!(retry.on_tick(13_000), Tick::Resend);
    // Then as ever: the network is not asked faster and faster.
    assert_eq!(retry.on_tick(13_000), Tick::Wait(63_000));
    retry.progress(20_000, CALL_TIMEOUT_US);
    assert_eq!(retry.on_tick(20_000), Tick::Wait(70_000));
    assert_eq!(retry.on_tick(70_000), Tick::Resend);
    assert_eq!(retry.on_tick(70_000), Tick::Wait(170_000));
    // What was overtaken may be the first of two.
    assert_eq!(retry.overtaken(71_000, 2_000), 170_000);
    // A round trip longer than the time-out changes nothing.
    let mut retry = Retry::new(0, 50_000, None);
    assert_eq!(retry.overtaken(10_000, 90_000), 50_000);
    assert_eq!(retry.on_tick(50_000), Tick::Resend);
    assert_eq!(retry.on_tick(50_000), Tick::Wait(150_000));
}

#[test]
fn only_silence_ends_a_request() {
    let patience = CALL_TIMEOUT_US;
    let mut retry = Retry::new(0, 50_000, Some(patience));
    retry.progress(patience - 1, patience);
    let expired = |retry: &mut Retry, now| retry.on_tick(now) == Tick::Expired;
    for now in (patience..2 * patience - 1).step_by(100_000) {
        assert!(!expired(&mut retry, now), "{now}");
    }
    assert!(expired(&mut retry, 2 * patience - 1));
}

#[test]
fn work_ends_too() {
    let patience = CALL_TIMEOUT_US;
    let mut retry = Retry::new(0, 50_000, Some(patience));
    for now in (0..WORK_LIMIT_US).step_by(1_000_000) {
        retry.progress(now, patience);
        assert_ne!(retry.on_tick(now), Tick::Expired);
    }
    assert_eq!(retry.on_tick(WORK_LIMIT_US), Tick::Expired);
}

#[test]
fn what_outlives_its_deadline_is_sent_again() {
    let mut retry = Retry::new(0, 50_000, Some(60_000));
    retry.outlive();
    assert_eq!(retry.on_tick(70_000), Tick::Resend);
    assert_ne!(retry.on_tick(u64::MAX / 2), Tick::Expired);
}

proptest! {
    #[test]
    fn time_out_keeps_its_bounds(samples in prop::collection::vec(any::<u64>(), 1..50)) {
        let mut rtt = RttEstimator::new();
        for sample in samples {
            rtt.sample(sample, false);
            prop_assert!((RTO_MIN_US..=RTO_MAX_US).contains(&rtt.rto_us()));
        }
    }

    /// Whatever round trips were measured, a request is sent often enough before its deadline that loss does not end it.
    #[test]
    fn a_deadline_has_room_for_many_tries(rto: u64, limit in 1_000_000..60_000_000_u64) {
        let (start, mut now, mut tries) = (7, 7, 0);
        let mut retry = Retry::new(start, rto, Some(start + limit));
        loop {
            match retry.on_tick(now) {
                Tick::Wait(until) => now = until,
                Tick::Resend => tries += 1,
                Tick::Expired => break,
            }
        }
        prop_assert!(tries >= 11, "{tries}");
    }

    #[test]
    fn a_timer_always_has_a_next_time(
        now: u64,
        rto: u64,
        deadline: Option<u64>,
        ticks in prop::collection::vec(any::<u64>(), 0..50),
    ) {
        let mut retry = Retry::new(now, rto, deadline);
        for now in ticks {
            match retry.on_tick(now) {
                Tick::Wait(until) => prop_assert!(until > now),
                Tick::Resend => {}
                Tick::Expired => prop_assert!(deadline.is_some_and(|deadline| now >= deadline)),
            }
        }
    }

    /// Whatever order a network makes of rising ids, nothing runs twice, and what is repeated soon gets its reply.
    #[test]
    fn nothing_runs_twice(arrivals in prop::collection::vec(0..2_000_u64, 1..3_000), window in 1..300_u64) {
        let mut cache = ReplyCache::new();
        let mut replies = vec![0; MAX_REPLIES];
        let mut ran = std::collections::HashSet::new();
        for (time, jump) in arrivals.into_iter().enumerate() {
            let request = (time as u64 + 1).saturating_sub(jump % window) + 1;
            match cache.begin(request) {
                Begin::New(slot) => {
                    prop_assert!(ran.insert(request));
                    replies[slot] = request;
                    prop_assert!(cache.done(slot, request));
                }
                Begin::Done(slot) => prop_assert_eq!(replies[slot], request),
                Begin::Running => prop_assert!(false, "all are done"),
                Begin::TooOld => prop_assert!(request + (MAX_REPLIES as u64) < time as u64 + 2 + window),
            }
        }
    }
}

#[test]
fn a_reply_is_repeated_until_it_is_old() {
    let mut cache = ReplyCache::new();
    assert_eq!(cache.begin(10), Begin::New(0));
    assert_eq!(cache.begin(10), Begin::Running);
    assert!(cache.done(0, 10));
    assert_eq!(cache.begin(10), Begin::Done(0));
    for request in 11..10 + MAX_REPLIES as u64 {
        let Begin::New(slot) = cache.begin(request) else {
            panic!("{request} is new")
        };
        assert!(cache.done(slot, request));
    }
    assert_eq!(cache.begin(10), Begin::Done(0));
    // The oldest one gives way; from now on it must not run again.
    assert_eq!(cache.begin(1_000), Begin::New(0));
    assert_eq!(cache.begin(10), Begin::TooOld);
    assert_eq!(cache.begin(9), Begin::TooOld);
    assert_eq!(cache.begin(11), Begin::Done(1));
}

#[test]
fn what_runs_does_not_give_way() {
    let mut cache = ReplyCache::new();
    for request in 1..=MAX_REPLIES as u64 {
        assert!(matches!(cache.begin(request), Begin::New(_)));
    }
    assert_eq!(cache.begin(1_000), Begin::Running);
    assert!(!cache.done(7, 1_000), "it is another one's");
    assert!(cache.done(7, 8));
    assert_eq!(cache.begin(1_000), Begin::New(7));
    assert_eq!(cache.begin(8), Begin::TooOld);
}

#[test]
fn what_could_not_run_is_new_again() {
    let mut cache = ReplyCache::new();
    let Begin::New(slot) = cache.begin(5) else {
        panic!("new")
    };
    cache.cancel(slot, 4);
    assert_eq!(cache.begin(5), Begin::Running);
    cache.cancel(slot, 5);
    assert_eq!(cache.begin(5), Begin::New(slot));
}

proptest! {
    /// A client that keeps to its window never has a request refused, however unlucky that request is.
    #[test]
    fn the_window_keeps_replies_that_are_waited_for(
        steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), 0..8_u64), 1..4_000),
    ) {
        let mut window = OnceWindow::new();
        let mut cache = ReplyCache::new();
        let mut waiting: Vec<(u64, u64)> = Vec::new();
        let mut last = 1_000;
        for (begin, which, disorder) in steps {
            if begin {
                let Some(number) = window.begin() else { continue };
                last += 1;
                // Ids of requests that begin together come in any order.
                let id = (last - disorder) * 8 + disorder;
                waiting.push((number, id));
            } else if !waiting.is_empty() {
                // Mostly the young ones are lucky.
                let at = waiting.len() - 1 - which.index(waiting.len().min(4));
                let (number, id) = waiting[at];
                let slot = match cache.begin(id) {
                    Begin::New(slot) => slot,
                    other => return Err(TestCaseError::fail(format!("{id} is {other:?}"))),
                };
                prop_assert!(cache.done(slot, id));
                prop_assert_eq!(cache.begin(id), Begin::Done(slot));
                waiting.remove(at);
                window.end(number);
            }
            prop_assert!(waiting.len() <= MAX_ONCE);
        }
    }
}

#[test]
fn the_window_waits_for_the_oldest() {
    let mut window = OnceWindow::new();
    for number in 0..MAX_ONCE as u64 {
        assert_eq!(window.begin(), Some(number));
    }
    assert_eq!(window.begin(), None);
    window.end(5);
    assert_eq!(window.begin(), None);
    window.end(0);
    assert_eq!(window.begin(), Some(MAX_ONCE as u64));
    assert_eq!(window.begin(), None);
    // Neither a second time nor one that never was.
    window.end(0);
    window.end(u64::MAX);
    assert_eq!(window.begin(), None);
    for number in 0..=MAX_ONCE as u64 {
        window.end(number);
    }
    assert_eq!(window.begin(), Some(MAX_ONCE as u64 + 1));
}
