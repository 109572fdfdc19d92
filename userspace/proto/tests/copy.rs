// SPDX-License-Identifier: GPL-2.0

//! One page at a remote, rule by rule, and the set of nodes.

use proptest::prelude::*;
use vremote_proto::copy::*;
use vremote_proto::limits::MAX_SEQ;
use vremote_proto::nodes::NodeSet;

const REQUEST: u64 = 9;

fn pending(barrier: u64) -> Pending {
    Pending {
        barrier,
        ..Pending::new(REQUEST, Want::Write)
    }
}

#[test]
fn only_what_was_asked_for_is_accepted() {
    let mut copy = Copy::default();
    assert_eq!(
        copy.grant(None, REQUEST, 5, true, true, false),
        GrantVerdict::Ignore
    );
    assert_eq!(
        copy.grant(Some(&pending(0)), REQUEST - 1, 5, true, true, false),
        GrantVerdict::Ignore
    );
    assert_eq!(copy, Copy::INVALID);
    assert_eq!(
        copy.grant(Some(&pending(0)), REQUEST, 5, true, true, false),
        GrantVerdict::Accept
    );
    assert_eq!(copy, Copy::of(State::Modified, 5));
    // Nothing that arrives now replaces what is written here.
    assert_eq!(
        copy.grant(Some(&pending(0)), REQUEST, 6, false, true, true),
        GrantVerdict::Ignore
    );
    assert_eq!(copy, Copy::of(State::Modified, 5));
}

#[test]
fn a_barrier_kills_the_grant_that_it_overtook() {
    for recall in [false, true] {
        let mut copy = Copy::default();
        let mut pending = pending(0);
        if recall {
            assert_eq!(
                copy.recall(Some(&mut pending), 6, true, false),
                RecallVerdict::Ack
            );
        } else {
            assert_eq!(
                copy.invalidate(Some(&mut pending), 6),
                InvalidateVerdict::Ack
            );
        }
        assert_eq!(
            copy.grant(Some(&pending), REQUEST, 5, false, true, false),
            GrantVerdict::Retry
        );
        assert_eq!(
            copy.grant(Some(&pending), REQUEST, 6, false, true, false),
            GrantVerdict::Retry
        );
        // An older one does not lower it.
        assert_eq!(
            copy.invalidate(Some(&mut pending), 2),
            InvalidateVerdict::Ack
        );
        assert_eq!(pending.barrier, 6);
        assert_eq!(
            copy.grant(Some(&pending), REQUEST, 7, false, true, false),
            GrantVerdict::Accept
        );
        assert_eq!(copy, Copy::of(State::Shared, 7));
    }
}

#[test]
fn an_upgrade_without_data_needs_the_copy() {
    let mut shared = Copy::of(State::Shared, 3);
    assert!(shared.have());
    assert_eq!(shared.held(), Some(0));
    assert_eq!(
        shared.grant(Some(&pending(0)), REQUEST, 4, true, false, true),
        GrantVerdict::Accept
    );
    assert_eq!(shared, Copy::of(State::Modified, 4));
    // The folio went, or the copy was invalidated and its folio is still about.
    let mut without_folio = Copy::of(State::Shared, 3);
    assert_eq!(
        without_folio.grant(Some(&pending(0)), REQUEST, 4, true, false, false),
        GrantVerdict::Retry
    );
    let mut invalid = Copy::default();
    assert_eq!(
        invalid.grant(Some(&pending(0)), REQUEST, 4, true, false, true),
        GrantVerdict::Retry
    );
    // The origin has it as the owner on record, since a grant whose data was lost; the next Get says that it gives that up.
    assert_eq!(invalid, Copy::of(State::Invalid, 4));
    assert_eq!(invalid.held(), Some(4));
    // A grant that an invalidation has overtaken is no ownership.
    let mut overtaken = Copy::default();
    assert_eq!(
        overtaken.grant(Some(&pending(4)), REQUEST, 4, true, false, false),
        GrantVerdict::Retry
    );
    assert_eq!(overtaken, Copy::INVALID);
}

#[test]
fn an_old_invalidation_drops_nothing() {
    let mut copy = Copy::of(State::Shared, 5);
    assert_eq!(copy.invalidate(None, 4), InvalidateVerdict::Ack);
    assert!(copy.may_read() && !copy.may_write());
    assert_eq!(copy.invalidate(None, 6), InvalidateVerdict::Drop);
    assert_eq!(copy, Copy::INVALID);
}

#[test]
fn an_invalidation_never_drops_what_is_written_here() {
    let mut copy = Copy::of(State::Modified, 5);
    assert_eq!(copy.invalidate(None, 6), InvalidateVerdict::Ack);
    assert_eq!(copy, Copy::of(State::Modified, 5));
}

