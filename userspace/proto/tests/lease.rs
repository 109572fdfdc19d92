// SPDX-License-Identifier: GPL-2.0

//! Terms: closed, reopened, revoked. What leases and terms give together is the model's business.

use vremote_proto::lease::{overdue_rounds, Term};
use vremote_proto::limits::{
    DEAF_US, LEASE_US, MAX_LEASE_US, OVERDUE_ROUNDS, OVERDUE_US, RTO_MAX_US, UNHEARD_US,
};

#[test]
fn an_answer_reopens_a_term_that_was_closed() {
    let mut term = Term::default();
    assert_eq!(term.grant(0, 800), 800);
    assert_eq!(term.close(100, 10), 900);
    assert_eq!((term.grant(100, 800), term.left(100)), (0, Some(800)));
    term.reopen();
    assert_eq!((term.is_closed(), term.left(100)), (false, None));
    assert_eq!(term.grant(200, 800), 800);
    assert!(!term.over(5_000));
}

#[test]
fn no_answer_reopens_a_term_that_was_revoked() {
    let mut term = Term::default();
    term.grant(0, 800);
    // Without grace: nothing that could come would change it.
    assert_eq!(term.revoke(880), 900);
    for now in [880, 890, 899] {
        term.reopen();
        assert!(term.is_revoked() && term.is_closed() && !term.over(now));
        assert_eq!(term.grant(now, 800), 0);
    }
    term.reopen();
    assert!(term.over(900));
}

#[test]
fn a_term_that_was_closed_can_still_be_revoked() {
    let mut term = Term::default();
    term.grant(0, 800);
    assert_eq!(term.close(880, 200), 1_080);
    assert_eq!(term.revoke(890), 1_080);
    term.reopen();
    assert!(!term.over(1_079) && term.over(1_080));
}

/// The node had stood still, or its receive thread: the answer waits in the socket.
#[test]
fn a_term_does_not_end_before_what_has_arrived_was_looked_at() {
    let mut term = Term::default();
    term.grant(0, 800_000);
    term.close(800_000, 100_000);
    assert!(!term.ends(899_999, false) && term.ends(900_000, false));
    term.reopen();
    term.close(1_000_000, 100_000);
    let over = 60_000_000;
    assert!(term.over(over) && !term.ends(over, true));
    assert!(!term.ends(over + UNHEARD_US - 1, true));
    // It was there.
    let mut heard = term;
    heard.reopen();
    assert!(!heard.ends(over + UNHEARD_US, false));
    // It was not; or somebody keeps the socket full.
    assert!(term.ends(over + UNHEARD_US - 1, false));
    assert!(term.ends(over + UNHEARD_US, true));
}

#[test]
fn who_was_granted_nothing_has_nothing_to_wait_for() {
    let mut term = Term::default();
    term.revoke(50);
    assert!(term.over(50));
}

#[test]
fn a_page_is_overdue_after_a_minute_and_after_every_silence_that_a_lease_outlasts() {
    assert_eq!(overdue_rounds(5_000_000, LEASE_US), 12);
    assert_eq!(overdue_rounds(7_000_000, LEASE_US), 9);
    assert_eq!(overdue_rounds(OVERDUE_US, LEASE_US), OVERDUE_ROUNDS);
    assert_eq!(overdue_rounds(u64::MAX, LEASE_US), OVERDUE_ROUNDS);
    assert_eq!(overdue_rounds(0, u64::MAX), u16::MAX);
    for timeout in (1..120).map(|seconds| seconds * 1_000_000) {
        for lease in [DEAF_US, LEASE_US, 20_000_000, MAX_LEASE_US] {
            let rounds = u64::from(overdue_rounds(timeout, lease));
            assert!(rounds * timeout >= OVERDUE_US, "{timeout} {lease}");
            // The longest silence that is not one too long, and a second until the question is asked again that is answered then.
            let silence = timeout + (lease + lease / 8).max(DEAF_US) + RTO_MAX_US;
            assert!(rounds > silence / timeout, "{timeout} {lease}");
        }
    }
}
