# SPDX-License-Identifier: GPL-2.0
"""Names: links, directories, special files, and what is no path."""

import contextlib
import os
import stat

from calls import *
from transcript import *


@scenario
def linking(t):
    make_all()
    for kind in KINDS:
        t(f"of {kind}", os.link, kind, f"{kind}-2", follow_symlinks=False)
        t(f"of {kind}, what it is", lambda: (describe(f"{kind}-2"), same(kind, f"{kind}-2")))
    for kind in KINDS:
        t(f"over {kind}", os.link, "file", kind)
    t("of a symlink, following", linkat, AT_FDCWD, "link", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW)
    t("of a symlink, following, the file", same, "followed", "file")
    t("of a dangling symlink, following", linkat, AT_FDCWD, "dangling", AT_FDCWD, "followed2", AT_SYMLINK_FOLLOW)
    t("of a descriptor", lambda: linkat(os.open("file", RO), "", AT_FDCWD, "by-fd", AT_EMPTY_PATH) or same("by-fd", "file"))
    t("of an O_PATH descriptor of a symlink", lambda: linkat(
        os.open("link", PATH | NOFOLLOW), "", AT_FDCWD, "by-path-fd", AT_EMPTY_PATH) or same("by-path-fd", "link"))
    t("of a descriptor, by /proc", lambda: linkat(
        AT_FDCWD, f"/proc/self/fd/{os.open('file', RO)}", AT_FDCWD, "by-proc", AT_SYMLINK_FOLLOW) or same("by-proc", "file"))
    t("of a descriptor of a directory", lambda: linkat(os.open("dir", RO), "", AT_FDCWD, "by-dir", AT_EMPTY_PATH))
    t("unknown flags", linkat, AT_FDCWD, "file", AT_FDCWD, "x", 0x800)
    t("to a name with a slash", os.link, "file", "new/")
    t("of a file with a slash", os.link, "file/", "new")
    t("to another file system", os.link, "file", "/dev/shm/posix-test")
    t("from another file system", os.link, "/proc/self/stat", "new")
    t("onto itself", os.link, "file", "file")
    t("into a directory", os.link, "file", "dir/inner")
    t("links", links, "file")
    t.times("times", ["file", ".", "dir"], os.link, "file", "dir/timed")
    t.times("times, failed", ["file", "dir"], os.link, "file", "dir/timed")
    t("one file, bytes", lambda: put("dir/inner", b"changed") or get("file"))
    t("one file, mode", lambda: os.chmod("dir/inner", 0o604) or mode("file"))
    os.mkdir("closed", 0o755)
    os.mkdir("open")
    os.chmod("open", 0o777)
    make_users("mine", "theirs")

    def user():
        t("user, her file into her directory", os.link, "mine", "open/mine")
        t("user, into a closed directory", os.link, "mine", "closed/mine")
        t("user, into what is not hers", os.link, "mine", "open/mine")
        # (With fs.protected_hardlinks, which is off in the guests, this would be EPERM.)
        t("user, another's file", os.link, "theirs", "open/theirs")

    t.user(OWNER, OWNER, [], user)


@scenario
def mkdir(t):
    make_all()
    t("new", os.mkdir, "new")
    t("new, what it is", describe, "new")
    t("new, what is in it", os.listdir, "new")
    for kind in KINDS:
        t(f"over {kind}", os.mkdir, kind)
        t(f"over {kind}, with a slash", os.mkdir, kind + "/")
    t("with a slash", os.mkdir, "slash/")
    t("with slashes", os.mkdir, "slash//a///")
    for path in (".", "..", "new/.", "new/..", "/", "", "missing/new", "file/new", "loop/new", "dangling/new"):
        t(f"'{path}'", os.mkdir, path)
    t("by a symlink", os.mkdir, "dirlink/by-link")
    t("by a symlink, is there", lambda: exists("dir/by-link"))
    before = links(".")
    t("links of its parent", lambda: os.mkdir("counted") or links(".") - before)
    t.times("times", [".", "new"], os.mkdir, "new/sub")
    t.times("times, failed", ["new"], os.mkdir, "new/sub")

    def user():
        t("user, in another's", os.mkdir, "mine")

    t.user(OWNER, OWNER, [], user)
    os.chmod(".", 0o777)
    t.user(OWNER, OWNER, [], lambda: t("user, where everybody may", lambda: os.mkdir("mine") or describe("mine")))


