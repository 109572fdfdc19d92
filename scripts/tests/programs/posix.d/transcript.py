# SPDX-License-Identifier: GPL-2.0
"""Steps of a scenario and how their results are told; files and calls that many scenarios need."""

import errno
import mmap
import os
import signal
import stat
import struct
import sys
import time
import traceback

from calls import *

RO, WO, RW, CREAT, EXCL, TRUNC, APPEND = (
    os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND)
DIRECTORY, NOFOLLOW, NONBLOCK, PATH, DIRECT, NOATIME = (
    os.O_DIRECTORY, os.O_NOFOLLOW, os.O_NONBLOCK, os.O_PATH, os.O_DIRECT, os.O_NOATIME)
PAGE = 4096
READ, WRITE, EXEC = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC
SHARED, PRIVATE = mmap.MAP_SHARED, mmap.MAP_PRIVATE
# Users, and a group that the first two may be given.
OWNER, OTHER, THIRD, GROUP = 1000, 1001, 1002, 2000
# Longer than the clock of any file system ticks.
TICK_SECONDS = 0.012
# Some numbers have two names; manual pages say these.
errno.errorcode.update({errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EDEADLK: "EDEADLK"})

SCENARIOS = {}
ROOT = None


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


# Results.

def plain(text):
    """Without the path of the directory."""
    return text.replace(ROOT, "DIR").replace("\n", "\\n")


def shown(value):
    if value is None:
        return "ok"
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, bytes) and len(value) > 80:
        return f"{len(value)} bytes, sum {sum(value)}"
    return plain(repr(value))


def result(call, *args, **kwargs):
    """(what a step prints, the value)"""
    try:
        value = call(*args, **kwargs)
        return shown(value), value
    except OSError as error:
        return errno.errorcode.get(error.errno, f"error {error.errno}"), None
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} {plain(str(error))} ({place.name})", None


def answer(call, *args, **kwargs):
    return result(call, *args, **kwargs)[0]


def answers(*calls):
    return " ".join(answer(call) for call in calls)


def ended(status):
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"status {os.WEXITSTATUS(status)}"


def become(uid, gid, groups=()):
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def in_child(call, *args, uid=0, gid=0, groups=()):
    """What a call gives in a process of its own, perhaps another user's."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        if uid or gid:
            become(uid, gid, groups)
        os.write(writer, answer(call, *args).encode())
        os._exit(0)
    os.close(writer)
    parts = b"".join(iter(lambda: os.read(reader, 4096), b""))
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    return parts.decode() if status == 0 else ended(status)


class Transcript:
    """Prints the steps of a scenario."""

    def __init__(self, name):
        self.name = name

    def line(self, step, text):
        print(f"{self.name}.{step}: {text}", flush=True)

    def __call__(self, step, call, *args, **kwargs):
        text, value = result(call, *args, **kwargs)
        self.line(step, text)
        return value

    def opens(self, step, path, flags, mode=0o644, **where):
        """Whether it can be opened; then it is closed at once."""
        return self(step, lambda: os.close(os.open(path, flags, mode, **where)))

    def user(self, uid, gid, groups, steps):
        """Runs steps as a user."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            text, _ = result(lambda: (become(uid, gid, groups), steps()) and None)
            if text != "ok":
                self.line(f"user {uid}", text)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status != 0:
            self.line(f"user {uid}", ended(status))

    def times(self, step, watched, call, *args, **kwargs):
        """A step, and which times of files (paths, descriptors) have changed by it."""
        before = [stamps(what) for what in watched]
        time.sleep(TICK_SECONDS)
        text, value = result(call, *args, **kwargs)
        for what, old in zip(watched, before):
            text += f"; {'fd' if isinstance(what, int) else what} {relation(old, stamps(what))}"
        self.line(step, text)
        return value


def stamps(what):
    try:
        found = os.fstat(what) if isinstance(what, int) else os.lstat(what)
    except OSError as error:
        return errno.errorcode[error.errno]
    return found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns


def relation(old, new):
    if isinstance(old, str) or isinstance(new, str):
        return f"{'there' if isinstance(old, tuple) else old} {'there' if isinstance(new, tuple) else new}"
    signs = ("+" if now > then else "-" if now < then else "=" for then, now in zip(old, new))
    return " ".join(name + sign for name, sign in zip("amc", signs))


# Files.

def put(path, data=b"content", mode=0o644):
    fd = os.open(path, WO | CREAT | TRUNC, mode)
    if data:
        os.write(fd, data)
    os.close(fd)


def get(path):
    fd = os.open(path, RO)
    try:
        return read_all(fd)
    finally:
        os.close(fd)


