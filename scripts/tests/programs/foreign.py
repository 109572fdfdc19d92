#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Asks vremoted to move a tree that is not the asker's alone: foreign.py ADDRESS PROGRAM

A child of this process starts PROGRAM, which has the set-user-id bit, and stops itself; its pidfd goes to the daemon as vremote_fork() would send
it. Prints the errno and the reason that come back.
"""

import os
import signal
import socket
import subprocess
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


address, program = sys.argv[1:]
null = os.open("/dev/null", os.O_RDWR)
child = os.fork()
if child == 0:
    os.setsid()
    for fd in range(3):
        os.dup2(null, fd)
    other = subprocess.Popen([program, "60"])
    os.kill(os.getpid(), signal.SIGSTOP)
    other.kill()
    os._exit(0)
# Until it has stopped, its own child has started.
os.waitpid(child, os.WUNTRACED)
time.sleep(0.5)
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
    daemon.connect(SOCKET)
    socket.send_fds(daemon, [bytes([FORK]) + socket.inet_aton(address)], [os.pidfd_open(child)])
    answer = daemon.recv(4096)
os.killpg(child, signal.SIGKILL)
if answer[:1] != bytes([FAILED]):
    sys.exit(f"no refusal: {answer}")
errno, rest = varint(answer[1:])
length, rest = varint(rest)
print(errno >> 1, rest[:length].decode())
