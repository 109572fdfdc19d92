// SPDX-License-Identifier: GPL-2.0

//! The sequence of operations: what each is and who makes it. The same settings give the same sequence to all parties.

use super::operation::{Kind, Operation, Weights, KINDS};
use crate::{mapping::PAGE, random::Random};

/// What a sequence is made of.
#[derive(Clone)]
pub struct Settings {
    /// Where the pseudo-random numbers begin
    pub seed: u64,
    /// The largest size that the file may get
    pub largest: u64,
    /// Most bytes of one operation
    pub longest: u64,
    /// Most bytes of one that goes through a mapping, where each page is a request
    pub longest_mapped: u64,
    /// Mean number of operations that a party makes before it is another's turn
    pub turn: u64,
    /// How often each kind comes
    pub weights: Weights,
    /// For each party, the kinds that it can make, as a set
    pub available: Vec<u16>,
}

/// The sequence, at one of its operations.
#[derive(Clone)]
pub struct Sequence {
    settings: Settings,
    random: Random,
    number: u64,
    party: usize,
}

impl Sequence {
    /// Before the first operation.
    pub fn new(settings: Settings) -> Self {
        let mut random = Random::new(settings.seed, &[0xf5]);
        let party = random.index(settings.available.len());
        Sequence {
            settings,
            random,
            number: 0,
            party,
        }
    }

    /// The number of the next operation.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next operation, on a file of this size.
    pub fn next_operation(&mut self, size: u64) -> Operation {
        let parties = self.settings.available.len();
        if self.number != 0 && self.random.once_in(self.settings.turn) {
            // Another one, each with the same chance.
            self.party = (self.party + 1 + self.random.index(parties - 1)) % parties;
        }
        let set = self.possible(size) & self.settings.available[self.party];
        let kind = match self.settings.weights.among(set).any(|weight| weight != 0) {
            true => KINDS[self.random.weighted(self.settings.weights.among(set))].0,
            // Nothing that was asked for can be done here and now.
            false => Kind::Size,
        };
        let (offset, length) = self.place(kind, size);
        let operation = Operation {
            number: self.number,
            party: self.party as u8,
            kind,
            offset,
            length,
            size,
            choice: self.random.below(256) as u8,
        };
        self.number += 1;
        operation
    }

    /// What can be done to a file of this size.
    fn possible(&self, size: u64) -> u16 {
        let mut set = u16::MAX;
        if size == 0 {
            set &= !(Kind::MapRead.bit() | Kind::MapWrite.bit());
        }
        if size == self.settings.largest {
            set &= !Kind::Append.bit();
        }
        set
    }

    fn place(&mut self, kind: Kind, size: u64) -> (u64, u64) {
        let Settings {
            largest,
            longest,
            longest_mapped,
            ..
        } = self.settings;
        match kind {
            Kind::Sync | Kind::Size | Kind::Reopen => (0, 0),
            Kind::Truncate => (self.new_size(size), 0),
            Kind::Append => (size, self.length(longest).min(largest - size)),
            Kind::MapRead | Kind::MapWrite => self.range(longest_mapped, size),
            // Now and then behind the end, where there is nothing to read.
            Kind::Read if !self.random.once_in(16) => self.range(longest, size.max(1)),
            Kind::Read | Kind::Write | Kind::Punch | Kind::Forget => {
                // Mostly where the file is, so that there is room for it to grow.
                let limit = match self.random.once_in(4) {
                    true => largest,
                    false => (size + 2 * PAGE).min(largest),
                };
                self.range(longest, limit)
            }
        }
    }

    /// Large files more often than small ones, and page boundaries more often than other places.
    fn new_size(&mut self, size: u64) -> u64 {
        let largest = self.settings.largest;
        let new = match self.random.below(8) {
            0 => self.random.between(0, largest),
            1 => self.random.between(0, size),
            2 | 3 => {
                // Not far from where it is.
                let least = size.saturating_sub(2 * PAGE);
                self.random.between(least, (size + 2 * PAGE).min(largest))
            }
            _ => self.random.between(largest / 2, largest),
        };
        if self.random.once_in(4) {
            new / PAGE * PAGE
        } else {
            new
        }
    }

    /// Many small ones, some of whole pages, few large ones.
    fn length(&mut self, longest: u64) -> u64 {
        let length = match self.random.below(16) {
            0..=4 => self.random.between(1, 64),
            5..=10 => self.random.between(1, PAGE),
            11..=13 => self.random.between(1, 3 * PAGE),
            14 => PAGE * self.random.between(1, (longest / PAGE).max(1)),
            _ => self.random.between(1, longest),
        };
        length.min(longest)
    }

