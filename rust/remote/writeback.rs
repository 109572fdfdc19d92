// SPDX-License-Identifier: GPL-2.0

//! Dirty pages on their way home.
//!
//! A [`Put`] is in [`super::state::State::puts`] from before its page's state becomes `WritingBack` until after it is confirmed, or until the
//! page was discarded; who takes it out of there ends it. It has no deadline: while its node is silent it is repeated, and given up only
//! when the session ends. Its bytes are those of the folio itself, which nobody writes to in that state: if a read copy stays, the folio
//! is under writeback in its mapping, else it was removed from it.

use kernel::{
    bindings::{address_space, writeback_control},
    ffi::c_int,
    prelude::*,
    sync::{
        atomic::{
            ordering::{Full, Relaxed},
            Atomic,
        },
        lock::{spinlock::SpinLockBackend, Guard},
        Arc,
    },
};

use core::ptr::NonNull;

use super::state::{Inode, State};
use crate::bindings;
use crate::folio::{Folio, Locked};
use crate::net::{
    self,
    batch::{Batch, Payload},
    exchange::{self, call, Exchange, Room},
    peer::Peer,
};
use crate::proto::{
    copy::{Copy, State as CopyState},
    limits::PAGE_BYTES,
    wire::{flags, Header, Kind},
};
use crate::wait::Wait;

/// `Put`s of one file that may be in flight before writeback waits.
const MAX_PUTS: usize = 128;

/// A page on its way home.
pub(super) struct Put {
    inode: Arc<Inode>,
    folio: Folio,
    header: Header,
    pub(super) request: u64,
    /// Bytes of the page inside the file.
    count: usize,
    /// Sent first by a batch, so not by the exchange.
    batched: Atomic<bool>,
    /// The first one since something was written that the origin was not told of.
    touched: Atomic<bool>,
    /// Refused, or given up: the page is to be discarded. Set under the state's lock.
    failed: Atomic<bool>,
    /// How many of the beginning and the end of the folio's writeback have come, if it stays. The session may be over before it has begun.
    turns: Atomic<u32>,
}

impl Put {
    /// Prepares to send a page home that is `Modified` and dirty: from then on no memory is needed, for want of which its bytes would be lost.
    /// Process context; `ENOMEM`.
    pub(super) fn new(inode: &Arc<Inode>, folio: &Locked, keep: bool) -> Result<(Arc<Put>, Room)> {
        let page = folio.index();
        let request = exchange::next_request();
        let (file, seq, size) = {
            let state = inode.state.lock();
            (state.file_id(), inode.copy(page).seq, state.size())
        };
        let header = Header {
            request,
            index: page,
            seq,
            flags: if keep { flags::KEEP } else { 0 },
            ..file.header(Kind::Put)
        };
        let count = size
            .saturating_sub(page * PAGE_BYTES as u64)
            .min(PAGE_BYTES as u64) as usize;
        let put = Put {
            inode: inode.clone(),
            folio: Folio::clone(folio),
            header,
            request,
            count,
            batched: Atomic::new(false),
            touched: Atomic::new(false),
            failed: Atomic::new(false),
            turns: Atomic::new(0),
        };
        Ok((Arc::new(put, GFP_KERNEL)?, Room::new()?))
    }

