# SPDX-License-Identifier: GPL-2.0
"""Bytes of files."""

import fcntl
import mmap
import os
import struct

from calls import *
from transcript import *


@scenario
def reading_and_writing(t):
    put("file", lines(10000))
    ro, wo, rw = os.open("file", RO), os.open("file", WO), os.open("file", RW)
    t("read", os.read, ro, 8)
    t("read on", os.read, ro, 8)
    t("read of nothing", os.read, ro, 0)
    t("read over the end", lambda: os.lseek(ro, 9996, 0) and os.read(ro, 100))
    t("read at the end", os.read, ro, 100)
    t("read of a descriptor for writing", os.read, wo, 1)
    t("write of a descriptor for reading", os.write, ro, b"x")
    t("write of nothing, for reading", os.write, ro, b"")
    t("read of O_PATH", lambda: os.read(os.open("file", PATH), 1))
    t("write", os.write, rw, b"written")
    t("write, seen", os.pread, ro, 10, 0)
    t("write, position", os.lseek, rw, 0, 1)
    t("write of nothing", os.write, rw, b"")
    t.times("write of nothing, times", ["file"], os.write, rw, b"")
    t.times("write, times", ["file", rw], os.write, rw, b"again")
    t("pread", os.pread, ro, 8, 4094)
    t("pread, negative", os.pread, ro, 8, -1)
    t("pwrite, negative", os.pwrite, rw, b"x", -1)
    t("pwrite over a page's end", lambda: os.pwrite(rw, b"0123456789", 4091) and os.pread(ro, 16, 4088))
    t("pwrite leaves the position", os.lseek, rw, 0, 1)
    t("pwrite behind the end", lambda: os.pwrite(rw, b"far", 20000) and (size("file"), os.pread(ro, 8, 19996)))
    t("readv", lambda: (lambda parts: (os.lseek(ro, 0, 0), os.readv(ro, parts), [bytes(part) for part in parts]))(
        [bytearray(3), bytearray(0), bytearray(5)]))
    t("writev", lambda: os.lseek(rw, 100, 0) and (os.writev(rw, [b"abc", b"", b"defg"]), os.pread(ro, 7, 100)))
    t("writev of nothing", os.writev, rw, [b"", b""])
    t("readv of too many", os.readv, ro, [bytearray(1)] * 1025)
    t("a bad address, read", libc, "read", ro, 1, 10)
    t("a bad address, write", libc, "write", rw, 1, 10)
    t("a bad address, write at the end", lambda: os.lseek(rw, 0, 2) and libc("write", rw, 1, 10))
    t("a bad address, size", size, "file")
    t("a bad address, read at the end", lambda: os.lseek(ro, 0, 2) and libc("read", ro, 1, 10))
    half = mapped(-1, 2 * PAGE, READ | WRITE, PRIVATE | mmap.MAP_ANONYMOUS)
    libc("munmap", half + PAGE, PAGE)
    store(half + PAGE - 5, b"12345")
    t("partly bad, write", lambda: os.lseek(rw, 1000, 0) and (libc("write", rw, half + PAGE - 5, 10), os.pread(ro, 8, 1000)))
    t("partly bad, write over the end", lambda: libc("pwrite", rw, half + PAGE - 5, 10, size("file") - 2))
    t("partly bad, write behind the end", lambda: libc("pwrite", rw, half + PAGE - 5, 10, 30000))
    t("partly bad, size", size, "file")
    t("partly bad, read", lambda: os.lseek(ro, 0, 0) or libc("read", ro, half + PAGE - 5, 10))
    t("partly bad, appended", lambda: libc("write", os.open("file", WO | APPEND), half + PAGE - 5, 10))
    t("partly bad, size at last", size, "file")
    t("large", lambda: os.pwrite(rw, lines(300000), 5) and read_all(ro)[5:300005] == lines(300000))
    t("closed", lambda: os.close(wo) or os.write(wo, b"x"))
    t("a write over the end", lambda: put("short", b"abc") or (os.pwrite(os.open("short", WO), b"12345", 1), get("short")))
    t("two descriptors, two positions", lambda: (lambda a, b: (os.read(a, 3), os.read(b, 2), os.read(a, 1)))(
        os.open("short", RO), os.open("short", RO)))
    t("dup, one position", lambda: (lambda a: (os.read(a, 2), os.read(os.dup(a), 2)))(os.open("short", RO)))
    fd = os.open("short", RO)
    t("fork, one position", lambda: (in_child(os.read, fd, 2), os.read(fd, 2)))


