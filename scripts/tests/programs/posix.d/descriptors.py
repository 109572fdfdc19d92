# SPDX-License-Identifier: GPL-2.0
"""Descriptors: their flags, what /proc says of them, files without a name, ioctl(2), poll(2)."""

import fcntl
import os
import select
import struct
import termios

from calls import *
from transcript import *


STATUS = {"APPEND": APPEND, "NONBLOCK": NONBLOCK, "DIRECT": DIRECT, "NOATIME": NOATIME, "SYNC": os.O_SYNC, "DSYNC": os.O_DSYNC,
          "PATH": PATH, "DIRECTORY": DIRECTORY, "NOFOLLOW": NOFOLLOW, "CREAT": CREAT, "EXCL": EXCL, "TRUNC": TRUNC,
          "CLOEXEC": os.O_CLOEXEC, "ASYNC": os.O_ASYNC}


@scenario
def descriptors(t):
    put("file", b"0123456789")
    os.mkdir("dir")

    def status(fd):
        bits = fcntl.fcntl(fd, fcntl.F_GETFL)
        return "|".join([("RDONLY", "WRONLY", "RDWR", "3")[bits & 3], *(name for name, bit in STATUS.items() if bits & bit == bit)])

    for name, bit in {"none": 0, **STATUS}.items():
        if name not in ("DIRECTORY", "EXCL", "TRUNC"):
            t(f"F_GETFL {name}", lambda: status(os.open("file", RW | bit)))
    t("F_GETFL of a directory", lambda: status(os.open("dir", RO | DIRECTORY)))
    t("F_GETFL of O_TRUNC", lambda: put("cut") or status(os.open("cut", RW | TRUNC)))
    fd = os.open("file", RW)
    for name, bit in STATUS.items():
        t(f"F_SETFL {name}", lambda: fcntl.fcntl(fd, fcntl.F_SETFL, bit) and None or status(fd))
        fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    t("F_SETFL changes no access", lambda: fcntl.fcntl(fd, fcntl.F_SETFL, RO) or status(fd))
    t("F_SETFL of O_PATH", lambda: fcntl.fcntl(os.open("file", PATH), fcntl.F_SETFL, 0))
    t("F_GETFD", lambda: fcntl.fcntl(fd, fcntl.F_GETFD))
    t("dup, F_GETFD", lambda: fcntl.fcntl(os.dup(fd), fcntl.F_SETFD, 0) or fcntl.fcntl(fd, fcntl.F_GETFD))
    t("dup, one status", lambda: (lambda copy: fcntl.fcntl(copy, fcntl.F_SETFL, NONBLOCK) or status(fd))(os.dup(fd)))
    t("F_DUPFD", lambda: fcntl.fcntl(fd, fcntl.F_DUPFD, 50))
    t("F_DUPFD, too high", fcntl.fcntl, fd, fcntl.F_DUPFD, 1 << 30)
    t("an unknown command", fcntl.fcntl, fd, 9999)
    t("F_SETPIPE_SZ of a file", fcntl.fcntl, fd, 1031, 4096)
    t("F_GET_SEALS of a file", fcntl.fcntl, fd, 1034)
    t("F_SETOWN", fcntl.fcntl, fd, fcntl.F_SETOWN, os.getpid())
    t("F_GETOWN", lambda: fcntl.fcntl(fd, fcntl.F_GETOWN) == os.getpid())
    t("F_GET_RW_HINT", lambda: struct.unpack("Q", fcntl.fcntl(fd, 1035, bytes(8))))
    t("O_NOATIME by F_SETFL, not one's own", in_child, lambda: fcntl.fcntl(fd, fcntl.F_SETFL, NOATIME), uid=OTHER, gid=OTHER)
    # By /proc.
    put("named", b"named")
    fd = os.open("named", RO)
    name = f"/proc/self/fd/{fd}"
    t("/proc, link", os.readlink, name)
    t("/proc, reopened", lambda: os.read(os.open(name, RO), 9))
    t("/proc, reopened for writing", lambda: os.write(os.open(name, WO), b"N") and os.pread(fd, 9, 0))
    t("/proc, position of its own", lambda: os.read(fd, 2) and os.read(os.open(name, RO), 2))
    t("/proc, reopened with O_TRUNC", lambda: os.close(os.open(name, WO | TRUNC)) or size("named"))
    t("/proc, stat", lambda: os.stat(name).st_ino == os.stat("named").st_ino)
    t("/proc, chmod", lambda: os.chmod(name, 0o604) or mode("named"))
    t("/proc, O_NOFOLLOW", lambda: os.close(os.open(name, RO | NOFOLLOW)))
    t("/proc, O_PATH reopened", lambda: os.read(os.open(f"/proc/self/fd/{os.open('file', PATH)}", RO), 3))
    t("/proc, of a directory", lambda: os.listdir(f"/proc/self/fd/{os.open('dir', RO)}"))
    t("/proc, rights count", in_child, lambda: os.chmod(name, 0) if os.getuid() == 0 else os.close(os.open(name, WO)), uid=OTHER, gid=OTHER)
    os.rename("named", "renamed")
    t("/proc, link after a rename", os.readlink, name)
    os.rename("renamed", "dir/moved")
    t("/proc, link after another", os.readlink, name)
    os.rename("dir", "directory")
    t("/proc, link after a rename above", os.readlink, name)
    os.unlink("directory/moved")
    t("/proc, link after unlink", os.readlink, name)

    def info(fd):
        text = open(f"/proc/self/fdinfo/{fd}").read()
        found = dict(line.split(":\t") for line in text.splitlines() if ":\t" in line)
        return found["pos"], found["flags"], int(found["ino"]) == os.fstat(fd).st_ino

    fd = os.open("file", RW | APPEND)
    t("/proc, fdinfo", info, fd)
    t("/proc, fdinfo after a read", lambda: os.read(fd, 4) and info(fd))
    t("/proc, fdinfo of a directory", lambda: info(os.open("directory", RO)))
    view = mapped(fd, PAGE, READ)

    def map_line():
        for line in open("/proc/self/maps"):
            fields = line.split()
            if int(fields[0].split("-")[0], 16) == view:
                found = os.fstat(fd)
                device = ":".join(f"{part:02x}" for part in (os.major(found.st_dev), os.minor(found.st_dev)))
                return fields[1], fields[2], fields[3] == device, int(fields[4]) == found.st_ino, fields[5]

    t("/proc, maps", map_line)
    t("/proc, map_files", lambda: os.readlink(f"/proc/self/map_files/{view:x}-{view + PAGE:x}"))
    t("/proc, cwd", os.readlink, "/proc/self/cwd")


