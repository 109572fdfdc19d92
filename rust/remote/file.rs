// SPDX-License-Identifier: GPL-2.0

//! Descriptors: open, read, write, seek, fsync, close.
//!
//! Reads and writes inside the file go through the page cache; what would extend the file, and every write with `O_APPEND`, goes to the
//! origin as a message. With `O_DIRECT` it is no different, as at the origin: past the page cache nothing would be coherent. No alignment
//! is asked for, and statx(2) names none.
//!
//! What is not here is refused by the kernel: leases (`EINVAL`), clones and `FS_IOC_FIEMAP` (`EOPNOTSUPP`), reads and writes that must not
//! wait, are atomic or bypass the cache (`RWF_NOWAIT`, `RWF_ATOMIC`, `RWF_DONTCACHE`: `EOPNOTSUPP`). All of a file is data for lseek(2).

use core::ffi::c_void;

use kernel::{
    bindings::{dentry, file, inode, iov_iter, kiocb, loff_t},
    ffi::{c_int, c_long, c_uint},
    iov::IovIterSource,
    prelude::*,
    sync::{atomic::Relaxed, new_spinlock, Arc, SpinLock, UniqueArc},
};

use super::{
    errno, inode as names,
    state::{FileId, Inode},
};
use crate::bindings;
use crate::net::{
    self,
    batch::ONE_GO,
    exchange::{self, call, call_once, Exchange, Once, Room},
    peer::Peer,
};
use crate::proto::{
    copy::{Copy, Want},
    limits::{MAX_BATCH_PAGES, MAX_WRITE, PAGE_BYTES},
    wire::{flags, Attributes, Header, Kind, OPEN_TO_RUN},
};
use crate::wait::Event;

/// `Write` messages of one system call that are in flight at once.
const WINDOW: usize = 4;

/// How often a read that meets pages beyond the end of the file looks at the size again.
const ATTEMPTS: usize = 16;

/// Open flags that the origin is told.
const FLAGS: u32 = bindings::O_ACCMODE
    | bindings::O_CREAT
    | bindings::O_EXCL
    | bindings::O_TRUNC
    | bindings::O_APPEND;

/// Modes of fallocate(2) in which the end of the range does not become that of the file.
const NO_END: c_uint = bindings::FALLOC_FL_KEEP_SIZE
    | bindings::FALLOC_FL_COLLAPSE_RANGE
    | bindings::FALLOC_FL_INSERT_RANGE;

/// The kernel's mark of an open by execve(2) (`FMODE_EXEC`).
const TO_RUN: u32 = 1 << 5;

/// What an open descriptor keeps.
struct Handle {
    /// File id that it was opened under, and in which session.
    file: u64,
    session: (u64, u64),
    /// In which [life](super::state::State::usable_in) of the inode's file id.
    life: u64,
    writes: bool,
    /// For when it is closed.
    farewell: Farewell,
}

/// The operations of a remote file's descriptors.
pub(super) static OPERATIONS: super::fs::Operations<bindings::file_operations> =
    super::fs::Operations(bindings::file_operations {
        open: Some(open),
        release: Some(release),
        llseek: Some(llseek),
        read_iter: Some(read_iter),
        write_iter: Some(write_iter),
        // By way of `read_iter`: pages that were put into a pipe would stay there, whatever the lease says afterwards.
        splice_read: Some(bindings::copy_splice_read),
        splice_write: Some(bindings::iter_file_splice_write),
        fsync: Some(fsync),
        lock: Some(super::lock::lock),
        flock: Some(super::lock::flock),
        fallocate: Some(fallocate),
        mmap_prepare: Some(super::map::mmap_prepare),
        ..pin_init::zeroed()
    });

/// What cannot be opened: devices, and symlinks themselves.
pub(super) static SPECIAL: super::fs::Operations<bindings::file_operations> =
    super::fs::Operations(bindings::file_operations {
        open: Some(open_special),
        ..pin_init::zeroed()
    });

/// The operations of the pages of remote files.
pub(super) static PAGES: super::fs::Operations<bindings::address_space_operations> =
    super::fs::Operations(bindings::address_space_operations {
        read_folio: Some(super::pages::read_folio),
        readahead: Some(super::pages::readahead),
        writepages: Some(super::writeback::writepages),
        dirty_folio: Some(bindings::filemap_dirty_folio),
        // Whoever works on a folio here has a reference, which keeps it where it is.
        migrate_folio: Some(bindings::filemap_migrate_folio),
        ..pin_init::zeroed()
    });

