// SPDX-License-Identifier: GPL-2.0

//! Page caches: `rust/folio.rs`, and what of the kernel is below it.

use std::{
    cell::{Cell, Ref, RefCell, RefMut},
    collections::BTreeMap,
    ops::Deref,
    rc::Rc,
};

use vremote_proto::limits::PAGE_BYTES;

use crate::{
    executor::Sim,
    wait::{Changes, Result, Wait},
};

/// What a page shows: the number of the write that made it. Every word of the page has it.
pub type Stamp = u64;

/// The stamp of a hole.
pub const ZERO: Stamp = 0;

/// A page of this stamp.
pub fn page_of(stamp: Stamp) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_BYTES];
    if stamp != ZERO {
        for word in bytes.chunks_exact_mut(8) {
            word.copy_from_slice(&stamp.to_le_bytes());
        }
    }
    bytes
}

/// The stamp of a page; `None`: it is torn.
pub fn stamp_of(bytes: &[u8]) -> Option<Stamp> {
    let first: &[u8; 8] = bytes.first_chunk()?;
    bytes
        .chunks_exact(8)
        .all(|word| word == first)
        .then(|| u64::from_le_bytes(*first))
}

/// A page in a page cache.
pub struct Folio {
    index: u64,
    bytes: RefCell<Vec<u8>>,
    uptodate: Cell<bool>,
    dirty: Cell<bool>,
    writeback: Cell<bool>,
    locked: Cell<bool>,
    attached: Cell<bool>,
    changes: Changes,
}

impl Folio {
    /// Page index.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Whether the bytes are valid.
    pub fn uptodate(&self) -> bool {
        self.uptodate.get()
    }

    /// Whether the bytes are newer than what they were written back to.
    pub fn dirty(&self) -> bool {
        self.dirty.get()
    }

    /// Whether the bytes are on their way to where they are kept.
    pub fn under_writeback(&self) -> bool {
        self.writeback.get()
    }

    /// Whether somebody holds the lock.
    pub fn is_locked(&self) -> bool {
        self.locked.get()
    }

    /// Whether it still is in its mapping.
    pub fn is_attached(&self) -> bool {
        self.attached.get()
    }

    /// The bytes.
    pub fn bytes(&self) -> Ref<'_, Vec<u8>> {
        self.bytes.borrow()
    }

    /// The stamp; `None`: torn.
    pub fn stamp(&self) -> Option<Stamp> {
        stamp_of(&self.bytes.borrow())
    }

    /// Ends writeback, once.
    pub fn end_writeback(&self) {
        self.writeback.set(false);
        self.changes.happen();
    }

    /// Waits until it is not under writeback.
    pub async fn wait_writeback(&self) {
        while self.writeback.get() {
            let seen = self.changes.seen();
            let _ = self.changes.wait(seen, u64::MAX, Wait::Always).await;
        }
    }

    /// Waits until nobody holds the lock. `EINTR`: the task was killed.
    pub async fn wait_unlocked(&self) -> Result {
        while self.locked.get() {
            let seen = self.changes.seen();
            self.changes.wait(seen, u64::MAX, Wait::Killable).await?;
        }
        Ok(())
    }

    /// Takes the lock if nobody holds it.
    pub fn trylock(self: &Rc<Folio>) -> Option<Locked> {
        (!self.locked.replace(true)).then(|| Locked(self.clone()))
    }

    /// Takes the lock, waiting for it. `EINTR`: the task was killed.
    pub async fn lock_killable(self: &Rc<Folio>) -> Result<Locked> {
        loop {
            let seen = self.changes.seen();
            if let Some(locked) = self.trylock() {
                return Ok(locked);
            }
            self.changes.wait(seen, u64::MAX, Wait::Killable).await?;
        }
    }

    /// Takes the lock, waiting for it.
    pub async fn lock(self: &Rc<Folio>) -> Locked {
        loop {
            let seen = self.changes.seen();
            if let Some(locked) = self.trylock() {
                return locked;
            }
            let _ = self.changes.wait(seen, u64::MAX, Wait::Always).await;
        }
    }
}

/// A folio whose lock is held; dropping it unlocks.
pub struct Locked(Rc<Folio>);

impl Deref for Locked {
    type Target = Rc<Folio>;

