// SPDX-License-Identifier: GPL-2.0

//! Makes operations on the real file, and compares what it gives with the model.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
};

use super::{
    model::Model,
    operation::{Kind, Operation},
};
use crate::{
    ending::Ending,
    file::{self, Access},
    mapping::{Mapping, PAGE},
    meeting::Place,
    parties::Parties,
};

/// What the file gave, and what it should have.
#[derive(Debug)]
pub struct Difference {
    /// Where the bytes that were compared begin
    pub offset: u64,
    /// What the model has there
    pub expected: Vec<u8>,
    /// What the file gave
    pub got: Vec<u8>,
    /// Said instead, if a number is wrong and not bytes
    pub number: Option<String>,
}

impl Difference {
    /// The bytes that are wrong: from the first to the last, which may have right ones between them.
    pub fn place(&self) -> Place {
        let wrong = |at: &usize| self.expected.get(*at) != self.got.get(*at);
        let length = self.expected.len().max(self.got.len());
        let first = (0..length).find(wrong).unwrap_or(0);
        let last = (0..length).rev().find(wrong).unwrap_or(0);
        Place {
            offset: self.offset + first as u64,
            length: (last + 1 - first) as u64,
        }
    }

    /// How many bytes are wrong.
    pub fn wrong(&self) -> usize {
        let length = self.expected.len().max(self.got.len());
        (0..length)
            .filter(|&at| self.expected.get(at) != self.got.get(at))
            .count()
    }
}

/// How an operation can fail.
#[derive(Debug)]
pub enum Failure {
    /// The file is not what it should be.
    Difference(Difference),
    /// A call failed.
    Call(&'static str, io::Error),
}

/// This party's descriptors and mapping of the file.
pub struct Hands {
    parties: Parties,
    /// Shares it all the time, at party 0; keeps it open elsewhere, so that closing is not always the last closing.
    _hold: File,
    file: File,
    tail: File,
    map: Mapping,
    largest: u64,
    buffer: Vec<u8>,
}

impl Hands {
    /// Opens the file.
    pub fn new(parties: &Parties, largest: u64) -> Result<Self, Ending> {
        let path = parties.path.display().to_string();
        let opened = |append| {
            file::open(&parties.path, parties.access(), append)
                .map_err(Ending::call(format!("opening {path}")))
        };
        let (hold, file, tail) = (opened(false)?, opened(false)?, opened(true)?);
        let map = Mapping::new(&file, largest).map_err(Ending::call(format!("mapping {path}")))?;
        Ok(Hands {
            parties: parties.clone(),
            _hold: hold,
            file,
            tail,
            map,
            largest,
            buffer: Vec::new(),
        })
    }

    /// The kinds of operations that the file refuses here, as a set.
    pub fn refused(&self) -> Result<u16, Ending> {
        // Behind the largest size there is nothing to lose.
        let behind = self.largest.next_multiple_of(PAGE);
        match file::punch(&self.file, behind, PAGE) {
            Ok(()) => Ok(0),
            Err(error)
                if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) =>
            {
                Ok(Kind::Punch.bit())
            }
            Err(error) => Err(Ending::call("a hole behind the end of the file")(error)),
        }
    }

    /// Makes an operation. The model is as it must be afterwards.
    pub fn perform(&mut self, operation: &Operation, model: &Model) -> Result<(), Failure> {
        let Operation {
            kind,
            offset,
            length,
            choice,
            ..
        } = *operation;
        match kind {
            Kind::Read => {
                self.read(offset, length)?;
                self.compare(offset, model.read(offset, length))
            }
            Kind::MapRead => {
                self.load(offset, length, model.size());
                self.compare(offset, model.bytes(offset, self.buffer.len() as u64))
            }
            Kind::Write => {
                let bytes = model.bytes(offset, length);
                written("pwrite", length, self.file.write_at(bytes, offset))
            }
            Kind::Append => {
                let bytes = model.bytes(offset, length);
                written("write", length, self.tail.write(bytes))
            }
            Kind::MapWrite => {
                self.map.write(offset, model.bytes(offset, length));
                Ok(())
            }
            Kind::Truncate => called("ftruncate", self.file.set_len(offset)),
            Kind::Punch => called("fallocate", file::punch(&self.file, offset, length)),
            Kind::Sync => match choice % 3 {
                0 => called("fsync", self.file.sync_all()),
                1 => called("fdatasync", self.file.sync_data()),
                _ => called("msync", self.map.sync()),
            },
            Kind::Size => self.compare_size(model.size()),
            Kind::Reopen => called("open", self.reopen(choice)),
            Kind::Forget => called("posix_fadvise", file::forget(&self.file, offset, length)),
        }
    }

    fn read(&mut self, offset: u64, length: u64) -> Result<(), Failure> {
        self.buffer.resize(length as usize, 0);
        // What is left of earlier reads must not look right.
        self.buffer.fill(0xdb);
        let count = self
            .file
            .read_at(&mut self.buffer, offset)
            .map_err(|error| Failure::Call("pread", error))?;
        self.buffer.truncate(count);
        Ok(())
    }

