# SPDX-License-Identifier: GPL-2.0
"""Mode, owner, times, access(2), stat(2)."""

import os
import time

from calls import *
from transcript import *


@scenario
def chmod(t):
    make_all()

    def changed(what, bits):
        os.chmod(what, bits)
        return mode(what)

    for bits in (0, 0o644, 0o777, 0o1777, 0o2755, 0o2644, 0o4755, 0o6711, 0o7777, 0o100600, 0o170644):
        t(f"file {bits:o}", changed, "file", bits)
    for kind in ("dir", "fifo", "sock"):
        t(kind, changed, kind, 0o5751)
        t(f"{kind}, type", describe, kind)
    t("by a symlink", os.chmod, "link", 0o601)
    t("by a symlink, the file", mode, "file")
    t("by a symlink, the link", mode, "link")
    t("by a symlink to a directory", os.chmod, "dirlink", 0o701)
    t("fchmod", lambda: changed(os.open("file", RO), 0o642))
    t("fchmod of a directory", lambda: changed(os.open("dir", RO), 0o742))
    t("fchmod of O_PATH", lambda: os.fchmod(os.open("file", PATH), 0o600))
    t("fchmodat of a symlink itself", fchmodat2, "link", 0o600, AT_SYMLINK_NOFOLLOW)
    t("fchmodat of a file, not following", fchmodat2, "file", 0o645, AT_SYMLINK_NOFOLLOW)
    t("fchmodat of a file, not following, done", mode, "file")
    t("fchmodat with an empty path", lambda: fchmodat2("", 0o646, AT_EMPTY_PATH, os.open("file", PATH)))
    t("fchmodat with unknown flags", fchmodat2, "file", 0o600, 0x4000)
    t.times("times", ["file", "."], os.chmod, "file", 0o640)
    t.times("times, same mode", ["file"], os.chmod, "file", 0o640)
    t.times("times of a directory", ["dir"], os.chmod, "dir", 0o755)
    make_users("mine", "theirs", "rootfile")
    os.chown("mine", OWNER, GROUP)

    def user():
        t("owner", changed, "mine", 0o600)
        t("owner, all bits", changed, "mine", 0o7777)
        t("owner, set-group-id of another group", changed, "mine", 0o2775)
        t.times("of another's file", ["theirs"], os.chmod, "theirs", 0o666)
        t("of root's file", os.chmod, "rootfile", 0o666)
        t("fchmod of another's file", lambda: os.fchmod(os.open("theirs", RO), 0o666))

    t.user(OWNER, OWNER, [], user)
    t.user(OWNER, OWNER, [GROUP], lambda: t("owner, set-group-id of a group of hers", changed, "mine", 0o2755))
    t("set-group-id by root, file of another group", changed, "mine", 0o2711)


@scenario
def chown(t):
    make_all()

    def changed(what, uid, gid):
        os.chown(what, uid, gid)
        return owner(what)

    t("user and group", changed, "file", OWNER, GROUP)
    t("user", changed, "file", OTHER, -1)
    t("group", changed, "file", -1, OWNER)
    t("neither", changed, "file", -1, -1)
    t("large ids", changed, "file", 0xfffffffe, 0xfffffffd)
    for kind in ("dir", "fifo", "sock"):
        t(kind, changed, kind, OWNER, GROUP)
    t("by a symlink", os.chown, "link", THIRD, THIRD)
    t("by a symlink, the file", owner, "file")
    t("by a symlink, the link", owner, "link")
    t("lchown of a symlink", os.lchown, "link", OTHER, GROUP)
    t("lchown of a symlink, the link", owner, "link")
    t("lchown of a symlink, the file", owner, "file")
    t("lchown of a file", lambda: os.lchown("file", OWNER, -1) or owner("file"))
    t("lchown of a dangling symlink", lambda: os.lchown("dangling", OWNER, -1) or owner("dangling"))
    t("of a dangling symlink", os.chown, "dangling", OWNER, -1)
    t("of a circle", os.chown, "loop", OWNER, -1)
    t("fchown", lambda: changed(os.open("file", RO), OTHER, OTHER))
    t("fchown of a directory", lambda: changed(os.open("dir", RO), OTHER, OTHER))
    t("fchown of O_PATH", lambda: os.fchown(os.open("file", PATH), 0, 0))
    t("fchownat with an empty path", lambda: fchownat("", OWNER, GROUP, AT_EMPTY_PATH, os.open("file", PATH)) or owner("file"))
    t("fchownat of a symlink, with an empty path", lambda: fchownat(
        "", THIRD, THIRD, AT_EMPTY_PATH, os.open("link", PATH | NOFOLLOW)) or owner("link"))
    t("fchownat with unknown flags", fchownat, "file", 0, 0, 0x4000)
    t.times("times", ["file", "."], os.chown, "file", OWNER, OWNER)
    t.times("times, same owner", ["file"], os.chown, "file", OWNER, OWNER)
    t.times("times, neither", ["file"], os.chown, "file", -1, -1)
    t.times("times, neither, of a directory", ["dir"], os.chown, "dir", -1, -1)
    t.times("times of a symlink", ["link", "file"], os.lchown, "link", OWNER, OWNER)
    make_users("mine", "theirs", "rootfile")

    def user():
        t("owner, to a group of hers", changed, "mine", -1, GROUP)
        t("owner, to her own group", changed, "mine", OWNER, OWNER)
        t("owner, to a foreign group", changed, "mine", -1, OTHER)
        t("owner, to another user", changed, "mine", OTHER, -1)
        t("owner, to herself", changed, "mine", OWNER, -1)
        t("owner, neither", changed, "mine", -1, -1)
        t("another's file, to oneself", changed, "theirs", OWNER, -1)
        t("another's file, to one's group", changed, "theirs", -1, OWNER)
        t("another's file, as it is", changed, "theirs", OTHER, OTHER)
        t.times("another's file, neither", ["theirs"], changed, "theirs", -1, -1)
        t("root's file", changed, "rootfile", OWNER, OWNER)

    t.user(OWNER, OWNER, [GROUP], user)


