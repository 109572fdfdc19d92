// SPDX-License-Identifier: GPL-2.0

//! A tree of processes as /proc shows it: its ids, its files, and what keeps it from being moved.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ffi::OsStr,
    fs, io,
    net::SocketAddr,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use procfs::{
    process::{all_processes, MMPermissions, MMapPath, Process},
    ProcError,
};
use rustix::{
    io::Errno,
    process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal},
};
use serde::{Deserialize, Serialize};

use crate::{diag, problem::Problem};

/// What /proc appends to the path of a file without a name.
const DELETED: &[u8] = b" (deleted)";

/// A file that the tree has open, has mapped, runs or stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `st_mode`.
    pub mode: u32,
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
    /// In bytes.
    pub size: u64,
    /// `st_rdev`.
    pub rdev: u64,
    /// Code of it is mapped.
    pub runs: bool,
    /// It is open or mapped for writing.
    pub written: bool,
    /// It has lost its name.
    pub nameless: bool,
}

impl Seen {
    /// The bits of `st_mode` that say what it is.
    pub fn kind(&self) -> u32 {
        self.mode & 0o170_000
    }

    /// A regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == 0o100_000
    }

    /// A directory.
    pub fn is_directory(&self) -> bool {
        self.kind() == 0o040_000
    }

    /// The end of a pseudo-terminal that programs use: majors 136 to 143.
    pub fn is_terminal(&self) -> bool {
        self.kind() == 0o020_000 && (136..144).contains(&rustix::fs::major(self.rdev))
    }
}

/// What a file is known by: two files may have had the same name, one after the other, and one file may have several. Of what is mounted at
/// several places the path says by which it was opened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FileId {
    path: Vec<u8>,
    dev: u64,
    ino: u64,
}

/// A process and all its descendants.
#[derive(Debug)]
pub struct Tree {
    /// Its root.
    pub root: i32,
    /// The root's command line, for people.
    pub title: String,
    /// All processes, the root first.
    pub processes: Vec<i32>,
    /// All threads, processes included.
    pub threads: Vec<i32>,
    /// Files, each with a link of /proc that leads to it.
    files: BTreeMap<FileId, (PathBuf, Seen)>,
    /// Its session or process group is led from outside.
    pub shell_job: bool,
    /// Resident memory, in bytes.
    pub resident: u64,
    /// What keeps it from being moved.
    pub blockers: Vec<Problem>,
    /// Sockets by inode, and where they are open.
    sockets: BTreeMap<u64, String>,
    /// Locks on files.
    locks: BTreeSet<Lock>,
}

/// A lock on a file, as a descriptor's fdinfo shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lock {
    /// What is shown, without its place in the list of all.
    line: String,
    /// Whose it is.
    at: String,
}

/// Locks that are there in so many looks, with a pause between, are held for long.
const LOCK_LOOKS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The locks that a descriptor's fdinfo shows: `lock:\t1: POSIX  ADVISORY  WRITE 99 08:01:13 0 EOF`.
fn locks_in(info: &str, at: &str) -> Vec<Lock> {
    let lines = info.lines().filter_map(|line| line.strip_prefix("lock:"));
    let lines = lines.filter_map(|line| line.split_once(": "));
    lines
        .map(|(_, line)| Lock {
            line: line.trim().into(),
            at: at.into(),
        })
        .collect()
}

/// The locks of a process.
fn locks_of(pid: i32) -> BTreeSet<Lock> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    let mut found = BTreeSet::new();
    for entry in entries.into_iter().flatten().flatten() {
        let fd = entry.file_name().to_string_lossy().into_owned();
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let at = format!("process {pid}, descriptor {fd}, {}", target.display());
        found.extend(locks_in(&info, &at));
    }
    found
}

/// Parents and children of all processes, now.
fn children() -> Result<HashMap<i32, Vec<i32>>, Problem> {
    let mut children = HashMap::<_, Vec<_>>::new();
    for process in all_processes()? {
        // One that has ended since.
        if let Ok(stat) = process.and_then(|process| process.stat()) {
            children.entry(stat.ppid).or_default().push(stat.pid);
        }
    }
    Ok(children)
}

