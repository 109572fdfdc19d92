// SPDX-License-Identifier: GPL-2.0

//! Remote files mapped into processes.
//!
//! A load faults the page in as a read would; a store faults again and takes ownership. Who takes the page away removes the folio from
//! the page cache, and with it from all mappings, so the next access comes here again. A page may not be had: the origin is silent, the
//! file has become shorter, the session is over. Then the access ends in SIGBUS, as it does for a local file whose disk fails.
//!
//! Faults wait for the origin with the lock of the mapping held, within the limits of every other wait.

use core::ptr::NonNull;

use kernel::{
    bindings::{vm_area_desc, vm_fault, vm_fault_t, vm_operations_struct},
    ffi::{c_int, c_ulong},
    prelude::*,
    sync::atomic::Relaxed,
};

use super::{
    file::{of_any_file, of_file, Opened},
    state::Inode,
};
use crate::bindings;
use crate::proto::{copy::Want, limits::PAGE_BYTES};

const LOCKED: vm_fault_t = bindings::vm_fault_reason_VM_FAULT_LOCKED;
const NOPAGE: vm_fault_t = bindings::vm_fault_reason_VM_FAULT_NOPAGE;
const SIGBUS: vm_fault_t = bindings::vm_fault_reason_VM_FAULT_SIGBUS;
const OOM: vm_fault_t = bindings::vm_fault_reason_VM_FAULT_OOM;

/// The operations of a mapping of a remote file.
static OPERATIONS: super::fs::Operations<vm_operations_struct> =
    super::fs::Operations(vm_operations_struct {
        fault: Some(fault),
        map_pages: Some(map_pages),
        page_mkwrite: Some(page_mkwrite),
        ..pin_init::zeroed()
    });

/// Most pages that are asked for ahead of a store: what a node that wants one of them meanwhile has to wait for.
const MAX_AHEAD: u64 = 64;

/// `mmap`: shared and private mappings, for reading, writing and execution. `ESTALE`: see [`of_file`].
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
pub(super) unsafe extern "C" fn mmap_prepare(area: *mut vm_area_desc) -> c_int {
    // SAFETY: The description is that of a mapping of an open descriptor of ours.
    let opened = unsafe { of_file((*area).file) };
    if let Err(error) = opened {
        return error.to_errno();
    }
    // SAFETY: Passes on what the kernel gave us.
    let status = unsafe { bindings::generic_file_mmap_prepare(area) };
    if status == 0 {
        // SAFETY: The description is ours to fill in during the call.
        unsafe { (*area).vm_ops = &raw const OPERATIONS.0 };
    }
    status
}

/// The descriptor that was mapped, and the page that is wanted. A shared mapping belongs to the descriptor's life, as stores in it may be
/// lost with that; a private one goes on.
///
/// # Safety
///
/// `fault` is a fault in a mapping of one of our files, being handled.
unsafe fn of_fault(fault: *const vm_fault) -> Result<(Opened, u64)> {
    // SAFETY: By this function's contract; the mapping keeps the file.
    unsafe {
        let opened = of_any_file((*(*fault).__bindgen_anon_1.vma).vm_file)?;
        Ok((opened, (*fault).__bindgen_anon_1.pgoff as u64))
    }
}

/// Whether the mapping shows the file as it is. A private one shows it as it was when a page was first touched.
///
/// # Safety
///
/// As [`of_fault`].
unsafe fn is_shared(fault: *const vm_fault) -> bool {
    // SAFETY: By this function's contract.
    unsafe { bindings::vremote_fault_is_shared(fault) }
}

/// Whether the page has bytes of the file, as far as known here.
fn inside(kept: &Inode, page: u64) -> bool {
    page.saturating_mul(PAGE_BYTES as u64) < kept.size()
}

/// `fault`: maps a page for reading.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn fault(fault: *mut vm_fault) -> vm_fault_t {
    // SAFETY: By this function's contract.
    let Ok((kept, page)) = (unsafe { of_fault(fault) }) else {
        return SIGBUS;
    };
    // Another node may have made the file longer.
    if !inside(&kept, page) && kept.refresh().is_err() {
        return SIGBUS;
    }
    // SAFETY: As above.
    if unsafe { is_shared(fault) } && kept.confirm(kept.life).is_err() {
        return SIGBUS;
    }
    // SAFETY: Passes on what the kernel gave us.
    unsafe { bindings::filemap_fault(fault) }
}

/// `map_pages`: maps what is cached around a fault, while that may be shown. What is mapped in the moment in which the lease runs out is
/// unmapped with the rest.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn map_pages(fault: *mut vm_fault, start: c_ulong, end: c_ulong) -> vm_fault_t {
    // SAFETY: By this function's contract.
    let shows = unsafe {
        !is_shared(fault)
            || of_fault(fault).is_ok_and(|(kept, _)| kept.peer.leased() && kept.usable().is_ok())
    };
    if !shows {
        return 0;
    }
    // SAFETY: Passes on what the kernel gave us.
    unsafe { bindings::filemap_map_pages(fault, start, end) }
}

/// `page_mkwrite`: a store to a page that is mapped for reading. Returns with the folio locked, so that nobody takes it away before it is
/// mapped for writing.
///
/// # Safety
///
/// For the kernel only, which keeps to the contract of the operation.
unsafe extern "C" fn page_mkwrite(fault: *mut vm_fault) -> vm_fault_t {
    // SAFETY: By this function's contract.
    let Ok((kept, page)) = (unsafe { of_fault(fault) }) else {
        return SIGBUS;
    };
    // SAFETY: The mapping keeps the inode.
    unsafe { bindings::vremote_fault_begin(kept.raw()) };
    // SAFETY: The kernel holds a reference to the folio.
    let mapped = NonNull::new(unsafe { bindings::vremote_fault_folio(fault) });
    let result = own(&kept, page, mapped);
    // SAFETY: As above.
    unsafe { bindings::vremote_fault_end(kept.raw()) };
    match result {
        Ok(outcome) => outcome,
        Err(error) if error == ENOMEM => OOM,
        // A killed task, too: it would fault for ever otherwise.
        Err(_) => SIGBUS,
    }
}

/// How many pages behind this one are to be owned with it: after a store to the page before, twice as many as then.
fn ahead(kept: &Inode, page: u64) -> usize {
    let last = kept.stores.load(Relaxed);
    let ahead = match last >> 8 {
        next if next == page => (2 * (last & 0xff)).clamp(1, MAX_AHEAD),
        _ => 0,
    };
    kept.stores.store((page + 1) << 8 | ahead, Relaxed);
    let pages = kept.size().div_ceil(PAGE_BYTES as u64);
    ahead.min(pages.saturating_sub(page + 1)) as usize
}

/// Takes ownership of a page for a store through a mapping of its folio `mapped`, and marks it dirty.
fn own(kept: &Opened, page: u64, mapped: Option<NonNull<bindings::folio>>) -> Result<vm_fault_t> {
    let claim = kept.claim(page)?;
    // Before the folio is locked: a recall may have to come first.
    kept.confirm(kept.life)?;
    let folio = kept.obtain(page, Want::Write, ahead(kept, page))?;
    claim.linger();
    if Some(folio.as_ptr()) != mapped.map(NonNull::as_ptr) || !inside(kept, page) {
        // The page had been taken away meanwhile, or cut off: the next fault finds what is there now.
        return Ok(NOPAGE);
    }
    folio.mark_dirty();
    kept.touched.store(true, Relaxed);
    // The lock goes to the kernel, which has a reference of its own.
    drop(folio.leave_locked());
    Ok(LOCKED)
}
