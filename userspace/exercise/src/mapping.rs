// SPDX-License-Identifier: GPL-2.0

//! A shared mapping of a file whose bytes others change at any time: every access is a load or a store of the processor.

use std::{
    ffi::c_void,
    io, ptr,
    sync::atomic::{fence, AtomicU64, AtomicU8, Ordering},
};

use rustix::{
    fd::AsFd,
    mm::{mmap, msync, munmap, MapFlags, MsyncFlags, ProtFlags},
};

/// The unit of coherence.
pub const PAGE: u64 = 4096;

/// A shared mapping of the first bytes of a file. An access to a page that lies wholly behind the file's end kills the program.
pub struct Mapping {
    base: *mut u8,
    length: usize,
}

// SAFETY: the mapping is only accessed by atomic loads and stores, from whatever thread.
unsafe impl Send for Mapping {}

// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps so many bytes of a file, which need not be that long.
    pub fn new(file: impl AsFd, length: u64) -> io::Result<Self> {
        let length = length.next_multiple_of(PAGE) as usize;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        }?;
        Ok(Mapping {
            base: base.cast(),
            length,
        })
    }

    fn byte(&self, at: usize) -> &AtomicU8 {
        assert!(at < self.length);
        // SAFETY: inside the mapping, which lives as long as self, and is accessed atomically only.
        unsafe { AtomicU8::from_ptr(self.base.add(at)) }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at % 8 == 0 && at + 8 <= self.length);
        // SAFETY: inside the mapping, which lives as long as self, aligned, and accessed atomically only.
        unsafe { AtomicU64::from_ptr(self.base.add(at).cast()) }
    }

    /// One load of an aligned word.
    pub fn load(&self, at: u64) -> u64 {
        self.word(at as usize).load(Ordering::Relaxed)
    }

    /// One store of an aligned word.
    pub fn store(&self, at: u64, value: u64) {
        self.word(at as usize).store(value, Ordering::Relaxed);
    }

    /// Copies bytes out, by words where that is possible.
    pub fn read(&self, at: u64, into: &mut [u8]) {
        let at = at as usize;
        let (head, middle) = parts(at, into.len());
        let (first, rest) = into.split_at_mut(head);
        let (words, last) = rest.split_at_mut(middle);
        for (i, byte) in first.iter_mut().enumerate() {
            *byte = self.byte(at + i).load(Ordering::Relaxed);
        }
        for (i, word) in words.chunks_exact_mut(8).enumerate() {
            let value = self.word(at + head + 8 * i).load(Ordering::Relaxed);
            word.copy_from_slice(&value.to_ne_bytes());
        }
        for (i, byte) in last.iter_mut().enumerate() {
            *byte = self.byte(at + head + middle + i).load(Ordering::Relaxed);
        }
    }

    /// Copies bytes in, by words where that is possible; when it returns, all of them are stored.
    pub fn write(&self, at: u64, from: &[u8]) {
        let at = at as usize;
        let (head, middle) = parts(at, from.len());
        let (first, rest) = from.split_at(head);
        let (words, last) = rest.split_at(middle);
        for (i, &byte) in first.iter().enumerate() {
            self.byte(at + i).store(byte, Ordering::Relaxed);
        }
        for (i, word) in words.chunks_exact(8).enumerate() {
            let mut value = [0; 8];
            value.copy_from_slice(word);
            self.word(at + head + 8 * i)
                .store(u64::from_ne_bytes(value), Ordering::Relaxed);
        }
        for (i, &byte) in last.iter().enumerate() {
            self.byte(at + head + middle + i)
                .store(byte, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    /// msync(MS_SYNC) of everything.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the mapping's own bounds.
        Ok(unsafe { msync(self.base.cast::<c_void>(), self.length, MsyncFlags::SYNC) }?)
    }
}

/// The bytes before the first aligned word, and those in aligned words, of a range.
fn parts(at: usize, length: usize) -> (usize, usize) {
    let head = (at.next_multiple_of(8) - at).min(length);
    (head, (length - head) / 8 * 8)
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by mmap with this length; all references have ended with self.
        let _ = unsafe { munmap(self.base.cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file of three pages that nobody else has.
    fn file() -> std::fs::File {
        let path = std::env::temp_dir().join(format!(
            "vremote-exercise-mapping-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        file.set_len(3 * PAGE).unwrap();
        file
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(at in 0u64..2 * PAGE, bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let file = file();
            let map = Mapping::new(&file, 3 * PAGE).unwrap();
            map.write(at, &bytes);
            let mut got = vec![0; bytes.len()];
            map.read(at, &mut got);
            prop_assert_eq!(&got, &bytes);
            let mut all = vec![0; 3 * PAGE as usize];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut all, 0).unwrap();
            prop_assert_eq!(&all[at as usize..at as usize + bytes.len()], &bytes[..]);
            // … and nothing else was touched.
            prop_assert!(all[..at as usize].iter().all(|&b| b == 0));
            prop_assert!(all[at as usize + bytes.len()..].iter().all(|&b| b == 0));
        }
    }

    #[test]
    fn words_are_bytes_in_native_order() {
        let file = file();
        let map = Mapping::new(&file, 3 * PAGE).unwrap();
        map.store(8, 0x0102_0304_0506_0708);
        let mut bytes = [0; 8];
        map.read(8, &mut bytes);
        assert_eq!(u64::from_ne_bytes(bytes), map.load(8));
    }
}
