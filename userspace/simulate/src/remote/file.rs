// SPDX-License-Identifier: GPL-2.0

//! Descriptors of other nodes' files: `rust/remote/file.rs`.
//!
//! Left out: what is not whole pages, attributes but the size, seeking, fallocate(2).

use std::{cell::RefCell, rc::Rc};

use nix::errno::Errno;
use vremote_proto::{
    copy::Want,
    limits::{MAX_BATCH_PAGES, MAX_WRITE, PAGE_BYTES},
    wire::{flags, Attributes, Header, Kind},
};

use super::state::Inode;
use crate::{
    bug::Bug,
    errseq::Cursor,
    folio::{page_of, stamp_of, Stamp},
    net::{
        exchange::{self, call, call_or, Exchange, Once},
        peer::Peer,
    },
    node::Node,
    origin::serve,
    wait::{sleep, Changes, Result, Wait},
};

/// `Write` messages of one system call that are in flight at once.
const WINDOW: usize = 4;

/// How often a read that meets pages beyond the end of the file looks at the size again.
const ATTEMPTS: usize = 16;

/// An open descriptor.
pub struct Handle {
    /// Of what.
    pub inode: Rc<Inode>,
    file: u64,
    /// In which session it was opened.
    session: (u64, u64),
    /// In which life of the inode's file id.
    life: u64,
    cursor: Cursor,
}

struct Closing {
    header: Header,
    session: (u64, u64),
}

impl Exchange for Closing {
    fn answer(&self, _: &Rc<Peer>, header: &Header, _: &[u8]) -> bool {
        header.kind == Kind::Reply
    }

    fn send(&self, peer: &Rc<Peer>, retry: bool) {
        if peer.session() != self.session {
            return peer.node().exchanges.finish(self.header.request);
        }
        let mut header = self.header;
        header.flags |= if retry { flags::RETRY } else { 0 };
        let _ = peer.send(&header, &[]);
    }

    fn expired(&self, _: Errno) {}
}

/// Tells the origin that what was opened in this session was closed, without waiting.
fn close_at(peer: &Rc<Peer>, session: (u64, u64), file: u64) {
    if peer.session() != session {
        return;
    }
    let once = Once::try_begin(peer);
    let request = peer.node().exchanges.next_request();
    let header = Header {
        request,
        file,
        flags: flags::WRITE,
        ..Header::new(Kind::Close)
    };
    let closing = Rc::new(Closing { header, session });
    match once {
        Some(once) => exchange::start_once(once, request, closing, None),
        None => exchange::start(peer, request, closing, None),
    }
}

/// The session that an answer belongs to.
pub fn session_of(answer: &Header) -> (u64, u64) {
    (answer.peer_epoch, answer.epoch)
}

impl Handle {
    /// open(2), for reading and writing.
    pub async fn open(node: &Rc<Node>, origin: usize, number: usize) -> Result<Handle> {
        let peer = node.peer(origin);
        let header = Header {
            index: serve::OPEN_TO_WRITE,
            ..Header::new(Kind::Open)
        };
        let undo = |peer: &Rc<Peer>, _: &Header, answer: &Header| {
            close_at(peer, session_of(answer), answer.file);
        };
        let answer = call_or(peer, header, &serve::path(number), Some(undo)).await?;
        let sim = &node.world.sim;
        if node.world.shape.short && sim.below(8) == 0 {
            // For its inode; meanwhile the session may end.
            sleep(sim, sim.below(1_000_000)).await;
        }
        let attributes = Attributes::decode(&answer.payload).ok_or(Errno::EPROTO)?;
        let header = answer.header;
        let session = session_of(&header);
        let inode = {
            let known = node.inodes.borrow().get(&(origin, number)).cloned();
            known.unwrap_or_else(|| {
                let inode = Inode::new(node, origin, number);
                let mut inodes = node.inodes.borrow_mut();
                inodes.insert((origin, number), inode.clone());
                inode
            })
        };
        if let Err(error) = inode.attach(header.file, session, header.count).await {
            close_at(peer, session, header.file);
            return Err(error);
        }
        {
            let mut state = inode.state.borrow_mut();
            if state.readers + state.writers == 0 {
                state.errors = header.count;
            }
            state.writers += 1;
        }
        inode.learn_size(&header, attributes.size);
        let cursor = inode.wb_err.get().sample();
        Ok(Handle {
            life: inode.lives(),
            inode,
            file: header.file,
            session,
            cursor,
        })
    }

    /// What it is open on. `ESTALE`: the session in which it was opened is over.
    fn inode(&self) -> Result<&Rc<Inode>> {
        let revived = self.inode.node().world.has(Bug::DescriptorRevived);
        if self.inode.lives() == self.life || revived {
            Ok(&self.inode)
        } else {
            Err(Errno::ESTALE)
        }
    }

    /// close(2).
    pub fn close(self) {
        self.inode.state.borrow_mut().writers -= 1;
        close_at(&self.inode.peer, self.session, self.file);
    }

