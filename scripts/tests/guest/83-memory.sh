#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Little memory: a remote writes and reads more than it has room for, all other memory being taken by a program; then the origin has none
# left. Nothing stands still, and nothing is lost: a page is let go only when the origin has it, which takes memory for packets on both.
# What an origin keeps of pages that it has granted away dirty has a limit.
# time-limit: 300

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

MIB=48 LEFT=30

# The debug kernel takes far longer for each page that has to leave before another one finds room.
anew() { reload "$@" && "$TOP/scripts/cluster" peers; }
[ "$VREMOTE_DEBUG" = 0 ] || ASK_SECONDS=900
[ "$VREMOTE_DEBUG" = 0 ] || expect "calls may take a minute" anew timeout_ms=60000
begin /srv/memory
v=/vremote/node1$DIR
agent o 1
agent r 2
must o "run('truncate -s ${MIB}M $DIR/mapped $DIR/written $DIR/origin; truncate -s $((MIB * 3 / 2))M $DIR/stash; vremote export add --no-root-squash $DIR')"
# What writes, and reads back, in a process of its own: bytes that depend on their place.
for who in o r; do
	must $who "
def block(number):
    return struct.pack('<Q', number) * (65536 // 8)
def write(path):
    fd = os.open(path, RW)
    for number in range($MIB * 16):
        write_all(fd, block(number), number * 65536)
    os.fsync(fd)
def store(path):
    fd = os.open(path, RW)
    with mmap.mmap(fd, $MIB << 20) as m:
        for number in range($MIB * 16):
            m[number * 65536:(number + 1) * 65536] = block(number)
    os.fsync(fd)
def verify(path):
    fd = os.open(path, RO)
    wrong = [number for number in range($MIB * 16) if os.pread(fd, 65536, number * 65536) != block(number)]
    if wrong:
        raise ValueError(f'{len(wrong)} blocks are wrong, the first one is {wrong[0]}')
def available():
    return int(re.search(r'MemAvailable: *(\d+)', open('/proc/meminfo').read())[1]) >> 10
def hog():
    'A program that takes all memory but LEFT MiB.'
    child = subprocess.Popen([sys.executable, '-c', '''import sys
kept = []
def available():
    return int(open('/proc/meminfo').read().split('MemAvailable:')[1].split()[0]) >> 10
while available() > $LEFT:
    kept.append(bytearray(b'x') * (1 << 20))
print('full', flush=True)
sys.stdin.read()'''], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    open(f'/proc/{child.pid}/oom_score_adj', 'w').write('1000')
    child.stdout.readline()
    return child"
done

# ---- a node with $LEFT MiB left
must r "fat = hog()"
note "$(ask r 'available()') MiB are left at the remote"
check "a remote with $LEFT MiB left writes $MIB MiB" r "ends(write, '$v/written')" "done"
check "… by stores" r "ends(store, '$v/mapped')" "done"
check "… and reads them" r "ends(verify, '$v/mapped')" "done"
check "the memory was taken all the time" r "fat.poll() is None"
must r "fat.kill(); fat.wait()"
check "all of it is at the origin" o "verify('$DIR/written') or verify('$DIR/mapped')" ok

must o "fat = hog()"
note "$(ask o 'available()') MiB are left at the origin"
check "an origin with $LEFT MiB left takes $MIB MiB" r "ends(write, '$v/origin')" "done"
check "… and gives them" r "drop_caches() or ends(verify, '$v/origin')" "done"
check "the memory was taken all the time" o "fat.poll() is None"
must o "fat.kill(); fat.wait()"
check "all of it is at the origin" o "verify('$DIR/origin')" ok

# ---- last versions of pages that are on no disk, and that a remote owns
must r "fd = os.open('$v/stash', RW)"
must o "fd = os.open('$DIR/stash', RW); [write_all(fd, block(number), number * 65536) for number in range($MIB * 24)]"
tell r "[os.pwrite(fd, b'r' * 65536, number * 65536) for number in range($MIB * 24)] and 'done'"
expect_eq "a remote takes $((MIB * 3 / 2)) MiB that were not on the disk" "$(answer r $((VREMOTE_DEBUG ? 900 : 200)))" "done"
note "the origin keeps $(ask o "shared('$DIR/stash')['pages_stashed']") of its pages"
check "… of which the origin keeps no more than a sixteenth of its memory" o "(lambda kept, all: kept <= all >> 4 or (kept, all))(shared('$DIR/stash')['pages_stashed'], int(re.search(r'MemTotal: *(\d+)', open('/proc/meminfo').read())[1]) >> 2)"
must r "os.fsync(fd)"
check "… and gets the remote's" o "all(os.pread(fd, 65536, number * 65536) == b'r' * 65536 for number in range($MIB * 24))"
must r "os.close(fd)"
must o "os.close(fd)"
check "all of it is let go" o "no_exports() or wait(lambda: idle() is True, $((VREMOTE_DEBUG ? 400 : 60))) or idle()"
leave o r
[ "$VREMOTE_DEBUG" = 0 ] || expect "calls take no more than five seconds again" anew
finish
