#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# A peer that does not answer: every call ends in time with an errno, interrupts work at once, and when the peer is back everything
# goes on and nothing is lost. Waits out the time limit of 5 s several times.
# time-limit: 240

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/silent
f=$DIR/f
late='EIO ETIMEDOUT'
agent o 1
agent r 2
agent s 2
must o "blob = data(4 << 20, 1); put('$f', blob); put('$DIR/other', b'other'); plain = os.open('$f', RW); fd = share('$f'); other = share('$DIR/other')"
must r "blob = data(4 << 20, 1); fd = remote('$f'); big = len(blob)"
must s "fd = remote('$f'); other = remote('$DIR/other')"
check "warm pages" r "os.pread(fd, 65536, 0) == blob[:65536]"
check "a dirty page" r "os.pwrite(fd, b'written before the silence', 8192)" 26
must r "
path = '/vremote/node1$f'
readers = [prepare('os.pread(fd, 4096, 3670016)', path) for _ in range(3)]
writer = prepare('os.pwrite(fd, bytes(100), 2700000)', path)
grower = prepare('os.pwrite(fd, bytes(100), 5000000)', path)
syncer = prepare('os.pwrite(fd, bytes(1), 12288); os.fsync(fd)', path)
opener = prepare('os.open(path, 0o22)', path, '$DIR/none')
looker = prepare('os.stat(path)', path, '/vremote/node1$DIR/never-seen')"

fault 2 partition
# ---- every call that needs the other node ends between 4 and 11 s (limit: 5 s)
tell r "bounded(lambda: os.pread(fd, 4096, 3 << 20), '$late', 11, 4)"
tell s "bounded(lambda: os.fsync(fd) or os.fstat(other), '$late', 11)"
expect_eq "a read of a cold page" "$(answer r)" True
expect_eq "fsync or fstat" "$(answer s)" True
tell r "bounded(lambda: remote('$DIR/other'), '$late ENOTCONN', 11)"
tell s "bounded(lambda: os.pwrite(fd, b'x', 2 << 20), '$late', 11, 4)"
expect_eq "an open" "$(answer r)" True
expect_eq "a write to a cold page" "$(answer s)" True
check "a warm page, too, when the lease has run out" r "bounded(lambda: os.pread(fd, 4096, 16384), '$late', 11)"
check "the origin's pages are read at once" o "timed(os.pread, plain, 4096, 3 << 20)[1] < 1 and os.pread(plain, 4096, 3 << 20) == blob[3 << 20:(3 << 20) + 4096]"
check "other files of the origin too" o "timed(get, '$DIR/other')[0]" "b'other'"

check "the peer is shown as down" r "wait(lambda: peers()['node1']['state'] == 'down', 10)"
expect "the log says so" on 2 sh -c 'dmesg | grep "vremote: peer node1" | tail -n 3 | grep -q "peer node1 down"'

# ---- interrupts: when the program waits, a signal ends it at once
for signal in SIGINT SIGTERM SIGKILL; do
	check "$signal ends a waiting read" r "interrupted(readers.pop(), signal.$signal, 'GetShared')"
done
check "SIGINT ends a waiting write" r "interrupted(writer, signal.SIGINT, 'GetModified')"
check "SIGINT ends a waiting write at the end" r "interrupted(grower, signal.SIGINT, 'Write')"
check "SIGKILL ends a waiting fsync" r "interrupted(syncer, signal.SIGKILL, 'GetModified Put Commit')"
check "SIGINT ends a waiting open" r "interrupted(opener, signal.SIGINT, 'Open Lookup')"
check "SIGINT ends a waiting stat" r "interrupted(looker, signal.SIGINT, 'Lookup GetAttr')"

# ---- the peer is back
fault 2 heal
check "the peers find each other again" r "wait(lambda: peers()['node1']['state'] == 'up', 10)"
expect "the log says that too" on 2 sh -c 'dmesg | grep "vremote: peer node1" | tail -n 3 | grep -q "peer node1 up"'
check "… from both sides" o "wait(lambda: peers()['node2']['state'] == 'up', 10)"
check "the read that failed works now" r "os.pread(fd, 4096, 3 << 20) == blob[3 << 20:(3 << 20) + 4096]"
check "the origin gets what was written before the silence" o "os.pread(plain, 26, 8192)" "b'written before the silence'"
check "an open" r "read_all(remote('$DIR/other'))" "b'other'"
check "a write" r "os.pwrite(fd, b'after', 2 << 20) and os.fsync(fd)" ok
check "… arrives" o "os.pread(plain, 5, 2 << 20)" "b'after'"
check "everything else is as it was" r "sha(fd)" "$(ask o 'sha(plain)')"