@scenario
def set_id_bits_by_chown(t):
    for bits in (0o4755, 0o6755, 0o6644, 0o2755, 0o2745, 0o6711, 0o7777):
        make_users("mine", bits=bits)
        os.mkdir("mydir")
        os.chown("mydir", OWNER, OWNER)
        os.chmod("mydir", bits)

        def reset():
            os.chown("mine", OWNER, OWNER)
            os.chmod("mine", bits)

        def changed(uid, gid):
            os.chown("mine", uid, gid)
            return mode("mine")

        t(f"{bits:o}, root, user", changed, OTHER, -1)
        reset()
        t(f"{bits:o}, root, group", changed, -1, GROUP)
        reset()
        t(f"{bits:o}, root, neither", changed, -1, -1)
        reset()
        t(f"{bits:o}, root, same", changed, OWNER, OWNER)
        reset()
        t.user(OWNER, OWNER, [GROUP], lambda: t(f"{bits:o}, owner, group", changed, -1, GROUP))
        reset()
        t.user(OWNER, OWNER, [GROUP], lambda: t(f"{bits:o}, owner, neither", changed, -1, -1))
        reset()
        t.user(OTHER, OTHER, [], lambda: t(f"{bits:o}, another, neither", changed, -1, -1))
        t(f"{bits:o}, root, a directory", lambda: os.chown("mydir", OTHER, GROUP) or mode("mydir"))
        os.unlink("mine")
        os.rmdir("mydir")


@scenario
def set_id_bits_by_writing(t):
    def write(name):
        fd = os.open(name, WO)
        os.write(fd, b"C")
        os.close(fd)

    def spliced(name):
        reader, writer = os.pipe()
        os.write(writer, b"splice")
        return os.splice(reader, os.open(name, WO), 6)

    ways = {
        "write": write,
        "write at the end": lambda name: os.pwrite(os.open(name, WO), b"more", 7),
        "append": lambda name: os.write(os.open(name, WO | APPEND), b"more"),
        "write of nothing": lambda name: os.write(os.open(name, WO), b""),
        "truncate": lambda name: os.truncate(name, 3),
        "ftruncate": lambda name: os.ftruncate(os.open(name, WO), 3),
        "truncate to the same size": lambda name: os.truncate(name, 7),
        "open with O_TRUNC": lambda name: os.close(os.open(name, WO | TRUNC)),
        "fallocate": lambda name: fallocate(os.open(name, WO), 0, 0, 100),
        "splice": spliced,
        "copy_file_range": lambda name: os.copy_file_range(os.open("source", RO), os.open(name, WO), 3),
        "chmod": lambda name: os.chmod(name, os.stat(name).st_mode & 0o7777),
        "utime": lambda name: os.utime(name),
    }
    put("source")
    def reset(name, bits):
        put(name, b"content")
        os.chown(name, OWNER, OWNER)
        os.chmod(name, bits)

    def all_bits(what):
        return (0o6777, 0o6666, 0o2767) if what in ("write", "open with O_TRUNC") else (0o6777,)

    def each(who, names):
        for what in names:
            for bits in all_bits(what):
                name = f"{what} {who} {bits:o}"
                t(f"{what}, {bits:o}, {who}", lambda: (ways[what](name), mode(name))[1])

    for what in ways:
        for bits in all_bits(what):
            reset(f"{what} owner {bits:o}", bits)
            reset(f"{what} another {bits:o}", bits)
    t.user(OTHER, OTHER, [], lambda: each("another", [what for what in ways if what not in ("chmod", "utime")]))
    t.user(OWNER, OWNER, [], lambda: each("owner", ways))
    reset("file", 0o6777)
    t("write, root", lambda: write("file") or mode("file"))
    os.chmod("file", 0o6777)
    t("truncate, root", lambda: os.truncate("file", 2) or mode("file"))


