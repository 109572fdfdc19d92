// SPDX-License-Identifier: GPL-2.0

//! One page at its origin, rule by rule. What all rules together give is the model's business.

use vremote_proto::directory::{self, status, Action, Event, Page, Phase, Requester, Tx, Want};
use vremote_proto::limits::MAX_WAITERS;
use vremote_proto::nodes::{Node, NodeSet};

const A: Node = 3;
const B: Node = 200;

/// errno: what a full disk says.
const ENOSPC: u16 = 28;

#[derive(Default)]
struct Origin {
    page: Page,
    tx: Option<Tx>,
    next_seq: u64,
}

impl Origin {
    fn step(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        directory::step(
            &mut self.page,
            &mut self.tx,
            &mut self.next_seq,
            event,
            &mut |action| actions.push(action),
        );
        actions
    }

    fn get(&mut self, node: Node, request: u64, want: Want) -> Vec<Action> {
        self.step(Event::Request(Requester::Remote {
            node,
            request,
            want,
            held: 0,
            have: false,
        }))
    }

    fn local(&mut self, ticket: u64, want: Want) -> Vec<Action> {
        self.step(Event::Request(Requester::Local { ticket, want }))
    }

    /// Grants the page at once; returns the seq.
    fn give(&mut self, node: Node, request: u64, want: Want) -> u64 {
        let actions = self.get(node, request, want);
        let [Action::Grant { seq, .. }] = actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(self.step(Event::Granted), []);
        assert_eq!(self.tx, None);
        seq
    }

    fn home(&self) -> (bool, bool) {
        (
            directory::home_may_read(&self.page, &self.tx),
            directory::home_may_write(&self.page, &self.tx),
        )
    }
}

#[test]
fn a_reader_becomes_a_sharer_when_it_was_granted() {
    let mut origin = Origin::default();
    assert_eq!(origin.home(), (true, true));
    assert_eq!(
        origin.get(A, 1, Want::Read),
        [Action::Grant {
            node: A,
            request: 1,
            seq: 1,
            write: false,
            data: true
        }]
    );
    assert!(origin.page.is_free());
    assert_eq!(origin.home(), (true, false));
    assert_eq!(directory::granting(&origin.tx), Some((A, 1)));
    // The same request again is under way already.
    assert_eq!(origin.get(A, 1, Want::Read), []);
    assert_eq!(origin.step(Event::Granted), []);
    assert_eq!(origin.page.sharers, NodeSet::from(A));
    assert_eq!(origin.home(), (true, false));
    assert_eq!(directory::granting(&origin.tx), None);
}

#[test]
fn a_writer_waits_for_every_acknowledgement() {
    let mut origin = Origin::default();
    origin.give(A, 1, Want::Read);
    origin.give(B, 1, Want::Read);
    origin.give(7, 1, Want::Read);
    let others = [A, 7].into_iter().collect();
    assert_eq!(
        origin.get(B, 2, Want::Write),
        [Action::Invalidate { to: others, seq: 4 }]
    );
    assert_eq!(origin.step(Event::Acked { node: A, seq: 4 }), []);
    // Not of this round; not asked; twice.
    assert_eq!(origin.step(Event::Acked { node: 7, seq: 3 }), []);
    assert_eq!(origin.step(Event::Acked { node: B, seq: 4 }), []);
    assert_eq!(origin.step(Event::Acked { node: A, seq: 4 }), []);
    assert_eq!(origin.home(), (true, false));
    assert_eq!(
        origin.step(Event::Acked { node: 7, seq: 4 }),
        [Action::Grant {
            node: B,
            request: 2,
            seq: 5,
            write: true,
            data: true
        }]
    );
    assert_eq!(origin.home(), (false, false));
    origin.step(Event::Granted);
    assert_eq!(
        (origin.page.owner, origin.page.sharers, origin.page.seq),
        (Some(B), NodeSet::new(), 5)
    );
    assert_eq!(origin.home(), (false, false));
}