    fn keep(&self) -> bool {
        self.header.flags & flags::KEEP != 0
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// Sends it. The page's state is `WritingBack` by now; one more place in `puts` was reserved under the same lock. Process context.
    pub(super) fn go(
        self: Arc<Put>,
        room: Room,
        state: Guard<'_, State, SpinLockBackend>,
        folio: Locked,
    ) {
        self.enter_flight(state, folio);
        self.launch(room);
    }

    fn enter_flight(self: &Arc<Put>, mut state: Guard<'_, State, SpinLockBackend>, folio: Locked) {
        let pushed = state.puts.push_within_capacity(self.clone());
        debug_assert!(pushed.is_ok());
        drop(state);
        if self.keep() {
            folio.clean_for_io();
            folio.start_writeback();
            self.turn();
        } else {
            folio.remove(self.inode.mapping());
        }
        // Now that nobody writes to the page.
        let touched = self.inode.touched.xchg(false, Relaxed);
        self.touched.store(touched, Relaxed);
    }

    fn header(&self) -> Header {
        let mut header = self.header;
        if self.touched.load(Relaxed) {
            header.flags |= flags::TOUCHED;
        }
        header
    }

    /// Beginning or end of the folio's writeback: whichever comes second ends it. Any context.
    fn turn(&self) {
        if self.turns.fetch_add(1, Full) == 1 {
            self.folio.end_writeback();
        }
    }

    fn launch(self: &Arc<Put>, room: Room) {
        let peer = &self.inode.peer;
        if let Err(error) = exchange::start_in(room, peer, None, self.request, self.clone(), None) {
            self.fail(error);
        }
    }

    fn payload(&self) -> &[u8] {
        // SAFETY: In state `WritingBack` nobody writes to the folio. A repetition that still runs after the confirmation may send torn
        // bytes, under an id that the origin has confirmed and ignores.
        unsafe { self.folio.bytes_in_place(self.count) }
    }

    /// The origin has it.
    fn confirmed(&self, header: &Header) {
        let inode = &self.inode;
        let page = self.header.index;
        let taken = {
            let mut state = inode.state.lock();
            let position = state
                .puts
                .iter()
                .position(|put| put.request == self.request && !put.has_failed());
            let taken = position.and_then(|position| state.puts.remove(position).ok());
            state.confirmed = state.confirmed.wrapping_add(u32::from(taken.is_some()));
            taken
        };
        if taken.is_none() {
            return;
        }
        // Before the state changes: a page that is not `WritingBack` is not under writeback either.
        if self.keep() {
            self.turn();
        }
        let waiting = {
            let state = inode.state.lock();
            let mut copy = inode.copy(page);
            copy.put_done();
            inode.set_copy(&state, page, copy);
            !state.jobs.is_empty()
        };
        if header.seq != 0 {
            inode.learn_size(header, header.size);
        }
        inode.changes.happen();
        if waiting {
            inode.kick();
        }
    }

    /// The origin will not get it. The page is discarded by the work item, because that needs the folio's lock.
    fn fail(&self, error: Error) {
        {
            let state = self.inode.state.lock();
            if self.has_failed() || !state.puts.iter().any(|put| put.request == self.request) {
                return;
            }
            self.failed.store(true, Relaxed);
        }
        // While the put is in the list, the inode stays.
        self.inode.report_loss(self.count as u64, error);
        if self.keep() {
            self.turn();
        }
        self.inode.changes.happen();
        self.inode.kick();
    }

    /// Ends it after it was taken out of the list, its session being over. Returns the bytes that are lost by that.
    pub(super) fn give_up(&self) -> u64 {
        if self.has_failed() {
            return 0;
        }
        if self.keep() {
            self.turn();
        }
        self.count as u64
    }
}

impl Exchange for Put {
    fn answer(&self, _peer: &Arc<Peer>, header: &Header, _payload: &[u8]) -> bool {
        if header.kind != Kind::Reply {
            return false;
        }
        if header.status == 0 {
            self.confirmed(header);
        } else {
            self.fail(exchange::error_of(header.status));
        }
        true
    }

    fn send(&self, peer: &Arc<Peer>, retry: bool) -> Result {
        if !retry && self.batched.load(Relaxed) {
            return Ok(());
        }
        peer.send(&self.header().sent(retry), self.payload())
    }

    fn expired(&self, error: Error) {
        self.fail(error);
    }
}

impl Inode {
    /// Discards the pages whose `Put`s failed: their bytes are not the origin's, so nobody may read them here. Process context, sleeps.
    pub(super) fn discard_failed(&self) {
        loop {
            let failed = self
                .state
                .lock()
                .puts
                .iter()
                .find(|put| put.has_failed())
                .cloned();
            let Some(put) = failed else {
                return;
            };
            let folio = put.folio.clone().lock();
            // It is called failed a moment before that ends.
            folio.wait_writeback();
            folio.remove(self.mapping());
            {
                let mut state = self.state.lock();
                if let Some(position) = state
                    .puts
                    .iter()
                    .position(|other| other.request == put.request)
                {
                    let page = put.header.index;
                    if matches!(self.copy(page).state, CopyState::WritingBack { .. }) {
                        self.set_copy(&state, page, Copy::INVALID);
                    }
                    let _ = state.puts.remove(position);
                }
            }
            drop(folio);
            self.changes.happen();
        }
    }

    /// Waits until fewer than [`MAX_PUTS`] are in flight.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`: none was confirmed for the module's time-out. `EINTR`: killed.
    fn wait_for_room(&self) -> Result {
        self.wait_for_puts(|state| state.puts.len() < MAX_PUTS)
    }

    /// Waits for `enough`, as long as `Put`s are being confirmed.
    fn wait_for_puts(&self, enough: impl Fn(&State) -> bool) -> Result {
        let mut deadline = net::deadline();
        let mut confirmed = self.state.lock().confirmed;
        loop {
            let seen = self.changes.seen();
            {
                let state = self.state.lock();
                if enough(&state) {
                    return Ok(());
                }
                if state.confirmed != confirmed {
                    confirmed = state.confirmed;
                    deadline = net::deadline();
                }
            }
            let left = deadline.left(net::now_us()).ok_or(ETIMEDOUT)?;
            self.changes.wait(seen, left, Wait::Killable)?;
        }
    }

