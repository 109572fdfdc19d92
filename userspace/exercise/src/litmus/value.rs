// SPDX-License-Identifier: GPL-2.0

//! What stands in a location: the round that wrote it, and the value of the shape. An old round's value is the shape's 0, so that nothing
//! has to be put back between rounds; a value that cannot be there any more is an error of its own.

/// The first round. Before, all words are 0.
pub const FIRST_ROUND: u64 = 1;

/// Not a value of the shape: the word is neither of this round nor of the last one that wrote the place.
pub const IMPOSSIBLE: u8 = u8::MAX;

/// The word that a store of a value writes.
pub fn encode(round: u64, value: u8) -> u64 {
    (round << 8) | u64::from(value)
}

/// The value that a load saw in a round. `before` is the last round that wrote this place, 0 if there was none.
pub fn decode(round: u64, before: u64, word: u64) -> u8 {
    let value = (word & 0xff) as u8;
    match word >> 8 {
        from if from == round && (1..IMPOSSIBLE).contains(&value) => value,
        from if from == before && (before == 0) == (value == 0) => 0,
        _ => IMPOSSIBLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_rounds_values_are_themselves() {
        assert_eq!(decode(10, 7, encode(10, 2)), 2);
        assert_eq!(decode(1, 0, encode(1, 1)), 1);
    }

    #[test]
    fn the_value_before_is_0() {
        assert_eq!(decode(10, 8, encode(8, 2)), 0);
        assert_eq!(decode(1, 0, 0), 0);
    }

    #[test]
    fn nothing_else_can_be_there() {
        for word in [encode(6, 1), encode(9, 1), encode(12, 1), 0, encode(10, 0)] {
            assert_eq!(decode(10, 8, word), IMPOSSIBLE, "{word:#x}");
        }
    }
}