#[test]
fn an_upgrade_needs_no_data_while_its_copy_is_on_record() {
    let upgrade = Requester::Remote {
        node: A,
        request: 2,
        want: Want::Write,
        held: 1,
        have: true,
    };
    let mut origin = Origin::default();
    origin.give(A, 1, Want::Read);
    assert_eq!(
        origin.step(Event::Request(upgrade)),
        [Action::Grant {
            node: A,
            request: 2,
            seq: 2,
            write: true,
            data: false
        }]
    );
    // The other writer was first: the copy is gone, and so is the record.
    let mut origin = Origin::default();
    origin.give(A, 1, Want::Read);
    origin.get(B, 1, Want::Write);
    origin.step(Event::Request(upgrade));
    origin.step(Event::Acked { node: A, seq: 2 });
    assert_eq!(
        origin.step(Event::Granted),
        [Action::Recall {
            to: B,
            seq: 4,
            keep: false
        }]
    );
    assert_eq!(
        origin.step(Event::Acked { node: B, seq: 4 }),
        [Action::Grant {
            node: A,
            request: 2,
            seq: 5,
            write: true,
            data: true
        }]
    );
}

#[test]
fn a_put_answers_a_recall() {
    let mut origin = Origin::default();
    let seq = origin.give(A, 1, Want::Write);
    assert_eq!(
        origin.local(50, Want::Read),
        [Action::Recall {
            to: A,
            seq: 2,
            keep: true
        }]
    );
    assert_eq!(
        origin.step(Event::Put {
            node: A,
            request: 2,
            seq,
            keep: true
        }),
        [Action::Install {
            node: A,
            request: 2
        }]
    );
    // Until the bytes are in, the origin's page is neither old nor new.
    assert_eq!(origin.home(), (false, false));
    assert_eq!(
        origin.step(Event::Put {
            node: A,
            request: 2,
            seq,
            keep: true
        }),
        []
    );
    assert_eq!(
        origin.step(Event::Installed { status: 0 }),
        [
            Action::PutDone {
                node: A,
                request: 2,
                status: 0
            },
            Action::Wake {
                ticket: 50,
                status: 0
            }
        ]
    );
    assert_eq!(
        (origin.page.owner, origin.page.sharers),
        (None, NodeSet::from(A))
    );
    assert_eq!(origin.home(), (true, false));
    assert_eq!(origin.step(Event::Taken), []);
    assert_eq!(origin.tx, None);
    // Repeated, because its confirmation was lost.
    assert_eq!(
        origin.step(Event::Put {
            node: A,
            request: 2,
            seq,
            keep: true
        }),
        [Action::PutDone {
            node: A,
            request: 2,
            status: 0
        }]
    );
}

#[test]
fn a_put_that_keeps_a_copy_does_not_let_a_writer_in() {
    let mut origin = Origin::default();
    let seq = origin.give(A, 1, Want::Write);
    origin.get(B, 1, Want::Write);
    // It was on its way before the recall arrived.
    origin.step(Event::Put {
        node: A,
        request: 2,
        seq,
        keep: true,
    });
    assert_eq!(
        origin.step(Event::Installed { status: 0 }),
        [
            Action::PutDone {
                node: A,
                request: 2,
                status: 0
            },
            Action::Invalidate {
                to: A.into(),
                seq: 3
            }
        ]
    );
}

#[test]
fn an_unasked_put_is_taken() {
    let mut origin = Origin::default();
    let seq = origin.give(A, 1, Want::Write);
    assert_eq!(
        origin.step(Event::Put {
            node: A,
            request: 2,
            seq,
            keep: false
        }),
        [Action::Install {
            node: A,
            request: 2
        }]
    );
    assert_eq!(origin.get(B, 1, Want::Read), []);
    assert_eq!(
        origin.step(Event::Installed { status: 0 }),
        [
            Action::PutDone {
                node: A,
                request: 2,
                status: 0
            },
            Action::Grant {
                node: B,
                request: 1,
                seq: 2,
                write: false,
                data: true
            }
        ]
    );
    assert_eq!(origin.page.owner, None);
}

#[test]
fn a_put_under_another_grant_is_old() {
    let mut origin = Origin::default();
    let seq = origin.give(A, 1, Want::Write);
    let put = |node, seq| Event::Put {
        node,
        request: 9,
        seq,
        keep: false,
    };
    let ignored = |node| {
        [Action::PutDone {
            node,
            request: 9,
            status: 0,
        }]
    };
    assert_eq!(origin.step(put(A, seq + 1)), ignored(A));
    assert_eq!(origin.step(put(B, seq)), ignored(B));
    assert_eq!(origin.page.owner, Some(A));
}

