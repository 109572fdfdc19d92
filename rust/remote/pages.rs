// SPDX-License-Identifier: GPL-2.0

//! Pages: asking for them and getting them. The decisions are `proto/copy.rs`'s; this file brings them together with folios.
//!
//! # A Get in flight
//!
//! A page that is not here is asked for with its folio locked and not uptodate; the grant fills the folio, marks it uptodate and unlocks
//! it. One request asks for up to [`MAX_BATCH_PAGES`] pages in a row, each of which is answered for itself. A copy that may already be
//! read is upgraded without its folio's lock, by a request of its own.
//!
//! The owner of a page in flight is the [`Request`] in [`super::state::State::gets`]: who takes a [`Slot`] out of it, under the state's
//! lock, is the one who ends it.

use kernel::{
    bindings::{address_space, file, folio, readahead_control},
    ffi::c_int,
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        Arc,
    },
};

use core::ptr::NonNull;

use super::state::{Inode, State};
use crate::bindings;
use crate::folio::{Folio, Locked};
use crate::net::{
    self,
    exchange::{self, Exchange},
    peer::Peer,
};
use crate::proto::{
    copy::{GrantVerdict, Pending, Want},
    limits::{MAX_BATCH_PAGES, PAGE_BYTES},
    reliable::PageAssembly,
    wire::{flags, Header, Kind},
};
use crate::wait::Wait;

/// How long after a Get that failed the next one is not even tried by a reader.
const KNOWN_US: u64 = 500_000;

/// What the last Get that failed came to.
pub(super) struct Failed {
    /// `None`: there was no answer, which concerns every page.
    page: Option<u64>,
    error: Error,
    /// Microseconds, [`net::now_us`].
    since: u64,
}

/// What a page in flight does to its folio.
pub(super) enum Hold {
    /// To be filled; the lock keeps everybody else away from it.
    Fill(Locked),
    /// Readable; the reference keeps it in memory.
    Upgrade(Folio),
}

/// Why a page was refused, for the one call that had it asked for: nobody else's fails for it. Written under the lock of the state while
/// the page is in flight.
struct Refusal(Atomic<c_int>);

impl Refusal {
    /// `ENOMEM`.
    fn new() -> Result<Arc<Refusal>> {
        Ok(Arc::new(Refusal(Atomic::new(0)), GFP_KERNEL)?)
    }

    fn note(&self, error: Error) {
        self.0.store(error.to_errno(), Relaxed);
    }

    fn check(&self) -> Result {
        kernel::error::to_result(self.0.load(Relaxed))
    }
}

/// A page in flight.
pub(super) struct Slot {
    pending: Pending,
    hold: Hold,
    /// `None`: nobody is told, as the page was asked for ahead, or is read by way of the kernel.
    refusal: Option<Arc<Refusal>>,
    /// The answer was of no use: the work item asks again. No request is in flight.
    again: bool,
    /// The grant of which some pieces are here: its seq, and which.
    arriving: (u64, PageAssembly),
}

impl Slot {
    fn new(pending: Pending, hold: Hold, refusal: Option<Arc<Refusal>>) -> Slot {
        Slot {
            pending,
            hold,
            refusal,
            again: false,
            arriving: (0, PageAssembly::new(&Header::new(Kind::Grant))),
        }
    }

    /// Tells who asked why there will be no grant. The state is locked.
    fn note(&self, error: Error) {
        if let Some(refusal) = &self.refusal {
            refusal.note(error);
        }
    }

    /// A piece of a grant with the page's bytes arrived: puts it into the folio, which nobody reads before it is whole. Says whether
    /// it is.
    fn arrived(&mut self, header: &Header, piece: &[u8]) -> bool {
        let (seq, assembly) = &mut self.arriving;
        if header.seq < *seq {
            return false;
        }
        // A younger grant, or the same once more in other pieces: what is here of the page counts no more.
        if header.seq != *seq || !assembly.fits(header) {
            *seq = header.seq;
            *assembly = PageAssembly::new(header);
        }
        let Some(range) = assembly.accept(header) else {
            return false;
        };
        let placed = match &mut self.hold {
            Hold::Fill(folio) => match folio.unread_mut(range) {
                Some(bytes) if bytes.len() == piece.len() => {
                    bytes.copy_from_slice(piece);
                    true
                }
                _ => false,
            },
            // The bytes here are the same.
            Hold::Upgrade(_) => true,
        };
        placed && assembly.complete()
    }
}

