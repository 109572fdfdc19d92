// SPDX-License-Identifier: GPL-2.0

//! What is kept for an inode of another node's file: `rust/remote/state.rs`.
//!
//! Left out: the kernel's inode and its eviction (what was opened once is kept while its node lives), attributes, mappings of processes.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::{Rc, Weak},
};

use nix::errno::Errno;
use vremote_proto::{
    copy::{Copy, State as CopyState},
    limits::{HELLO_HURRY_US, PAGE_BYTES},
    size::Size,
    wire::Header,
};

use super::{
    file::session_of,
    pages::{Failed, Request},
    recall::{Claimed, Outcome},
    writeback::Put,
};
use crate::{
    bug::Bug,
    errseq::{Cursor, Errors},
    folio::Mapping,
    ghost::Page,
    net::peer::Peer,
    node::Node,
    wait::{Changes, Mutex, Result, Wait, Work},
};

/// The part of an [`Inode`] that changes.
pub struct State {
    /// File id at the origin; 0: it was not opened in the present session.
    pub file: u64,
    /// Session that the file was opened in.
    pub session: (u64, u64),
    /// Descriptors of this node, by access.
    pub readers: u32,
    /// See above.
    pub writers: u32,
    /// The errors of the origin's disk that this node has been told of.
    pub errors: Cursor,
    size: Size,
    words: BTreeMap<u64, u64>,
    /// Gets in flight.
    pub gets: Vec<Request>,
    /// `Put`s in flight.
    pub puts: Vec<Rc<Put>>,
    /// `Invalidate`s and `Recall`s that could not be done at once.
    pub jobs: Vec<Header>,
    /// Pages that a writer has asked for and not yet written.
    pub claims: Vec<Claimed>,
    stale: bool,
    lives: u64,
    /// The last Get that failed, if no answer has refuted it.
    pub failed: Option<Failed>,
}

impl State {
    /// The file id for a request. `ESTALE`: the session in which it was opened is over.
    pub fn usable(&self) -> Result<u64> {
        if self.file == 0 {
            Err(Errno::ESTALE)
        } else {
            Ok(self.file)
        }
    }

    /// As [`State::usable`], of what was opened in this life of it.
    pub fn usable_in(&self, life: u64) -> Result<u64> {
        let file = self.usable()?;
        (self.lives == life).then_some(file).ok_or(Errno::ESTALE)
    }

    /// Names the file id's life, for [`Inode::confirm`].
    pub fn life(&self) -> Result<u64> {
        self.usable().map(|_| self.lives)
    }

    /// A page was granted with its bytes, which end here ([`Size::reaches`]).
    pub fn reaches(&mut self, page: u64, end: u64) {
        let words = &self.words;
        self.size
            .reaches(page, end, |page| State::copy_in(words, page));
    }

    fn copy_in(words: &BTreeMap<u64, u64>, page: u64) -> Copy {
        Copy::from_word(words.get(&page).copied().unwrap_or_default())
    }

    /// Size of the file as far as known here.
    pub fn size(&self) -> u64 {
        self.size.bytes()
    }

    /// State and grant of a page.
    pub fn copy(&self, page: u64) -> Copy {
        State::copy_in(&self.words, page)
    }

    /// Sets it.
    pub fn set_copy(&mut self, page: u64, copy: Copy) {
        self.words.insert(page, copy.word());
    }

    /// All pages with their copies.
    pub fn copies(&self) -> impl Iterator<Item = (u64, Copy)> + '_ {
        self.words
            .iter()
            .map(|(page, word)| (*page, Copy::from_word(*word)))
    }
}

/// What is kept for an inode of another node's file.
pub struct Inode {
    node: Weak<Node>,
    /// Whose file it is.
    pub peer: Rc<Peer>,
    /// Which of its files.
    pub number: usize,
    /// The page cache.
    pub mapping: Mapping,
    /// The mapping's errors.
    pub wb_err: Cell<Errors>,
    /// Serialises writers.
    pub i_rwsem: Mutex,
    /// What changes.
    pub state: RefCell<State>,
    /// Everything that somebody may wait for.
    pub changes: Changes,
    work: Work,
}