/// `open` of what cannot be.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn open_special(_inode: *mut inode, _file: *mut file) -> c_int {
    ENXIO.to_errno()
}

/// The session that an answer belongs to.
pub(super) fn session_of(answer: &Header) -> (u64, u64) {
    (answer.peer_epoch, answer.epoch)
}

/// Opens a path at its node. Gives the file id and the attributes. Process context, sleeps.
///
/// # Errors
///
/// Those of the origin: `ENOENT`, `EACCES`, `EISDIR`, `EEXIST`…; `ETIMEDOUT`, `ENOTCONN`, `ESTALE`, `EINTR`.
pub(super) fn open_at(
    peer: &Arc<Peer>,
    path: &[u8],
    open_flags: u32,
    mode: u32,
) -> Result<(u64, Header, Attributes)> {
    let payload = names::credentials_and(path)?;
    let header = Header {
        index: if open_flags & TO_RUN != 0 {
            OPEN_TO_RUN
        } else {
            u64::from(open_flags & FLAGS)
        },
        size: u64::from(mode),
        ..Header::new(Kind::Open)
    };
    let late = |peer: &Arc<Peer>, request: &Header, _: &[u8], answer: &Header| {
        if answer.status == 0 {
            close_at(
                peer,
                session_of(answer),
                answer.file,
                writes(request.index as u32),
            );
        }
    };
    let answer = call_once(Once::begin(peer)?, header, &payload, late)?;
    let attributes = Attributes::decode(&answer.payload).ok_or(EPROTO)?;
    if answer.header.file == 0 {
        return Err(EPROTO);
    }
    Ok((answer.header.file, answer.header, attributes))
}

/// A `Close` on its way: nobody waits for it. In another session the same id means what was opened anew.
struct Closing {
    header: Header,
}

/// The memory that a `Close` needs: without it the file would stay open at the origin until the session ends.
struct Farewell {
    closing: UniqueArc<Closing>,
    room: Room,
}

impl Farewell {
    /// Process context, may sleep for memory; `ENOMEM`.
    fn new() -> Result<Farewell> {
        let header = Header::new(Kind::Close);
        Ok(Farewell {
            closing: UniqueArc::new(Closing { header }, GFP_KERNEL)?,
            room: Room::new()?,
        })
    }

    /// Tells the origin that what was opened in this session was closed, without waiting. Process context.
    fn say(mut self, peer: &Arc<Peer>, session: (u64, u64), file: u64, writes: bool) {
        if peer.session() != session {
            return;
        }
        // Nobody should wait in close(2). Without a place it goes all the same: the origin would have to lose it again and again while it
        // answers hundreds of later requests, and then the file stays shared until the session ends.
        let once = Once::try_begin(peer);
        let request = exchange::next_request();
        self.closing.header = Header {
            request,
            flags: if writes { flags::WRITE } else { 0 },
            ..FileId::new(file, session).header(Kind::Close)
        };
        // The origin keeps the file shared until it hears of this, so there is no deadline: the session's end is one.
        let closing = Arc::from(self.closing);
        let _ = exchange::start_in(self.room, peer, once, request, closing, None);
    }
}

impl Exchange for Closing {
    fn answer(&self, _peer: &Arc<Peer>, header: &Header, _payload: &[u8]) -> bool {
        header.kind == Kind::Reply
    }

    fn send(&self, peer: &Arc<Peer>, retry: bool) -> Result {
        peer.send(&self.header.sent(retry), &[])
    }

    // The origin forgets the open when it notices that the session is over.
    fn expired(&self, _error: Error) {}
}

/// [`Farewell::say`] for what has no descriptor. Process context, may sleep for memory; without any, the file stays open at the origin until
/// the session ends.
pub(super) fn close_at(peer: &Arc<Peer>, session: (u64, u64), file: u64, writes: bool) {
    if let Ok(farewell) = Farewell::new() {
        farewell.say(peer, session, file, writes);
    }
}

/// Whether these flags open for writing.
fn writes(open_flags: u32) -> bool {
    open_flags & bindings::O_ACCMODE != bindings::O_RDONLY
}

