// SPDX-License-Identifier: GPL-2.0

//! Pseudo-random numbers that are the same for the same seed, on every node and in every version of this crate.
//!
//! A generator of our own, because what a seed means is part of the interface: it replays a failure.

/// splitmix64
#[derive(Clone)]
pub struct Random(u64);

/// Scatters the bits of a number; no two numbers give the same.
pub fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Random {
    /// The generator of a seed. The words tell several generators of one seed apart.
    pub fn new(seed: u64, words: &[u64]) -> Self {
        Random(words.iter().fold(mix(seed ^ 0x5eed), |state, &word| {
            mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ word)
        }))
    }

    /// The next 64 bits.
    pub fn next_word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below the limit, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        // The product's upper half: even enough for limits far below 2^64, and without a division.
        ((u128::from(self.next_word()) * u128::from(limit)) >> 64) as u64
    }

    /// A number from the first to the last, both included.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// An index of a sequence that has so many elements.
    pub fn index(&mut self, count: usize) -> usize {
        self.below(count as u64) as usize
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// An index, chosen in proportion to the weights. One of them is not 0.
    pub fn weighted(&mut self, weights: impl Iterator<Item = u32> + Clone) -> usize {
        let mut left = self.below(weights.clone().map(u64::from).sum());
        for (index, weight) in weights.enumerate() {
            match left.checked_sub(u64::from(weight)) {
                Some(rest) => left = rest,
                None => return index,
            }
        }
        unreachable!("a number below the sum of all weights")
    }

    /// Puts the elements into another order.
    pub fn shuffle<T>(&mut self, elements: &mut [T]) {
        for last in (1..elements.len()).rev() {
            elements.swap(last, self.index(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_for_ever() {
        // The published generator's first number, and ours for a seed with words.
        assert_eq!(Random(0).next_word(), 0xe220_a839_7b1d_cdaf);
        let mut random = Random::new(1, &[2, 3]);
        let words = [(); 3].map(|()| random.next_word());
        assert_eq!(
            words,
            [
                6816894575057266644,
                6593223974514684124,
                8550207046782485617
            ]
        );
    }

    #[test]
    fn words_tell_generators_apart() {
        let first = |words: &[u64]| Random::new(7, words).next_word();
        assert_ne!(first(&[]), first(&[0]));
        assert_ne!(first(&[0, 1]), first(&[1, 0]));
    }

    #[test]
    fn everything_in_range_comes() {
        let mut random = Random::new(3, &[]);
        let mut seen = [0u32; 5];
        for _ in 0..1000 {
            seen[random.between(3, 7) as usize - 3] += 1;
        }
        assert!(seen.iter().all(|&count| count > 100), "{seen:?}");
    }

    #[test]
    fn weights_are_proportions() {
        let mut random = Random::new(4, &[]);
        let mut seen = [0u32; 4];
        for _ in 0..4000 {
            seen[random.weighted([1, 0, 3, 0].into_iter())] += 1;
        }
        assert_eq!((seen[1], seen[3]), (0, 0));
        assert!((800..1200).contains(&seen[0]), "{seen:?}");
    }

    #[test]
    fn a_shuffled_sequence_has_the_same_elements() {
        let mut elements: Vec<u32> = (0..20).collect();
        Random::new(5, &[]).shuffle(&mut elements);
        assert_ne!(elements, (0..20).collect::<Vec<_>>());
        elements.sort_unstable();
        assert_eq!(elements, (0..20).collect::<Vec<_>>());
    }
}