#[test]
fn a_put_that_cannot_be_installed_leaves_the_bytes_with_the_owner() {
    let mut origin = Origin::default();
    let seq = origin.give(A, 1, Want::Write);
    origin.get(B, 1, Want::Read);
    let put = |request| Event::Put {
        node: A,
        request,
        seq,
        keep: false,
    };
    origin.step(put(2));
    assert_eq!(
        origin.step(Event::Installed { status: ENOSPC }),
        [
            Action::PutDone {
                node: A,
                request: 2,
                status: ENOSPC
            },
            Action::Refuse {
                node: B,
                request: 1,
                status: status::IO
            }
        ]
    );
    assert_eq!((origin.page.owner, origin.tx), (Some(A), None));
    // The same one, late: the owner may have written more since. A new one is another attempt.
    assert_eq!(
        origin.step(put(2)),
        [Action::PutDone {
            node: A,
            request: 2,
            status: status::IO
        }]
    );
    assert_eq!(
        origin.step(put(3)),
        [Action::Install {
            node: A,
            request: 3
        }]
    );
}

#[test]
fn a_lost_grant_is_given_again_under_its_seq() {
    let mut origin = Origin::default();
    let seq = origin.give(A, 5, Want::Write);
    let again = |request| {
        [Action::Grant {
            node: A,
            request,
            seq,
            write: true,
            // The origin has none to give: the grant may have arrived, and the page been written.
            data: false,
        }]
    };
    // The request itself, and a later one of somebody who has given up on it, though only to read.
    assert_eq!(origin.get(A, 5, Want::Write), again(5));
    assert_eq!(origin.step(Event::Granted), []);
    assert_eq!(origin.get(A, 8, Want::Read), again(8));
    assert_eq!(origin.step(Event::Granted), []);
    assert_eq!((origin.page.owner, origin.page.seq), (Some(A), seq));
    // Nobody waits for the first one any more.
    assert_eq!(origin.get(A, 5, Want::Write), []);
    assert_eq!(origin.tx, None);
}

#[test]
fn an_owner_that_asks_has_dropped_the_page() {
    let mut origin = Origin::default();
    let seq = origin.give(A, 5, Want::Write);
    let ask = |request| Requester::Remote {
        node: A,
        request,
        want: Want::Read,
        held: seq,
        have: false,
    };
    // Older than the grant, so not about it.
    assert_eq!(origin.step(Event::Request(ask(4))), []);
    assert_eq!(origin.page.owner, Some(A));
    assert_eq!(
        origin.step(Event::Request(ask(6))),
        [Action::Grant {
            node: A,
            request: 6,
            seq: seq + 1,
            write: false,
            data: true
        }]
    );
    assert_eq!(origin.page.owner, None);
}

#[test]
fn a_silent_holder_fails_the_requester_and_stays_on_record() {
    let mut origin = Origin::default();
    origin.give(A, 1, Want::Write);
    assert_eq!(
        origin.get(B, 1, Want::Write),
        [Action::Recall {
            to: A,
            seq: 2,
            keep: false
        }]
    );
    assert_eq!(origin.local(50, Want::Read), []);
    assert_eq!(origin.step(Event::Unreachable { seq: 1 }), []);
    assert_eq!(
        origin.step(Event::Unreachable { seq: 2 }),
        [
            Action::Refuse {
                node: B,
                request: 1,
                status: status::TIMED_OUT
            },
            Action::Recall {
                to: A,
                seq: 3,
                keep: true
            }
        ]
    );
    // Too late for the round before.
    assert_eq!(origin.step(Event::Acked { node: A, seq: 2 }), []);
    assert_eq!(
        origin.step(Event::Unreachable { seq: 3 }),
        [Action::Wake {
            ticket: 50,
            status: status::TIMED_OUT
        }]
    );
    assert_eq!((origin.page.owner, origin.tx), (Some(A), None));
    assert_eq!(origin.home(), (false, false));
}