/// A process and its descendants.
pub fn descendants(root: i32) -> Result<Vec<i32>, Problem> {
    let children = children()?;
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        all.extend(children.get(&pid).into_iter().flatten());
        next += 1;
    }
    Ok(all)
}

/// A process and its descendants; none if it has ended.
pub(crate) fn family(root: Identity) -> Vec<Identity> {
    let all = descendants(root.pid).unwrap_or_default();
    let all: Vec<_> = all.into_iter().filter_map(Identity::of).collect();
    // If not, its number may have been somebody else's by then.
    all.into_iter().filter(|_| root.is_there()).collect()
}

/// The processes above one, up to the first.
pub(crate) fn ancestors(pid: i32) -> Vec<i32> {
    let parent = |pid: &i32| Some(Process::new(*pid).ok()?.stat().ok()?.ppid);
    std::iter::successors(parent(&pid), parent)
        .take_while(|pid| *pid != 0)
        .collect()
}

/// Whether a CRIU has a process in its hands.
pub(crate) fn is_held(pid: i32) -> bool {
    let status = Process::new(pid).and_then(|process| process.status());
    let Ok(tracer) = status.map(|status| status.tracerpid) else {
        return false;
    };
    tracer != 0 && is_of_criu(tracer)
}

/// Whether a process is a CRIU, or has yet to become what a CRIU restores.
pub(crate) fn is_of_criu(pid: i32) -> bool {
    let stat = Process::new(pid).and_then(|process| process.stat());
    stat.is_ok_and(|stat| stat.comm.starts_with("criu"))
}

/// Whether a signal has stopped a process.
pub(crate) fn is_stopped(pid: i32) -> bool {
    let stat = Process::new(pid).and_then(|process| process.stat());
    stat.is_ok_and(|stat| stat.state == 'T')
}

/// Processes of a tree that stood still when it was about to be frozen. Their user has stopped them, and nobody else is to wake them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asleep(Vec<Identity>);

impl Asleep {
    /// Of these.
    pub(crate) fn among(processes: &[Identity]) -> Asleep {
        let stopped = processes.iter().filter(|process| is_stopped(process.pid));
        Asleep(stopped.copied().collect())
    }

    /// Wakes a process that is none of them.
    pub(crate) fn wake_other(&self, process: Identity) -> io::Result<()> {
        if self.0.contains(&process) {
            return Ok(());
        }
        process.signal(Signal::CONT)
    }
}

/// A process: its number, and when it was started, in ticks since boot; the two together are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The number.
    pub pid: i32,
    started: u64,
}

impl Identity {
    /// Of a process that is there; `None` also for one that has ended and of which its parent has not taken notice.
    pub fn of(pid: i32) -> Option<Identity> {
        Identity::find(pid).ok().flatten()
    }

    /// [`Identity::of`]; an error if it cannot be found out, as without a free descriptor.
    fn find(pid: i32) -> io::Result<Option<Identity>> {
        let stat = match Process::new(pid).and_then(|process| process.stat()) {
            Ok(stat) => stat,
            Err(ProcError::NotFound(_)) => return Ok(None),
            Err(ProcError::Io(error, _)) if is_no_process(&error) => return Ok(None),
            Err(error) => return Err(io::Error::other(error)),
        };
        let started = stat.starttime;
        Ok((!matches!(stat.state, 'Z' | 'X')).then_some(Identity { pid, started }))
    }

    /// Whether it has not ended.
    pub(crate) fn is_there(&self) -> bool {
        self.look().unwrap_or(false)
    }

    /// The same; an error if it cannot be found out.
    pub(crate) fn look(&self) -> io::Result<bool> {
        Ok(Identity::find(self.pid)? == Some(*self))
    }

    /// Sends it a signal, and nobody else. If it has ended there is nothing to be done.
    pub(crate) fn signal(&self, number: Signal) -> io::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(());
        };
        let sent = pidfd_open(pid, PidfdFlags::empty())
            .map_err(io::Error::from)
            .and_then(|pidfd| {
                // If it is there now, the descriptor, which is older than this look, is its.
                if self.look()? {
                    pidfd_send_signal(&pidfd, number)?;
                }
                Ok(())
            });
        sent.or_else(|error| {
            if is_no_process(&error) {
                Ok(())
            } else {
                Err(error)
            }
        })
    }
}