    /// read(2) of whole pages; fewer at the end of the file.
    pub async fn read(&self, first: u64, pages: u64) -> Result<Vec<Stamp>> {
        let inode = self.inode()?;
        let position = first * PAGE_BYTES as u64;
        let count = pages * PAGE_BYTES as u64;
        let mut refused = false;
        let life = inode.state.borrow().life()?;
        for _ in 0..ATTEMPTS {
            if refused || position + count >= inode.size() {
                inode.refresh().await?;
            }
            if position >= inode.size() {
                return Ok(Vec::new());
            }
            match inode.read_cached(first, pages).await {
                Err(Errno::EIO) => {}
                done => {
                    inode.confirm(life).await?;
                    return done;
                }
            }
            let obtained = inode.obtain(first, Want::Read, 0).await.map(drop);
            inode.state.borrow().usable_in(life)?;
            match obtained {
                Err(Errno::ENODATA) => refused = true,
                _ => obtained?,
            }
        }
        Err(Errno::EIO)
    }

    /// write(2) of whole pages; `None`: with `O_APPEND`. Gives the first page and how many were written.
    pub async fn write(&self, at: Option<u64>, stamps: &[Stamp]) -> Result<(u64, usize)> {
        let inode = self.inode()?;
        let _inode = inode.i_rwsem.lock(Wait::Killable).await?;
        let life = inode.state.borrow().life()?;
        let Some(first) = at else {
            return inode.write_through(None, stamps).await;
        };
        let mut written = 0;
        while written < stamps.len() {
            let rest = &stamps[written..];
            let page = first + written as u64;
            let end = (page + rest.len() as u64) * PAGE_BYTES as u64;
            let inside = end <= inode.size();
            let away = if inside {
                inode.pages_away(page, rest.len())
            } else {
                rest.len()
            };
            let step = if inside && away * PAGE_BYTES < MAX_WRITE {
                inode.write_cached(page, rest).await.map(|()| 1)
            } else {
                let through = inode.write_through(Some(page), &rest[..away]).await;
                through.map(|(_, pages)| pages)
            };
            match step {
                Err(Errno::ENODATA) => inode.refresh().await?,
                Err(error) if written == 0 => return Err(error),
                Err(_) | Ok(0) => break,
                Ok(pages) => written += pages,
            }
        }
        inode.confirm(life).await?;
        Ok((first, written))
    }

    /// fstat(2): the size in bytes.
    pub async fn size(&self) -> Result<u64> {
        let inode = self.inode()?;
        inode.refresh().await?;
        Ok(inode.size())
    }

    /// ftruncate(2).
    pub async fn set_size(&self, size: u64) -> Result {
        let inode = self.inode()?;
        let _inode = inode.i_rwsem.lock(Wait::Killable).await?;
        let header = Header {
            file: inode.state.borrow().usable()?,
            size,
            ..Header::new(Kind::SetSize)
        };
        let answer = call(&inode.peer, header, &[]).await?;
        let attributes = Attributes::decode(&answer.payload).ok_or(Errno::EPROTO)?;
        inode.learn_size(&answer.header, attributes.size);
        Ok(())
    }

    /// fsync(2). Gives the session in which that was done, for the checks.
    pub async fn fsync(&mut self) -> Result<(u64, u64)> {
        let committed = self.inode()?.commit().await;
        let committed = self.inode().and(committed);
        let mut errors = self.inode.wb_err.get();
        let lost = errors.check_and_advance(&mut self.cursor);
        self.inode.wb_err.set(errors);
        let session = committed?;
        lost.map_or(Ok(session), Err)
    }
}

impl Inode {
    /// Asks the origin for the attributes of an open file.
    async fn refresh(&self) -> Result {
        let header = Header {
            file: self.state.borrow().usable()?,
            ..Header::new(Kind::GetAttr)
        };
        let answer = call(&self.peer, header, &[]).await?;
        let attributes = Attributes::decode(&answer.payload).ok_or(Errno::EPROTO)?;
        self.learn_size(&answer.header, attributes.size);
        Ok(())
    }

    /// `filemap_read`.
    async fn read_cached(self: &Rc<Inode>, first: u64, pages: u64) -> Result<Vec<Stamp>> {
        let mut stamps = Vec::new();
        for page in first..first + pages {
            let ahead = first + pages - 1 - page;
            let folio = match self.filemap_read(page, ahead).await {
                Ok(folio) => folio,
                Err(error) if stamps.is_empty() => return Err(error),
                Err(_) => break,
            };
            if page * PAGE_BYTES as u64 >= self.size() {
                break;
            }
            let stamp = stamp_of(&folio.bytes());
            if stamp.is_none() {
                self.node().world.fail("a page is torn".into());
            }
            stamps.push(stamp.unwrap_or_default());
        }
        Ok(stamps)
    }