impl Origin {
    /// The time of the open round is up for one that it asks: who is overdue after so many rounds.
    fn overdue(&mut self, node: Node, rounds: u16) -> Option<Node> {
        let seq = self.tx.map_or(0, |tx| tx.seq);
        directory::overdue(&mut self.page, &self.tx, seq, node)?.after(rounds)
    }

    /// The origin asks for the page, and none of those who hold it answers, the first of which is `node`.
    fn in_vain(&mut self, want: Want, node: Node) {
        self.local(1, want);
        let seq = self.tx.map_or(0, |tx| tx.seq);
        assert!(directory::overdue(&mut self.page, &self.tx, seq, node).is_some());
        self.step(Event::Unreachable { seq });
        assert_eq!(self.tx, None);
        assert_eq!(
            directory::overdue(&mut self.page, &self.tx, seq, node),
            None
        );
    }
}

#[test]
fn rounds_in_vain_are_counted_until_the_holder_gives_up_the_page() {
    let mut origin = Origin::default();
    origin.give(A, 1, Want::Write);
    for rounds in 1..=3 {
        origin.in_vain(Want::Write, A);
        assert_eq!(origin.page.overdue.after(rounds), Some(A));
        assert_eq!(origin.page.overdue.after(rounds + 1), None);
    }
    // It asks for the page again, and gets it: that helps nobody.
    origin.step(Event::Request(Requester::Remote {
        node: A,
        request: 2,
        want: Want::Write,
        held: origin.page.seq,
        have: false,
    }));
    origin.step(Event::Granted);
    assert_eq!(origin.page.overdue.after(3), Some(A));
    origin.local(2, Want::Write);
    let seq = origin.tx.map_or(0, |tx| tx.seq);
    origin.step(Event::Acked { node: A, seq });
    origin.step(Event::Taken);
    assert_eq!(
        origin.page,
        Page {
            overdue: Default::default(),
            ..origin.page
        }
    );
    // Anew.
    origin.give(A, 3, Want::Write);
    origin.in_vain(Want::Write, A);
    assert_eq!(origin.page.overdue.after(2), None);
    origin.step(Event::Gone { node: A });
    assert_eq!(origin.page.overdue, Default::default());
}

#[test]
fn a_round_that_is_asked_again_counts_each_time_that_its_time_is_up() {
    let mut origin = Origin::default();
    origin.give(A, 1, Want::Read);
    origin.give(B, 1, Want::Read);
    origin.local(1, Want::Write);
    for rounds in 1..=3 {
        // All were asked at the same time.
        assert_eq!(origin.overdue(A, rounds), Some(A));
        assert_eq!(origin.overdue(B, rounds + 1), None);
    }
    let seq = origin.tx.map_or(0, |tx| tx.seq);
    origin.step(Event::Acked { node: A, seq });
    // Now it is the turn of the other one.
    assert_eq!(origin.overdue(A, 1), None);
    assert_eq!(origin.overdue(B, 1), Some(B));
    assert_eq!(origin.overdue(B, 3), None);
    // Of another round.
    assert_eq!(
        directory::overdue(&mut origin.page, &origin.tx, seq + 1, B),
        None
    );
}

#[test]
fn who_lets_others_read_does_not_keep_them_from_writing_for_ever() {
    let mut origin = Origin::default();
    for turn in 0..5 {
        let seq = origin.give(A, 10 * turn + 1, Want::Write);
        origin.in_vain(Want::Read, A);
        origin.in_vain(Want::Write, A);
        // A reader comes, and is let in.
        origin.local(2, Want::Read);
        origin.step(Event::Put {
            node: A,
            request: 10 * turn + 2,
            seq,
            keep: true,
        });
        origin.step(Event::Installed { status: 0 });
        origin.step(Event::Taken);
        assert!(origin.page.sharers.contains(A));
        let rounds = turn as u16 + 1;
        assert_eq!(origin.page.overdue.after(rounds), Some(A));
        assert_eq!(origin.page.overdue.after(rounds + 1), None);
    }
    // Who only ever keeps readers waiting, and not for long, is never overdue.
    let mut origin = Origin::default();
    for turn in 0..5 {
        let seq = origin.give(B, 10 * turn + 1, Want::Write);
        origin.in_vain(Want::Read, B);
        origin.local(2, Want::Read);
        origin.step(Event::Put {
            node: B,
            request: 10 * turn + 2,
            seq,
            keep: true,
        });
        origin.step(Event::Installed { status: 0 });
        origin.step(Event::Taken);
        assert_eq!(origin.page.overdue.after(1), None);
    }
}