    /// A range of at least one byte below the limit, which is not 0.
    fn range(&mut self, longest: u64, limit: u64) -> (u64, u64) {
        let mut length = self.length(longest).min(limit);
        let mut offset = self.random.between(0, limit - length);
        match self.random.below(8) {
            // From a page's first byte, and whole pages if they fit.
            0 => {
                offset = offset / PAGE * PAGE;
                length = length.next_multiple_of(PAGE).min(longest);
            }
            // Across a page's end.
            1 if limit > PAGE => {
                let boundary = PAGE * self.random.between(1, (limit - 1) / PAGE);
                let before = self.random.between(1, length.min(boundary).min(16));
                offset = boundary - before;
                length = length.max(before + 1);
            }
            // Up to the limit.
            2 => offset = limit - length,
            _ => {}
        }
        (offset, length.min(limit - offset).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fsx::model::Model;
    use proptest::prelude::*;

    fn settings(seed: u64, largest: u64, longest: u64, parties: usize) -> Settings {
        Settings {
            seed,
            largest,
            longest,
            longest_mapped: longest.min(16384),
            turn: 8,
            weights: Weights::default(),
            available: vec![u16::MAX; parties],
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn every_operation_can_be_made(
            seed: u64, largest in 1u64..300_000, longest in 1u64..70_000, parties in 2usize..5,
        ) {
            let longest = longest.min(largest);
            let mut sequence = Sequence::new(settings(seed, largest, longest, parties));
            let mut model = Model::new(seed, largest);
            for number in 0..2000 {
                let op = sequence.next_operation(model.size());
                prop_assert_eq!(op.number, number);
                prop_assert_eq!(op.size, model.size());
                prop_assert!(usize::from(op.party) < parties);
                prop_assert!(op.offset + op.length <= largest, "{}", op);
                prop_assert!(op.length <= longest, "{}", op);
                match op.kind {
                    Kind::Append => prop_assert!(op.offset == model.size() && op.length > 0, "{}", op),
                    Kind::MapRead | Kind::MapWrite => {
                        prop_assert!(op.length > 0 && op.offset + op.length <= model.size(), "{}", op);
                    }
                    Kind::Read | Kind::Write | Kind::Punch | Kind::Forget => prop_assert!(op.length > 0, "{}", op),
                    _ => {}
                }
                model.apply(&op);
                prop_assert!(model.bytes(model.size(), largest - model.size()).iter().all(|&b| b == 0));
            }
        }
    }

    #[test]
    fn a_seed_is_a_sequence() {
        let run = |seed| {
            let mut sequence = Sequence::new(settings(seed, 1 << 18, 1 << 16, 3));
            (0..100)
                .map(|_| sequence.next_operation(5000))
                .collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn what_a_party_cannot_do_it_is_not_asked_to() {
        let mut some = settings(1, 1 << 18, 1 << 16, 2);
        some.available = vec![u16::MAX, !Kind::Punch.bit()];
        let mut sequence = Sequence::new(some);
        let punches: Vec<u8> = (0..5000)
            .map(|_| sequence.next_operation(5000))
            .filter(|op| op.kind == Kind::Punch)
            .map(|op| op.party)
            .collect();
        assert!(punches.len() > 50);
        assert!(punches.iter().all(|&party| party == 0));
    }

    #[test]
    fn turns_have_their_mean_length_and_are_everybodys() {
        let mut sequence = Sequence::new(settings(1, 1 << 18, 1 << 16, 4));
        let parties: Vec<u8> = (0..40_000)
            .map(|_| sequence.next_operation(5000).party)
            .collect();
        let turns = 1 + parties.windows(2).filter(|two| two[0] != two[1]).count();
        assert!((4500..5500).contains(&turns), "{turns}");
        for party in 0..4 {
            let share = parties.iter().filter(|&&p| p == party).count();
            assert!((8000..12_000).contains(&share), "{share}");
        }
    }

    #[test]
    fn every_kind_and_every_place_comes() {
        let mut sequence = Sequence::new(settings(1, 1 << 18, 1 << 16, 2));
        let mut model = Model::new(1, 1 << 18);
        let mut kinds = [0u32; KINDS.len()];
        let (mut crossing, mut aligned, mut unaligned, mut pages) = (0, 0, 0, [false; 64]);
        for _ in 0..20_000 {
            let op = sequence.next_operation(model.size());
            kinds[op.kind as usize] += 1;
            if op.length != 0 {
                pages[(op.offset / PAGE) as usize] = true;
                if op.offset / PAGE != (op.offset + op.length - 1) / PAGE {
                    crossing += 1;
                }
                if op.offset % PAGE == 0 {
                    aligned += 1;
                } else if op.offset % 8 != 0 {
                    unaligned += 1;
                }
            }
            model.apply(&op);
        }
        assert!(kinds.iter().all(|&count| count > 100), "{kinds:?}");
        assert!(crossing > 3000 && aligned > 1500 && unaligned > 5000);
        assert!(pages.iter().all(|&page| page));
    }
}
