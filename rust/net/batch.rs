// SPDX-License-Identifier: GPL-2.0

//! Several messages to one peer, handed to the socket in one go.

use kernel::{
    bindings::kvec,
    prelude::*,
    sync::{global_lock, Arc},
};

use super::peer::{part, Peer};
use crate::folio::Folio;
use crate::proto::{
    limits::{FRAGMENT_BYTES, MAX_PAYLOAD, PAGE_BYTES},
    secure::TAG_BYTES,
    wire::{Header, DATAGRAM_BYTES, HEADER_BYTES},
};

/// Most bytes of one go: what fits an IPv4 datagram, with its headers, in one piece.
const BATCH_BYTES: usize = 64_000;

/// Most whole pages, in bytes, of which a message leaves in one go: 56 KiB.
pub const ONE_GO: usize = BATCH_BYTES / DATAGRAM_BYTES * FRAGMENT_BYTES / PAGE_BYTES * PAGE_BYTES;

const _: () = assert!(ONE_GO == 56 << 10);

/// Most datagrams that the kernel cuts in one go (`UDP_MAX_SEGMENTS`).
const MAX_SEGMENTS: usize = 128;

/// Parts of a datagram: the padding of the one before it, its header, its payload.
pub(super) const PARTS: usize = 3;

/// Stores that are kept for batches.
const STORES: usize = 8;

static PADDING: [u8; DATAGRAM_BYTES] = [0; DATAGRAM_BYTES];

/// Memory of a batch. No member ever grows beyond its first capacity.
struct Store {
    /// Headers, and the payloads that were copied.
    bytes: KVVec<u8>,
    /// What the socket is given. Each part lies in `bytes`, in one of `folios`, or in [`PADDING`].
    parts: KVVec<kvec>,
    /// Pages that are copied only when the batch leaves.
    folios: KVVec<Folio>,
    /// Where all of it is encrypted.
    sealed: KVVec<u8>,
}

// SAFETY: The pointers in `parts` belong to what is in the same store.
unsafe impl Send for Store {}

impl Store {
    fn new() -> Result<Store> {
        Ok(Store {
            bytes: KVVec::with_capacity(BATCH_BYTES, GFP_KERNEL)?,
            parts: KVVec::with_capacity(PARTS * MAX_SEGMENTS, GFP_KERNEL)?,
            folios: KVVec::with_capacity(MAX_SEGMENTS, GFP_KERNEL)?,
            sealed: KVVec::zeroed(BATCH_BYTES + TAG_BYTES, GFP_KERNEL)?,
        })
    }

    fn clear(&mut self) {
        self.parts.clear();
        self.bytes.clear();
        self.folios.clear();
    }

    /// Copies these bytes behind all others; they stay where they are until [`Store::clear`].
    fn keep(&mut self, bytes: &[u8]) -> kvec {
        let start = self.bytes.len();
        debug_assert!(self.bytes.capacity() - start >= bytes.len());
        // What has no room is left out: the datagram comes out short, and is dropped by who receives it.
        if self.bytes.capacity() - start >= bytes.len() {
            let _ = self.bytes.extend_from_slice(bytes, GFP_NOWAIT);
        }
        part(&self.bytes[start..])
    }

    fn add(&mut self, part: kvec) {
        if part.iov_len != 0 {
            let added = self.parts.push_within_capacity(part);
            debug_assert!(added.is_ok());
        }
    }
}

global_lock! {
    // SAFETY: Initialised in `prepare`, before anything else.
    /// Stores that no batch uses at the moment. They are slow to get, and hard to when memory is short.
    unsafe(uninit) static POOL: SpinLock<[Option<KBox<Store>>; STORES]> = [const { None }; STORES];
}

pub(super) fn prepare() {
    // SAFETY: Called once, at load.
    unsafe { POOL.init() };
}

/// Gets all stores. Those for which there is no memory are done without.
pub(super) fn fill() {
    for place in 0..STORES {
        let store = Store::new().and_then(|store| Ok(KBox::new(store, GFP_KERNEL)?));
        POOL.lock()[place] = store.ok();
    }
}

/// Frees all stores.
pub(super) fn drain() {
    for place in 0..STORES {
        let store = POOL.lock()[place].take();
        drop(store);
    }
}

/// Sends one message of several datagrams, with all its fields, at once. `false`: all stores are in use.
pub(super) fn send(peer: &Arc<Peer>, header: &Header, payload: &[u8]) -> bool {
    let mut batch = Batch::new(peer);
    // In place, as the payload outlives the batch.
    batch.add(header, payload, true);
    batch.store.is_some()
}