/// Makes `file` a descriptor of what was opened at the origin. On failure the origin is told that it was closed.
///
/// # Safety
///
/// `file` is being opened on `inode`, one of our files.
pub(super) unsafe fn adopt(
    inode: *mut inode,
    file: *mut file,
    id: u64,
    header: &Header,
    attributes: &Attributes,
) -> Result {
    // SAFETY: By this function's contract.
    let (kept, open_flags) = unsafe { (Inode::counted(inode).ok_or(EIO)?, (*file).f_flags) };
    let (writes, session) = (writes(open_flags), session_of(header));
    let adopted = kept.attach(id, session, header.count).and_then(|life| {
        let handle = Handle {
            file: id,
            session,
            life,
            writes,
            farewell: Farewell::new()?,
        };
        Ok(KBox::new(handle, GFP_KERNEL)?)
    });
    let handle = adopted.inspect_err(|_| close_at(&kept.peer, session, id, writes))?;
    {
        let mut state = kept.state.lock();
        if state.readers + state.writers == 0 {
            state.errors = header.count;
        }
        *(if writes {
            &mut state.writers
        } else {
            &mut state.readers
        }) += 1;
    }
    kept.learn(header, attributes);
    // SAFETY: The file is ours until it is opened.
    unsafe {
        (*file).private_data = KBox::into_raw(handle).cast::<c_void>();
        bindings::vremote_allow_direct(file);
    }
    Ok(())
}

/// `open`: asks the origin.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn open(inode: *mut inode, file: *mut file) -> c_int {
    // SAFETY: The kernel opens `file` on `inode`, one of our files.
    errno(unsafe { open_file(inode, file) })
}

/// # Safety
///
/// As `open` of a file.
unsafe fn open_file(inode: *mut inode, file: *mut file) -> Result {
    // SAFETY: By this function's contract.
    let kept = unsafe { Inode::counted(inode) }.ok_or(EIO)?;
    // SAFETY: The path of a file being opened is set.
    let dentry = unsafe { bindings::vremote_file_dentry(file) };
    // SAFETY: The file keeps its dentry.
    let path = unsafe { names::Path::of(dentry) }?;
    // SAFETY: By this function's contract.
    let open_flags = unsafe { (*file).f_flags } & !(bindings::O_CREAT | bindings::O_EXCL);
    let cuts = open_flags & bindings::O_TRUNC != 0 && !writes(open_flags);
    // The kernel asks this as well, but after this call, which has cut the file at the origin by then.
    // SAFETY: By this function's contract.
    if cuts && unsafe { bindings::vremote_inode_runs(inode) } {
        return Err(ETXTBSY);
    }
    let (id, header, attributes) = open_at(&kept.peer, path.at_node()?, open_flags, 0)?;
    if kept.identity != Some(super::state::Identity::of(&attributes)) {
        // Another file has the name by now: the kernel looks the name up again, and comes back with that one.
        close_at(&kept.peer, session_of(&header), id, writes(open_flags));
        return Err(EOPENSTALE);
    }
    // SAFETY: By this function's contract.
    unsafe { adopt(inode, file, id, &header, &attributes) }
}

/// `release`: tells the origin.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn release(inode: *mut inode, file: *mut file) -> c_int {
    // SAFETY: The descriptor was opened by `adopt`, and is being closed.
    let (handle, kept) = unsafe {
        (
            KBox::from_raw((*file).private_data.cast::<Handle>()),
            Inode::of(inode),
        )
    };
    if let Some(kept) = kept {
        // Who looks at the file by its path afterwards sees that it was written to. If the origin does not answer, it hears of it with the
        // first page that is sent home.
        if handle.writes && kept.touched.load(Relaxed) && kept.peer.leased() {
            let _ = kept.refresh_times();
        }
        {
            let mut state = kept.state.lock();
            *(if handle.writes {
                &mut state.writers
            } else {
                &mut state.readers
            }) -= 1;
        }
        let Handle {
            farewell,
            session,
            file,
            writes,
            ..
        } = KBox::into_inner(handle);
        farewell.say(&kept.peer, session, file, writes);
    }
    0
}

/// What is kept for the inode of an open descriptor, and the [life](super::state::State::usable_in) of its file id that the descriptor
/// belongs to.
pub(super) struct Opened {
    kept: Arc<Inode>,
    pub(super) life: u64,
}

