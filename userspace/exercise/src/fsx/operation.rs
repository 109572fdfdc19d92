// SPDX-License-Identifier: GPL-2.0

//! What can be done to the file.

use std::{fmt, str::FromStr};

/// A kind of operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Kind {
    /// pread(2)
    Read,
    /// pwrite(2), also beyond the end
    Write,
    /// write(2) to a descriptor with O_APPEND
    Append,
    /// ftruncate(2), both ways
    Truncate,
    /// Loads through a shared mapping, to the end of the last page when they reach the file's end
    MapRead,
    /// Stores through a shared mapping
    MapWrite,
    /// fallocate(2): a hole, the size stays
    Punch,
    /// fsync(2), fdatasync(2) or msync(2)
    Sync,
    /// The size, by fstat(2) and lseek(2)
    Size,
    /// The file is closed and opened again, and its mapping made anew
    Reopen,
    /// posix_fadvise(2): unchanged pages are forgotten
    Forget,
}

/// All of them, with their names and how often each comes by default, in proportion.
pub const KINDS: [(Kind, &str, u32); 11] = [
    (Kind::Read, "read", 24),
    (Kind::Write, "write", 20),
    (Kind::Append, "append", 5),
    (Kind::Truncate, "truncate", 6),
    (Kind::MapRead, "mapread", 15),
    (Kind::MapWrite, "mapwrite", 15),
    (Kind::Punch, "punch", 5),
    (Kind::Sync, "sync", 1),
    (Kind::Size, "size", 5),
    (Kind::Reopen, "reopen", 1),
    (Kind::Forget, "forget", 3),
];

impl Kind {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        KINDS[self as usize].1
    }

    /// Its bit in a set of kinds.
    pub fn bit(self) -> u16 {
        1 << self as u8
    }

    /// Whether it can change what the file holds, or its size.
    pub fn changes(self) -> bool {
        matches!(
            self,
            Kind::Write | Kind::Append | Kind::Truncate | Kind::MapWrite | Kind::Punch
        )
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        KINDS
            .iter()
            .find(|(_, name, _)| *name == text)
            .map(|&(kind, ..)| kind)
            .ok_or_else(|| {
                let names = KINDS.map(|(_, name, _)| name);
                format!("'{text}' is none of {}", names.join(", "))
            })
    }
}

/// How often each kind comes, in proportion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weights([u32; KINDS.len()]);

impl Weights {
    /// Of one kind.
    pub fn of(&self, kind: Kind) -> u32 {
        self.0[kind as usize]
    }

    /// Of all kinds of a set, in their order.
    pub fn among(&self, set: u16) -> impl Iterator<Item = u32> + Clone + '_ {
        KINDS.iter().map(move |&(kind, ..)| {
            if set & kind.bit() != 0 {
                self.of(kind)
            } else {
                0
            }
        })
    }
}

impl Default for Weights {
    fn default() -> Self {
        Weights(KINDS.map(|(.., weight)| weight))
    }
}

/// `kind[=weight],…`: only these kinds. `-kind,…`: all but these.
impl FromStr for Weights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut weights = Weights([0; KINDS.len()]);
        if text.starts_with('-') {
            weights = Weights::default();
        }
        for word in text.split(',') {
            if let Some(name) = word.strip_prefix('-') {
                weights.0[name.parse::<Kind>()? as usize] = 0;
                continue;
            }
            let (name, weight) = match word.split_once('=') {
                Some((name, weight)) => (name, Some(weight)),
                None => (word, None),
            };
            let kind: Kind = name.parse()?;
            weights.0[kind as usize] = match weight {
                Some(weight) => weight
                    .parse()
                    .ok()
                    .filter(|&weight| weight <= 1_000_000)
                    .ok_or_else(|| format!("'{weight}' is no weight"))?,
                None => KINDS[kind as usize].2,
            };
        }
        if weights.0.iter().all(|&weight| weight == 0) {
            return Err("no operation is left".to_owned());
        }
        Ok(weights)
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (kind, name, _) in KINDS {
            if self.of(kind) != 0 {
                write!(f, "{between}{name}={}", self.of(kind))?;
                between = ",";
            }
        }
        Ok(())
    }
}

/// One operation of the sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Its place in the sequence, from 0
    pub number: u64,
    /// Who makes it
    pub party: u8,
    /// What it is
    pub kind: Kind,
    /// Where; for a truncation the new size, for an append the size
    pub offset: u64,
    /// How many bytes
    pub length: u64,
    /// The size of the file when it is made
    pub size: u64,
    /// What is left to choose (which of several calls)
    pub choice: u8,
}

impl Operation {
    /// The bytes that it touches.
    pub fn range(&self) -> (u64, u64) {
        match self.kind {
            Kind::Truncate => (self.offset.min(self.size), self.offset.max(self.size)),
            Kind::Sync | Kind::Size | Kind::Reopen => (0, 0),
            _ => (self.offset, self.offset + self.length),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} party {} {}",
            self.number,
            self.party,
            self.kind.name()
        )?;
        match self.kind {
            Kind::Truncate => write!(f, " {:#x} to {:#x}", self.size, self.offset),
            Kind::Sync | Kind::Size | Kind::Reopen => write!(f, " (size {:#x})", self.size),
            _ => write!(
                f,
                " {:#x}..{:#x} ({} bytes, size {:#x})",
                self.offset,
                self.offset + self.length,
                self.length,
                self.size
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_listed_in_order() {
        for (at, (kind, name, _)) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
            assert_eq!(name.parse(), Ok(kind));
        }
    }

    #[test]
    fn weights_are_what_was_asked_for() {
        let some: Weights = "read,write=3".parse().unwrap();
        assert_eq!(some.to_string(), "read=24,write=3");
        let rest: Weights = "-punch,-read".parse().unwrap();
        assert_eq!(rest.of(Kind::Punch), 0);
        assert_eq!(rest.of(Kind::Write), 20);
        assert_eq!(
            Weights::default().to_string().parse(),
            Ok(Weights::default())
        );
        for wrong in ["", "reed", "read=x", "read=0", "read=99999999"] {
            assert!(wrong.parse::<Weights>().is_err(), "{wrong}");
        }
    }
}