#[test]
fn a_put_that_is_not_installed_gives_nothing_up() {
    let mut origin = Origin::default();
    let seq = origin.give(A, 1, Want::Write);
    origin.in_vain(Want::Write, A);
    origin.local(2, Want::Write);
    origin.step(Event::Put {
        node: A,
        request: 2,
        seq,
        keep: false,
    });
    assert_eq!(origin.overdue(A, 1), None);
    origin.step(Event::Installed { status: ENOSPC });
    assert_eq!(origin.page.overdue.after(1), Some(A));
}

#[test]
fn one_of_several_holders_that_keep_a_page_is_overdue_in_the_end() {
    const C: Node = 90;
    // Whoever asks is not asked itself: what was noted of it must not hide who keeps it from the page.
    let mut origin = Origin::default();
    origin.give(A, 1, Want::Read);
    origin.in_vain(Want::Write, A);
    origin.give(B, 1, Want::Read);
    origin.give(C, 1, Want::Read);
    for request in 2..6 {
        origin.get(A, request, Want::Write);
        let seq = origin.tx.map_or(0, |tx| tx.seq);
        assert!(directory::overdue(&mut origin.page, &origin.tx, seq, C).is_some());
        origin.step(Event::Unreachable { seq });
    }
    assert_eq!(origin.page.overdue.after(4), Some(C));
    // With that one out of the way, it is the next one's turn.
    origin.step(Event::Gone { node: C });
    origin.in_vain(Want::Write, A);
    assert_eq!(origin.page.overdue.after(1), Some(A));
}

#[test]
fn a_grant_that_fails_grants_nothing() {
    let mut origin = Origin::default();
    origin.get(A, 1, Want::Write);
    assert_eq!(
        origin.step(Event::GrantFailed { status: 5 }),
        [Action::Refuse {
            node: A,
            request: 1,
            status: 5
        }]
    );
    assert!(origin.page.is_free() && origin.tx.is_none());
}

#[test]
fn who_is_gone_holds_and_gets_nothing() {
    // As owner.
    let mut origin = Origin::default();
    origin.give(A, 1, Want::Write);
    assert_eq!(
        origin.get(B, 1, Want::Write),
        [Action::Recall {
            to: A,
            seq: 2,
            keep: false
        }]
    );
    assert_eq!(
        origin.step(Event::Gone { node: A }),
        [Action::Grant {
            node: B,
            request: 1,
            seq: 3,
            write: true,
            data: true
        }]
    );
    // While its grant is being made, with another one waiting.
    assert_eq!(origin.get(A, 1, Want::Read), []);
    assert_eq!(origin.step(Event::Gone { node: B }), []);
    assert_eq!(directory::granting(&origin.tx), None);
    // Its next session begins with small ids.
    assert_eq!(origin.get(B, 1, Want::Read), []);
    assert_eq!(
        origin.step(Event::Granted),
        [Action::Grant {
            node: A,
            request: 1,
            seq: 4,
            write: false,
            data: true
        }]
    );
    assert_eq!(origin.page.owner, None);
    // In the queue.
    assert_eq!(origin.step(Event::Gone { node: B }), []);
    assert_eq!(origin.step(Event::Granted), []);
    assert_eq!((origin.page.sharers, origin.tx), (A.into(), None));
    // In a round.
    assert_eq!(
        origin.get(B, 2, Want::Write),
        [Action::Invalidate {
            to: A.into(),
            seq: 5
        }]
    );
    assert_eq!(
        origin.step(Event::Gone { node: A }),
        [Action::Grant {
            node: B,
            request: 2,
            seq: 6,
            write: true,
            data: true
        }]
    );
}

