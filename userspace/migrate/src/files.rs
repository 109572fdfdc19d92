// SPDX-License-Identifier: GPL-2.0

//! Where each file of a tree is opened on the target.
//!
//! | file | place |
//! |---|---|
//! | below `/vremote/NODE`, NODE being the target | it comes home: its own path there |
//! | below `/vremote/NODE` of a third node | the same path: it keeps its origin |
//! | without a name | CRIU carries its content |
//! | device, file of proc or sysfs | the target's own |
//! | code, or what is read below `/usr` and the like, if it is identical there | the target's own |
//! | directory below an export | the source's |
//! | other directory | the target's of that path |
//! | anything else | the source's: its daemon shares it for as long as the tree is away |

use std::{collections::HashMap, fs, io, path::Path};

use crate::{
    control::HeldFile,
    flags::MOUNT_POINT,
    images::Place,
    node,
    problem::Problem,
    protocol::Look,
    tree::{path_of, Seen},
};

/// Where a system keeps what does not change and is the same on every machine.
const SOFTWARE: [&str; 6] = ["/usr/", "/lib/", "/lib64/", "/bin/", "/sbin/", "/opt/"];

/// File systems of the kernel's own.
const KERNEL: [&str; 3] = ["/proc/", "/sys/", "/dev/"];

/// Who moves what to whom.
#[derive(Debug)]
pub struct Ends<'a> {
    /// This node.
    pub source: &'a str,
    /// The other.
    pub target: &'a str,
    /// Peers of the target.
    pub peers: &'a [String],
    /// Directories that this node exports.
    pub exports: &'a [Vec<u8>],
}

/// What has to be found out before a file's place is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Known(Place),
    /// If it is so on the target, the target's own; else the second.
    Ask(Look, Else),
    /// The source's, once it is shared.
    Hold,
    /// It cannot follow.
    Blocked(Problem),
}

/// What to do if a file is not to be had on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Else {
    /// Share it.
    Hold,
    /// It cannot follow.
    Blocked(Problem),
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// `/vremote/NODE/rest` as NODE and `/rest`.
pub fn split_remote(path: &[u8]) -> Option<(String, Vec<u8>)> {
    let rest = path.strip_prefix(MOUNT_POINT.as_bytes())?.strip_prefix(b"/")?;
    let slash = rest.iter().position(|byte| *byte == b'/');
    let (node, rest) = rest.split_at(slash.unwrap_or(rest.len()));
    let rest = if rest.is_empty() { b"/" } else { rest };
    Some((String::from_utf8(node.to_vec()).ok()?, rest.to_vec()))
}

/// `/vremote/NODE/path`.
pub fn remote_path(node: &str, path: &[u8]) -> Vec<u8> {
    [MOUNT_POINT.as_bytes(), b"/", node.as_bytes(), path].concat()
}

fn remote(seen: &Seen, path: Vec<u8>) -> Place {
    if seen.is_directory() {
        Place::RemoteDirectory(path)
    } else {
        Place::Remote(path)
    }
}

/// The first step for a file.
pub fn step(path: &[u8], seen: &Seen, ends: &Ends<'_>) -> io::Result<Step> {
    if seen.nameless {
        return Ok(Step::Known(Place::Same));
    }
    if let Some((node, rest)) = split_remote(path) {
        return Ok(if node == ends.target {
            Step::Known(Place::Home(rest))
        } else if ends.peers.contains(&node) {
            let problem = Problem::new(
                format!("{}: {} cannot open it", shown(path), ends.target),
                format!("vremote peer show at {}: is {node} up? vremote export show there", ends.target),
            );
            // It keeps its path, but has to be reopened as what it is.
            let look = if seen.is_directory() { Look::Directory(path.into()) } else { Look::Readable(path.into()) };
            Step::Ask(look, Else::Blocked(problem))
        } else {
            Step::Blocked(Problem::new(
                format!("{}: {} is no peer of {}", shown(path), node, ends.target),
                format!("vremote peer add, at {} and at {node}", ends.target),
            ))
        });
    }
    let of_kernel = KERNEL.iter().any(|directory| path.starts_with(directory.as_bytes()));
    if seen.is_directory() {
        return Ok(directory(path, seen, ends));
    }
    if !seen.is_file() {
        let problem = Problem::new(
            format!("{}: {} has no such device, FIFO or socket", shown(path), ends.target),
            "let the program close it, or make it there",
        );
        let look = Look::Special {
            path: path.into(),
            mode: seen.mode,
            device: seen.rdev,
        };
        return Ok(Step::Ask(look, Else::Blocked(problem)));
    }
    if of_kernel && !path.starts_with(b"/dev/shm/") {
        return Ok(Step::Known(Place::Same));
    }
    let software = SOFTWARE.iter().any(|directory| path.starts_with(directory.as_bytes()));
    if !seen.written && (seen.runs || software) {
        return Ok(Step::Ask(
            Look::Identical {
                path: path.into(),
                size: seen.size,
                mode: seen.mode,
                hash: node::hash_of(&path_of(path))?,
            },
            Else::Hold,
        ));
    }
    Ok(Step::Hold)
}

fn directory(path: &[u8], seen: &Seen, ends: &Ends<'_>) -> Step {
    if path == b"/" {
        Step::Known(Place::Same)
    } else if ends.exports.iter().any(|export| is_below(path, export)) {
        Step::Known(remote(seen, remote_path(ends.source, path)))
    } else {
        let problem = Problem::new(
            format!("{}: {} has no such directory", shown(path), ends.target),
            format!("vremote export add {}, or make it there", shown(path)),
        );
        Step::Ask(Look::Directory(path.into()), Else::Blocked(problem))
    }
}

/// The place of a file that is as it should be on the target.
pub fn found(path: &[u8], seen: &Seen) -> Place {
    match split_remote(path) {
        Some(_) => remote(seen, path.into()),
        None => Place::Same,
    }
}

/// The place of a file that the source shares.
pub fn held(path: &[u8], ends: &Ends<'_>) -> Place {
    Place::Remote(remote_path(ends.source, path))
}

/// For the daemon.
pub fn to_hold(path: &[u8], seen: &Seen) -> HeldFile {
    HeldFile {
        path: path.into(),
        dev: seen.dev,
        ino: seen.ino,
    }
}

/// Why a file that cannot be shared blocks, and what to do.
pub fn not_shared(path: &[u8], why: &str) -> Problem {
    Problem::new(
        format!("{}: it cannot be shared with other nodes: {why}", shown(path)),
        "only files on ext4 can be shared: let the program keep it on such a file system, or close it",
    )
}

/// Directories that this node exports.
pub fn exports() -> Vec<Vec<u8>> {
    let directory = Path::new("/sys/kernel/config/vremote/exports");
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.filter_map(|entry| {
        let enabled = fs::read(entry.path().join("enabled")).ok()?;
        let path = fs::read(entry.path().join("path")).ok()?;
        (enabled.trim_ascii() == b"1").then(|| path.strip_suffix(b"\n").unwrap_or(&path).to_vec())
    });
    paths.filter(|path| !path.is_empty()).collect()
}

/// Places of files by path, as far as they are known.
pub type Known = HashMap<Vec<u8>, Place>;
