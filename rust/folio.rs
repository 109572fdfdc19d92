// SPDX-License-Identifier: GPL-2.0

//! Folios of the page cache, with the lock as a type: [`Folio`] is a reference, [`Locked`] a reference and the folio lock.
//!
//! All folios here have one page: mappings that VRemote serves, at the origin and at a remote, are kept at order 0.
//!
//! Context: everything but [`Folio::lock`], [`Locked::create`] and [`Folio::wait_writeback`] may be called where sleeping is
//! forbidden, with the exception of [`Locked::remove`] and [`Locked::clean_for_io`], which need process context. The receive
//! thread is process context, but must not wait for a folio lock: it uses [`Folio::trylock`].

use core::{
    mem::ManuallyDrop,
    ops::{Deref, Range},
    ptr::NonNull,
};

use kernel::prelude::*;

use crate::bindings;
use crate::proto::limits::PAGE_BYTES;

const _: () = assert!(
    PAGE_BYTES == kernel::page::PAGE_SIZE,
    "the unit of coherence is a page"
);

/// A counted reference to a folio.
///
/// # Invariants
///
/// The pointer is valid, and this value owns one count of the folio's reference count.
pub struct Folio(NonNull<bindings::folio>);

// SAFETY: A folio's reference count, flags and lock are atomic, and its reference may be dropped on any CPU and by any task.
unsafe impl Send for Folio {}
// SAFETY: As above; every method that takes `&self` is safe to run at the same time as any other.
unsafe impl Sync for Folio {}

impl Folio {
    /// The folio at this page index of `mapping`, if there is one; neither locked nor necessarily uptodate.
    ///
    /// # Safety
    ///
    /// `mapping` must be valid during the call.
    pub unsafe fn find(mapping: *mut bindings::address_space, index: u64) -> Option<Folio> {
        // SAFETY: `mapping` is valid by this function's contract; flags 0 allocate nothing and do not sleep.
        let folio = unsafe { bindings::vremote_folio_find(mapping, index as usize) };
        // INVARIANT: The shim gives its reference to us.
        NonNull::new(folio).map(Folio)
    }

    /// A new reference to a folio that somebody else keeps alive, such as the one that an address space operation is given.
    ///
    /// # Safety
    ///
    /// `folio` must be valid and referenced during the call.
    pub unsafe fn get(folio: NonNull<bindings::folio>) -> Folio {
        // SAFETY: By this function's contract the count is not 0.
        unsafe { bindings::vremote_folio_get(folio.as_ptr()) };
        // INVARIANT: Just counted.
        Folio(folio)
    }

    /// The kernel's pointer; valid while this reference lives.
    pub fn as_ptr(&self) -> *mut bindings::folio {
        self.0.as_ptr()
    }

    /// Page index in its mapping. It does not change while the folio is in a mapping, nor after it was removed from it.
    pub fn index(&self) -> u64 {
        // SAFETY: The folio is valid by the type's invariant.
        unsafe { bindings::vremote_folio_index(self.as_ptr()) as u64 }
    }

    /// Whether the bytes are valid. Unless the folio is locked this is only a hint.
    pub fn uptodate(&self) -> bool {
        // SAFETY: The folio is valid by the type's invariant.
        unsafe { bindings::vremote_folio_uptodate(self.as_ptr()) }
    }

    /// Whether the bytes are newer than what they were written back to. Unless the folio is locked this is only a hint.
    pub fn dirty(&self) -> bool {
        // SAFETY: The folio is valid by the type's invariant.
        unsafe { bindings::vremote_folio_dirty(self.as_ptr()) }
    }

    /// Whether the bytes are on their way to where they are kept. Unless the folio is locked this is only a hint.
    pub fn under_writeback(&self) -> bool {
        // SAFETY: The folio is valid by the type's invariant.
        unsafe { bindings::vremote_folio_writeback(self.as_ptr()) }
    }

    /// Whether processes have the folio mapped. Unless it is locked this is only a hint.
    pub fn mapped(&self) -> bool {
        // SAFETY: The folio is valid by the type's invariant.
        unsafe { bindings::vremote_folio_mapped(self.as_ptr()) }
    }

    /// Whether somebody may be writing to the bytes past the page cache and all mappings, such as a device. May say so wrongly.
    pub fn pinned(&self) -> bool {
        // SAFETY: The folio is valid by the type's invariant.
        unsafe { bindings::vremote_folio_pinned(self.as_ptr()) }
    }

    /// Ends what [`Locked::start_writeback`] began, once. Any context.
    pub fn end_writeback(&self) {
        // SAFETY: The folio is valid.
        unsafe { bindings::folio_end_writeback(self.as_ptr()) };
    }