@scenario
def appending(t):
    put("file", b"start")
    fd = os.open("file", RW | APPEND)
    t("write", lambda: os.write(fd, b"-1") and get("file"))
    t("write, position", os.lseek, fd, 0, 1)
    t("after a seek", lambda: os.lseek(fd, 0, 0) or os.write(fd, b"-2") and get("file"))
    t("pwrite appends, as Linux has it", lambda: os.pwrite(fd, b"-3", 0) and get("file"))
    t("pwrite, position", os.lseek, fd, 0, 1)
    t("another makes it longer", lambda: os.write(os.open("file", WO | APPEND), b"-4") and os.write(fd, b"-5") and get("file"))
    t("cut", lambda: os.ftruncate(fd, 3) or os.write(fd, b"-6") and get("file"))
    t("longer", lambda: os.ftruncate(fd, 7) or os.write(fd, b"-7") and get("file"))
    plain_fd = os.open("file", RW)
    t("switched on", lambda: fcntl.fcntl(plain_fd, fcntl.F_SETFL, APPEND) or os.pwrite(plain_fd, b"-8", 0) and get("file"))
    t("switched off", lambda: fcntl.fcntl(plain_fd, fcntl.F_SETFL, 0) or os.pwrite(plain_fd, b"ST", 0) and get("file"))
    t("switched on, seen by a dup", lambda: fcntl.fcntl(os.dup(plain_fd), fcntl.F_SETFL, APPEND) or bool(
        fcntl.fcntl(plain_fd, fcntl.F_GETFL) & APPEND))
    t("writev", lambda: os.writev(fd, [b"-", b"9"]) and get("file"))
    t("of nothing", os.write, fd, b"")
    t("two processes, ten each", lambda: (in_child(lambda: [os.write(fd, b"c") and None for _ in range(10)][0]), [os.write(fd, b"p") for _ in range(10)]
      and (get("file").count(b"c"), get("file").count(b"p"))))
    t("position of both", os.lseek, fd, 0, 1)
    t("mmap of it", lambda: load(mapped(fd, PAGE), 2))
    t("mmap of what may only be appended to", mapped, os.open("file", WO | APPEND), PAGE)


@scenario
def offsets(t):
    put("file", lines(1000))
    fd = os.open("file", RW)
    largest = (1 << 63) - 1
    for at, whence in ((0, 2), (-1000, 2), (-1001, 2), (10, 2), (-1, 0), (largest, 0), (0, 1), (5, 0), (-9, 1), (3, 1), (1 << 40, 0),
                       ((1 << 44) - 4096, 0), (0, 5), (0, -1)):
        os.lseek(fd, 8, 0)
        t(f"lseek {at} {whence}", os.lseek, fd, at, whence)
    t("lseek beyond the largest file", os.lseek, fd, (1 << 44) - 4095, 0)
    t("lseek of what is closed", os.lseek, 99, 0, 0)
    t("lseek of a pipe", lambda: os.lseek(os.pipe()[0], 0, 0))
    t("lseek of O_PATH", lambda: os.lseek(os.open("file", PATH), 0, 0))
    largest_file = (1 << 44) - 4096
    for at in (1 << 40, largest_file - 1, largest_file, largest_file + 1, largest - 1, largest):
        t(f"pread at {at}", os.pread, fd, 1, at)
        t(f"pwrite at {at}", os.pwrite, fd, b"x", at)
        t(f"size after that, {at}", size, "file")
        t(f"truncate to {at}", os.truncate, "file", at)
        t(f"ftruncate to {at}", os.ftruncate, fd, at)
        os.ftruncate(fd, 1000)
    t("a write over the largest size", os.pwrite, fd, b"0123456789", largest_file - 5)
    t("… its size", size, "file")
    t("… appended to", lambda: os.write(os.open("file", WO | APPEND), b"x"))
    os.ftruncate(fd, 1000)
    for length in (-1, -(1 << 62)):
        t(f"truncate to {length}", os.truncate, "file", length)
        t(f"ftruncate to {length}", os.ftruncate, fd, length)
    for count in (0, 1, 10):
        t(f"pread of {count} at the end", os.pread, fd, count, 1000)
        t(f"pread of {count} behind the end", os.pread, fd, count, 5000)
    t("mmap at 1 TiB", lambda: mapped(fd, PAGE, READ, SHARED, 1 << 40) and None)
    t("mmap beyond the largest offset", lambda: mapped(fd, PAGE, READ, SHARED, largest - 4095) and None)