/// A Get in flight.
pub(super) struct Request {
    pub(super) id: u64,
    first: u64,
    want: Want,
    /// `None` once the page was granted or refused.
    slots: KVec<Option<Slot>>,
    /// Pages without an answer.
    left: usize,
    /// What was sent after the answers that are missing is here, and the network was told.
    overtaken: bool,
}

/// Requests that one arrival shows to be [overtaken](exchange::overtaken), at most; more of them are seen by the next one.
const OVERTAKEN: usize = 4;

impl Request {
    fn slot_mut(&mut self, page: u64) -> Option<&mut Option<Slot>> {
        self.slots
            .get_mut(usize::try_from(page.checked_sub(self.first)?).ok()?)
    }

    /// Gives up what has not been granted: the folios stay not uptodate.
    pub(super) fn fail(self) {
        for slot in self.slots.into_iter().flatten() {
            if let Hold::Fill(folio) = slot.hold {
                drop(folio.end_read(false));
            }
        }
    }
}

impl State {
    /// The request in flight for a page.
    pub(super) fn pending_mut(&mut self, page: u64) -> Option<&mut Pending> {
        self.gets.iter_mut().find_map(|request| {
            let slot = request.slot_mut(page)?.as_mut()?;
            if slot.again {
                None
            } else {
                Some(&mut slot.pending)
            }
        })
    }

    /// A page of request `id`, which reads, was answered. Pages to be read that the origin has in memory are answered in the order in which they
    /// were asked for, so that a gap in that is a loss: says which requests have one. What the origin reads from its disk, or has from other
    /// nodes, comes later without being lost; then one more request was for nothing.
    fn note_overtaken(&mut self, id: u64, overtaken: &mut [u64; OVERTAKEN]) {
        let behind = |request: &&mut Request| {
            let passed = request.id < id || request.slots.last().is_some_and(Option::is_none);
            let missing = request.left != 0 && request.want == Want::Read;
            passed && request.id <= id && missing && !request.overtaken
        };
        for (request, place) in self.gets.iter_mut().filter(behind).zip(overtaken) {
            request.overtaken = true;
            *place = request.id;
        }
    }

    /// The error that a reader of this page need not wait for once more.
    fn check_known(&self, page: u64) -> Result {
        match &self.failed {
            Some(failed)
                if failed.page.is_none_or(|only| only == page)
                    && net::now_us() < failed.since + KNOWN_US =>
            {
                Err(failed.error)
            }
            _ => Ok(()),
        }
    }

    /// Whether somebody waits for this page, also if the work item has yet to ask again.
    fn in_flight(&mut self, page: u64) -> bool {
        self.gets
            .iter_mut()
            .any(|request| request.slot_mut(page).is_some_and(|slot| slot.is_some()))
    }
}

/// The network's side of a [`Request`].
struct Get {
    inode: Arc<Inode>,
    header: Header,
}

impl Exchange for Get {
    // The origin serves page by page, and a reader has many requests in flight: the last of them wait for all others.
    fn patient(&self) -> bool {
        true
    }

    fn piece(&self, peer: &Arc<Peer>, header: &Header, piece: &[u8]) -> bool {
        self.inode.granted(peer, header, Some(piece))
    }

    fn answer(&self, peer: &Arc<Peer>, header: &Header, _payload: &[u8]) -> bool {
        match header.kind {
            Kind::Grant => self.inode.granted(peer, header, None),
            Kind::Reply if header.status != 0 => {
                self.inode
                    .fail_request(self.header.request, exchange::error_of(header.status));
                true
            }
            _ => false,
        }
    }

    fn send(&self, peer: &Arc<Peer>, retry: bool) -> Result {
        let mut bitmap = [0u8; MAX_BATCH_PAGES / 8];
        let mut bytes = 0;
        {
            let state = self.inode.state.lock();
            let Some(request) = state
                .gets
                .iter()
                .find(|request| request.id == self.header.request)
            else {
                return Ok(());
            };
            if request.left < request.slots.len() {
                bytes = request.slots.len().div_ceil(8);
                for (page, slot) in request.slots.iter().enumerate() {
                    if slot.as_ref().is_some_and(|slot| !slot.again) {
                        bitmap[page / 8] |= 1 << (page % 8);
                    }
                }
            }
        }
        peer.send(&self.header.sent(retry), &bitmap[..bytes])
    }

    fn expired(&self, error: Error) {
        self.inode.fail_request(self.header.request, error);
    }
}