    /// The first `count` bytes, at most a page, in place.
    ///
    /// # Safety
    ///
    /// Nobody writes to the folio, but for writers whose tearing of these bytes the caller can live with.
    pub unsafe fn bytes_in_place(&self, count: usize) -> &[u8] {
        // SAFETY: The folio is valid and has a page of mapped bytes; the rest is this function's contract.
        unsafe {
            core::slice::from_raw_parts(
                bindings::vremote_folio_address(self.as_ptr()).cast(),
                count.min(PAGE_BYTES),
            )
        }
    }

    /// Takes the folio lock, waiting for it. Sleeps.
    pub fn lock(self) -> Locked {
        // SAFETY: The folio is valid by the type's invariant.
        unsafe { bindings::vremote_folio_lock(self.as_ptr()) };
        // INVARIANT: Locked by us just now.
        Locked(ManuallyDrop::new(self))
    }

    /// Takes the folio lock if nobody holds it; gives the reference back if somebody does.
    pub fn trylock(self) -> Result<Locked, Folio> {
        // SAFETY: The folio is valid by the type's invariant.
        if unsafe { bindings::vremote_folio_trylock(self.as_ptr()) } {
            // INVARIANT: Locked by us just now.
            Ok(Locked(ManuallyDrop::new(self)))
        } else {
            Err(self)
        }
    }

    /// Waits until the folio is not under writeback. Sleeps.
    pub fn wait_writeback(&self) {
        // SAFETY: The folio is valid by the type's invariant.
        unsafe { bindings::folio_wait_writeback(self.as_ptr()) };
    }
}

impl Clone for Folio {
    fn clone(&self) -> Folio {
        // SAFETY: We hold a reference.
        unsafe { Folio::get(self.0) }
    }
}

impl Drop for Folio {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant the count is ours to drop.
        unsafe { bindings::vremote_folio_put(self.as_ptr()) };
    }
}

/// A reference to a folio whose lock is held; dropping it unlocks.
///
/// The folio lock belongs to no task: it may be taken by one and released by another, as reads do.
///
/// # Invariants
///
/// The folio is locked, and this value is the only one that may unlock it.
pub struct Locked(ManuallyDrop<Folio>);

impl Deref for Locked {
    type Target = Folio;

    fn deref(&self) -> &Folio {
        &self.0
    }
}

impl Locked {
    /// The folio at this index, locked; a new one that is not uptodate if there was none. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINTR`: killed. `ENOMEM`, also when the memory cgroup's limit is reached.
    ///
    /// # Safety
    ///
    /// `mapping` must be valid during the call and take folios of one page.
    pub unsafe fn create(mapping: *mut bindings::address_space, index: u64) -> Result<Locked> {
        let mut folio = core::ptr::null_mut();
        // SAFETY: `mapping` is valid by this function's contract, `folio` is ours.
        let status = unsafe { bindings::vremote_folio_create(mapping, index as usize, &mut folio) };
        kernel::error::to_result(status)?;
        let folio = NonNull::new(folio).ok_or(ENOMEM)?;
        // INVARIANT: The shim gives its reference and the lock to us.
        Ok(Locked(ManuallyDrop::new(Folio(folio))))
    }

    /// A new folio at this index, locked and not uptodate. May sleep for memory, but waits for no folio lock.
    ///
    /// # Errors
    ///
    /// `EEXIST`: there is a folio at this index. `ENOMEM`.
    ///
    /// # Safety
    ///
    /// As [`Locked::create`].
    pub unsafe fn add(mapping: *mut bindings::address_space, index: u64) -> Result<Locked> {
        let mut folio = core::ptr::null_mut();
        // SAFETY: `mapping` is valid by this function's contract, `folio` is ours.
        let status = unsafe { bindings::vremote_folio_add(mapping, index as usize, &mut folio) };
        kernel::error::to_result(status)?;
        let folio = NonNull::new(folio).ok_or(ENOMEM)?;
        // INVARIANT: The shim gives its reference and the lock to us.
        Ok(Locked(ManuallyDrop::new(Folio(folio))))
    }

    /// Takes over a lock that the caller holds, with a new reference: what `read_folio` and readahead are given.
    ///
    /// # Safety
    ///
    /// `folio` must be valid and locked, and the caller gives the lock away.
    pub unsafe fn adopt(folio: NonNull<bindings::folio>) -> Locked {
        // INVARIANT: The lock is ours by this function's contract.
        // SAFETY: The folio is valid by this function's contract.
        Locked(ManuallyDrop::new(unsafe { Folio::get(folio) }))
    }

    /// Gives the lock away without releasing it, to a caller of an operation that expects the folio still locked.
    pub fn leave_locked(self) -> Folio {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never used again.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }

