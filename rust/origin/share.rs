// SPDX-License-Identifier: GPL-2.0

//! Shared files of this node: which there are, who has them open, and the directory of each one's pages.
//!
//! A file is shared while a descriptor with `O_ORIGIN` holds it open, or while a remote has it open below an export. Its
//! mapping then carries the coherent mark, and the kernel's hooks come to `hooks.rs`.
//!
//! Lock order: [`LIFECYCLE`] and [`Share::restoring`] (mutexes) before all spinlocks; [`TABLE`] and [`Share::state`] are
//! leaves and never held together.

use core::ops::Deref;

use kernel::{
    bindings::{address_space, file},
    prelude::*,
    rbtree::RBTree,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        new_mutex, new_spinlock, Arc, Mutex, SpinLock,
    },
    workqueue::{impl_has_work, new_work, Work, WorkItem},
};

use super::{
    lock::Locks,
    pages::{left_to, Context},
    quota::Place,
};
use crate::bindings;
use crate::proto::{
    directory::{Action, Page, Tx},
    limits::MAX_STASH,
    nodes::Node,
};
use crate::wait;

/// Bytes of one page on their way, or kept.
pub(super) type Bytes = KVVec<u8>;

/// What a `Put` has brought.
pub(super) struct Incoming {
    pub(super) bytes: Bytes,
    /// `None`: others wait for it.
    pub(super) _place: Option<Place>,
}

/// How many [`Stash`]es there are.
static STASHED: Atomic<u64> = Atomic::new(0);

/// The bytes of one page in the stash.
pub(super) struct Stash {
    bytes: Bytes,
    /// The page was dirty, and had room on the disk; else the disk may have refused it before.
    pub(super) dirty: bool,
}

impl Stash {
    pub(super) fn new(bytes: Bytes, dirty: bool) -> Stash {
        STASHED.fetch_add(1, Relaxed);
        Stash { bytes, dirty }
    }

    /// Whether the stashes of all shares take as much memory as they may: then what is dirty goes to disk before it is granted away.
    pub(super) fn is_full() -> bool {
        // SAFETY: No precondition.
        STASHED.load(Relaxed) >= unsafe { bindings::vremote_origin_memory_pages() } / MAX_STASH
    }
}

impl Deref for Stash {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Stash {
    fn drop(&mut self) {
        STASHED.fetch_sub(1, Relaxed);
    }
}

/// An own reference to an open file, dropped with `fput`.
pub(crate) struct File(*mut file);

// SAFETY: A file's reference count is atomic and its operations are safe on any task.
unsafe impl Send for File {}
// SAFETY: As above.
unsafe impl Sync for File {}

impl File {
    /// Takes over a reference that a kernel function returned as a pointer or as `ERR_PTR`.
    ///
    /// # Safety
    ///
    /// The pointer is an error or a file with a reference that is ours to drop.
    pub(super) unsafe fn from_ret(file: *mut file) -> Result<File> {
        kernel::error::from_err_ptr(file).map(File)
    }

    /// The kernel's pointer; valid while `self` lives.
    pub(crate) fn as_ptr(&self) -> *mut file {
        self.0
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the type's construction.
        unsafe { bindings::fput(self.0) };
    }
}

/// A file that this module has opened once more, for itself: nobody's opening, so that it is no writer whatever it may do.
pub(crate) struct OwnFile(*mut file);

// SAFETY: As for `File`.
unsafe impl Send for OwnFile {}
// SAFETY: As for `File`.
unsafe impl Sync for OwnFile {}

impl OwnFile {
    /// Opens it: for reading and writing if the mount allows. Process context, sleeps.
    ///
    /// # Errors
    ///
    /// What opening returned.
    ///
    /// # Safety
    ///
    /// `file` must be valid during the call.
    pub(super) unsafe fn open(file: *mut file) -> Result<OwnFile> {
        // SAFETY: `file` is valid by this function's contract.
        let own = unsafe { bindings::vremote_origin_reopen(file) };
        kernel::error::from_err_ptr(own).map(OwnFile)
    }