/// Whether an error says that a process has ended.
pub(crate) fn is_no_process(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// The command line of a process, for people; its name if it has none.
pub fn title(process: &Process) -> String {
    let line = process.cmdline().unwrap_or_default().join(" ");
    let line = match line.as_str() {
        "" => process.stat().map(|stat| stat.comm).unwrap_or_default(),
        _ => line,
    };
    line.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .take(80)
        .collect()
}

impl Tree {
    /// Looks at a tree. A problem if it may not be moved at all; what is in the way otherwise is among its blockers.
    pub fn look(root: i32) -> Result<Tree, Problem> {
        let process = Process::new(root).map_err(|_| {
            Problem::new(
                format!("there is no process {root}"),
                "ps -e lists the processes",
            )
        })?;
        refuse(&process)?;
        let mut tree = Tree {
            root,
            title: title(&process),
            processes: descendants(root)?,
            threads: Vec::new(),
            files: BTreeMap::new(),
            shell_job: false,
            resident: 0,
            blockers: Vec::new(),
            sockets: BTreeMap::new(),
            locks: BTreeSet::new(),
        };
        let mut ends = Ends::default();
        for pid in tree.processes.clone() {
            tree.look_at(pid, &mut ends)?;
        }
        tree.find_outsiders(&ends)?;
        tree.find_namesakes();
        Ok(tree)
    }

    /// The files that have a name, by path: those that the target can open. CRIU carries the others.
    pub fn named_files(&self) -> BTreeMap<Vec<u8>, Seen> {
        let named = self.files.iter().filter(|(_, (_, seen))| !seen.nameless);
        named
            .map(|(id, (_, seen))| (id.path.clone(), seen.clone()))
            .collect()
    }

    /// Two files that have the same name: one is hidden by what has been mounted over it, and by its path nobody can open it.
    fn find_namesakes(&mut self) {
        let mut named = BTreeMap::<_, Vec<_>>::new();
        for (id, (link, seen)) in &self.files {
            if !seen.nameless {
                named.entry(&id.path).or_default().push((id, link));
            }
        }
        let mut gone = Vec::new();
        let mut hidden = Vec::new();
        for files in named.values().filter(|files| files.len() > 1) {
            for (id, link) in files {
                let is_same = |meta: &fs::Metadata| (meta.dev(), meta.ino()) == (id.dev, id.ino);
                let linked = fs::metadata(link).ok().filter(is_same);
                if linked.is_none_or(|meta| meta.nlink() == 0) {
                    // The program has put another one in its place, since the first look.
                    gone.push((*id).clone());
                } else if !fs::metadata(path_of(&id.path)).is_ok_and(|meta| is_same(&meta)) {
                    hidden.push(String::from_utf8_lossy(&id.path).into_owned());
                }
            }
        }
        for id in gone {
            if let Some((_, seen)) = self.files.get_mut(&id) {
                seen.nameless = true;
            }
        }
        for path in hidden {
            self.block(
                format!(
                    "{path}: two files of that path are open, and one of them is hidden by a mount"
                ),
                "let the program close the hidden one, or unmount what hides it",
            );
        }
    }

    fn block(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        let problem = Problem::new(what, fix);
        if !self.blockers.contains(&problem) {
            self.blockers.push(problem);
        }
    }

    fn look_at(&mut self, pid: i32, ends: &mut Ends) -> Result<(), Problem> {
        let process = Process::new(pid)?;
        let stat = process.stat()?;
        for id in [stat.session, stat.pgrp] {
            self.shell_job |= !self.processes.contains(&id);
        }
        self.resident += stat.rss * rustix::param::page_size() as u64;
        for task in process.tasks()? {
            self.threads.push(task?.tid);
        }
        self.compare_namespaces(pid);
        for link in ["cwd", "root", "exe"] {
            self.add(
                Path::new(&format!("/proc/{pid}/{link}")),
                link == "exe",
                false,
            )?;
        }
        for map in process.maps()? {
            if matches!(map.pathname, MMapPath::Path(_)) {
                let (start, end) = map.address;
                let link = format!("/proc/{pid}/map_files/{start:x}-{end:x}");
                let writes = MMPermissions::WRITE | MMPermissions::SHARED;
                let runs = map.perms.contains(MMPermissions::EXECUTE);
                self.add(Path::new(&link), runs, map.perms.contains(writes))?;
            }
        }
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            self.look_at_descriptor(pid, &entry?.path(), ends)?;
        }
        self.locks.append(&mut locks_of(pid));
        Ok(())
    }

    /// Notes what holds locks for long as a blocker: they do not move. Those that are held for a moment, as most are, do not matter.
    pub(crate) fn find_locks(&mut self) {
        let mut held = std::mem::take(&mut self.locks);
        for look in 0..LOCK_LOOKS {
            if held.is_empty() {
                return;
            }
            // Not in step with a program that takes it again and again.
            thread::sleep(LOCK_PAUSE + Duration::from_millis(u64::from(look) * 17 % 30));
            let now: BTreeSet<_> = self.processes.iter().copied().flat_map(locks_of).collect();
            held.retain(|lock| now.contains(lock));
        }
        for Lock { at, .. } in held {
            self.block(
                format!("{at}: it holds a lock on this file, and locks do not move"),
                "let the program release it, if only for a moment, or end it",
            );
        }
    }

    fn look_at_descriptor(
        &mut self,
        pid: i32,
        link: &Path,
        ends: &mut Ends,
    ) -> Result<(), Problem> {
        // Closed since.
        let Ok(target) = fs::read_link(link) else {
            return Ok(());
        };
        let fd = link
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let at = format!("process {pid}, descriptor {fd}");
        let text = target.to_string_lossy();
        if let Some(kind) = text.strip_prefix("anon_inode:") {
            let known = [
                "[eventfd]",
                "[eventpoll]",
                "[signalfd]",
                "[timerfd]",
                "inotify",
                "[pidfd]",
            ];
            if !known.contains(&kind) {
                self.block(
                    format!("{at}: {kind} cannot be moved"),
                    "let the program do without it; for io_uring many have a switch",
                );
            }
        } else if text.starts_with("pipe:[") {
            ends.pipes.insert(target.into_os_string().into_vec(), at);
        } else if let Some(inode) = text.strip_prefix("socket:[") {
            let inode = inode.trim_end_matches(']').parse().unwrap_or(0);
            self.sockets.insert(inode, at);
        } else if text.starts_with('/') {
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
            let value = |name| info.lines().find_map(|line| line.strip_prefix(name));
            let flags = value("flags:").and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
            // The access mode: 1 is O_WRONLY, 2 is O_RDWR.
            let written = flags.unwrap_or(0) & 3 != 0;
            // The end of a pseudo-terminal that whoever has made it holds.
            let master = value("tty-index:").and_then(|index| index.trim().parse::<u32>().ok());
            let kind = fs::metadata(link).map(|meta| meta.file_type());
            let is_device = kind.is_ok_and(|kind| kind.is_char_device());
            if is_device && master.is_none() && text.starts_with("/dev/pts/") {
                let terminal = (at, link.to_path_buf());
                ends.terminals
                    .insert(target.into_os_string().into_vec(), terminal);
            } else {
                ends.masters.extend(master);
                self.add(link, false, written)?;
            }
        }
        Ok(())
    }

    /// Notes the file that a link of /proc leads to.
    fn add(&mut self, link: &Path, runs: bool, written: bool) -> Result<(), Problem> {
        // What is gone since does not matter.
        let (target, meta) = match (fs::read_link(link), fs::metadata(link)) {
            (Ok(target), Ok(meta)) => (target.into_os_string().into_vec(), meta),
            (Err(error), _) | (_, Err(error))
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                return Err(Problem::new(
                    format!("{}: {error}", link.display()),
                    "run it as root",
                ))
            }
            _ => return Ok(()),
        };
        let nameless = meta.nlink() == 0;
        let path = match target.strip_suffix(DELETED) {
            Some(path) if nameless => path.to_vec(),
            _ => target,
        };
        // Memory that looks like a file.
        if path.starts_with(b"/memfd:")
            || path.starts_with(b"/SYSV")
            || path == b"/dev/zero" && nameless
        {
            return Ok(());
        }
        let id = FileId {
            path,
            dev: meta.dev(),
            ino: meta.ino(),
        };
        let (_, seen) = self.files.entry(id).or_insert_with(|| {
            let seen = Seen {
                mode: meta.mode(),
                dev: meta.dev(),
                ino: meta.ino(),
                size: meta.size(),
                rdev: meta.rdev(),
                runs: false,
                written: false,
                nameless,
            };
            (link.to_path_buf(), seen)
        });
        // It may have lost its name between two looks.
        seen.nameless |= nameless;
        seen.runs |= runs;
        seen.written |= written;
        Ok(())
    }

    /// All must be in the namespaces of this process, but for those that do not matter: cgroups are not moved, and CRIU gives
    /// each tree a time namespace, so that its clock goes on.
    fn compare_namespaces(&mut self, pid: i32) {
        for kind in ["ipc", "mnt", "net", "pid", "user", "uts"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
            if of(&pid.to_string()) != of("self") {
                self.block(
                    format!(
                        "process {pid} has a {kind} namespace of its own: it is in a container"
                    ),
                    "containers cannot be moved yet; move programs that run outside of them",
                );
            }
        }
    }

    /// Pipes, terminals and connections whose other end is not in the tree.
    fn find_outsiders(&mut self, ends: &Ends) -> Result<(), Problem> {
        let own: HashSet<_> = self.processes.iter().copied().collect();
        let mut held = HashMap::<Vec<u8>, String>::new();
        let peers = self.foreign_peers();
        for process in all_processes()?.flatten() {
            if own.contains(&process.pid) {
                continue;
            }
            for entry in fs::read_dir(format!("/proc/{}/fd", process.pid))
                .into_iter()
                .flatten()
            {
                let target = entry.and_then(|entry| fs::read_link(entry.path()));
                if let Ok(target) = target {
                    let target = target.into_os_string().into_vec();
                    if ends.pipes.contains_key(&target) || peers.contains_key(&target) {
                        held.entry(target)
                            .or_insert_with(|| format!("{} ({})", process.pid, title(&process)));
                    }
                }
            }
        }
        for (pipe, at) in &ends.pipes {
            if let Some(holder) = held.get(pipe) {
                self.block(
                    format!("{at}: a pipe to process {holder}, which is not moved"),
                    "move the whole pipeline, by the process that started it, or redirect to a file",
                );
            }
        }
        for (peer, (at, name)) in &peers {
            let name = name.as_ref().map(|name| format!(", {name}"));
            let holder = held.get(peer).map_or("another program", |holder| holder);
            self.block(
                format!(
                    "{at}: a Unix socket that is connected with process {holder}{}, which is not moved",
                    name.unwrap_or_default()
                ),
                "let the program close it; for a log (/dev/log) or a bus (D-Bus) many have a switch, or can be started without",
            );
        }
        for (terminal, (at, link)) in &ends.terminals {
            let index = terminal.strip_prefix(b"/dev/pts/");
            let index = index.and_then(|index| std::str::from_utf8(index).ok()?.parse().ok());
            if index.is_some_and(|index| ends.masters.contains(&index)) {
                self.add(link, false, false)?;
                continue;
            }
            self.block(
                format!("{at}: the terminal {}", String::from_utf8_lossy(terminal)),
                "start the program with its input and output redirected: setsid PROGRAM </dev/null >FILE 2>&1 &",
            );
        }
        Ok(())
    }

    /// Unix sockets that are connected with others outside of the tree: how /proc shows the other one, where ours is, and the other one's name.
    fn foreign_peers(&self) -> BTreeMap<Vec<u8>, (String, Option<String>)> {
        // Without netlink, or a kernel that tells, CRIU says so in the dump.
        let all = match self.sockets.is_empty() {
            true => HashMap::new(),
            false => diag::unix_sockets().unwrap_or_default(),
        };
        let pairs = self.sockets.iter().filter_map(|(inode, at)| {
            let peer = all.get(inode)?.peer?;
            let name = all.get(&peer).and_then(|socket| socket.name.clone());
            (!self.sockets.contains_key(&peer))
                .then(|| (format!("socket:[{peer}]").into_bytes(), (at.clone(), name)))
        });
        pairs.collect()
    }

    /// Where the tree's sockets have to be bound on the target: those of TCP that listen, and those of UDP; true: of TCP.
    pub(crate) fn bound(&self) -> BTreeMap<(SocketAddr, bool), String> {
        let listen =
            |entry: &procfs::net::TcpNetEntry| entry.state == procfs::net::TcpState::Listen;
        let tcp = [procfs::net::tcp(), procfs::net::tcp6()];
        let tcp = tcp.into_iter().flatten().flatten().filter(listen);
        let udp = [procfs::net::udp(), procfs::net::udp6()];
        let udp = udp.into_iter().flatten().flatten();
        let all = tcp
            .map(|entry| (entry.local_address, true, entry.inode))
            .chain(udp.map(|entry| (entry.local_address, false, entry.inode)));
        all.filter(|(address, ..)| address.port() != 0)
            .filter_map(|(address, stream, inode)| {
                Some(((address, stream), self.sockets.get(&inode)?.clone()))
            })
            .collect()
    }

    /// Descriptors that are sockets of TCP with another end, in whatever state but those that CRIU moves by itself.
    pub fn connections(&self) -> Result<Vec<String>, Problem> {
        let mut found = Vec::new();
        for entry in procfs::net::tcp()?
            .into_iter()
            .chain(procfs::net::tcp6().unwrap_or_default())
        {
            use procfs::net::TcpState::{Close, Listen};
            if !matches!(entry.state, Listen | Close) {
                if let Some(at) = self.sockets.get(&entry.inode) {
                    found.push(format!("{at}: a connection to {}", entry.remote_address));
                }
            }
        }
        Ok(found)
    }
}

