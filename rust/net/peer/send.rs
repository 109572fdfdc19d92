// SPDX-License-Identifier: GPL-2.0

//! Sending to a peer: messages, cut into datagrams, to the socket.

use kernel::{
    bindings,
    prelude::*,
    sync::{atomic::Relaxed, Arc},
};

use super::Peer;
use crate::{
    net::batch,
    proto::{
        limits::{FRAGMENT_BYTES, MAX_PAYLOAD},
        secure::TAG_BYTES,
        wire::{flags, Header, DATAGRAM_BYTES, HEADER_BYTES},
    },
    stats::Reason,
};

/// Payload of a datagram, from the largest to the smallest: the next one is tried when the way to a peer takes no larger
/// ones. For an MTU of 1500, 1280 (the least of IPv6, and of many tunnels) and 576.
const FRAGMENTS: [usize; 3] = [
    FRAGMENT_BYTES,
    1280 - 28 - HEADER_BYTES,
    576 - 28 - HEADER_BYTES,
];

impl Peer {
    /// Sends a message in the current session, cut into as many datagrams as it needs. Fills in both epochs, `length`,
    /// `offset` and `fragment`; epochs other than 0 name the only session in which the message makes sense, such as that of the request it
    /// answers, or of the file that it is about. Process context, may sleep for memory, not for the network.
    ///
    /// A datagram that the socket does not take (its buffer is full, the link is down) is lost: counted, no error.
    ///
    /// # Errors
    ///
    /// `ENOTCONN`: no session yet (a hello has been sent), or the peer was removed. `ESTALE`: the session of the header's
    /// epochs is over. `EINVAL`: more than [`MAX_PAYLOAD`] bytes.
    pub fn send(self: &Arc<Self>, header: &Header, payload: &[u8]) -> Result {
        self.send_in_session(self.address_header(header)?, payload)
    }

    /// The header with both epochs.
    pub(in crate::net) fn address_header(self: &Arc<Self>, header: &Header) -> Result<Header> {
        let epoch = self.epoch();
        if epoch == 0 {
            self.hello(false);
            return Err(ENOTCONN);
        }
        let own = self.own_epoch();
        let over = |named: u64, present: u64| named != 0 && named != present;
        if over(header.peer_epoch, epoch) || over(header.epoch, own) {
            return Err(ESTALE);
        }
        Ok(Header {
            epoch: own,
            peer_epoch: epoch,
            ..*header
        })
    }

    /// Payload of each datagram but a message's last one.
    pub(in crate::net) fn fragment_bytes(&self) -> usize {
        FRAGMENTS[(self.fragment.load(Relaxed) as usize).min(FRAGMENTS.len() - 1)]
    }

    pub(super) fn send_in_session(self: &Arc<Self>, mut header: Header, payload: &[u8]) -> Result {
        if payload.len() > MAX_PAYLOAD {
            return Err(EINVAL);
        }
        if self.is_gone() {
            return Err(ENOTCONN);
        }
        let fragment = self.fragment_bytes();
        header.length = payload.len() as u32;
        header.fragment = fragment as u16;
        header.offset = 0;
        self.count_sent(&header);
        if payload.len() > fragment && batch::send(self, &header, payload) {
            return Ok(());
        }
        self.send_singly(header, payload);
        Ok(())
    }

    /// Sends a message with all its fields, datagram by datagram. Not inlined: what needs no room on the stack should not have it.
    #[inline(never)]
    fn send_singly(self: &Arc<Self>, mut header: Header, payload: &[u8]) {
        let fragment = usize::from(header.fragment);
        let mut room = [0; DATAGRAM_BYTES + TAG_BYTES];
        let pieces = payload.len().div_ceil(fragment.max(1)).max(1);
        for piece in 0..pieces {
            let from = piece * fragment;
            let to = payload.len().min(from + fragment);
            header.offset = from as u32;
            let mut parts = [part(&header.encode()), part(&payload[from..to])];
            self.transmit(&mut parts, 0, &mut room);
        }
    }

    /// Counts and traces a whole message that arrived. Any context.
    pub fn count_received(&self, header: &Header) {
        self.counters.rx.of(header.kind).add(1);
        crate::trace::message(false, self.name(), header);
    }

