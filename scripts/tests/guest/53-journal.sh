#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The origin's disk fails under an ext4 with a journal, which ends the journal and with it all writing, until the file system is mounted
# anew. Remotes are told what programs of the origin are told: every descriptor that an error of the disk has lost bytes, once, and then
# that nothing can be written; what is cached is read on. Afterwards what an fsync had confirmed is on the disk.
# nodes: 3
# time-limit: 180

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/journal
m=$DIR/mnt
v=/vremote/node1$m
other=3
[ "$VREMOTE_NODES" -ge 3 ] || other=2
agent o 1
agent r 2
agent s $other
must o "
disk = Disk('$DIR', 48, '-J size=8'); disk.mount('$m')
put('$m/f', data(64 * PAGE, 1)); put('$m/own', data(64 * PAGE, 2)); run('sync')
plain = os.open('$m/f', RW); own = os.open('$m/own', RW)
run('vremote export add --no-root-squash $m')"
must r "wait(lambda: exists('$v/f'), 30); a = os.open('$v/f', RW); b = os.open('$v/f', RW); os.pwrite(a, b'synced', 8 * PAGE); os.fsync(a); warm = os.pread(a, 10, 40 * PAGE)"
must s "c = os.open('$v/f', RW)"

# ---- the disk fails under what a remote has written, and what a program of the origin appends then ends the journal
must r "os.pwrite(a, b'lost', PAGE)"
must o "disk.fail()"
note "a program of the origin, of a file of its own: $(ask o "(error_of(os.pwrite, own, b'end', 64 * PAGE), [error_of(os.fsync, own) for _ in range(3)])")"
expect "the journal is ended" eventually 10 sh_on 1 'dmesg | grep -q "Aborting journal on device dm-"'
check_in "fsync of what a remote had written, when the disk has failed" r "error_of(os.fsync, a)" "EIO EROFS"
check_in "… for the other descriptor of that node" r "error_of(os.fsync, b)" "EIO EROFS"
check_in "… for another node that has it open" s "error_of(os.fsync, c)" "EIO EROFS"
check_in "… for the origin's own" o "error_of(os.fsync, plain)" "EIO EROFS"
refused() { # WHAT PYTHON, with {fd} and {dir}: the same errors at the origin and at the remote
	local here there
	here=$(ask o "$(sed "s:{fd}:plain:g; s:{dir}:$m:g" <<<"$2")")
	there=$(ask r "$(sed "s:{fd}:a:g; s:{dir}:$v:g" <<<"$2")")
	expect_eq "$1 is refused as at the origin ($here)" "$there" "$here"
	expect_match "… which is an error" "$here" '^E(IO|ROFS)$'
}
refused "a new file" "error_of(os.open, '{dir}/new', RW | CREAT)"
refused "a write at the end" "error_of(os.pwrite, {fd}, b'end', 64 * PAGE)"
refused "a shorter file" "error_of(os.ftruncate, {fd}, PAGE)"
refused "another mode" "error_of(os.chmod, '{dir}/f', 0o600)"
check_in "a write into a page, or its fsync, is as well" r "error_of(lambda: os.pwrite(a, b'more', 20 * PAGE) and os.fsync(a))" "EIO EROFS"
check "… what is cached is read on" r "os.pread(a, 10, 40 * PAGE) == warm"
check "every call has ended in time" r "timed(os.fsync, a)[1] < $((VREMOTE_DEBUG ? 15 : 3))"

# The disk is well: the file system is mounted anew, its journal replayed.
leave r s
must o "[os.close(fd) for fd in (plain, own)]; run('vremote export del $m'); disk.be_well()"
check "all of it is let go: the file system can be unmounted" o "wait(lambda: os.system('umount $m 2>/dev/null') == 0, 20)"
check "its check can mend it by itself" o "run(f'e2fsck -fp {disk.device} >/dev/null 2>&1; [ \$? -le 1 ]')" ''
must o "disk.mount('$m'); run('vremote export add --no-root-squash $m')"
agent r 2
check "what fsync had confirmed is there" r "wait(lambda: exists('$v/f'), 30) and get('$v/f')[8 * PAGE:8 * PAGE + 6]" "b'synced'"
check "… and it is written again" r "globals().update(a=os.open('$v/f', RW)) or os.pwrite(a, b'again', 0) and os.fsync(a)" ok
check "… which the origin sees" o "get('$m/f')[:5]" "b'again'"
leave r
must o "run('vremote export del $m')"
check "let go again" o "wait(lambda: os.system('umount $m 2>/dev/null') == 0, 20)"
must o "disk.remove()"
finish
