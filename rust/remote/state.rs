// SPDX-License-Identifier: GPL-2.0

//! What is kept for an inode: whose file it is, a state word for each page, requests in flight, the size.
//!
//! [`Inode::state`] is a spinlock taken in process context only, the receive thread included; nothing sleeps under it.
//!
//! # Life
//!
//! An [`Inode`] hangs on `i_private` and is counted, because requests in flight keep it beyond the kernel's inode. The kernel's inode
//! and its mapping may be used by whoever has
//!
//! - a reference to it (every system call), or
//! - a locked folio in its mapping (a Get in flight), or
//! - a `Put` in [`State::puts`], or
//! - an [`Entered`],
//!
//! because [`Inode::evict`] waits for all of these.

use core::{ffi::c_void, fmt::Write};

use kernel::{
    bindings::{address_space, inode, xarray},
    prelude::*,
    rbtree::{RBTree, RBTreeNodeReservation},
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        new_spinlock, Arc, SpinLock,
    },
    time::{delay, Delta},
    types::Opaque,
    workqueue::{impl_has_work, new_work, Work, WorkItem},
};

use super::{
    file::session_of,
    lock::Operation,
    pages::{Failed, Request},
    recall::{Claimed, Outcome, Pinned},
    writeback::Put,
};
use crate::bindings;
use crate::folio::Folio;
use crate::net::{self, exchange, peer::Peer};
use crate::proto::{
    copy::{Copy, State as CopyState},
    limits::{HELLO_HURRY_US, PAGE_BYTES},
    size::Size,
    wire::{Attributes, Header, Kind},
};
use crate::wait::{Changes, Wait};
use crate::workqueue::ModuleQueue;

/// How often [`Inode::purge_when_free`] tries.
const PURGE_PAUSE: Delta = Delta::from_millis(10);

/// Which file of its node it is; never names two.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) ino: u64,
    pub(super) generation: u64,
}

impl Identity {
    pub(super) fn of(attributes: &Attributes) -> Identity {
        Identity {
            device: attributes.device,
            ino: attributes.ino,
            generation: attributes.generation,
        }
    }
}

/// A file's id at its origin, and the session in which it is that file's: in another one it is another's, or nobody's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    id: u64,
    /// [`Peer::session`].
    session: (u64, u64),
}

impl FileId {
    pub(super) fn new(id: u64, session: (u64, u64)) -> FileId {
        FileId { id, session }
    }

    /// The file that a request was made for by [`FileId::header`].
    pub(super) fn of(request: &Header) -> FileId {
        FileId::new(request.file, (request.epoch, request.peer_epoch))
    }

    /// The file that an answer is about.
    fn of_answer(answer: &Header) -> FileId {
        FileId::new(answer.file, session_of(answer))
    }

    /// For a request about the file, which is sent in that session or not at all.
    pub(super) fn header(self, kind: Kind) -> Header {
        let (epoch, peer_epoch) = self.session;
        Header {
            file: self.id,
            epoch,
            peer_epoch,
            ..Header::new(kind)
        }
    }
}

/// The part of an [`Inode`] that changes, but for the state words, which are under the same lock.
pub(super) struct State {
    /// File id at the origin; 0: it was not opened in the present session.
    pub(super) file: u64,
    /// The session that `file` is of.
    session: (u64, u64),
    /// Descriptors of this node, by access.
    pub(super) readers: u32,
    pub(super) writers: u32,
    /// The errors of the origin's disk that this node has been told of, as the origin counts them.
    pub(super) errors: u32,
    size: Size,
    /// Gets in flight.
    pub(super) gets: KVec<Request>,
    /// `Put`s in flight.
    pub(super) puts: KVec<Arc<Put>>,
    /// How many `Put`s were confirmed.
    pub(super) confirmed: u32,
    /// `Invalidate`s and `Recall`s that could not be done at once: the work item does them.
    pub(super) jobs: KVec<Header>,
    /// Operations on locks of which the origin may not have heard yet.
    pub(super) operations: KVec<Operation>,
    /// Pages that a writer has asked for and not yet written: recalls of them wait a moment.
    pub(super) claims: KVec<Claimed>,
    /// Pages that others want and that cannot be given up, because a device may have them.
    pub(super) pinned: KVec<Pinned>,
    /// How many [`Entered`] there are.
    busy: u32,
    /// The kernel's inode is being evicted.
    evicting: bool,
    /// What is cached belongs to a file id that is over.
    stale: bool,
    /// How many file ids are over: ids of two sessions may be the same.
    lives: u64,
    /// The last Get that failed, if no answer has refuted it.
    pub(super) failed: Option<Failed>,
}

