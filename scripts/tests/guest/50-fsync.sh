#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# What fsync has confirmed at the remote is on the origin's disk: the origin's power is cut at once, and after its next boot the
# bytes are there. Boots node 1 twice.
# time-limit: 240

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/fsync
f=$DIR/f
agent o 1
agent r 2
must o "put('$f', bytes(1 << 20)); put('$DIR/grown', b''); run('sync -f $DIR'); fd = share('$f'); grown = share('$DIR/grown')"
must r "fd = remote('$f'); grown = remote('$DIR/grown'); blob = data(1 << 20, 7)"

check "256 pages written" r "write_all(fd, blob)" ok
check "fsync asks the origin" r "(lambda c: os.fsync(fd) or c.messages()['Commit'] >= 1)(Change())"
check "a file that grew" r "write_all(grown, blob[:300001]) or os.fsync(grown)" ok
check "O_DSYNC at the remote" r "os.pwrite(remote('$f', RW | os.O_DSYNC), b'dsync', 500000)" 5
check "fsync of what is clean" r "os.fsync(fd)" ok
expect "power off" fault 1 kill
check "a call that needs the dead node ends" r "bounded(lambda: os.fsync(fd) or os.pread(remote('$f'), 1, 0), 'EIO ETIMEDOUT ENOTCONN ESTALE ENOENT', 12)"
leave o
PUSHED=()
expect "power on" fault 1 start
agent o 1
must o "blob = bytearray(data(1 << 20, 7)); blob[500000:500005] = b'dsync'"
check "every confirmed byte is there" o "get('$f') == blob"
check "also of the file that grew, with its size" o "get('$DIR/grown') == data(1 << 20, 7)[:300001]"

# ---- the origin has a new session: old descriptors say so, new ones work
check_in "an old descriptor does not show other bytes than the file's" r "error_of(os.pread, fd, 10, 600000) if error_of(os.pread, fd, 10, 600000) != 'none' else os.pread(fd, 10, 600000) == blob[600000:600010]" "True ESTALE EIO ETIMEDOUT ENOTCONN"
check_in "… and takes no write that would be lost" r "error_of(lambda: os.pwrite(fd, b'lost?', 600000) and os.fsync(fd))" "ESTALE EIO ETIMEDOUT ENOTCONN EBADF"
must r "os.close(fd); os.close(grown)"
must o "fd = share('$f')"
check "a new open works" r "wait(lambda: error_of(lambda: globals().update(fd=remote('$f'))) == 'none', 20)"
check "… and reads what is there" r "os.pread(fd, 5, 500000)" "b'dsync'"
check "… and writes" r "os.pwrite(fd, b'after', 500000) and os.fsync(fd)" ok
check "… and the origin sees it" o "get('$f')[500000:500005]" "b'after'"

# ---- writes without fsync, then the remote goes in order: nothing is lost either
check "written and closed, without fsync" r "write_all(fd, data(200000, 8)) or os.close(fd)" ok
check "the origin has it" o "get('$f')[:200000] == data(200000, 8)"
check "fsync at the origin fetches what the remote has written" r "globals().update(fd=remote('$f')) or os.pwrite(fd, b'fetch me', 4096)" 8
must o "os.fsync(fd)"
expect "power off" fault 1 kill
leave o
PUSHED=()
expect "power on" fault 1 start
agent o 1
check "the origin's own fsync has put the remote's bytes on its disk" o "get('$f')[4096:4104]" "b'fetch me'"
finish