impl Inode {
    /// Nothing is known yet.
    pub fn new(node: &Rc<Node>, origin: usize, number: usize) -> Rc<Inode> {
        let sim = &node.world.sim;
        Rc::new(Inode {
            node: Rc::downgrade(node),
            peer: node.peer(origin).clone(),
            number,
            mapping: Mapping::new(sim),
            wb_err: Cell::default(),
            i_rwsem: Mutex::new(sim),
            state: RefCell::new(State {
                file: 0,
                session: (0, 0),
                readers: 0,
                writers: 0,
                errors: 0,
                size: Size::default(),
                words: BTreeMap::new(),
                gets: Vec::new(),
                puts: Vec::new(),
                jobs: Vec::new(),
                claims: Vec::new(),
                stale: false,
                lives: 0,
                failed: None,
            }),
            changes: Changes::new(sim),
            work: Work::default(),
        })
    }

    /// The node that it is used on.
    ///
    /// # Panics
    ///
    /// That is gone.
    pub fn node(&self) -> Rc<Node> {
        self.node
            .upgrade()
            .expect("nothing of a node outlives its crash")
    }

    /// Forgets everything: the node is dead.
    pub fn clear(&self) {
        let (gets, puts) = {
            let mut state = self.state.borrow_mut();
            (
                core::mem::take(&mut state.gets),
                core::mem::take(&mut state.puts),
            )
        };
        drop((gets, puts));
    }

    /// Names a page of it.
    pub fn page(&self, index: u64) -> Page {
        Page {
            origin: self.peer.number(),
            file: self.number,
            index,
        }
    }

    /// Size of the file as far as known here.
    pub fn size(&self) -> u64 {
        self.state.borrow().size()
    }

    /// Which life of the file id it is; for descriptors, which are of one life.
    pub fn lives(&self) -> u64 {
        self.state.borrow().lives
    }

    /// Makes sure, after it was done, that what was done with cached pages in this life was done in time.
    pub async fn confirm(&self, life: u64) -> Result {
        let node = self.node();
        if node.world.has(Bug::NotConfirmed) {
            return Ok(());
        }
        let mut deadline = node.deadline();
        loop {
            let seen = self.peer.lease_changes.seen();
            let leased = self.peer.leased();
            self.state.borrow().usable_in(life)?;
            if leased {
                return Ok(());
            }
            self.peer.hello(false);
            let left = deadline.left(node.now_us()).ok_or(Errno::ETIMEDOUT)?;
            // A hello that is lost is not repeated for a second.
            self.peer
                .lease_changes
                .wait(seen, left.min(HELLO_HURRY_US), Wait::Killable)
                .await?;
        }
    }

    /// Takes a size that came with an answer of the origin, if that is newer than what is known.
    pub fn learn_size(&self, answer: &Header, size: u64) {
        let any = self.node().world.has(Bug::SizeOfAnyAge);
        let held_up = self.node().world.has(Bug::SizeHeldUpOnTheWay);
        let mut state = self.state.borrow_mut();
        if any {
            state.size.restart();
        }
        let shared = state.file != 0;
        let ours = (answer.file, session_of(answer)) == (state.file, state.session);
        if shared && answer.seq != 0 && !ours {
            return;
        }
        let seq = if shared { answer.seq } else { 0 };
        let unordered = !shared || (state.readers == 0 && state.writers == 0);
        let State {
            size: known, words, ..
        } = &mut *state;
        known.learn(seq, size, unordered, |page| {
            let mut copy = State::copy_in(words, page);
            if held_up && copy.held().is_none() {
                copy.state = CopyState::Shared;
            }
            copy
        });
    }

    /// Lets the work item run.
    pub fn kick(self: &Rc<Inode>) {
        if self.work.queue() {
            let inode = self.clone();
            let node = self.node();
            node.world.sim.spawn(node.home(), async move {
                while inode.work.begin() {
                    inode.run_jobs().await;
                }
            });
        }
    }

    /// Leaves an `Invalidate` or a `Recall` to the work item.
    pub fn leave(self: &Rc<Inode>, header: &Header) {
        {
            let mut state = self.state.borrow_mut();
            let same =
                |other: &&mut Header| other.kind == header.kind && other.index == header.index;
            match state.jobs.iter_mut().find(same) {
                Some(other) if other.seq > header.seq => {}
                Some(other) => *other = *header,
                None => state.jobs.push(*header),
            }
        }
        self.kick();
    }

    async fn run_jobs(self: &Rc<Inode>) {
        self.discard_failed().await;
        self.ask_again();
        let jobs = core::mem::take(&mut self.state.borrow_mut().jobs);
        for header in jobs {
            if self.do_message(&header, true).await == Outcome::Later {
                self.state.borrow_mut().jobs.push(header);
            }
        }
    }

