#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The size of a file is one size: growing, shrinking, appending, holes, and offsets up to 8 EiB.

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/size
agent o 1
agent r 2
f=$DIR/f
must o "run('vremote export add --no-root-squash $DIR'); put('$f', b'0123456789'); plain = os.open('$f', RW); fd = share('$f')"
must r "fd = remote('$f'); second = remote('$f')"

# same WANTED WHAT: fstat at both nodes, on flagged and unflagged descriptors, and a path's stat.
same() {
	expect_eq "$2: one size everywhere" \
		"$(ask r "f'{size(fd)} {size(second)} {os.stat(\"/vremote/node1$f\").st_size}'") $(ask o "f'{size(fd)} {size(plain)} {os.stat(\"$f\").st_size}'")" \
		"$1 $1 $1 $1 $1 $1"
}

# ---- growing
same 10 "at first"
check "the remote writes beyond the end" r "os.pwrite(fd, b'abc', 10)" 3
same 13 "grown by the remote"
check "the origin reads what came" o "os.pread(plain, 100, 8)" "b'89abc'"
check "the origin grows it" o "os.pwrite(plain, b'def', 13)" 3
same 16 "grown by the origin"
check "the remote reads to the new end" r "os.pread(fd, 100, 8)" "b'89abcdef'"
check "the remote leaves a gap" r "os.pwrite(fd, b'far', 100000)" 3
same 100003 "grown with a gap"
check "the gap reads as zeros at the origin" o "os.pread(plain, 99984, 16) == bytes(99984)"
check "… and at the remote" r "os.pread(fd, 99984, 16) == bytes(99984)"
check "a write across pages that grows the file" r "os.pwrite(fd, data(20000, 1), 99000)" 20000
same 119000 "grown in the middle of a write"
check "equal bytes" o "os.pread(plain, 20000, 99000) == data(20000, 1)"
check "one write of 1 MiB beyond the end" r "os.pwrite(fd, data(1 << 20, 2), 119000)" 1048576
check "equal bytes" o "os.pread(plain, 1 << 20, 119000) == data(1 << 20, 2)"
check "SEEK_END knows the size of the moment" o "os.pwrite(plain, b'x', 1167576)" 1
check "… at the remote" r "os.lseek(fd, 0, 2)" 1167577
check "a reader at the end sees what comes" r "os.lseek(second, 0, 2) and os.read(second, 10)" "b''"
must o "os.pwrite(plain, b'more', 1167577)"
check "… when it has come" r "os.read(second, 10)" "b'more'"

# ---- shrinking
check "the origin truncates" o "os.ftruncate(plain, 5000)" ok
same 5000 "truncated by the origin"
check "the remote reads no more than that" r "len(read_all(fd))" 5000
check "and nothing of what was behind it" r "os.pread(fd, 100, 5000)" "b''"
check "the remote makes it longer again" r "os.ftruncate(fd, 9000)" ok
same 9000 "lengthened by the remote"
check "the old bytes are gone at the remote" r "os.pread(fd, 4000, 5000) == bytes(4000)"
check "… and at the origin" o "os.pread(plain, 4000, 5000) == bytes(4000)"
check "the remote truncates" r "os.ftruncate(fd, 4097)" ok
same 4097 "truncated by the remote"
check "the origin lengthens it" o "os.ftruncate(plain, 8192)" ok
check "zeros at the remote" r "os.pread(fd, 8192, 4097) == bytes(4095)"
check "truncation by path at the remote" r "os.truncate('/vremote/node1$f', 100)" ok
same 100 "truncated by path"
check "bytes before the end stay" o "get('$f') == b'0123456789abcdef' + bytes(84)"
must r "os.pwrite(fd, b'dirty', 50)"
check "written at the remote, then cut off at the origin" o "os.ftruncate(plain, 20)" ok
check "… stays away" o "os.ftruncate(plain, 100) or get('$f') == b'0123456789abcdef' + bytes(84)"
check "… at the remote too" r "read_all(fd) == b'0123456789abcdef' + bytes(84)"
check "O_TRUNC at the remote" r "os.close(remote('$f', RW | TRUNC))" ok
same 0 "after the remote's O_TRUNC"
check "empty at the remote" r "read_all(fd)" "b''"
must r "os.pwrite(fd, b'again', 0)"
check "the shell's > at the origin" o "run(': > $f')" ""
same 0 "after the origin's O_TRUNC"
check "O_TRUNC without write access to the file's content at first" r "os.pwrite(remote('$f', WO | TRUNC), b'new', 0) and read_all(fd)" "b'new'"
check "a read-only descriptor cannot truncate" r "os.ftruncate(remote('$f', RO), 0)" EINVAL
check "a negative size" r "os.ftruncate(fd, -1)" EINVAL

