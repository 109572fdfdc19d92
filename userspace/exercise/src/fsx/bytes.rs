// SPDX-License-Identifier: GPL-2.0

//! What an operation writes: other bytes than any other operation at the same place, so that bytes tell where they are from.

use crate::random::mix;

fn word(seed: u64, operation: u64, index: u64) -> u64 {
    mix(seed
        .wrapping_add(operation.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .wrapping_add(index.wrapping_mul(0xd1b5_4a32_d192_ed03)))
}

/// Fills `into`, which begins at this offset of the file, with the bytes of an operation.
pub fn fill(seed: u64, operation: u64, offset: u64, into: &mut [u8]) {
    let mut at = 0;
    while at < into.len() {
        let place = offset + at as u64;
        let bytes = word(seed, operation, place / 8).to_le_bytes();
        let skip = (place % 8) as usize;
        let count = (8 - skip).min(into.len() - at);
        into[at..at + count].copy_from_slice(&bytes[skip..skip + count]);
        at += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_part_is_a_part_of_the_whole(seed: u64, operation in 0u64..1000, offset in 0u64..100, length in 0usize..100) {
            let mut whole = [0; 200];
            fill(seed, operation, 0, &mut whole);
            let mut part = vec![0; length];
            fill(seed, operation, offset, &mut part);
            prop_assert_eq!(&part[..], &whole[offset as usize..offset as usize + length]);
        }
    }

    #[test]
    fn operations_differ() {
        let bytes = |operation| {
            let mut bytes = [0; 64];
            fill(1, operation, 4096, &mut bytes);
            bytes
        };
        assert_ne!(bytes(1), bytes(2));
    }
}