impl core::ops::Deref for Opened {
    type Target = Arc<Inode>;

    fn deref(&self) -> &Arc<Inode> {
        &self.kept
    }
}

impl Opened {
    /// The file id for a request. `ESTALE` as of [`of_file`].
    pub(super) fn usable(&self) -> Result<FileId> {
        self.kept.state.lock().usable_in(self.life)
    }
}

/// An open descriptor of one of our files.
///
/// # Errors
///
/// `ESTALE`: the session in which it was opened is over. That the file was opened anew by another descriptor does not bring it back: what
/// was written through it may be lost.
///
/// # Safety
///
/// `file` is an open descriptor of one of our files, and stays so during the call that this is part of.
pub(super) unsafe fn of_file(file: *mut file) -> Result<Opened> {
    // SAFETY: By this function's contract.
    let opened = unsafe { of_any_file(file) }?;
    opened.usable()?;
    Ok(opened)
}

/// As [`of_file`], whatever has become of the session.
///
/// # Safety
///
/// As [`of_file`].
pub(super) unsafe fn of_any_file(file: *mut file) -> Result<Opened> {
    // SAFETY: By this function's contract; `adopt` has put the handle there.
    unsafe {
        Ok(Opened {
            kept: Inode::counted((*file).f_inode).ok_or(EIO)?,
            life: (*(*file).private_data.cast::<Handle>()).life,
        })
    }
}

impl Inode {
    /// Asks the origin for the attributes of an open file. Process context, sleeps.
    ///
    /// # Errors
    ///
    /// `ESTALE`: the session in which it was opened is over; `ETIMEDOUT`, `ENOTCONN`, `EINTR`.
    pub(super) fn refresh(&self) -> Result {
        let file = self.state.lock().usable()?;
        let answer = call(&self.peer, file.header(Kind::GetAttr), &[])?;
        let attributes = Attributes::decode(&answer.payload).ok_or(EPROTO)?;
        self.learn(&answer.header, &attributes);
        Ok(())
    }

    /// As [`Inode::refresh`], and before that the origin is told of what was written here: the file's times are those of the last write
    /// then, and nothing that is sent home later changes them.
    pub(super) fn refresh_times(&self) -> Result {
        if !self.touched.xchg(false, Relaxed) {
            return self.refresh();
        }
        let touch = || {
            let file = self.state.lock().usable()?;
            let header = Header {
                flags: flags::TOUCHED,
                ..file.header(Kind::Write)
            };
            let answer = call(&self.peer, header, &[])?;
            let attributes = Attributes::decode(&answer.payload).ok_or(EPROTO)?;
            self.learn(&answer.header, &attributes);
            Ok(())
        };
        match touch() {
            Ok(()) => Ok(()),
            Err(error) => {
                self.touched.store(true, Relaxed);
                // The origin is drained; or whoever wrote has closed the file, and the origin did not answer then.
                if error == EROFS || error == EBADF {
                    self.refresh()
                } else {
                    Err(error)
                }
            }
        }
    }

    /// Reads in this life with `read`, which ends in `EIO` where a page could not be had; before that makes sure that the size is known well
    /// enough to read `count` bytes at `position()`.
    fn read_known(
        self: &Arc<Inode>,
        life: u64,
        position: impl Fn() -> u64,
        count: u64,
        mut read: impl FnMut() -> isize,
    ) -> Result<isize> {
        if count == 0 {
            return Ok(0);
        }
        let mut refused = false;
        for _ in 0..ATTEMPTS {
            if refused || position().saturating_add(count) >= self.size() {
                self.refresh()?;
            }
            if position() >= self.size() {
                return Ok(0);
            }
            let done = read();
            if done != EIO.to_errno() as isize {
                self.confirm(life)?;
                return Ok(done);
            }
            // The kernel does not say why, but it stopped at the page that could not be had: ask for that once more.
            let page = position() / PAGE_BYTES as u64;
            let obtained = self.obtain(page, Want::Read, 0).map(drop);
            self.state.lock().usable_in(life)?;
            match obtained {
                // Another node has cut the file.
                Err(error) if error == ENODATA => refused = true,
                _ => obtained?,
            }
        }
        Err(EIO)
    }
}

/// A result as the kernel wants it: a count or a negative errno.
fn count(result: Result<isize>) -> isize {
    result.unwrap_or_else(|error| error.to_errno() as isize)
}

