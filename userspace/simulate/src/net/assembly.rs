// SPDX-License-Identifier: GPL-2.0

//! Messages of several datagrams, while not all of these have arrived: `rust/net/assembly.rs`.

use vremote_proto::{
    limits::{MAX_ASSEMBLIES, PEER_DOWN_US},
    reliable::Assembly,
    wire::{flags, Header},
};

struct Partial {
    header: Header,
    state: Assembly,
    bytes: Vec<u8>,
    since: u64,
}

/// Messages in reassembly, oldest first.
#[derive(Default)]
pub struct Assemblies(Vec<Partial>);

impl Assemblies {
    /// Drops all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Drops those that will never be complete.
    pub fn expire(&mut self, now: u64) {
        self.0
            .retain(|partial| now.saturating_sub(partial.since) <= PEER_DOWN_US);
    }

    /// Takes a fragment; gives the message if that completes it.
    pub fn accept(
        &mut self,
        now: u64,
        header: &Header,
        fragment: &[u8],
    ) -> Option<(Header, Vec<u8>)> {
        let common = Header {
            offset: 0,
            flags: header.flags & !flags::RETRY,
            ..*header
        };
        let found = self.0.iter().rposition(|partial| partial.header == common);
        let place = found.unwrap_or_else(|| {
            if self.0.len() >= MAX_ASSEMBLIES {
                self.0.remove(0);
            }
            let state = Assembly::new(&common);
            self.0.push(Partial {
                header: common,
                bytes: vec![0; state.length()],
                state,
                since: now,
            });
            self.0.len() - 1
        });
        let partial = &mut self.0[place];
        if let Some(range) = partial.state.accept(header) {
            let room = partial.bytes.get_mut(range)?;
            if room.len() != fragment.len() {
                return None;
            }
            room.copy_from_slice(fragment);
        }
        if !partial.state.complete() {
            return None;
        }
        let done = self.0.remove(place);
        Some((done.header, done.bytes))
    }
}
