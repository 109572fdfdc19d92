// SPDX-License-Identifier: GPL-2.0

//! The programs: each opens files, reads, writes, appends, truncates and syncs them at random, and whatever a call returns is checked.

use std::{collections::BTreeMap, rc::Rc};

use nix::errno::Errno;
use vremote_proto::limits::{PAGE_BYTES, WORK_LIMIT_US};

use crate::{
    errseq::Cursor,
    executor::{TaskId, Time},
    folio::Stamp,
    ghost::{Page, Sync, ABSENT},
    node::Node,
    origin::file::LocalFile,
    remote::file::Handle,
    wait::{sleep, Result},
};

/// A system call under way.
pub struct Call {
    /// Of which node.
    pub node: usize,
    /// Of which task.
    pub task: TaskId,
    /// What it does.
    pub what: What,
    /// To which file.
    pub file: Page,
    /// Since when.
    pub called: Time,
    /// Until when it must have returned.
    pub limit: Time,
}

/// What a call does.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum What {
    Open,
    Read { first: u64, pages: u64 },
    Write { first: u64, pages: u64 },
    Append { pages: u64 },
    Resize { pages: u64 },
    Stat,
    Sync,
}

enum Kind {
    /// At the origin.
    Local { file: Rc<LocalFile>, cursor: Cursor },
    /// From afar.
    Remote(Handle),
}

/// A descriptor.
pub struct Descriptor {
    file: Page,
    opened: Time,
    /// When the last fsync of it that failed returned.
    told: Time,
    /// The same, if it said that bytes are lost.
    told_of_loss: Time,
    kind: Kind,
}

/// A program.
pub struct Client {
    node: Rc<Node>,
}

impl Client {
    /// On this node.
    pub fn new(node: &Rc<Node>) -> Client {
        Client { node: node.clone() }
    }

    /// Works until the run is about to end.
    pub async fn run(self) {
        let world = self.node.world.clone();
        let sim = &world.sim;
        let mut open: BTreeMap<(usize, usize), Descriptor> = BTreeMap::new();
        loop {
            // Often in a hurry.
            let think = if sim.below(3) == 0 {
                200
            } else {
                world.shape.think
            };
            sleep(sim, sim.below(think + 1)).await;
            if world.is_ending() {
                break;
            }
            let hot = &world.shape.hot;
            let name = hot[sim.below(hot.len() as u64) as usize];
            let descriptor = match open.get_mut(&name) {
                Some(descriptor) => descriptor,
                None => match self.open(name).await {
                    Ok(descriptor) => open.entry(name).or_insert(descriptor),
                    Err(_) => {
                        self.end_if_killed(&mut open);
                        continue;
                    }
                },
            };
            let done = self.something(descriptor).await;
            let over = match done {
                Err(Errno::ESTALE | Errno::EBADF) => sim.below(4) != 0,
                _ => sim.below(40) == 0,
            };
            if over {
                if let Some(descriptor) = open.remove(&name) {
                    descriptor.close();
                }
            }
            self.end_if_killed(&mut open);
        }
        for (_, descriptor) in open {
            descriptor.close();
        }
        world.client_ended();
    }

    /// If its process was killed, its descriptors are closed, and the next one goes on.
    fn end_if_killed(&self, open: &mut BTreeMap<(usize, usize), Descriptor>) {
        let sim = &self.node.world.sim;
        if sim.killed() {
            sim.bury();
            for (_, descriptor) in core::mem::take(open) {
                descriptor.close();
            }
        }
    }

    async fn something(&self, descriptor: &mut Descriptor) -> Result {
        let world = &self.node.world;
        let sim = &world.sim;
        let shape = &world.shape;
        let page = sim.below(shape.pages + 1);
        let pages = 1 + sim.below(4) / 2;
        match sim.below(16) {
            at if at < shape.resizes => match sim.below(3) {
                0 => {
                    let pages = sim.below(shape.pages + 2);
                    self.resize(descriptor, pages).await
                }
                _ => self.append(descriptor, pages).await,
            },
            at if at < shape.resizes + 2 => self.sync(descriptor).await,
            at if at < shape.resizes + 2 + shape.writes * 12 / 16 => {
                self.write(descriptor, page, pages).await
            }
            _ if sim.below(8) == 0 => self.stat(descriptor).await,
            _ => self.read(descriptor, page, pages).await.map(|_| ()),
        }
    }

    // ---- calls -------------------------------------------------------------------------------------------------

    fn begin(&self, file: Page, what: What) -> (u64, Time) {
        let world = &self.node.world;
        let called = world.sim.now();
        let shape = &world.shape;
        let round = 2 * shape.timeout + shape.lease + shape.lease / 8;
        let limit = if file.origin == self.node.number {
            // Each page may take a round, with others before it in the queue, and the slowest disk.
            8 * round + WORK_LIMIT_US / 2
        } else {
            WORK_LIMIT_US + 3 * shape.timeout
        };
        self.node
            .note(&[7, file.origin as u64, file.file as u64], || {
                format!("calls {what:?} of n{}/{}", file.origin, file.file)
            });
        let number = world.begin_call(Call {
            node: self.node.number,
            task: world.sim.current(),
            what,
            file,
            called,
            limit: called + limit,
        });
        (number, called)
    }