@scenario
def truncating(t):
    put("file", lines(10000))
    fd = os.open("file", RW)

    def cut(length, call=lambda length: os.ftruncate(fd, length)):
        call(length)
        return size("file"), len(read_all(fd))

    t("shorter", cut, 5000)
    t("longer", cut, 9000)
    t("zeros", lambda: (read_all(fd)[:5000] == lines(5000), set(read_all(fd)[5000:])))
    t("to nothing", cut, 0)
    t("longer again, no old bytes", lambda: cut(10000) and set(read_all(fd)))
    t("by path", cut, 4097, lambda length: os.truncate("file", length))
    t("by path, longer", cut, 4100, lambda length: os.truncate("file", length))
    t("same size", cut, 4100)
    t.times("times, shorter", ["file", "."], os.ftruncate, fd, 4000)
    t.times("times, longer", ["file"], os.ftruncate, fd, 4500)
    t.times("times, same size", ["file"], os.ftruncate, fd, 4500)
    t.times("times, truncate, shorter", ["file"], os.truncate, "file", 4000)
    t.times("times, truncate, same size", ["file"], os.truncate, "file", 4000)
    t("a descriptor for reading", lambda: os.ftruncate(os.open("file", RO), 1))
    t("O_PATH", lambda: os.ftruncate(os.open("file", PATH), 1))
    t("what is closed", os.ftruncate, 99, 1)
    t("a pipe", lambda: os.ftruncate(os.pipe()[1], 1))
    for kind in ("dir", "fifo", "sock", "link", "dirlink", "dangling", "loop"):
        make(kind, kind)
        t(f"truncate of {kind}", os.truncate, kind, 10)
    t("by a symlink", size, "file")
    make_users("mine", "theirs")
    make_users("theirs-open", bits=0o666)
    make_users("mine-closed", bits=0o444)

    def user():
        for name in ("mine", "theirs", "theirs-open", "mine-closed"):
            t(f"user, {name}", os.truncate, name, 3)
        t.times("times, refused", ["theirs"], os.truncate, "theirs", 3)

    t.user(OWNER, OWNER, [], user)
    t("position is left", lambda: os.lseek(fd, 3000, 0) and os.ftruncate(fd, 10) or os.lseek(fd, 0, 1))
    t("write at the position of before", lambda: os.write(fd, b"x") and size("file"))


@scenario
def holes(t):
    fd = os.open("file", RW | CREAT)
    os.ftruncate(fd, 1 << 20)
    os.pwrite(fd, b"island", 1 << 19)
    for at in (0, 1 << 19, (1 << 20) - 1, 1 << 20, 1 << 40, -1):
        t(f"SEEK_DATA {at}", os.lseek, fd, at, os.SEEK_DATA)
        t(f"SEEK_HOLE {at}", os.lseek, fd, at, os.SEEK_HOLE)
    t("an empty file", lambda: os.lseek(os.open("empty", RW | CREAT), 0, os.SEEK_HOLE))
    t("zeros around", lambda: (read_all(fd).count(0), read_all(fd).index(b"island")))
    t("costs little", lambda: os.fsync(fd) or os.fstat(fd).st_blocks <= 64)


