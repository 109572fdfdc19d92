# SPDX-License-Identifier: GPL-2.0
"""Directories as what is open: listed, removed, worked in."""

import fcntl
import os
import stat

from calls import *
from transcript import *


@scenario
def directories_as_files(t):
    os.mkdir("dir")
    fd = os.open("dir", RO)
    t("read", os.read, fd, 10)
    t("pread", os.pread, fd, 10, 0)
    t("write", os.write, fd, b"x")
    t("ftruncate", os.ftruncate, fd, 0)
    t("truncate", os.truncate, "dir", 0)
    t("fallocate", fallocate, fd, 0, 0, 10)
    t("mmap", mapped, fd, PAGE, READ)
    t("fsync", os.fsync, fd)
    t("fdatasync", os.fdatasync, fd)
    t("copy_file_range", lambda: os.copy_file_range(fd, os.open("file", RW | CREAT), 10))
    t("copy_file_range into", lambda: os.copy_file_range(os.open("file", RO), fd, 10))
    t("sendfile", lambda: os.sendfile(os.open("file", RW), fd, 0, 10))
    t("splice", lambda: os.splice(fd, os.pipe()[1], 10))
    t("flock", fcntl.flock, fd, fcntl.LOCK_EX)
    t("fcntl lock for reading", lock, fd, fcntl.F_RDLCK)
    t("fcntl lock for writing", lock, fd, fcntl.F_WRLCK)
    t("readahead", libc, "readahead", fd, 0, 10)
    t("posix_fadvise", os.posix_fadvise, fd, 0, 0, os.POSIX_FADV_WILLNEED)
    t("sync_file_range", libc, "sync_file_range", fd, 0, 0, 2)
    t("fchmod", lambda: os.fchmod(fd, 0o711) or mode(fd))
    t("execve", execute, "dir")
    t("symlink's target is a directory, truncate", lambda: os.symlink("dir", "link") or os.truncate("link", 0))
    t("rename over it", os.rename, "file", "dir")
    t("unlink", os.unlink, "dir")


@scenario
def listing(t):
    make_all()
    types = {0: "unknown", 1: "fifo", 4: "dir", 8: "file", 10: "link", 12: "sock"}
    entries = {name: (kind, ino) for name, kind, ino in iter(Stream(".").read, None)}
    t("names", lambda: sorted(entries))
    t("types", lambda: {name: types[entries[name][0]] for name in sorted(entries)})
    t("numbers", lambda: [name for name in sorted(entries) if name != ".." and entries[name][1] != os.lstat(name).st_ino])
    t("number of what is above", lambda: entries[".."][1] == os.stat("..").st_ino)
    t("an empty one", lambda: sorted(Stream("dir").rest()))
    os.mkdir("many")
    everything = sorted(f"{i:03d}-{'x' * (i * 7 % 200)}" for i in range(120))
    for name in everything:
        os.mknod("many/" + name, stat.S_IFREG | 0o600)
    t("all, each once", lambda: sorted(Stream("many").rest()) == sorted([".", "..", *everything]))
    stream, seen, places = Stream("many"), [], []
    while True:
        places.append(stream.tell())
        entry = stream.read()
        if entry is None:
            break
        seen.append(entry[0])
    t("positions are different", lambda: len(set(places)) == len(places))

    def from_places():
        for at in (0, 1, 2, 3, 40, 41, 100, 121, 122):
            stream.seek(places[at])
            if stream.rest() != seen[at:]:
                return f"not from {at}"

    t("from each position the rest", from_places)
    t("rewound", lambda: stream.rewind() or stream.rest() == seen)
    # In small pieces, so that the C library has not got all of it before.
    fd = os.open("many", RO)

    def rest():
        return [name for part in iter(lambda: getdents(fd, 1000), []) for name in part]

    first = getdents(fd, 1000)
    gone = [name for name in everything if name not in first][::2]
    for name in gone:
        os.unlink("many/" + name)
    behind = rest()
    t("names that are removed meanwhile hide no others", lambda: set(first + behind) >= {*everything} - {*gone})
    t("… nor show any twice", lambda: len(first + behind) == len({*first, *behind}))
    t("the next listing has them no more", lambda: sorted(Stream("many").rest()) == sorted({".", "..", *everything} - {*gone}))
    os.lseek(fd, places[60], 0)
    t("a position of before still leads on", lambda: {*rest()} >= {name for name in seen[60:] if name not in gone})
    os.lseek(fd, 0, 0)
    first = getdents(fd, 1000)
    put("many/added")
    t("a name that is added meanwhile shows once at most", lambda: (first + rest()).count("added") <= 1)
    t("… and from the start", lambda: os.lseek(fd, 0, 0) or rest().count("added"))

    def remove_all():
        stream = Stream("many")
        while entry := stream.read():
            if entry[0] not in (".", ".."):
                os.unlink("many/" + entry[0])
        os.rmdir("many")

    t("removed one by one while they are listed", remove_all)
    fd = os.open("full", RO)
    t("too little room", getdents, fd, 10)
    t("room for one", lambda: [len(getdents(fd, 32)) for _ in range(3)])
    t("at the end", getdents, fd, 1000)
    t("from the start again", lambda: os.lseek(fd, 0, 0) or sorted(getdents(fd, 1000)))
    t("one position for both", lambda: (lambda second: os.lseek(fd, 0, 0) or (len(getdents(fd, 1000)), getdents(second, 1000)))(os.dup(fd)))
    t("of O_PATH", lambda: getdents(os.open("full", PATH), 1000))
    t("of a file", lambda: getdents(os.open("file", RO), 1000))
    t("before the start", os.lseek, fd, -1, 0)
    t("an unknown whence", os.lseek, fd, 0, 9)
    t.times("times, listing", ["full"], os.listdir, "full")


