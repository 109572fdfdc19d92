# SPDX-License-Identifier: GPL-2.0
"""open(2), openat2(2), and making files."""

import os
import stat

from calls import *
from transcript import *


@scenario
def opening(t):
    make_all()
    flags = {
        "RDONLY": RO, "RDWR": RW, "access 3": 3, "RDONLY|TRUNC": RO | TRUNC, "WRONLY|TRUNC": WO | TRUNC,
        "RDONLY|CREAT": RO | CREAT, "RDWR|CREAT|TRUNC": RW | CREAT | TRUNC, "RDWR|CREAT|EXCL": RW | CREAT | EXCL,
        "RDONLY|NOFOLLOW": RO | NOFOLLOW, "WRONLY|CREAT|NOFOLLOW": WO | CREAT | NOFOLLOW, "RDONLY|DIRECTORY": RO | DIRECTORY,
        "RDONLY|DIRECTORY|NOFOLLOW": RO | DIRECTORY | NOFOLLOW, "RDONLY|DIRECTORY|CREAT": RO | DIRECTORY | CREAT, "PATH": PATH,
        "PATH|NOFOLLOW": PATH | NOFOLLOW}
    for path in ("missing", "file", "dir", "fifo", "sock", "link", "dirlink", "dangling", "loop", "missing/", "file/", "dir/", "link/", "dirlink/",
                 "dangling/", "file/x", "dir/x", "dirlink/x", "loop/x", "dir/."):
        for name, bits in flags.items():
            def attempt():
                os.close(os.open(path, bits | NONBLOCK))
                text = "opened"
                if bits & CREAT and not bits & PATH:
                    made = [made for made in ("missing", "nowhere", "dir/x") if exists(made)]
                    for one in made:
                        os.unlink(one)
                    text += "".join(f", made {one}" for one in made)
                if bits & TRUNC and os.stat("file").st_size == 0:
                    put("file")
                    text += ", emptied"
                return text

            t(f"'{path}' {name}", attempt)


@scenario
def opening_rights(t):
    accesses = (RO, WO, RW, RO | TRUNC, PATH)

    def opened(name):
        return answers(*(lambda access=access: os.close(os.open(name, access | NONBLOCK)) for access in accesses))

    all_bits = (0, 0o400, 0o200, 0o600, 0o040, 0o060, 0o004, 0o066, 0o604, 0o555)
    for kind in ("file", "fifo", "dir"):
        for bits in all_bits:
            make(kind, f"{kind}-{bits:03o}")
            os.chown(f"{kind}-{bits:03o}", OWNER, GROUP)
            os.chmod(f"{kind}-{bits:03o}", bits)

    def each(who):
        for kind in ("file", "fifo", "dir"):
            for bits in all_bits:
                t(f"{kind} {bits:03o}, {who}", opened, f"{kind}-{bits:03o}")

    t.user(OWNER, OWNER, [], lambda: each("owner"))
    t.user(OTHER, OTHER, [GROUP], lambda: each("group"))
    t.user(OTHER, OTHER, [], lambda: each("another"))
    for kind in ("file", "fifo", "dir"):
        t(f"{kind}, root", opened, f"{kind}-000")
    put("file", mode=0o600)
    make_users("mine", "theirs", bits=0o666)

    def user():
        t.opens("O_NOATIME, own", "mine", RO | NOATIME)
        t.opens("O_NOATIME, another's", "theirs", RO | NOATIME)
        t.opens("O_CREAT of what is there", "theirs", WO | CREAT)
        t.opens("O_CREAT in a directory that is not to be written to", "new", WO | CREAT)
        t.opens("O_CREAT, O_EXCL of what is there", "theirs", WO | CREAT | EXCL)
        t.opens("O_CREAT of what is there, without rights", "file", WO | CREAT)

    t.user(OWNER, OWNER, [], user)
    os.mkdir("open")
    os.chmod("open", 0o777)

    def creator():
        t("a new file that its creator may only read, for writing", lambda: os.write(os.open("open/ro", WO | CREAT, 0o444), b"x"))
        t.opens("… again", "open/ro", WO)
        t("a new file without any rights, for reading and writing", lambda: os.write(os.open("open/none", RW | CREAT, 0), b"x"))
        t.opens("… again, for reading", "open/none", RO)
        t("rights at open count, chmod afterwards", rights_stay)

    def rights_stay():
        fd = os.open("open/stay", RW | CREAT, 0o600)
        os.chmod("open/stay", 0)
        os.write(fd, b"still")
        return os.pread(fd, 9, 0)

    t.user(OWNER, OWNER, [], creator)


