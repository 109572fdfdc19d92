// SPDX-License-Identifier: GPL-2.0

//! Where each file of a tree is opened on the target.
//!
//! | file | place |
//! |---|---|
//! | below `/vremote/NODE`, NODE being the target | it comes home: its own path there |
//! | below `/vremote/NODE` of a third node | the same path: it keeps its origin |
//! | without a name | CRIU carries its content |
//! | device, file of proc or sysfs | the target's own |
//! | pseudo-terminal, both ends in the tree | a new one of the same number |
//! | code, or what is read below `/usr` and the like, if it is identical there | the target's own |
//! | directory below an export | the source's |
//! | other directory | the target's of that path |
//! | anything else | the source's: its daemon shares it for as long as the tree is away |

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs, io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::MetadataExt,
    },
    path::Path,
};

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
    /// Where else parts of `/vremote` are mounted, and which: [`mounts`].
    pub mounts: &'a [(Vec<u8>, Vec<u8>)],
}

impl Ends<'_> {
    /// The path of a file of another node below `/vremote`, by whichever mount it was opened.
    fn global(&self, path: &[u8]) -> Option<Vec<u8>> {
        let mounts = self
            .mounts
            .iter()
            .filter(|(place, _)| is_below(path, place));
        match mounts.max_by_key(|(place, _)| place.len()) {
            Some((place, root)) => Some([root, &path[place.len()..]].concat()),
            None => split_remote(path).map(|_| path.to_vec()),
        }
    }
}