#[test]
fn bytes_that_arrived_before_their_sender_was_gone_are_kept() {
    let mut origin = Origin::default();
    let seq = origin.give(A, 1, Want::Write);
    origin.step(Event::Put {
        node: A,
        request: 2,
        seq,
        keep: true,
    });
    assert_eq!(origin.step(Event::Gone { node: A }), []);
    // Nobody writes here while they are being installed.
    assert_eq!(origin.home(), (false, false));
    assert_eq!(origin.local(50, Want::Write), []);
    assert_eq!(
        origin.step(Event::Installed { status: 0 }),
        [Action::Wake {
            ticket: 50,
            status: 0
        }]
    );
    assert_eq!(origin.home(), (true, true));
}

#[test]
fn a_node_waits_once_with_its_latest_request() {
    let mut origin = Origin::default();
    origin.give(A, 1, Want::Write);
    origin.local(50, Want::Read);
    for request in [4, 5, 3, 5] {
        assert_eq!(origin.get(B, request, Want::Read), []);
    }
    let queue = origin.tx.unwrap().queue;
    let expected = Requester::Remote {
        node: B,
        request: 5,
        want: Want::Read,
        held: 0,
        have: false,
    };
    assert_eq!(queue.iter().collect::<Vec<_>>(), [&expected]);
}

#[test]
fn one_too_many_is_dropped_or_told() {
    let mut origin = Origin::default();
    origin.give(A, 1, Want::Write);
    origin.get(B, 1, Want::Write);
    for node in 0..MAX_WAITERS as Node {
        assert_eq!(origin.get(10 + node, 1, Want::Read), []);
    }
    assert_eq!(origin.get(100, 1, Want::Read), []);
    assert_eq!(origin.tx.unwrap().queue.len(), MAX_WAITERS);
    assert_eq!(
        origin.local(50, Want::Read),
        [Action::Wake {
            ticket: 50,
            status: status::AGAIN
        }]
    );
}

#[test]
fn local_requesters_share_a_turn_that_remotes_wait_for() {
    let mut origin = Origin::default();
    let seq = origin.give(A, 1, Want::Write);
    origin.local(1, Want::Read);
    origin.get(B, 1, Want::Write);
    origin.local(2, Want::Read);
    origin.local(3, Want::Write);
    origin.step(Event::Put {
        node: A,
        request: 2,
        seq,
        keep: true,
    });
    assert_eq!(
        origin.step(Event::Installed { status: 0 }),
        [
            Action::PutDone {
                node: A,
                request: 2,
                status: 0
            },
            Action::Wake {
                ticket: 2,
                status: 0
            },
            Action::Wake {
                ticket: 1,
                status: 0
            },
        ]
    );
    // One more reader may join. The page is not granted away before all have looked.
    assert_eq!(
        origin.local(4, Want::Read),
        [Action::Wake {
            ticket: 4,
            status: 0
        }]
    );
    assert_eq!(origin.step(Event::Taken), []);
    assert_eq!(origin.home(), (true, false));
    assert_eq!(origin.step(Event::Taken), []);
    assert_eq!(
        origin.step(Event::Taken),
        [Action::Invalidate {
            to: A.into(),
            seq: 3
        }]
    );
}

#[test]
fn a_turn_that_nobody_takes_ends() {
    let waiting = || {
        let mut origin = Origin::default();
        assert_eq!(
            origin.local(1, Want::Write),
            [Action::Wake {
                ticket: 1,
                status: 0
            }]
        );
        assert_eq!(origin.tx.unwrap().phase, Phase::Turn);
        assert_eq!(origin.get(B, 1, Want::Read), []);
        origin
    };
    let granted = Action::Grant {
        node: B,
        request: 1,
        seq: 1,
        write: false,
        data: true,
    };
    // The remote has waited long enough to send again.
    assert_eq!(waiting().get(B, 1, Want::Read), [granted]);
    // A local writer finds a turn that only readers may share.
    let mut origin = Origin::default();
    origin.give(A, 1, Want::Read);
    assert_eq!(
        origin.local(1, Want::Read),
        [Action::Wake {
            ticket: 1,
            status: 0
        }]
    );
    assert_eq!(
        origin.local(2, Want::Write),
        [Action::Invalidate {
            to: A.into(),
            seq: 2
        }]
    );
}

#[test]
fn seqs_are_never_0() {
    let mut next = 0;
    assert_eq!([(); 3].map(|()| directory::take_seq(&mut next)), [1, 2, 3]);
}
