// SPDX-License-Identifier: GPL-2.0

//! The kernel's `errseq_t`: errors of writing a file to disk, each told once to everybody who had it open.

use nix::errno::Errno;

/// What somebody has seen of the errors; goes into [`vremote_proto::wire::Kind::Commit`] as it is.
pub type Cursor = u32;

const ERRNO: u32 = 0xfff;
const SEEN: u32 = 1 << 12;
const ONE: u32 = 1 << 13;

/// The errors of a file.
#[derive(Clone, Copy, Default)]
pub struct Errors(u32);

impl Errors {
    /// There is one more.
    pub fn set(&mut self, error: Errno) {
        let mut new = self.0 & !(ERRNO | SEEN) | error as u32;
        if self.0 & SEEN != 0 {
            new = new.wrapping_add(ONE);
        }
        self.0 = new;
    }

    /// For somebody who opens the file. An error that nobody has seen yet will be told even so.
    pub fn sample(&self) -> Cursor {
        if self.0 & SEEN == 0 {
            0
        } else {
            self.0
        }
    }

    /// Whether there ever was one.
    pub fn any(&self) -> bool {
        self.0 & ERRNO != 0
    }

    /// What there was since, if anything.
    pub fn check_and_advance(&mut self, cursor: &mut Cursor) -> Option<Errno> {
        if self.0 == *cursor {
            return None;
        }
        self.0 |= SEEN;
        *cursor = self.0;
        // There may have been none: who opened the file in an earlier life of its node has seen others.
        let error = (self.0 & ERRNO) as i32;
        (error != 0).then(|| Errno::from_raw(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_once_for_each() {
        let mut errors = Errors::default();
        let (mut one, mut other) = (errors.sample(), errors.sample());
        assert_eq!(errors.check_and_advance(&mut one), None);
        assert!(!errors.any());
        errors.set(Errno::EIO);
        assert!(errors.any());
        let mut late = errors.sample();
        assert_eq!(errors.check_and_advance(&mut one), Some(Errno::EIO));
        assert_eq!(errors.check_and_advance(&mut one), None);
        assert_eq!(errors.check_and_advance(&mut other), Some(Errno::EIO));
        assert_eq!(errors.check_and_advance(&mut late), Some(Errno::EIO));
        let mut later = errors.sample();
        assert_eq!(errors.check_and_advance(&mut later), None);
        errors.set(Errno::EIO);
        assert_eq!(errors.check_and_advance(&mut one), Some(Errno::EIO));
    }
}