/// Mounts of parts of `/vremote` elsewhere (`mount --bind`): the mount point, and the path below `/vremote` that it shows.
pub fn mounts() -> Vec<(Vec<u8>, Vec<u8>)> {
    let mounts = procfs::process::Process::myself().and_then(|process| process.mountinfo());
    let mounts = mounts.into_iter().flat_map(|mounts| mounts.0);
    let ours = mounts.filter(|mount| mount.fs_type == "vremote" && mount.root != "/");
    let pairs = ours.map(|mount| {
        let place = mount.mount_point.into_os_string().into_vec();
        (
            place,
            [MOUNT_POINT.as_bytes(), mount.root.as_bytes()].concat(),
        )
    });
    pairs.collect()
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
    let rest = path
        .strip_prefix(MOUNT_POINT.as_bytes())?
        .strip_prefix(b"/")?;
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

/// The first step for a file that has a name.
pub fn step(path: &[u8], seen: &Seen, ends: &Ends<'_>) -> io::Result<Step> {
    let global = ends.global(path);
    if let Some((node, rest)) = global.as_deref().and_then(split_remote) {
        let path = &remote_path(&node, &rest)[..];
        return Ok(if node == ends.target {
            Step::Known(Place::Home(rest))
        } else if ends.peers.contains(&node) {
            let problem = Problem::new(
                format!("{}: {} cannot open it", shown(path), ends.target),
                format!(
                    "vremote peer show at {}: is {node} up? vremote export show there",
                    ends.target
                ),
            );
            // It keeps its path, but has to be reopened as what it is.
            let look = if seen.is_directory() {
                Look::Directory(path.into())
            } else {
                Look::Readable(path.into())
            };
            Step::Ask(look, Else::Blocked(problem))
        } else {
            Step::Blocked(Problem::new(
                format!("{}: {} is no peer of {}", shown(path), node, ends.target),
                format!("vremote peer add, at {} and at {node}", ends.target),
            ))
        });
    }
    let of_kernel = KERNEL
        .iter()
        .any(|directory| path.starts_with(directory.as_bytes()));
    if seen.is_directory() {
        return Ok(directory(path, seen, ends));
    }
    if seen.is_terminal() {
        let problem = Problem::new(
            format!(
                "{}: {} has a terminal of that number",
                shown(path),
                ends.target
            ),
            "try again when that has been closed, or start the program anew",
        );
        return Ok(Step::Ask(Look::Absent(path.into()), Else::Blocked(problem)));
    }
    if !seen.is_file() {
        let problem = Problem::new(
            format!(
                "{}: {} has no such device, FIFO or socket",
                shown(path),
                ends.target
            ),
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
    let software = SOFTWARE
        .iter()
        .any(|directory| path.starts_with(directory.as_bytes()));
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
pub fn found(path: &[u8], seen: &Seen, ends: &Ends<'_>) -> Place {
    match ends.global(path) {
        Some(path) => remote(seen, path),
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

/// Whether a path still leads to the file that was seen there.
pub fn is_there(path: &[u8], seen: &Seen) -> bool {
    fs::symlink_metadata(OsStr::from_bytes(path))
        .is_ok_and(|found| (found.dev(), found.ino()) == (seen.dev, seen.ino))
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
pub(crate) type Known = HashMap<Vec<u8>, Place>;

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(mode: u32) -> Seen {
        Seen {
            mode,
            dev: 1,
            ino: 2,
            size: 3,
            rdev: 0,
            runs: false,
            written: false,
            nameless: false,
        }
    }

    const FILE: u32 = 0o100_644;
    const DIRECTORY: u32 = 0o040_755;

    fn with<T>(run: impl FnOnce(&Ends<'_>) -> T) -> T {
        run(&Ends {
            source: "a",
            target: "b",
            peers: &["a".into(), "c".into()],
            exports: &[b"/srv/data".to_vec()],
            mounts: &[(b"/mnt/db".to_vec(), b"/vremote/b/srv/db".to_vec())],
        })
    }

    fn step_of(path: &str, seen: &Seen) -> Step {
        with(|ends| step(path.as_bytes(), seen, ends).unwrap())
    }

    #[test]
    fn a_local_file_is_shared() {
        assert_eq!(step_of("/srv/x", &seen(FILE)), Step::Hold);
        // Also one of the system that is written.
        let mut written = seen(FILE);
        written.written = true;
        assert_eq!(step_of("/usr/lib/x", &written), Step::Hold);
        assert_eq!(step_of("/dev/shm/x", &seen(FILE)), Step::Hold);
    }

    #[test]
    fn what_comes_home_is_at_home() {
        assert_eq!(
            step_of("/vremote/b/srv/x", &seen(FILE)),
            Step::Known(Place::Home(b"/srv/x".to_vec()))
        );
        assert_eq!(
            step_of("/vremote/b", &seen(DIRECTORY)),
            Step::Known(Place::Home(b"/".to_vec()))
        );
        assert_eq!(
            step_of("/mnt/db/x", &seen(FILE)),
            Step::Known(Place::Home(b"/srv/db/x".to_vec()))
        );
        assert_eq!(step_of("/mnt/dbx", &seen(FILE)), Step::Hold);
    }

    #[test]
    fn a_third_node_keeps_its_file() {
        let Step::Ask(look, Else::Blocked(_)) = step_of("/vremote/c/x", &seen(FILE)) else {
            panic!("the target has to be asked");
        };
        assert_eq!(look, Look::Readable(b"/vremote/c/x".to_vec()));
        let found = |seen: &Seen| with(|ends| found(b"/vremote/c/x", seen, ends));
        assert_eq!(found(&seen(FILE)), Place::Remote(b"/vremote/c/x".to_vec()));
        assert_eq!(
            found(&seen(DIRECTORY)),
            Place::RemoteDirectory(b"/vremote/c/x".to_vec())
        );
        assert!(matches!(
            step_of("/vremote/stranger/x", &seen(FILE)),
            Step::Blocked(_)
        ));
    }

    #[test]
    fn directories() {
        assert_eq!(step_of("/", &seen(DIRECTORY)), Step::Known(Place::Same));
        assert_eq!(
            step_of("/srv/data/sub", &seen(DIRECTORY)),
            Step::Known(Place::RemoteDirectory(b"/vremote/a/srv/data/sub".to_vec()))
        );
        for path in ["/srv/database", "/home/me"] {
            assert!(matches!(
                step_of(path, &seen(DIRECTORY)),
                Step::Ask(Look::Directory(_), Else::Blocked(_))
            ));
        }
    }

    #[test]
    fn what_is_not_to_be_shared() {
        assert_eq!(
            step_of("/proc/1/stat", &seen(FILE)),
            Step::Known(Place::Same)
        );
        assert!(matches!(
            step_of("/dev/null", &seen(0o020_666)),
            Step::Ask(Look::Special { .. }, _)
        ));
    }

    #[test]
    fn a_terminal_needs_its_number() {
        let mut terminal = seen(0o020_620);
        terminal.rdev = rustix::fs::makedev(136, 3);
        let Step::Ask(look, Else::Blocked(_)) = step_of("/dev/pts/3", &terminal) else {
            panic!("the target has to be asked");
        };
        assert_eq!(look, Look::Absent(b"/dev/pts/3".to_vec()));
        let place = with(|ends| found(b"/dev/pts/3", &terminal, ends));
        assert_eq!(place, Place::Same);
        // Its other end is a device that every node has.
        terminal.rdev = rustix::fs::makedev(5, 2);
        assert!(matches!(
            step_of("/dev/ptmx", &terminal),
            Step::Ask(Look::Special { .. }, _)
        ));
    }

    #[test]
    fn names_of_nodes_are_whole() {
        assert_eq!(
            split_remote(b"/vremote/b/x/y"),
            Some(("b".into(), b"/x/y".to_vec()))
        );
        assert_eq!(
            split_remote(b"/vremote/b"),
            Some(("b".into(), b"/".to_vec()))
        );
        assert_eq!(split_remote(b"/vremotes/b/x"), None);
        assert_eq!(split_remote(b"/srv/x"), None);
        assert_eq!(remote_path("b", b"/x"), b"/vremote/b/x");
    }
}