@scenario
def creating(t):
    for mask in (0, 0o022, 0o077, 0o777):
        os.umask(mask)
        for bits in (0, 0o644, 0o666, 0o777, 0o1777, 0o2777, 0o4777, 0o7777):
            def made(call, *args):
                call(*args)
                return describe("new")

            t(f"open, umask {mask:03o}, mode {bits:04o}", made, lambda: os.close(os.open("new", RW | CREAT | EXCL, bits)))
            os.unlink("new")
            if bits in (0o666, 0o7777):
                t(f"mkdir, umask {mask:03o}, mode {bits:04o}", made, os.mkdir, "new", bits)
                os.rmdir("new")
                t(f"mkfifo, umask {mask:03o}, mode {bits:04o}", made, os.mkfifo, "new", bits)
                os.unlink("new")
                t(f"mknod, umask {mask:03o}, mode {bits:04o}", made, os.mknod, "new", stat.S_IFREG | bits)
                os.unlink("new")
    os.umask(0o022)
    t.times("times of the directory", [".", "new"], put, "new")
    t.times("times, O_CREAT of what is there", [".", "new"], lambda: os.close(os.open("new", WO | CREAT)))
    t.times("times, O_TRUNC", ["new"], lambda: os.close(os.open("new", WO | TRUNC)))
    t.times("times, O_TRUNC of an empty file", ["new"], lambda: os.close(os.open("new", WO | TRUNC)))
    t("O_TRUNC cuts", lambda: put("new") or put("new", b"") or size("new"))
    t("contents of a new file", lambda: put("bytes", lines(5000)) or get("bytes"))
    t("a new file is open as it was asked for", lambda: os.read(os.open("wo", WO | CREAT), 1))
    t("O_EXCL, one of two", lambda: answers(*[lambda: os.close(os.open("excl", WO | CREAT | EXCL))] * 2))
    for kind in KINDS:
        make(kind, kind)
        t.opens(f"O_CREAT, O_EXCL of {kind}", kind, WO | CREAT | EXCL)
    # What a directory with a set-group-id bit hands on.
    os.mkdir("sg")
    os.chown("sg", OWNER, GROUP)
    os.chmod("sg", 0o2777)

    def inherit(who):
        put(f"sg/{who}-file")
        os.close(os.open(f"sg/{who}-sgid", WO | CREAT, 0o2777))
        os.close(os.open(f"sg/{who}-sgid-no-x", WO | CREAT, 0o2767))
        os.mkdir(f"sg/{who}-dir", 0o755)
        os.mkfifo(f"sg/{who}-fifo")
        os.mknod(f"sg/{who}-node", stat.S_IFREG | 0o2755)
        os.symlink("x", f"sg/{who}-link")
        for name in ("file", "sgid", "sgid-no-x", "dir", "fifo", "node", "link"):
            t(f"in a set-group-id directory, {who}, {name}", describe, f"sg/{who}-{name}")

    inherit("root")
    t.user(OTHER, OTHER, [], lambda: inherit("another"))
    t.user(OTHER, OTHER, [GROUP], lambda: inherit("member"))
    os.chmod("sg", 0o777)
    t.user(OTHER, OTHER, [GROUP], lambda: inherit("plain"))


@scenario
def tmpfile(t):
    os.mkdir("dir")
    put("file")
    fd = t("in a directory", lambda: os.open("dir", RW | os.O_TMPFILE, 0o640) and None)
    t.opens("for reading only", "dir", RO | os.O_TMPFILE)
    t.opens("in a file", "file", RW | os.O_TMPFILE)
    t.opens("in what is not there", "missing", RW | os.O_TMPFILE)


