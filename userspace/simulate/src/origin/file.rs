// SPDX-License-Identifier: GPL-2.0

//! A file of this node: the kernel's page cache and ext4, as far as they call the hooks (`patches/README.md`) or are called by
//! `rust/shim/origin.c`.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
};

use nix::errno::Errno;
use vremote_proto::{directory::Want, limits::PAGE_BYTES};

use super::share::Share;
use crate::{
    bug::Bug,
    disk::Disk,
    errseq::{Cursor, Errors},
    folio::{page_of, stamp_of, Folio, Mapping, Stamp},
    ghost::Page,
    node::Node,
    wait::{Mutex, Result},
    world::World,
};

/// See above.
pub struct LocalFile {
    node: Weak<Node>,
    /// Which of its node's files it is.
    pub number: usize,
    origin: usize,
    disk: Rc<Disk>,
    /// The page cache.
    pub mapping: Mapping,
    /// Serialises what changes the size, and local writers.
    pub i_rwsem: Mutex,
    size: Cell<u64>,
    errors: Cell<Errors>,
    share: RefCell<Weak<Share>>,
}

impl LocalFile {
    /// As it is on disk.
    pub fn new(node: &Weak<Node>, world: &World, origin: usize, number: usize) -> LocalFile {
        let disk = world.disks[origin].clone();
        LocalFile {
            node: node.clone(),
            number,
            origin,
            mapping: Mapping::new(&world.sim),
            i_rwsem: Mutex::new(&world.sim),
            size: Cell::new(disk.size(number)),
            disk,
            errors: Cell::default(),
            share: RefCell::default(),
        }
    }

    /// Its node.
    ///
    /// # Panics
    ///
    /// That is gone.
    pub fn node(&self) -> Rc<Node> {
        self.node
            .upgrade()
            .expect("nothing of a node outlives its crash")
    }

    /// What remotes know it by, if one has opened it.
    pub fn share(&self) -> Option<Rc<Share>> {
        self.share.borrow().upgrade()
    }

    /// It is shared from now on.
    pub fn set_share(&self, share: &Rc<Share>) {
        *self.share.borrow_mut() = Rc::downgrade(share);
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size.get()
    }

    fn page(&self, index: u64) -> Page {
        Page {
            origin: self.origin,
            file: self.number,
            index,
        }
    }

    fn has_page(&self, index: u64) -> bool {
        index * (PAGE_BYTES as u64) < self.size()
    }

    // ---- reading -----------------------------------------------------------------------------------------------

    /// `read_mapping_folio`: the folio of a page, uptodate.
    pub async fn read_folio(&self, index: u64) -> Result<Rc<Folio>> {
        loop {
            let found = self.mapping.find(index).filter(|folio| folio.uptodate());
            if let Some(folio) = found {
                return Ok(folio);
            }
            let folio = self.mapping.create(index).await;
            if folio.uptodate() {
                return Ok(folio.clone());
            }
            if let Some(share) = self.share() {
                // The hook of `filemap_read_folio`.
                if !share.look(index, Want::Read) {
                    drop(folio);
                    share.acquire(index, Want::Read).await?;
                    continue;
                }
                if share.is_owned(index) {
                    // Whoever comes now finds these bytes in the page cache, and asks nobody.
                    let text = "the origin reads a page from its disk that another node owns";
                    self.node().world.fail(text.into());
                }
            }
            let stamp = self.disk.read(self.number, index).await?;
            *folio.bytes_mut() = page_of(stamp);
            let read = folio.clone();
            folio.end_read(true);
            return Ok(read);
        }
    }

    /// read(2) of one page by a program of this node; `None`: it is beyond the end.
    pub async fn read(&self, index: u64) -> Result<Option<Stamp>> {
        if !self.has_page(index) {
            return Ok(None);
        }
        let folio = self.read_folio(index).await?;
        if !self.has_page(index) {
            return Ok(None);
        }
        let stamp = self.whole(&folio.bytes());
        Ok(Some(stamp))
    }

    fn whole(&self, bytes: &[u8]) -> Stamp {
        stamp_of(bytes).unwrap_or_else(|| {
            self.node().world.fail("a page is torn".into());
            0
        })
    }

    // ---- writing -----------------------------------------------------------------------------------------------

    /// write(2) of whole pages, by a program of this node or for `writer`: at page `at`, or at the end. Gives the first page, and how many
    /// were written; fewer than wanted if something failed after the first.
    pub async fn write(
        &self,
        at: Option<u64>,
        stamps: &[Stamp],
        writer: usize,
    ) -> Result<(u64, usize)> {
        let _inode = self.i_rwsem.lock_always().await;
        let first = at.unwrap_or(self.size() / PAGE_BYTES as u64);
        let start = first * PAGE_BYTES as u64;
        if start > self.size() {
            // The file was cut meanwhile: zeros in between.
            let before = self.size.replace(start);
            self.node().world.ghost_resized(self.page(0), before, start);
        }
        for (done, stamp) in stamps.iter().enumerate() {
            let put = self
                .put_page(first + done as u64, &page_of(*stamp), Some(writer))
                .await;
            if let Err(error) = put {
                return if done == 0 {
                    Err(error)
                } else {
                    Ok((first, done))
                };
            }
        }
        Ok((first, stamps.len()))
    }