impl Inode {
    /// Asks for as many of `folios` as one request can: pages in a row, each locked, in this mapping and not uptodate. Takes those that it
    /// asked for out of the front, and says how many; 0: the first one cannot be asked for now, wait for a change. `refusal`: the first one's. May
    /// sleep for memory.
    ///
    /// # Errors
    ///
    /// `ESTALE`: the session in which the file was opened is over. `ENOTCONN`: the peer was removed. `ENOMEM`.
    fn ask(
        self: &Arc<Inode>,
        want: Want,
        folios: &mut [Option<Locked>],
        mut refusal: Option<Arc<Refusal>>,
    ) -> Result<usize> {
        let limit = folios.len().min(MAX_BATCH_PAGES);
        let folios = &mut folios[..limit];
        let first = folios
            .first()
            .and_then(Option::as_ref)
            .ok_or(EINVAL)?
            .index();
        for page in first..first + folios.len() as u64 {
            self.reserve_word(page)?;
        }
        let mut slots = KVec::with_capacity(folios.len(), GFP_KERNEL)?;
        let id = exchange::next_request();
        let (count, file, seq);
        {
            let mut state = self.state.lock();
            file = state.usable()?;
            let mut given_up = 0;
            for (page, folio) in (first..).zip(folios.iter_mut()) {
                let mut copy = self.copy(page);
                // A page whose ownership the origin may still have on record is asked for alone, with that ownership's seq. One that was
                // shared, and that the kernel has dropped since, is like any other.
                let held = copy.held();
                if held.is_none() || state.in_flight(page) || (page != first && held != Some(0)) {
                    break;
                }
                given_up = copy.lost();
                self.set_copy(&state, page, copy);
                let Some(folio) = folio.take() else {
                    break;
                };
                let slot = Slot::new(Pending::new(id, want), Hold::Fill(folio), refusal.take());
                let pushed = slots.push_within_capacity(Some(slot));
                debug_assert!(pushed.is_ok());
                if given_up != 0 {
                    break;
                }
            }
            count = slots.len();
            seq = given_up;
            if count == 0 {
                return Ok(0);
            }
            let request = Request {
                id,
                first,
                want,
                slots,
                left: count,
                overtaken: false,
            };
            if let Err(error) = state.gets.push(request, GFP_ATOMIC) {
                drop(state);
                return Err(error.into());
            }
        }
        let header = Header {
            request: id,
            index: first,
            count: count as u32,
            seq,
            ..file.header(match want {
                Want::Read => Kind::GetShared,
                Want::Write => Kind::GetModified,
            })
        };
        self.launch(header)?;
        Ok(count)
    }

    /// Asks for ownership of a page that is readable here, and of up to `more` behind it that are, too: one request for all of them.
    /// `false`: the first one is not, or it is in flight; look again. `refusal`: the first one's. May sleep for memory.
    ///
    /// # Errors
    ///
    /// As [`Inode::ask`].
    fn upgrade(self: &Arc<Inode>, first: u64, more: usize, refusal: &Arc<Refusal>) -> Result<bool> {
        let mut refusal = Some(refusal.clone());
        let limit = more.min(MAX_BATCH_PAGES - 1) + 1;
        let mut slots = KVec::with_capacity(limit, GFP_KERNEL)?;
        let header = {
            let mut state = self.state.lock();
            // Under the lock: the ids of a page's requests must rise in the order of its state.
            let id = exchange::next_request();
            let file = state.usable()?;
            for page in first..first + limit as u64 {
                // SAFETY: The caller keeps the inode.
                let folio = unsafe { Folio::find(self.mapping(), page) };
                let readable = folio.filter(|folio| self.copy(page).have() && folio.uptodate());
                let Some(folio) = readable.filter(|_| !state.in_flight(page)) else {
                    break;
                };
                let slot = Slot::new(
                    Pending::new(id, Want::Write),
                    Hold::Upgrade(folio),
                    refusal.take(),
                );
                slots.push_within_capacity(Some(slot)).map_err(|_| ENOMEM)?;
            }
            let count = slots.len();
            if count == 0 {
                return Ok(false);
            }
            state.gets.push(
                Request {
                    id,
                    first,
                    want: Want::Write,
                    slots,
                    left: count,
                    overtaken: false,
                },
                GFP_ATOMIC,
            )?;
            Header {
                request: id,
                index: first,
                count: count as u32,
                flags: flags::HAVE,
                ..file.header(Kind::GetModified)
            }
        };
        self.launch(header)?;
        Ok(true)
    }