@scenario
def utimensat_(t):
    make_all()
    past, future = (1234567890, 123456789), (4102444800, 987654321)

    def times(name):
        found = os.lstat(name)
        return found.st_atime_ns, found.st_mtime_ns

    def set_to(name, *args, **kwargs):
        utimensat(name, *args, **kwargs)
        return times(name)

    t("both", set_to, "file", past, future)
    t("access only", set_to, "file", future, UTIME_OMIT)
    t("change only", set_to, "file", UTIME_OMIT, past)
    t("whole seconds", set_to, "file", (1000, 0), (2000, 0))
    t("before 1970", set_to, "file", (-5, 999999999), (-1000000000, 1))
    t("zero", set_to, "file", (0, 0), (0, 0))
    t("after 2038", set_to, "file", (2 ** 31, 1), (2 ** 32 + 5, 2))
    t("beyond what the file system has", set_to, "file", (2 ** 40, 1), (-2 ** 40, 2))
    for nanoseconds in (10 ** 9, -1, 2 ** 31):
        t(f"{nanoseconds} nanoseconds", utimensat, "file", (0, nanoseconds), (0, 0))
    t("one of both wrong", utimensat, "file", UTIME_OMIT, (0, 10 ** 9))
    for kind in ("dir", "fifo", "sock"):
        t(kind, set_to, kind, past, future)
    t("by a symlink", utimensat, "link", past, past)
    t("by a symlink, the file", times, "file")
    t("of a symlink", set_to, "link", future, past, AT_SYMLINK_NOFOLLOW)
    t("of a symlink, not the file", times, "file")
    t("of a dangling symlink", utimensat, "dangling", past, past)
    t("of a dangling symlink itself", set_to, "dangling", past, past, AT_SYMLINK_NOFOLLOW)
    t("futimens", lambda: utimensat(None, past, future, directory=os.open("file", RO)) or times("file"))
    t("futimens of a directory", lambda: utimensat(None, past, future, directory=os.open("dir", RO)) or times("dir"))
    t("futimens of O_PATH", lambda: utimensat(None, past, future, directory=os.open("file", PATH)))
    t("an empty path", lambda: utimensat("", future, past, AT_EMPTY_PATH, os.open("link", PATH | NOFOLLOW)) or times("link"))
    t("unknown flags", utimensat, "file", past, past, 0x4000)
    t.times("times, explicit", ["file", "."], utimensat, "file", past, past)
    t.times("times, both now", ["file"], utimensat, "file", UTIME_NOW, UTIME_NOW)
    t.times("times, access now", ["file"], utimensat, "file", UTIME_NOW, UTIME_OMIT)
    t.times("times, change now", ["file"], utimensat, "file", UTIME_OMIT, UTIME_NOW)
    t.times("times, neither", ["file"], utimensat, "file", UTIME_OMIT, UTIME_OMIT)
    t.times("times, of a symlink", ["link", "file"], utimensat, "link", UTIME_NOW, UTIME_NOW, AT_SYMLINK_NOFOLLOW)
    t("now is now", lambda: abs(os.stat("file").st_mtime - time.time()) < 60)
    t("neither, of what is not there", utimensat, "missing", UTIME_OMIT, UTIME_OMIT)
    make_users("mine", "theirs-closed")
    make_users("theirs-open", bits=0o666)

    def user():
        for name in ("mine", "theirs-open", "theirs-closed"):
            t(f"{name}, both now", utimensat, name, UTIME_NOW, UTIME_NOW)
            t(f"{name}, explicit", utimensat, name, past, past)
            t(f"{name}, one now, one left", utimensat, name, UTIME_NOW, UTIME_OMIT)
            t(f"{name}, one now, one explicit", utimensat, name, UTIME_NOW, past)
            t(f"{name}, neither", utimensat, name, UTIME_OMIT, UTIME_OMIT)

    t.user(OWNER, OWNER, [], user)


