// SPDX-License-Identifier: GPL-2.0

//! Planted bugs: a simulation that finds none of them proves nothing.
//!
//! Each is a way in which what is around the protocol's pure files could be wrong when something fails.
//!
//! One is not among them, because another precaution keeps it from doing harm: that a lease outlives the session in which it was granted.
//! In the next session it could matter only between a fence and its own end. That comes not later than `lease_ms` after the session has
//! begun, as no hello of the old one left later. A node that has been granted a lease in the new session is not fenced before that one is
//! over as well. One that has not is suspected only when a round has waited for it for `timeout_ms` (or when it has been silent for
//! `lease_ms`: then the old lease is over), and `Term::close` leaves it `DEAF_US` more. So it takes a lease longer than these two together,
//! which nobody has by default, and few runs have; that the first hello of a session is lost; and that the node is cut off before the next
//! one, a quarter of a second later, but has been granted a page by then. The model of leases (`userspace/model`), whose times are free,
//! has that bug and finds it.

/// A bug for the checks to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The lease counts from when the answer arrives, not from when the hello left.
    LeaseFromAnswer,
    /// A hello that is answered after the term was closed grants a lease all the same.
    GrantedWhileClosed,
    /// What was granted is taken back before the term is over.
    FencedWithoutMargin,
    /// A holder that does not answer in time counts as having acknowledged; nobody waits for its lease.
    SilenceTakenAsAck,
    /// A fence leaves the session as it is.
    FencedWithinSession,
    /// A peer that has started anew still has what it was granted before.
    RestartKeepsGrants,
    /// Messages of any epoch are taken.
    OldEpochTaken,
    /// Nobody looks at the lease before a read or a write returns.
    NotConfirmed,
    /// Replies to requests that must not run twice are forgotten within a session.
    RepliesForgotten,
    /// A request that must not run twice runs again when it comes again.
    RunsTwice,
    /// An open whose answer came too late is not taken back.
    LateOpenKept,
    /// A Put is confirmed before its bytes are in the page cache.
    ConfirmedBeforeInstalled,
    /// A Put carries the seq of another grant than the page's.
    PutOfAnotherGrant,
    /// A Put that is not answered in time is given up, and its bytes with it.
    PutGivenUp,
    /// A recall drops a dirty page as if it had not been written.
    RecallDropsDirty,
    /// What is lost when a session ends is dropped without a word.
    LossUnreported,
    /// An invalidation or recall of a page that is being asked for again is not acknowledged.
    AckNotWhenCachedAgain,
    /// Invalidations and recalls that wait are carried out in the next session.
    OldJobsKept,
    /// What was opened in a session that is over counts as opened in the present one.
    OpenedInOldSession,
    /// A descriptor of a session that is over works again when somebody else opens the file.
    DescriptorRevived,
    /// A dirty page is granted away in the middle of an fsync, and is on no disk when that returns.
    StolenDuringSync,
    /// The last version of a page is left in the stash when its owner, who had written nothing, has given it back for an fsync.
    StashLeft,
    /// fsync does not wait for the disk's cache.
    SyncWithoutFlush,
    /// An error of the origin's disk is told to whose bytes they were, and to nobody else.
    DiskErrorToldToOne,
    /// What a node knows of the errors of the origin's disk outlives the session, as long as a descriptor is open.
    ErrorsOfOldSession,
    /// The origin keeps nothing of a dirty page that it grants away.
    NothingIsStashed,
    /// The origin keeps nothing of a page that the disk has refused and that it grants away.
    RefusedIsNotStashed,
    /// Remotes are not held off while a file is truncated.
    TruncatedUnfrozen,
    /// A size counts whatever came before.
    SizeOfAnyAge,
    /// A page that was asked back holds up the size until it is known that it has arrived.
    SizeHeldUpOnTheWay,
    /// Pieces of two grants make one page.
    PiecesMixed,
    /// A request that was lost is not sent again.
    NothingIsSentAgain,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 32] = [
        Bug::LeaseFromAnswer,
        Bug::GrantedWhileClosed,
        Bug::FencedWithoutMargin,
        Bug::SilenceTakenAsAck,
        Bug::FencedWithinSession,
        Bug::RestartKeepsGrants,
        Bug::OldEpochTaken,
        Bug::NotConfirmed,
        Bug::RepliesForgotten,
        Bug::RunsTwice,
        Bug::LateOpenKept,
        Bug::ConfirmedBeforeInstalled,
        Bug::PutOfAnotherGrant,
        Bug::PutGivenUp,
        Bug::RecallDropsDirty,
        Bug::LossUnreported,
        Bug::AckNotWhenCachedAgain,
        Bug::OldJobsKept,
        Bug::OpenedInOldSession,
        Bug::DescriptorRevived,
        Bug::StolenDuringSync,
        Bug::StashLeft,
        Bug::SyncWithoutFlush,
        Bug::DiskErrorToldToOne,
        Bug::ErrorsOfOldSession,
        Bug::NothingIsStashed,
        Bug::RefusedIsNotStashed,
        Bug::TruncatedUnfrozen,
        Bug::SizeOfAnyAge,
        Bug::SizeHeldUpOnTheWay,
        Bug::PiecesMixed,
        Bug::NothingIsSentAgain,
    ];
}
