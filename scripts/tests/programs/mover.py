#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A program to be moved while it runs, and its checker.

    mover.py run DIR PID [EXTRA …]    starts it with this process id, in a session of its own, and prints that
    mover.py check DIR [NODE …]       after its end: no step is missing or doubled, all hashes are right, and these nodes ran it
    mover.py stop DIR                 tells it to end

Each step reads a random page of `data`, stores the step's number into `map`, which is mapped, and appends a record to `log`. EXTRA adds:
`threads` (four that count), `pipeline` (three processes), `nameless` (a file without a name), `memory=MIB` (touched at random),
`lock` (a lock on `log` for good), `sqlite` (each sixteenth step is a transaction of `steps.db`), `sockets` (a child that answers over a pair
of Unix sockets), `timer` (a signal each 20 ms, counted), `terminal` (a shell on a pseudo-terminal), `directory` (the working directory is DIR).
"""

import hashlib
import mmap
import os
import pty
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tty

PAGE = 4096
PAGES = 256


def is_here(name, fd):
    """Whether a descriptor's file has this name."""
    with open(name, "rb") as f:
        return os.path.samestat(os.fstat(f.fileno()), os.fstat(fd))


def page_of(directory, number):
    with open(f"{directory}/data", "rb") as f:
        return hashlib.sha256(os.pread(f.fileno(), PAGE, number * PAGE)).hexdigest()[:16]


def echo_child():
    """A child that answers each line with itself, over a pair of Unix sockets; our end."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        while line := theirs.recv(100):
            theirs.sendall(line)
        os._exit(0)
    theirs.close()
    return ours


def terminal_child():
    """A shell with a pseudo-terminal as its controlling one; the master's descriptor."""
    child, master = pty.fork()
    if child == 0:
        tty.setraw(0)
        os.execvp("sh", ["sh", "-c", "echo ready; while read -r line; do echo $line; done"])
    if read_line(master) != b"ready\n":
        raise RuntimeError("the shell on the terminal does not start")
    return master


def read_line(fd):
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(fd, 1)
    return line


