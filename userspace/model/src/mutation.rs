// SPDX-License-Identifier: GPL-2.0

//! Planted bugs: a model that finds none of them proves nothing.
//!
//! Each is a way in which the code around the protocol (the glue in the kernel, or the protocol's own rules as seen
//! from outside) could be wrong. [`crate::world::World`] commits the bug; `directory.rs` and `copy.rs` stay as they are.

/// A bug for the checks to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Predecessor: a page index is sent where a byte offset is expected, so that page 0 is meant every time.
    UnitsMixed,
    /// Predecessor: an invalidation is sent and nobody waits for the acknowledgement.
    InvalidateNotAwaited,
    /// An invalidation is acknowledged, but the copy is not dropped.
    AcknowledgedNotDropped,
    /// Predecessor: the page counts as modified as soon as ownership has been asked for, granted or not.
    ModifiedWithoutGrant,
    /// Predecessor: a remote whose request timed out takes what it has as a read copy.
    TimeoutTakenAsShared,
    /// A holder that did not answer in time counts as having acknowledged.
    TimeoutTakenAsAck,
    /// Predecessor: a write at the origin neither fetches the page nor invalidates the copies.
    HomeWritesUnasked,
    /// Predecessor: the origin serves its own page although a remote has a newer one.
    ServesOwnStalePage,
    /// Predecessor: a page leaves the page cache, its state stays.
    EvictionKeepsState,
    /// A dirty page is dropped by reclaim.
    EvictionDropsDirty,
    /// A Put that comes a second time, or late, is installed again.
    OldPutInstalled,
    /// A grant counts although an invalidation has overtaken it.
    BarrierIgnored,
    /// A recall is answered "nothing held" while a Put is in flight.
    RecallAckedDuringPut,
    /// A recall drops a dirty page as if it had not been written.
    RecallDropsDirty,
    /// An upgrade is granted without data to one that is no longer a sharer, and it takes its old bytes.
    UpgradeWithoutData,
    /// An owner whose grant was lost gets a new one, with a new seq.
    RegrantWithFreshSeq,
    /// An owner whose grant was lost gets the page's bytes with the next one, from the origin's disk.
    RegrantWithData,
    /// A delayed duplicate of an owner's older Get ends its ownership.
    OldGetEndsOwnership,
    /// A write goes on while the page is being written back.
    WriteDuringPut,
    /// A page is asked for while its Put is in flight.
    AskDuringPut,
    /// After its Put was confirmed the remote goes on as owner.
    OwnerAfterPut,
    /// The origin forgets that a Put leaves a read copy behind.
    KeptCopyNotRecorded,
    /// An acknowledgement of an older round counts for the present one.
    AckOfAnyRound,
    /// A Put is confirmed before its bytes are in the page cache.
    ConfirmedBeforeInstalled,
    /// A Put that failed is taken when a duplicate of it arrives.
    FailedPutTakenLater,
    /// Messages of a session that has ended count in the next one.
    OldSessionAccepted,
    /// A granted page is not removed from the origin's page cache while the grant is on its way.
    HomeReadsAfterGrant,
    /// A page is taken back before the writer that it was granted to has got to it.
    ClaimsIgnored,
    /// The origin's own requester is woken, and the page granted to the next remote before it has looked.
    TurnsIgnored,
    /// A request that was lost is not sent again.
    NoRetransmission,
    /// An invalidation or a recall is not acknowledged, because the page is being cached again.
    AckLostWhenCachedAgain,
    /// A Put carries the seq of another grant than the page's.
    PutOfAnotherGrant,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 32] = [
        Mutation::UnitsMixed,
        Mutation::InvalidateNotAwaited,
        Mutation::AcknowledgedNotDropped,
        Mutation::ModifiedWithoutGrant,
        Mutation::TimeoutTakenAsShared,
        Mutation::TimeoutTakenAsAck,
        Mutation::HomeWritesUnasked,
        Mutation::ServesOwnStalePage,
        Mutation::EvictionKeepsState,
        Mutation::EvictionDropsDirty,
        Mutation::OldPutInstalled,
        Mutation::BarrierIgnored,
        Mutation::RecallAckedDuringPut,
        Mutation::RecallDropsDirty,
        Mutation::UpgradeWithoutData,
        Mutation::RegrantWithFreshSeq,
        Mutation::RegrantWithData,
        Mutation::OldGetEndsOwnership,
        Mutation::WriteDuringPut,
        Mutation::AskDuringPut,
        Mutation::OwnerAfterPut,
        Mutation::KeptCopyNotRecorded,
        Mutation::AckOfAnyRound,
        Mutation::ConfirmedBeforeInstalled,
        Mutation::FailedPutTakenLater,
        Mutation::OldSessionAccepted,
        Mutation::HomeReadsAfterGrant,
        Mutation::ClaimsIgnored,
        Mutation::TurnsIgnored,
        Mutation::NoRetransmission,
        Mutation::AckLostWhenCachedAgain,
        Mutation::PutOfAnotherGrant,
    ];
}
