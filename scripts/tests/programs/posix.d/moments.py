# SPDX-License-Identifier: GPL-2.0
"""Which times reading and writing change."""

import os
import time

from calls import *
from transcript import *


@scenario
def reading_times(t):
    """Times of access: the first reading after a change sets them (relatime)."""
    put("file", lines(10000))
    os.mkdir("dir")
    os.symlink("file", "link")
    put("script", b"#!/bin/sh\n", 0o755)
    put("quiet", b"quiet")
    fd = os.open("file", RW)
    t.times("read", ["file", fd], os.pread, fd, 10, 0)
    t.times("read again", ["file"], os.pread, fd, 10, 0)
    t.times("read at the end", ["file"], os.pread, fd, 10, 10000)
    os.utime("file", (1000, 1000))
    t.times("a load", ["file"], lambda: load(mapped(fd, PAGE, READ)))
    os.utime("dir", (1000, 1000))
    t.times("list", ["dir"], os.listdir, "dir")
    utimensat("link", (1000, 0), (1000, 0), AT_SYMLINK_NOFOLLOW)
    t.times("readlink", ["link"], os.readlink, "link")
    utimensat("link", (1000, 0), (1000, 0), AT_SYMLINK_NOFOLLOW)
    t.times("followed", ["link"], lambda: os.stat("link").st_size)
    os.utime("script", (1000, 1000))
    t.times("execve", ["script"], execute, "./script")
    os.utime("quiet", (1000, 1000))
    t.times("with O_NOATIME", ["quiet"], lambda: os.read(os.open("quiet", RO | NOATIME), 9))
    os.utime("file", (1000, 1000))
    t.times("sendfile", ["file"], lambda: os.sendfile(os.open("quiet", WO), fd, 0, 10))
    os.utime("file", (1000, 1000))
    t.times("copy_file_range", ["file"], lambda: os.copy_file_range(fd, os.open("quiet", WO), 10, 0, 0))


@scenario
def writing_times(t):
    put("file", lines(20000))
    fd = os.open("file", RW)
    reader = os.open("file", RO)
    t.times("write", ["file", fd, reader], os.write, fd, b"x")
    t.times("write of the same page again", ["file"], os.write, fd, b"x")
    t.times("pwrite of another page", ["file"], os.pwrite, fd, b"x", 10000)
    t.times("write at the end", ["file"], os.pwrite, fd, b"x", 20000)
    t.times("append", ["file"], lambda: os.write(os.open("file", WO | APPEND), b"x"))
    t.times("writev", ["file"], os.writev, fd, [b"a", b"b"])
    t.times("write, then fsync", ["file"], lambda: os.write(fd, b"x") and os.fsync(fd))
    t.times("write, then close", ["file"], lambda: (lambda other: os.write(other, b"x") and os.close(other))(os.open("file", WO)))
    t.times("a refused write", ["file"], result, os.write, reader, b"x")

    def order():
        os.pwrite(fd, b"y", 0)
        first = os.fstat(fd).st_mtime_ns
        time.sleep(TICK_SECONDS)
        os.fsync(fd)
        return os.fstat(fd).st_mtime_ns == first

    t("the time is that of the write, not of the fsync", order)

    def set_after():
        os.pwrite(fd, b"z", 0)
        os.utime("file", (1000, 2000))
        os.fsync(fd)
        return os.stat("file").st_mtime

    t("a time that is set after a write stays", set_after)
    t("… and is gone with the next one", lambda: os.pwrite(fd, b"z", 0) and os.stat("file").st_mtime > 2000)
    t("set, then closed", lambda: (lambda other: (os.write(other, b"x"), os.utime(other, (1000, 3000)), os.close(other)))(
        os.open("file", WO)) and os.stat("file").st_mtime)
    view = mapped(fd, PAGE)
    t("a store, then a time that is set", lambda: store(view, b"store") or os.utime("file", (1000, 4000)) or libc("munmap", view, PAGE)
      or os.fsync(fd) or os.stat("file").st_mtime)