    /// Sends a request that was noted in the state; on failure it is failed there.
    fn launch(self: &Arc<Inode>, header: Header) -> Result {
        let started = Arc::new(
            Get {
                inode: self.clone(),
                header,
            },
            GFP_KERNEL,
        )
        .map_err(Error::from)
        .and_then(|get| exchange::start(&self.peer, header.request, get, Some(net::timeout_us())));
        started.inspect_err(|error| self.fail_request(header.request, *error))
    }

    /// A request ended without an answer, or with a refusal of all of it.
    fn fail_request(&self, id: u64, error: Error) {
        let request = {
            let mut state = self.state.lock();
            let position = state.gets.iter().position(|request| request.id == id);
            if let Some(position) = position {
                for slot in state.gets[position].slots.iter().flatten() {
                    slot.note(error);
                }
                if error == ETIMEDOUT || error == ENOTCONN {
                    state.failed = Some(Failed {
                        page: None,
                        error,
                        since: net::now_us(),
                    });
                }
            }
            position.and_then(|position| state.gets.remove(position).ok())
        };
        if let Some(request) = request {
            request.fail();
            self.changes.happen();
        }
    }

    /// A `Grant` arrived, or a piece of one that has bytes. Says whether its request is over. Receive thread.
    fn granted(self: &Arc<Inode>, peer: &Peer, header: &Header, piece: Option<&[u8]>) -> bool {
        let page = header.index;
        let mut fill = None;
        let mut refused = None;
        let mut again = false;
        let mut overtaken = [0; OVERTAKEN];
        let last;
        {
            let mut state = self.state.lock();
            let state = &mut *state;
            let Some(position) = state
                .gets
                .iter()
                .position(|request| request.id == header.request)
            else {
                return true;
            };
            let want = state.gets[position].want;
            let Some(place) = state.gets[position].slot_mut(page) else {
                return false;
            };
            let Some(slot) = place.as_mut().filter(|slot| !slot.again) else {
                return false;
            };
            if let Some(piece) = piece {
                if !slot.arrived(header, piece) {
                    return false;
                }
                peer.count_received(header);
            }
            let known = state.failed.as_ref();
            let refutes = |only| only == page && header.status == 0;
            if known.is_some_and(|failed| failed.page.is_none_or(refutes)) {
                state.failed = None;
            }
            if header.status != 0 {
                let error = exchange::error_of(header.status);
                if error == EBUSY || error == ENOMEM || error == EAGAIN {
                    // It will pass: the request is sent again until its deadline.
                    return false;
                }
                slot.note(error);
                // Whoever reads it by way of the kernel hears of it only so. Those two are no errors: another node has cut the file, and
                // nobody had it open when this was asked.
                if want == Want::Read && error != ENODATA && error != EBADF {
                    state.failed = Some(Failed {
                        page: Some(page),
                        error,
                        since: net::now_us(),
                    });
                }
                refused = place.take();
            } else {
                let mut copy = self.copy(page);
                // An upgrade needs no data: while the copy may be read it has the bytes of the origin's last version. When it has been
                // lost there is no folio for the data, and the writer asks for the page as one that it does not have.
                let (data, valid) = match &slot.hold {
                    Hold::Fill(_) => (piece.is_some() && header.has(flags::DATA), false),
                    Hold::Upgrade(folio) => (false, copy.have() && folio.uptodate()),
                };
                let write = header.has(flags::WRITE);
                match copy.grant(
                    Some(&slot.pending),
                    header.request,
                    header.seq,
                    write,
                    data,
                    valid,
                ) {
                    GrantVerdict::Accept => {
                        fill = place.take();
                        self.set_copy(state, page, copy);
                        if data {
                            let end = page * PAGE_BYTES as u64 + u64::from(header.length);
                            self.reaches(state, page, end);
                        }
                    }
                    GrantVerdict::Retry if matches!(slot.hold, Hold::Fill(_)) => {
                        slot.again = true;
                        self.set_copy(state, page, copy);
                        again = true;
                    }
                    GrantVerdict::Retry => refused = place.take(),
                    GrantVerdict::Ignore => return false,
                }
            }
            let request = &mut state.gets[position];
            request.left -= 1;
            last = request.left == 0;
            if want == Want::Read {
                state.note_overtaken(header.request, &mut overtaken);
            }
            let request = &state.gets[position];
            if last && request.slots.iter().all(Option::is_none) {
                let _ = state.gets.remove(position);
            }
        }
        if header.seq != 0 {
            self.learn_size(header, header.size);
        }
        if let Some(Slot {
            hold: Hold::Fill(folio),
            ..
        }) = fill
        {
            folio.zero_from(header.length as usize);
            folio.flush();
            drop(folio.end_read(true));
        }
        if let Some(Slot {
            hold: Hold::Fill(folio),
            ..
        }) = refused
        {
            drop(folio.end_read(false));
        }
        if again {
            self.kick();
        }
        self.changes.happen();
        for request in overtaken.into_iter().filter(|request| *request != 0) {
            exchange::overtaken(peer, request);
        }
        last
    }