@scenario
def rmdir(t):
    make_all()
    for kind in KINDS:
        if kind != "dir":
            t(kind, os.rmdir, kind)
            t(f"{kind}, with a slash", os.rmdir, kind + "/")
    os.mkdir("dir/sub")
    for path in (".", "..", "dir/.", "dir/sub/..", "missing", "", "/", "file/x", "missing/x", "loop/x"):
        t(f"'{path}'", os.rmdir, path)
    before = links(".")
    os.rmdir("dir/sub")
    t.times("times", [".", "dir"], os.rmdir, "dir")
    t("links of its parent", lambda: links(".") - before)
    t("again", os.rmdir, "dir")
    t("dirlink, dangling by now, with a slash", os.rmdir, "dirlink/")
    t("with a slash", lambda: os.mkdir("slash") or os.rmdir("slash///"))
    t("of a mount", os.rmdir, "/proc")
    t("unlink of a directory", os.unlink, "full")
    os.mkdir("closed")
    os.mkdir("closed/in")
    os.chmod("closed/in", 0o777)
    t.user(OWNER, OWNER, [], lambda: t("user, in another's", os.rmdir, "closed/in"))
    os.mkdir("unreadable", 0)
    os.chmod(".", 0o777)
    os.chown("unreadable", OTHER, OTHER)
    t.user(OWNER, OWNER, [], lambda: t("user, one that may not be read", os.rmdir, "unreadable"))


