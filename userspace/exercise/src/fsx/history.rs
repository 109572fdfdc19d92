// SPDX-License-Identifier: GPL-2.0

//! What was done lately, to explain what is wrong now.

use std::collections::VecDeque;

use super::{
    bytes::fill,
    operation::{Kind, Operation},
};

/// How many operations are remembered.
const LENGTH: usize = 1 << 16;

/// The latest operations of all parties.
#[derive(Default)]
pub struct History(VecDeque<Operation>);

impl History {
    /// Adds the latest.
    pub fn push(&mut self, operation: Operation) {
        if self.0.len() == LENGTH {
            self.0.pop_front();
        }
        self.0.push_back(operation);
    }

    /// The last operations; the latest is the last.
    pub fn latest(&self, most: usize) -> impl Iterator<Item = &Operation> {
        self.0.range(self.0.len().saturating_sub(most)..)
    }

    /// The last operations that touched one of the bytes; the latest is the last.
    pub fn touching(&self, offset: u64, length: u64, most: usize) -> Vec<Operation> {
        let mut found: Vec<Operation> = self
            .0
            .iter()
            .rev()
            .filter(|operation| {
                let (first, end) = operation.range();
                first < offset + length && offset < end
            })
            .take(most)
            .copied()
            .collect();
        found.reverse();
        found
    }

    /// Which operation wrote these bytes at this place, the latest one if there are several.
    pub fn writer_of(&self, seed: u64, offset: u64, bytes: &[u8]) -> Option<Operation> {
        let end = offset + bytes.len() as u64;
        let mut theirs = vec![0; bytes.len()];
        self.0
            .iter()
            .rev()
            .filter(|operation| {
                matches!(operation.kind, Kind::Write | Kind::Append | Kind::MapWrite)
                    && operation.offset <= offset
                    && end <= operation.offset + operation.length
            })
            .find(|operation| {
                fill(seed, operation.number, offset, &mut theirs);
                theirs == bytes
            })
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(number: u64, offset: u64, length: u64) -> Operation {
        Operation {
            number,
            party: 0,
            kind: Kind::Write,
            offset,
            length,
            size: 0,
            choice: 0,
        }
    }

    #[test]
    fn bytes_tell_who_wrote_them() {
        let mut history = History::default();
        for number in 0..10 {
            history.push(write(number, number * 10, 30));
        }
        let mut bytes = [0; 8];
        fill(3, 4, 52, &mut bytes);
        assert_eq!(history.writer_of(3, 52, &bytes).unwrap().number, 4);
        assert_eq!(history.writer_of(3, 53, &bytes), None);
        assert_eq!(history.writer_of(3, 52, &[0; 8]), None);
    }

    #[test]
    fn only_what_touches_is_told() {
        let mut history = History::default();
        for number in 0..10 {
            history.push(write(number, number * 10, 10));
        }
        history.push(Operation {
            kind: Kind::Truncate,
            size: 25,
            ..write(10, 5, 0)
        });
        let numbers = |offset, length, most| -> Vec<u64> {
            let found = history.touching(offset, length, most);
            found.iter().map(|operation| operation.number).collect()
        };
        assert_eq!(numbers(15, 10, 9), [1, 2, 10]);
        assert_eq!(numbers(15, 10, 2), [2, 10]);
        assert_eq!(numbers(25, 5, 9), [2]);
        assert!(numbers(100, 5, 9).is_empty());
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut history = History::default();
        for number in 0..LENGTH as u64 + 5 {
            history.push(write(number, 0, 10));
        }
        assert_eq!(history.0.len(), LENGTH);
        assert_eq!(history.0[0].number, 5);
    }
}