    /// Asks again for pages whose grants were overtaken. Work item.
    pub(super) fn ask_again(self: &Arc<Inode>) {
        loop {
            let mut found = None;
            {
                let mut state = self.state.lock();
                for position in 0..state.gets.len() {
                    let request = &mut state.gets[position];
                    let want = request.want;
                    if let Some(place) = request
                        .slots
                        .iter_mut()
                        .find(|place| place.as_ref().is_some_and(|slot| slot.again))
                    {
                        found = place.take().map(|slot| (want, slot));
                        if request.slots.iter().all(Option::is_none) {
                            let _ = state.gets.remove(position);
                        }
                        break;
                    }
                }
            }
            let Some((
                want,
                Slot {
                    hold: Hold::Fill(folio),
                    refusal,
                    ..
                },
            )) = found
            else {
                return;
            };
            let mut folio = [Some(folio)];
            // If it cannot be asked for, whoever waits for it will ask, and hear why.
            let _ = self.ask(want, &mut folio, refusal);
            if let Some(folio) = folio[0].take() {
                drop(folio.end_read(false));
                self.changes.happen();
            }
        }
    }

    /// Brings the page here: its folio, locked and uptodate, and to be written with ownership; for that the caller has claimed it. `more`:
    /// pages behind it that will be wanted as well, to be asked for along with it. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINTR`: killed. `ENODATA`: the page is beyond the end of the file. `ETIMEDOUT`, `ENOTCONN`, `ESTALE`, `ENOMEM`, or the origin's.
    pub(super) fn obtain(self: &Arc<Inode>, page: u64, want: Want, more: usize) -> Result<Locked> {
        let end = net::now_us().saturating_add(2 * net::timeout_us());
        let mut refusal = None;
        let mut again = false;
        loop {
            self.settle(page)?;
            let seen = self.changes.seen();
            // SAFETY: The caller keeps the inode.
            let folio = unsafe { Locked::create(self.mapping(), page) }?;
            let (copy, known) = {
                let state = self.state.lock();
                (self.copy(page), state.check_known(page))
            };
            if folio.uptodate() && (want == Want::Read || copy.may_write()) {
                return Ok(folio);
            }
            let refusal = match &refusal {
                Some(refusal) => refusal,
                None => refusal.insert(Refusal::new()?),
            };
            refusal.check()?;
            // Those who waited for another one's request to a silent origin do not each send their own.
            if want == Want::Read || again {
                known?;
            }
            again = true;
            if net::now_us() > end {
                return Err(ETIMEDOUT);
            }
            let asked = if !folio.uptodate() {
                self.ask_for_run(folio, want, more, refusal)?
            } else {
                drop(folio);
                copy.have() && self.upgrade(page, more, refusal)?
            };
            if !asked {
                // On its way home, or about to be dropped.
                self.changes.wait(seen, net::timeout_us(), Wait::Killable)?;
            }
        }
    }

    /// Waits until no request for the page is in flight, for as long as the one of now can take: an origin that waits for its disk is waited
    /// for. Sleeps; `EINTR`: killed, `ETIMEDOUT`: there was always another one.
    fn settle(&self, page: u64) -> Result {
        let end = net::now_us().saturating_add(exchange::longest_wait_us());
        loop {
            let seen = self.changes.seen();
            if !self.state.lock().in_flight(page) {
                return Ok(());
            }
            if net::now_us() > end {
                return Err(ETIMEDOUT);
            }
            self.changes.wait(seen, net::timeout_us(), Wait::Killable)?;
        }
    }