impl State {
    /// The file id as it is now, also if nothing may be asked for by it any more.
    pub(super) fn file_id(&self) -> FileId {
        FileId::new(self.file, self.session)
    }

    /// The file id for a request. `ESTALE`: the session in which it was opened is over.
    pub(super) fn usable(&self) -> Result<FileId> {
        if self.file == 0 || self.evicting {
            Err(ESTALE)
        } else {
            Ok(self.file_id())
        }
    }

    /// The file id for a request of what was opened in this life of it, which [`Inode::attach`] names. `ESTALE`: the life is over.
    pub(super) fn usable_in(&self, life: u64) -> Result<FileId> {
        let file = self.usable()?;
        if self.lives == life {
            Ok(file)
        } else {
            Err(ESTALE)
        }
    }

    /// Size of the file as far as known here.
    pub(super) fn size(&self) -> u64 {
        self.size.bytes()
    }
}

/// What is kept for an inode of another node's file.
#[pin_data]
pub(crate) struct Inode {
    /// Whose file it is.
    pub(super) peer: Arc<Peer>,
    /// `None`: a directory on the way to something, taken to be there.
    pub(super) identity: Option<Identity>,
    /// Address of the kernel's inode; 0 until it has one and after it was evicted.
    raw: Atomic<usize>,
    /// The page that comes next if a program stores to one page after another, times 256, and how many were asked for ahead of the last one
    /// (`map.rs`).
    pub(super) stores: Atomic<u64>,
    /// Written to here, and the origin, whose the times are, does not know yet.
    pub(super) touched: Atomic<bool>,
    /// Makes the names of the owners of locks differ from those that the same owners had in an earlier inode of the file (`lock.rs`).
    pub(super) salt: u64,
    #[pin]
    pub(super) state: SpinLock<State>,
    /// [`Copy::word`] of each page; under the lock of `state`.
    #[pin]
    words: Opaque<xarray>,
    /// Everything that somebody may wait for.
    #[pin]
    pub(super) changes: Changes,
    /// The origin says that something was unlocked.
    #[pin]
    pub(super) unlocked: Changes,
    #[pin]
    work: Work<Inode, 0>,
    #[pin]
    burial: Work<Inode, 1>,
    #[pin]
    purging: Work<Inode, 2>,
}

// SAFETY: `raw` is used under the rules in *Life*; the words have a lock; all else is Send.
unsafe impl Send for Inode {}
// SAFETY: As above.
unsafe impl Sync for Inode {}

impl_has_work! {
    impl HasWork<Self, 0> for Inode { self.work }
    impl HasWork<Self, 1> for Inode { self.burial }
    impl HasWork<Self, 2> for Inode { self.purging }
}

impl WorkItem<0> for Inode {
    type Pointer = Arc<Inode>;

    fn run(this: Arc<Inode>) {
        this.run_jobs();
    }
}

impl WorkItem<1> for Inode {
    type Pointer = Arc<Inode>;

    fn run(this: Arc<Inode>) {
        // SAFETY: The kernel's inode is gone, so nobody uses the words but the last holders of `this`, of which none does.
        unsafe { bindings::xa_destroy(this.words.get()) };
        drop(this);
    }
}

impl WorkItem<2> for Inode {
    type Pointer = Arc<Inode>;

    fn run(this: Arc<Inode>) {
        // One that is being evicted meanwhile drops everything as well.
        if let Some(_entered) = this.enter() {
            this.purge_when_free();
        }
    }
}

/// Inodes by peer's slot and file id.
#[derive(Default)]
struct Table(RBTree<(u8, u64), Arc<Inode>>);

// SAFETY: The tree owns its nodes, which own `Arc`s.
unsafe impl Send for Table {}

