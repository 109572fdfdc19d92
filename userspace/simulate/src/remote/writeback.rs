// SPDX-License-Identifier: GPL-2.0

//! Dirty pages on their way home: `rust/remote/writeback.rs`.

use std::{
    cell::{Cell, RefMut},
    rc::Rc,
};

use nix::errno::Errno;
use vremote_proto::{
    copy::{Copy, State as CopyState},
    limits::PAGE_BYTES,
    wire::{flags, Header, Kind},
};

use super::{
    file::session_of,
    state::{Inode, State},
};
use crate::{
    bug::Bug,
    folio::{Folio, Locked},
    net::{
        exchange::{self, call, Exchange},
        peer::Peer,
    },
    wait::{Result, Wait},
};

/// `Put`s of one file that may be in flight before writeback waits.
const MAX_PUTS: usize = 128;

/// A page on its way home.
pub struct Put {
    inode: Rc<Inode>,
    folio: Rc<Folio>,
    header: Header,
    /// Its id.
    pub request: u64,
    count: usize,
    failed: Cell<bool>,
    /// By the origin, and not because its session ended.
    refused: Cell<bool>,
}

impl Put {
    /// Prepares to send a page home that is `Modified` and dirty.
    pub fn new(inode: &Rc<Inode>, folio: &Rc<Folio>, keep: bool) -> Rc<Put> {
        let node = inode.node();
        let page = folio.index();
        let request = node.exchanges.next_request();
        let (file, seq, size) = {
            let state = inode.state.borrow();
            (state.file, state.copy(page).seq, state.size())
        };
        let seq = if node.world.has(Bug::PutOfAnotherGrant) {
            seq.saturating_sub(1)
        } else {
            seq
        };
        let header = Header {
            request,
            file,
            index: page,
            seq,
            flags: if keep { flags::KEEP } else { 0 },
            ..Header::new(Kind::Put)
        };
        let count = size
            .saturating_sub(page * PAGE_BYTES as u64)
            .min(PAGE_BYTES as u64) as usize;
        Rc::new(Put {
            inode: inode.clone(),
            folio: folio.clone(),
            header,
            request,
            count,
            failed: Cell::new(false),
            refused: Cell::new(false),
        })
    }

    fn keep(&self) -> bool {
        self.header.flags & flags::KEEP != 0
    }

    /// Sends it. The page's state is `WritingBack` by now.
    pub fn go(self: Rc<Put>, mut state: RefMut<'_, State>, folio: Locked) {
        state.puts.push(self.clone());
        drop(state);
        if self.keep() {
            folio.clean_for_io();
            folio.start_writeback();
        } else {
            self.inode.mapping.remove(&folio);
        }
        let deadline = self
            .inode
            .node()
            .world
            .has(Bug::PutGivenUp)
            .then(|| self.inode.node().timeout_us());
        exchange::start(&self.inode.peer, self.request, self.clone(), deadline);
    }