# ---- appending
must r "app = remote('$f', WO | APPEND)"
check "O_APPEND at the remote goes to the end of the moment" r "os.write(app, b'-r1')" 3
must o "oapp = os.open('$f', WO | APPEND); os.write(oapp, b'-o1')"
must r "os.write(app, b'-r2')"
must o "os.write(oapp, b'-o2'); os.pwrite(plain, b'!', 20)"
must r "os.write(app, b'-r3')"
check "in turns" o "get('$f')" "b'new-r1-o1-r2-o2\\x00\\x00\\x00\\x00\\x00!-r3'"
check "the same at the remote" r "read_all(fd)" "b'new-r1-o1-r2-o2\\x00\\x00\\x00\\x00\\x00!-r3'"

# ---- holes and far offsets (ext4 with 4 KiB blocks ends at 16 TiB, the interface at 8 EiB)
must o "put('$DIR/sparse', b''); os.truncate('$DIR/sparse', 1 << 40); sparse = share('$DIR/sparse')"
must r "sparse = remote('$DIR/sparse')"
check "1 TiB of hole" r "(size(sparse), os.pread(sparse, 8192, (1 << 39) + 5) == bytes(8192), os.pread(sparse, 5, (1 << 40) - 3))" "(1099511627776, True, b'\\x00\\x00\\x00')"
check "bytes written into it" r "os.pwrite(sparse, b'island', (1 << 39) - 3)" 6
check "… and read" o "os.pread(sparse, 10, (1 << 39) - 5)" "b'\\x00\\x00island\\x00\\x00'"
check "the hole is still one" o "os.fsync(sparse) or os.fstat(sparse).st_blocks < 200"
last=17592186040320
check "the last bytes that ext4 can have" r "os.pwrite(sparse, b'end', $last - 3)" 3
check "… are at the origin" o "(size(sparse), os.pread(sparse, 10, $last - 3))" "($last, b'end')"
check "one byte more" r "os.pwrite(sparse, b'x', $last)" EFBIG
for at in '(1 << 63) - 1' '(1 << 63) - 4096' '(1 << 63) - 4097' '(1 << 62)'; do
	check "read at $at: as from a local file" r "os.pread(sparse, 1, $at)" "$(ask o "os.pread(sparse, 1, $at)")"
	check_in "write at $at" r "error_of(os.pwrite, sparse, b'x', $at)" "EFBIG EINVAL"
done
check_in "read and write across the highest offset" r "error_of(os.pread, sparse, 8192, (1 << 63) - 4097)" "none EINVAL EOVERFLOW"
check_in "ftruncate to 8 EiB" r "os.ftruncate(sparse, (1 << 63) - 1)" "EFBIG EINVAL"
check "nothing of that has changed the file" o "(size(sparse), os.pread(sparse, 10, $last - 3))" "($last, b'end')"
check "O_APPEND at the last possible byte" r "os.write(remote('$DIR/sparse', WO | APPEND), b'x')" EFBIG
check "seek to the highest offset" r "os.lseek(sparse, (1 << 63) - 1, 0)" 9223372036854775807
check "a hole punched by the origin" o "os.pwrite(plain, bytes(range(1, 201)) * 100, 0) and run('fallocate -p -o 4096 -l 4096 $f')" ""
check "… is one at the remote" r "os.pread(fd, 4096, 4096) == bytes(4096) and os.pread(fd, 8, 4090)" "b'[\\\\]^_\`\\x00\\x00'"
finish