kernel::sync::global_lock! {
    // SAFETY: Initialised in `init`, before the file system is registered.
    unsafe(uninit) static TABLE: SpinLock<Option<Table>> = None;
}

/// For all work about files but purges that may have to wait.
static WORK: ModuleQueue = ModuleQueue::new();
/// For [`Inode::purge_when_free`], which may wait for as long as a writer does: nothing else is to be behind that.
static PURGES: ModuleQueue = ModuleQueue::new();

/// Prepares the table and the workqueues. Called once, at load.
///
/// # Errors
///
/// `ENOMEM`.
pub(super) fn init() -> Result {
    // SAFETY: Called once, before any use of the lock.
    unsafe { TABLE.init() };
    *TABLE.lock() = Some(Table::default());
    WORK.init(c"vremote_remote")
        .and_then(|()| PURGES.init(c"vremote_purge"))
        .inspect_err(|_| exit())
}

/// Waits for everything that was queued, and frees it all. No inode of ours is left. Process context, sleeps.
pub(super) fn exit() {
    // SAFETY: No requirements; inodes are freed by RCU callbacks, which queue their burial.
    unsafe { bindings::rcu_barrier() };
    // In this order: the end of a purge may queue a burial.
    PURGES.exit();
    WORK.exit();
    *TABLE.lock() = None;
}

/// The inode that is known under this file id of the peer in this slot.
pub(super) fn by_file(slot: u8, file: u64) -> Option<Arc<Inode>> {
    TABLE.lock().as_ref()?.0.get(&(slot, file)).cloned()
}

/// Some inode behind `after`, in the order of slots and file ids.
pub(super) fn next(after: (u8, u64)) -> Option<((u8, u64), Arc<Inode>)> {
    let table = TABLE.lock();
    let cursor = table
        .as_ref()?
        .0
        .cursor_lower_bound(&(after.0, after.1.checked_add(1)?))?;
    let (key, inode) = cursor.current();
    Some((*key, inode.clone()))
}

/// Keeps the kernel's inode from going away; see *Life*.
pub(super) struct Entered<'a>(&'a Inode);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.state.lock().busy -= 1;
        self.0.changes.happen();
    }
}

impl Inode {
    /// For a file, or a directory, that the kernel has no inode for yet. Process context; `ENOMEM`.
    pub(super) fn new(peer: &Arc<Peer>, identity: Option<Identity>) -> Result<Arc<Inode>> {
        Arc::pin_init(
            pin_init!(Inode {
                peer: peer.clone(),
                identity,
                raw: Atomic::new(0),
                stores: Atomic::new(u64::MAX),
                touched: Atomic::new(false),
                salt: exchange::next_request(),
                state <- new_spinlock!(State {
                    file: 0,
                    session: (0, 0),
                    readers: 0,
                    writers: 0,
                    errors: 0,
                    size: Size::default(),
                    gets: KVec::new(),
                    puts: KVec::new(),
                    confirmed: 0,
                    jobs: KVec::new(),
                    operations: KVec::new(),
                    claims: KVec::new(),
                    pinned: KVec::new(),
                    busy: 0,
                    evicting: false,
                    stale: false,
                    lives: 0,
                    failed: None,
                }),
                // SAFETY: The slot is valid for writes.
                words <- Opaque::ffi_init(|slot| unsafe { bindings::vremote_words_init(slot) }),
                changes <- Changes::new(),
                unlocked <- Changes::new(),
                work <- new_work!("vremote::remote"),
                burial <- new_work!("vremote::burial"),
                purging <- new_work!("vremote::purging"),
            }),
            GFP_KERNEL,
        )
    }

    /// What is kept for this inode; `None` for the root and this node's own name.
    ///
    /// # Safety
    ///
    /// `inode` is an inode of our superblock and stays valid for `'a`.
    pub(super) unsafe fn of<'a>(inode: *mut inode) -> Option<&'a Inode> {
        // SAFETY: `i_private` is null or what `hang_on` put there, and is dropped after the inode.
        unsafe { ((*inode).i_private as *const Inode).as_ref() }
    }