    /// The call returned. Checks that an error is one that may be.
    fn end<T>(&self, number: u64, result: &Result<T>) {
        let world = &self.node.world;
        let Some(call) = world.end_call(number) else {
            return;
        };
        let error = result.as_ref().err().copied();
        self.node
            .note(&[8, error.map_or(0, |error| error as u64)], || {
                let outcome = error.map_or("done".to_string(), |error| format!("{error:?}"));
                format!("returns {:?}: {outcome}", call.what)
            });
        let Some(error) = error else { return };
        let disk = matches!(error, Errno::EIO | Errno::ENOSPC) && world.shape.disks_fail;
        let may = match error {
            // Its own signal, or one that came as the call before was about to return.
            Errno::EINTR => world.sim.killed(),
            _ if disk => true,
            Errno::ETIMEDOUT | Errno::ENOTCONN | Errno::EIO => world.was_disturbed(call.called),
            Errno::ESTALE => world.was_ever_disturbed(),
            _ => false,
        };
        if !may {
            world.fail(format!(
                "n{}: {:?} of n{}/{} failed without a reason: {error:?}",
                self.node.number, call.what, call.file.origin, call.file.file
            ));
        }
    }

    /// open(2).
    pub async fn open(&self, (origin, file): (usize, usize)) -> Result<Descriptor> {
        let world = &self.node.world;
        let file = Page {
            origin,
            file,
            index: 0,
        };
        let (number, _) = self.begin(file, What::Open);
        let kind = if origin == self.node.number {
            let local = self.node.files[file.file].clone();
            let cursor = local.errors();
            Ok(Kind::Local {
                file: local,
                cursor,
            })
        } else {
            let handle = Handle::open(&self.node, origin, file.file).await;
            handle.map(Kind::Remote)
        };
        self.end(number, &kind);
        let opened = world.sim.now();
        Ok(Descriptor {
            file,
            opened,
            told: opened,
            told_of_loss: opened,
            kind: kind?,
        })
    }

    /// read(2) of whole pages. Gives their stamps.
    pub async fn read(
        &self,
        descriptor: &Descriptor,
        first: u64,
        pages: u64,
    ) -> Result<Vec<Stamp>> {
        let world = &self.node.world;
        let before = descriptor.epoch();
        let (number, called) = self.begin(descriptor.file, What::Read { first, pages });
        let read = match &descriptor.kind {
            Kind::Local { file, .. } => {
                let mut stamps = Vec::new();
                let mut failed = None;
                for page in first..first + pages {
                    match file.read(page).await {
                        Ok(Some(stamp)) => stamps.push(stamp),
                        Ok(None) => break,
                        Err(error) => {
                            failed = Some(error).filter(|_| stamps.is_empty());
                            break;
                        }
                    }
                }
                failed.map_or(Ok(stamps), Err)
            }
            Kind::Remote(handle) => handle.read(first, pages).await,
        };
        self.end(number, &read);
        let stamps = read?;
        self.node
            .note(&[18, stamps.first().copied().unwrap_or(ABSENT)], || {
                format!("read {stamps:?}")
            });
        let page = Page {
            index: first,
            ..descriptor.file
        };
        if stamps.is_empty() {
            // The origin was asked for that, and it needs no lease.
            if before == descriptor.epoch() {
                let life = descriptor.life(&self.node);
                world.ghost(|ghost| ghost.read(page, ABSENT, called, life));
            }
            return Ok(stamps);
        }
        let life = descriptor.counts(&self.node, "a read");
        world.ghost(|ghost| {
            for (at, stamp) in (0..).zip(&stamps) {
                let index = first + at;
                ghost.read(Page { index, ..page }, *stamp, called, life);
            }
        });
        Ok(stamps)
    }

    fn stamps(&self, pages: u64) -> Vec<Stamp> {
        (0..pages).map(|_| self.node.world.new_stamp()).collect()
    }

    /// write(2) of whole pages, inside the file or at its end.
    async fn write(&self, descriptor: &Descriptor, first: u64, pages: u64) -> Result {
        let size = self.size(descriptor);
        if first > size {
            // A write behind a gap is not what this is about.
            return Ok(());
        }
        let stamps = self.stamps(pages);
        let (number, called) = self.begin(descriptor.file, What::Write { first, pages });
        let written = match &descriptor.kind {
            Kind::Local { file, .. } => file.write(Some(first), &stamps, self.node.number).await,
            Kind::Remote(handle) => handle.write(Some(first), &stamps).await,
        };
        self.end(number, &written);
        let (_, done) = written?;
        descriptor.counts(&self.node, "a write");
        self.returned(descriptor, first, &stamps[..done], called);
        Ok(())
    }