/// `read_iter`: from the page cache.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn read_iter(iocb: *mut kiocb, to: *mut iov_iter) -> isize {
    // SAFETY: The kernel gives us a control block of an open descriptor of ours, and an iterator.
    let (kept, bytes) = unsafe { (of_file((*iocb).ki_filp), bindings::vremote_iov_count(to)) };
    count(kept.and_then(|kept| {
        // SAFETY: As above.
        let position = || unsafe { (*iocb).ki_pos } as u64;
        // SAFETY: As above; after a failure nothing was taken out of either.
        kept.read_known(kept.life, position, bytes as u64, || unsafe {
            bindings::filemap_read(iocb, to, 0)
        })
    }))
}

/// `llseek`: relative to the end needs the present size.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn llseek(file: *mut file, offset: loff_t, whence: c_int) -> loff_t {
    if whence != bindings::SEEK_SET as c_int && whence != bindings::SEEK_CUR as c_int {
        // SAFETY: The kernel gives us an open descriptor of ours.
        if let Err(error) = unsafe { of_file(file) }.and_then(|kept| kept.refresh()) {
            return loff_t::from(error.to_errno());
        }
    }
    // SAFETY: Passes on what the kernel gave us.
    unsafe { bindings::generic_file_llseek(file, offset, whence) }
}

/// `fsync`: on the disk of the origin when it returns.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn fsync(
    file: *mut file,
    _start: loff_t,
    _end: loff_t,
    datasync: c_int,
) -> c_int {
    // SAFETY: The kernel gives us an open descriptor of ours.
    let committed = unsafe { of_file(file) }.and_then(|kept| kept.commit(kept.life, datasync != 0));
    // SAFETY: As above.
    let lost = unsafe { bindings::file_check_and_advance_wb_err(file) };
    errno(committed.and(kernel::error::to_result(lost)))
}

/// `fallocate`: by the origin, which takes from every node, this one included, what it has of the range.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn fallocate(
    file: *mut file,
    mode: c_int,
    offset: loff_t,
    bytes: loff_t,
) -> c_long {
    // SAFETY: The kernel gives us an open descriptor of ours.
    let allocated = unsafe { of_file(file) }.and_then(|kept| {
        // SAFETY: The descriptor keeps the inode.
        kernel::error::to_result(unsafe { bindings::vremote_inode_lock(kept.raw()) })?;
        // SAFETY: As above, and locked.
        let allocated = unsafe { allocate(&kept, mode as c_uint, offset, bytes) };
        // SAFETY: Locked above.
        unsafe { bindings::vremote_inode_unlock(kept.raw()) };
        allocated
    });
    errno(allocated) as c_long
}

/// # Safety
///
/// The kernel's inode is valid and its i_rwsem held; `offset + bytes` does not overflow.
unsafe fn allocate(kept: &Opened, mode: c_uint, offset: loff_t, bytes: loff_t) -> Result {
    if mode & NO_END == 0 {
        // The caller's limit of file sizes is not known at the origin.
        // SAFETY: By this function's contract.
        kernel::error::to_result(unsafe {
            bindings::inode_newsize_ok(kept.raw(), offset + bytes)
        })?;
    }
    let file = kept.usable()?;
    let header = Header {
        index: offset as u64,
        size: bytes as u64,
        count: mode,
        ..file.header(Kind::Allocate)
    };
    let answer = call(&kept.peer, header, &[])?;
    let attributes = Attributes::decode(&answer.payload).ok_or(EPROTO)?;
    kept.learn(&answer.header, &attributes);
    Ok(())
}

/// `write_iter`: into the page cache, or to the origin.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn write_iter(iocb: *mut kiocb, from: *mut iov_iter) -> isize {
    // SAFETY: The kernel gives us a control block of an open descriptor of ours, and an iterator to read from.
    let written = unsafe { of_file((*iocb).ki_filp).and_then(|kept| write(&kept, iocb, from)) };
    match written {
        // SAFETY: As above.
        Ok(bytes) if bytes > 0 => unsafe { bindings::vremote_write_sync(iocb, bytes as isize) },
        written => count(written.map(|bytes| bytes as isize)),
    }
}