    /// As [`Inode::of`], counted.
    ///
    /// # Safety
    ///
    /// As [`Inode::of`].
    pub(super) unsafe fn counted(inode: *mut inode) -> Option<Arc<Inode>> {
        // SAFETY: By this function's contract.
        let inode = unsafe { Inode::of(inode) }?;
        // SAFETY: `i_private` came from `Arc::into_raw`, and the count that it holds is not dropped here.
        let held = unsafe { Arc::from_raw(core::ptr::from_ref(inode)) };
        Some(Arc::clone(&core::mem::ManuallyDrop::new(held)))
    }

    /// Hangs it on the kernel's inode.
    ///
    /// # Safety
    ///
    /// `inode` is a new inode of our superblock, `i_private` is null.
    pub(super) unsafe fn hang_on(self: Arc<Inode>, inode: *mut inode) {
        self.raw.store(inode as usize, Relaxed);
        // SAFETY: Nobody else knows the inode yet.
        unsafe { (*inode).i_private = Arc::into_raw(self) as *mut c_void };
    }

    /// Frees what hangs on an inode that is being freed. Any context: leaves the work to the workqueue.
    ///
    /// # Safety
    ///
    /// `inode` is an inode of our superblock that nobody can find any more.
    pub(super) unsafe fn bury(inode: *mut inode) {
        // SAFETY: By this function's contract.
        let private = unsafe { (*inode).i_private } as *const Inode;
        if !private.is_null() {
            // SAFETY: `i_private` came from `Arc::into_raw` and is used for the last time.
            let this = unsafe { Arc::from_raw(private) };
            let _ = WORK.queue().enqueue::<_, 1>(this);
        }
    }

    /// The kernel's inode; valid under the rules in *Life*.
    pub(super) fn raw(&self) -> *mut inode {
        self.raw.load(Relaxed) as *mut inode
    }

    /// The mapping; valid under the rules in *Life*.
    pub(super) fn mapping(&self) -> *mut address_space {
        // SAFETY: Computes an address; the caller keeps to the rules in *Life*.
        unsafe { &raw mut (*self.raw()).i_data }
    }