    /// The kernel's pointer; valid while `self` lives.
    pub(crate) fn as_ptr(&self) -> *mut file {
        self.0
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        // SAFETY: Opened by `open`, and ours.
        unsafe { bindings::vremote_origin_close(self.0) };
    }
}

/// A transaction and what belongs to it while it runs.
#[derive(Default)]
pub(super) struct Active {
    pub(super) tx: Option<Tx>,
    /// Bytes of the `Put` that is to be installed.
    pub(super) incoming: Option<Incoming>,
    /// What the share's work item has to do for this page.
    pub(super) deferred: Option<Action>,
    /// The task whose own accesses to the page the hooks let pass: it does the transaction's work.
    pub(super) worker: usize,
    /// Requests in flight of the current round, to end them early.
    pub(super) round: u64,
    /// Held by whose request began it.
    pub(super) place: Option<Place>,
}

/// A local task that waits for a page.
pub(super) struct Ticket {
    pub(super) number: u64,
    pub(super) waiter: Arc<Waiter>,
}

/// What a local task waits on.
#[pin_data]
pub(super) struct Waiter {
    #[pin]
    pub(super) event: wait::Event,
    /// errno, 0 for success.
    pub(super) status: Atomic<u32>,
}

impl Waiter {
    pub(super) fn new() -> Result<Arc<Waiter>> {
        Arc::pin_init(
            pin_init!(Waiter { event <- wait::Event::new(), status: Atomic::new(0) }),
            GFP_KERNEL,
        )
    }
}

/// How often a node has the file open.
#[derive(Clone, Copy)]
pub(super) struct Opens {
    pub(super) node: Node,
    pub(super) readers: u32,
    pub(super) writers: u32,
    /// The last `Put` of this node that said that the file was written to. A repetition of it says nothing new.
    pub(super) touched: u64,
}

/// The part of a [`Share`] that changes.
pub(super) struct State {
    /// The next install sets the file's times.
    pub(super) touched: bool,
    /// The file's counter of decisions.
    pub(super) next_seq: u64,
    pub(super) next_ticket: u64,
    /// Records of pages that some remote holds.
    pub(super) pages: RBTree<u64, Page>,
    /// Pages with a transaction.
    pub(super) active: RBTree<u64, Active>,
    /// Last versions of pages that were dirty here, or that the disk may have refused, when ownership was granted away: the only
    /// copy of these bytes, should the owner vanish without having written.
    pub(super) stash: RBTree<u64, Stash>,
    pub(super) tickets: KVec<Ticket>,
    /// The task that puts an orphaned stash back; the hooks let it pass.
    pub(super) restorer: usize,
    /// Ranges of pages (first, last) that are being truncated: requests of remotes are not heard.
    pub(super) frozen: KVec<(u64, u64)>,
    pub(super) opens: KVec<Opens>,
    /// How many [`Share::pull`] and [`Share::cleaning`] are under way: what is dirty goes to disk before it is granted away.
    pub(super) pulls: u32,
    /// The work item for grants has recorded holders, and what it grants them may lie in its outbox still.
    pub(super) unsent: bool,
    /// Local descriptors opened with `O_ORIGIN`.
    pub(super) descriptors: u32,
    /// Its pages are being taken home, to end it; `true`: this was wanted once more meanwhile.
    pub(super) settling: Option<bool>,
    /// Its pages are being taken from their owners, by [`Share::end_ownership_soon`].
    pub(super) disowning: bool,
    /// Taken out of the table: nobody may open it any more.
    pub(super) dead: bool,
}

impl State {
    /// Counts of this node's opens of the file.
    pub(super) fn opens_of(&mut self, node: Node) -> Option<&mut Opens> {
        self.opens.iter_mut().find(|opens| opens.node == node)
    }

    /// A `Put` says that its node has written to the file.
    pub(super) fn touch(&mut self, node: Node, request: u64) {
        let last = self.opens_of(node).map(|opens| &mut opens.touched);
        if let Some(last) = last.filter(|last| **last < request) {
            *last = request;
            self.touched = true;
        }
    }

