// SPDX-License-Identifier: GPL-2.0

//! Several messages to one peer, handed to the socket in one go.

use kernel::{
    prelude::*,
    sync::{global_lock, Arc},
};

use super::peer::Peer;
use crate::proto::{
    limits::MAX_PAYLOAD,
    wire::{flags, Header, HEADER_BYTES},
};

/// Most bytes of one go: what fits an IPv4 datagram, with its headers, in one piece.
const BATCH_BYTES: usize = 64_000;

/// Most datagrams that the kernel cuts in one go (`UDP_MAX_SEGMENTS`).
const MAX_SEGMENTS: usize = 128;

/// Buffers that are kept for batches.
const BUFFERS: usize = 8;

global_lock! {
    // SAFETY: Initialised in `prepare`, before anything else.
    /// Buffers that no batch uses at the moment. Large ones are slow to get, and hard to when memory is short.
    unsafe(uninit) static POOL: SpinLock<[Option<KVVec<u8>>; BUFFERS]> = [const { None }; BUFFERS];
}

pub(super) fn prepare() {
    // SAFETY: Called once, at load.
    unsafe { POOL.init() };
}

/// Gets all buffers. Those for which there is no memory are done without.
pub(super) fn fill() {
    for place in 0..BUFFERS {
        let buffer = KVVec::with_capacity(BATCH_BYTES, GFP_KERNEL).ok();
        POOL.lock()[place] = buffer;
    }
}

/// Frees all buffers.
pub(super) fn drain() {
    for place in 0..BUFFERS {
        let buffer = POOL.lock()[place].take();
        drop(buffer);
    }
}

/// Messages to one peer that leave together: when 64,000 bytes are full, at [`Batch::flush`], and when the batch is dropped.
///
/// All datagrams of one go have the same length, but for the last one, which may be shorter: shorter ones are padded. The
/// first message sets the length, so pages travel with pages and short messages with short ones at no cost.
///
/// Process context, may sleep for memory, not for the network.
pub struct Batch {
    peer: Arc<Peer>,
    /// `None`: all buffers are in use; then each message leaves at once.
    buffer: Option<KVVec<u8>>,
    /// Length of a datagram.
    segment: usize,
    /// Bytes that the last datagram in the buffer lacks.
    lacking: usize,
    /// Datagrams in the buffer.
    count: usize,
}

impl Batch {
    /// An empty batch. Never fails at present; the caller should still pass an error on.
    pub fn new(peer: &Arc<Peer>) -> Result<Batch> {
        let buffer = POOL.lock().iter_mut().find_map(Option::take);
        Ok(Batch {
            peer: peer.clone(),
            buffer,
            segment: 0,
            lacking: 0,
            count: 0,
        })
    }

    /// Adds a message; the same header fields are filled in, and the same errors returned, as in [`Peer::send`].
    pub fn push(&mut self, header: &Header, payload: &[u8]) -> Result {
        if self.buffer.is_none() {
            return self.peer.send(header, payload);
        }
        if payload.len() > MAX_PAYLOAD {
            return Err(EINVAL);
        }
        if self.peer.is_gone() {
            return Err(ENOTCONN);
        }
        let mut header = self.peer.address_header(header)?;
        let fragment = self.peer.fragment_bytes();
        header.length = payload.len() as u32;
        header.fragment = fragment as u16;
        header.offset = 0;
        self.peer.counters.tx.of(header.kind).add(1);
        crate::trace::message(true, self.peer.name(), &header);
        if header.flags & flags::RETRY != 0 {
            self.peer.counters.retransmits.add(1);
        }
        let wanted = HEADER_BYTES + payload.len().min(fragment);
        if wanted > self.segment {
            self.flush();
        }
        if payload.is_empty() {
            self.append(&header, payload, wanted);
        }
        for piece in payload.chunks(fragment) {
            self.append(&header, piece, wanted);
            header.offset += fragment as u32;
        }
        Ok(())
    }

    /// Adds one datagram of at most `wanted` bytes.
    fn append(&mut self, header: &Header, piece: &[u8], wanted: usize) {
        let used = self.buffer.as_ref().map_or(0, |buffer| buffer.len());
        if used + self.lacking + HEADER_BYTES + piece.len() > BATCH_BYTES
            || self.count == MAX_SEGMENTS
        {
            self.flush();
        }
        if self.count == 0 {
            self.segment = wanted;
        }
        let Some(buffer) = &mut self.buffer else {
            return;
        };
        let lacking = self.lacking;
        // The capacity was checked above, so none of these allocates or fails.
        let complete = buffer.extend_with(lacking, 0, GFP_NOWAIT).is_ok()
            && buffer
                .extend_from_slice(&header.encode(), GFP_NOWAIT)
                .is_ok()
            && buffer.extend_from_slice(piece, GFP_NOWAIT).is_ok();
        debug_assert!(complete);
        self.lacking = self.segment - HEADER_BYTES - piece.len();
        self.count += 1;
    }

    /// Hands everything to the socket. What it does not take is lost: counted, and sent again by whoever waits for an answer.
    pub fn flush(&mut self) {
        let Some(buffer) = &mut self.buffer else {
            return;
        };
        if !buffer.is_empty() {
            self.peer.transmit_run(buffer, self.segment);
            buffer.clear();
        }
        self.segment = 0;
        self.lacking = 0;
        self.count = 0;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.flush();
        let Some(buffer) = self.buffer.take() else {
            return;
        };
        let mut pool = POOL.lock();
        if let Some(place) = pool.iter_mut().find(|place| place.is_none()) {
            *place = Some(buffer);
        }
    }
}