@scenario
def access(t):
    def rights(name, flags=0):
        return answers(*(lambda right=right: faccessat(name, right, flags) for right in (os.R_OK, os.W_OK, os.X_OK)))

    all_bits = (0, 0o400, 0o300, 0o040, 0o050, 0o004, 0o002, 0o077, 0o707)
    for kind in ("file", "dir"):
        for bits in all_bits:
            make(kind, f"{kind}-{bits:03o}")
            os.chown(f"{kind}-{bits:03o}", OWNER, GROUP)
            os.chmod(f"{kind}-{bits:03o}", bits)

    def each(who):
        for kind in ("file", "dir"):
            for bits in all_bits:
                t(f"{kind} {bits:03o}, {who}", rights, f"{kind}-{bits:03o}")

    each("root")
    t.user(OWNER, OWNER, [], lambda: each("owner"))
    t.user(OTHER, OTHER, [GROUP], lambda: each("group"))
    t.user(OTHER, OTHER, [], lambda: each("another"))
    make("file", "file")
    make("dir", "dir")
    os.chmod("file", 0o640)
    os.chmod("dir", 0o750)
    for name, target in (("link", "file"), ("dirlink", "dir"), ("dangling", "nowhere"), ("loop", "loop")):
        os.symlink(target, name)
    make("fifo", "fifo")
    os.chmod("fifo", 0o600)

    def user():
        t("by a symlink", rights, "link")
        t("of a symlink", rights, "link", AT_SYMLINK_NOFOLLOW)
        t("of a FIFO", rights, "fifo")
        t("with the effective ids", rights, "file", AT_EACCESS)
        t("of an O_PATH descriptor", lambda: faccessat("", os.W_OK, AT_EMPTY_PATH, os.open("file", PATH)))
        t("in a directory that may not be searched", faccessat, "dir/x", os.F_OK)

    t.user(OTHER, OTHER, [], user)
    t("all rights at once", faccessat, "dir", os.R_OK | os.W_OK | os.X_OK)
    t("an unknown right", faccessat, "file", 8)
    t("unknown flags", faccessat, "file", 0, 0x8000)
    t("a dangling symlink", faccessat, "dangling", os.F_OK)
    t("a dangling symlink itself", faccessat, "dangling", os.F_OK, AT_SYMLINK_NOFOLLOW)
    t("a circle", faccessat, "loop", os.F_OK)

    def real_ids():
        os.setresuid(OTHER, 0, 0)
        return rights("file"), rights("file", AT_EACCESS)

    t("the real user counts", in_child, real_ids)


@scenario
def stats(t):
    make_all()
    os.link("file", "second")
    for kind in KINDS:
        t(kind, describe, kind)
    t("sizes", lambda: [os.lstat(name).st_size for name in ("file", "link", "dirlink", "dangling", "fifo", "sock")])
    t("one file, two names", same, "file", "second")
    t("two files", same, "file", "fifo")
    t("by the symlink", lambda: os.stat("link").st_ino == os.stat("file").st_ino)
    t("one device", lambda: len({os.lstat(name).st_dev for name in (".", *KINDS, "full/inner")}))
    t("numbers are unique", lambda: len({os.lstat(name).st_ino for name in KINDS}))
    t("fstat", lambda: same(os.open("file", RO), "file"))
    t("fstat of O_PATH", lambda: same(os.open("link", PATH | NOFOLLOW), "link"))
    t("block size", lambda: os.stat("file").st_blksize)
    t("device of a file", lambda: os.stat("file").st_rdev)
    t("statx", statx, "file")
    t("statx of a symlink", lambda: statx("link", AT_SYMLINK_NOFOLLOW)[1:])
    t("statx with an empty path", lambda: statx("", AT_EMPTY_PATH, directory=os.open("full", PATH))[1:3])
    t("statx, forced to ask", lambda: statx("file", 0x2000)[1:])
    t("statx, not to ask", lambda: statx("file", 0x4000)[1:])
    t("statx, both", statx, "file", 0x6000)
    t("statx with unknown flags", statx, "file", 0x40000)
    t("statx with a mask of the future", statx, "file", 0, 0x80000000)
    t("statx, time of birth", lambda: bool(statx("file", 0, 0x800)[0] & 0x800))
    t("fstatat without a path", lambda: os.stat("", dir_fd=os.open("file", RO)))
    t("statfs", lambda: (lambda found: (found.f_bsize, found.f_frsize, found.f_namemax))(os.statvfs("file")))
    t("fstatfs", lambda: os.fstatvfs(os.open("dir", RO)).f_namemax)
    t("statfs of a symlink to nowhere", os.statvfs, "dangling")
    os.mkdir("dir/a")
    t("links of a directory with one", links, "dir")
    os.mkdir("dir/b")
    t("links of a directory with two", links, "dir")
    os.rmdir("dir/a")
    t("links of a directory with one again", links, "dir")
