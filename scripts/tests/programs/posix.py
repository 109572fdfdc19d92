#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What system calls answer in a directory, as a transcript: two file systems that do the same give the same one.

    posix.py DIR [SCENARIO …]

Each scenario runs in a process and an empty directory below DIR of its own, which is its working directory. Each of its steps is one line,
`scenario.step: result`: a value, "ok", or the errno's name. What differs between any two directories (numbers of inodes and devices,
times, paths) is told as a relation: "m+" for a time of change that has advanced. Wants to be run as root, and to find DIR empty.
"""

import os
import resource
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "posix.d"))

import transcript
from transcript import SCENARIOS, Transcript, ended, result

# Scenarios run in the order in which they are imported.
import attributes, extended, opening, names, renaming, directories, contents, mappings, descriptors, locks, notices, programs, moments

LIMIT_SECONDS = 90


def run(name):
    """One scenario, in a process and a directory of its own."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(LIMIT_SECONDS)
        os.umask(0o022)
        place = os.path.join(transcript.ROOT, name.rstrip("_"))
        os.mkdir(place, 0o755)
        os.chdir(place)
        t = Transcript(name.rstrip("_"))
        text, _ = result(SCENARIOS[name], t)
        if text != "ok":
            t.line("scenario", text)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status != 0:
        Transcript(name.rstrip("_")).line("scenario", ended(status))


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--list":
        print("\n".join(name.rstrip("_") for name in SCENARIOS))
        return
    transcript.ROOT = os.path.realpath(sys.argv[1])
    for name in SCENARIOS:
        if len(sys.argv) == 2 or name.rstrip("_") in sys.argv[2:]:
            run(name)


if __name__ == "__main__":
    main()
