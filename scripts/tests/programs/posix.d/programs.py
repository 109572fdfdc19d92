# SPDX-License-Identifier: GPL-2.0
"""Programs that are run, limits of processes, FIFOs and sockets."""

import contextlib
import os
import resource
import signal
import socket
import time

from calls import *
from transcript import *


@scenario
def programs(t):
    put("script", b"#!/bin/sh\necho ran $# $1\n", 0o755)
    with open("/bin/true", "rb") as program:
        put("binary", program.read(), 0o755)
    put("empty", b"", 0o755)
    put("garbage", b"\1\2\3\4" * 100, 0o755)
    put("no-interpreter", b"#!/missing/interpreter\n", 0o755)
    put("not-executable", b"#!/bin/sh\necho ran\n", 0o644)
    make("dir", "dir")
    make("fifo", "fifo")
    os.chmod("fifo", 0o755)
    os.symlink("script", "scriptlink")
    t("a script", execute, "./script", "one", "two")
    t("by a symlink", execute, "./scriptlink", "one")
    t("a binary", execute, "./binary")
    for name in ("empty", "garbage", "no-interpreter", "not-executable", "dir", "fifo", "missing", "script/x", "script/"):
        t(name, execute, name)
    t("by a descriptor", lambda: execute("script", "one", fd=os.open("script", RO)))
    t("a binary by a descriptor", lambda: execute("binary", fd=os.open("binary", RO)))
    t("a binary by O_PATH", lambda: execute("binary", fd=os.open("binary", PATH)))
    for name, all_bits in (("script", (0o700, 0o111)), ("binary", (0o700, 0o070, 0o007, 0o111, 0o666))):
        for bits in all_bits:
            os.chmod(name, bits)
            os.chown(name, OWNER, GROUP)
            t(f"{name} {bits:03o}, root", execute, "./" + name)
            t(f"{name} {bits:03o}, owner", execute, "./" + name, uid=OWNER, gid=OWNER)
            t(f"{name} {bits:03o}, group", execute, "./" + name, uid=OTHER, gid=GROUP)
            t(f"{name} {bits:03o}, another", execute, "./" + name, uid=OTHER, gid=OTHER)
    os.chmod("binary", 0o755)
    fd = os.open("binary", RW)
    t("while it is open for writing", execute, "./binary")
    os.close(fd)
    t("then", execute, "./binary")
    with open("/bin/sleep", "rb") as program:
        put("sleep", program.read(), 0o755)
    child = os.fork()
    if child == 0:
        os.execv("./sleep", ["sleep", "60"])
    while os.path.basename(os.readlink(f"/proc/{child}/exe")) != "sleep":
        time.sleep(0.01)
    t("running, its name in /proc", os.readlink, f"/proc/{child}/exe")
    t.opens("running, open for writing", "sleep", WO)
    t.opens("running, open for reading and writing", "sleep", RW)
    t.opens("running, open with O_TRUNC", "sleep", RO | TRUNC)
    t("running, truncate", os.truncate, "sleep", 10)
    t("running, chmod", os.chmod, "sleep", 0o700)
    t("running, rename", os.rename, "sleep", "sleep2")
    t("running, unlink", os.unlink, "sleep2")
    t("running, its name in /proc then", os.readlink, f"/proc/{child}/exe")
    os.kill(child, signal.SIGKILL)
    t("ended", lambda: ended(os.waitpid(child, 0)[1]))
    with open("/usr/bin/id", "rb") as program:
        put("id", program.read(), 0o755)
    t("whose rights, user's", execute, "./id", "-u", uid=OTHER, gid=OTHER)
    os.chown("id", OWNER, GROUP)
    os.chmod("id", 0o6755)
    t("whose rights, set-user-id", execute, "./id", "-u", uid=OTHER, gid=OTHER)
    t("whose rights, set-group-id", execute, "./id", "-g", uid=OTHER, gid=OTHER)


