// SPDX-License-Identifier: GPL-2.0

//! The first process of a PID namespace, made for one tree: each number is free in it, so the tree keeps its own.
//!
//! `vremoted` starts itself twice for it: *outside* makes the namespaces and starts *inside*, which is their process 1. That one starts CRIU,
//! continues what it has restored, takes notice of what ends, and writes to its standard output how the tree's root has ended.
//! Then it ends, and with it the namespace.

use std::{
    fs,
    io::{self, Read, Write},
    os::fd::{FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use clap::Subcommand;
use rustix::{
    mount::{mount, mount_change, MountFlags, MountPropagationFlags},
    process::{kill_process, wait, Pid, Signal, WaitOptions},
    thread::{unshare_unsafe, UnshareFlags},
};

use crate::{criu, problem::Problem};

/// What `vremoted` is started as.
#[derive(Debug, Subcommand)]
pub enum First {
    /// Makes the namespaces
    #[command(hide = true)]
    FirstOutside {
        /// The tree's root, as it is called inside
        root: i32,
        /// The cgroup for all of it
        cgroup: PathBuf,
    },
    /// Is process 1
    #[command(hide = true)]
    FirstInside {
        /// The tree's root
        root: i32,
    },
}

impl First {
    /// Runs it.
    pub fn run(&self) -> Result<(), Problem> {
        match self {
            First::FirstOutside { root, cgroup } => outside(*root, cgroup),
            First::FirstInside { root } => inside(*root),
        }
    }
}

/// This program, to be run as a part.
fn myself(part: &str, root: i32) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(part).arg(root.to_string()).stdin(Stdio::null());
    command
}

/// CRIU for a tree with this root, in namespaces of its own; like `criu swrk` itself, but it goes on until the tree has ended, and its
/// output, to be given to [`status`], says how.
pub fn criu(root: i32, cgroup: &Path) -> Command {
    let mut command = myself("first-outside", root);
    command.arg(cgroup).stdout(Stdio::piped());
    command
}

/// Waits until the tree has ended: the status of its root, as of waitpid(2). `None` if nobody has seen that.
pub fn status(mut outside: Child) -> Option<i32> {
    let mut text = String::new();
    if let Some(output) = &mut outside.stdout {
        // Nothing, as if nobody had written.
        let _ = output.read_to_string(&mut text);
    }
    let _ = outside.wait();
    text.trim().parse().ok()
}

/// CRIU's descriptor, which whoever has started it must not keep: its end would not be noticed.
fn close_rpc() {
    // SAFETY: it was inherited, and is used nowhere else in this process.
    drop(unsafe { OwnedFd::from_raw_fd(criu::RPC_FD) });
}

fn outside(root: i32, cgroup: &Path) -> Result<(), Problem> {
    fs::write(cgroup.join("cgroup.procs"), "0")?;
    // SAFETY: neither flag has to do with descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWPID | UnshareFlags::NEWNS) }
        .map_err(io::Error::from)?;
    // What is mounted later is seen by the tree; what is mounted in it, /proc for one, is not seen by others.
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", flags).map_err(io::Error::from)?;
    // The command has the copy of its output that this process must not keep.
    let mut command = myself("first-inside", root);
    let mut inside = command.spawn()?;
    close_rpc();
    close_output()?;
    inside.wait()?;
    Ok(())
}

/// Leaves the standard output to others.
fn close_output() -> io::Result<()> {
    let null = fs::OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(null)?;
    Ok(())
}

fn inside(root: i32) -> Result<(), Problem> {
    mount(
        "proc",
        "/proc",
        "proc",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        None,
    )
    .map_err(io::Error::from)?;
    let mut command = criu::worker();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let criu = command.spawn()?.id();
    close_rpc();
    let root = Pid::from_raw(root).ok_or_else(|| Problem::plain("a root has a number"))?;
    while let Ok(Some((ended, status))) = wait(WaitOptions::empty()) {
        if ended == root {
            print!("{}", status.as_raw());
            io::stdout().flush()?;
            return Ok(());
        }
        // It was stopped when it was dumped. If it is not there, it was not restored.
        if ended.as_raw_pid() as u32 == criu && kill_process(root, Signal::CONT).is_err() {
            break;
        }
    }
    Ok(())
}
