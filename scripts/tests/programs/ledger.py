#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A ledger in SQLite that several nodes write at once.

    ledger.py create DB MODE            MODE: delete, truncate, persist, wal
    ledger.py write DB WRITER TIMES     TIMES transactions; each adds an entry and one to the sum, which it has to read for that
    ledger.py check DB WRITER:TIMES …   "ok" if every entry is there, the sum is right and SQLite finds the file in order
"""

import sqlite3
import sys
import time

# A writer that is passed over so long has found a lock that nobody gives back.
PATIENCE_SECONDS = 120


def connect(path):
    db = sqlite3.connect(path, timeout=PATIENCE_SECONDS, isolation_level=None)
    db.execute("pragma synchronous = full")
    return db


def create(path, mode):
    db = connect(path)
    got = db.execute(f"pragma journal_mode = {mode}").fetchone()[0]
    if got != mode:
        sys.exit(f"journal mode {mode} is not to be had here: {got}")
    db.execute("create table sum (value integer)")
    db.execute("insert into sum values (0)")
    db.execute("create table entry (writer text, number integer, before integer unique, filler blob)")


def write(path, writer, times):
    db = connect(path)
    begin = time.monotonic()
    for number in range(int(times)):
        db.execute("begin immediate")
        (value,) = db.execute("select value from sum").fetchone()
        db.execute("insert into entry values (?, ?, ?, randomblob(200))", (writer, number, value))
        db.execute("update sum set value = ?", (value + 1,))
        db.execute("commit")
    print(f"{times} transactions in {time.monotonic() - begin:.1f} s")


def check(path, *writers):
    db = connect(path)
    found = db.execute("pragma integrity_check").fetchall()
    if found != [("ok",)]:
        sys.exit(f"integrity_check: {found}")
    total = 0
    for writer, times in (entry.split(":") for entry in writers):
        numbers = [number for (number,) in db.execute("select number from entry where writer = ? order by before", (writer,))]
        if numbers != list(range(int(times))):
            sys.exit(f"{writer}: {len(numbers)} entries of {times}, or out of order")
        total += int(times)
    (value,) = db.execute("select value from sum").fetchone()
    (count,) = db.execute("select count(*) from entry").fetchone()
    if not value == count == total:
        sys.exit(f"sum {value}, {count} entries, {total} transactions")
    print("ok")


if __name__ == "__main__":
    {"create": create, "write": write, "check": check}[sys.argv[1]](*sys.argv[2:])