@scenario
def limits(t):
    put("file", lines(1000))
    os.mkfifo("fifo")

    def limited(call, *args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        return call(*args)

    def told(call, *args):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        return limited(call, *args)

    def write(at, count, flags=0):
        return os.pwrite(os.open("file", RW | flags), b"x" * count, at)

    def spliced():
        reader, writer = os.pipe()
        os.write(writer, b"x" * 100)
        return os.splice(reader, os.open("file", WO), 100, offset_dst=4950)

    for name, args in (("inside", (0, 10)), ("over the limit", (4990, 100)), ("at the limit", (5000, 1)), ("behind it", (9000, 1)),
                       ("of nothing", (9000, 0)), ("appended", (0, 100, APPEND))):
        t(f"write {name}", in_child, limited, write, *args)
        t(f"write {name}, size", size, "file")
    t("write, the signal", in_child, told, write, 5000, 1)
    for name, call in (("ftruncate", lambda: os.ftruncate(os.open("file", RW), 5001)), ("truncate", lambda: os.truncate("file", 5001)),
                       ("fallocate", lambda: fallocate(os.open("file", RW), 0, 0, 5001)),
                       ("fallocate, keeping the size", lambda: fallocate(os.open("file", RW), KEEP_SIZE, 0, 9000)),
                       ("ftruncate to the limit", lambda: os.ftruncate(os.open("file", RW), 5000)), ("splice", spliced),
                       ("copy_file_range", lambda: os.copy_file_range(os.open("file", RO), os.open("file", WO), 100, 0, 4950)),
                       ("sendfile", lambda: (lambda to: os.lseek(to, 4950, 0) and os.sendfile(to, os.open("file", RO), 0, 100))(os.open("file", WO)))):
        t(name, in_child, limited, call)
        t(f"{name}, size", size, "file")
    t("ftruncate, the signal", in_child, told, lambda: os.ftruncate(os.open("file", RW), 6000))
    t("what is longer already may be written inside", lambda: os.truncate("file", 20000) or in_child(limited, write, 4000, 10))
    t("… and made shorter", in_child, limited, os.truncate, "file", 15000)
    t("a FIFO has no size", in_child, limited, lambda: os.write(os.open("fifo", RW), b"x" * 6000))

    def descriptors():
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
        return len([os.open("file", RO) for _ in range(30)])

    t("too many descriptors", in_child, descriptors)


@scenario
def fifos(t):
    os.mkfifo("fifo")
    t.opens("for writing, without a reader", "fifo", WO | NONBLOCK)
    reader = os.open("fifo", RO | NONBLOCK)
    t("nothing to read, no writer", os.read, reader, 10)
    writer = os.open("fifo", WO | NONBLOCK)
    t("nothing to read", os.read, reader, 10)
    t("through", lambda: os.write(writer, b"bytes") and os.read(reader, 10))
    t("lseek", os.lseek, reader, 0, 0)
    t("pread", os.pread, reader, 1, 0)
    t("its size", lambda: os.fstat(writer).st_size)
    t("renamed while open", lambda: os.rename("fifo", "fifo2") or os.write(writer, b"still") and os.read(reader, 10))
    t("opened by its new name", lambda: os.write(os.open("fifo2", WO | NONBLOCK), b"new name") and os.read(reader, 10))
    t("a second name", lambda: os.link("fifo2", "fifo3") or os.write(os.open("fifo3", WO | NONBLOCK), b"second") and os.read(reader, 10))
    t("full", lambda: [os.write(writer, b"x" * 4096) for _ in range(100)])
    t("no reader any more", lambda: os.close(reader) or os.write(writer, b"x"))

    def told():
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.write(writer, b"x")

    t("no reader any more, the signal", in_child, told)
    os.mkfifo("another")
    t("opened for both", lambda: (lambda fd: (os.write(fd, b"both"), os.read(fd, 9), os.close(fd)))(os.open("another", RW)))
    t("a reader and a writer wait for each other", lambda: (
        in_child_later(lambda: os.write(os.open("another", WO), b"met")), os.read(os.open("another", RO), 9))[1])
    t("unlinked", lambda: os.unlink("fifo2") or os.unlink("fifo3"))


def in_child_later(call):
    if os.fork() == 0:
        with contextlib.suppress(OSError):
            call()
        os._exit(0)


@scenario
def sockets(t):
    server = socket.socket(socket.AF_UNIX)
    t("bind", server.bind, "sock")
    t("what it is", describe, "sock")
    t("bind to what is there", lambda: socket.socket(socket.AF_UNIX).bind("sock"))
    t("connect to nobody", lambda: socket.socket(socket.AF_UNIX).connect("sock"))
    server.listen()
    t("connect", lambda: (lambda client: client.connect("sock") or client.send(b"hello"))(socket.socket(socket.AF_UNIX)))
    t("accept", lambda: server.accept()[0].recv(9))
    put("file")
    os.mkdir("dir")
    t("connect to a file", lambda: socket.socket(socket.AF_UNIX).connect("file"))
    t("connect to a directory", lambda: socket.socket(socket.AF_UNIX).connect("dir"))
    t("connect to what is not there", lambda: socket.socket(socket.AF_UNIX).connect("missing"))
    t("by a symlink", lambda: os.symlink("sock", "link") or socket.socket(socket.AF_UNIX).connect("link"))
    t("bind over a symlink", lambda: socket.socket(socket.AF_UNIX).bind("link"))
    t("bind in a file", lambda: socket.socket(socket.AF_UNIX).bind("file/x"))
    t.opens("open", "sock", RW)
    os.chmod("sock", 0o600)
    t("user, connect without the right to write", in_child, lambda: socket.socket(socket.AF_UNIX).connect("sock"), uid=OTHER, gid=OTHER)
    t("user, bind where nothing may be made", in_child, lambda: socket.socket(socket.AF_UNIX).bind("mine"), uid=OTHER, gid=OTHER)
    os.chmod("sock", 0o622)
    t("user, connect", in_child, lambda: socket.socket(socket.AF_UNIX).connect("sock"), uid=OTHER, gid=OTHER)
    t("renamed, connect", lambda: os.rename("sock", "moved") or socket.socket(socket.AF_UNIX).connect("moved"))
    t("a second name, connect", lambda: os.link("moved", "hard") or socket.socket(socket.AF_UNIX).connect("hard"))
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagrams.bind("dgram")
    t("datagrams", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"datagram", "dgram") and datagrams.recv(20))
    t("the wrong kind", lambda: socket.socket(socket.AF_UNIX).connect("dgram"))
    t("unlinked", lambda: os.unlink("moved") or os.unlink("hard") or socket.socket(socket.AF_UNIX).connect("moved"))
