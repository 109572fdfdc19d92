// SPDX-License-Identifier: GPL-2.0

//! Who may have a process moved: root any, others what is their own alone.

use std::fs;

/// Whose processes may be moved, for one who is not root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Of the asker.
    pub uid: u32,
    /// Of the asker.
    pub gid: u32,
    /// What the asker itself is permitted, as in `CapPrm` of /proc/PID/status.
    pub capabilities: u64,
}

impl Owner {
    /// The owner that a process is, by what /proc says it may; `None` if it has ended.
    pub(crate) fn of(pid: i32, uid: u32, gid: u32) -> Option<Owner> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Owner {
            uid,
            gid,
            capabilities: mask(&status, "CapPrm:")?,
        })
    }

    /// Of these processes the first with a thread that is not this owner's alone. A thread may have rights of its own.
    pub(crate) fn foreign(&self, processes: &[i32]) -> Option<i32> {
        processes.iter().copied().find(|pid| {
            let threads = fs::read_dir(format!("/proc/{pid}/task"));
            // One that has ended since is not moved; of one that cannot be read nothing is known.
            threads.into_iter().flatten().any(|thread| {
                let path = thread.map(|thread| thread.path().join("status"));
                match path.and_then(fs::read_to_string) {
                    Ok(status) => !self.owns(&status),
                    Err(error) => error.kind() != std::io::ErrorKind::NotFound,
                }
            })
        })
    }

    /// Whether a thread with this `status` has no user or group but the owner's, be it real, effective, saved or of the file system, and is
    /// capable of nothing that the owner is not.
    fn owns(&self, status: &str) -> bool {
        let all_are = |field: &str, id: u32| {
            let ids = status.lines().find_map(|line| line.strip_prefix(field));
            ids.is_some_and(|ids| ids.split_whitespace().all(|one| one == id.to_string()))
        };
        let capable = ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"]
            .iter()
            .all(|field| mask(status, field).is_some_and(|mask| mask & !self.capabilities == 0));
        all_are("Uid:", self.uid) && all_are("Gid:", self.gid) && capable
    }
}

/// A field that is a mask.
fn mask(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(uids: &str, gids: &str, permitted: &str) -> String {
        format!(
            "Name:\tprog\nUid:\t{uids}\nGid:\t{gids}\nCapInh:\t0000000000000000\nCapPrm:\t{permitted}\n\
             CapEff:\t0000000000000000\nCapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\n"
        )
    }

    #[test]
    fn what_is_of_somebody_else_or_capable_of_more_is_foreign() {
        let owner = Owner {
            uid: 1000,
            gid: 100,
            capabilities: 0,
        };
        let own = [
            "1000\t1000\t1000\t1000",
            "100\t100\t100\t100",
            "0000000000000000",
        ];
        assert!(owner.owns(&status(own[0], own[1], own[2])));
        for (at, other) in [
            (0, "1000\t0\t0\t0"),
            (0, "1000\t1000\t0\t1000"),
            (1, "100\t0\t100\t100"),
            (2, "0000000000002000"),
        ] {
            let mut parts = own;
            parts[at] = other;
            assert!(
                !owner.owns(&status(parts[0], parts[1], parts[2])),
                "{parts:?}"
            );
        }
        assert!(!owner.owns(""));
        let capable = Owner {
            capabilities: 0x2000,
            ..owner
        };
        assert!(capable.owns(&status(own[0], own[1], "0000000000002000")));
        assert!(!capable.owns(&status(own[0], own[1], "0000000000003000")));
    }

    #[test]
    fn the_process_is_named() {
        let own = std::process::id() as i32;
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let owner = Owner::of(own, uid, gid).unwrap();
        assert_eq!(owner.foreign(&[own]), None);
        let other = Owner {
            uid: uid + 1,
            ..owner
        };
        assert_eq!(other.foreign(&[own]), Some(own));
        // Nobody can be moved who is not there.
        assert_eq!(other.foreign(&[-1]), None);
    }
}