    fn deref(&self) -> &Rc<Folio> {
        &self.0
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.0.locked.set(false);
        self.0.changes.happen();
    }
}

impl Locked {
    /// Ends a read into a folio that was not uptodate: marks it uptodate if `success`, and unlocks it.
    pub fn end_read(self, success: bool) {
        if success {
            self.uptodate.set(true);
        }
    }

    /// The bytes are valid.
    pub fn mark_uptodate(&self) {
        self.uptodate.set(true);
    }

    /// The bytes are newer than what they will be written back to.
    pub fn mark_dirty(&self) {
        self.dirty.set(true);
    }

    /// Clears the dirty mark; says whether it was set.
    pub fn clean_for_io(&self) -> bool {
        self.dirty.replace(false)
    }

    /// Begins writeback.
    pub fn start_writeback(&self) {
        self.writeback.set(true);
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&self) -> RefMut<'_, Vec<u8>> {
        self.bytes.borrow_mut()
    }
}

/// The page cache of a file.
pub struct Mapping {
    sim: Rc<Sim>,
    folios: RefCell<BTreeMap<u64, Rc<Folio>>>,
}

impl Mapping {
    /// Nothing is cached.
    pub fn new(sim: &Rc<Sim>) -> Mapping {
        Mapping {
            sim: sim.clone(),
            folios: RefCell::default(),
        }
    }

    /// The folio at this index.
    pub fn find(&self, index: u64) -> Option<Rc<Folio>> {
        self.folios.borrow().get(&index).cloned()
    }

    /// The first folio at this index or behind it.
    pub fn next(&self, from: u64) -> Option<Rc<Folio>> {
        let folios = self.folios.borrow();
        folios.range(from..).next().map(|(_, folio)| folio.clone())
    }

    /// The folio at this index, locked, if the kernel may drop it when memory is short: it is clean, and nobody else has a reference to it.
    pub fn idle(&self, index: u64) -> Option<Locked> {
        let folio = self.find(index)?.trylock()?;
        // One is the mapping's, one is ours.
        let used = Rc::strong_count(&folio) > 2;
        let idle = !used && folio.uptodate() && !folio.dirty() && !folio.under_writeback();
        idle.then_some(folio)
    }

    /// A new folio, locked; `None`: there is one.
    pub fn add(&self, index: u64) -> Option<Locked> {
        let mut folios = self.folios.borrow_mut();
        if folios.contains_key(&index) {
            return None;
        }
        let folio = Rc::new(Folio {
            index,
            bytes: RefCell::new(vec![0; PAGE_BYTES]),
            uptodate: Cell::new(false),
            dirty: Cell::new(false),
            writeback: Cell::new(false),
            locked: Cell::new(true),
            attached: Cell::new(true),
            changes: Changes::new(&self.sim),
        });
        folios.insert(index, folio.clone());
        Some(Locked(folio))
    }

    /// The folio at this index, locked; a new one that is not uptodate if there was none.
    pub async fn create(&self, index: u64) -> Locked {
        loop {
            let Some(folio) = self.find(index) else {
                if let Some(folio) = self.add(index) {
                    return folio;
                }
                continue;
            };
            let folio = folio.lock().await;
            if folio.is_attached() {
                return folio;
            }
        }
    }

    /// [`Mapping::create`] of a task that may be killed: `EINTR`.
    pub async fn create_killable(&self, index: u64) -> Result<Locked> {
        loop {
            let Some(folio) = self.find(index) else {
                if let Some(folio) = self.add(index) {
                    return Ok(folio);
                }
                continue;
            };
            let folio = folio.lock_killable().await?;
            if folio.is_attached() {
                return Ok(folio);
            }
        }
    }

    /// Removes a folio, dirty or not.
    pub fn remove(&self, folio: &Locked) {
        if folio.attached.replace(false) {
            folio.dirty.set(false);
            self.folios.borrow_mut().remove(&folio.index);
        }
    }

    /// Removes all from this index on, waiting for locks and writeback.
    pub async fn truncate(&self, from: u64) {
        while let Some(folio) = self.next(from) {
            let folio = folio.lock().await;
            folio.wait_writeback().await;
            self.remove(&folio);
        }
    }

    /// All folios.
    pub fn all(&self) -> Vec<Rc<Folio>> {
        self.folios.borrow().values().cloned().collect()
    }
}
