# SPDX-License-Identifier: GPL-2.0
"""dnotify and inotify."""

import fcntl
import os
import signal
import time

from calls import *
from transcript import *


@scenario
def notices(t):
    os.mkdir("dir")
    seen = []
    signal.signal(signal.SIGIO, lambda *_: seen.append(1))
    fd = os.open("dir", RO)
    t("F_NOTIFY", fcntl.fcntl, fd, fcntl.F_NOTIFY, fcntl.DN_CREATE | fcntl.DN_DELETE)
    t("F_NOTIFY, a new name", lambda: put("dir/new") or time.sleep(0.01) or len(seen))
    t("F_NOTIFY of a file", lambda: fcntl.fcntl(os.open("dir/new", RO), fcntl.F_NOTIFY, fcntl.DN_CREATE))
    watched = Inotify()
    put("dir/file", lines(100))
    os.mkdir("dir/sub")
    t("inotify of a directory", watched.watch, "dir")
    t("inotify of what is not there", watched.watch, "missing")
    t("inotify of no directory", watched.watch, "dir/file", 0x01000000 | 0xfff)
    fd = os.open("dir/file", RW)
    watched.seen()
    for name, call in (
            ("open, read, close", lambda: get("dir/file")), ("write", lambda: os.write(fd, b"x")),
            ("write at the end", lambda: os.pwrite(fd, b"x", 200)), ("ftruncate", lambda: os.ftruncate(fd, 5)),
            ("truncate", lambda: os.truncate("dir/file", 6)), ("fallocate", lambda: fallocate(fd, 0, 0, 10)), ("read", lambda: os.pread(fd, 1, 0)),
            ("create", lambda: put("dir/created")), ("create again", lambda: put("dir/created", b"")),
            ("O_EXCL", lambda: os.close(os.open("dir/excl", WO | CREAT | EXCL))), ("mkdir", lambda: os.mkdir("dir/made")),
            ("mkfifo", lambda: os.mkfifo("dir/fifo")), ("symlink", lambda: os.symlink("file", "dir/link")),
            ("link", lambda: os.link("dir/file", "dir/hard")), ("chmod", lambda: os.chmod("dir/file", 0o600)),
            ("chown", lambda: os.chown("dir/file", 1, 1)), ("utime", lambda: os.utime("dir/file")),
            ("access time", lambda: utimensat("dir/file", (1, 1), UTIME_OMIT)), ("change time", lambda: utimensat("dir/file", UTIME_OMIT, (1, 1))),
            ("setxattr", lambda: os.setxattr("dir/file", "user.x", b"x")), ("rename", lambda: os.rename("dir/created", "dir/renamed")),
            ("rename over", lambda: os.rename("dir/renamed", "dir/excl")), ("rename away", lambda: os.rename("dir/excl", "away")),
            ("rename in", lambda: os.rename("away", "dir/back")), ("exchange", lambda: renameat2("dir/back", "dir/sub", RENAME_EXCHANGE)),
            ("unlink", lambda: os.unlink("dir/hard")), ("rmdir", lambda: os.rmdir("dir/made")), ("list", lambda: os.listdir("dir")),
            ("chmod of itself", lambda: os.chmod("dir", 0o700)), ("readlink", lambda: os.readlink("dir/link")),
            ("close", lambda: os.close(fd)), ("execve", lambda: answer(execute, "dir/file")),
            ("mmap and msync", lambda: libc("msync", mapped(os.open("dir/file", RW), PAGE), PAGE, MS_SYNC)),
            ("copy_file_range", lambda: os.copy_file_range(os.open("dir/file", RO), os.open("dir/new", RW), 3)),
            ("sendfile", lambda: os.sendfile(os.open("dir/new", RW), os.open("dir/file", RO), 0, 3))):
        t(f"inotify, {name}", lambda: (call(), watched.seen())[1])
    watched = Inotify()
    put("watched", b"content")
    os.link("watched", "other")
    watched.watch("watched")
    for name, call in (
            ("open and close", lambda: get("watched")), ("write", lambda: put("watched")), ("unlink of another name", lambda: os.unlink("other")),
            ("rename", lambda: os.rename("watched", "moved")), ("link", lambda: os.link("moved", "linked")),
            ("unlink", lambda: os.unlink("linked")), ("the last unlink", lambda: os.unlink("moved"))):
        t(f"inotify of a file, {name}", lambda: (call(), watched.seen())[1])
    put("open")
    watched.watch("open")
    fd = os.open("open", RO)
    watched.seen()
    t("inotify of an open file, unlink", lambda: os.unlink("open") or watched.seen())
    t("inotify of an open file, close", lambda: os.close(fd) or watched.seen())
    os.mkdir("removed")
    watched.watch("removed")
    t("inotify of a directory, rename", lambda: os.rename("removed", "removed2") or watched.seen())
    t("inotify of a directory, rmdir", lambda: os.rmdir("removed2") or watched.seen())
    put("one")
    put("two")
    watched.watch("two")
    t("inotify of a file that is replaced", lambda: os.rename("one", "two") or watched.seen())
