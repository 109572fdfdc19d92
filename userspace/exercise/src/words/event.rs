// SPDX-License-Identifier: GPL-2.0

//! What a party notes of each read and write.

use super::clock::Time;

/// A read or a write of a word, which took effect once between its two times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Which word
    pub word: u16,
    /// Whether it is a write
    pub write: bool,
    /// Whether it went through the mapping
    pub mapped: bool,
    /// What was read or written
    pub value: u64,
    /// Before it began
    pub invoked: Time,
    /// After it ended
    pub returned: Time,
}

/// Bytes of an event on the wire.
const LENGTH: usize = 28;

impl Event {
    /// Appends it to a message.
    pub fn encode(&self, into: &mut Vec<u8>) {
        into.extend(self.word.to_le_bytes());
        into.extend([u8::from(self.write), u8::from(self.mapped)]);
        into.extend(self.value.to_le_bytes());
        into.extend(self.invoked.to_le_bytes());
        into.extend(self.returned.to_le_bytes());
    }

    /// All events of a message; bytes that are no whole event are left out.
    pub fn decode_all(bytes: &[u8]) -> Vec<Self> {
        let long = |bytes: &[u8], at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        bytes
            .chunks_exact(LENGTH)
            .map(|bytes| Event {
                word: u16::from_le_bytes([bytes[0], bytes[1]]),
                write: bytes[2] != 0,
                mapped: bytes[3] != 0,
                value: long(bytes, 4),
                invoked: long(bytes, 12) as Time,
                returned: long(bytes, 20) as Time,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_wire() {
        let events = [3, 4].map(|word| Event {
            word,
            write: word == 3,
            mapped: word == 4,
            value: 0x0102_0304_0506_0708,
            invoked: -5,
            returned: 1 << 60,
        });
        let mut bytes = Vec::new();
        for event in events {
            event.encode(&mut bytes);
        }
        assert_eq!(bytes.len(), 2 * LENGTH);
        assert_eq!(Event::decode_all(&bytes), events);
    }
}
