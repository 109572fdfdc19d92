// SPDX-License-Identifier: GPL-2.0

//! Pages of other nodes' files: asking for them and getting them; `rust/remote/pages.rs` around `proto/copy.rs`.
//!
//! Left out: memory that runs short; readahead is what a read of several pages asks for at once.

use std::{cell::Cell, rc::Rc};

use nix::errno::Errno;
use vremote_proto::{
    copy::{GrantVerdict, Pending, Want},
    limits::{MAX_BATCH_PAGES, PAGE_BYTES},
    reliable::PageAssembly,
    wire::{flags, Header, Kind},
};

use super::state::{Inode, State};
use crate::{
    bug::Bug,
    folio::{Folio, Locked},
    net::{
        exchange::{self, Exchange},
        peer::Peer,
    },
    wait::{Result, Wait},
};

/// How long after a Get that failed the next one is not even tried by a reader.
const KNOWN_US: u64 = 500_000;

/// What the last Get that failed came to.
pub struct Failed {
    /// `None`: there was no answer, which concerns every page.
    page: Option<u64>,
    error: Errno,
    since: u64,
}

enum Hold {
    /// To be filled; the lock keeps everybody else away from it.
    Fill(Locked),
    /// Readable.
    Upgrade(Rc<Folio>),
}

/// Why a page was refused, for the one call that had it asked for.
#[derive(Default)]
struct Refusal(Cell<Option<Errno>>);

impl Refusal {
    fn check(&self) -> Result {
        self.0.get().map_or(Ok(()), Err)
    }
}

/// A page in flight.
pub struct Slot {
    pending: Pending,
    hold: Hold,
    refusal: Option<Rc<Refusal>>,
    again: bool,
    arriving: (u64, PageAssembly),
}

impl Slot {
    fn new(pending: Pending, hold: Hold, refusal: Option<Rc<Refusal>>) -> Slot {
        Slot {
            pending,
            hold,
            refusal,
            again: false,
            arriving: (0, PageAssembly::new(&Header::new(Kind::Grant))),
        }
    }

    /// Tells who asked why there will be no grant.
    fn note(&self, error: Errno) {
        if let Some(refusal) = &self.refusal {
            refusal.0.set(Some(error));
        }
    }

    /// A piece of a grant with the page's bytes arrived. Says whether the page is whole.
    fn arrived(&mut self, header: &Header, piece: &[u8], mix: bool) -> bool {
        let (seq, assembly) = &mut self.arriving;
        if header.seq < *seq && !mix {
            return false;
        }
        let new = header.seq != *seq && !(mix && *seq != 0);
        if new || !assembly.fits(header) {
            *seq = header.seq;
            *assembly = PageAssembly::new(header);
        }
        let Some(range) = assembly.accept(header) else {
            return false;
        };
        let placed = match &self.hold {
            Hold::Fill(folio) => match folio.bytes_mut().get_mut(range) {
                Some(bytes) if bytes.len() == piece.len() => {
                    bytes.copy_from_slice(piece);
                    true
                }
                _ => false,
            },
            Hold::Upgrade(_) => true,
        };
        placed && assembly.complete()
    }
}

/// A Get in flight.
pub struct Request {
    /// Its id.
    pub id: u64,
    first: u64,
    want: Want,
    slots: Vec<Option<Slot>>,
    left: usize,
    overtaken: bool,
}

impl Request {
    fn slot_mut(&mut self, page: u64) -> Option<&mut Option<Slot>> {
        let at = usize::try_from(page.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(at)
    }

    /// Gives up what has not been granted: the folios stay not uptodate.
    pub fn fail(self) {
        for slot in self.slots.into_iter().flatten() {
            if let Hold::Fill(folio) = slot.hold {
                folio.end_read(false);
            }
        }
    }
}

impl State {
    /// A page of request `id`, which reads, was answered: requests that have a gap before that.
    fn note_overtaken(&mut self, id: u64) -> Vec<u64> {
        let behind = |request: &&mut Request| {
            let passed = request.id < id || request.slots.last().is_some_and(Option::is_none);
            let missing = request.left != 0 && request.want == Want::Read;
            passed && request.id <= id && missing && !request.overtaken
        };
        let behind = self.gets.iter_mut().filter(behind);
        behind
            .map(|request| {
                request.overtaken = true;
                request.id
            })
            .collect()
    }