/// # Safety
///
/// As `write_iter`.
unsafe fn write(kept: &Opened, iocb: *mut kiocb, from: *mut iov_iter) -> Result<usize> {
    // SAFETY: By this function's contract.
    if unsafe { bindings::vremote_kiocb_is_nowait(iocb) } {
        return Err(EAGAIN);
    }
    // SAFETY: The descriptor keeps the inode.
    kernel::error::to_result(unsafe { bindings::vremote_inode_lock(kept.raw()) })?;
    // SAFETY: By this function's contract, and locked.
    let written = unsafe { write_locked(kept, iocb, from) };
    // SAFETY: Locked above.
    unsafe { bindings::vremote_inode_unlock(kept.raw()) };
    written
}

/// # Safety
///
/// As `write_iter`; the inode's i_rwsem is held.
unsafe fn write_locked(kept: &Opened, iocb: *mut kiocb, from: *mut iov_iter) -> Result<usize> {
    // While the inode is locked no other life begins.
    kept.usable()?;
    // SAFETY: By this function's contract.
    let allowed = unsafe { bindings::generic_write_checks(iocb, from) };
    if allowed <= 0 {
        return if allowed == 0 {
            Ok(0)
        } else {
            Err(Error::from_errno(allowed as c_int))
        };
    }
    // SAFETY: As above: the iterator is a source, and ours during the call.
    let from = unsafe { IovIterSource::from_raw(from) };
    // SAFETY: By this function's contract.
    if unsafe { bindings::vremote_kiocb_is_append(iocb) } {
        let all = from.len();
        return write_through(kept, from, None, all).map(|(end, bytes)| {
            // SAFETY: By this function's contract.
            unsafe { (*iocb).ki_pos = end as loff_t };
            bytes
        });
    }
    let mut written = 0;
    while !from.is_empty() {
        // SAFETY: By this function's contract.
        let position = unsafe { (*iocb).ki_pos } as u64;
        // Set-id bits go with the first write, and only the origin's write path takes them away.
        // SAFETY: The descriptor keeps the inode.
        let set_id = unsafe { u32::from((*kept.raw()).i_mode) }
            & (bindings::S_ISUID | bindings::S_ISGID)
            != 0;
        let inside = !set_id && position.saturating_add(from.len() as u64) <= kept.size();
        let away = if inside {
            bytes_away(kept, position, from.len())
        } else {
            from.len()
        };
        let step = if inside && away < MAX_WRITE {
            write_cached(kept, from, position)
        } else {
            write_through(kept, from, Some(position), away).map(|(_, bytes)| bytes)
        };
        if set_id && step.is_ok() {
            // The next one finds the mode without them.
            kept.refresh()?;
        }
        match step {
            // The file has become shorter meanwhile: look at its size again.
            Err(error) if error == ENODATA => kept.refresh()?,
            Err(error) if written == 0 => return Err(error),
            Err(_) | Ok(0) => break,
            Ok(bytes) => {
                written += bytes;
                // SAFETY: By this function's contract.
                unsafe { (*iocb).ki_pos += bytes as loff_t };
            }
        }
    }
    kept.confirm(kept.life)?;
    Ok(written)
}

/// How many of the `bytes` from `position` on lie in whole pages of which nothing is here. To fetch a page only to write over all of
/// it would be wasted, and so would be its way into the page cache.
fn bytes_away(kept: &Inode, position: u64, bytes: usize) -> usize {
    let page_bytes = PAGE_BYTES as u64;
    if position % page_bytes != 0 {
        return 0;
    }
    let first = position / page_bytes;
    let whole = bytes as u64 / page_bytes;
    let away = (first..first + whole)
        .take_while(|page| kept.copy(*page) == Copy::INVALID)
        .count();
    away * PAGE_BYTES
}

