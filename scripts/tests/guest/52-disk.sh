#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The origin's disk is full, or fails: who writes is told with the write or with fsync, every descriptor once, as on a local file; who
# reads is told at once; and when the disk is well again everything goes on. A file system of 24 MiB without a journal, on a device
# that is made to fail; 307 of its blocks are for root of its own node alone.
# nodes: 3
# time-limit: 180

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/disk
m=$DIR/mnt
v=/vremote/node1$m
other=3
[ "$VREMOTE_NODES" -ge 3 ] || other=2
agent o 1
agent r 2
agent s $other
must o "
disk = Disk('$DIR', 24, '-O ^has_journal', '-m 5'); disk.mount('$m')
put('$m/f', data(64 * PAGE, 1)); put('$m/cold', data(64 * PAGE, 2)); put('$m/full', b''); run('fallocate -l 16M $m/filler; sync')
plain = os.open('$m/f', RW)
run('vremote export add --no-root-squash $m')"
must r "a = os.open('$v/f', RW); b = os.open('$v/f', RW); cold = os.open('$v/cold', RW)"
must s "c = os.open('$v/f', RW)"

# ---- no room: a write at the end is refused at once
must r "
full = os.open('$v/full', RW | APPEND); twin = os.open('$v/full', RW); written = 0
try:
    while True:
        written += os.write(full, data(65536, written))
except OSError as error:
    last = errno.errorcode[error.errno]"
check "a write at the end of the file when the disk is full" r "last" ENOSPC
check "what was confirmed before is there" r "os.fstat(full).st_size == written and written > 1 << 20 and os.pread(full, 65536, 65536) == data(65536, 65536)"
check "… at the origin" o "os.stat('$m/full').st_size == $(ask r written)"
check "a new file has no room for its first byte" r "error_of(write_all, os.open('$v/new', RW | CREAT), b'x' * PAGE)" ENOSPC
check "… nor has fallocate any" r "error_of(fallocate, os.open('$v/new', RW), 0, 0, PAGE)" ENOSPC
check "what the file system reserves is left" o "(lambda v: (v.f_bavail < 16, v.f_bfree > 300))(os.statvfs('$m'))" "(True, True)"
must o "own = os.open('$m/own', RW | CREAT)"
must r "far = os.open('$v/own', RW)"
check "… for root of the origin" o "os.pwrite(own, data(8 * PAGE, 3), 0)" $((8 * 4096))
check "… whose bytes are not lost when another node writes beside them" r "os.fstat(far).st_size and os.pwrite(far, b'far', 100) and os.fsync(far)" ok
check "… at the origin" o "differs(get('$m/own'), overwritten(data(8 * PAGE, 3), 100, b'far'))"
must r "os.close(far)"
must o "os.close(own); os.unlink('$m/own')"

# ---- a hole has room only when it is written home: fsync says so, every descriptor once
must r "hole = os.open('$v/new', RW); again = os.open('$v/new', RW); os.ftruncate(hole, 1 << 20)"
must o "new = os.open('$m/new', RW)"
check "a write into a hole is taken" r "os.pwrite(hole, b'no room', 8192)" 7
check "… and fsync says that there was no room" r "error_of(os.fsync, hole)" ENOSPC
check "… once" r "error_of(os.fsync, hole)" none
check "… to the other descriptor too" r "error_of(os.fsync, again)" ENOSPC
check "… once" r "error_of(os.fsync, again)" none
check "… and to the origin's own descriptor" o "error_of(os.fsync, new)" ENOSPC
check "the hole is as it was" r "os.pread(hole, 7, 8192)" "b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00'"
expect "the remote's log says what is lost" on 2 sh -c 'dmesg | grep vremote: | tail -n 5 | grep -qE "are lost: (ENOSPC|Error\(28\))"'
must r "mm = mmap.mmap(hole, 1 << 20); mm[0:2] = b'no'"
check "for a store through a mapping msync says that there is no room for it" r "error_of(mm.flush)" ENOSPC
must r "mm.close(); os.ftruncate(full, 1 << 20)"
check "with room again it is written" r "os.pwrite(hole, b'room', 8192) and os.fsync(hole)" ok
check "… and is there" o "get('$m/new')[8192:8199]" "b'room\\x00\\x00\\x00'"

