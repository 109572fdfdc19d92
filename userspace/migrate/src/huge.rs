// SPDX-License-Identifier: GPL-2.0

//! Huge pages of a process, which its rounds of pre-copy have to be rid of.
//!
//! The kernel notes which pages were written since a round by one bit for each entry of the page tables, and a huge page has one entry: of
//! 2 MiB all counts as written when a single byte is. A program that writes a byte here and there would have all of its memory sent in each
//! round. CRIU takes that as it is, so huge pages are split before it looks. Nothing is lost by that but speed, for a while: if the process
//! stays, the kernel puts them together again in time. It also does while rounds last, and these count as written then: of memory that is in use
//! 16 MiB in 10 s, unless khugepaged was told otherwise. That is little beside what moves in such a time.

use std::io;

use procfs::process::{MemoryMap, Process};
use rustix::{
    fd::AsRawFd,
    process::{pidfd_open, Pid, PidfdFlags},
};

/// Bytes of a huge page of an x86-64, and of a page.
const HUGE: u64 = 2 << 20;
const PAGE: usize = 4096;

/// Ranges in one call: UIO_MAXIOV.
const MAX_RANGES: usize = 1024;

/// A page of each huge page that there may be in a range of addresses: of those that lie in it as a whole.
fn first_pages((start, end): (u64, u64)) -> impl Iterator<Item = u64> {
    let first = start.next_multiple_of(HUGE);
    (first..end)
        .step_by(HUGE as usize)
        .filter(move |at| end - at >= HUGE)
}

fn has_huge_pages(map: &MemoryMap) -> bool {
    let huge = map.extension.map.get("AnonHugePages");
    huge.is_some_and(|bytes| *bytes > 0)
}

/// Splits the huge pages of a process. What cannot be split, as it is locked or used by others, is sent more often than needed, no worse.
pub(crate) fn split(pid: i32) -> io::Result<()> {
    let maps = Process::new(pid).and_then(|process| process.smaps());
    let maps = maps.map_err(io::Error::other)?;
    let Some(raw) = Pid::from_raw(pid) else {
        return Ok(());
    };
    let process = pidfd_open(raw, PidfdFlags::empty())?;
    let mut done = Ok(());
    for map in maps.iter().filter(|map| has_huge_pages(map)) {
        let ranges: Vec<_> = first_pages(map.address)
            .map(|at| libc::iovec {
                iov_base: at as *mut libc::c_void,
                iov_len: PAGE,
            })
            .collect();
        let mut left = &ranges[..];
        while !left.is_empty() {
            // That a part of a huge page is cold has the kernel split it, as the part could be swapped out alone.
            // SAFETY: The ranges are read from our memory and are addresses of the other process, of which nothing changes that it could see.
            let advised = unsafe {
                libc::syscall(
                    libc::SYS_process_madvise,
                    process.as_raw_fd(),
                    left.as_ptr(),
                    left.len().min(MAX_RANGES),
                    libc::MADV_COLD,
                    0,
                )
            };
            if advised < 0 {
                done = Err(io::Error::last_os_error());
            }
            // It may stop before the end; one that it does not take is left out.
            let taken = usize::try_from(advised).unwrap_or(0) / PAGE;
            left = &left[taken.clamp(1, left.len())..];
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_each_whole_huge_page() {
        let of = |start, end| first_pages((start, end)).collect::<Vec<_>>();
        assert_eq!(of(0, 2 * HUGE), [0, HUGE]);
        assert_eq!(of(4096, 2 * HUGE), [HUGE]);
        assert!(of(4096, 2 * HUGE - 4096).is_empty());
        assert_eq!(of(HUGE, 2 * HUGE + 4096), [HUGE]);
        assert!(of(HUGE + 4096, HUGE + 8192).is_empty());
    }

    #[test]
    fn of_a_process_that_is_there() {
        split(std::process::id() as i32).unwrap();
        assert!(split(i32::MAX).is_err());
    }
}
