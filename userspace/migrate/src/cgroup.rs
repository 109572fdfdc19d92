// SPDX-License-Identifier: GPL-2.0

//! A cgroup for each tree that has come here: whatever it forks, all of it can be found, stopped and killed. One that leaves is frozen in such
//! a cgroup from the commit on.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{
    problem::Problem,
    protocol::Name,
    tree::{is_no_process, Identity},
};

/// Where cgroups of version 2 are.
const ROOT: &str = "/sys/fs/cgroup";

/// Ours among them.
const OURS: &str = "vremote";

/// A killed tree is gone after so long, if it does not wait for a device.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The cgroup of a tree. It stays when this is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// Where the cgroup of this name is, whether it is there or not.
    pub(crate) fn of(name: &Name) -> Cgroup {
        Cgroup(Path::new(ROOT).join(OURS).join(name.as_str()))
    }

    /// Makes it; it may be there, empty, from an earlier stay.
    pub(crate) fn make(name: &Name) -> Result<Cgroup, Problem> {
        let group = Cgroup::of(name);
        Cgroup::check()?;
        fs::create_dir_all(&group.0)
            .map_err(|error| Problem::plain(format!("{}: {error}", group.0.display())))?;
        Ok(group)
    }

    /// Whether this node has cgroups of version 2. What else is needed of them is older than any kernel with `vremote`.
    pub(crate) fn check() -> Result<(), Problem> {
        // Version 1 has no such file.
        if Path::new(ROOT).join("cgroup.controllers").exists() {
            return Ok(());
        }
        Err(Problem::new(
            format!("{ROOT} is not a hierarchy of cgroups of version 2"),
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup; under systemd: systemd.unified_cgroup_hierarchy=1 on the kernel's command line",
        ))
    }

    /// The one that a process is in, be it ours or not.
    pub(crate) fn around(pid: i32) -> Option<Cgroup> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
        Some(Cgroup(Path::new(ROOT).join(path)))
    }

    /// The name of the tree that a process belongs to.
    pub(crate) fn tree_of(pid: i32) -> Option<Name> {
        let around = Cgroup::around(pid)?.0;
        let name = around.strip_prefix(Path::new(ROOT).join(OURS)).ok()?;
        Name::try_from(name.to_str()?.to_string()).ok()
    }

    /// All that are there, of trees that live or have lived here.
    pub(crate) fn all() -> Vec<Name> {
        let entries = fs::read_dir(Path::new(ROOT).join(OURS))
            .into_iter()
            .flatten()
            .flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter_map(|name| Name::try_from(name).ok()).collect()
    }

    /// The processes in it.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let list = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        list.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// The process with the least id in it: in most cases the root of the tree.
    pub(crate) fn first(&self) -> Option<i32> {
        self.processes().into_iter().min()
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Whether anything lives in it.
    pub(crate) fn is_populated(&self) -> bool {
        let events = fs::read_to_string(self.0.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "populated 1")
    }

    /// Freezes all that is in it and whatever comes in, or lets it go on. Of all signals only the one that kills reaches what is frozen.
    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<()> {
        fs::write(self.0.join("cgroup.freeze"), if frozen { "1" } else { "0" })
    }

    /// Lets go on all that is in it. There may be no such cgroup.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        match self.freeze(false) {
            Err(error) if is_gone(&error) => Ok(()),
            thawed => thawed,
        }
    }

    /// Takes in a process of a tree, if it has not ended; who has its number since then is put back.
    pub(crate) fn take_one(&self, process: &Identity) -> io::Result<()> {
        if !process.look()? {
            return Ok(());
        }
        let before = Cgroup::around(process.pid);
        match self.take(process.pid) {
            Err(error) if is_no_process(&error) => return Ok(()),
            taken => taken?,
        }
        match before {
            Some(before) if !process.look()? => match before.take(process.pid) {
                Err(error) if is_no_process(&error) => Ok(()),
                put_back => put_back,
            },
            _ => Ok(()),
        }
    }

    /// Takes a process in, with all its threads.
    pub(crate) fn take(&self, pid: i32) -> io::Result<()> {
        fs::write(self.0.join("cgroup.procs"), pid.to_string())
    }

    /// Kills all that is in it, and waits until it is gone.
    pub(crate) fn kill(&self) -> Result<(), Problem> {
        let until = Instant::now() + KILL_LIMIT;
        while self.is_populated() {
            fs::write(self.0.join("cgroup.kill"), "1")?;
            if Instant::now() > until {
                return Err(Problem::new(
                    format!("what is in {} does not end", self.0.display()),
                    "it waits for a device or for another node; look at it with ps",
                ));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Removes it, if it is empty.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Whether an error says that there is no such cgroup, or that it was removed between open and write.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}