    /// Whether requests for this page must wait until a truncation is over.
    pub(super) fn is_frozen(&self, index: u64) -> bool {
        self.frozen
            .iter()
            .any(|&(first, last)| first <= index && index <= last)
    }
}

/// A shared file of this node.
#[pin_data]
pub(crate) struct Share {
    /// File id on the wire; unique in this session.
    pub(super) id: u64,
    /// The file, opened for ourselves, for reading and writing if the mount allows.
    pub(super) file: OwnFile,
    pub(super) mapping: *mut address_space,
    #[pin]
    pub(super) state: SpinLock<State>,
    /// What remotes have locked.
    #[pin]
    pub(super) locks: Locks,
    /// Held while an orphaned stash is put back.
    #[pin]
    pub(super) restoring: Mutex<()>,
    /// Makes the grants that the receive thread had to leave: see `pages.rs`.
    #[pin]
    grants: Work<Share, GRANTS>,
    /// Installs what came home. Separate from grants, which read the file and so may wait for a truncation, which may wait for
    /// a reader, which waits for an install.
    #[pin]
    installs: Work<Share, INSTALLS>,
    /// Writes to disk what was dirty when the share was made. A sync that began before that has called no hook, and goes by the page
    /// cache alone: until this is over, as during [`Share::pull`], nothing dirty is granted away.
    #[pin]
    cleaning: Work<Share, CLEANING>,
}

/// See [`Share::grants`].
const GRANTS: u64 = 0;
/// See [`Share::installs`].
const INSTALLS: u64 = 1;
/// See [`Share::cleaning`].
const CLEANING: u64 = 2;

// SAFETY: `mapping` belongs to `file`, which is ours and safe to use on any task; all else is Send.
unsafe impl Send for Share {}
// SAFETY: As above; `state` has a lock.
unsafe impl Sync for Share {}

impl_has_work! {
    impl HasWork<Self, GRANTS> for Share { self.grants }
    impl HasWork<Self, INSTALLS> for Share { self.installs }
    impl HasWork<Self, CLEANING> for Share { self.cleaning }
}

impl WorkItem<GRANTS> for Share {
    type Pointer = Arc<Share>;

    fn run(this: Arc<Share>) {
        this.run_deferred(Context::Grants);
    }
}

impl WorkItem<INSTALLS> for Share {
    type Pointer = Arc<Share>;

    fn run(this: Arc<Share>) {
        this.run_deferred(Context::Installs);
    }
}

impl WorkItem<CLEANING> for Share {
    type Pointer = Arc<Share>;

