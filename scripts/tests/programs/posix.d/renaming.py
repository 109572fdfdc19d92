# SPDX-License-Identifier: GPL-2.0
"""rename(2), and who may change and search a directory."""

import contextlib
import os
import stat

from calls import *
from transcript import *


RENAMED = ("file", "dir", "full", "link", "dirlink", "fifo", "missing")
REPLACED = ("missing", "file", "dir", "full", "link", "dirlink", "dangling", "fifo")


@scenario
def renaming(t):
    for source in RENAMED:
        for target in REPLACED:
            place = f"{source}-{target}"
            os.mkdir(place)
            os.chdir(place)
            if source != "missing":
                make(source, "s")
            if target != "missing":
                make(target, "t")

            def renamed():
                os.rename("s", "t")
                return stat.filemode(os.lstat("t").st_mode)[0], exists("s")

            t(f"{source} over {target}", renamed)
            os.chdir("..")


@scenario
def renaming_flags(t):
    def setting(source, target, call):
        for name, kind in (("s", source), ("t", target)):
            if kind != "missing":
                make(kind, name)
        text = answer(call)
        if text == "ok":
            text += f", {[(stat.filemode(os.lstat(name).st_mode)[0] if exists(name) else '-') for name in 'st']}"
        for name in "st":
            if exists(name):
                with contextlib.suppress(OSError):
                    os.rmdir(name + "/inner")
                (os.rmdir if stat.S_ISDIR(os.lstat(name).st_mode) else os.unlink)(name)
        return text

    for source in ("file", "dir", "full", "link", "missing"):
        for target in ("missing", "file", "dir", "full", "link"):
            t(f"EXCHANGE {source}, {target}", setting, source, target, lambda: renameat2("s", "t", RENAME_EXCHANGE))
    for target in REPLACED:
        t(f"NOREPLACE file, {target}", setting, "file", target, lambda: renameat2("s", "t", RENAME_NOREPLACE))
    for flags in (RENAME_NOREPLACE | RENAME_EXCHANGE, RENAME_WHITEOUT | RENAME_EXCHANGE, 8, RENAME_WHITEOUT):
        t(f"flags {flags}", setting, "file", "file", lambda: renameat2("s", "t", flags))
    put("one", b"1")
    os.mkdir("dir")
    put("dir/two", b"22")
    t("EXCHANGE of two directories' files", lambda: renameat2("one", "dir/two", RENAME_EXCHANGE) or (get("one"), get("dir/two")))
    t.times("EXCHANGE, times", [os.open("one", RO), os.open("dir/two", RO), ".", "dir"], renameat2, "one", "dir/two", RENAME_EXCHANGE)
    t("EXCHANGE of a directory and what is in it", renameat2, "dir", "dir/two", RENAME_EXCHANGE)
    t("EXCHANGE with itself", renameat2, "one", "one", RENAME_EXCHANGE)
    t("NOREPLACE onto itself", renameat2, "one", "one", RENAME_NOREPLACE)


