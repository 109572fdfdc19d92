// SPDX-License-Identifier: GPL-2.0

//! Trace events (`events/vremote` in tracefs): every message, every change of a page's state, and of the sessions. Any context.

use crate::bindings;
use crate::proto::{
    copy::{Copy, State},
    directory::{home_may_read, Page, Tx},
    wire::Header,
};

/// A whole message was sent to a peer, or received from it.
pub(crate) fn message(sent: bool, peer: &[u8], header: &Header) {
    let message = bindings::vremote_trace_message {
        file: header.file,
        index: header.index,
        seq: header.seq,
        request: header.request,
        length: header.length,
        count: header.count,
        flags: header.flags,
        status: header.status,
        kind: header.kind as u8,
    };
    // SAFETY: The pointers are valid during the call.
    unsafe { bindings::vremote_trace_message(sent, peer.as_ptr(), peer.len(), &message) };
}

/// Something happened to the session with a peer.
pub(crate) fn peer(name: &[u8], what: &str) {
    // SAFETY: The pointers are valid during the call.
    unsafe { bindings::vremote_trace_peer(name.as_ptr(), name.len(), what.as_ptr(), what.len()) };
}

/// The record of a page at this origin is now `page`.
pub(crate) fn directory(file: u64, index: u64, page: &Page, tx: &Option<Tx>) {
    let home = match (home_may_read(page, tx), page.sharers.is_empty()) {
        (false, _) => b'I',
        (true, false) => b'S',
        (true, true) => b'M',
    };
    let owner = page.owner.map_or(-1, i32::from);
    // SAFETY: No precondition.
    unsafe {
        bindings::vremote_trace_directory(
            file,
            index,
            page.seq,
            owner,
            page.sharers.len() as u32,
            home,
        )
    };
}

/// The state of a page of a remote file is now `copy`.
pub(crate) fn copy(file: u64, index: u64, copy: Copy) {
    let state = match copy.state {
        State::Invalid => b'I',
        State::Shared => b'S',
        State::Modified => b'M',
        State::WritingBack { .. } => b'W',
    };
    // SAFETY: No precondition.
    unsafe { bindings::vremote_trace_copy(file, index, copy.seq, state) };
}