@scenario
def opening_at(t):
    os.mkdir("dir")
    put("dir/inner", b"inner")
    put("file")
    fd, plain_file, path = os.open("dir", RO), os.open("file", RO), os.open("dir", PATH)
    t.opens("relative", "inner", RO, dir_fd=fd)
    t.opens("relative to an O_PATH directory", "inner", RO, dir_fd=path)
    t.opens("upwards", "../file", RO, dir_fd=fd)
    t.opens("absolute", os.getcwd() + "/file", RO, dir_fd=fd)
    t.opens("absolute, no descriptor", os.getcwd() + "/file", RO, dir_fd=99)
    t.opens("relative to a file", "inner", RO, dir_fd=plain_file)
    t.opens("no descriptor", "inner", RO, dir_fd=99)
    t.opens("an empty path", "", RO, dir_fd=fd)
    t.opens("new", "new", RW | CREAT | EXCL, dir_fd=fd)
    t("mkdirat", os.mkdir, "sub", dir_fd=fd)
    t("mkfifoat", os.mkfifo, "fifo", dir_fd=fd)
    t("mknodat", os.mknod, "node", stat.S_IFREG | 0o600, dir_fd=fd)
    t("symlinkat", os.symlink, "inner", "sym", dir_fd=fd)
    t("readlinkat", os.readlink, "sym", dir_fd=fd)
    t("linkat", os.link, "inner", "hard", src_dir_fd=fd, dst_dir_fd=fd)
    t("renameat", os.rename, "hard", "moved", src_dir_fd=fd, dst_dir_fd=fd)
    t("fstatat", lambda: os.stat("moved", dir_fd=fd).st_nlink)
    t("fchmodat", lambda: os.chmod("moved", 0o600, dir_fd=fd) or mode("dir/inner"))
    t("fchownat", lambda: os.chown("moved", 5, 6, dir_fd=fd) or owner("dir/inner"))
    t("utimensat", lambda: os.utime("moved", (7, 8), dir_fd=fd) or os.stat("dir/inner").st_mtime)
    t("faccessat", faccessat, "moved", os.R_OK, directory=fd)
    t("unlinkat", os.unlink, "moved", dir_fd=fd)
    t("unlinkat of a directory", os.unlink, "sub", dir_fd=fd)
    t("unlinkat with AT_REMOVEDIR", os.rmdir, "sub", dir_fd=fd)
    t("unlinkat with AT_REMOVEDIR of a file", os.rmdir, "inner", dir_fd=fd)
    t("unlinkat with unknown flags", libc, "unlinkat", fd, b"inner", 0x1000)
    for name, call in {
            "mkdirat": lambda where: os.mkdir("y", dir_fd=where), "symlinkat": lambda where: os.symlink("x", "y", dir_fd=where),
            "unlinkat": lambda where: os.unlink("inner", dir_fd=where), "fstatat": lambda where: os.stat("inner", dir_fd=where),
            "renameat": lambda where: os.rename("inner", "y", src_dir_fd=where),
            "readlinkat": lambda where: os.readlink("inner", dir_fd=where)}.items():
        t(f"{name} with a file", call, plain_file)
        t(f"{name} with no descriptor", call, 99)
    os.rename("dir", "elsewhere")
    t.opens("after the directory was renamed", "inner", RO, dir_fd=fd)
    t("what is there then", lambda: sorted(os.listdir(fd)))
    os.rename("elsewhere/inner", "inner")
    t.opens("after the file was moved away", "inner", RO, dir_fd=fd)


@scenario
def openat2_(t):
    make_all()
    os.mkdir("box")
    put("box/file")
    os.symlink("file", "box/link")
    os.symlink("sub/deep", "box/sublink")
    os.makedirs("box/sub")
    put("box/sub/deep")
    os.symlink("../file", "box/sub/uplink")
    os.symlink("../../file", "box/sub/outlink")
    os.symlink("/file", "box/abslink")
    box = os.open("box", RO)
    for name, resolve in (("BENEATH", BENEATH), ("IN_ROOT", IN_ROOT), ("NO_XDEV", NO_XDEV), ("NO_SYMLINKS", NO_SYMLINKS),
                          ("NO_MAGICLINKS", NO_MAGICLINKS)):
        for path in ("file", "link", "sublink", "sub/uplink", "sub/deep", "sub/../file", "../file", "missing", "sub", "."):
            t(f"{name} {path}", lambda: os.close(openat2(path, RO, resolve, directory=box)))
    t("BENEATH, absolute", lambda: os.close(openat2(os.getcwd() + "/file", RO, BENEATH, directory=box)))
    t("BENEATH, out by a link", lambda: os.close(openat2("sub/outlink", RO, BENEATH, directory=box)))
    t("BENEATH, an absolute link", lambda: os.close(openat2("abslink", RO, BENEATH, directory=box)))
    t("IN_ROOT, absolute", lambda: os.close(openat2("/file", RO, IN_ROOT, directory=box)))
    t("IN_ROOT, an absolute link", lambda: os.close(openat2("abslink", RO, IN_ROOT, directory=box)))
    t("IN_ROOT, out by a link", lambda: os.close(openat2("sub/outlink", RO, IN_ROOT, directory=box)))
    t("NO_SYMLINKS, by a link to a directory", lambda: os.close(openat2("dirlink/.", RO, NO_SYMLINKS)))
    t("NO_MAGICLINKS, one", lambda: os.close(openat2(f"/proc/self/fd/{box}", RO, NO_MAGICLINKS)))
    t("creating, BENEATH", lambda: os.close(openat2("sub/new", RW | CREAT, BENEATH, 0o640, box)) or mode("box/sub/new"))
    t("CACHED", lambda: get("box/file") and os.close(openat2("file", RO, CACHED, directory=box)))
    t("CACHED and creating", openat2, "new", RW | CREAT, CACHED, 0o600, box)
    t("unknown resolve", openat2, "file", RO, 1 << 40)
    t("unknown flag", openat2, "file", 1 << 35)
    t("a mode without creating", openat2, "file", RO, 0, 0o644)
    t("a mode that is none", openat2, "new", RW | CREAT, 0, 0o100644)
    t("too small", openat2, "file", RO, size=16)
    t("larger, not zero", openat2, "file", RO, size=40)