    /// Sends one dirty folio home, whose dirty mark was cleared for that; a read copy stays. What cannot be sent now is dirty again.
    fn put_kept(self: &Arc<Inode>, folio: Locked, batch: &mut Batch) -> Result {
        let (put, room) = match Put::new(self, &folio, true) {
            Ok(ready) => ready,
            Err(error) => {
                folio.mark_dirty();
                return Err(error);
            }
        };
        let mut state = self.state.lock();
        let page = folio.index();
        let mut copy = self.copy(page);
        if state.file == 0 || state.puts.reserve(1, GFP_ATOMIC).is_err() || !copy.write_back(true) {
            // The session is over and the page about to be dropped, or there is no memory.
            let over = state.file == 0;
            drop(state);
            folio.mark_dirty();
            return Err(if over { EIO } else { EAGAIN });
        }
        self.set_copy(&state, page, copy);
        put.batched.store(true, Relaxed);
        put.enter_flight(state, folio);
        put.launch(room);
        // What does not get out now is repeated. Who writes to the folio before the batch leaves had the confirmation of a repetition.
        let page = Payload::Page(put.folio.clone(), put.count);
        let _ = batch.push(&put.header(), page);
        Ok(())
    }

    /// fsync of a descriptor of this [life](super::state::State::usable_in): sends all dirty pages home, waits until they are there, and has
    /// the origin write them to its disk. Sleeps.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT`, `EINTR`, `ESTALE`, or the origin's. Bytes lost before are reported by the descriptor's error cursor instead.
    pub(super) fn commit(&self, life: u64, datasync: bool) -> Result {
        // SAFETY: The caller keeps the inode.
        let written = unsafe { bindings::filemap_fdatawrite_range(self.mapping(), 0, i64::MAX) };
        // Those that are sent later are not ours to wait for: ids increase.
        let mark = exchange::next_request();
        self.wait_for_puts(|state| state.puts.iter().all(|put| put.request > mark))?;
        kernel::error::to_result(written)?;
        let (file, errors) = {
            let state = self.state.lock();
            (state.usable_in(life)?, state.errors)
        };
        let header = Header {
            count: errors,
            flags: if datasync { flags::DATASYNC } else { 0 },
            ..file.header(Kind::Commit)
        };
        let answer = call(&self.peer, header, &[])?.header;
        // What came home before the session ended may be lost.
        self.state.lock().usable_in(life)?;
        self.learn_size(&answer, answer.size);
        if answer.index != 0 {
            // The origin tells the node; here every descriptor is.
            let error = exchange::error_of(answer.index);
            self.told_of_error(answer.count, error);
            return Err(error);
        }
        Ok(())
    }
}

/// `writepages`: sends dirty pages home, several in flight.
///
/// # Safety
///
/// Called by the kernel for a mapping of one of our files.
pub(super) unsafe extern "C" fn writepages(
    mapping: *mut address_space,
    control: *mut writeback_control,
) -> c_int {
    // SAFETY: By this function's contract; the kernel keeps the inode.
    let Some(inode) = (unsafe { Inode::counted((*mapping).host) }) else {
        return EIO.to_errno();
    };
    let mut batch = Batch::new(&inode.peer);
    let mut folio = core::ptr::null_mut();
    let mut status = 0;
    let mut stuck = None;
    loop {
        // Before the next folio is locked: nobody waits for the network with that lock.
        if stuck.is_none() && inode.state.lock().puts.len() >= MAX_PUTS {
            batch.flush();
            stuck = inode.wait_for_room().err();
        }
        // SAFETY: By this function's contract, `folio` being what the last call returned.
        folio = unsafe { bindings::writeback_iter(mapping, control, folio, &mut status) };
        let Some(found) = NonNull::new(folio) else {
            return status;
        };
        // SAFETY: The iterator gives us the lock along with the folio.
        let locked = unsafe { Locked::adopt(found) };
        let result = match stuck {
            None => inode.put_kept(locked, &mut batch),
            Some(error) => {
                // SAFETY: The folio is locked, and the control is the kernel's.
                unsafe { bindings::folio_redirty_for_writepage(control, found.as_ptr()) };
                Err(error)
            }
        };
        // SAFETY: By this function's contract.
        let integrity = unsafe { bindings::vremote_wbc_integrity(control) };
        status = match result {
            // Background writeback comes round again by itself.
            Err(error) if error == EAGAIN && !integrity => 0,
            result => super::errno(result),
        };
    }
}