@scenario
def allocating(t):
    put("file", lines(20000))
    fd = os.open("file", RW)

    def allocated(flags, at, count):
        fallocate(fd, flags, at, count)
        data = read_all(fd)
        return len(data), data.count(0), sum(data)

    t("longer", allocated, 0, 0, 30000)
    t("inside", allocated, 0, 5, 100)
    t("keeping the size", allocated, KEEP_SIZE, 0, 100000)
    t("a hole", allocated, PUNCH_HOLE | KEEP_SIZE, 1000, 9000)
    t("a hole behind the end", allocated, PUNCH_HOLE | KEEP_SIZE, 90000, 9000)
    t("zeros", allocated, ZERO, 12000, 100)
    t("zeros behind the end", allocated, ZERO, 29000, 5000)
    t("zeros, keeping the size", allocated, ZERO | KEEP_SIZE, 33000, 5000)
    t("a range out", allocated, COLLAPSE, 4096, 4096)
    t("a range in", allocated, INSERT, 4096, 8192)
    for flags, at, count in ((PUNCH_HOLE, 0, 10), (COLLAPSE, 1, 4096), (COLLAPSE, 0, 1 << 20), (INSERT, 4095, 4096), (INSERT, 1 << 20, 4096),
                             (COLLAPSE | KEEP_SIZE, 0, 4096), (ZERO | PUNCH_HOLE | KEEP_SIZE, 0, 10), (0, -1, 10), (0, 0, 0), (0, 0, -1),
                             (0, 1 << 62, 1 << 62), (0, (1 << 44) - 4096, 10), (1 << 10, 0, 10)):
        t(f"{flags} {at} {count}", allocated, flags, at, count)
    t("posix_fallocate", lambda: os.posix_fallocate(fd, 0, 50000) or size("file"))
    t("posix_fallocate of nothing", os.posix_fallocate, fd, 0, 0)
    t("for reading", lambda: fallocate(os.open("file", RO), 0, 0, 10))
    t("O_PATH", lambda: fallocate(os.open("file", PATH), 0, 0, 10))
    t("a pipe", lambda: fallocate(os.pipe()[1], 0, 0, 10))
    t("a FIFO", lambda: os.mkfifo("fifo") or fallocate(os.open("fifo", RW), 0, 0, 10))
    t("for appending", lambda: fallocate(os.open("file", WO | APPEND), 0, 60000, 10) or size("file"))
    t("a hole, for appending", lambda: fallocate(os.open("file", WO | APPEND), PUNCH_HOLE | KEEP_SIZE, 0, 10) or get("file")[:12])
    t.times("times, longer", ["file"], fallocate, fd, 0, 0, 70000)
    t.times("times, keeping the size", ["file"], fallocate, fd, KEEP_SIZE, 0, 90000)
    t.times("times, a hole", ["file"], fallocate, fd, PUNCH_HOLE | KEEP_SIZE, 0, 5000)


@scenario
def call_flags(t):
    put("file", b"0123456789")
    fd = os.open("file", RW)

    def read(at, flags):
        part = bytearray(4)
        return os.preadv(fd, [part], at, flags), bytes(part)

    for name, flag in (("none", 0), ("HIPRI", 1), ("DSYNC", 2), ("SYNC", 4), ("NOWAIT", 8), ("APPEND", 16), ("NOAPPEND", 32),
                       ("ATOMIC", 64), ("DONTCACHE", 128), ("unknown", 1 << 20), ("DSYNC|SYNC", 6), ("APPEND|NOAPPEND", 48)):
        t(f"preadv2 {name}", read, 2, flag)
        t(f"pwritev2 {name}", lambda: (os.pwritev(fd, [b"ab"], 4, flag), get("file")))
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"0123456789", 0)
    t("preadv2 at the position", lambda: os.lseek(fd, 3, 0) and (read(-1, 1), os.lseek(fd, 0, 1)))
    t("preadv2 before the start", read, -2, 1)
    t("preadv before the start", read, -1, 0)
    t("pwritev2 at the position", lambda: (os.pwritev(fd, [b"zz"], -1, 2), os.lseek(fd, 0, 1)))
    t("RWF_APPEND leaves the position", lambda: os.lseek(fd, 3, 0) and (os.pwritev(fd, [b"E"], 0, 16), os.lseek(fd, 0, 1)))
    t("RWF_APPEND at the position", lambda: (os.pwritev(fd, [b"F"], -1, 16), os.lseek(fd, 0, 1)))
    t("RWF_NOAPPEND of an O_APPEND descriptor", lambda: (os.pwritev(os.open("file", WO | APPEND), [b"at-4"], 4, 32), get("file")))
    t("for reading", lambda: os.pwritev(os.open("file", RO), [b"x"], 0, 2))
    t("a pipe", lambda: os.preadv(os.pipe()[0], [bytearray(1)], 0, 1))