    /// write(2) of whole pages with `O_APPEND`.
    async fn append(&self, descriptor: &Descriptor, pages: u64) -> Result {
        if self.size(descriptor) > self.node.world.shape.pages + 20 {
            return Ok(());
        }
        let stamps = self.stamps(pages);
        let (number, called) = self.begin(descriptor.file, What::Append { pages });
        let written = match &descriptor.kind {
            Kind::Local { file, .. } => file.write(None, &stamps, self.node.number).await,
            Kind::Remote(handle) => handle.write(None, &stamps).await,
        };
        self.end(number, &written);
        let (first, done) = written?;
        self.returned(descriptor, first, &stamps[..done], called);
        Ok(())
    }

    fn returned(&self, descriptor: &Descriptor, first: u64, stamps: &[Stamp], called: Time) {
        let page = Page {
            index: first,
            ..descriptor.file
        };
        self.node
            .world
            .ghost(|ghost| ghost.write_returned(page, stamps, called));
    }

    /// Pages of the file, as far as known.
    fn size(&self, descriptor: &Descriptor) -> u64 {
        let bytes = match &descriptor.kind {
            Kind::Local { file, .. } => file.size(),
            Kind::Remote(handle) => handle.inode.size(),
        };
        bytes / PAGE_BYTES as u64
    }

    /// fstat(2).
    async fn stat(&self, descriptor: &Descriptor) -> Result {
        let before = descriptor.epoch();
        let (number, called) = self.begin(descriptor.file, What::Stat);
        let size = match &descriptor.kind {
            Kind::Local { file, .. } => Ok(file.size()),
            Kind::Remote(handle) => handle.size().await,
        };
        self.end(number, &size);
        let pages = size? / PAGE_BYTES as u64;
        self.node
            .note(&[21, pages], || format!("the size is {pages} pages"));
        // The origin was asked, and it needs no lease.
        if before == descriptor.epoch() {
            let life = descriptor.life(&self.node);
            let world = &self.node.world;
            world.ghost(|ghost| ghost.sized(descriptor.file, pages, called, life));
        }
        Ok(())
    }

    /// ftruncate(2).
    async fn resize(&self, descriptor: &Descriptor, pages: u64) -> Result {
        let size = pages * PAGE_BYTES as u64;
        let (number, _) = self.begin(descriptor.file, What::Resize { pages });
        let done = match &descriptor.kind {
            Kind::Local { file, .. } => file.truncate(size).await,
            Kind::Remote(handle) => handle.set_size(size).await,
        };
        self.end(number, &done);
        done
    }

    /// fsync(2).
    pub async fn sync(&self, descriptor: &mut Descriptor) -> Result {
        let world = &self.node.world;
        let (number, called) = self.begin(descriptor.file, What::Sync);
        let synced = match &mut descriptor.kind {
            Kind::Local { file, cursor } => {
                let synced = file.sync().await;
                let told = file.check(cursor).map_or(Ok(()), Err);
                synced.and(told).map(|()| None)
            }
            Kind::Remote(handle) => handle.fsync().await.map(|(_, epoch)| Some(epoch)),
        };
        self.end(number, &synced);
        let now = world.sim.now();
        match synced {
            Ok(epoch) => {
                let life = epoch.map_or_else(
                    || world.ghost(|ghost| ghost.life(descriptor.file.origin)),
                    |epoch| world.life_of(epoch),
                );
                let sync = Sync {
                    called,
                    opened: descriptor.opened,
                    told: descriptor.told,
                    told_of_loss: descriptor.told_of_loss,
                };
                world.ghost(|ghost| {
                    ghost.synced(descriptor.file, self.node.number, life, &sync);
                });
                Ok(())
            }
            Err(error) => {
                descriptor.told = now;
                if matches!(error, Errno::EIO | Errno::ENOSPC) {
                    descriptor.told_of_loss = now;
                }
                Err(error)
            }
        }
    }
}

impl Descriptor {
    /// close(2).
    pub fn close(self) {
        if let Kind::Remote(handle) = self.kind {
            handle.close();
        }
    }

    /// The epoch of the origin that the file is open under.
    fn epoch(&self) -> Option<u64> {
        match &self.kind {
            Kind::Local { .. } => None,
            Kind::Remote(handle) => Some(handle.inode.state.borrow().session.1),
        }
    }

    /// The life of the origin that the file is open in.
    fn life(&self, node: &Node) -> usize {
        let world = &node.world;
        self.epoch().map_or_else(
            || world.ghost(|ghost| ghost.life(self.file.origin)),
            |epoch| world.life_of(epoch),
        )
    }

    /// The same, for something that was done with cached pages, has just returned, and counts.
    fn counts(&self, node: &Node, what: &str) -> usize {
        let world = &node.world;
        let life = self.life(node);
        if let Some(epoch) = self.epoch() {
            // By clocks that do not run alike.
            let lease = world.shape.lease + world.shape.lease / 16;
            world.ghost(|ghost| ghost.counts(self.file.origin, life, epoch, lease, what));
        }
        life
    }
}
