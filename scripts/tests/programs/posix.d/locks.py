# SPDX-License-Identifier: GPL-2.0
"""Locks and leases."""

import errno
import fcntl
import os
import signal
import time

from calls import *
from transcript import *


@scenario
def record_locks(t):
    put("file", lines(1000))
    fd, second, ro = os.open("file", RW), os.open("file", RW), os.open("file", RO)
    exclusive, shared, free = fcntl.F_WRLCK, fcntl.F_RDLCK, fcntl.F_UNLCK
    me = os.getpid()

    def way(*args):
        kind, start, length, pid = lock_in_the_way(second, *args)
        return {0: "read", 1: "write", 2: "none"}[kind], start, length, "mine" if pid == me else pid

    t("exclusive", lock, fd, exclusive, 0, 100)
    t("again, by another descriptor of the process", lock, second, exclusive, 0, 100)
    t("another process", in_child, lock, second, shared, 50, 10)
    t("another process, beside", in_child, lock, second, exclusive, 100, 10)
    t("in the way", in_child, way, shared, 90, 100)
    t("in the way, beside", in_child, way, exclusive, 200, 10)
    t("in the way of oneself", lambda: lock_in_the_way(second, exclusive, 0, 0)[0])
    t("a child has none of them", in_child, lock, fd, exclusive, 0, 10)
    t("to shared", lock, fd, shared, 0, 100)
    t("another process shares", in_child, lock, second, shared, 0, 100)
    t("another process does not exclude", in_child, lock, second, exclusive, 0, 100)
    t("part of it exclusive", lock, fd, exclusive, 40, 20)
    t("split, before", in_child, lock, second, shared, 0, 40)
    t("split, inside", in_child, way, shared, 0, 0)
    t("split, behind", in_child, lock, second, shared, 60, 40)
    t("a hole", lock, fd, free, 45, 5)
    t("a hole, there", in_child, lock, second, exclusive, 45, 5)
    t("a hole, beside", in_child, lock, second, exclusive, 44, 1)
    t("all free", lock, fd, free, 0, 0)
    t("all free, so it is", in_child, way, exclusive, 0, 0)
    t("to the end, whatever that is", lock, fd, exclusive, 500, 0)
    t("to the end, behind it", in_child, way, shared, 1 << 50, 1)
    t("before a place", lock, fd, exclusive, 100, -10)
    t("before a place, where", in_child, way, shared, 0, 200)
    t("from the position", lambda: os.lseek(fd, 30, 0) and lock(fd, exclusive, 5, 5, whence=1))
    t("from the position, where", in_child, way, shared, 0, 50)
    t("from the end", lock, fd, exclusive, -1000, 1, whence=2)
    t("from the end, where", in_child, way, shared, 0, 2)
    t("closing any descriptor frees them", lambda: os.close(os.open("file", RO)) or in_child(way, exclusive, 0, 0))
    t("for reading, exclusive", lock, ro, exclusive)
    t("for reading, shared", lock, ro, shared)
    t("for writing, shared", lambda: lock(os.open("file", WO), shared))
    t("O_PATH", lambda: lock(os.open("file", PATH), shared))
    t("an unknown kind", lock, fd, 7)
    t("an unknown whence", lock, fd, exclusive, 0, 1, whence=5)
    t("before the start", lock, fd, exclusive, -1, 1)
    t("before the start, by its length", lock, fd, exclusive, 5, -10)
    t("over the end of all files", lock, fd, exclusive, (1 << 63) - 1, 2)
    t("at the end of all files", lock, fd, exclusive, (1 << 63) - 1, 1)
    t("freeing what is not locked", lock, fd, free, 7, 7)
    t("a process that ends frees its locks", lambda: (in_child(lock, second, exclusive, 0, 5), in_child(lock, second, exclusive, 0, 5)))

    def waiting():
        lock(fd, exclusive, 10, 10)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            lock(second, exclusive, 10, 1, fcntl.F_SETLKW)
            os.write(writer, b"got it")
            os._exit(0)
        time.sleep(0.2)
        lock(fd, free, 0, 0)
        os.close(writer)
        text = os.read(reader, 99)
        return text, ended(os.waitpid(child, 0)[1])

    t("waiting for a lock", waiting)

    def interrupted():
        lock(fd, exclusive, 0, 10)
        return in_child(lambda: alarm(0.3) or lock(second, exclusive, 0, 1, fcntl.F_SETLKW))

    t("a signal ends the wait", interrupted)

    def deadlock():
        lock(fd, free, 0, 0)
        lock(fd, exclusive, 0, 1)
        child = os.fork()
        if child == 0:
            lock(second, exclusive, 1, 1)
            answer(lock, second, exclusive, 0, 1, fcntl.F_SETLKW)
            os._exit(0)
        time.sleep(0.5)
        alarm(1)
        text = answer(lock, fd, exclusive, 1, 1, fcntl.F_SETLKW)
        signal.setitimer(signal.ITIMER_REAL, 0)
        lock(fd, free, 0, 0)
        return text, ended(os.waitpid(child, 0)[1])

    t("two that wait for each other", deadlock)


def alarm(seconds):
    """A signal that ends what waits."""
    def end(*_):
        raise InterruptedError(errno.EINTR, "alarm")

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)


