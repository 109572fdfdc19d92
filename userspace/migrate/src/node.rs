// SPDX-License-Identifier: GPL-2.0

//! This node: what it is like, and what is in its files.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Mutex, PoisonError},
};

use sha2::{Digest, Sha256};
use vremote_channel::Node;

use crate::{
    criu,
    flags::MOUNT_POINT,
    protocol::{Facts, Look},
    tree::{owner, path_of},
};

/// `st_mode & S_IFMT`.
const TYPE: u32 = 0o170_000;

/// A number that is another one each time this node starts.
pub fn boot_id() -> io::Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_string())
}

/// Whether the file system of all nodes is mounted where it should be.
pub fn is_mounted() -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        (words.next(), words.next()) == (Some(MOUNT_POINT), Some("vremote"))
    })
}

/// What this node is like; `images`: where images will be put.
pub fn facts(node: &Node, images: &Path, ids: &[i32]) -> Facts {
    let uname = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    let room = rustix::fs::statvfs(images);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let memory = memory.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let peers = node.peers().unwrap_or_default();
    Facts {
        machine: text(uname.machine()),
        kernel: text(uname.release()),
        criu: criu::abilities().map(Into::into),
        mounted: is_mounted(),
        taken: ids
            .iter()
            .filter_map(|id| Some((*id, owner(*id)?)))
            .collect(),
        room: room.map(|room| room.f_bavail * room.f_frsize).unwrap_or(0),
        memory: memory.unwrap_or(0) << 10,
        peers: peers.into_iter().map(|peer| peer.name).collect(),
    }
}

/// Answers a question about a path.
pub fn look(question: &Look) -> bool {
    match question {
        Look::Directory(path) => fs::metadata(path_of(path)).is_ok_and(|meta| meta.is_dir()),
        Look::Readable(path) => File::open(path_of(path)).is_ok(),
        Look::Absent(path) => fs::symlink_metadata(path_of(path))
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound),
        Look::Special { path, mode, device } => fs::metadata(path_of(path))
            .is_ok_and(|meta| meta.mode() & TYPE == mode & TYPE && meta.rdev() == *device),
        Look::Identical {
            path,
            size,
            mode,
            hash,
        } => {
            let path = path_of(path);
            let alike =
                fs::metadata(&path).is_ok_and(|meta| meta.mode() == *mode && meta.size() == *size);
            alike && hash_of(&path).is_ok_and(|own| own == *hash)
        }
    }
}

/// What a file was like when it was hashed: device, inode, size, and time of its last change.
type Version = (u64, u64, u64, i64, i64);

/// Hashes of files that have not changed since.
static HASHES: Mutex<Option<HashMap<Version, [u8; 32]>>> = Mutex::new(None);

/// No more than this many are kept.
const MAX_HASHES: usize = 4096;

/// SHA-256 of a file's content.
pub fn hash_of(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    let version = (
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.ctime(),
        meta.ctime_nsec(),
    );
    let known = || HASHES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(hash) = known().as_ref().and_then(|known| known.get(&version)) {
        return Ok(*hash);
    }
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            length => hasher.update(&buffer[..length]),
        }
    }
    let hash = hasher.finalize().into();
    let mut known = known();
    let known = known.get_or_insert_default();
    if known.len() < MAX_HASHES {
        known.insert(version, hash);
    }
    Ok(hash)
}