@scenario
def removed_directory(t):
    os.mkdir("gone")
    fd = os.open("gone", RO)
    put("file")

    def inside():
        os.chdir("gone")
        os.rmdir("../gone")
        t("getcwd", os.getcwd)
        t("list", os.listdir, ".")
        t("list by a descriptor", os.listdir, fd)
        t("getdents", getdents, fd, 1000)
        t("stat", lambda: describe("."))
        t("fstat", lambda: describe(fd))
        t("stat of what is above", lambda: same("..", "/proc/self/cwd/.."))
        t("a file above", lambda: get("../file"))
        for name, call in MAKING.items():
            if name not in ("link to", "rename to"):
                t(name, call, "new")
        t("link to", os.link, "../file", "new")
        t("rename to", os.rename, "../file", "new")
        t("look-up", os.stat, "new")
        t("mkdirat", os.mkdir, "new", dir_fd=fd)
        t("open of itself", lambda: os.close(os.open(".", RO)))
        t("rmdir of itself", os.rmdir, ".")
        t("rmdir by its old name", os.rmdir, "../gone")
        t("fsync", os.fsync, fd)
        t("fchmod", lambda: os.fchmod(fd, 0o700) or mode(fd))
        t("fchown", lambda: os.fchown(fd, 1, 2) or owner(fd))
        t("futimens", lambda: os.utime(fd, (5, 6)) or os.fstat(fd).st_mtime)
        t("fsetxattr", lambda: os.setxattr(fd, "user.x", b"x") or os.getxattr(fd, "user.x"))
        t("fchdir into it", os.fchdir, fd)
        t("its name in /proc", os.readlink, "/proc/self/cwd")
        t("a new one of its name is another", lambda: os.mkdir("../gone") or put("../gone/file") or answers(
            lambda: getdents(fd, 1000), lambda: os.stat("file"), lambda: put("new")))
        t("out of it", lambda: os.chdir("..") or sorted(os.listdir(".")))

    t("in it", inside)


@scenario
def working_directories(t):
    os.makedirs("dir/sub")
    put("file")
    for name, target in (("link", "dir"), ("dangling", "x"), ("loop", "loop")):
        os.symlink(target, name)
    for path in ("dir", "dir/sub", "dir/", "link", "link/", "link/sub", "file", "missing", "dangling", "loop", "", "dir/sub/../..", "file/x"):
        t(f"chdir '{path}'", in_child, lambda: os.chdir(path) or plain(os.getcwd()).split("/")[-2:])
    t("fchdir", in_child, lambda: os.fchdir(os.open("dir", RO)) or os.listdir("."))
    t("fchdir of O_PATH", in_child, lambda: os.fchdir(os.open("dir", PATH)) or os.listdir("."))
    t("fchdir of a file", in_child, lambda: os.fchdir(os.open("file", RO)))
    os.mkdir("noexec")
    os.chown("noexec", OWNER, OWNER)
    for bits in (0o600, 0o400, 0o100, 0o700):
        os.chmod("noexec", bits)
        t(f"chdir, {bits:o}, owner", in_child, os.chdir, "noexec", uid=OWNER, gid=OWNER)
        t(f"chdir, {bits:o}, another", in_child, os.chdir, "noexec", uid=OTHER, gid=OTHER)
    os.chmod("noexec", 0o600)
    t("chdir, root", in_child, os.chdir, "noexec")
    t("fchdir, without the right to search", in_child, lambda: os.fchdir(os.open("noexec", RO)), uid=OWNER, gid=OWNER)
    t("chroot, without the right to search", in_child, os.chroot, "noexec", uid=OWNER, gid=OWNER)
    os.makedirs("jail/sub/deep")
    put("jail/file", b"in jail")
    put("jail/sub/file", b"in sub")
    for name, target in (("rel", "file"), ("sub/rel", "file"), ("sub/up", "../file"), ("down", "sub/file"), ("abs", "/file"),
                         ("out", "../../file"), ("dirlink", "sub/deep"), ("sub/deep/far", "../../down")):
        os.symlink(target, "jail/" + name)

    def jailed():
        os.chroot("jail")
        os.chdir("/")
        for name in ("file", "rel", "sub/rel", "sub/up", "down", "abs", "out", "sub/deep/far"):
            t(f"chroot, /{name}", get, "/" + name)
        t("chroot, upwards", get, "/../../sub/../file")
        t("chroot, a link to a directory", os.listdir, "/dirlink")
        t("chroot, getcwd", lambda: os.chdir("/sub") or os.getcwd())
        t("chroot, what is there", lambda: sorted(os.listdir("/")))

    t("chroot", in_child, jailed)
    t("chroot into a file", in_child, os.chroot, "file")
    t("chroot into what is not there", in_child, os.chroot, "missing")