@scenario
def renaming_places(t):
    make_all()
    put("other", b"other")
    os.link("file", "hard")
    t("onto itself", lambda: os.rename("file", "file") or get("file"))
    t("over another name of the same file, nothing", lambda: os.rename("file", "hard") or (exists("file"), links("hard")))
    os.makedirs("tree/a/b")
    for source, target in (("tree", "tree/a/new"), ("tree", "tree/a/b"), ("tree/a/b", "tree/a"), ("tree/a/b", "tree"), ("tree", "tree"),
                           ("file", "new/"), ("dir", "new/"), ("file/", "new"), ("link/", "new"), ("dirlink/", "new"), ("file", "dirlink/"),
                           (".", "new"), ("..", "new"), ("file", "."), ("file", ".."), ("dir/.", "new"), ("tree/a/..", "new"), ("", "new"),
                           ("file", ""), ("/", "new"), ("file", "/"), ("file/x", "new"), ("missing/x", "new"), ("other", "file/x"),
                           ("other", "missing/x"), ("loop/x", "new"), ("other", "loop/x"), ("other", LONG + "n"), (LONG + "n", "new"),
                           ("file", "/dev/shm/posix-test"), ("/proc/self/stat", "new")):
        t(f"'{source[:20]}' to '{target[:20]}'", os.rename, source, target)
        if exists("new"):
            os.rename("new", source.strip("/"))
    t("into a directory", lambda: os.rename("other", "dir/other") or (exists("other"), get("dir/other")))
    t("by a symlink to a directory", lambda: os.rename("dir/other", "dirlink/moved") or os.listdir("dir"))
    t.times("times of a file", ["dir/moved", "dir", ".", "file"], os.rename, "dir/moved", "dir/renamed")
    t("the renamed one", lambda: get("dir/renamed"))
    t.times("times, into another directory", ["dir", "tree", "."], os.rename, "dir/renamed", "tree/renamed")
    t.times("times, failed", ["file", "."], os.rename, "file", "full")
    t("links of parents", lambda: (links("tree"), links("dir")))
    t("a directory into another", os.rename, "tree/a", "dir/a")
    t("links of parents then", lambda: (links("tree"), links("dir")))
    t("what is above it", lambda: os.stat("dir/a/..").st_ino == os.stat("dir").st_ino)
    fd = os.open("tree/renamed", RW)
    put("tree/new", b"new one")
    os.rename("tree/new", "tree/renamed")
    t("what was replaced, still open", lambda: (os.pread(fd, 9, 0), links(fd)))
    t("what has replaced it", get, "tree/renamed")
    fd = os.open("tree/renamed", RW)
    os.rename("tree/renamed", "dir/a/far")
    t("what was renamed while open", lambda: os.pwrite(fd, b"NEW", 0) and (get("dir/a/far"), same(fd, "dir/a/far")))
    t("… changed by its descriptor", lambda: os.fchmod(fd, 0o604) or mode("dir/a/far"))
    fd = os.open("dir", RO)
    os.rename("dir", "directory")
    t("a directory that was renamed while open", lambda: sorted(os.listdir(fd)))
    t("a working directory that was renamed", in_child, lambda: os.chdir("directory/a") or os.rename("../../directory", "../../dir2")
      or (os.listdir("."), os.getcwd().split("/")[-2:]))


@scenario
def renaming_rights(t):
    for name, bits in (("closed", 0o755), ("open", 0o777), ("sticky", 0o1777)):
        os.mkdir(name)
        os.chmod(name, bits)
        make_users(f"{name}/mine", f"{name}/theirs")
        for file, user in (("mine", OWNER), ("theirs", OTHER), ("mine2", OWNER), ("theirs2", OTHER)):
            put(f"{name}/{file}")
            os.chown(f"{name}/{file}", user, user)
        for directory, user in (("mydir", OWNER), ("theirdir", OTHER)):
            os.mkdir(f"{name}/{directory}")
            os.chown(f"{name}/{directory}", user, user)

    def user():
        for name in ("closed", "open", "sticky"):
            t(f"{name}, one's own", lambda: os.rename(f"{name}/mine", f"{name}/new") or os.rename(f"{name}/new", f"{name}/mine"))
            t(f"{name}, another's", os.rename, f"{name}/theirs", f"{name}/new2")
            t(f"{name}, over one's own", os.rename, f"{name}/mine", f"{name}/mine2")
            t(f"{name}, over another's", os.rename, f"{name}/mine2", f"{name}/theirs2")
            t(f"{name}, exchange", renameat2, f"{name}/mydir", f"{name}/theirdir", RENAME_EXCHANGE)
            t(f"{name}, one's directory away", os.rename, f"{name}/mydir", "open/moved-" + name)
            t(f"{name}, another's directory away", os.rename, f"{name}/theirdir", "open/moved2-" + name)

    t.user(OWNER, OWNER, [], user)


