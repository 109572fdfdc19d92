# SPDX-License-Identifier: GPL-2.0
"""Files mapped into memory."""

import os

from calls import *
from transcript import *


@scenario
def mapping_rights(t):
    put("file", lines(2 * PAGE))
    os.mkfifo("fifo")
    for name, flags in (("RDONLY", RO), ("WRONLY", WO), ("RDWR", RW), ("PATH", PATH), ("RDWR|APPEND", RW | APPEND)):
        fd = os.open("file", flags)
        for share, how in (("shared", SHARED), ("private", PRIVATE), ("validated", MAP_SHARED_VALIDATE)):
            for right, protection in (("none", 0), ("read", READ), ("write", WRITE), ("both", READ | WRITE), ("exec", READ | EXEC)):
                t(f"{name} {share} {right}", lambda: mapped(fd, PAGE, protection, how) and None)
    fd, ro = os.open("file", RW), os.open("file", RO)
    t("no bytes", mapped, fd, 0)
    t("an odd offset", mapped, fd, PAGE, READ, SHARED, 5)
    t("neither shared nor private", mapped, fd, PAGE, READ, 0)
    t("both", lambda: mapped(fd, PAGE, READ, SHARED | PRIVATE) and None)
    t("MAP_SYNC", mapped, fd, PAGE, READ, MAP_SHARED_VALIDATE | MAP_SYNC)
    t("an unknown flag, validated", lambda: mapped(fd, PAGE, READ, MAP_SHARED_VALIDATE | 1 << 21) and None)
    t("MAP_POPULATE", lambda: load(mapped(fd, 2 * PAGE, READ, SHARED | 0x8000), 8))
    t("MAP_LOCKED", lambda: load(mapped(fd, 2 * PAGE, READ, SHARED | 0x2000), 8))
    t("MAP_DENYWRITE, ignored", lambda: load(mapped(fd, PAGE, READ, PRIVATE | 0x800), 8))
    t("a FIFO", lambda: mapped(os.open("fifo", RW), PAGE, READ) and None)
    t("what is closed", mapped, 99, PAGE)
    t("longer than the file", lambda: load(mapped(fd, 100 * PAGE, READ), 8))
    view = mapped(ro, PAGE, READ, SHARED)
    t("mprotect of what is for reading", libc, "mprotect", view, PAGE, READ | WRITE)
    t("mprotect to none", libc, "mprotect", view, PAGE, 0)
    t("a load then", in_child, load, view)
    t("mprotect to execution", libc, "mprotect", view, PAGE, READ | EXEC)
    view = mapped(ro, PAGE, READ, PRIVATE)
    t("mprotect of a private one", libc, "mprotect", view, PAGE, READ | WRITE)
    t("… stored to", lambda: store(view, b"private") or (load(view, 8), get("file")[:8]))
    view = mapped(fd, PAGE, READ, SHARED)
    t("a store to what is mapped for reading", in_child, store, view, b"x")
    t("after the descriptor is closed", lambda: (lambda copy: (mapped(copy, PAGE), os.close(copy))[0])(os.dup(fd)) and None)