    /// The origin has it.
    fn confirmed(&self, header: &Header) {
        let inode = &self.inode;
        let page = self.header.index;
        {
            let mut state = inode.state.borrow_mut();
            let position = state
                .puts
                .iter()
                .position(|put| put.request == self.request && !put.failed.get());
            let Some(position) = position else { return };
            state.puts.remove(position);
        }
        if self.keep() {
            self.folio.end_writeback();
        }
        let waiting = {
            let mut state = inode.state.borrow_mut();
            let mut copy = state.copy(page);
            copy.put_done();
            state.set_copy(page, copy);
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

    /// The origin will not get it.
    fn fail(&self, error: Errno) {
        {
            let state = self.inode.state.borrow();
            let mine = state.puts.iter().any(|put| put.request == self.request);
            if self.failed.get() || !mine {
                return;
            }
            self.failed.set(true);
        }
        if !self.inode.node().world.has(Bug::LossUnreported) {
            self.inode.report_loss(self.count as u64, error);
        }
        if self.keep() {
            self.folio.end_writeback();
        }
        self.inode.changes.happen();
        self.inode.kick();
    }

    /// Ends it after it was taken out of the list, its session being over. Returns the bytes that are lost by that.
    pub fn give_up(&self) -> u64 {
        if self.failed.get() {
            return 0;
        }
        if self.keep() {
            self.folio.end_writeback();
        }
        self.count as u64
    }
}

impl Exchange for Put {
    fn answer(&self, _: &Rc<Peer>, header: &Header, _: &[u8]) -> bool {
        if header.kind != Kind::Reply {
            return false;
        }
        if header.status == 0 {
            self.confirmed(header);
        } else {
            self.refused.set(true);
            self.fail(Errno::from_raw(i32::from(header.status)));
        }
        true
    }

    fn send(&self, peer: &Rc<Peer>, retry: bool) {
        let mut header = self.header;
        if retry {
            header.flags |= flags::RETRY;
        }
        let bytes = self.folio.bytes();
        let _ = peer.send(&header, &bytes[..self.count]);
    }

    fn expired(&self, error: Errno) {
        if error == Errno::ETIMEDOUT && self.inode.node().world.has(Bug::PutGivenUp) {
            return self.confirmed(&Header::default());
        }
        self.fail(error);
    }
}

impl Inode {
    /// Discards the pages whose `Put`s failed.
    pub async fn discard_failed(&self) {
        loop {
            let failed = self
                .state
                .borrow()
                .puts
                .iter()
                .find(|put| put.failed.get())
                .cloned();
            let Some(put) = failed else { return };
            let page = put.header.index;
            let folio = put.folio.lock().await;
            self.mapping.remove(&folio);
            {
                let mut state = self.state.borrow_mut();
                let position = state
                    .puts
                    .iter()
                    .position(|other| other.request == put.request);
                if let Some(position) = position {
                    if matches!(state.copy(page).state, CopyState::WritingBack { .. }) {
                        state.set_copy(page, Copy::INVALID);
                    }
                    state.puts.remove(position);
                }
            }
            drop(folio);
            if put.refused.get() {
                let node = self.node();
                node.world
                    .refused(&node, self.page(page), put.header.seq, put.folio.stamp());
            }
            self.changes.happen();
        }
    }

    async fn wait_for_puts(&self, enough: impl Fn(&State) -> bool) -> Result {
        let node = self.node();
        let mut deadline = node.deadline();
        let mut fewest = usize::MAX;
        loop {
            let seen = self.changes.seen();
            {
                let state = self.state.borrow();
                if enough(&state) {
                    return Ok(());
                }
                if state.puts.len() < fewest {
                    fewest = state.puts.len();
                    deadline = node.deadline();
                }
            }
            let left = deadline.left(node.now_us()).ok_or(Errno::ETIMEDOUT)?;
            self.changes.wait(seen, left, Wait::Killable).await?;
        }
    }

    fn put_kept(self: &Rc<Inode>, folio: Locked) -> Result {
        let put = Put::new(self, &folio, true);
        let mut state = self.state.borrow_mut();
        let page = folio.index();
        let mut copy = state.copy(page);
        if state.file == 0 || !copy.write_back(true) {
            let over = state.file == 0;
            drop(state);
            folio.mark_dirty();
            return Err(if over { Errno::EIO } else { Errno::EAGAIN });
        }
        state.set_copy(page, copy);
        put.go(state, folio);
        Ok(())
    }

    /// `writepages`, for one folio that may be dirty; `waiting`: not in the background.
    pub async fn write_out(self: &Rc<Inode>, folio: &Rc<Folio>, waiting: bool) -> Result {
        if self.state.borrow().puts.len() >= MAX_PUTS {
            self.wait_for_puts(|state| state.puts.len() < MAX_PUTS)
                .await?;
        }
        if !folio.dirty() {
            return Ok(());
        }
        let folio = folio.lock().await;
        if !folio.is_attached() || !folio.dirty() || (folio.under_writeback() && !waiting) {
            return Ok(());
        }
        folio.wait_writeback().await;
        if !folio.clean_for_io() {
            return Ok(());
        }
        match self.put_kept(folio) {
            Err(Errno::EAGAIN) if !waiting => Ok(()),
            result => result,
        }
    }

    /// fsync: sends all dirty pages home, waits until they are there, and has the origin write them to its disk. Gives the session in which
    /// that was done, for the checks.
    pub async fn commit(self: &Rc<Inode>) -> Result<(u64, u64)> {
        let node = self.node();
        let mut written = Ok(());
        for folio in self.mapping.all() {
            written = written.and(self.write_out(&folio, true).await);
        }
        let mark = node.exchanges.next_request();
        self.wait_for_puts(|state| state.puts.iter().all(|put| put.request > mark))
            .await?;
        written?;
        let (file, errors) = {
            let state = self.state.borrow();
            (state.usable()?, state.errors)
        };
        let header = Header {
            file,
            count: errors,
            ..Header::new(Kind::Commit)
        };
        let answer = call(&self.peer, header, &[]).await?.header;
        self.learn_size(&answer, answer.size);
        if answer.index != 0 {
            let error = Errno::from_raw(answer.index as i32);
            self.told_of_error(answer.count, error);
            return Err(error);
        }
        Ok(session_of(&answer))
    }

    /// Drops a clean page, as the kernel does when memory is short.
    pub fn reclaim(&self, index: u64) {
        if let Some(folio) = self.mapping.idle(index) {
            self.mapping.remove(&folio);
        }
    }
}