    /// The mapping that the folio is in; null after it was removed.
    pub fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: The folio is valid, and its mapping cannot change while it is locked.
        unsafe { bindings::vremote_folio_mapping(self.as_ptr()) }
    }

    /// Whether the folio still is in `mapping`, that is neither truncated nor removed since it was found.
    pub fn is_in(&self, mapping: *mut bindings::address_space) -> bool {
        self.mapping() == mapping
    }

    /// Ends a read into a folio that was not uptodate: marks it uptodate if `success`, and unlocks it.
    pub fn end_read(self, success: bool) -> Folio {
        let success = success && !self.uptodate();
        let folio = self.leave_locked();
        // SAFETY: The lock was ours by the type's invariant. An uptodate folio is not marked again, as the callee demands.
        unsafe { bindings::folio_end_read(folio.as_ptr(), success) };
        folio
    }

    /// Marks the folio dirty, by its mapping's own way. Process context.
    pub fn mark_dirty(&self) {
        // SAFETY: The folio is valid, and its mapping cannot go away while it is locked.
        unsafe { bindings::folio_mark_dirty(self.as_ptr()) };
    }

    /// Clears the dirty mark before the bytes are written back; says whether it was set. Process context.
    pub fn clean_for_io(&self) -> bool {
        // SAFETY: The folio is valid and locked.
        unsafe { bindings::folio_clear_dirty_for_io(self.as_ptr()) }
    }

    /// Begins writeback of a folio whose dirty mark was cleared: until [`Folio::end_writeback`] it stays in its mapping. Process context.
    pub fn start_writeback(&self) {
        // SAFETY: The folio is valid and locked.
        unsafe { bindings::vremote_folio_start_writeback(self.as_ptr()) };
    }

    /// The bytes, for reading. Others may read them, and user space may write them through a mapping, at the same time; hence a
    /// pointer's worth of access and no slice: copies out.
    pub fn copy_out(&self, at: usize, out: &mut [u8]) {
        assert!(at <= PAGE_BYTES && out.len() <= PAGE_BYTES - at);
        // SAFETY: The folio has PAGE_BYTES mapped bytes; the range was checked; `out` is ours and does not overlap.
        unsafe {
            core::ptr::copy_nonoverlapping(self.bytes().add(at), out.as_mut_ptr(), out.len())
        };
    }

    /// Bytes to be filled, of a folio that nobody may read yet. `None`: it is uptodate, or has no such bytes.
    pub fn unread_mut(&mut self, range: Range<usize>) -> Option<&mut [u8]> {
        if self.uptodate() || range.start > range.end || range.end > PAGE_BYTES {
            return None;
        }
        // SAFETY: The folio has PAGE_BYTES mapped bytes; the range was checked. While it is locked and not uptodate nobody else
        // reads or writes them, and nobody but the holder of the lock, which is `self`, makes it uptodate.
        Some(unsafe { core::slice::from_raw_parts_mut(self.bytes().add(range.start), range.len()) })
    }

    /// Zeroes the folio from byte `at` to its end.
    pub fn zero_from(&self, at: usize) {
        if at < PAGE_BYTES {
            // SAFETY: The folio has PAGE_BYTES mapped bytes, and `at` is inside them.
            unsafe { core::ptr::write_bytes(self.bytes().add(at), 0, PAGE_BYTES - at) };
            self.flush();
        }
    }

    /// Removes the folio from its mapping, whatever references others hold; user mappings are removed, dirty bytes forgotten.
    /// The caller has waited for writeback. Process context; sleeps only if the folio is mapped by processes.
    pub fn remove(&self, mapping: *mut bindings::address_space) {
        if self.is_in(mapping) {
            // SAFETY: The folio is locked and in `mapping`, so the mapping and its inode are alive. It cannot fail then, but for
            // inodes that are not regular files, which VRemote never shares.
            unsafe { bindings::generic_error_remove_folio(mapping, self.as_ptr()) };
        }
    }

    /// Start of the folio's bytes in the kernel's direct map: none of the supported architectures has high memory.
    fn bytes(&self) -> *mut u8 {
        // SAFETY: The folio is valid.
        unsafe { bindings::vremote_folio_address(self.as_ptr()).cast() }
    }

    /// For architectures whose data caches user mappings do not see through: after the bytes were written by other means than here.
    pub fn flush(&self) {
        // SAFETY: The folio is valid.
        unsafe { bindings::vremote_folio_flush(self.as_ptr()) };
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: The lock and the reference are ours by the type's invariants; the value is not used again.
        unsafe {
            bindings::folio_unlock(self.as_ptr());
            ManuallyDrop::drop(&mut self.0);
        }
    }
}