    /// What reaches the file's end goes on to the end of the page: there must be zeros.
    fn load(&mut self, offset: u64, length: u64, size: u64) {
        let end = match offset + length == size {
            true => size.next_multiple_of(PAGE),
            false => offset + length,
        };
        self.buffer.resize((end - offset) as usize, 0);
        self.map.read(offset, &mut self.buffer);
    }

    fn compare(&self, offset: u64, expected: &[u8]) -> Result<(), Failure> {
        if self.buffer == expected {
            return Ok(());
        }
        let number = (self.buffer.len() != expected.len()).then(|| {
            format!(
                "{} bytes read instead of {}",
                self.buffer.len(),
                expected.len()
            )
        });
        Err(Failure::Difference(Difference {
            offset,
            expected: expected.to_vec(),
            got: self.buffer.clone(),
            number,
        }))
    }

    fn compare_size(&self, expected: u64) -> Result<(), Failure> {
        let stat = file::size(&self.file).map_err(|error| Failure::Call("fstat", error))?;
        let end = file::end(&self.file).map_err(|error| Failure::Call("lseek", error))?;
        if stat == expected && end == expected {
            return Ok(());
        }
        Err(Failure::Difference(Difference {
            offset: expected.min(stat).min(end),
            expected: Vec::new(),
            got: Vec::new(),
            number: Some(format!(
                "the size is {expected:#x}; fstat says {stat:#x}, lseek {end:#x}"
            )),
        }))
    }

    /// Closes first, so that this can be the last user of what is cached here. The node that has the file opens it without flags
    /// half of the time: there such programs see the same.
    fn reopen(&mut self, choice: u8) -> io::Result<()> {
        let access = match self.parties.access() {
            Access::Origin if choice % 2 == 0 => Access::Plain,
            access => access,
        };
        let path = &self.parties.path;
        if choice & 4 != 0 {
            self.map = Mapping::new(&self.file, self.largest)?;
            self.tail = file::open(path, access, true)?;
        }
        self.file = file::open(path, access, false)?;
        if choice & 4 == 0 {
            self.map = Mapping::new(&self.file, self.largest)?;
        }
        Ok(())
    }

    /// Compares all of the file with the model, in both ways.
    pub fn compare_all(&mut self, model: &Model) -> Result<(), Failure> {
        self.compare_size(model.size())?;
        self.read(0, self.largest)?;
        self.compare(0, model.read(0, self.largest))?;
        if model.size() != 0 {
            self.load(0, model.size(), model.size());
            self.compare(0, model.bytes(0, self.buffer.len() as u64))?;
        }
        Ok(())
    }

    /// What reading gives at a place; nothing, if it fails.
    pub fn read_at(&mut self, place: Place) -> Vec<u8> {
        match self.read(place.offset, place.length) {
            Ok(()) => self.buffer.clone(),
            Err(_) => Vec::new(),
        }
    }

    /// What the mapping has at a place, as far as it lies in a file of this size.
    pub fn load_at(&mut self, place: Place, size: u64) -> Vec<u8> {
        let end = (place.offset + place.length).min(size).min(self.largest);
        let mut loaded = vec![0; end.saturating_sub(place.offset) as usize];
        if !loaded.is_empty() {
            self.map.read(place.offset, &mut loaded);
        }
        loaded
    }

    /// Brings all of it to the disk; what can be read from there again is forgotten.
    pub fn sync_and_forget(&self) -> io::Result<()> {
        self.file.sync_all()?;
        file::forget(&self.file, 0, self.largest)
    }

    /// What the file's size is here.
    pub fn size(&self) -> u64 {
        file::size(&self.file).unwrap_or(0)
    }
}

fn called(what: &'static str, result: io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| Failure::Call(what, error))
}

fn written(what: &'static str, length: u64, result: io::Result<usize>) -> Result<(), Failure> {
    match result {
        Ok(count) if count as u64 == length => Ok(()),
        Ok(count) => Err(Failure::Call(
            what,
            io::Error::other(format!("{count} bytes of {length} written")),
        )),
        Err(error) => Err(Failure::Call(what, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wrong_bytes_are_found() {
        let difference = |expected: &[u8], got: &[u8]| Difference {
            offset: 100,
            expected: expected.to_vec(),
            got: got.to_vec(),
            number: None,
        };
        let inside = difference(&[1, 2, 3, 4, 5, 6], &[1, 0, 3, 0, 5, 6]);
        assert_eq!((inside.place().offset, inside.place().length), (101, 3));
        assert_eq!(inside.wrong(), 2);
        let short = difference(&[1, 2, 3, 4], &[1, 2]);
        assert_eq!((short.place().offset, short.place().length), (102, 2));
    }
}