def read_all(fd):
    parts, at = [], 0
    while part := os.pread(fd, 65536, at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def lines(count):
    """So many bytes, which tell where they belong."""
    return b"".join(b"%07d\n" % i for i in range(count // 8 + 1))[:count]


def mode(what):
    found = os.fstat(what) if isinstance(what, int) else os.lstat(what)
    return f"{stat.S_IMODE(found.st_mode):04o}"


def owner(what):
    found = os.fstat(what) if isinstance(what, int) else os.lstat(what)
    return f"{found.st_uid}:{found.st_gid}"


def describe(what):
    found = os.fstat(what) if isinstance(what, int) else os.lstat(what)
    return f"{stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid} links {found.st_nlink}"


def links(what):
    return os.stat(what, follow_symlinks=False).st_nlink if isinstance(what, str) else os.fstat(what).st_nlink


def size(what):
    return os.stat(what).st_size


def same(one, other):
    one, other = (os.fstat(what) if isinstance(what, int) else os.lstat(what) for what in (one, other))
    return (one.st_ino, one.st_dev) == (other.st_ino, other.st_dev)


def exists(path):
    return os.path.lexists(path)


def make(kind, path):
    """A file system object of this kind, with a name that is free."""
    if kind == "file":
        put(path)
    elif kind == "dir":
        os.mkdir(path)
    elif kind == "full":
        os.mkdir(path)
        os.mkdir(path + "/inner")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "sock":
        os.mknod(path, stat.S_IFSOCK | 0o644)
    elif kind in LINKS:
        os.symlink(LINKS[kind], path)


LINKS = {"link": "file", "dirlink": "dir", "dangling": "nowhere", "loop": "loop"}
KINDS = ("file", "dir", "full", "fifo", "sock", *LINKS)


def make_all():
    for kind in KINDS:
        make(kind, kind)


def make_users(*names, kind="file", bits=0o644):
    """Files of users: "mine" and the like belong to OWNER, "theirs" to OTHER, all others to root."""
    for name in names:
        make(kind, name)
        os.chmod(name, bits)
        user = OWNER if name.startswith("mine") else OTHER if name.startswith("theirs") else 0
        os.chown(name, user, user)
        os.chmod(name, bits)


LONG = "n" * 255

# Each call with a path that it has to find, for the errors that all have in common.
FINDING = {
    "stat": os.stat,
    "lstat": os.lstat,
    "open": lambda path: os.close(os.open(path, RO)),
    "chmod": lambda path: os.chmod(path, 0o644),
    "chown": lambda path: os.chown(path, 0, 0),
    "lchown": lambda path: os.lchown(path, 0, 0),
    "truncate": lambda path: os.truncate(path, 0),
    "utimensat": lambda path: os.utime(path),
    "access": lambda path: faccessat(path, os.F_OK),
    "readlink": os.readlink,
    "chdir": os.chdir,
    "opendir": os.listdir,
    "getxattr": lambda path: os.getxattr(path, "user.x"),
    "setxattr": lambda path: os.setxattr(path, "user.x", b"x"),
    "statfs": os.statvfs,
    "rename from": lambda path: os.rename(path, "renamed"),
    "link from": lambda path: os.link(path, "linked"),
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "execve": lambda path: execute(path)}
# Each call with a path that it makes.
MAKING = {
    "creat": lambda path: os.close(os.open(path, WO | CREAT | EXCL)),
    "mkdir": os.mkdir,
    "mkfifo": os.mkfifo,
    "mknod": lambda path: os.mknod(path, stat.S_IFREG | 0o644),
    "symlink": lambda path: os.symlink("target", path),
    "link to": lambda path: os.link("source", path),
    "rename to": lambda path: os.rename("source", path)}


def execute(path, *args, uid=0, gid=0, fd=None):
    """What a program prints and how it ends, or why it cannot be run."""
    reader, writer = os.pipe()
    failed, failure = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if uid or gid:
                become(uid, gid)
            os.dup2(writer, 1)
            os.dup2(os.open("/dev/null", WO), 2)
            os.execve(path if fd is None else fd, [path or "-", *args], {"PATH": "/usr/bin:/bin"})
        except OSError as error:
            os.write(failure, struct.pack("i", error.errno))
        os._exit(1)
    os.close(writer)
    os.close(failure)
    output = b"".join(iter(lambda: os.read(reader, 4096), b""))
    error = os.read(failed, 4)
    os.close(reader)
    os.close(failed)
    status = os.waitpid(child, 0)[1]
    if error:
        raise OSError(struct.unpack("i", error)[0], "execve")
    return f"{output.decode().strip()}, {ended(status)}"