/// Writes from `position` up to the end of its page in the page cache. The range is inside the file as far as known.
///
/// # Errors
///
/// `EFAULT`, and those of [`Inode::obtain`].
fn write_cached(kept: &Arc<Inode>, from: &mut IovIterSource<'_>, position: u64) -> Result<usize> {
    let page = position / PAGE_BYTES as u64;
    let at = position as usize % PAGE_BYTES;
    let bytes = from.len().min(PAGE_BYTES - at);
    let more = (at + from.len() - 1) / PAGE_BYTES;
    loop {
        // SAFETY: The iterator is valid. Done before any lock is taken: the source may be a mapping of anything.
        let absent = unsafe { bindings::fault_in_iov_iter_readable(from.as_raw(), bytes) };
        if absent == bytes {
            return Err(EFAULT);
        }
        let copied = {
            let _claim = kept.claim(page)?;
            let folio = kept.obtain(page, Want::Write, more.min(MAX_BATCH_PAGES - 1))?;
            // Nobody can cut the file in this page, or before it, without taking the page away: what the size says now is final.
            if position + bytes as u64 > kept.size() {
                return Err(ENODATA);
            }
            // SAFETY: The folio is locked and ours to write; copies without faulting, and at most to the folio's end.
            let copied = unsafe {
                bindings::copy_folio_from_iter_atomic(
                    folio.as_ptr(),
                    at,
                    bytes - absent,
                    from.as_raw(),
                )
            };
            if copied != 0 {
                folio.flush();
                folio.mark_dirty();
                kept.touched.store(true, Relaxed);
            }
            copied
        };
        if copied != 0 {
            // SAFETY: The inode is kept by its descriptor; no folio is locked.
            unsafe { bindings::balance_dirty_pages_ratelimited(kept.mapping()) };
            return Ok(copied);
        }
        // What was there a moment ago has been taken out of memory: once more.
        // SAFETY: No requirements.
        if unsafe { bindings::vremote_killed() } {
            return Err(EINTR);
        }
    }
}

/// A `Write` on its way.
#[pin_data]
struct Chunk {
    header: Header,
    payload: KVVec<u8>,
    #[pin]
    outcome: SpinLock<Option<Result<Header>>>,
    #[pin]
    done: Event,
}

impl Chunk {
    /// Takes the next bytes out of `from`, at most `limit` and as many as can be read, and sends them. Those with a position are cut where
    /// that takes a second go of the socket, unless they are the last ones. `EFAULT`: none can be read.
    fn start(
        kept: &Arc<Inode>,
        from: &mut IovIterSource<'_>,
        limit: usize,
        position: Option<u64>,
    ) -> Result<Arc<Chunk>> {
        let once = Once::begin(&kept.peer)?;
        let file = kept.state.lock().usable()?;
        let bytes = if limit > MAX_WRITE && position.is_some() {
            ONE_GO
        } else {
            limit.min(MAX_WRITE)
        };
        let mut payload = KVVec::with_capacity(bytes, GFP_KERNEL)?;
        let taken = from
            .copy_from_iter_raw(&mut payload.spare_capacity_mut()[..bytes])
            .len();
        if taken == 0 {
            return Err(EFAULT);
        }
        // SAFETY: So many bytes were just written into the spare capacity.
        unsafe { payload.inc_len(taken) };
        let header = Header {
            request: exchange::next_request(),
            index: position.unwrap_or(0),
            count: taken as u32,
            flags: if position.is_none() { flags::APPEND } else { 0 },
            ..file.header(Kind::Write)
        };
        let send = move || {
            let chunk = Arc::pin_init(
                pin_init!(Chunk { header, payload, outcome <- new_spinlock!(None), done <- Event::new() }),
                GFP_KERNEL,
            )?;
            exchange::start_once(
                &kept.peer,
                Some(once),
                header.request,
                chunk.clone(),
                Some(net::timeout_us()),
            )?;
            Ok(chunk)
        };
        // SAFETY: They were taken just now.
        send().inspect_err(|_| unsafe { from.revert(taken) })
    }

    /// Waits for the answer.
    fn wait(&self) -> Result<Header> {
        let waited = self.done.wait(exchange::longest_wait_us());
        exchange::finish(self.header.request);
        waited?;
        let outcome = self.outcome.lock().take();
        outcome.unwrap_or(Err(ETIMEDOUT))
    }

    fn end(&self, outcome: Result<Header>) {
        self.outcome.lock().get_or_insert(outcome);
        self.done.happen();
    }
}

impl Exchange for Chunk {
    fn answer(&self, _peer: &Arc<Peer>, header: &Header, _payload: &[u8]) -> bool {
        self.end(match header.status {
            0 => Ok(*header),
            status => Err(exchange::error_of(status)),
        });
        true
    }

    fn send(&self, peer: &Arc<Peer>, retry: bool) -> Result {
        peer.send(&self.header.sent(retry), &self.payload)
    }

    fn expired(&self, error: Error) {
        self.end(Err(error));
    }
}