@scenario
def sticky(t):
    os.mkdir("dir")
    os.chown("dir", OWNER, OWNER)
    os.chmod("dir", 0o1777)

    def fill():
        for name, user in (("owner", OWNER), ("other", OTHER), ("third", THIRD), ("root", 0)):
            put(f"dir/{name}")
            os.chown(f"dir/{name}", user, user)
            os.chmod(f"dir/{name}", 0o666)
            if not exists(f"dir/{name}-dir"):
                os.mkdir(f"dir/{name}-dir")
                os.chown(f"dir/{name}-dir", user, user)

    for name, uid in (("owner of the directory", OWNER), ("another", OTHER)):
        fill()

        def removing():
            for target in ("owner", "other", "third", "root"):
                t(f"{name} removes {target}'s", os.unlink, f"dir/{target}")
                t(f"{name} removes {target}'s directory", os.rmdir, f"dir/{target}-dir")

        t.user(uid, uid, [], removing)
    fill()

    def changing():
        t("another's may be written to", put, "dir/third", b"")
        t("another's may get a second name", os.link, "dir/third", "dir/second")
        t("a new one", put, "dir/new")
        t("… removed", os.unlink, "dir/new")

    t.user(OTHER, OTHER, [], changing)
    t("root removes", os.unlink, "dir/third")


@scenario
def searching(t):
    """Directories without the right to search, to read or to write them."""
    calls = {
        "stat": lambda: os.stat("dir/file").st_nlink, "open": lambda: os.close(os.open("dir/file", RO)),
        "create": lambda: os.close(os.open("dir/new", WO | CREAT)), "mkdir": lambda: os.mkdir("dir/newdir"),
        "mkfifo": lambda: os.mkfifo("dir/newfifo"), "symlink": lambda: os.symlink("x", "dir/newlink"),
        "link in": lambda: os.link("file", "dir/newhard"), "link out": lambda: os.link("dir/file", "hard"),
        "rename in": lambda: os.rename("file2", "dir/file2"), "rename out": lambda: os.rename("dir/file", "file3"),
        "rename inside": lambda: os.rename("dir/file4", "dir/file5"), "unlink": lambda: os.unlink("dir/file6"),
        "rmdir": lambda: os.rmdir("dir/sub"), "chmod": lambda: os.chmod("dir/file", 0o644), "chown": lambda: os.chown("dir/file", -1, -1),
        "truncate": lambda: os.truncate("dir/file", 1), "utime": lambda: os.utime("dir/file"),
        "access": lambda: faccessat("dir/file", os.F_OK), "readlink": lambda: os.readlink("dir/link"),
        "chdir": lambda: os.chdir("dir/sub2") or os.chdir("../.."), "list": lambda: len(os.listdir("dir")), "list below": lambda: os.listdir("dir/sub2"),
        "missing": lambda: os.stat("dir/missing"), "getxattr": lambda: os.getxattr("dir/file", "user.x"),
        "setxattr": lambda: os.setxattr("dir/file", "user.x", b"x"), "execve": lambda: execute("dir/file"),
        "chdir into it": lambda: os.chdir("dir") or os.chdir(".."), "upwards": lambda: os.stat("dir/../file").st_nlink}
    for bits in (0o000, 0o100, 0o500, 0o600, 0o300):
        place = f"{bits:03o}"
        os.mkdir(place)
        os.chmod(place, 0o777)
        os.chdir(place)
        os.makedirs("dir/sub")
        os.makedirs("dir/sub2")
        for name in ("file", "file2", "dir/file", "dir/file4", "dir/file6"):
            put(name)
            os.chown(name, OWNER, OWNER)
        os.symlink("x", "dir/link")
        os.chown("dir", OWNER, OWNER)
        os.chmod("dir", bits)

        def user():
            for name, call in calls.items():
                t(f"{place}, {name}", call)

        t.user(OWNER, OWNER, [], user)
        os.chdir("..")