/// Payload of a message in a batch.
pub enum Payload<'a> {
    /// Copied at once.
    Bytes(&'a [u8]),
    /// So many bytes, at most a page, from the start of a folio. They are copied when the batch leaves: what is written to the
    /// folio until then may be sent, or half of it, and the protocol must see to it that nobody takes that for good.
    Page(Folio, usize),
}

/// Messages to one peer that leave together: when 64,000 bytes are full, at [`Batch::flush`], and when the batch is dropped.
///
/// All datagrams of one go have the same length, but for the last one, which may be shorter: shorter ones are padded. The
/// first message sets the length, so pages travel with pages and short messages with short ones at no cost.
///
/// Process context, may sleep for memory, not for the network.
pub struct Batch {
    peer: Arc<Peer>,
    /// `None`: all stores are in use; then each message leaves at once.
    store: Option<KBox<Store>>,
    /// Length of a datagram.
    segment: usize,
    /// Bytes that the last datagram in the store lacks.
    lacking: usize,
    /// Datagrams in the store.
    count: usize,
}

impl Batch {
    /// An empty batch.
    pub fn new(peer: &Arc<Peer>) -> Batch {
        let store = POOL.lock().iter_mut().find_map(Option::take);
        Batch {
            peer: peer.clone(),
            store,
            segment: 0,
            lacking: 0,
            count: 0,
        }
    }

    /// Adds a message; the same header fields are filled in, and the same errors returned, as in [`Peer::send`].
    pub fn push(&mut self, header: &Header, payload: Payload<'_>) -> Result {
        let (folio, bytes);
        let payload = match payload {
            Payload::Bytes(all) => {
                folio = None;
                all
            }
            Payload::Page(of, count) => {
                // SAFETY: Torn bytes are the caller's to live with, see `Payload::Page`. The folio outlives the slice: it goes into the
                // store along with it, or stays here until the message has left.
                bytes = unsafe { &*core::ptr::from_ref(of.bytes_in_place(count)) };
                folio = Some(of);
                bytes
            }
        };
        if self.store.is_none() {
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
        self.peer.count_sent(&header);
        let in_place = folio.is_some();
        let wanted = HEADER_BYTES + payload.len().min(fragment);
        let datagrams = payload.len().div_ceil(fragment.max(1)).max(1);
        if wanted > self.segment || !self.has_room_for(datagrams) {
            self.flush();
        }
        if let (Some(store), Some(folio)) = (&mut self.store, folio) {
            let _ = store.folios.push_within_capacity(folio);
        }
        self.add(&header, payload, in_place);
        Ok(())
    }

    /// Adds the datagrams of a message with all its fields. `in_place`: the payload stays valid as long as the store.
    fn add(&mut self, header: &Header, payload: &[u8], in_place: bool) {
        let mut header = *header;
        let fragment = usize::from(header.fragment).max(1);
        let wanted = HEADER_BYTES + payload.len().min(fragment);
        if payload.is_empty() {
            self.append(&header, payload, in_place, wanted);
        }
        for piece in payload.chunks(fragment) {
            self.append(&header, piece, in_place, wanted);
            header.offset += fragment as u32;
        }
    }

    fn has_room_for(&self, datagrams: usize) -> bool {
        let count = self.count + datagrams;
        count <= MAX_SEGMENTS && count * self.segment <= BATCH_BYTES
    }

    /// Adds one datagram of at most `wanted` bytes. `in_place`: the piece stays valid as long as the store.
    fn append(&mut self, header: &Header, piece: &[u8], in_place: bool, wanted: usize) {
        if !self.has_room_for(1) {
            self.flush();
        }
        if self.count == 0 {
            self.segment = wanted;
        }
        let Some(store) = &mut self.store else {
            return;
        };
        store.add(part(&PADDING[..self.lacking]));
        let head = store.keep(&header.encode());
        store.add(head);
        let body = if in_place {
            part(piece)
        } else {
            store.keep(piece)
        };
        store.add(body);
        self.lacking = self.segment - HEADER_BYTES - piece.len();
        self.count += 1;
    }

    /// Hands everything to the socket. What it does not take is lost: counted, and sent again by whoever waits for an answer.
    pub fn flush(&mut self) {
        let Some(store) = self.store.as_deref_mut() else {
            return;
        };
        if self.count != 0 {
            let segment = if self.count == 1 { 0 } else { self.segment };
            self.peer
                .transmit(&mut store.parts, segment, &mut store.sealed);
            store.clear();
        }
        self.segment = 0;
        self.lacking = 0;
        self.count = 0;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.flush();
        let Some(store) = self.store.take() else {
            return;
        };
        let mut pool = POOL.lock();
        if let Some(place) = pool.iter_mut().find(|place| place.is_none()) {
            *place = Some(store);
        }
    }
}