# ---- the disk fails under what has come home
check "a page written" r "os.pwrite(a, b'lost', 4096)" 4
must o "disk.fail()"
check "the disk fails: fsync says so" r "error_of(os.fsync, a)" EIO
must o "disk.be_well()"
check "… once" r "error_of(os.fsync, a)" none
check "… to the other descriptor of that node" r "error_of(os.fsync, b)" EIO
check "… once" r "error_of(os.fsync, b)" none
check "… to another node that has it open" s "error_of(os.fsync, c)" EIO
check "… once" s "error_of(os.fsync, c)" none
check "… to the origin's own descriptor" o "error_of(os.fsync, plain)" EIO
check "… once" o "error_of(os.fsync, plain)" none
check "who opens it then is not told" r "error_of(os.fsync, os.open('$v/f', RW))" none
check "a write after that is written" r "os.pwrite(a, b'kept', 4096) and os.fsync(a)" ok
must o "drop_caches()"
check "… to the disk" o "get('$m/f')[4096:4100]" "b'kept'"

# ---- a page that cannot be read
must r "warm = os.pread(cold, 10, 0); mapped = mmap.mmap(cold, 64 * PAGE)"
must o "disk.fail(); drop_caches()"
check "a page that the origin cannot read" r "(lambda t: t[0] == 'EIO' and t[1] < 3 or t)(timed(os.pread, cold, 10, 40 * PAGE))"
check "… a load through a mapping is SIGBUS" r "bounded_end(lambda: mapped[50 * PAGE], 'SIGBUS', 3)"
check "… what is cached is read on" r "os.pread(cold, 10, 0) == warm"
must o "disk.be_well()"
check "… and it is read when the disk is well" r "os.pread(cold, 10, 40 * PAGE) == data(64 * PAGE, 2)[40 * PAGE:40 * PAGE + 10]"

# ---- a grant that is late is asked for again, although it may have arrived. Then the origin must not read the page from its disk: that has
# old bytes by now, and local programs that wait for the disk would find them in the page cache.
must o "
put('$m/late', data(PAGE)); late = os.open('$m/late', RW)
def look():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # it is the first to run when the disk has answered
    seen.append(os.pread(late, 4, 0))"
must r "late = os.open('$v/late', RW)"
for held in 1 0; do
	must o "os.pwrite(late, b'old$held', 0); os.fsync(late)"
	[ $held = 0 ] || must r "os.pread(late, 4, 0)"
	must o "disk.stand_still()"
	fault 1 delay 100ms
	check "while answers are late, and the disk stands still, another node writes to a page that it has$([ $held = 1 ] || echo " not")" r "os.pwrite(late, b'new$held', 0)" 4
	must o "seen = []; reader = threading.Thread(target=look); reader.start(); time.sleep(0.5)"
	fault 1 heal
	must o "disk.go_on()"
	check "… a program of the origin sees that" o "reader.join(10) or seen" "[b'new$held']"
done

# ---- a disk that stands still for longer than a silent origin is waited for: this one says that it works
must o "put('$m/still', data(PAGE)); run('sync')"
must r "still = os.open('$v/still', RW)"
must o "drop_caches(); disk.stand_still()"
tell r "os.pwrite(still, b'new', 100)"
sleep 12
must o "disk.go_on()"
expect_eq "a write into a page that is not here waits for a disk that stands still" "$(answer r)" 3
check "… and is seen" r "os.pread(still, 4, 99) == data(PAGE)[99:100] + b'new'"
must r "os.close(still)"

leave r s
must o "os.close(late); os.close(plain); os.close(new); run('vremote export del $m')"
check "all of it is let go: the file system can be unmounted" o "wait(lambda: os.system('umount $m 2>/dev/null') == 0, 20)"
must o "disk.remove()"
finish
