// SPDX-License-Identifier: GPL-2.0

//! Which counters of a session have been seen: each may be used once, in any order within a window (RFC 6479, with a ring of words).

/// Words of the window.
const WORDS: usize = 128;

/// Counters behind the highest one that are told apart; older ones are refused. One word less than there is room for, as the word of
/// the highest one is cleared when it is entered. A sender may be put to sleep with a batch in hand: 8128 datagrams may overtake it.
pub const WINDOW: u64 = (WORDS as u64 - 1) * 64;

/// The counters of one direction of one session.
pub struct Window {
    /// One more than the highest counter seen.
    end: u64,
    seen: [u64; WORDS],
}

impl Window {
    /// Nothing seen yet.
    pub const fn new() -> Window {
        Window {
            end: 0,
            seen: [0; WORDS],
        }
    }

    /// Takes a counter whose datagram has proved to be genuine. `false`: it was seen before, or is too old to tell.
    #[must_use]
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter == u64::MAX || counter.saturating_add(WINDOW) < self.end {
            return false;
        }
        let word = counter / 64;
        if counter >= self.end {
            // Words between the last one and this one are of an older round of the ring.
            let last = self.end.div_ceil(64);
            for old in last.max((word + 1).saturating_sub(WORDS as u64))..=word {
                self.seen[old as usize % WORDS] = 0;
            }
            self.end = counter + 1;
        }
        let (place, bit) = (word as usize % WORDS, 1 << (counter % 64));
        let new = self.seen[place] & bit == 0;
        self.seen[place] |= bit;
        new
    }
}

impl Default for Window {
    fn default() -> Window {
        Window::new()
    }
}