    /// Keeps the kernel's inode; `None` if it is being evicted.
    pub(super) fn enter(&self) -> Option<Entered<'_>> {
        let mut state = self.state.lock();
        if state.evicting {
            return None;
        }
        state.busy += 1;
        Some(Entered(self))
    }

    /// State and grant of a page. The caller holds the state's lock if it matters.
    pub(super) fn copy(&self, page: u64) -> Copy {
        // SAFETY: The words were initialised in `new`.
        Copy::from_word(unsafe { bindings::vremote_word_load(self.words.get(), page as usize) })
    }

    /// Makes [`Inode::set_copy`] of a page certain to succeed. May sleep for memory; `ENOMEM`.
    pub(super) fn reserve_word(&self, page: u64) -> Result {
        // SAFETY: As in `copy`.
        kernel::error::to_result(unsafe {
            bindings::vremote_word_reserve(self.words.get(), page as usize)
        })
    }

    /// Sets the state of a page, for which a word was reserved. The caller shows that it holds the state's lock.
    pub(super) fn set_copy(&self, state: &State, page: u64, copy: Copy) {
        // SAFETY: As in `copy`.
        let status =
            unsafe { bindings::vremote_word_store(self.words.get(), page as usize, copy.word()) };
        // A word that is there already needs no memory, and only `forget_words` takes words away.
        debug_assert!(status == 0);
        crate::trace::copy(state.file, page, copy);
    }

    /// Counts pages by state: shared, modified, being written back.
    pub(super) fn count_pages(&self) -> (u64, u64, u64) {
        let (mut shared, mut modified, mut writing) = (0, 0, 0);
        self.for_each_copy(|_, copy| match copy.state {
            CopyState::Shared => shared += 1,
            CopyState::Modified => modified += 1,
            CopyState::WritingBack { .. } => writing += 1,
            CopyState::Invalid => {}
        });
        (shared, modified, writing)
    }

    /// Calls `each` for every page with a word that is not 0. Others may change words meanwhile.
    pub(super) fn for_each_copy(&self, mut each: impl FnMut(u64, Copy)) {
        let mut index = 0;
        loop {
            // SAFETY: As in `copy`.
            let word = unsafe { bindings::vremote_word_next(self.words.get(), &mut index) };
            if word == 0 {
                return;
            }
            each(index as u64, Copy::from_word(word));
            match index.checked_add(1) {
                Some(next) => index = next,
                None => return,
            }
        }
    }

    /// Size of the file as far as known here.
    pub(super) fn size(&self) -> u64 {
        self.state.lock().size()
    }

    /// The file id while this node has the file open, else 0: by it the origin knows the file, whatever its path has become.
    pub(super) fn open_id(&self) -> u64 {
        let state = self.state.lock();
        if state.readers + state.writers == 0 {
            0
        } else {
            state.file
        }
    }

    /// Makes sure, after it was done, that what was done with cached pages in this [life](State::usable_in) was done in time: waits for the lease
    /// if it has run out. That it is renewed means that the origin has not given away anything. Sleeps.
    ///
    /// # Errors
    ///
    /// `ESTALE`: it has; nothing that was done counts. `ETIMEDOUT`: the origin does not answer. `EINTR`: the task was killed.
    pub(super) fn confirm(&self, life: u64) -> Result {
        let mut deadline = net::deadline();
        loop {
            let seen = self.peer.lease_changes.seen();
            // In this order: the life ends before another session's lease can begin.
            let leased = self.peer.leased();
            self.state.lock().usable_in(life)?;
            if leased {
                return Ok(());
            }
            self.peer.hello(false);
            let left = deadline.left(net::now_us()).ok_or(ETIMEDOUT)?;
            // A hello that is lost is not repeated for a second: this one is sooner.
            let pause = left.min(HELLO_HURRY_US);
            self.peer.lease_changes.wait(seen, pause, Wait::Killable)?;
        }
    }

    /// Takes a size that came with an answer of the origin, if that is newer than what is known.
    pub(super) fn learn_size(&self, answer: &Header, size: u64) {
        let mut state = self.state.lock();
        let shared = state.file != 0;
        if shared && answer.seq != 0 && FileId::of_answer(answer) != state.file_id() {
            // Of a life that is over, or of one that has not begun: its seqs are of another counter.
            return;
        }
        let seq = if shared { answer.seq } else { 0 };
        // A file that the origin does not share has no counter. Where it is not open, or only in sessions that are over, no descriptor
        // depends on the order either.
        let unordered = !shared || (state.readers == 0 && state.writers == 0);
        state
            .size
            .learn(seq, size, unordered, |page| self.copy(page));
        self.show_size(&state);
    }

    /// A page was granted with its bytes, which end here ([`Size::reaches`]). Under the state's lock.
    pub(super) fn reaches(&self, state: &mut State, page: u64, end: u64) {
        state.size.reaches(page, end, |page| self.copy(page));
        self.show_size(state);
    }

    /// Under the state's lock.
    fn show_size(&self, state: &State) {
        let size = state.size();
        let raw = self.raw();
        if raw.is_null() {
            return;
        }
        // SAFETY: The inode is valid, because `evict` takes it away under the state's lock, which also serialises all writers of the
        // size. Readers on 64-bit machines, the only ones supported, read it whole.
        unsafe { core::ptr::write_volatile(&raw mut (*raw).i_size, size as i64) };
    }

    /// Takes what an answer of the origin says. The kernel's inode must be valid. Process context.
    pub(super) fn learn(&self, header: &Header, attributes: &Attributes) {
        self.learn_size(header, attributes.size);
        let time = |time: crate::proto::wire::Time| bindings::timespec64 {
            tv_sec: time.seconds,
            tv_nsec: time.nanoseconds as isize,
        };
        let update = bindings::vremote_attributes {
            blocks: attributes.blocks,
            mode: attributes.mode,
            nlink: attributes.nlink,
            uid: attributes.uid,
            gid: attributes.gid,
            atime: time(attributes.atime),
            mtime: time(attributes.mtime),
            ctime: time(attributes.ctime),
        };
        // SAFETY: The inode is valid by this function's contract.
        unsafe { bindings::vremote_inode_update(self.raw(), &update) };
    }

    /// Lets the work item run. Any context that may spin.
    pub(super) fn kick(self: &Arc<Inode>) {
        // Refused only if it is queued already, and then it will see what there is to do.
        let _ = WORK.queue().enqueue::<_, 0>(self.clone());
    }

    /// Leaves an `Invalidate` or a `Recall` to the work item. Without memory for it, it is as if it had been lost on the network: it
    /// comes again.
    pub(super) fn leave(self: &Arc<Inode>, header: &Header) {
        {
            let mut state = self.state.lock();
            let same =
                |other: &&mut Header| other.kind == header.kind && other.index == header.index;
            match state.jobs.iter_mut().find(same) {
                Some(other) if other.seq > header.seq => {}
                Some(other) => *other = *header,
                None => {
                    let _ = state.jobs.push(*header, GFP_ATOMIC);
                }
            }
        }
        self.kick();
    }

    fn run_jobs(self: Arc<Inode>) {
        let Some(_entered) = self.enter() else {
            return;
        };
        self.discard_failed();
        self.ask_again();
        let (life, jobs) = {
            let mut state = self.state.lock();
            (state.lives, core::mem::take(&mut state.jobs))
        };
        for header in jobs {
            let later = self.do_message(&header, true) == Outcome::Later;
            let mut state = self.state.lock();
            // As in `cut`.
            if state.lives != life {
                break;
            }
            if later {
                // A `Put` of the page is in flight, and its end lets this run again. Without memory, see `leave`.
                let _ = state.jobs.push(header, GFP_ATOMIC);
            }
        }
    }

    /// A descriptor was opened, with this file id in this session and these errors of the origin's disk: takes it over. A new id means that
    /// the origin knows nothing of what is cached here, which is dropped. Returns the [life](State::usable_in) of the file id that the
    /// descriptor belongs to. Process context, sleeps; not under the inode's i_rwsem.
    ///
    /// # Errors
    ///
    /// `ESTALE`: the session is over. `EINTR`, `ENOMEM`.
    pub(super) fn attach(
        self: &Arc<Inode>,
        file: u64,
        session: (u64, u64),
        errors: u32,
    ) -> Result<u64> {
        if let Some(life) = self.attached(file, session) {
            return Ok(life);
        }
        let reservation = RBTreeNodeReservation::new(GFP_KERNEL)?;
        // SAFETY: The caller's descriptor keeps the inode.
        kernel::error::to_result(unsafe { bindings::vremote_inode_lock(self.raw()) })?;
        let attached = self.attach_locked(file, session, errors, reservation);
        // SAFETY: Locked above.
        unsafe { bindings::vremote_inode_unlock(self.raw()) };
        attached
    }

    /// The present life, if it is that of this file id in this session.
    fn attached(&self, file: u64, session: (u64, u64)) -> Option<u64> {
        let state = self.state.lock();
        (state.file == file && self.peer.session() == session).then_some(state.lives)
    }

    fn attach_locked(
        self: &Arc<Inode>,
        file: u64,
        session: (u64, u64),
        errors: u32,
        reservation: RBTreeNodeReservation<(u8, u64), Arc<Inode>>,
    ) -> Result<u64> {
        // In the next session the id means nothing, or another file.
        if self.peer.session() != session {
            return Err(ESTALE);
        }
        if let Some(life) = self.attached(file, session) {
            return Ok(life);
        }
        self.cut();
        self.purge();
        let old = {
            let mut table = TABLE.lock();
            table.as_mut().and_then(|table| {
                table
                    .0
                    .insert(reservation.into_node((self.peer.slot, file), self.clone()))
            })
        };
        drop(old);
        let life = {
            let mut state = self.state.lock();
            state.file = file;
            state.session = session;
            state.size.restart();
            // Descriptors of an earlier session may still be open, but an origin that started anew has counted from 0 since: what was
            // known of it before could be taken for an error that nobody here has been told of.
            state.errors = errors;
            state.lives
        };
        // If it ends only after this, `abandon` finds the inode in the table.
        if self.peer.session() != session {
            self.cut();
            return Err(ESTALE);
        }
        Ok(life)
    }

    /// Messages about this file id do not find the inode any more. In the next session the id may be another inode's, which stays.
    fn forget(&self, file: u64) {
        let key = (self.peer.slot, file);
        let entry = TABLE.lock().as_mut().and_then(|table| {
            let own = table
                .0
                .get(&key)
                .is_some_and(|inode| core::ptr::eq(&**inode, self));
            own.then(|| table.0.remove_node(&key))?
        });
        drop(entry);
    }

    /// Ends what is in flight under the present file id, which becomes 0: from now on nothing is asked for, granted or sent. What is
    /// cached stays until [`Inode::purge`]. Unwritten bytes that were on their way are lost. The caller keeps the inode.
    fn cut(&self) {
        let (file, puts, gets) = {
            let mut state = self.state.lock();
            state.stale |= state.file != 0;
            state.lives += 1;
            // Their seqs mean nothing in the next session.
            state.jobs.clear();
            // With the session the origin has ended all locks.
            state.operations.clear();
            state.pinned.clear();
            // Nor does what is cached hold up the size: nobody asks for it any more.
            state.size.restart();
            (
                core::mem::take(&mut state.file),
                core::mem::take(&mut state.puts),
                core::mem::take(&mut state.gets),
            )
        };
        if file != 0 {
            self.forget(file);
        }
        for request in gets {
            exchange::finish(request.id);
            request.fail();
        }
        let mut lost = 0;
        for put in puts {
            exchange::finish(put.request);
            lost += put.give_up();
        }
        if lost != 0 {
            self.report_loss(lost, EIO);
        }
        self.changes.happen();
        self.peer.lease_changes.happen();
    }

    /// Drops what was granted before [`Inode::cut`]. Bytes written here and never sent are lost, which is logged and reported by the next
    /// fsync. The caller keeps the inode and holds its i_rwsem. Sleeps.
    fn purge(&self) {
        if !self.state.lock().stale {
            return;
        }
        let lost = self.dirty_bytes();
        {
            let _state = self.state.lock();
            // SAFETY: Initialised in `new`; an empty array may be used on. Under the lock nobody looks at a word meanwhile.
            unsafe { bindings::xa_destroy(self.words.get()) };
        }
        // SAFETY: The caller keeps the inode. All that this waits for has ended: see `cut`.
        unsafe { bindings::truncate_inode_pages(self.mapping(), 0) };
        self.state.lock().stale = false;
        if lost != 0 {
            self.report_loss(lost, EIO);
        }
        self.changes.happen();
    }

    /// Takes its pages out of all mappings of processes; those that private ones have copied are theirs, and stay. The inode is entered. Sleeps.
    fn unmap(&self) {
        // SAFETY: Entered, so that the mapping is there.
        unsafe { bindings::unmap_mapping_pages(self.mapping(), 0, 0, false) };
    }

    /// [`Inode::purge`] for who does not hold the i_rwsem. A writer whose buffer never comes (userfaultfd, a FUSE file) may hold it for ever:
    /// as long as that lasts, what was mapped in the moment of [`Inode::cut`] is unmapped again and again. The inode is entered.
    fn purge_when_free(&self) {
        // SAFETY: Entered.
        while !unsafe { bindings::vremote_inode_trylock(self.raw()) } {
            self.unmap();
            delay::fsleep(PURGE_PAUSE);
        }
        self.purge();
        // SAFETY: Locked above.
        unsafe { bindings::vremote_inode_unlock(self.raw()) };
    }

    /// Bytes of pages that were written here and not sent home. The caller keeps the inode.
    fn dirty_bytes(&self) -> u64 {
        let mut bytes = 0;
        self.for_each_copy(|page, copy| {
            if copy.state == CopyState::Modified {
                // SAFETY: The caller keeps the inode.
                let folio = unsafe { Folio::find(self.mapping(), page) };
                if folio.is_some_and(|folio| folio.dirty()) {
                    bytes += PAGE_BYTES as u64;
                }
            }
        });
        bytes
    }

    /// Something written did not get to the origin's disk: every descriptor's next fsync says so, once.
    pub(super) fn set_error(&self, error: Error) {
        // SAFETY: The caller keeps the inode.
        unsafe { bindings::vremote_mapping_error(self.mapping(), error.to_errno()) };
    }

    /// The origin tells of an error of its disk. Two syncs at once are told of the same one.
    pub(super) fn told_of_error(&self, errors: u32, error: Error) {
        let mut state = self.state.lock();
        if state.errors != errors {
            state.errors = errors;
            self.set_error(error);
        }
    }

    /// Bytes written here will never reach the origin: [`Self::set_error`], they are counted, and the log says so now.
    pub(super) fn report_loss(&self, bytes: u64, error: Error) {
        self.set_error(error);
        self.peer.counters.lost_bytes.add(bytes);
        if net::may_log() {
            let ino = self.identity.map_or(0, |identity| identity.ino);
            pr_err!(
                "{} bytes written to inode {} of node {} are lost: {:?}\n",
                bytes,
                ino,
                kernel::str::BStr::from_bytes(self.peer.name()),
                error
            );
        }
    }

    /// The kernel's inode goes. Its dirty pages were written before, unless the origin is silent; then their bytes are lost. Waits for those
    /// that are on their way, for as long as the origin is a peer.
    pub(super) fn evict(self: &Arc<Inode>) {
        let gets = {
            let mut state = self.state.lock();
            state.evicting = true;
            core::mem::take(&mut state.gets)
        };
        for request in gets {
            exchange::finish(request.id);
            request.fail();
        }
        loop {
            let seen = self.changes.seen();
            self.discard_failed();
            {
                let state = self.state.lock();
                if state.busy == 0 && state.puts.is_empty() {
                    break;
                }
            }
            let _ = self.changes.wait(seen, net::timeout_us(), Wait::Always);
        }
        let lost = self.dirty_bytes();
        if lost != 0 {
            self.report_loss(lost, EIO);
        }
        // SAFETY: The kernel's inode is ours alone, and no Get is in flight that would hold the lock of a folio.
        unsafe { bindings::truncate_inode_pages_final(self.mapping()) };
        let file = {
            let mut state = self.state.lock();
            self.raw.store(0, Relaxed);
            core::mem::take(&mut state.file)
        };
        // Only now: until here messages about the file were left unanswered, from now on nothing is held.
        self.forget(file);
    }
}