def steps(directory, extras):
    log = os.open(f"{directory}/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    data = os.open(f"{directory}/data", os.O_RDONLY)
    with open(f"{directory}/map", "r+b") as f:
        view = mmap.mmap(f.fileno(), PAGES * PAGE)
    rng = random.Random(1)
    memory, counts, pipeline, nameless, db = None, [0] * 4, None, None, None
    pair, terminal, ticks, heard = None, None, [0], 0
    for extra in extras:
        name, _, value = extra.partition("=")
        if name == "memory":
            memory = bytearray(random.Random(2).randbytes(1 << 20) * int(value))
        elif name == "threads":
            def count(which):
                while True:
                    counts[which] += 1
                    time.sleep(0.005)
            for which in range(4):
                threading.Thread(target=count, args=(which,), daemon=True).start()
        elif name == "pipeline":
            pipeline = subprocess.Popen(["sh", "-c", "cat | sed -u s/^/x/ | cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        elif name == "nameless":
            nameless = tempfile.TemporaryFile(dir=directory)
        elif name == "lock":
            import fcntl
            fcntl.lockf(log, fcntl.LOCK_EX)
        elif name == "sqlite":
            import sqlite3
            # Commits each statement, with a journal of its own.
            db = sqlite3.connect(f"{directory}/steps.db", isolation_level=None)
            db.execute("create table step (number integer primary key, node text)")
        elif name == "sockets":
            pair = echo_child()
        elif name == "terminal":
            terminal = terminal_child()
        elif name == "timer":
            def tick(*_):
                ticks[0] += 1
            signal.signal(signal.SIGALRM, tick)
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        elif name == "directory":
            os.chdir(directory)
    step = 0
    while view[-1] == 0:
        page = rng.randrange(PAGES)
        digest = hashlib.sha256(os.pread(data, PAGE, page * PAGE)).hexdigest()[:16]
        node = socket.gethostname()
        if memory:
            at = rng.randrange(len(memory))
            memory[at] = (memory[at] + 1) % 256
        before = list(counts)
        if pair:
            pair.sendall(f"{step}".encode())
            if pair.recv(100) != f"{step}".encode():
                return "the child at the other socket said something else"
        if terminal:
            os.write(terminal, f"{step}\n".encode())
            if read_line(terminal) != f"{step}\n".encode():
                return "the terminal showed something else"
        if "directory" in extras:
            # It may be moved between the two looks, and the file has another device then.
            if not is_here("data", data) and not is_here("data", data):
                return "the working directory is another one"
        if pipeline:
            pipeline.stdin.write(f"{step}\n".encode())
            pipeline.stdin.flush()
            if pipeline.stdout.readline() != f"x{step}\n".encode():
                return "the pipeline gave something else"
        if nameless:
            nameless.seek(0)
            if step and nameless.read() != f"{step - 1}".encode():
                return "the nameless file holds something else"
            nameless.seek(0)
            nameless.truncate()
            nameless.write(f"{step}".encode())
            nameless.flush()
        if db and step % 16 == 0:
            db.execute("insert into step values (?, ?)", (step, node))
        view[8 * (step % 512):8 * (step % 512) + 8] = struct.pack("<Q", step)
        os.write(log, f"{step} {node} {page} {digest}\n".encode())
        step += 1
        time.sleep(0.01)
        if "threads" in extras and step % 100 == 0 and counts == before:
            return "the threads stand still"
        if "timer" in extras and step % 100 == 0:
            # A hundred steps take a second at least.
            if ticks[0] == heard:
                return "the timer stands still"
            heard = ticks[0]
    if memory:
        expected = bytearray(random.Random(2).randbytes(1 << 20) * (len(memory) >> 20))
        again = random.Random(1)
        for _ in range(step):
            again.randrange(PAGES)
            at = again.randrange(len(expected))
            expected[at] = (expected[at] + 1) % 256
        if memory != expected:
            return "the memory is not what it was"
    if db:
        if db.execute("pragma integrity_check").fetchall() != [("ok",)]:
            return "the database is damaged"
        if db.execute("select number from step order by number").fetchall() != [(number,) for number in range(0, step, 16)]:
            return "the database lacks steps"
        db.close()
    return f"end {step}"


def run(directory, pid, extras):
    os.chdir("/")
    with open(f"{directory}/data", "wb") as f:
        f.write(random.Random(0).randbytes(PAGES * PAGE))
    with open(f"{directory}/map", "wb") as f:
        f.truncate(PAGES * PAGE)
    for name in "log", "end", "steps.db", "steps.db-journal":
        if os.path.exists(f"{directory}/{name}"):
            os.unlink(f"{directory}/{name}")
    # The end is told through a file that is open all the time.
    end = os.open(f"{directory}/end", os.O_WRONLY | os.O_CREAT, 0o644)
    with open("/proc/sys/kernel/ns_last_pid", "w") as f:
        f.write(str(pid - 1))
    if child := os.fork():
        print(child)
        return
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in 0, 1, 2:
        os.dup2(null, fd)
    try:
        result = steps(directory, extras)
    except Exception as error:  # the checker tells
        result = f"{type(error).__name__}: {error}"
    os.write(end, result.encode())
    os._exit(0)


def stop(directory):
    with open(f"{directory}/map", "r+b") as f:
        os.pwrite(f.fileno(), b"\1", PAGES * PAGE - 1)
    for _ in range(600):
        with open(f"{directory}/end") as f:
            if end := f.read():
                return end
        time.sleep(0.1)
    return "it does not end"


def check(directory, nodes):
    with open(f"{directory}/end") as f:
        end = f.read()
    if not end.startswith("end "):
        return end
    hashes = [page_of(directory, page) for page in range(PAGES)]
    seen, step = [], 0
    with open(f"{directory}/log") as f:
        for line in f:
            number, node, page, digest = line.split()
            if int(number) != step:
                return f"step {number} instead of {step}"
            if digest != hashes[int(page)]:
                return f"step {number}: page {page} was {digest}, it is {hashes[int(page)]}"
            if not seen or seen[-1] != node:
                seen.append(node)
            step += 1
    if int(end.split()[1]) != step:
        return f"{step} steps in the log, {end}"
    with open(f"{directory}/map", "rb") as f:
        f.seek(8 * ((step - 1) % 512))
        last = struct.unpack("<Q", f.read(8))[0]
    if last != step - 1:
        return f"the mapping holds {last} after {step} steps"
    if nodes and seen != nodes:
        return f"it ran on {seen}"
    return "ok"


if __name__ == "__main__":
    if sys.argv[1] == "run":
        run(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
    elif sys.argv[1] == "stop":
        print(stop(sys.argv[2]))
    else:
        print(check(sys.argv[2], sys.argv[3:]))
