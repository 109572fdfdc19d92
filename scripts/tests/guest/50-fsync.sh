#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# What fsync has confirmed at the remote is on the origin's disk: the origin's power is cut at once, and after its next boot the
# bytes are there. The emulated disk keeps what it was given, so it is also looked whether the disk was told to flush its cache, which
# real ones need. Boots node 1 twice.
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

# ---- the disk flushes its cache for an fsync, and not for what comes home otherwise (which shows that what is counted are these flushes)
must o "
device = os.stat('$DIR').st_dev
def flushes():
    return int(open(f'/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat').read().split()[15])
def still(seconds):
    'Waits until nothing that came before makes the disk flush any more: ext4 writes its journal every 5 s.'
    while True:
        before = flushes()
        time.sleep(seconds)
        if flushes() == before: return before"
must o "run('sync'); still(7)"
# flushed NAME PYTHON: how often the disk flushed while that was done
flushed() {
	local before got
	before=$(ask o 'flushes()')
	got=$(ask "$1" "pass; $2")
	[ "$got" = ok ] && echo $(($(ask o 'flushes()') - before)) || echo "$2: $got"
}
expect_eq "a write at the remote makes the origin's disk flush nothing" "$(flushed r "os.pwrite(fd, blob[8192:8292], 8192)")" 0
expect_eq "… nor does its way home" "$(flushed r "libc('sync_file_range', fd, 0, 0, 7)")" 0
expect_match "fsync at the remote, of what has come home: the disk flushes its cache" "$(flushed r "os.fsync(fd)")" '^[1-9]'
expect_match "… and of what has not" "$(flushed r "os.pwrite(fd, blob[8192:8292], 8192); os.fsync(fd)")" '^[1-9]'
expect_match "… fdatasync, too" "$(flushed r "os.pwrite(fd, blob[8192:8292], 8192); os.fdatasync(fd)")" '^[1-9]'
must r "sync = remote('$f', RW | os.O_DSYNC)"
expect_match "… and a write with O_DSYNC" "$(flushed r "os.pwrite(sync, blob[8192:8292], 8192)")" '^[1-9]'
must r "os.close(sync); m = mmap.mmap(fd, 1 << 20)"
expect_match "… and msync" "$(flushed r "m[8192:8292] = blob[8192:8292]; m.flush()")" '^[1-9]'
must r "m.close(); os.pwrite(fd, blob[8192:8292], 8192)"
expect_match "… and fsync at the origin, of what a remote has written" "$(flushed o "os.fsync(fd)")" '^[1-9]'
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
