#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Writes records to a file, each confirmed to be on the disk before its number is printed; or checks that they are there.

    power.py write PATH KIND SEED           until it fails, or is killed
    power.py check PATH KIND SEED COUNT     prints ok, or which of the first COUNT records is not what was written

KIND is how a record gets to the disk: fsync, append (and fdatasync), dsync (O_DSYNC), msync. Records are of 1 to 9000 bytes, so that they
begin and end anywhere in pages; size and bytes come from the seed.
"""

import mmap
import os
import random
import sys

# Room for what a mapping can write.
ROOM = 16 << 20


def records(seed):
    """Offset and bytes of one record after the other."""
    source = random.Random(seed)
    at = 0
    while True:
        record = source.randbytes(source.randint(1, 9000))
        yield at, record
        at += len(record)


def write(path, kind, seed):
    flags = {"append": os.O_APPEND, "dsync": os.O_DSYNC}.get(kind, 0)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o644)
    if kind == "msync":
        os.ftruncate(fd, ROOM)
        mapping = mmap.mmap(fd, ROOM)
    for number, (at, record) in enumerate(records(seed), 1):
        if kind == "msync":
            if at + len(record) > ROOM:
                return
            mapping[at : at + len(record)] = record
            first = at - at % mmap.PAGESIZE
            mapping.flush(first, at + len(record) - first)
        else:
            done = os.write(fd, record) if kind == "append" else os.pwrite(fd, record, at)
            assert done == len(record), f"{done} of {len(record)} bytes written"
        if kind == "fsync":
            os.fsync(fd)
        elif kind == "append":
            os.fdatasync(fd)
        print(number, flush=True)


def check(path, seed, count):
    with open(path, "rb") as file:
        for number, (at, record) in enumerate(records(seed), 1):
            if number > count:
                return "ok"
            file.seek(at)
            if file.read(len(record)) != record:
                return f"record {number} of {count}, at {at}, {len(record)} bytes"


if sys.argv[1] == "write":
    write(*sys.argv[2:5])
else:
    print(check(sys.argv[2], sys.argv[4], int(sys.argv[5])))
