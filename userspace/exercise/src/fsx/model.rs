// SPDX-License-Identifier: GPL-2.0

//! The file as it must be: what every operation of the sequence, made one after the other, leaves.

use super::{
    bytes::fill,
    operation::{Kind, Operation},
};
use crate::mapping::PAGE;

/// The file as it must be.
#[derive(Clone)]
pub struct Model {
    seed: u64,
    size: u64,
    /// As many as the file may ever have, in whole pages; all behind the size are 0.
    bytes: Vec<u8>,
}

impl Model {
    /// An empty file, which never gets larger than that.
    pub fn new(seed: u64, largest: u64) -> Self {
        Model {
            seed,
            size: 0,
            bytes: vec![0; largest.next_multiple_of(PAGE) as usize],
        }
    }

    /// Its size.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of it, and zeros behind its end.
    pub fn bytes(&self, offset: u64, length: u64) -> &[u8] {
        &self.bytes[offset as usize..(offset + length) as usize]
    }

    /// What read(2) gives.
    pub fn read(&self, offset: u64, length: u64) -> &[u8] {
        let length = length.min(self.size.saturating_sub(offset));
        self.bytes(offset.min(self.size), length)
    }

    /// What an operation leaves.
    pub fn apply(&mut self, operation: &Operation) {
        let Operation {
            number,
            kind,
            offset,
            length,
            ..
        } = *operation;
        match kind {
            Kind::Write | Kind::Append | Kind::MapWrite => {
                let range = offset as usize..(offset + length) as usize;
                fill(self.seed, number, offset, &mut self.bytes[range]);
                self.size = self.size.max(offset + length);
            }
            Kind::Truncate => {
                if offset < self.size {
                    self.bytes[offset as usize..self.size as usize].fill(0);
                }
                self.size = offset;
            }
            Kind::Punch => {
                let end = (offset + length).min(self.size);
                if offset < end {
                    self.bytes[offset as usize..end as usize].fill(0);
                }
            }
            Kind::Read | Kind::MapRead | Kind::Sync | Kind::Size | Kind::Reopen | Kind::Forget => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fsx::sequence::{Sequence, Settings};
    use std::{fs::File, os::unix::fs::FileExt};

    fn operation(number: u64, kind: Kind, offset: u64, length: u64, size: u64) -> Operation {
        Operation {
            number,
            party: 0,
            kind,
            offset,
            length,
            size,
            choice: 0,
        }
    }

    #[test]
    fn what_is_cut_off_comes_back_as_zeros() {
        let mut model = Model::new(1, 100);
        model.apply(&operation(0, Kind::Write, 0, 50, 0));
        model.apply(&operation(1, Kind::Truncate, 20, 0, 50));
        assert_eq!(model.read(0, 100).len(), 20);
        model.apply(&operation(2, Kind::Truncate, 60, 0, 20));
        assert_eq!(model.read(20, 100), [0; 40]);
        assert!(model.read(60, 5).is_empty());
        assert!(model.read(70, 5).is_empty());
    }

    #[test]
    fn a_hole_leaves_the_size() {
        let mut model = Model::new(1, 100);
        model.apply(&operation(0, Kind::Write, 0, 50, 0));
        model.apply(&operation(1, Kind::Punch, 40, 30, 50));
        model.apply(&operation(2, Kind::Punch, 60, 30, 50));
        assert_eq!(model.size(), 50);
        assert_eq!(model.read(40, 20), [0; 10]);
        assert_ne!(model.read(0, 40), [0; 40]);
    }

    /// The model against a real file of this machine, for the operations that every file system has.
    #[test]
    fn the_model_is_what_a_file_does() {
        let path =
            std::env::temp_dir().join(format!("vremote-exercise-model-{}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        let tail = File::options().append(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let settings = Settings {
            seed: 11,
            largest: 40_000,
            longest: 10_000,
            longest_mapped: 5000,
            turn: 3,
            weights: "-punch".parse().unwrap(),
            available: vec![u16::MAX; 3],
        };
        let mut sequence = Sequence::new(settings);
        let mut model = Model::new(11, 40_000);
        for _ in 0..20_000 {
            let operation = sequence.next_operation(model.size());
            let Operation { offset, length, .. } = operation;
            if matches!(operation.kind, Kind::Read | Kind::MapRead) {
                let mut got = vec![0; length as usize];
                let count = file.read_at(&mut got, offset).unwrap();
                assert_eq!(&got[..count], model.read(offset, length), "{operation}");
            }
            model.apply(&operation);
            match operation.kind {
                Kind::Write | Kind::MapWrite => file
                    .write_all_at(model.bytes(offset, length), offset)
                    .unwrap(),
                Kind::Append => {
                    std::io::Write::write_all(&mut &tail, model.bytes(offset, length)).unwrap();
                }
                Kind::Truncate => file.set_len(offset).unwrap(),
                _ => {}
            }
            assert_eq!(file.metadata().unwrap().len(), model.size(), "{operation}");
        }
    }
}
