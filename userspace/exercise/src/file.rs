// SPDX-License-Identifier: GPL-2.0

//! The shared file, as a program opens it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::{fadvise, fallocate, fstat, seek, Advice, FallocateFlags, SeekFrom};

/// The file of this node is shared while it is open like this. Until the C library knows it.
pub const O_ORIGIN: i32 = 0o10;
/// The file may be another node's.
pub const O_REMOTE: i32 = 0o20;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// As the node that has it: it is shared as long as it is open.
    Origin,
    /// As a node that has not.
    Remote,
    /// Without flags: a program of the node that has it, which knows of nothing.
    Plain,
}

/// Opens a file for reading and writing; with `append` every write goes to its end.
pub fn open(path: &Path, access: Access, append: bool) -> io::Result<File> {
    let flags = match access {
        Access::Origin => O_REMOTE | O_ORIGIN,
        Access::Remote => O_REMOTE,
        Access::Plain => 0,
    };
    OpenOptions::new()
        .read(true)
        .write(true)
        .append(append)
        .custom_flags(flags)
        .open(path)
}

/// Makes a file, empty or emptied, and its directory.
pub fn create(path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    File::create(path).map(drop)
}

/// Its size, as fstat(2) says.
pub fn size(file: &File) -> io::Result<u64> {
    Ok(fstat(file)?.st_size as u64)
}

/// Its size, as lseek(2) says.
pub fn end(file: &File) -> io::Result<u64> {
    Ok(seek(file, SeekFrom::End(0))?)
}

/// Makes a hole; the size stays.
pub fn punch(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, mode, offset, length)?)
}

/// Asks the kernel to forget the pages of the file that nobody has changed.
pub fn forget(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let length = std::num::NonZeroU64::new(length);
    Ok(fadvise(file, offset, length, Advice::DontNeed)?)
}

/// One aligned word by read(2).
pub fn read_word(file: &File, at: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    match file.read_at(&mut bytes, at)? {
        8 => Ok(u64::from_ne_bytes(bytes)),
        count => Err(io::Error::other(format!("{count} bytes of 8 read"))),
    }
}

/// One aligned word by write(2).
pub fn write_word(file: &File, at: u64, value: u64) -> io::Result<()> {
    match file.write_at(&value.to_ne_bytes(), at)? {
        8 => Ok(()),
        count => Err(io::Error::other(format!("{count} bytes of 8 written"))),
    }
}