@scenario
def description_locks(t):
    put("file", lines(1000))
    fd, second = os.open("file", RW), os.open("file", RW)
    exclusive, shared, free = fcntl.F_WRLCK, fcntl.F_RDLCK, fcntl.F_UNLCK

    def way(what, *args):
        kind, start, length, pid = lock_in_the_way(what, *args)
        return {0: "read", 1: "write", 2: "none"}[kind], start, length, pid

    t("exclusive", lock, fd, exclusive, 0, 10, F_OFD_SETLK)
    t("by another descriptor of the process", lock, second, exclusive, 0, 10, F_OFD_SETLK)
    t("by a dup", lambda: lock(os.dup(fd), exclusive, 0, 5, F_OFD_SETLK))
    t("in the way", way, second, shared, 0, 0, F_OFD_GETLK)
    t("against those of processes", lock, second, exclusive, 5, 1)
    t("a child has them", in_child, lock, fd, exclusive, 0, 10, F_OFD_SETLK)
    t("closing another descriptor frees none", lambda: os.close(os.open("file", RO)) or answer(lock, second, shared, 0, 1, F_OFD_SETLK))
    t("with a process id", lock, fd, exclusive, 0, 1, F_OFD_SETLK, 0, 5)
    t("to shared", lock, fd, shared, 0, 10, F_OFD_SETLK)
    t("two share", lock, second, shared, 0, 10, F_OFD_SETLK)
    t("one excludes", lock, second, exclusive, 0, 10, F_OFD_SETLK)
    t("freed", lock, fd, free, 0, 0, F_OFD_SETLK)
    t("then one excludes", lock, second, exclusive, 0, 10, F_OFD_SETLK)
    t("freed by the last close", lambda: os.close(second) or answer(lock, fd, exclusive, 0, 10, F_OFD_SETLK))
    third = os.open("file", RW)
    t("not freed while a child has it", lambda: kept_by_child(third, exclusive))


def kept_by_child(fd, kind):
    """Whether a lock of an open file description lasts until the last process has closed it."""
    put("kept")
    fd, probe = os.open("kept", RW), os.open("kept", RW)
    lock(fd, kind, 0, 0, F_OFD_SETLK)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(fd)
    during = answer(lock, probe, kind, 0, 0, F_OFD_SETLK)
    os.close(writer)
    os.waitpid(child, 0)
    return during, answer(lock, probe, kind, 0, 0, F_OFD_SETLK)


@scenario
def whole_locks(t):
    put("file")
    os.mkdir("dir")
    fd, second = os.open("file", RW), os.open("file", RO)
    shared, exclusive, now = fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_NB
    t("exclusive", fcntl.flock, fd, exclusive)
    t("another descriptor", fcntl.flock, second, shared | now)
    t("a dup", lambda: (lambda copy: fcntl.flock(copy, exclusive | now) or os.close(copy))(os.dup(fd)))
    t("a child has it", in_child, fcntl.flock, fd, exclusive | now)
    t("to shared", fcntl.flock, fd, shared | now)
    t("two share", fcntl.flock, second, shared | now)
    t("to exclusive, refused", fcntl.flock, second, exclusive | now)
    t("… and what it had is gone", fcntl.flock, fd, exclusive | now)
    t("for reading, exclusive", lambda: fcntl.flock(fd, fcntl.LOCK_UN) or fcntl.flock(second, exclusive | now))
    t("for writing, shared", lambda: fcntl.flock(second, fcntl.LOCK_UN) or (lambda other: fcntl.flock(other, shared | now) or os.close(other))(
        os.open("file", WO)))
    t("not against those of records", lambda: fcntl.flock(fd, exclusive | now) or answer(in_child, lock, second, fcntl.F_RDLCK))
    t("freed by the last close", lambda: os.close(fd) or answer(fcntl.flock, second, exclusive | now))
    t("unlocking what is not locked", lambda: fcntl.flock(os.open("file", RO), fcntl.LOCK_UN))
    t("no operation", fcntl.flock, second, 0)
    t("O_PATH", lambda: fcntl.flock(os.open("file", PATH), shared))
    directory = os.open("dir", RO)
    t("a directory", fcntl.flock, directory, exclusive | now)
    t("a directory, another descriptor", lambda: fcntl.flock(os.open("dir", RO), exclusive | now))
    t("a child frees it", lambda: (in_child(fcntl.flock, second, fcntl.LOCK_UN), answer(lambda: fcntl.flock(os.open("file", RO), exclusive | now))))


@scenario
def leases(t):
    put("file")
    ro = os.open("file", RO)
    kinds = {fcntl.F_RDLCK: "read", fcntl.F_WRLCK: "write", fcntl.F_UNLCK: "none"}
    t("F_GETLEASE", lambda: kinds[fcntl.fcntl(ro, fcntl.F_GETLEASE)])
    t("F_SETLEASE for reading", fcntl.fcntl, ro, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    t("F_GETLEASE then", lambda: kinds[fcntl.fcntl(ro, fcntl.F_GETLEASE)])
    t("F_SETLEASE, given back", fcntl.fcntl, ro, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    t("F_SETLEASE for writing", lambda: fcntl.fcntl(ro, fcntl.F_SETLEASE, fcntl.F_WRLCK))
    os.close(ro)