    fn run(this: Arc<Share>) {
        this.write_out(0, u64::MAX);
        this.state.lock().pulls -= 1;
    }
}

/// The shares, by id and by mapping.
#[derive(Default)]
struct Table {
    by_id: RBTree<u64, Arc<Share>>,
    by_mapping: RBTree<usize, Arc<Share>>,
}

// SAFETY: The trees own their nodes, which own `Arc`s.
unsafe impl Send for Table {}

kernel::sync::global_lock! {
    // SAFETY: Initialised in `init`, before the hooks and the receive thread exist.
    unsafe(uninit) static TABLE: SpinLock<Option<Table>> = None;
}

kernel::sync::global_lock! {
    // SAFETY: Initialised in `init`.
    //
    // Held while a share is made or retired, so that the mark of its mapping changes once; outermost lock of this file.
    unsafe(uninit) static LIFECYCLE: Mutex<()> = ();
}

static NEXT_ID: Atomic<u64> = Atomic::new(1);

/// Prepares the table. Called once, at load.
pub(super) fn init() {
    // SAFETY: Called once, before any use of the lock.
    unsafe {
        TABLE.init();
        LIFECYCLE.init();
    }
    *TABLE.lock() = Some(Table::default());
}

/// Frees the table. Nobody uses it any more.
pub(super) fn exit() {
    let table = TABLE.lock().take();
    drop(table);
}

/// The share with this id.
pub(super) fn by_id(id: u64) -> Option<Arc<Share>> {
    TABLE.lock().as_ref()?.by_id.get(&id).cloned()
}

/// The share of this mapping. Any context that may spin.
pub(crate) fn by_mapping(mapping: *mut address_space) -> Option<Arc<Share>> {
    TABLE
        .lock()
        .as_ref()?
        .by_mapping
        .get(&(mapping as usize))
        .cloned()
}

/// All shares, in the order of their ids, which rise: also those that are made meanwhile. Takes no memory, so that what a node holds can be
/// taken back when there is none.
pub(super) fn all() -> impl Iterator<Item = Arc<Share>> {
    let mut from = 0;
    core::iter::from_fn(move || {
        let table = TABLE.lock();
        let cursor = table.as_ref()?.by_id.cursor_lower_bound(&from)?;
        let (id, share) = cursor.current();
        from = *id + 1;
        Some(share.clone())
    })
}

impl Share {
    /// The share of `file`'s inode; makes it one if it is not.
    ///
    /// # Errors
    ///
    /// `EISDIR`, `ENXIO` (not a regular file), `EOPNOTSUPP` (file system or file that cannot be coherent), `EBUSY` (a page
    /// is pinned), `ENOMEM`, or what opening the file again returned.
    ///
    /// # Safety
    ///
    /// `file` must be valid during the call.
    pub(super) unsafe fn of(file: *mut file) -> Result<Arc<Share>> {
        // SAFETY: `file` is valid by this function's contract.
        let mapping = unsafe { bindings::vremote_origin_mapping(file) };
        let _lifecycle = LIFECYCLE.lock();
        if let Some(share) = by_mapping(mapping) {
            return Ok(share);
        }
        // SAFETY: As above.
        kernel::error::to_result(unsafe { bindings::vremote_origin_shareable(file) })?;
        // SAFETY: As above.
        let own = unsafe { OwnFile::open(file) }?;
        let id_node = kernel::rbtree::RBTreeNodeReservation::new(GFP_KERNEL)?;
        let mapping_node = kernel::rbtree::RBTreeNodeReservation::new(GFP_KERNEL)?;
        let share = Arc::pin_init(
            pin_init!(Share {
                id: NEXT_ID.fetch_add(1, Relaxed),
                file: own,
                mapping,
                state <- new_spinlock!(State {
                    touched: false,
                    next_seq: 1,
                    next_ticket: 1,
                    pages: RBTree::new(),
                    active: RBTree::new(),
                    stash: RBTree::new(),
                    tickets: KVec::new(),
                    restorer: 0,
                    frozen: KVec::new(),
                    opens: KVec::new(),
                    pulls: 1,
                    unsent: false,
                    descriptors: 0,
                    settling: None,
                    disowning: false,
                    dead: false,
                }),
                locks <- Locks::new(),
                restoring <- new_mutex!(()),
                grants <- new_work!("vremote::grants"),
                installs <- new_work!("vremote::installs"),
                cleaning <- new_work!("vremote::cleaning"),
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The file is open.
        kernel::error::to_result(unsafe { bindings::vremote_origin_mark(share.file.as_ptr()) })?;
        let mut guard = TABLE.lock();
        let table = guard.as_mut().ok_or(ENODEV)?;
        table
            .by_id
            .insert(id_node.into_node(share.id, share.clone()));
        table
            .by_mapping
            .insert(mapping_node.into_node(mapping as usize, share.clone()));
        drop(guard);
        let _ = super::REQUESTS
            .queue()
            .enqueue::<Arc<Share>, CLEANING>(share.clone());
        Ok(share)
    }

    /// Takes the share out of the table if nobody uses it. All pages must be at home ([`Share::acquire_range`]).
    /// Says whether it is out.
    pub(super) fn retire(self: &Arc<Self>) -> bool {
        let _lifecycle = LIFECYCLE.lock();
        {
            let mut state = self.state.lock();
            let idle = state.descriptors == 0
                && state
                    .opens
                    .iter()
                    .all(|opens| opens.readers + opens.writers == 0)
                && state.pages.is_empty()
                && state.active.is_empty()
                && state.stash.is_empty();
            if !idle || state.dead {
                return false;
            }
            state.dead = true;
        }
        // SAFETY: The file is open.
        unsafe { bindings::vremote_origin_unmark(self.file.as_ptr()) };
        let nodes = {
            let mut guard = TABLE.lock();
            guard.as_mut().map(|table| {
                (
                    table.by_id.remove_node(&self.id),
                    table.by_mapping.remove_node(&(self.mapping as usize)),
                )
            })
        };
        drop(nodes);
        true
    }

    /// A remote opens the file for writing: until [`Share::end_writing`] no program is run from it here.
    ///
    /// # Errors
    ///
    /// `ETXTBSY`: one is.
    pub(super) fn begin_writing(&self) -> Result {
        // SAFETY: The file is open.
        kernel::error::to_result(unsafe {
            bindings::vremote_origin_write_begin(self.file.as_ptr())
        })
    }

    /// The reverse of [`Share::begin_writing`].
    pub(super) fn end_writing(&self) {
        // SAFETY: The file is open.
        unsafe { bindings::vremote_origin_write_end(self.file.as_ptr()) };
    }

    /// Writes what is dirty of these pages to disk, and waits for that; what fails is noted in the mapping, for every fsync. Sleeps; the
    /// caller holds no lock.
    pub(super) fn write_out(&self, first: u64, last: u64) {
        // SAFETY: The file is open.
        unsafe { bindings::vremote_origin_write_out(self.file.as_ptr(), first, last) };
    }

    /// Writes the file to disk, and if not `datasync` all its attributes. Sleeps; the caller holds no lock.
    ///
    /// # Errors
    ///
    /// What the file system returned.
    pub(super) fn sync(&self, datasync: bool) -> Result {
        // SAFETY: The file is open.
        kernel::error::to_result(unsafe {
            bindings::vremote_origin_sync(self.file.as_ptr(), datasync)
        })
    }

    /// Writes the file to disk as [`Share::sync`], and tells of errors that there were in that since `known`, whoever met them: gives the
    /// errno, or 0, and brings `known` up to date. Sleeps.
    ///
    /// # Errors
    ///
    /// What the file system returned and is no such error.
    pub(super) fn sync_since(&self, known: &mut u32, datasync: bool) -> Result<u16> {
        let synced = self.sync(datasync);
        // SAFETY: The open file keeps the mapping.
        let errors = unsafe { &raw mut (*self.mapping).wb_err };
        // SAFETY: As above, and the caller's count is valid.
        let unseen = unsafe { bindings::errseq_check_and_advance(errors, known) };
        if unseen == 0 {
            synced?;
        }
        Ok(unseen.unsigned_abs() as u16)
    }

    /// The errors of writing the file to disk that who opens it now is taken to know, as `errseq_t` counts them.
    pub(super) fn errors(&self) -> u32 {
        // SAFETY: The open file keeps the mapping.
        unsafe { bindings::errseq_sample(&raw mut (*self.mapping).wb_err) }
    }

    /// Whether there ever was such an error: what is in the page cache may be newer than the disk although it is not dirty.
    pub(super) fn has_failed(&self) -> bool {
        // SAFETY: The open file keeps the mapping. Compared with the count of a file that never had an error.
        unsafe { bindings::errseq_check(&raw mut (*self.mapping).wb_err, 0) != 0 }
    }

    /// Bytes that somebody wrote will not get to the disk: whoever has the file open is told with the next fsync.
    pub(super) fn set_error(&self, errno: i32) {
        // SAFETY: The open file keeps the mapping.
        unsafe { bindings::vremote_mapping_error(self.mapping, errno) };
    }

    /// Size of the file in bytes.
    pub(super) fn size(&self) -> u64 {
        // SAFETY: The file is open.
        unsafe { bindings::vremote_origin_size(self.file.as_ptr()) }
    }

    /// Whether the file has no name any more.
    pub(super) fn deleted(&self) -> bool {
        // SAFETY: The file is open.
        unsafe { bindings::vremote_origin_deleted(self.file.as_ptr()) }
    }

    /// Takes the next place in the order of decisions, together with the size: what every answer carries.
    pub(super) fn stamp(&self) -> (u64, u64) {
        let mut state = self.state.lock();
        let seq = crate::proto::directory::take_seq(&mut state.next_seq);
        (seq, self.size())
    }

    /// Has the work item run that does such an action.
    pub(super) fn kick(self: &Arc<Self>, action: &Action) {
        // If it is queued already, that is as good.
        let _ = match left_to(action) {
            Context::Installs => super::PAGES.queue().enqueue::<_, INSTALLS>(self.clone()),
            _ => super::PAGES.queue().enqueue::<_, GRANTS>(self.clone()),
        };
    }
}
