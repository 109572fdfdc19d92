// SPDX-License-Identifier: GPL-2.0

//! This node: what it is like, and what is in its files.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::net::{bind, socket_with, sockopt, AddressFamily, SocketFlags, SocketType};
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

/// The module's status document.
const STATUS: &str = "/sys/kernel/debug/vremote/status";

/// A session of the module with a peer that is there is up again within this.
const SESSION_LIMIT: Duration = Duration::from_secs(3);

/// How the module sees a peer: `None` if it does not say. One that is about to be up may be waited for.
fn session(peer: &str) -> Option<String> {
    let until = Instant::now() + SESSION_LIMIT;
    loop {
        let text = fs::read_to_string(STATUS).ok()?;
        let state = state_of(&text, peer)?;
        if state == "up" || Instant::now() > until {
            return Some(state);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The state of a peer in the module's status document.
fn state_of(status: &str, peer: &str) -> Option<String> {
    let status: serde_json::Value = serde_json::from_str(status).ok()?;
    let mut peers = status["peers"].as_array()?.iter();
    let peer = peers.find(|other| other["name"] == peer)?;
    peer["state"].as_str().map(Into::into)
}

/// Beginnings of the names that /proc/cpuinfo has for instructions which programs find out about themselves, and then use: they would not run
/// on a processor without. What only kernels use does not matter.
const INSTRUCTIONS: [&str; 34] = [
    "abm",
    "adx",
    "aes",
    "amx",
    "avx",
    "bmi",
    "cmov",
    "clflushopt",
    "clwb",
    "cx16",
    "f16c",
    "fma",
    "fsgsbase",
    "gfni",
    "lahf_lm",
    "movbe",
    "movdir",
    "pclmulqdq",
    "pku",
    "popcnt",
    "rdpid",
    "rdrand",
    "rdseed",
    "rdtscp",
    "rtm",
    "sha_ni",
    "sse",
    "ssse3",
    "tbm",
    "vaes",
    "vpclmulqdq",
    "waitpkg",
    "xop",
    "xsave",
];

/// What the processor can, of that which programs may use.
fn instructions(cpuinfo: &str) -> Vec<String> {
    let flags = cpuinfo.lines().find_map(|line| {
        let (key, flags) = line.split_once(':')?;
        (key.trim() == "flags").then_some(flags)
    });
    let flags = flags.unwrap_or_default().split_whitespace();
    let used = flags.filter(|flag| INSTRUCTIONS.iter().any(|known| flag.starts_with(known)));
    used.map(Into::into).collect()
}

/// Whether a socket can be bound so.
fn can_bind(address: SocketAddr, stream: bool) -> io::Result<()> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let kind = if stream {
        SocketType::STREAM
    } else {
        SocketType::DGRAM
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    // Connections that are ending keep nobody from it; nor does a socket for datagrams that lets others have its port.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, !stream)?;
    bind(&socket, &address)?;
    Ok(())
}

/// What this node is like; `images`: where images will be put; `other`: the other node of the move.
pub fn facts(node: &Node, images: &Path, ids: &[i32], other: &str) -> Facts {
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
        instructions: instructions(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        criu: criu::abilities().map(Into::into),
        mounted: is_mounted(),
        taken: ids
            .iter()
            .filter_map(|id| Some((*id, owner(*id)?)))
            .collect(),
        room: room.map(|room| room.f_bavail * room.f_frsize).unwrap_or(0),
        memory: memory.unwrap_or(0) << 10,
        peers: peers.into_iter().map(|peer| peer.name).collect(),
        session: session(other),
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
        Look::Bindable { address, stream } => can_bind(*address, *stream).is_ok(),
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_is_free_or_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap();
        assert!(can_bind(taken, true).is_err());
        assert!(can_bind(taken, false).is_ok(), "of UDP");
        drop(listener);
        assert!(can_bind(taken, true).is_ok());
        let foreign = "192.0.2.77:1".parse().unwrap();
        assert!(can_bind(foreign, true).is_err());
    }

    #[test]
    fn what_programs_may_use_of_a_processor() {
        let cpuinfo = "processor\t: 0\nflags\t\t: fpu sse sse4_2 smep avx512f pti\nbugs\t: x\n\nflags\t: avx2\n";
        assert_eq!(instructions(cpuinfo), ["sse", "sse4_2", "avx512f"]);
        assert!(instructions("").is_empty());
    }

    #[test]
    fn the_state_of_a_peer() {
        let status = r#"{"peers":[{"name":"a","state":"down"},{"name":"b","state":"up"}]}"#;
        assert_eq!(state_of(status, "a").as_deref(), Some("down"));
        assert_eq!(state_of(status, "c"), None);
        assert_eq!(state_of("", "a"), None);
    }
}