@scenario
def mapping(t):
    put("file", lines(3 * PAGE - 100))
    fd = os.open("file", RW)
    view = mapped(fd, 5 * PAGE)
    t("a load", load, view + PAGE, 8)
    t("a store is a write", lambda: store(view + 10, b"stored") or os.pread(fd, 8, 9))
    t("a write is seen", lambda: os.pwrite(fd, b"written", 20) and load(view + 20, 7))
    t("zeros behind the end", lambda: set(load(view + 3 * PAGE - 100, 100)))
    t("a store behind the end is none", lambda: store(view + 3 * PAGE - 50, b"nothing") or (size("file"), len(read_all(fd))))
    t("… nor when the file grows", lambda: os.ftruncate(fd, 3 * PAGE) or set(read_all(fd)[3 * PAGE - 100:]))
    t("… over it", lambda: os.pwrite(fd, b"end", 3 * PAGE + 5) and (size("file"), set(os.pread(fd, 5, 3 * PAGE))))
    t("a load of the new page", load, view + 3 * PAGE + 5, 3)
    t("a load behind the last page", in_child, load, view + 4 * PAGE)
    t("a store behind the last page", in_child, store, view + 4 * PAGE, b"x")
    os.ftruncate(fd, PAGE + 10)
    t("cut, a load behind the end", in_child, load, view + 2 * PAGE)
    t("cut, a store behind the end", in_child, store, view + 2 * PAGE, b"x")
    t("cut, inside the last page", lambda: (load(view + PAGE + 9, 3)))
    os.ftruncate(fd, 4 * PAGE)
    t("longer again, zeros", lambda: set(load(view + PAGE + 10, 3 * PAGE - 10)))
    private = mapped(fd, 4 * PAGE, READ | WRITE, PRIVATE)
    t("private, a store", lambda: store(private, b"mine") or (load(private, 8), os.pread(fd, 8, 0)))
    t("private, what was not touched shows writes", lambda: os.pwrite(fd, b"later", 2 * PAGE) and load(private + 2 * PAGE, 5))
    os.ftruncate(fd, PAGE)
    t("private, a page that was stored to, cut off", lambda: store(private, b"still") or load(private, 5))
    t("private, behind the end", in_child, load, private + 3 * PAGE)
    os.ftruncate(fd, 4 * PAGE)
    t("two processes share", lambda: (in_child(store, view, b"child's"), load(view, 8)))
    t("two processes, private", lambda: (in_child(store, private, b"child's"), load(private, 5)))
    t("two mappings", lambda: store(view + 100, b"first") or load(mapped(fd, PAGE) + 100, 5))
    t("mremap, longer", lambda: load(libc("mremap", mapped(fd, PAGE), PAGE, 2 * PAGE, MREMAP_MAYMOVE) + 100, 5))
    t("mremap, shorter", lambda: load(libc("mremap", mapped(fd, 2 * PAGE), 2 * PAGE, PAGE, 0) + 100, 5))
    t("mremap to nothing", lambda: libc("mremap", mapped(fd, PAGE), PAGE, 0, 0))
    t("mremap of nothing, a second mapping", lambda: load(libc("mremap", view, 0, PAGE, MREMAP_MAYMOVE) + 100, 5))
    t("mlock", libc, "mlock", view, PAGE)
    t("mlock behind the end", libc, "mlock", view + 4 * PAGE, PAGE)
    t("munlock", libc, "munlock", view, PAGE)
    for name, address, count, flags in (
            ("SYNC", view, PAGE, MS_SYNC), ("ASYNC", view, PAGE, MS_ASYNC), ("none", view, PAGE, 0), ("both", view, PAGE, MS_SYNC | MS_ASYNC),
            ("INVALIDATE", view, PAGE, MS_SYNC | MS_INVALIDATE), ("unknown", view, PAGE, 64), ("odd address", view + 1, PAGE, MS_SYNC),
            ("odd length", view, 10, MS_SYNC), ("nothing", view, 0, MS_SYNC), ("private", private, PAGE, MS_SYNC),
            ("unmapped", 1 << 40, PAGE, MS_SYNC)):
        t(f"msync {name}", libc, "msync", address, count, flags)
    t("msync of what is locked", lambda: libc("mlock", view, PAGE) or libc("msync", view, PAGE, MS_INVALIDATE))
    libc("munlock", view, PAGE)
    for name, advice in (("NORMAL", 0), ("RANDOM", 1), ("SEQUENTIAL", 2), ("WILLNEED", 3), ("DONTNEED", 4), ("FREE", 8), ("DONTFORK", 10),
                         ("DOFORK", 11), ("MERGEABLE", 12), ("DONTDUMP", 16), ("DODUMP", 17), ("WIPEONFORK", 18), ("COLD", 20),
                         ("PAGEOUT", 21), ("POPULATE_READ", 22), ("POPULATE_WRITE", 23), ("unknown", 99)):
        t(f"madvise {name}", libc, "madvise", view, PAGE, advice)
    t("madvise POPULATE_READ behind the end", libc, "madvise", view + 4 * PAGE, PAGE, 22)
    t("madvise POPULATE_WRITE behind the end", libc, "madvise", view + 4 * PAGE, PAGE, 23)
    t("madvise DONTNEED, shared bytes stay", lambda: store(view, b"stay") or libc("madvise", view, PAGE, 4) or load(view, 4))
    t("madvise DONTNEED, private bytes go", lambda: libc("madvise", private, PAGE, 4) or load(private, 4))
    t("madvise REMOVE", lambda: libc("madvise", view, PAGE, MADV_REMOVE) or (load(view, 4), os.pread(fd, 4, 0), size("file")))
    t("madvise REMOVE, private", libc, "madvise", private, PAGE, MADV_REMOVE)
    t("madvise REMOVE, for reading", lambda: libc("madvise", mapped(fd, PAGE, READ), PAGE, MADV_REMOVE))
    t("a hole", lambda: store(view + 2 * PAGE, b"hole") or fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 2 * PAGE, PAGE) or load(view + 2 * PAGE, 4))
    t("munmap", libc, "munmap", view + PAGE, PAGE)
    t("munmap, a load", in_child, load, view + PAGE)
    t("munmap, beside it", load, view + 2 * PAGE, 4)
    t("munmap, odd", libc, "munmap", view + 1, PAGE)
    t("unlinked", lambda: os.unlink("file") or store(view, b"unlinked") or (load(view, 8), os.pread(fd, 8, 0)))
    t("read into a mapping of the same file", lambda: libc("pread", fd, view + 2 * PAGE, 8, 0) and load(view + 2 * PAGE, 8))
    t("write from a mapping of the same file", lambda: libc("pwrite", fd, view, 8, 2 * PAGE + 16) and load(view + 2 * PAGE + 16, 8))


@scenario
def mapping_times(t):
    put("file", lines(2 * PAGE))
    fd = os.open("file", RW)
    view = mapped(fd, 2 * PAGE)

    def stored(*then):
        store(view, os.urandom(8))
        for call in then:
            call()

    t.times("a store, msync", ["file"], stored, lambda: libc("msync", view, PAGE, MS_SYNC))
    t.times("a store, fsync", ["file"], stored, lambda: os.fsync(fd))
    t.times("a store, the first after that", ["file", fd], stored)
    os.fsync(fd)
    t.times("msync with nothing to do", ["file"], libc, "msync", view, PAGE, MS_SYNC)
    libc("munmap", view, 2 * PAGE)