@scenario
def unlinked_file(t):
    put("file", lines(5000))
    fd = os.open("file", RW)
    os.link("file", "second")
    os.unlink("file")
    t("one of two names", links, fd)
    os.unlink("second")
    t("links", links, fd)
    t("what it is", describe, fd)
    t("read", os.read, fd, 8)
    t("write", lambda: os.pwrite(fd, b"written", 0) and os.pread(fd, 8, 0))
    t("write at the end", lambda: os.pwrite(fd, b"longer", 5000) and os.fstat(fd).st_size)
    t("ftruncate", lambda: os.ftruncate(fd, 10) or os.fstat(fd).st_size)
    t("fallocate", lambda: fallocate(fd, 0, 0, 9000) or os.fstat(fd).st_size)
    t("fsync", os.fsync, fd)
    t("mmap", lambda: load(mapped(fd, PAGE), 7))
    t("fchmod", lambda: os.fchmod(fd, 0o604) or mode(fd))
    t("fchown", lambda: os.fchown(fd, OWNER, GROUP) or owner(fd))
    t("futimens", lambda: os.utime(fd, (7, 8)) or os.fstat(fd).st_mtime)
    t("fsetxattr", lambda: os.setxattr(fd, "user.x", b"x") or (os.getxattr(fd, "user.x"), os.listxattr(fd)))
    t("flock", fcntl.flock, fd, fcntl.LOCK_EX)
    t("fcntl lock", lock, fd, fcntl.F_WRLCK)
    t("dup", lambda: os.pread(os.dup(fd), 7, 0))
    t("reopened by /proc", lambda: os.pread(os.open(f"/proc/self/fd/{fd}", RO), 7, 0))
    t("its name in /proc", os.readlink, f"/proc/self/fd/{fd}")
    t("a new name", lambda: linkat(fd, "", AT_FDCWD, "back", AT_EMPTY_PATH))
    t("a new file of its name is another", lambda: put("file", b"another") or (get("file"), os.pread(fd, 7, 0)))
    t("… with a mode of its own", lambda: os.fchmod(fd, 0o640) or (mode("file"), mode(fd)))
    t("… and attributes of its own", lambda: answers(lambda: os.setxattr(fd, "user.y", b"y"), lambda: os.listxattr("file")))
    t.times("times, write", [fd, "file"], os.pwrite, fd, b"x", 0)
    t("in a child", in_child, os.pread, fd, 7, 0)
    put("replaced", b"replaced")
    fd = os.open("replaced", RW)
    put("replacing", b"replacing")
    os.rename("replacing", "replaced")
    t("replaced by a rename", lambda: (links(fd), os.pread(fd, 9, 0), os.pwrite(fd, b"R", 0)))
    t("replaced by a rename, fchmod", lambda: os.fchmod(fd, 0o600) or (mode(fd), mode("replaced")))
    os.mkdir("dir")
    put("dir/file")
    fd = os.open("dir/file", RW)
    os.unlink("dir/file")
    t("its directory can be removed", os.rmdir, "dir")
    t("… while it works", lambda: os.pwrite(fd, b"X", 0) and os.pread(fd, 7, 0))
    path = os.open("file", PATH)
    os.unlink("file")
    t("O_PATH of what is gone", lambda: describe(path))
    t("O_PATH of what is gone, reopened", lambda: os.close(os.open(f"/proc/self/fd/{path}", RO)))