    /// The request in flight for a page.
    pub fn pending_mut(&mut self, page: u64) -> Option<&mut Pending> {
        self.gets.iter_mut().find_map(|request| {
            let slot = request.slot_mut(page)?.as_mut()?;
            (!slot.again).then_some(&mut slot.pending)
        })
    }

    /// The error that a reader of this page need not wait for once more.
    fn check_known(&self, page: u64, now: u64) -> Result {
        match &self.failed {
            Some(failed)
                if failed.page.is_none_or(|only| only == page) && now < failed.since + KNOWN_US =>
            {
                Err(failed.error)
            }
            _ => Ok(()),
        }
    }

    /// Whether somebody waits for this page, also if the work item has yet to ask again.
    pub fn in_flight(&mut self, page: u64) -> bool {
        self.gets
            .iter_mut()
            .any(|request| request.slot_mut(page).is_some_and(|slot| slot.is_some()))
    }
}

struct Get {
    inode: Rc<Inode>,
    header: Header,
}

impl Exchange for Get {
    fn patient(&self) -> bool {
        true
    }

    fn piece(&self, _: &Rc<Peer>, header: &Header, piece: &[u8]) -> bool {
        self.inode.granted(header, Some(piece))
    }

    fn answer(&self, _: &Rc<Peer>, header: &Header, _: &[u8]) -> bool {
        match header.kind {
            Kind::Grant => self.inode.granted(header, None),
            Kind::Reply if header.status != 0 => {
                let error = Errno::from_raw(i32::from(header.status));
                self.inode.fail_request(self.header.request, error);
                true
            }
            _ => false,
        }
    }