    /// `write_begin` and `write_end`. `writer`: who writes; `None` for bytes that come home, which write nothing behind the end.
    async fn put_page(&self, index: u64, bytes: &[u8], writer: Option<usize>) -> Result {
        loop {
            if let Some(share) = self.share() {
                // The hook of `__filemap_get_folio`, before the look-up.
                share.acquire(index, Want::Write).await?;
            }
            let folio = self.mapping.create(index).await;
            if let Some(share) = self.share() {
                // And under the lock.
                if !share.look(index, Want::Write) {
                    drop(folio);
                    continue;
                }
            }
            self.disk.reserve(self.number, index)?;
            folio.bytes_mut().copy_from_slice(bytes);
            folio.mark_uptodate();
            folio.mark_dirty();
            let stamp = self.whole(bytes);
            let world = &self.node().world;
            match writer {
                Some(writer) => {
                    let end = (index + 1) * PAGE_BYTES as u64;
                    self.size.set(self.size().max(end));
                    world.ghost_write_home(self.page(index), stamp, writer);
                }
                None => world.came_home(self.page(index), stamp),
            }
            return Ok(());
        }
    }

    /// `vremote_origin_install`: bytes that come home.
    pub async fn install(&self, index: u64, bytes: &[u8]) -> Result {
        if !self.has_page(index) || bytes.is_empty() {
            return Ok(());
        }
        let mut page = bytes.to_vec();
        page.resize(PAGE_BYTES, 0);
        self.put_page(index, &page, None).await
    }

    /// truncate(2).
    pub async fn truncate(&self, size: u64) -> Result {
        let _inode = self.i_rwsem.lock_always().await;
        let first = size.min(self.size()) / PAGE_BYTES as u64;
        let share = self.share();
        if let Some(share) = &share {
            share.freeze(first, u64::MAX).await?;
        }
        let before = self.size.replace(size);
        self.node().world.ghost_resized(self.page(0), before, size);
        self.mapping.truncate(size / PAGE_BYTES as u64).await;
        self.disk.resize(self.number, size);
        if let Some(share) = &share {
            share.thaw(first, u64::MAX);
        }
        Ok(())
    }

    // ---- to disk -----------------------------------------------------------------------------------------------

    /// Bytes that somebody wrote will not get to the disk.
    pub fn set_error(&self, error: Errno) {
        let mut errors = self.errors.get();
        errors.set(error);
        self.errors.set(errors);
    }

    /// The ghost is to see that they are told.
    pub fn note_error(&self) {
        let world = &self.node().world;
        world.ghost(|ghost| ghost.disk_error(self.page(0)));
    }

    /// What who opens it now is taken to know of its errors.
    pub fn errors(&self) -> Cursor {
        self.errors.get().sample()
    }

    /// Whether something may be newer in the page cache than on disk although it is not dirty.
    pub fn has_failed(&self) -> bool {
        self.errors.get().any()
    }

    /// Errors since, each once.
    pub fn check(&self, cursor: &mut Cursor) -> Option<Errno> {
        let mut errors = self.errors.get();
        let found = errors.check_and_advance(cursor);
        self.errors.set(errors);
        found
    }

    /// Writes one dirty folio to disk.
    pub async fn write_out(&self, folio: &Rc<Folio>) {
        if !folio.dirty() {
            return folio.wait_writeback().await;
        }
        let stamp = {
            let folio = folio.lock().await;
            folio.wait_writeback().await;
            if !folio.is_attached() || !folio.clean_for_io() {
                return;
            }
            folio.start_writeback();
            let stamp = self.whole(&folio.bytes());
            stamp
        };
        let index = folio.index();
        let written = self
            .disk
            .write(self.number, index, stamp, self.size())
            .await;
        if let Err(error) = written {
            let page = self.page(index);
            self.node()
                .world
                .ghost(|ghost| ghost.not_written(page, stamp));
            self.node().note(&[16, index, stamp], || {
                format!("the disk does not take version {stamp} of {page}")
            });
            self.note_error();
            self.set_error(error);
        }
        folio.end_writeback();
    }

    /// Writes what is dirty to disk.
    pub async fn write_all_out(&self) {
        for folio in self.mapping.all() {
            self.write_out(&folio).await;
        }
    }

    /// fsync(2): what remotes have comes home, what is dirty goes to disk. What fails in that is noted in the errors.
    pub async fn sync(&self) -> Result {
        let world = self.node().world.clone();
        if let Some(share) = self.share() {
            // The hook of `vfs_fsync_range`.
            share.pull().await?;
        }
        self.write_all_out().await;
        if world.has(Bug::SyncWithoutFlush) {
            return Ok(());
        }
        self.disk.flush(self.number).await
    }

    /// Now and then the kernel writes a dirty page out.
    pub async fn background_writeback(&self) {
        let dirty = self.mapping.all().into_iter().find(|folio| folio.dirty());
        if let Some(folio) = dirty {
            self.write_out(&folio).await;
        }
    }

    /// Now and then it drops a clean one.
    pub fn reclaim(&self, index: u64) {
        let Some(folio) = self.mapping.idle(index) else {
            return;
        };
        self.mapping.remove(&folio);
        // After an error of the disk that may be older.
        let stamp = self.disk.look(self.number, index);
        self.node().world.ghost(|ghost| {
            ghost.dropped_clean(self.page(index), self.whole(&folio.bytes()), stamp)
        });
    }

    // ---- for the checks ----------------------------------------------------------------------------------------

    /// The last version that this node has of a page.
    pub fn own_version(&self, index: u64) -> Stamp {
        let stash = self
            .share()
            .and_then(|share| share.state.borrow().stash.get(&index).cloned());
        if let Some(bytes) = stash {
            return self.whole(&bytes);
        }
        match self.mapping.find(index).filter(|folio| folio.uptodate()) {
            Some(folio) => self.whole(&folio.bytes()),
            None => self.disk.look(self.number, index),
        }
    }

    /// The version of this node is the last one again.
    pub fn taken_back(&self, index: u64) {
        if self.has_page(index) {
            let stamp = self.own_version(index);
            self.node().world.ghost_taken_back(self.page(index), stamp);
        }
    }
}
