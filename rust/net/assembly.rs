// SPDX-License-Identifier: GPL-2.0

//! Messages of several datagrams, while not all of these have arrived.

use kernel::prelude::*;

use super::now_us;
use crate::{
    proto::{
        limits::{MAX_ASSEMBLIES, PEER_DOWN_US},
        reliable::Assembly,
        wire::{flags, Header},
    },
    stats::{self, Reason},
};

/// One message of which some fragments have arrived.
pub(super) struct Partial {
    /// The first fragment's header with offset 0: what all fragments have in common.
    pub(super) header: Header,
    state: Assembly,
    /// The payload; of no length before all of it is in its capacity.
    pub(super) bytes: KVVec<u8>,
    /// Bytes of it that have been put there.
    filled: usize,
    since: u64,
}

/// Messages in reassembly, oldest first.
pub(super) struct Assemblies {
    partial: KVec<Partial>,
}

impl Assemblies {
    /// None yet.
    pub(super) const fn new() -> Assemblies {
        Assemblies {
            partial: KVec::new(),
        }
    }

    /// Drops all.
    pub(super) fn clear(&mut self) {
        self.partial.clear();
    }

    /// Drops the oldest message, if it will never be complete. Says whether it did.
    pub(super) fn expire(&mut self, now: u64) -> bool {
        let old = self
            .partial
            .first()
            .is_some_and(|partial| now.saturating_sub(partial.since) > PEER_DOWN_US);
        old && self.partial.remove(0).is_ok()
    }

    /// Takes a fragment; gives the message if that completes it.
    pub(super) fn accept(
        &mut self,
        header: &Header,
        fragment: &[u8],
    ) -> Result<Option<Partial>, Reason> {
        let common = Header {
            offset: 0,
            flags: header.flags & !flags::RETRY,
            ..*header
        };
        let place = match self
            .partial
            .iter()
            .rposition(|partial| partial.header == common)
        {
            Some(place) => place,
            None => self.begin(common)?,
        };
        let partial = &mut self.partial[place];
        if let Some(range) = partial.state.accept(header) {
            let room = partial.bytes.spare_capacity_mut().get_mut(range);
            let room = room.ok_or(Reason::Field)?;
            if room.len() != fragment.len() {
                return Err(Reason::Field);
            }
            // SAFETY: There is room for as many bytes, in memory of ours; the fragment lies elsewhere.
            unsafe {
                core::ptr::copy_nonoverlapping(
                    fragment.as_ptr(),
                    room.as_mut_ptr().cast(),
                    fragment.len(),
                );
            }
            partial.filled += fragment.len();
        }
        if !partial.state.complete() {
            return Ok(None);
        }
        let Ok(mut whole) = self.partial.remove(place) else {
            return Ok(None);
        };
        if whole.filled != whole.state.length() {
            return Err(Reason::Field);
        }
        // SAFETY: Each fragment is taken once, and no two of them have a byte in common: so many bytes are all bytes from the first on,
        // and lie in the capacity, as `get_mut` has checked of each.
        unsafe { whole.bytes.inc_len(whole.filled) };
        Ok(Some(whole))
    }

    /// A new message, in place of the oldest one if there are too many.
    fn begin(&mut self, header: Header) -> Result<usize, Reason> {
        let state = Assembly::new(&header);
        let bytes =
            KVVec::with_capacity(state.length(), GFP_KERNEL).map_err(|_| Reason::NoMemory)?;
        if self.partial.len() >= MAX_ASSEMBLIES {
            stats::dropped(Reason::Incomplete);
            let _ = self.partial.remove(0);
        }
        let partial = Partial {
            header,
            state,
            bytes,
            filled: 0,
            since: now_us(),
        };
        self.partial
            .push(partial, GFP_KERNEL)
            .map_err(|_| Reason::NoMemory)?;
        Ok(self.partial.len() - 1)
    }
}