/// What has another end, by what it is, and where in the tree.
#[derive(Default)]
struct Ends {
    pipes: BTreeMap<Vec<u8>, String>,
    /// With a link to each.
    terminals: BTreeMap<Vec<u8>, (String, PathBuf)>,
    /// Numbers of the pseudo-terminals whose other end is in the tree.
    masters: BTreeSet<u32>,
}

/// Refuses what nobody may move.
fn refuse(process: &Process) -> Result<(), Problem> {
    let pid = process.pid;
    if pid == 1 {
        return Err(Problem::plain(
            "process 1 is what this node runs by; it stays here",
        ));
    }
    let stat = process.stat()?;
    if stat.ppid == 2 || pid == 2 {
        return Err(Problem::plain(format!(
            "process {pid} ({}) is a thread of the kernel",
            stat.comm
        )));
    }
    if stat.state == 'Z' {
        return Err(Problem::new(
            format!("process {pid} ({}) has ended", stat.comm),
            "its parent has not taken notice yet",
        ));
    }
    let mut above = Some(std::process::id() as i32);
    while let Some(ancestor) = above.filter(|ancestor| *ancestor > 0) {
        if ancestor == pid {
            return Err(Problem::new(
                format!("process {pid} is this program itself, or has started it"),
                "call vremote-migrate from somewhere else",
            ));
        }
        above = Process::new(ancestor)
            .and_then(|process| process.stat())
            .ok()
            .map(|stat| stat.ppid);
    }
    Ok(())
}

