# SPDX-License-Identifier: GPL-2.0
"""System calls of Linux that Python's os module does not have, or not with all their arguments. All raise OSError."""

import contextlib
import ctypes
import fcntl
import mmap
import os
import struct

LIBC = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH, AT_EACCESS = 0x100, 0x200, 0x400, 0x1000, 0x200
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32
NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH, IN_ROOT, CACHED = 1, 2, 4, 8, 16, 32
MADV_FREE, MADV_REMOVE, MREMAP_MAYMOVE, MAP_SHARED_VALIDATE, MAP_SYNC = 8, 9, 1, 3, 0x80000
MS_ASYNC, MS_INVALIDATE, MS_SYNC = 1, 2, 4
F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
# Numbers since 424 are those of all machines.
SYS_OPENAT2, SYS_FACCESSAT2, SYS_FCHMODAT2 = 437, 439, 452
SYS_GETDENTS64 = {"x86_64": 217, "aarch64": 61}[os.uname().machine]
WIDE = {"syscall", "mmap", "mremap", "read", "write", "pread", "pwrite", "readlinkat", "getxattr", "listxattr", "sendfile", "splice",
        "tee", "telldir", "opendir", "readdir", "copy_file_range"}


def libc(name, *args):
    """A function of the C library, with numbers, bytes and buffers; its result, or OSError for -1 (for NULL of those that give one)."""
    function = getattr(LIBC, name)
    function.restype = ctypes.c_long if name in WIDE else ctypes.c_int
    ctypes.set_errno(0)
    result = function(*(ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args))
    if result == -1 or (result == 0 and name in ("opendir", "readdir") and ctypes.get_errno()):
        raise OSError(ctypes.get_errno(), name)
    return result


def renameat2(old, new, flags, old_dir=AT_FDCWD, new_dir=AT_FDCWD):
    libc("renameat2", old_dir, os.fsencode(old), new_dir, os.fsencode(new), flags)


def linkat(old_dir, old, new_dir, new, flags):
    libc("linkat", old_dir, os.fsencode(old), new_dir, os.fsencode(new), flags)


def utimensat(path, atime, mtime, flags=0, directory=AT_FDCWD):
    """Times are (seconds, nanoseconds) or UTIME_NOW or UTIME_OMIT; path None: of the descriptor itself."""
    pair = [when if isinstance(when, tuple) else (0, when) for when in (atime, mtime)]
    libc("syscall", {"x86_64": 280, "aarch64": 88}[os.uname().machine], directory, None if path is None else os.fsencode(path),
         struct.pack("qqqq", *pair[0], *pair[1]), flags)


def fchmodat2(path, mode, flags, directory=AT_FDCWD):
    libc("syscall", SYS_FCHMODAT2, directory, os.fsencode(path), mode, flags)


def fchownat(path, uid, gid, flags, directory=AT_FDCWD):
    libc("fchownat", directory, os.fsencode(path), uid, gid, flags)


def faccessat(path, mode, flags=0, directory=AT_FDCWD):
    libc("syscall", SYS_FACCESSAT2, directory, os.fsencode(path), mode, flags)


def fallocate(fd, mode, at, count):
    libc("fallocate", fd, mode, at, count)


def openat2(path, flags, resolve=0, mode=0, directory=AT_FDCWD, size=24):
    how = struct.pack("QQQ", flags, mode, resolve).ljust(size, b"\xff")[:size]
    return libc("syscall", SYS_OPENAT2, directory, os.fsencode(path), how, size)


def name_to_handle_at(path, flags=0, directory=AT_FDCWD):
    libc("name_to_handle_at", directory, os.fsencode(path), ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136),
         ctypes.byref(ctypes.c_int()), flags)


def readlinkat(directory, path, size):
    buffer = ctypes.create_string_buffer(max(size, 1))
    length = libc("readlinkat", directory, os.fsencode(path), buffer, size)
    return buffer.raw[:length]


