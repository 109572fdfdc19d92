// SPDX-License-Identifier: GPL-2.0

//! The size of a file as a remote knows it.
//!
//! Every answer of the origin says a size, under a seq of the file's counter, which is taken first: of two answers the one with the larger
//! seq has looked later. Not so a `Grant`, whose seq is as old as its transaction: a local writer that the page was kept for may have made
//! the file longer since. So a grant with bytes says in addition that the file reaches to their end ([`Size::reaches`]), and that holds
//! while the page may be read here: whoever cuts those bytes off takes the page away first. Without that, an answer that had looked before
//! the writer would make the file shorter than a page that may be written here, and what is sent home of it would lack the writer's bytes.
//! A page that was asked back and is on its way home holds no longer: once the origin has it, the file may be cut before the confirmation
//! is here, and how many of its bytes are sent was decided when it was sent first.

use super::copy::Copy;

/// See the module's documentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    bytes: u64,
    /// Of the answer that this comes from; 0: none of this life of the file.
    seq: u64,
    /// A page, and the end of the bytes that it was granted with.
    reach: Option<(u64, u64)>,
}

impl Size {
    /// In bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file's id has ended, or it has a new one: seqs begin anew, and pages that were granted before count no more. The size stays until
    /// an answer says another.
    pub fn restart(&mut self) {
        self.seq = 0;
        self.reach = None;
    }

    /// An answer with decision `seq` of the origin says `bytes`. `unordered`: it counts without a seq as well. `copy`: what is held of a page.
    pub fn learn(&mut self, seq: u64, bytes: u64, unordered: bool, copy: impl FnOnce(u64) -> Copy) {
        if seq <= self.seq && !(seq == 0 && unordered) {
            return;
        }
        self.seq = self.seq.max(seq);
        self.reach = self.reach.filter(|(page, _)| copy(*page).may_read());
        self.bytes = self.reach.map_or(bytes, |(_, end)| bytes.max(end));
    }

    /// A page was granted with its bytes, which end here. `copy`: what is held of a page.
    pub fn reaches(&mut self, page: u64, end: u64, copy: impl FnOnce(u64) -> Copy) {
        let further = self
            .reach
            .filter(|&(old, old_end)| old != page && old_end > end && copy(old).may_read());
        self.reach = further.or(Some((page, end)));
        self.bytes = self.bytes.max(end);
    }
}