    /// Counts and traces a message that is about to leave.
    pub(in crate::net) fn count_sent(&self, header: &Header) {
        self.counters.tx.of(header.kind).add(1);
        crate::trace::message(true, self.name(), header);
        if header.has(flags::RETRY) {
            self.counters.retransmits.add(1);
        }
    }

    /// Hands datagrams to the socket: with segment 0 all parts are one, else they are datagrams of `segment` bytes each but the
    /// last one, and no part belongs to two of them. `room`: for as many bytes, and a tag, to encrypt them to.
    pub(in crate::net) fn transmit(
        self: &Arc<Self>,
        parts: &mut [bindings::kvec],
        segment: usize,
        room: &mut [u8],
    ) {
        let Some(secure) = &self.secure else {
            return self.put(parts, segment);
        };
        let bytes = parts.iter().map(|part| part.iov_len).sum();
        // SAFETY: All parts were made by `part` from slices that outlive this call, and the sum is right.
        match unsafe { secure.seal(self, parts, bytes, segment, room) } {
            Ok(()) => self.put(&mut [part(&room[..bytes])], segment),
            // Hellos to a peer with which no session has begun: that is what they are for.
            Err(error) if error == ENOTCONN && self.epoch() == 0 => (),
            Err(error) => self.not_sent(error),
        }
    }

    /// Hands one datagram to the socket that is not to be encrypted: one of a handshake.
    pub(in crate::net) fn transmit_open(&self, datagram: &[u8]) {
        self.put(&mut [part(datagram)], 0);
    }

    /// Hands datagrams to the socket as they are: all parts are one with segment 0, else `segment` bytes each but the last one.
    fn put(&self, parts: &mut [bindings::kvec], segment: usize) {
        if segment != 0 && !self.segmentation.load(Relaxed) {
            return self.put_singly(parts, segment);
        }
        let bytes = parts.iter().map(|part| part.iov_len).sum();
        // SAFETY: All parts were made by `part` from slices that outlive this call, and the sum is right.
        let result = unsafe {
            self.socket
                .send(self.address, self.port, parts, bytes, segment as u16)
        };
        match result {
            Ok(()) => self.counters.tx_bytes.add(bytes as u64),
            Err(error) if segment != 0 && self.refused_segments(error) => {
                self.put_singly(parts, segment);
            }
            Err(error) => self.not_sent(error),
        }
    }

    /// [`Peer::put`] where the kernel does not cut.
    fn put_singly(&self, parts: &mut [bindings::kvec], segment: usize) {
        let mut datagram = [const { part(&[]) }; batch::PARTS];
        let mut count = 0;
        let mut bytes = 0;
        for one in parts {
            let mut left = *one;
            while left.iov_len != 0 {
                let here = left.iov_len.min(segment - bytes);
                datagram[count] = bindings::kvec {
                    iov_len: here,
                    ..left
                };
                left = bindings::kvec {
                    iov_base: left.iov_base.wrapping_byte_add(here),
                    iov_len: left.iov_len - here,
                };
                count += 1;
                bytes += here;
                if bytes == segment || count == batch::PARTS {
                    self.put(&mut datagram[..count], 0);
                    (count, bytes) = (0, 0);
                }
            }
        }
        if count != 0 {
            self.put(&mut datagram[..count], 0);
        }
    }

    /// Whether the error means that the way to the peer cannot cut; then it is not asked to again in this session.
    fn refused_segments(&self, error: Error) -> bool {
        let refused = error == EINVAL || error == EIO;
        if refused {
            self.segmentation.store(false, Relaxed);
        }
        refused
    }

    /// The socket did not take something.
    fn not_sent(&self, error: Error) {
        self.dropped(Reason::NotSent);
        let step = self.fragment.load(Relaxed);
        if error == EMSGSIZE && (step as usize) < FRAGMENTS.len() - 1 {
            // Only one of those who fail at the same time makes the step.
            let _ = self.fragment.cmpxchg(step, step + 1, Relaxed);
        }
    }
}

/// A part of what the socket sends. It is as valid as `bytes`.
pub(in crate::net) const fn part(bytes: &[u8]) -> bindings::kvec {
    bindings::kvec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}