@scenario
def nodes(t):
    def made(kind, device=0):
        with contextlib.suppress(FileNotFoundError):
            os.unlink("new")
        os.mknod("new", kind | 0o644, device)
        return describe("new")

    for name, kind in (("a file", stat.S_IFREG), ("no type", 0), ("a FIFO", stat.S_IFIFO), ("a socket", stat.S_IFSOCK),
                       ("a directory", stat.S_IFDIR), ("a symlink", stat.S_IFLNK), ("an unknown type", 0o30000)):
        t(name, made, kind)
    t("a character device", made, stat.S_IFCHR, os.makedev(1, 3))
    t("a block device", made, stat.S_IFBLK, os.makedev(7, 7))
    with contextlib.suppress(FileNotFoundError):
        os.unlink("new")
    make_all()
    for kind in KINDS:
        t(f"over {kind}", os.mkfifo, kind)
    t("with a slash", os.mkfifo, "new/")
    t("file with a slash", os.mknod, "new/", stat.S_IFREG)
    t.times("times", [".", "timed"], os.mkfifo, "timed")

    def user():
        t("user, a device", os.mknod, "dev", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        t("user, a FIFO in another's directory", os.mkfifo, "fifo2")

    t.user(OWNER, OWNER, [], user)
    os.chmod(".", 0o777)
    t.user(OWNER, OWNER, [], lambda: t("user, a device where everybody may", os.mknod, "dev", stat.S_IFCHR | 0o600, os.makedev(1, 3)))
    t.user(OWNER, OWNER, [], lambda: t("user, a FIFO", lambda: os.mkfifo("mine") or describe("mine")))


@scenario
def symlinks(t):
    make_all()
    for target in ("file", "no/such/thing", "/", "..", "with space\n", "x" * 4095, "//a//b//", "."):
        t(f"to {len(target)} bytes {target[:8]!r}", lambda: os.symlink(target, "new") or (os.readlink("new") == target, os.lstat("new").st_size))
        with contextlib.suppress(FileNotFoundError):
            os.unlink("new")
    t("to nothing", os.symlink, "", "new")
    t("too long a target", os.symlink, "x" * 4096, "new")
    for kind in KINDS:
        t(f"over {kind}", os.symlink, "x", kind)
    t("with a slash", os.symlink, "x", "new/")
    t("what it is", lambda: os.symlink("x", "new") or describe("new"))
    t.times("times", [".", "timed"], os.symlink, "x", "timed")
    for kind in ("file", "dir", "fifo", "missing", "link/", "dirlink/", "file/x", "missing/x", "loop/x", ""):
        t(f"readlink '{kind}'", os.readlink, kind)
    for room in (0, 1, 3, 4, 100):
        t(f"readlink with room for {room}", readlinkat, AT_FDCWD, "link", room)
    t("readlink of a descriptor", lambda: readlinkat(os.open("link", PATH | NOFOLLOW), "", 100))
    t("readlink of a descriptor of a file", lambda: readlinkat(os.open("file", PATH), "", 100))
    t("readlink of a circle", os.readlink, "loop")
    t("a link to a link to a file", lambda: os.symlink("link", "link2") or get("link2"))
    t("a link to a link to a directory", lambda: os.symlink("dirlink", "dirlink2") or os.listdir("dirlink2"))
    t("a directory of links", lambda: os.symlink("../full/inner", "dir/up") or describe("dir/up/."))
    t("written through", lambda: put("link2", b"new bytes") or get("file"))
    t("a long target that is there", lambda: os.symlink("./" * 2000 + "file", "long") or get("long"))
    put("chain0")
    for i in range(1, 43):
        os.symlink(f"chain{i - 1}", f"chain{i}")
    for i in (1, 8, 39, 40, 41, 42):
        t(f"a chain of {i}", get, f"chain{i}")
    t("stat of a chain that is too long", os.stat, "chain42")
    t("lstat of it", lambda: describe("chain42"))
    for name, call in FINDING.items():
        t(f"in a circle, {name}", call, "loop/x")
        if name not in ("lstat", "lchown", "readlink", "rename from", "link from", "unlink"):
            t(f"a circle, {name}", call, "loop")
    for name, call in MAKING.items():
        t(f"in a circle, {name}", call, "loop/x")
    t("unlink of a link to a directory", lambda: os.unlink("dirlink") or exists("dir"))
    os.mkdir("closed", 0o755)
    os.symlink("../file", "closed/link")
    os.chmod("closed", 0o700)

    def user():
        t("user, in another's directory", os.symlink, "x", "mine")
        t("user, readlink where nothing may be searched", os.readlink, "closed/link")
        t("user, of another's", os.readlink, "link")

    t.user(OWNER, OWNER, [], user)


@scenario
def dots(t):
    """Paths with dots behind what is no directory, and links in the middle."""
    make_all()
    os.mkdir("dir/sub")
    put("dir/sub/deep", b"deep")
    os.symlink("dir/sub", "sublink")
    os.symlink("..", "dir/up")
    put("dir/beside", b"beside the sub")
    for path in ("file/.", "missing/.", "fifo/.", "dangling/.", "dirlink/.", "sublink/.", "link/.", "loop/."):
        t(f"stat '{path}'", lambda: stat.filemode(os.stat(path).st_mode)[0])
        t.opens(f"open '{path}'", path, RO)
        t.opens(f"open '{path}', O_PATH", path, PATH)
        t(f"chdir '{path}'", in_child, os.chdir, path)
        t(f"list '{path}'", lambda: sorted(os.listdir(path)))
    for path in ("file/..", "missing/..", "missing/../file", "file/../file", "dirlink/../file", "dir/../file"):
        t(f"stat '{path}'", lambda: stat.filemode(os.stat(path).st_mode)[0])
    t("behind a link, upwards", get, "sublink/../beside")
    t("behind a link, upwards, directory", lambda: sorted(os.listdir("sublink/..")))
    t("behind a link", get, "sublink/deep")
    t("in a directory behind a link", os.mkdir, "sublink/made")
    t("… removed", os.rmdir, "dir/sub/made")
    t("a link to what is above", lambda: get("dir/up/file"))
    t("a link to what is above, again", lambda: os.stat("dir/up/dir").st_ino == os.stat("dir").st_ino)
    t("a link to what is above, and again", lambda: get("dir/up/dir/up/dir/beside"))
    t("working in a directory behind a link", in_child, lambda: os.chdir("sublink") or (get("deep"), get("../beside"), os.path.basename(os.getcwd())))
    for path in ("missing/.", "file/.", "missing/.."):
        t(f"mkdir '{path}'", os.mkdir, path)


@scenario
def unlinking(t):
    make_all()
    for path in ("missing", "dir", "full", "dir/", "file/", "link/", "dirlink/", ".", "..", "", "/", "missing/x", "file/x", "loop/x"):
        t(f"'{path}'", os.unlink, path)
    os.link("file", "second")
    t.times("times, one of two names", [".", "second"], os.unlink, "file")
    t("links", links, "second")
    t.times("times, the last name", [".", "second"], os.unlink, "second")
    for kind in ("fifo", "sock", "link", "dirlink", "dangling", "loop"):
        t(kind, os.unlink, kind)
    t("what is left", lambda: sorted(os.listdir(".")))
    os.mkdir("closed", 0o755)
    put("closed/file")
    os.chmod("closed/file", 0o666)
    t.user(OWNER, OWNER, [], lambda: t("user, in another's directory", os.unlink, "closed/file"))
    os.chown("closed", OWNER, OWNER)
    t.user(OWNER, OWNER, [], lambda: t("user, another's file in her own directory", os.unlink, "closed/file"))


@scenario
def long_names(t):
    t("255 bytes", put, LONG)
    t("255 bytes, there", lambda: get(LONG))
    t("255 bytes, listed", lambda: os.listdir(".") == [LONG])
    put("source")
    for name, call in FINDING.items():
        t(f"256 bytes, {name}", call, LONG + "n")
        t(f"in 256 bytes, {name}", call, LONG + "n/x")
    for name, call in MAKING.items():
        t(f"256 bytes, {name}", call, LONG + "n")
        t(f"in 256 bytes, {name}", call, LONG + "n/x")
    for count in (4095, 4096, 5000):
        path = ("./" * 2500)[:(count - 6) // 2 * 2] + "/" * (count % 2) + "source"
        t(f"a path of {len(path)}", lambda: os.stat(path).st_size)
    t("a path of many slashes", lambda: os.stat("." + "/" * 4000 + "source").st_size)
    t("a name of 255 bytes in a path of 4095", lambda: put("./" * 1920 + LONG) or size(LONG))
    t("names of any bytes", lambda: [put(os.fsdecode(name)) for name in (b"\xff\xfe", b"a b", b"\n", b"*", b"\\", b"-x", b"...", b" ")]
      and sorted(os.listdir(b"."))[:8])
    t("unlinked", lambda: [os.unlink(name) for name in os.listdir(b".")] and os.listdir("."))


@scenario
def deep(t):
    """Directories so deep that their paths are longer than a path can be."""
    name = "d" * 250
    made = 0

    def down():
        nonlocal made
        for _ in range(20):
            os.mkdir(name)
            os.chdir(name)
            made += 1

    t("20 directories of 250 bytes", down)
    t("how many", lambda: made)
    t("a file there", lambda: put("file", b"deep down") or get("file"))
    t("upwards", lambda: [os.chdir("..") for _ in range(made)] and os.path.basename(os.getcwd()))


@scenario
def no_directory(t):
    put("file")
    put("source")
    make("fifo", "fifo")
    for name, call in FINDING.items():
        t(f"file/x, {name}", call, "file/x")
        t(f"file/, {name}", call, "file/")
        t(f"fifo/x, {name}", call, "fifo/x")
        t(f"missing, {name}", call, "missing")
        t(f"missing/x, {name}", call, "missing/x")
        t(f"nothing, {name}", call, "")
    for name, call in MAKING.items():
        t(f"file/x, {name}", call, "file/x")
        t(f"missing/x, {name}", call, "missing/x")
        t(f"nothing, {name}", call, "")
    t("the file is as it was", get, "file")
    t("open meanwhile, not deleted", still_there)


def still_there():
    fd = os.open("file", RO)
    answer(os.stat, "file/x")
    return os.readlink(f"/proc/self/fd/{fd}")