def statx(path, flags=0, mask=0x7ff, directory=AT_FDCWD):
    """(mask, mode, links, size) of struct statx."""
    buffer = ctypes.create_string_buffer(256)
    libc("statx", directory, os.fsencode(path), flags, mask, buffer)
    links, = struct.unpack_from("I", buffer, 16)
    mode, = struct.unpack_from("H", buffer, 28)
    size, = struct.unpack_from("Q", buffer, 40)
    return struct.unpack_from("I", buffer)[0], mode, links, size


def getdents(fd, size):
    """Names, in order."""
    buffer = ctypes.create_string_buffer(size)
    end, at, names = libc("syscall", SYS_GETDENTS64, fd, buffer, size), 0, []
    while at < end:
        length, = struct.unpack_from("H", buffer, at + 16)
        names.append(buffer.raw[at + 19:at + length].split(b"\0")[0].decode())
        at += length
    return names


class Stream:
    """A directory stream of the C library."""

    def __init__(self, path):
        self.stream = libc("opendir", os.fsencode(path))

    def read(self):
        """(name, type, inode number), or None at the end."""
        entry = libc("readdir", self.stream)
        if entry == 0:
            return None
        name = ctypes.string_at(entry + 19).decode()
        return name, ctypes.c_ubyte.from_address(entry + 18).value, ctypes.c_uint64.from_address(entry).value

    def rest(self):
        return [entry[0] for entry in iter(self.read, None)]

    def tell(self):
        return libc("telldir", self.stream)

    def seek(self, place):
        LIBC.seekdir(ctypes.c_long(self.stream), ctypes.c_long(place))

    def rewind(self):
        LIBC.rewinddir(ctypes.c_long(self.stream))


def mapped(fd, length, protection=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_SHARED, at=0):
    """The address of a new mapping."""
    return libc("mmap", 0, length, protection, flags, fd, at)


def load(address, count=1):
    return ctypes.string_at(address, count)


def store(address, data):
    ctypes.memmove(address, data, len(data))


def flock_struct(kind, start, length, whence=0, pid=0):
    return struct.pack("hhqqi4x", kind, whence, start, length, pid)


def lock(fd, kind, start=0, length=0, command=fcntl.F_SETLK, whence=0, pid=0):
    fcntl.fcntl(fd, command, flock_struct(kind, start, length, whence, pid))


def lock_in_the_way(fd, kind, start=0, length=0, command=fcntl.F_GETLK):
    """(kind, start, length, pid) of a lock that excludes this one; kind F_UNLCK: there is none."""
    found = struct.unpack("hhqqi4x", fcntl.fcntl(fd, command, flock_struct(kind, start, length)))
    return found[0], *found[2:]


INOTIFY_NAMES = {
    0x1: "ACCESS", 0x2: "MODIFY", 0x4: "ATTRIB", 0x8: "CLOSE_WRITE", 0x10: "CLOSE_NOWRITE", 0x20: "OPEN", 0x40: "MOVED_FROM",
    0x80: "MOVED_TO", 0x100: "CREATE", 0x200: "DELETE", 0x400: "DELETE_SELF", 0x800: "MOVE_SELF", 0x8000: "IGNORED",
    0x40000000: "ISDIR",
}


class Inotify:
    """Watches, and what they have seen since the last look, as text."""

    def __init__(self):
        self.fd = libc("inotify_init1", os.O_NONBLOCK)
        self.labels = {}

    def watch(self, path, mask=0xfff):
        self.labels[libc("inotify_add_watch", self.fd, os.fsencode(path), mask)] = path

    def seen(self):
        events, pairs = [], {}
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fd, 65536):
                while data:
                    watch, mask, cookie, length = struct.unpack_from("iIII", data)
                    name = data[16:16 + length].split(b"\0")[0].decode()
                    what = "|".join(text for bit, text in INOTIFY_NAMES.items() if mask & bit)
                    pair = f"#{pairs.setdefault(cookie, len(pairs) + 1)}" if cookie else ""
                    events.append(f"{self.labels.get(watch)}{':' if name else ''}{name} {what}{pair}")
                    data = data[16 + length:]
        return ", ".join(events)
