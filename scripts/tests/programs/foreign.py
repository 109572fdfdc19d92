#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Asks vremoted to move a tree that is not the asker's alone: foreign.py ADDRESS PROGRAM [late]

A child of this process starts PROGRAM, which has the set-user-id bit, and stops itself; its pidfd goes to the daemon as vremote_fork() would send
it. With `late` PROGRAM is started, and the child stops, only after the daemon has looked at the tree for the first time. Prints the errno and the
reason that come back.
"""

import os
import signal
import socket
import sys
import time

SOCKET = "/run/vremote/fork.sock"
FORK = 0  # Request::Fork, in the format of the crate postcard: its number, four bytes of address
FAILED = 4  # Reply::Failed: its number, an errno (zigzag), a length, the reason


def varint(data):
    """The number at the start, and what follows."""
    number = shift = 0
    while True:
        byte, data = data[0], data[1:]
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, data


def effective_user(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(line.split()[2] for line in f if line.startswith("Uid:"))


address, program, *late = sys.argv[1:]
# Sent by each to its child: go on.
GO = [signal.SIGUSR1]
signal.pthread_sigmask(signal.SIG_BLOCK, GO)
null = os.open("/dev/null", os.O_RDWR)
child = os.fork()
if child == 0:
    os.setsid()
    for fd in range(3):
        os.dup2(null, fd)
    other = os.fork()
    if other == 0:
        signal.sigwait(GO)
        os.execv(program, [program, "60"])
    signal.sigwait(GO)
    os.kill(other, signal.SIGUSR1)
    while effective_user(other) != "0":
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(0)
if not late:
    os.kill(child, signal.SIGUSR1)
    os.waitpid(child, os.WUNTRACED)
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
    daemon.connect(SOCKET)
    socket.send_fds(daemon, [bytes([FORK]) + socket.inet_aton(address)], [os.pidfd_open(child)])
    if late:
        # It looks at once, and then waits 5 s for the child to stop.
        time.sleep(2)
        os.kill(child, signal.SIGUSR1)
    answer = daemon.recv(4096)
os.killpg(child, signal.SIGKILL)
if answer[:1] != bytes([FAILED]):
    sys.exit(f"no refusal: {answer}")
errno, rest = varint(answer[1:])
length, rest = varint(rest)
print(errno >> 1, rest[:length].decode())