# ---- a node that stands still (its clock goes on) is the same
must r "drop_caches()"
fault 1 pause
check "a read from a node that stands still ends in time" r "bounded(lambda: os.pread(fd, 4096, 1 << 20), '$late', 11, 4)"
fault 1 resume
check "and works when it goes on" r "wait(lambda: error_of(os.pread, fd, 4096, 1 << 20) == 'none', 20) and os.pread(fd, 4096, 1 << 20) == blob[1 << 20:(1 << 20) + 4096]"
# A short silence is not noticed but for the delay.
tell r "timed(os.pread, fd, 4096, 3 << 20)[0] == blob[3 << 20:(3 << 20) + 4096]"
fault 2 partition
fault 2 heal
expect_eq "a short silence fails nothing" "$(answer r)" True

# ---- a program of the origin that is killed while it waits leaves nothing behind
must o "waiter = prepare('os.fsync(fd)', '$f')"
must r "[os.pwrite(fd, b'x', page * PAGE + 1) for page in range(100, 140)]"
fault 2 partition
check "SIGKILL ends an fsync of the origin that waits for pages" o "interrupted(waiter, signal.SIGKILL, 'Recall')"
fault 2 heal
check "… and nothing is kept for it" o "wait(lambda: shared('$f')['transactions'] == 0, 15) or shared('$f')"

# ---- a peer that takes long is not silent: it says that it works
must r "os.pwrite(fd, b'slow', 5 << 20)"
on 1 fsfreeze -f /srv
tell r "timed(lambda: (os.pwrite(fd, b'at the end', size(fd)), os.fsync(fd)))"
sleep 8
on 1 fsfreeze -u /srv
got=$(answer r 60)
expect_match "a write and an fsync that take 8 s at the origin are waited for" "$got" '^\(\(10, None\), ([89]|[1-9][0-9]+)\.'
check "… and done" o "os.pread(plain, 4, 5 << 20) + get('$f')[-10:]" "b'slowat the end'"

# ---- an answer that comes too late is not lost: what nobody waits for is closed again
must o "opens = shared('$f')['remote_opens']"
fault 2 delay 4s
check "an open whose answer takes 8 s ends in time" r "bounded(lambda: remote('$f'), '$late', 7, 4)"
check "a lock too" r "bounded(lambda: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB), '$late', 7, 4)"
fault 2 clear
check "… the origin has neither open any more" o "wait(lambda: shared('$f')['remote_opens'] == opens, 20) or shared('$f')['remote_opens'] - opens"
check "… nor locked" o "wait(lambda: error_of(fcntl.lockf, plain, fcntl.LOCK_EX | fcntl.LOCK_NB) == 'none', 20)"

# ---- the one wait without a limit of its own: dirty pages of an origin that never comes back are kept until somebody gives them up
check "three dirty pages" r "[os.pwrite(fd, b'last', page * PAGE) for page in (200, 201, 202)]" "[4, 4, 4]"
fault 2 partition
tell s "timed(run, 'sync')"
must r "time.sleep(8)"
expect_match "sync waits for them, and vremote status says what to do" "$(on 2 vremote status)" 'dirty pages waiting for origin node1: 12 KiB.*vremote peer del node1'
expect "they are given up with the peer" on 2 vremote peer del node1
expect_match "… which ends the wait" "$(answer s)" '^\(.*, ([89]|[1-9][0-9])\.'
expect_match "… and the log says that they are lost" "$(on 2 sh -c 'dmesg | grep vremote: | tail -n 4')" '(12288|4096) bytes written to inode [0-9]+ of node node1 are lost'
check "… as fsync does" r "error_of(os.fsync, fd) in ('EIO', 'ESTALE')"
fault 2 heal
expect "the cluster tool introduces the nodes again" "$TOP/scripts/cluster" peers >/dev/null
finish