    /// A descriptor was opened, with this file id and these errors of the origin's disk: takes it over. A new id means that the origin knows
    /// nothing of what is cached here.
    pub async fn attach(
        self: &Rc<Inode>,
        file: u64,
        session: (u64, u64),
        errors: Cursor,
    ) -> Result {
        let any = self.node().world.has(Bug::OpenedInOldSession);
        let current = || any || self.peer.session() == session;
        if self.state.borrow().file == file && current() {
            return Ok(());
        }
        let _inode = self.i_rwsem.lock(Wait::Killable).await?;
        // In the next session the id means nothing, or another file.
        if !current() {
            return Err(Errno::ESTALE);
        }
        if self.state.borrow().file == file {
            return Ok(());
        }
        self.cut();
        self.purge().await;
        self.node()
            .table
            .borrow_mut()
            .insert((self.peer.slot, file), self.clone());
        {
            let mut state = self.state.borrow_mut();
            state.file = file;
            state.session = session;
            state.size.restart();
            if !self.node().world.has(Bug::ErrorsOfOldSession) {
                // Descriptors of an earlier session may still be open, and the origin has counted anew since.
                state.errors = errors;
            }
        }
        // If it ends only after this, `abandon` finds the inode in the table.
        if !current() {
            self.cut();
            return Err(Errno::ESTALE);
        }
        Ok(())
    }

    /// Ends what is in flight under the present file id, which becomes 0.
    fn cut(&self) {
        let node = self.node();
        let (file, puts, gets) = {
            let mut state = self.state.borrow_mut();
            state.stale |= state.file != 0;
            state.lives += 1;
            if !node.world.has(Bug::OldJobsKept) {
                state.jobs.clear();
            }
            state.size.restart();
            (
                core::mem::take(&mut state.file),
                core::mem::take(&mut state.puts),
                core::mem::take(&mut state.gets),
            )
        };
        if file != 0 {
            let entry = node.table.borrow_mut().remove(&(self.peer.slot, file));
            drop(entry);
        }
        for request in gets {
            node.exchanges.finish(request.id);
            request.fail();
        }
        let mut lost = 0;
        for put in puts {
            node.exchanges.finish(put.request);
            lost += put.give_up();
        }
        if lost != 0 {
            self.report_loss(lost, Errno::EIO);
        }
        self.changes.happen();
        self.peer.lease_changes.happen();
    }

    /// Drops what was granted before [`Inode::cut`]. The caller holds its i_rwsem.
    async fn purge(&self) {
        if !self.state.borrow().stale {
            return;
        }
        let lost = self.dirty_bytes();
        self.state.borrow_mut().words.clear();
        self.mapping.truncate(0).await;
        self.state.borrow_mut().stale = false;
        if lost != 0 && !self.node().world.has(Bug::LossUnreported) {
            self.report_loss(lost, Errno::EIO);
        }
        self.changes.happen();
    }

    fn dirty_bytes(&self) -> u64 {
        let state = self.state.borrow();
        let dirty = state.copies().filter(|(page, copy)| {
            copy.state == CopyState::Modified
                && self.mapping.find(*page).is_some_and(|folio| folio.dirty())
        });
        (dirty.count() * PAGE_BYTES) as u64
    }

    /// Something written did not get to the origin's disk: every descriptor's next fsync says so, once.
    pub fn set_error(&self, error: Errno) {
        let mut errors = self.wb_err.get();
        errors.set(error);
        self.wb_err.set(errors);
    }

    /// The origin tells of an error of its disk.
    pub fn told_of_error(&self, errors: Cursor, error: Errno) {
        let mut state = self.state.borrow_mut();
        if state.errors != errors {
            state.errors = errors;
            drop(state);
            self.set_error(error);
        }
    }

    /// Bytes written here will never reach the origin.
    pub fn report_loss(&self, bytes: u64, error: Errno) {
        self.set_error(error);
        let node = self.node();
        let (origin, file) = (self.peer.slot, self.number);
        node.note(&[6, u64::from(origin), file as u64, bytes], || {
            format!("{bytes} bytes written to n{origin}/{file} are lost: {error:?}")
        });
        node.world
            .ghost(|ghost| ghost.reported(node.number, self.page(0)));
    }
}

/// The session with `peer` is over: every copy of its files is dropped.
pub async fn abandon(peer: &Rc<Peer>) {
    let node = peer.node();
    let inodes: Vec<_> = node
        .table
        .borrow()
        .iter()
        .filter(|((slot, _), _)| *slot == peer.slot)
        .map(|(_, inode)| inode.clone())
        .collect();
    // First all of them, without their locks: who holds one may wait for what this ends.
    for inode in &inodes {
        inode.cut();
    }
    for inode in inodes {
        let _inode = inode.i_rwsem.lock_always().await;
        inode.purge().await;
    }
}