/// See [`super::lapse`].
pub(super) fn lapse(peer: &Arc<Peer>) {
    let slot = peer.slot;
    let unmap = move || {
        let mut after = (slot, 0);
        while let Some((key, inode)) = next(after) {
            if key.0 != slot {
                return;
            }
            after = key;
            if let Some(_entered) = inode.enter() {
                inode.unmap();
            }
        }
    };
    // Without memory for it, it comes again.
    let _ = WORK.queue().try_spawn(GFP_NOWAIT, unmap);
}

/// The session with `peer` is over: see [`super::peer_gone`]. Nobody waits for the files' locks, and so for their writers: a new session may
/// begin before all is dropped that was granted in the old one, as what was opened then is of a life that is over, and what is opened anew
/// drops the rest first ([`Inode::attach`]).
pub(super) fn abandon(peer: &Arc<Peer>) {
    let mut after = (peer.slot, 0);
    while let Some((key, inode)) = next(after) {
        if key.0 != peer.slot {
            break;
        }
        after = key;
        if let Some(_entered) = inode.enter() {
            inode.cut();
            // Before a new session begins, with newer bytes in other files. Who faults now is seen by the work item.
            inode.unmap();
            let _ = PURGES.queue().enqueue::<_, 2>(inode.clone());
        }
    }
}

/// Writes what is known here as JSON; see [`super::status`].
pub(super) fn status(out: &mut dyn Write) -> core::fmt::Result {
    let mut after = (0, 0);
    let mut separator = "";
    out.write_char('[')?;
    while let Some((key, inode)) = next(after) {
        after = key;
        let (readers, writers, size, gets, puts) = {
            let state = inode.state.lock();
            (
                state.readers,
                state.writers,
                state.size(),
                state.gets.len(),
                state.puts.len(),
            )
        };
        let (shared, modified, writing) = inode.count_pages();
        let ino = inode.identity.map_or(0, |identity| identity.ino);
        out.write_str(separator)?;
        out.write_str("{\"node\":")?;
        crate::stats::write_json_string(&mut &mut *out, inode.peer.name())?;
        write!(
            out,
            ",\"file\":{},\"ino\":{},\"size\":{},\"readers\":{},\"writers\":{},\"shared\":{},\"modified\":{},\"writing\":{},\
             \"gets\":{},\"puts\":{}}}",
            key.1, ino, size, readers, writers, shared, modified, writing, gets, puts
        )?;
        separator = ",";
    }
    out.write_char(']')
}