@scenario
def handles(t):
    make_all()
    t("name_to_handle_at", name_to_handle_at, "file")
    t("name_to_handle_at of a directory", name_to_handle_at, "dir")
    t("… as a mere number", name_to_handle_at, "file", 0x200)
    t("… unknown flags", name_to_handle_at, "file", 0x80000)
    t("… of what is not there", name_to_handle_at, "missing")
    fd = os.open("file", RW)
    t("FS_IOC_GETFLAGS", lambda: fcntl.ioctl(fd, 0x80086601, bytes(8)) and None)
    t("FS_IOC_SETFLAGS", lambda: fcntl.ioctl(fd, 0x40086602, struct.pack(
        "q", 0x80 | struct.unpack_from("i", fcntl.ioctl(fd, 0x80086601, bytes(8)))[0])) and None)
    t("FS_IOC_GETVERSION", lambda: fcntl.ioctl(fd, 0x80087601, bytes(8)) and None)
    t("FS_IOC_FSGETXATTR", lambda: fcntl.ioctl(fd, 0x801c581f, bytes(28)) and None)
    t("FIGETBSZ", lambda: struct.unpack("i", fcntl.ioctl(fd, 2, bytes(4))))
    t("FIONREAD", lambda: struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4))))
    t("FIBMAP", lambda: fcntl.ioctl(fd, 1, bytes(4)) and None)
    t("FIEMAP", lambda: fcntl.ioctl(fd, 0xc020660b, bytearray(struct.pack("QQIIII", 0, 1 << 20, 1, 0, 10, 0) + bytes(1000))))
    t("TCGETS", lambda: fcntl.ioctl(fd, termios.TCGETS, bytes(100)) and None)
    t("FIONBIO", lambda: fcntl.ioctl(fd, termios.FIONBIO, struct.pack("i", 1)) and None)
    t("FIOCLEX", lambda: fcntl.ioctl(fd, 0x5451))
    t("an unknown one", fcntl.ioctl, fd, 0x12345678)
    t("of O_PATH", lambda: fcntl.ioctl(os.open("file", PATH), termios.FIONREAD, bytes(4)))
    t("FS_IOC_GETFLAGS of a directory", lambda: fcntl.ioctl(os.open("dir", RO), 0x80086601, bytes(8)) and None)


@scenario
def polling(t):
    put("file")
    fd = os.open("file", RW)

    def polled():
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLOUT | select.POLLPRI)
        return [event for _, event in poll.poll(0)]

    t("poll", polled)
    t("select", lambda: [len(ready) for ready in select.select([fd], [fd], [fd], 0)])
    t("epoll", lambda: select.epoll().register(fd))
    t("epoll of a directory", lambda: select.epoll().register(os.open(".", RO)))
    os.mkfifo("fifo")
    t("epoll of a FIFO", lambda: select.epoll().register(os.open("fifo", RW)))