/// Whether an id is that of a process or a thread, and whose.
pub fn owner(id: i32) -> Option<String> {
    // /proc/TID leads to every thread, although it is not listed.
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let name = stat
        .split_once('(')
        .and_then(|(_, rest)| rest.rsplit_once(')'));
    Some(name.map_or_else(String::new, |(name, _)| name.to_string()))
}

/// Bytes as a path.
pub fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::{process, time::Instant};

    use rustix::fs::{flock, FlockOperation};

    use super::*;

    /// A process that does nothing; ended with this.
    struct Idle(process::Child);

    impl Idle {
        fn start() -> Idle {
            Idle(process::Command::new("sleep").arg("60").spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            self.0.id() as i32
        }

        /// Sends a signal, and waits until the process stands still or does not.
        fn signal(&self, number: Signal, stopped: bool) {
            Identity::of(self.pid()).unwrap().signal(number).unwrap();
            self.wait(stopped);
        }

        fn wait(&self, stopped: bool) {
            let begun = Instant::now();
            while is_stopped(self.pid()) != stopped {
                assert!(begun.elapsed() < Duration::from_secs(10));
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    impl Drop for Idle {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn an_unlinked_file_and_a_new_one_of_its_name_are_two() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        let old = fs::File::create(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let new = fs::File::create(&path).unwrap();
        let link = |file: &fs::File| {
            PathBuf::from(format!(
                "/proc/self/fd/{}",
                std::os::fd::AsRawFd::as_raw_fd(file)
            ))
        };
        for files in [[&old, &new], [&new, &old]] {
            let mut tree = Tree {
                root: 0,
                title: String::new(),
                processes: Vec::new(),
                threads: Vec::new(),
                files: BTreeMap::new(),
                shell_job: false,
                resident: 0,
                blockers: Vec::new(),
                sockets: BTreeMap::new(),
                locks: BTreeSet::new(),
            };
            for file in files {
                tree.add(&link(file), false, true).unwrap();
            }
            assert_eq!(tree.files.len(), 2);
            let named = tree.named_files();
            let bytes = path.as_os_str().as_bytes();
            assert_eq!(named.len(), 1);
            assert_eq!(named[bytes].ino, new.metadata().unwrap().ino());
            assert!(!named[bytes].nameless);
            // It is seen under its other name as well.
            let other = place.path().join("other");
            fs::hard_link(&path, &other).unwrap();
            let linked = fs::File::open(&other).unwrap();
            tree.add(&link(&linked), false, false).unwrap();
            tree.find_namesakes();
            assert_eq!(tree.named_files().len(), 2);
            assert_eq!(tree.blockers, []);
            fs::remove_file(other).unwrap();
        }
    }

    #[test]
    fn a_number_that_is_used_again_is_somebody_else() {
        let mut idle = Idle::start();
        let one = Identity::of(idle.pid()).unwrap();
        assert!(one.is_there());
        let other = Identity {
            started: one.started + 1,
            ..one
        };
        other.signal(Signal::KILL).unwrap();
        assert!(!other.is_there() && one.is_there());
        one.signal(Signal::KILL).unwrap();
        let begun = Instant::now();
        // It counts as ended before its parent has waited for it.
        while one.is_there() {
            assert!(begun.elapsed() < Duration::from_secs(10));
            thread::sleep(Duration::from_millis(1));
        }
        idle.0.wait().unwrap();
        one.signal(Signal::KILL).unwrap();
        assert_eq!(Identity::of(one.pid), None);
    }

    #[test]
    fn who_was_asleep_is_not_woken() {
        let (asleep, awake) = (Idle::start(), Idle::start());
        asleep.signal(Signal::STOP, true);
        let both = [&asleep, &awake].map(|idle| Identity::of(idle.pid()).unwrap());
        let seen = Asleep::among(&both);
        awake.signal(Signal::STOP, true);
        for process in both {
            seen.wake_other(process).unwrap();
        }
        awake.wait(false);
        assert!(is_stopped(asleep.pid()));
    }
    #[test]
    fn locks_of_a_descriptor() {
        let info = "pos:\t0\nflags:\t02\nlock:\t7: POSIX  ADVISORY  WRITE 99 08:01:13 0 EOF\nlock:\t8: FLOCK  ADVISORY  WRITE 99 08:01:13 0 EOF\n";
        let lines: Vec<_> = locks_in(info, "x")
            .into_iter()
            .map(|lock| lock.line)
            .collect();
        let wanted =
            ["POSIX", "FLOCK"].map(|kind| format!("{kind}  ADVISORY  WRITE 99 08:01:13 0 EOF"));
        assert_eq!(lines, wanted);
    }

    #[test]
    fn a_lock_that_is_held_is_found() {
        let place = tempfile::NamedTempFile::new().unwrap();
        flock(place.as_file(), FlockOperation::LockExclusive).unwrap();
        let path = place.path().display().to_string();
        let holds = || {
            locks_of(process::id() as i32)
                .iter()
                .any(|lock| lock.at.ends_with(&path))
        };
        assert!(holds());
        flock(place.as_file(), FlockOperation::Unlock).unwrap();
        assert!(!holds());
    }
}