#[test]
fn a_recall_is_answered_once_and_by_the_right_thing() {
    let recalled = |state, dirty| {
        let mut copy = Copy::of(state, 5);
        let verdict = copy.recall(None, 6, true, dirty);
        (verdict, copy.state)
    };
    let put = State::WritingBack { keep: true };
    assert_eq!(
        recalled(State::Invalid, false),
        (RecallVerdict::Ack, State::Invalid)
    );
    assert_eq!(
        recalled(State::Modified, true),
        (RecallVerdict::WriteBack { keep: true }, put)
    );
    assert_eq!(
        recalled(State::Modified, false),
        (RecallVerdict::Drop, State::Invalid)
    );
    // An upgrade is under way: after the acknowledgement the origin knows nothing of this copy.
    assert_eq!(
        recalled(State::Shared, false),
        (RecallVerdict::Drop, State::Invalid)
    );
    assert_eq!(recalled(put, false), (RecallVerdict::InFlight, put));
    // From before the grant.
    let mut copy = Copy::of(State::Modified, 5);
    assert_eq!(copy.recall(None, 4, false, true), RecallVerdict::Ack);
    assert_eq!(copy.state, State::Modified);
}

#[test]
fn nothing_is_written_or_asked_while_a_put_is_in_flight() {
    for keep in [false, true] {
        let mut copy = Copy::of(State::Modified, 5);
        assert!(copy.write_back(keep));
        assert!(!copy.write_back(keep));
        assert_eq!(
            (copy.may_read(), copy.may_write(), copy.held()),
            (keep, false, None)
        );
        copy.put_done();
        assert_eq!(
            copy,
            if keep {
                Copy::of(State::Shared, 5)
            } else {
                Copy::INVALID
            }
        );
    }
}

#[test]
fn a_refused_put_leaves_the_page_here() {
    let mut copy = Copy::of(State::Modified, 5);
    copy.write_back(true);
    copy.put_failed();
    assert_eq!(copy, Copy::of(State::Modified, 5));
}

#[test]
fn the_origin_may_invalidate_before_it_confirms() {
    let mut copy = Copy::of(State::Modified, 5);
    copy.write_back(true);
    assert_eq!(copy.invalidate(None, 7), InvalidateVerdict::Drop);
    assert_eq!((copy.may_read(), copy.held()), (false, None));
    copy.put_done();
    assert_eq!(copy, Copy::INVALID);
}

#[test]
fn a_lost_folio_is_given_up_by_the_next_get() {
    assert_eq!(Copy::of(State::Modified, 5).lost(), 5);
    assert_eq!(Copy::of(State::Shared, 5).lost(), 0);
    let mut copy = Copy::of(State::Modified, 5);
    copy.lost();
    assert_eq!(
        (copy.state, copy.held(), copy.have()),
        (State::Invalid, Some(5), false)
    );
}

proptest! {
    #[test]
    fn a_word_holds_it_all(state in 0..5_usize, seq in 0..=MAX_SEQ) {
        let keeps = |keep| State::WritingBack { keep };
        let state = [State::Invalid, State::Shared, State::Modified, keeps(false), keeps(true)][state];
        let copy = Copy::of(state, seq);
        prop_assert!(copy.word() < 1 << 63);
        prop_assert_eq!(Copy::from_word(copy.word()), copy);
        prop_assert_eq!(copy.word() == 0, copy == Copy::INVALID);
    }

    #[test]
    fn any_word_is_some_state(word: u64) {
        let copy = Copy::from_word(word);
        prop_assert!(copy.seq <= MAX_SEQ);
    }

    #[test]
    fn a_node_set_is_a_set(changes in prop::collection::vec((any::<u8>(), any::<bool>()), 0..600)) {
        let mut set = NodeSet::new();
        let mut model = std::collections::BTreeSet::new();
        for (node, insert) in changes {
            if insert {
                prop_assert_eq!(set.insert(node), model.insert(node));
            } else {
                prop_assert_eq!(set.without(node).contains(node), false);
                prop_assert_eq!(set.remove(node), model.remove(&node));
            }
            prop_assert_eq!(set.contains(node), insert);
        }
        prop_assert_eq!(set.len(), model.len());
        prop_assert_eq!(set.is_empty(), model.is_empty());
        prop_assert_eq!(set.first(), model.first().copied());
        prop_assert_eq!(format!("{set:?}"), format!("{model:?}"));
        prop_assert_eq!(set.iter().collect::<NodeSet>(), set);
        prop_assert_eq!(set.into_iter().collect::<Vec<_>>(), model.into_iter().collect::<Vec<_>>());
    }
}