    /// Asks for the page of `folio`, and for up to `more` pages behind it of which nothing is here. `refusal`: the first one's. `false`: not
    /// now.
    fn ask_for_run(
        self: &Arc<Inode>,
        folio: Locked,
        want: Want,
        more: usize,
        refusal: &Arc<Refusal>,
    ) -> Result<bool> {
        let first = folio.index();
        let limit = more.min(MAX_BATCH_PAGES - 1);
        let mut folios = KVec::with_capacity(limit + 1, GFP_KERNEL)?;
        folios.push(Some(folio), GFP_KERNEL)?;
        for page in first + 1..=first + limit as u64 {
            if self.copy(page).held() != Some(0) {
                break;
            }
            // SAFETY: The caller keeps the inode.
            let Ok(folio) = (unsafe { Locked::add(self.mapping(), page) }) else {
                break;
            };
            folios.push(Some(folio), GFP_KERNEL)?;
        }
        let asked = self.ask(want, &mut folios, Some(refusal.clone()));
        for folio in folios
            .into_iter()
            .flatten()
            .filter(|folio| folio.index() != first)
        {
            folio.remove(self.mapping());
        }
        Ok(asked? > 0)
    }
}

/// The inode of a mapping of ours.
///
/// # Safety
///
/// `mapping` is the mapping of an inode of our superblock with something kept, and the inode is alive.
unsafe fn of_mapping(mapping: *mut address_space) -> Result<Arc<Inode>> {
    // SAFETY: By this function's contract.
    unsafe { Inode::counted((*mapping).host) }.ok_or(EIO)
}

/// `read_folio`: asks for one page; the grant unlocks the folio.
///
/// # Safety
///
/// Called by the kernel with a locked folio of one of our files.
pub(super) unsafe extern "C" fn read_folio(_file: *mut file, folio: *mut folio) -> c_int {
    let Some(folio) = NonNull::new(folio) else {
        return EIO.to_errno();
    };
    // SAFETY: The kernel gives us the lock along with the folio.
    let folio = unsafe { Locked::adopt(folio) };
    // SAFETY: A locked folio that is in a mapping keeps it and its inode.
    let inode = unsafe { of_mapping(folio.mapping()) };
    super::errno(inode.and_then(|inode| inode.read(folio)))
}

/// `readahead`: asks for everything at once, in as few requests as can be, and waits for nothing.
///
/// # Safety
///
/// Called by the kernel with locked folios of one of our files.
pub(super) unsafe extern "C" fn readahead(control: *mut readahead_control) {
    // SAFETY: By this function's contract, and the caller of the operation keeps the inode.
    let Ok(inode) = (unsafe { of_mapping((*control).mapping) }) else {
        return;
    };
    loop {
        // Folios that are not taken out of the control are removed by the kernel.
        let Ok(mut folios) = KVec::with_capacity(MAX_BATCH_PAGES, GFP_KERNEL) else {
            return;
        };
        while folios.len() < MAX_BATCH_PAGES {
            // SAFETY: By this function's contract.
            let Some(folio) = NonNull::new(unsafe { bindings::vremote_readahead_next(control) })
            else {
                break;
            };
            // SAFETY: The kernel gives us the lock along with the folio.
            let _ = folios.push_within_capacity(Some(unsafe { Locked::adopt(folio) }));
        }
        if folios.is_empty() {
            return;
        }
        let mut rest = &mut folios[..];
        while !rest.is_empty() {
            match inode.ask(Want::Read, rest, None) {
                Ok(count) if count > 0 => rest = &mut rest[count..],
                _ => {
                    // Not now: whoever reads this page asks for it.
                    if let Some(folio) = rest[0].take() {
                        folio.remove(inode.mapping());
                    }
                    rest = &mut rest[1..];
                }
            }
        }
    }
}

impl Inode {
    /// Asks for the page of a locked folio that is not uptodate; waits only while it cannot be asked for.
    ///
    /// A reader comes here after its readahead has failed: then it has waited for a silent origin once, and does not again.
    fn read(self: &Arc<Inode>, folio: Locked) -> Result {
        self.state.lock().check_known(folio.index())?;
        let end = net::now_us().saturating_add(2 * net::timeout_us());
        let mut folio = [Some(folio)];
        loop {
            let seen = self.changes.seen();
            if self.ask(Want::Read, &mut folio, None)? > 0 {
                return Ok(());
            }
            self.changes.wait(seen, net::timeout_us(), Wait::Killable)?;
            if net::now_us() > end {
                return Err(ETIMEDOUT);
            }
        }
    }
}