@scenario
def direct(t):
    put("file", lines(3 * PAGE))
    fd = os.open("file", RW | DIRECT)
    room = mmap.mmap(-1, 4 * PAGE)
    t("shown", lambda: bool(fcntl.fcntl(fd, fcntl.F_GETFL) & DIRECT))
    t("aligned read", lambda: (os.preadv(fd, [room], PAGE), room[:8]))
    t("aligned write", lambda: (os.pwritev(fd, [room[:PAGE] and memoryview(room)[:PAGE]], 0), get("file")[:8]))
    t("read at an odd place", lambda: os.preadv(fd, [memoryview(room)[:PAGE]], 5))
    t("write of an odd length", lambda: os.pwritev(fd, [memoryview(room)[:10]], 0))
    t("switched off", lambda: fcntl.fcntl(fd, fcntl.F_SETFL, 0) or bool(fcntl.fcntl(fd, fcntl.F_GETFL) & DIRECT))
    t("switched on", lambda: fcntl.fcntl(fd, fcntl.F_SETFL, DIRECT) or bool(fcntl.fcntl(fd, fcntl.F_GETFL) & DIRECT))
    t.opens("a directory", ".", RO | DIRECT)


@scenario
def syncing(t):
    make_all()
    fd = os.open("file", RW)
    os.write(fd, b"x")
    for name, call in (("fsync", os.fsync), ("fdatasync", os.fdatasync), ("syncfs", lambda what: libc("syncfs", what))):
        t(f"{name}, file", call, fd)
        t(f"{name}, for reading", lambda: call(os.open("file", RO)))
        t(f"{name}, dir", lambda: call(os.open("dir", RO)))
        t(f"{name}, fifo", lambda: call(os.open("fifo", RW)))
        t(f"{name}, O_PATH", lambda: call(os.open("file", PATH)))
        t(f"{name}, pipe", lambda: call(os.pipe()[0]))
        t(f"{name}, nothing", call, 99)
    for at, count, flags in ((0, 0, 0), (0, 0, 7), (0, 10, 2), (0, 0, 8), (-1, 10, 2), (0, -1, 2), (1 << 62, 1 << 62, 2), (1 << 40, 10, 7)):
        t(f"sync_file_range {at} {count} {flags}", libc, "sync_file_range", fd, at, count, flags)
    t("sync_file_range of a FIFO", lambda: libc("sync_file_range", os.open("fifo", RW), 0, 0, 2))
    t("O_SYNC is shown", lambda: bool(fcntl.fcntl(os.open("file", RW | os.O_SYNC), fcntl.F_GETFL) & os.O_SYNC))
    t("O_DSYNC write", lambda: os.write(os.open("file", RW | os.O_DSYNC), b"dsync"))
    t.times("fsync changes no times", ["file", "dir"], os.fsync, fd)


@scenario
def advising(t):
    put("file", lines(20000))
    fd = os.open("file", RW)
    for advice in range(8):
        t(f"posix_fadvise {advice}", os.posix_fadvise, fd, 0, 0, advice)
    t("posix_fadvise, negative length", os.posix_fadvise, fd, 0, -1, 0)
    t("posix_fadvise behind the end", os.posix_fadvise, fd, 1 << 40, 10, 3)
    t("posix_fadvise of a pipe", lambda: os.posix_fadvise(os.pipe()[0], 0, 0, 0))
    t("posix_fadvise of O_PATH", lambda: os.posix_fadvise(os.open("file", PATH), 0, 0, 0))
    t("DONTNEED loses nothing", lambda: os.pwrite(fd, b"kept", 0) and os.posix_fadvise(fd, 0, 0, 4) or os.pread(fd, 8, 0))
    t("readahead", libc, "readahead", fd, 0, 20000)
    t("readahead for writing", lambda: libc("readahead", os.open("file", WO), 0, 10))
    t("readahead of a pipe", lambda: libc("readahead", os.pipe()[0], 0, 10))
    t("right bytes", lambda: read_all(fd)[8:] == lines(20000)[8:])