    fn send(&self, peer: &Rc<Peer>, retry: bool) {
        let mut bitmap = [0u8; MAX_BATCH_PAGES / 8];
        let mut bytes = 0;
        {
            let state = self.inode.state.borrow();
            let id = self.header.request;
            let Some(request) = state.gets.iter().find(|request| request.id == id) else {
                return;
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
        let mut header = self.header;
        if retry {
            header.flags |= flags::RETRY;
        }
        let _ = peer.send(&header, &bitmap[..bytes]);
    }

    fn expired(&self, error: Errno) {
        self.inode.fail_request(self.header.request, error);
    }
}

impl Inode {
    /// Asks for as many of `folios` as one request can: pages in a row, each locked and not uptodate. Takes those that it asked for out of
    /// the front, and says how many; 0: the first one cannot be asked for now.
    fn ask(
        self: &Rc<Inode>,
        want: Want,
        folios: &mut [Option<Locked>],
        mut refusal: Option<Rc<Refusal>>,
    ) -> Result<usize> {
        let node = self.node();
        let limit = folios.len().min(MAX_BATCH_PAGES);
        let folios = &mut folios[..limit];
        let first = folios
            .first()
            .and_then(Option::as_ref)
            .ok_or(Errno::EINVAL)?
            .index();
        let mut slots = Vec::new();
        let id = node.exchanges.next_request();
        let (count, file, seq);
        {
            let mut state = self.state.borrow_mut();
            file = state.usable()?;
            let mut given_up = 0;
            for (page, folio) in (first..).zip(folios.iter_mut()) {
                let mut copy = state.copy(page);
                let held = copy.held();
                if held.is_none() || state.in_flight(page) || (page != first && held != Some(0)) {
                    break;
                }
                given_up = copy.lost();
                state.set_copy(page, copy);
                let Some(folio) = folio.take() else { break };
                let pending = Pending::new(id, want);
                slots.push(Some(Slot::new(pending, Hold::Fill(folio), refusal.take())));
                if given_up != 0 {
                    break;
                }
            }
            count = slots.len();
            seq = given_up;
            if count == 0 {
                return Ok(0);
            }
            state.gets.push(Request {
                id,
                first,
                want,
                slots,
                left: count,
                overtaken: false,
            });
        }
        self.launch(Header {
            request: id,
            file,
            index: first,
            count: count as u32,
            seq,
            ..Header::new(match want {
                Want::Read => Kind::GetShared,
                Want::Write => Kind::GetModified,
            })
        });
        Ok(count)
    }

    /// Asks for ownership of a page that is readable here, and of up to `more` behind it that are, too.
    fn upgrade(self: &Rc<Inode>, first: u64, more: usize, refusal: &Rc<Refusal>) -> Result<bool> {
        let mut refusal = Some(refusal.clone());
        let node = self.node();
        let limit = more.min(MAX_BATCH_PAGES - 1) + 1;
        let mut slots = Vec::new();
        let header = {
            let mut state = self.state.borrow_mut();
            let id = node.exchanges.next_request();
            let file = state.usable()?;
            for page in first..first + limit as u64 {
                let folio = self.mapping.find(page);
                let readable = folio.filter(|folio| state.copy(page).have() && folio.uptodate());
                let Some(folio) = readable.filter(|_| !state.in_flight(page)) else {
                    break;
                };
                let pending = Pending::new(id, Want::Write);
                slots.push(Some(Slot::new(
                    pending,
                    Hold::Upgrade(folio),
                    refusal.take(),
                )));
            }
            let count = slots.len();
            if count == 0 {
                return Ok(false);
            }
            state.gets.push(Request {
                id,
                first,
                want: Want::Write,
                slots,
                left: count,
                overtaken: false,
            });
            Header {
                request: id,
                file,
                index: first,
                count: count as u32,
                flags: flags::HAVE,
                ..Header::new(Kind::GetModified)
            }
        };
        self.launch(header);
        Ok(true)
    }

    fn launch(self: &Rc<Inode>, header: Header) {
        let get = Rc::new(Get {
            inode: self.clone(),
            header,
        });
        let timeout = self.node().timeout_us();
        exchange::start(&self.peer, header.request, get, Some(timeout));
    }

    fn fail_request(&self, id: u64, error: Errno) {
        let now = self.node().now_us();
        let request = {
            let mut state = self.state.borrow_mut();
            let position = state.gets.iter().position(|request| request.id == id);
            position.map(|position| {
                for slot in state.gets[position].slots.iter().flatten() {
                    slot.note(error);
                }
                if matches!(error, Errno::ETIMEDOUT | Errno::ENOTCONN) {
                    state.failed = Some(Failed {
                        page: None,
                        error,
                        since: now,
                    });
                }
                state.gets.remove(position)
            })
        };
        if let Some(request) = request {
            request.fail();
            self.changes.happen();
        }
    }

    /// A `Grant` arrived, or a piece of one that has bytes. Says whether its request is over. Receive thread.
    fn granted(self: &Rc<Inode>, header: &Header, piece: Option<&[u8]>) -> bool {
        let node = self.node();
        let page = header.index;
        let mut fill = None;
        let mut refused = None;
        let mut again = false;
        let mut overtaken = Vec::new();
        let last;
        {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            let id = header.request;
            let Some(position) = state.gets.iter().position(|request| request.id == id) else {
                return true;
            };
            let mut copy = state.copy(page);
            let request = &mut state.gets[position];
            let want = request.want;
            let Some(place) = request.slot_mut(page) else {
                return false;
            };
            let Some(slot) = place.as_mut().filter(|slot| !slot.again) else {
                return false;
            };
            if let Some(piece) = piece {
                if !slot.arrived(header, piece, node.world.has(Bug::PiecesMixed)) {
                    return false;
                }
                node.note_message(false, self.peer.number(), header);
            }
            let known = state.failed.as_ref();
            let refutes = |only| only == page && header.status == 0;
            if known.is_some_and(|failed| failed.page.is_none_or(refutes)) {
                state.failed = None;
            }
            let mut failed = None;
            if header.status != 0 {
                let error = Errno::from_raw(i32::from(header.status));
                if matches!(error, Errno::EBUSY | Errno::ENOMEM | Errno::EAGAIN) {
                    return false;
                }
                slot.note(error);
                if want == Want::Read && !matches!(error, Errno::ENODATA | Errno::EBADF) {
                    failed = Some(error);
                }
                refused = place.take();
            } else {
                let (data, valid) = match &slot.hold {
                    Hold::Fill(_) => (piece.is_some() && header.has(flags::DATA), false),
                    Hold::Upgrade(folio) => (false, copy.have() && folio.uptodate()),
                };
                let write = header.has(flags::WRITE);
                let verdict = copy.grant(
                    Some(&slot.pending),
                    header.request,
                    header.seq,
                    write,
                    data,
                    valid,
                );
                match verdict {
                    GrantVerdict::Accept => {
                        fill = place.take();
                        state.set_copy(page, copy);
                        if data {
                            let end = page * PAGE_BYTES as u64 + u64::from(header.length);
                            state.reaches(page, end);
                        }
                    }
                    GrantVerdict::Retry if matches!(slot.hold, Hold::Fill(_)) => {
                        slot.again = true;
                        state.set_copy(page, copy);
                        again = true;
                    }
                    GrantVerdict::Retry => refused = place.take(),
                    GrantVerdict::Ignore => return false,
                }
            }
            if let Some(error) = failed {
                state.failed = Some(Failed {
                    page: Some(page),
                    error,
                    since: node.now_us(),
                });
            }
            let request = &mut state.gets[position];
            request.left -= 1;
            last = request.left == 0;
            if want == Want::Read {
                overtaken = state.note_overtaken(header.request);
            }
            let request = &state.gets[position];
            if last && request.slots.iter().all(Option::is_none) {
                state.gets.remove(position);
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
            folio.bytes_mut()[(header.length as usize).min(PAGE_BYTES)..].fill(0);
            folio.end_read(true);
        }
        if let Some(Slot {
            hold: Hold::Fill(folio),
            ..
        }) = refused
        {
            folio.end_read(false);
        }
        if again {
            self.kick();
        }
        self.changes.happen();
        for request in overtaken {
            exchange::overtaken(&self.peer, request);
        }
        last
    }

    /// Asks again for pages whose grants were overtaken. Work item.
    pub fn ask_again(self: &Rc<Inode>) {
        loop {
            let mut found = None;
            {
                let mut state = self.state.borrow_mut();
                for position in 0..state.gets.len() {
                    let request = &mut state.gets[position];
                    let want = request.want;
                    let again =
                        |place: &&mut Option<Slot>| place.as_ref().is_some_and(|slot| slot.again);
                    if let Some(place) = request.slots.iter_mut().find(again) {
                        found = place.take().map(|slot| (want, slot));
                        if request.slots.iter().all(Option::is_none) {
                            state.gets.remove(position);
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
            let _ = self.ask(want, &mut folio, refusal);
            if let Some(folio) = folio[0].take() {
                folio.end_read(false);
                self.changes.happen();
            }
        }
    }

    /// Brings the page here: its folio, locked and uptodate, and to be written with ownership; for that the caller has claimed it.
    pub async fn obtain(self: &Rc<Inode>, page: u64, want: Want, more: usize) -> Result<Locked> {
        let node = self.node();
        let end = node.now_us().saturating_add(2 * node.timeout_us());
        let refusal = Rc::new(Refusal::default());
        let mut again = false;
        loop {
            self.settle(page).await?;
            let seen = self.changes.seen();
            // Whoever holds the lock may be waiting for the network.
            let folio = self.mapping.create_killable(page).await?;
            let copy = self.state.borrow().copy(page);
            if folio.uptodate() && (want == Want::Read || copy.may_write()) {
                return Ok(folio);
            }
            refusal.check()?;
            if want == Want::Read || again {
                self.state.borrow().check_known(page, node.now_us())?;
            }
            again = true;
            if node.now_us() > end {
                return Err(Errno::ETIMEDOUT);
            }
            let asked = if !folio.uptodate() {
                self.ask_for_run(folio, want, more, &refusal)?
            } else {
                drop(folio);
                copy.have() && self.upgrade(page, more, &refusal)?
            };
            if !asked {
                let timeout = node.timeout_us();
                self.changes.wait(seen, timeout, Wait::Killable).await?;
            }
        }
    }

    async fn settle(&self, page: u64) -> Result {
        let timeout = self.node().timeout_us();
        loop {
            let seen = self.changes.seen();
            if !self.state.borrow_mut().in_flight(page) {
                return Ok(());
            }
            self.changes.wait(seen, timeout, Wait::Killable).await?;
        }
    }

    fn ask_for_run(
        self: &Rc<Inode>,
        folio: Locked,
        want: Want,
        more: usize,
        refusal: &Rc<Refusal>,
    ) -> Result<bool> {
        let first = folio.index();
        let limit = more.min(MAX_BATCH_PAGES - 1);
        let mut folios = vec![Some(folio)];
        for page in first + 1..=first + limit as u64 {
            if self.state.borrow().copy(page).held() != Some(0) {
                break;
            }
            let Some(folio) = self.mapping.add(page) else {
                break;
            };
            folios.push(Some(folio));
        }
        let asked = self.ask(want, &mut folios, Some(refusal.clone()));
        for folio in folios
            .into_iter()
            .flatten()
            .filter(|folio| folio.index() != first)
        {
            self.mapping.remove(&folio);
        }
        Ok(asked? > 0)
    }

    /// `readahead`: asks for everything at once, and waits for nothing.
    fn readahead(self: &Rc<Inode>, first: u64, count: u64) {
        let mut folios: Vec<Option<Locked>> = (first..first + count)
            .map_while(|page| self.mapping.add(page))
            .map(Some)
            .collect();
        let mut rest = &mut folios[..];
        while !rest.is_empty() {
            match self.ask(Want::Read, rest, None) {
                Ok(count) if count > 0 => rest = &mut rest[count..],
                _ => {
                    if let Some(folio) = rest[0].take() {
                        self.mapping.remove(&folio);
                    }
                    rest = &mut rest[1..];
                }
            }
        }
    }

    /// `read_folio`: asks for the page of a locked folio that is not uptodate.
    async fn read_folio(self: &Rc<Inode>, folio: Locked) -> Result {
        let node = self.node();
        let page = folio.index();
        self.state.borrow().check_known(page, node.now_us())?;
        let end = node.now_us().saturating_add(2 * node.timeout_us());
        let mut folio = [Some(folio)];
        loop {
            let seen = self.changes.seen();
            if self.ask(Want::Read, &mut folio, None)? > 0 {
                return Ok(());
            }
            self.changes
                .wait(seen, node.timeout_us(), Wait::Killable)
                .await?;
            if node.now_us() > end {
                return Err(Errno::ETIMEDOUT);
            }
        }
    }

    /// `filemap_read` of one page, with `ahead` behind it to be asked for along with it. `EIO`: it could not be had.
    pub async fn filemap_read(self: &Rc<Inode>, page: u64, ahead: u64) -> Result<Rc<Folio>> {
        if self.mapping.find(page).is_none() {
            self.readahead(page, ahead + 1);
        }
        loop {
            let folio = match self.mapping.find(page) {
                Some(folio) if folio.uptodate() => return Ok(folio),
                Some(folio) => folio.lock_killable().await?,
                None => match self.mapping.add(page) {
                    Some(folio) => folio,
                    None => continue,
                },
            };
            if !folio.is_attached() {
                continue;
            }
            if folio.uptodate() {
                return Ok(folio.clone());
            }
            let read = folio.clone();
            self.read_folio(folio).await?;
            read.wait_unlocked().await?;
            return if read.uptodate() {
                Ok(read)
            } else {
                Err(Errno::EIO)
            };
        }
    }
}