/// Writes `limit` bytes, of no fewer, by the origin's own write path: at `position`, or at the end of the file. Gives where the last byte
/// went and how many were written; fewer than wanted if something failed after the first. No folio is locked here, so that the origin can
/// invalidate the copies of this node as well.
///
/// What is appended in one message is one record. More than [`MAX_WRITE`] goes in order, one after another; what has a position goes
/// with several messages in flight.
fn write_through(
    kept: &Arc<Inode>,
    from: &mut IovIterSource<'_>,
    position: Option<u64>,
    limit: usize,
) -> Result<(u64, usize)> {
    let window = if position.is_some() { WINDOW } else { 1 };
    let mut flight: KVec<Arc<Chunk>> = KVec::with_capacity(window, GFP_KERNEL)?;
    let mut started = 0;
    let (mut end, mut written) = (0, 0);
    // What is in flight when the next one cannot be started counts; what was sent behind one that failed does not.
    let (mut unstarted, mut failure) = (None, None);
    loop {
        while unstarted.or(failure).is_none() && flight.len() < window && started < limit {
            match Chunk::start(
                kept,
                from,
                limit - started,
                position.map(|position| position + started as u64),
            ) {
                Ok(chunk) => {
                    started += chunk.payload.len();
                    let _ = flight.push_within_capacity(chunk);
                }
                Err(error) => unstarted = Some(error),
            }
        }
        let Ok(chunk) = flight.remove(0) else {
            break;
        };
        match chunk.wait() {
            Ok(header) => {
                kept.learn_size(&header, header.size);
                let bytes = (header.count as usize).min(chunk.payload.len());
                if failure.is_none() {
                    written += bytes;
                    end = header.index + bytes as u64;
                }
                if bytes < chunk.payload.len() {
                    failure.get_or_insert(ENOSPC);
                }
            }
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    match failure.or(unstarted) {
        Some(error) if written == 0 => Err(error),
        _ => {
            // SAFETY: These were taken, and not written.
            unsafe { from.revert(started - written) };
            Ok((end, written))
        }
    }
}

/// `atomic_open`'s part of opening: the descriptor was adopted before.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn opened(_inode: *mut inode, _file: *mut file) -> c_int {
    0
}

/// Undoes [`adopt`] for a file whose opening failed after it.
///
/// # Safety
///
/// `file` was adopted on `inode` and will not be opened.
pub(super) unsafe fn disown(inode: *mut inode, file: *mut file) {
    // SAFETY: By this function's contract.
    unsafe {
        release(inode, file);
        (*file).private_data = core::ptr::null_mut();
    }
}

/// Sets the size of a file by a descriptor, or, if that is `None`, of one that is opened for it. Process context, sleeps; the inode's
/// i_rwsem is held.
///
/// # Errors
///
/// As [`of_file`]; those of the origin, and of the network.
///
/// # Safety
///
/// `dentry` is one of ours, `inode` its inode, the descriptor one of that.
pub(super) unsafe fn set_size(
    dentry: *mut dentry,
    inode: *mut inode,
    descriptor: Option<*mut file>,
    size: u64,
) -> Result {
    // SAFETY: By this function's contract.
    let kept = unsafe { Inode::counted(inode) }.ok_or(EIO)?;
    let (file, opened) = if let Some(descriptor) = descriptor {
        // SAFETY: By this function's contract.
        (unsafe { of_file(descriptor) }?.usable()?, None)
    } else {
        // By its path: the origin decides whether the caller may write.
        // SAFETY: By this function's contract.
        let path = unsafe { names::Path::of(dentry) }?;
        let (file, header, attributes) =
            open_at(&kept.peer, path.at_node()?, bindings::O_WRONLY, 0)?;
        let session = session_of(&header);
        if kept.identity != Some(super::state::Identity::of(&attributes)) {
            close_at(&kept.peer, session, file, true);
            return Err(ESTALE);
        }
        (FileId::new(file, session), Some((session, file)))
    };
    let header = Header {
        size,
        ..file.header(Kind::SetSize)
    };
    let answer = call(&kept.peer, header, &[]);
    if let Some((session, file)) = opened {
        close_at(&kept.peer, session, file, true);
    }
    let answer = answer?;
    let attributes = Attributes::decode(&answer.payload).ok_or(EPROTO)?;
    kept.learn(&answer.header, &attributes);
    Ok(())
}