@scenario
def copying(t):
    data = lines(50000)
    put("source", data)
    put("target", b"")
    put("small", b"abcdefghij")
    ro, rw, source = os.open("source", RO), os.open("target", RW), os.open("source", RW)
    small = os.open("small", RW)
    pipe_out, pipe_in = os.pipe()
    # copy_file_range
    t("copy_file_range", lambda: (os.copy_file_range(ro, rw, 50000, 0, 0), get("target") == data))
    t("copy_file_range by positions", lambda: (os.copy_file_range(ro, rw, 10), os.lseek(ro, 0, 1), os.lseek(rw, 0, 1)))
    t("copy_file_range of nothing", os.copy_file_range, ro, rw, 0)
    t("copy_file_range at the end", os.copy_file_range, ro, rw, 10, 50000, 0)
    t("copy_file_range over the end", os.copy_file_range, ro, rw, 100, 49990, 0)
    t("copy_file_range over itself", os.copy_file_range, source, source, 100, 0, 50)
    t("copy_file_range inside one file", lambda: (os.copy_file_range(small, small, 3, 0, 7), get("small")))
    t("copy_file_range with flags", libc, "copy_file_range", ro, None, rw, None, 10, 1)
    t("copy_file_range from a descriptor for writing", lambda: os.copy_file_range(os.open("source", WO), rw, 10))
    t("copy_file_range to one for reading", lambda: os.copy_file_range(source, ro, 10))
    t("copy_file_range to one for appending", lambda: os.copy_file_range(ro, os.open("target", WO | APPEND), 10))
    t("copy_file_range, negative", os.copy_file_range, ro, rw, 10, -1, 0)
    t("copy_file_range from a pipe", os.copy_file_range, pipe_out, rw, 10)
    t("copy_file_range to a pipe", os.copy_file_range, ro, pipe_in, 10)
    t("copy_file_range to another file system", lambda: os.copy_file_range(ro, os.memfd_create("x"), 10))
    t.times("copy_file_range, times", ["target"], os.copy_file_range, ro, rw, 10, 0, 0)
    t("a clone", fcntl.ioctl, rw, 0x40049409, ro)
    t("deduplication", fcntl.ioctl, rw, 0xc0189436, struct.pack("QQHHI", 0, 4096, 0, 0, 0))
    # sendfile
    os.ftruncate(rw, 0)
    os.lseek(rw, 0, 0)
    t("sendfile", lambda: (os.sendfile(rw, ro, 0, 50000), get("target") == data))
    t("sendfile by the position", lambda: os.lseek(ro, 100, 0) and (os.sendfile(rw, ro, None, 10), os.lseek(ro, 0, 1)))
    t("sendfile into a pipe", lambda: (os.sendfile(pipe_in, ro, 8, 16), os.read(pipe_out, 99)))
    t("sendfile of nothing", os.sendfile, rw, ro, 0, 0)
    t("sendfile at the end", os.sendfile, rw, ro, 50000, 10)
    t("sendfile, negative", os.sendfile, rw, ro, -1, 10)
    t("sendfile to one for appending", lambda: os.sendfile(os.open("target", WO | APPEND), ro, 0, 10))
    t("sendfile to one for reading", os.sendfile, ro, source, 0, 10)
    t("sendfile from one for writing", lambda: os.sendfile(rw, os.open("source", WO), 0, 10))
    t("sendfile onto itself", lambda: os.lseek(small, 0, 0) or os.sendfile(small, small, 0, 4))
    t.times("sendfile, times", ["target"], os.sendfile, rw, ro, 0, 10)
    # splice
    t("splice into a pipe", lambda: (os.splice(ro, pipe_in, 24, offset_src=16), os.read(pipe_out, 99)))
    t("splice out of a pipe", lambda: os.write(pipe_in, b"spliced") and (os.splice(pipe_out, rw, 7, offset_dst=0), os.pread(rw, 9, 0)))
    t("splice behind the end", lambda: os.write(pipe_in, b"far") and (os.splice(pipe_out, rw, 3, offset_dst=70000), size("target")))
    t("splice at the end", os.splice, ro, pipe_in, 10, offset_src=50000)
    t("splice of two files", os.splice, ro, rw, 10)
    t("splice into one for appending", lambda: os.write(pipe_in, b"x") and os.splice(pipe_out, os.open("target", WO | APPEND), 1))
    t("splice of a pipe, with an offset", lambda: os.splice(pipe_out, rw, 1, offset_src=5))
    t("splice, negative", os.splice, ro, pipe_in, 10, offset_src=-1)
    t("splice to one for reading", lambda: os.splice(pipe_out, ro, 1))
    t("splice of nothing", os.splice, ro, pipe_in, 0)
    t("tee of a file", libc, "tee", ro, pipe_in, 10, 0)
    t.times("splice, times", ["target"], lambda: os.splice(pipe_out, rw, 1, offset_dst=0))