    fn pages_away(&self, first: u64, pages: usize) -> usize {
        let state = self.state.borrow();
        (first..first + pages as u64)
            .take_while(|page| state.copy(*page) == vremote_proto::copy::Copy::INVALID)
            .count()
    }

    /// Writes the first of these pages in the page cache. The range is inside the file as far as known.
    async fn write_cached(self: &Rc<Inode>, page: u64, stamps: &[Stamp]) -> Result {
        let _claim = self.claim(page);
        let more = (stamps.len() - 1).min(MAX_BATCH_PAGES - 1);
        let folio = self.obtain(page, Want::Write, more).await?;
        if (page + 1) * PAGE_BYTES as u64 > self.size() {
            return Err(Errno::ENODATA);
        }
        let before = folio.stamp();
        folio.bytes_mut().copy_from_slice(&page_of(stamps[0]));
        folio.mark_dirty();
        let node = self.node();
        node.world
            .written_away(&node, self, self.page(page), before, stamps[0]);
        Ok(())
    }

    /// Writes pages by the origin's own write path.
    async fn write_through(
        self: &Rc<Inode>,
        at: Option<u64>,
        stamps: &[Stamp],
    ) -> Result<(u64, usize)> {
        let window = if at.is_some() { WINDOW } else { 1 };
        let chunk = MAX_WRITE / PAGE_BYTES;
        let mut flight: Vec<(Rc<Chunk>, usize)> = Vec::new();
        let mut started = 0;
        let (mut first, mut written) = (None, 0);
        let mut failure = None;
        loop {
            while failure.is_none() && flight.len() < window && started < stamps.len() {
                let pages = (stamps.len() - started).min(chunk);
                let at = at.map(|at| at + started as u64);
                match Chunk::start(self, at, &stamps[started..started + pages]).await {
                    Ok(chunk) => {
                        started += pages;
                        flight.push((chunk, pages));
                    }
                    Err(error) => failure = Some(error),
                }
            }
            if flight.is_empty() {
                break;
            }
            let (chunk, pages) = flight.remove(0);
            match chunk.wait(self).await {
                Ok(header) => {
                    self.learn_size(&header, header.size);
                    let done = (header.count as usize / PAGE_BYTES).min(pages);
                    if failure.is_none() {
                        written += done;
                        first = first.or(Some(header.index / PAGE_BYTES as u64));
                    }
                    if done < pages {
                        failure.get_or_insert(Errno::ENOSPC);
                    }
                }
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        match failure {
            Some(error) if written == 0 => Err(error),
            _ => Ok((first.unwrap_or_default(), written)),
        }
    }
}

/// A `Write` on its way.
struct Chunk {
    header: Header,
    payload: Vec<u8>,
    outcome: RefCell<Option<Result<Header>>>,
    done: Changes,
}

impl Chunk {
    async fn start(inode: &Rc<Inode>, at: Option<u64>, stamps: &[Stamp]) -> Result<Rc<Chunk>> {
        let node = inode.node();
        let payload: Vec<u8> = stamps.iter().flat_map(|stamp| page_of(*stamp)).collect();
        let once = Once::begin(&inode.peer).await?;
        let file = inode.state.borrow().usable()?;
        let header = Header {
            request: node.exchanges.next_request(),
            file,
            index: at.unwrap_or(0) * PAGE_BYTES as u64,
            count: payload.len() as u32,
            flags: if at.is_none() { flags::APPEND } else { 0 },
            ..Header::new(Kind::Write)
        };
        let chunk = Rc::new(Chunk {
            header,
            payload,
            outcome: RefCell::default(),
            done: Changes::new(&node.world.sim),
        });
        let timeout = node.timeout_us();
        exchange::start_once(once, header.request, chunk.clone(), Some(timeout));
        Ok(chunk)
    }

    async fn wait(&self, inode: &Inode) -> Result<Header> {
        let node = inode.node();
        let limit = exchange::longest_wait_us(&node);
        let waited = self.done.wait_once(limit, Wait::Killable).await;
        node.exchanges.finish(self.header.request);
        waited?;
        let outcome = self.outcome.borrow_mut().take();
        outcome.unwrap_or(Err(Errno::ETIMEDOUT))
    }

    fn end(&self, outcome: Result<Header>) {
        self.outcome.borrow_mut().get_or_insert(outcome);
        self.done.happen();
    }
}

impl Exchange for Chunk {
    fn answer(&self, _: &Rc<Peer>, header: &Header, _: &[u8]) -> bool {
        self.end(match header.status {
            0 => Ok(*header),
            status => Err(Errno::from_raw(i32::from(status))),
        });
        true
    }

    fn send(&self, peer: &Rc<Peer>, retry: bool) {
        let mut header = self.header;
        header.flags |= if retry { flags::RETRY } else { 0 };
        let _ = peer.send(&header, &self.payload);
    }

    fn expired(&self, error: Errno) {
        self.end(Err(error));
    }
}
