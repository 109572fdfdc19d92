// SPDX-License-Identifier: GPL-2.0

//! The disk of a node: what is on it for certain, what is in its cache, and how it fails.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use nix::errno::Errno;
use vremote_proto::limits::PAGE_BYTES;

use crate::{
    executor::Sim,
    folio::{Stamp, ZERO},
    wait::{sleep, Result},
};

/// A file on a disk: pages by index, those that are not there are holes.
#[derive(Clone, Default)]
struct Stored {
    durable: BTreeMap<u64, Stamp>,
    durable_size: u64,
    /// Not flushed yet; `None`: truncated.
    cached: BTreeMap<u64, Option<Stamp>>,
    size: u64,
    /// Flushes that have begun.
    flushes: u64,
    /// The last of them that is over.
    flushed: u64,
    /// Pages that have room, or have been promised it.
    room: BTreeSet<u64>,
}

/// How a disk is doing.
#[derive(Default)]
pub struct Health {
    /// Everything takes so many times as long; 0 is once.
    pub slowness: Cell<u64>,
    /// Nothing is left for what has no room yet.
    pub full: Cell<bool>,
    /// Reads fail.
    pub unreadable: Cell<bool>,
    /// Writes fail.
    pub unwritable: Cell<bool>,
}

/// A disk, which outlives its node's crashes.
pub struct Disk {
    sim: Rc<Sim>,
    files: RefCell<Vec<Stored>>,
    /// How it is doing.
    pub health: Health,
}

/// Longest times of a healthy disk, microseconds.
const READ: u64 = 400;
const WRITE: u64 = 600;
const FLUSH: u64 = 4_000;

impl Disk {
    /// With files of these pages; `None`: a hole.
    pub fn new(sim: &Rc<Sim>, files: Vec<Vec<Option<Stamp>>>) -> Rc<Disk> {
        let stored = files.into_iter().map(|pages| {
            let size = (pages.len() * PAGE_BYTES) as u64;
            let durable: BTreeMap<_, _> = (0..)
                .zip(pages)
                .filter_map(|(page, stamp)| Some((page, stamp?)))
                .collect();
            Stored {
                room: durable.keys().copied().collect(),
                durable,
                durable_size: size,
                size,
                ..Stored::default()
            }
        });
        Rc::new(Disk {
            sim: sim.clone(),
            files: RefCell::new(stored.collect()),
            health: Health::default(),
        })
    }

    async fn work(&self, longest: u64) {
        let times = self.health.slowness.get().max(1);
        let time = longest / 8 + self.sim.below(longest);
        sleep(&self.sim, time * times).await;
    }

    /// Size of a file as the disk has it, bytes.
    pub fn size(&self, file: usize) -> u64 {
        self.files.borrow()[file].size
    }

    /// What the disk would give for a page.
    pub fn look(&self, file: usize, page: u64) -> Stamp {
        let stored = &self.files.borrow()[file];
        let cached = stored.cached.get(&page).copied();
        cached
            .unwrap_or_else(|| stored.durable.get(&page).copied())
            .unwrap_or(ZERO)
    }

    /// Reads a page.
    pub async fn read(&self, file: usize, page: u64) -> Result<Stamp> {
        self.work(READ).await;
        if self.health.unreadable.get() {
            return Err(Errno::EIO);
        }
        Ok(self.look(file, page))
    }

    /// Writes a page, to the cache of the disk.
    pub async fn write(&self, file: usize, page: u64, stamp: Stamp, size: u64) -> Result {
        self.work(WRITE).await;
        if self.health.unwritable.get() {
            return Err(Errno::EIO);
        }
        let stored = &mut self.files.borrow_mut()[file];
        stored.cached.insert(page, Some(stamp));
        stored.size = stored.size.max(size.min((page + 1) * PAGE_BYTES as u64));
        Ok(())
    }

    /// Writes what is in the cache of the disk to where it stays.
    pub async fn flush(&self, file: usize) -> Result {
        // What comes during it may be too late.
        let (cached, size, number) = {
            let stored = &mut self.files.borrow_mut()[file];
            stored.flushes += 1;
            (stored.cached.clone(), stored.size, stored.flushes)
        };
        self.work(FLUSH).await;
        if self.health.unwritable.get() {
            return Err(Errno::EIO);
        }
        let stored = &mut self.files.borrow_mut()[file];
        if number < stored.flushed {
            // One that began later was faster: all of this, or what came after it, is there.
            return Ok(());
        }
        stored.flushed = number;
        for (page, stamp) in cached {
            match stored.cached.get(&page) {
                // One that began earlier has done it.
                None => continue,
                Some(now) if *now == stamp => _ = stored.cached.remove(&page),
                Some(_) => {}
            }
            match stamp {
                Some(stamp) => _ = stored.durable.insert(page, stamp),
                None => _ = stored.durable.remove(&page),
            }
        }
        stored.durable_size = size;
        Ok(())
    }

    /// Promises room for a page. `ENOSPC`: there is none.
    pub fn reserve(&self, file: usize, page: u64) -> Result {
        let stored = &mut self.files.borrow_mut()[file];
        if self.health.full.get() && !stored.room.contains(&page) {
            return Err(Errno::ENOSPC);
        }
        stored.room.insert(page);
        Ok(())
    }

    /// A file gets another size.
    pub fn resize(&self, file: usize, size: u64) {
        let first = size.div_ceil(PAGE_BYTES as u64);
        let stored = &mut self.files.borrow_mut()[file];
        let gone: Vec<u64> = stored
            .durable
            .range(first..)
            .map(|(page, _)| *page)
            .chain(stored.cached.range(first..).map(|(page, _)| *page))
            .collect();
        for page in gone {
            stored.cached.insert(page, None);
        }
        stored.room.retain(|page| *page < first);
        stored.size = size;
    }

    /// The power goes: what was not flushed may be lost, write by write.
    pub fn lose_power(&self) {
        for stored in self.files.borrow_mut().iter_mut() {
            for (page, stamp) in core::mem::take(&mut stored.cached) {
                if self.sim.below(2) == 0 {
                    continue;
                }
                match stamp {
                    Some(stamp) => _ = stored.durable.insert(page, stamp),
                    None => _ = stored.durable.remove(&page),
                }
            }
            stored.size = stored.durable_size;
            let end = stored.size.div_ceil(PAGE_BYTES as u64);
            stored.durable.retain(|page, _| *page < end);
            stored.room = stored.durable.keys().copied().collect();
        }
    }
}
