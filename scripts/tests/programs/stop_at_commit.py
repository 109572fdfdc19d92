# SPDX-License-Identifier: GPL-2.0
"""Stops a vremoted in the moment in which it has noted what becomes of a program that moves here, and before it has done or said so.

stop_at_commit.py PID NOTE. The first note is that CRIU is told to let the program go, the second that it runs. Real-time priority: on a node
with one processor this comes before the daemon that has made the note. Status 1 if there is none within a minute.
"""

import ctypes
import os
import signal
import struct
import sys

JOBS = "/var/lib/vremote/jobs"
IN_MOVED_TO, IN_CREATE = 0x80, 0x100
LIBC = ctypes.CDLL(None, use_errno=True)

os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
signal.signal(signal.SIGALRM, lambda *_: sys.exit(1))
signal.alarm(60)
events = LIBC.inotify_init()
daemon, left = int(sys.argv[1]), int(sys.argv[2])


def watch(path, what):
    if LIBC.inotify_add_watch(events, path.encode(), what) == -1:
        sys.exit(f"{path}: {os.strerror(ctypes.get_errno())}")


watch(JOBS, IN_CREATE)
for name in os.listdir(JOBS):
    watch(f"{JOBS}/{name}", IN_MOVED_TO)
while True:
    data = os.read(events, 65536)
    while data:
        _, what, _, length = struct.unpack_from("iIII", data)
        name = data[16:16 + length].rstrip(b"\0").decode()
        data = data[16 + length:]
        if what & IN_MOVED_TO and name == "committed":
            left -= 1
            if left == 0:
                # Each thread by itself: a signal to all of them stops the one that is running only when another has been told.
                for thread in os.listdir(f"/proc/{daemon}/task"):
                    LIBC.tgkill(daemon, int(thread), signal.SIGSTOP)
                sys.exit()
        if what & IN_CREATE and os.path.isdir(f"{JOBS}/{name}"):
            watch(f"{JOBS}/{name}", IN_MOVED_TO)
