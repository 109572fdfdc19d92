#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# What a program can do to a descriptor beyond read and write: fallocate, direct I/O, flags of a single call, copying without a buffer,
# requests in flight, advice, holes, leases. What one node does the other sees at once; what is not supported is refused, never done wrong.
# time-limit: 300

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/descriptor
program flight
agent o 1
agent r 2
E=$DIR/e M=/vremote/node1$DIR/e f=$DIR/e/f
must o "os.mkdir('$E'); run('vremote export add --no-root-squash $E')"

# ---- fallocate: the same calls at both nodes, each with pages that the other has just written
for a in o r; do must $a "want = data(65536, 1)"; done
must o "put('$f', want); fd = share('$f'); plain = os.open('$f', RW)"
must r "fd = remote('$f'); view = mmap.mmap(remote('$f'), 65536)"
both() { # WHAT: both nodes have what is wanted
	check "$1: the origin's bytes" o "differs(read_all(plain), want)"
	check "$1: the remote's bytes" r "differs(read_all(fd), want)"
	check "$1: the remote's size" r "(size(fd), os.stat('$M/f').st_size) == (len(want), len(want))"
}
write() { # AGENT AT TEXT
	must "$1" "os.pwrite(fd, b'$3', $2)"
	for a in o r; do must $a "want = overwritten(want, $2, b'$3')"; done
}
allocate() { # AGENT WHAT MODE AT COUNT
	check "$2" "$1" "fallocate(fd, $3, $4, $5)" ok
	for a in o r; do must $a "want = allocated(want, $3, $4, $5)"; done
	both "$2"
}
both "at first"
must r "read_all(fd)"
for a in o r; do
	# Far behind the end, at a place of its own: what lies there is not given back by a hole, because the file system sees no need.
	[ $a = o ] && b=r who='the origin' far=20 || b=o who='the remote' far=22
	write $b 100 "of the other node"
	allocate $a "$who makes it longer" 0 'len(want) - 5000' 20000
	write $b 9000 "dirty elsewhere"
	write $a 20000 "dirty here"
	allocate $a "$who punches a hole into both nodes' dirty pages" 'PUNCH_HOLE | KEEP_SIZE' 9005 11000
	write $b 33000 "$a: not zero"
	allocate $a "$who zeroes a range" ZERO 32768 4000
	allocate $a "$who zeroes beyond the end" ZERO 'len(want) - 1000' 20000
	allocate $a "… but keeps the size" 'ZERO | KEEP_SIZE' 'len(want) - 500' 20000
	write $b 61440 "$b: moved down"
	write $a 69632 "$a: moved down, too"
	allocate $a "$who takes a range out" COLLAPSE 40960 12288
	write $b 61440 "$b: moved up"
	allocate $a "$who puts a range in" INSERT 8192 16384
	check "… mapped at the remote" r "differs(view[:65536], want[:65536])"
	before=$(ask o "os.fsync(plain) or os.fstat(plain).st_blocks")
	check "$who allocates behind the end" $a "fallocate(fd, KEEP_SIZE, 1 << $far, 1 << 20)" ok
	both "… keeping the size"
	check "… and it costs blocks, which the remote sees" r "os.fstat(fd).st_blocks >= $before + 2048 and os.fstat(fd).st_blocks" "$(ask o "os.fstat(plain).st_blocks")"
done
must r "view.close()"
check "posix_fallocate" r "os.posix_fallocate(fd, 0, 150000)" ok
for a in o r; do must $a "want = allocated(want, 0, 0, 150000)"; done
both "posix_fallocate"
check "fallocate(1) by path" r "run('fallocate -d $M/f; fallocate -c -o 0 -l 4096 $M/f; fallocate -z -o 0 -l 10 $M/f')" ""
for a in o r; do must $a "want = bytes(10) + want[4096 + 10:]"; done
both "fallocate(1)"
check "a file that was unlinked" r "put('$M/gone', b'gone') or globals().update(gone=os.open('$M/gone', RW)) or os.unlink('$M/gone') or fallocate(gone, 0, 0, 9000) or os.pread(gone, 9999, 0) == b'gone' + bytes(8996)"
must r "os.close(gone)"
check "an O_APPEND descriptor: what is behind the end comes first" r "(lambda fd: fallocate(fd, 0, 0, 5000) or os.write(fd, b'end') and os.pread(fd, 5, 4999))(remote('$E/new', RW | APPEND | CREAT))" "b'\\x00end'"

# Refused by the remote or by the origin: the same errors as at the origin.
for call in 'PUNCH_HOLE, 0, 4096' 'COLLAPSE | KEEP_SIZE, 0, 4096' 'COLLAPSE | PUNCH_HOLE, 0, 4096' '4096, 0, 4096' '64, 0, 4096' '0, -1, 4096' \
	'0, 0, 0' '0, 0, -5' '0, (1 << 63) - 1, 4096' '0, 1 << 62, 1 << 62' '0, 17592186040320, 4096' 'COLLAPSE, 1, 4096' 'COLLAPSE, 0, 4095' \
	'INSERT, 5, 4096' 'COLLAPSE, 0, 1 << 40' 'INSERT, 1 << 40, 4096' 'INSERT, 0, 17592186040320' 'PUNCH_HOLE | KEEP_SIZE, 1 << 50, 4096'; do
	wanted=$(ask o "error_of(fallocate, plain, $call)")
	check "refused as at the origin: fallocate($call), $wanted" r "error_of(fallocate, fd, $call)" "$wanted"
done
both "after all that"
check "a descriptor for reading" r "fallocate(remote('$f', RO), 0, 0, 10)" EBADF
check "a directory" r "fallocate(os.open('$M', RO), 0, 0, 10)" EBADF
check "the caller's limit of file sizes: fallocate" r "limited(fallocate, fd, 0, 0, 400000, limit=300000)" EFBIG
check "… ftruncate" r "limited(os.ftruncate, fd, 400000, limit=300000)" EFBIG
check "… write" r "limited(os.pwrite, fd, b'x', 300000, limit=300000)" EFBIG
check "… inside the limit" r "limited(lambda: fallocate(fd, 0, 0, 200000), limit=300000)" ok
for a in o r; do must $a "want = allocated(want, 0, 0, 200000)"; done
both "after the limit"
must o "run('truncate -s 32M $DIR/disk && mke2fs -q -F -t ext4 -b 4096 $DIR/disk && mkdir $DIR/small && mount -o loop $DIR/disk $DIR/small && vremote export add --no-root-squash $DIR/small'); put('$DIR/small/f', b'full')"
check "no space: fallocate" r "globals().update(small=os.open('/vremote/node1$DIR/small/f', RW)) or fallocate(small, KEEP_SIZE, 0, 100 << 20)" ENOSPC
check "… leaves the bytes" r "os.pread(small, 9, 0)" "b'full'"
must r "os.close(small)"
must o "run('vremote export del $DIR/small')"
check "… and the file system can be unmounted" o "wait(lambda: subprocess.run(['umount', '$DIR/small'], capture_output=True).returncode == 0, 10)"

# Exactly once, whatever the network does, and while others are at work.
fault 2 loss 10%
check "under loss 20 ranges are put in, each once" r "globals().update(before=size(fd)) or [fallocate(fd, INSERT, 4096 * i, 4096) for i in range(20)] and size(fd) - before" 81920
fault 2 heal
check "… and taken out" o "[fallocate(fd, COLLAPSE, 0, 8192) for i in range(10)] and size(fd) == len(want)"
must o "os.ftruncate(fd, 0); os.ftruncate(fd, 64 * PAGE)"
agent w 2
must w "fd = remote('$f')"
tell w "stress(fd, 1, [2], 32, 6, 3)"
tell o "stress(fd, 2, [1], 32, 6, 4)"
check "holes are punched, and the rest of the file taken out and put back, while both nodes write" r "
end = time.monotonic() + 5
rounds = 0
while time.monotonic() < end:
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 33 * PAGE, 20 * PAGE)
    os.pwrite(fd, data(9 * PAGE, rounds), 40 * PAGE)
    fallocate(fd, COLLAPSE, 32 * PAGE, 4 * PAGE)
    fallocate(fd, INSERT, 34 * PAGE, 4 * PAGE)
    rounds += 1
" ok
note "$(ask r rounds) rounds"
mine=$(answer w) theirs=$(answer o)
expect_match "the remote's writer saw nothing go back" "$mine" '^\{'
expect_match "the origin's writer saw nothing go back" "$theirs" '^\{'
check "the last of the remote's are at the origin" o "same_slots(slots(plain, 1, 32), r'''$mine''')"
check "the last of the origin's are at the remote" r "same_slots(slots(fd, 2, 32), r'''$theirs''')"
leave w
for a in o r; do must $a "os.close(fd)"; done

# ---- O_DIRECT: buffered, so nothing has to be aligned, and coherent
must o "put('$f', data(20000, 5)); fd = share('$f')"
check "O_DIRECT with O_REMOTE" r "fd = remote('$f', RW | os.O_DIRECT)" ok
check "… is shown" r "bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)"
check "… below the mount point" r "by_path = os.open('$M/f', RW | os.O_DIRECT)" ok
check "… for a new file" r "os.close(os.open('$M/direct', RW | CREAT | EXCL | os.O_DIRECT))" ok
check "statx names no alignment" r "alignment(fd)" False
check "a read that is not aligned" r "os.pread(fd, 777, 4099) == data(20000, 5)[4099:4876]"
check "a write that is not aligned" r "os.pwrite(fd, b'direct', 4093)" 6
check "… is at the origin at once" o "os.pread(plain, 6, 4093)" "b'direct'"
check "the origin's write" o "os.pwrite(fd, b'DIRECT', 4093)" 6
check "… is seen by O_DIRECT at once" r "os.pread(by_path, 6, 4093)" "b'DIRECT'"
check "a write that makes the file longer" r "os.pwrite(fd, data(5000, 6), 19999)" 5000
check "… whole" o "differs(os.pread(plain, 9999, 19999), data(5000, 6))"
check "a read at the end" r "(len(os.pread(fd, 9999, 24000)), os.pread(fd, 10, 24999))" "(999, b'')"
check "a mapping of it" r "mmap.mmap(fd, 4096)[:10] == data(20000, 5)[:10]"
check "fcntl puts it on" r "globals().update(late=remote('$f')) or fcntl.fcntl(late, fcntl.F_SETFL, os.O_DIRECT) or bool(fcntl.fcntl(late, fcntl.F_GETFL) & os.O_DIRECT)"
check "… reads and writes go on" r "os.pwrite(late, b'late', 11) and os.pread(late, 4, 11)" "b'late'"
check "… and off" r "fcntl.fcntl(late, fcntl.F_SETFL, 0) or bool(fcntl.fcntl(late, fcntl.F_GETFL) & os.O_DIRECT)" False
check "dd with O_DIRECT at both ends" r "run('dd if=$M/f of=$M/dd iflag=direct oflag=direct bs=5000 status=none && cmp $M/f $M/dd')" ""
check "… the same at the origin" o "get('$E/dd') == get('$f')"
must r "os.close(fd); os.close(by_path); os.close(late)"

# ---- flags of a single call
must o "put('$f', b'0123456789'); "
must r "fd = remote('$f'); os.lseek(fd, 3, 0)"
check "RWF_NOWAIT: read" r "os.preadv(fd, [bytearray(4)], 0, os.RWF_NOWAIT)" EOPNOTSUPP
check "RWF_NOWAIT: write" r "os.pwritev(fd, [b'no'], 0, 8)" EOPNOTSUPP
check "RWF_ATOMIC" r "os.pwritev(fd, [b'no'], 0, 0x40)" EOPNOTSUPP
check "RWF_DONTCACHE: read" r "os.preadv(fd, [bytearray(4)], 0, 0x80)" EOPNOTSUPP
check "RWF_DONTCACHE: write" r "os.pwritev(fd, [b'no'], 0, 0x80)" EOPNOTSUPP
check "unknown flags" r "os.pwritev(fd, [b'no'], 0, 0x8000)" EOPNOTSUPP
check "none of these wrote" o "get('$f')" "b'0123456789'"
check "RWF_HIPRI is a wish" r "(lambda b: (os.preadv(fd, [b], 2, os.RWF_HIPRI), bytes(b)))(bytearray(4))" "(4, b'2345')"
check "RWF_APPEND: at the end of the moment, and the descriptor stays where it is" r "(os.pwritev(fd, [b'A', b'B'], 0, os.RWF_APPEND), os.lseek(fd, 0, 1))" "(2, 3)"
must o "os.write(os.open('$f', WO | APPEND), b'-o')"
check "… again" r "os.pwritev(fd, [b'C'], 0, os.RWF_APPEND)" 1
check "… at the origin" o "get('$f')" "b'0123456789AB-oC'"
check "RWF_NOAPPEND: where it says" r "os.pwritev(remote('$f', WO | APPEND), [b'at-4'], 4, 0x20)" 4
check "… at the origin" o "get('$f')" "b'0123at-489AB-oC'"
check "RWF_DSYNC is on the origin's disk" r "globals().update(change=Change()) or os.pwritev(fd, [b'dsync'], 0, os.RWF_DSYNC) and change.messages().get('Commit', 0) > 0"
check "RWF_SYNC as well" r "globals().update(change=Change()) or os.pwritev(fd, [b'sync!'], 0, os.RWF_SYNC) and change.messages().get('Commit', 0) > 0"
check "… and nothing else is" r "globals().update(change=Change()) or os.pwritev(fd, [b'lazy!'], 0, 0) and change.messages().get('Commit', 0)" 0
must r "os.close(fd)"

# ---- copying without a buffer: bytes of the moment, at both ends
must o "put('$E/from', data(1000000, 7)); put('$E/to', b''); source = os.open('$E/from', RW)"
must r "source = remote('$E/from'); target = remote('$E/to'); put('$DIR/local', data(1000000, 8)); local = os.open('$DIR/local', RW); wanted = data(1000000, 7); read_all(source)"
fresh() { must o "os.pwrite(source, b'$1', 500000); os.truncate('$E/to', 0)"; must r "wanted = overwritten(wanted, 500000, b'$1')"; }
fresh "first change"
check "copy_file_range, both remote" r "moved(os.copy_file_range, source, target, 1000000, offset_src=0, offset_dst=0)" 1000000
check "… with what the origin wrote a moment ago" r "differs(read_all(target), wanted)"
check "… at the origin" o "get('$E/to') == read_all(source)"
check "… inside one file" r "os.copy_file_range(target, target, 1000, 0, 2000000) and os.pread(target, 1000, 2000000) == data(1000, 7)"
check "… over itself" r "os.copy_file_range(target, target, 1000, 0, 500)" EINVAL
check "… at the end" r "os.copy_file_range(source, target, 1000, 1000000, 0)" 0
must o "os.pwrite(source, b'longer', 1000000)"
check "… of a file that the origin has made longer, after a look at it" r "os.fstat(source).st_size and os.copy_file_range(source, target, 1000, 999994, 0) and os.pread(target, 12, 0)[6:]" "b'longer'"
must o "os.ftruncate(source, 1000000)"
check "… that it has made shorter" r "os.copy_file_range(source, target, 1000, 999990, 0)" 10
check "… between two file systems, as the kernel has it" r "os.copy_file_range(source, local, 1000, 0, 0)" EXDEV
check "cp, by which it is done nevertheless" r "run('cp $M/from $DIR/cp && cp $DIR/cp $M/cp && cmp $DIR/cp $M/cp')" ""
check "… at the origin" o "get('$E/cp') == get('$E/from')"
check "a clone" r "fcntl.ioctl(target, 0x40049409, source)" EOPNOTSUPP
check "deduplication" r "fcntl.ioctl(source, 0xc0189436, struct.pack('QQHHIqQQiI', 0, PAGE, 1, 0, 0, target, 0, 0, 0, 0))" EOPNOTSUPP
fresh "second one"
check "sendfile to a local file" r "os.ftruncate(local, 0) or moved(lambda s, t, n, offset: os.sendfile(t, s, offset, n), source, local, 1 << 30, offset=0)" 1000000
check "… the bytes of the moment" r "differs(read_all(local), wanted)"
fresh "third one"
check "sendfile into a socket" r "
one, other = socket.socketpair()
got = bytearray()
reader = threading.Thread(target=lambda: [got.extend(part) for part in iter(lambda: other.recv(65536), b'')])
reader.start()
moved(lambda s, t, n, offset: os.sendfile(t, s, offset, n), source, one.fileno(), 1 << 30, offset=0)
one.close()
reader.join()" ok
check "… the bytes of the moment" r "differs(bytes(got), wanted)"
check "sendfile to a remote file" r "os.lseek(target, 0, 0), moved(lambda s, t, n, offset: os.sendfile(t, s, offset, n), local, target, 1 << 30, offset=0)" "(0, 1000000)"
check "… at the origin" o "sha('$E/to')" "$(ask r "sha(local)")"
fresh "fourth one"
check "splice out of a remote file and into another" r "spliced(source, target, 1 << 30)" 1000000
check "… the bytes of the moment" r "differs(read_all(target), wanted)"
check "… at the origin" o "get('$E/to') == get('$E/from')"
fresh "fifth one"
check "… with O_DIRECT" r "spliced(remote('$E/from', RO | os.O_DIRECT), remote('$E/to', WO | os.O_DIRECT), 1 << 30)" 1000000
check "… at the origin" o "get('$E/to') == get('$E/from')"
check "splice over the end, at an odd place" r "spliced(source, target, 5000, 999001, 1234567)" 999
check "… at the origin" o "get('$E/to')[1234567:] == get('$E/from')[999001:]"
check "splice into an O_APPEND descriptor, as the kernel has it" r "(lambda p: os.write(p[1], b'x') and os.splice(p[0], remote('$E/to', WO | APPEND), 1))(os.pipe())" EINVAL

# ---- requests in flight
must r "os.unlink('$DIR/local'); read_all(source)"
must o "os.pwrite(source, b'in flight', 600000)"
for way in uring 'uring -d' aio 'aio -d'; do
	check "$way: remote to remote" r "run('$VT/flight $way $M/from $M/flight')" ""
	check "$way: at the origin" o "get('$E/flight') == get('$E/from')"
	# A local file wants pieces that are aligned.
	case $way in *-d) continue ;; esac
	check "$way: remote to local" r "run('$VT/flight $way $M/from $DIR/local && cmp $DIR/local $M/from')" ""
	check "$way: local to remote" r "run('$VT/flight $way $DIR/local $M/flight')" ""
	check "$way: at the origin" o "get('$E/flight') == get('$E/from')"
done
must r "os.close(source); os.close(target)"

# ---- advice
must o "put('$f', data(256 * PAGE, 9)); fd = share('$f')"
must r "fd = remote('$f'); entry = lambda: next(e for e in remotes() if e['ino'] == os.fstat(fd).st_ino & 0xffffffff and e['writers'])"
check "readahead(2) brings pages" r "libc('readahead', fd, 0, 64 * PAGE), wait(lambda: entry()['shared'] >= 64)" "(0, True)"
check "… which then need no message" r "globals().update(change=Change()) or differs(os.pread(fd, 60 * PAGE, 0), data(256 * PAGE, 9)[:60 * PAGE]) and change.page_messages()" 0
check "… they are taken back as any others" o "os.pwrite(fd, b'after readahead', 5 * PAGE)" 15
check "… for the remote to read what is there then" r "os.pread(fd, 15, 5 * PAGE)" "b'after readahead'"
check "readahead beyond the end" r "libc('readahead', fd, 1 << 30, 65536)" 0
check "readahead of a descriptor for writing" r "libc('readahead', remote('$f', WO), 0, 4096)" EBADF
check "readahead of a directory" r "libc('readahead', os.open('$M', RO), 0, 4096)" EINVAL
for advice in NORMAL SEQUENTIAL RANDOM NOREUSE WILLNEED DONTNEED; do
	check "POSIX_FADV_$advice" r "os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_$advice)" ok
	check "… and right bytes" r "(os.pread(fd, 15, 5 * PAGE), differs(os.pread(fd, PAGE, 200 * PAGE), data(256 * PAGE, 9)[200 * PAGE:201 * PAGE]))" "(b'after readahead', True)"
done
must r "os.pwrite(fd, b'not to be lost', 7 * PAGE)"
check "POSIX_FADV_DONTNEED loses nothing that was written" r "os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED) or os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED) or os.pread(fd, 14, 7 * PAGE)" "b'not to be lost'"
check "… at the origin" o "os.pread(fd, 14, 7 * PAGE)" "b'not to be lost'"
must o "os.pwrite(fd, b'WRITTEN', 8 * PAGE)"
check "… nor brings an old page back" r "os.pread(fd, 7, 8 * PAGE)" "b'WRITTEN'"
check "an advice that there is not" r "os.posix_fadvise(fd, 0, 0, 77)" EINVAL
check "madvise of a mapping" r "(lambda m: (m.madvise(mmap.MADV_WILLNEED), m[7 * PAGE:7 * PAGE + 3], m.madvise(mmap.MADV_DONTNEED), m[7 * PAGE:7 * PAGE + 3]))(mmap.mmap(fd, 256 * PAGE))" "(None, b'not', None, b'not')"
must r "os.pwrite(fd, b'sync range', 9 * PAGE)"
check "sync_file_range sends home what was written" r "(entry()['modified'] + entry()['writing'] > 0, libc('sync_file_range', fd, 0, 0, 7), entry()['modified'], entry()['writing'])" "(True, 0, 0, 0)"
check "… which stays what it was" o "os.pread(fd, 10, 9 * PAGE)" "b'sync range'"
check "sync_file_range with unknown flags" r "libc('sync_file_range', fd, 0, 0, 8)" EINVAL
must r "os.close(fd)"

# ---- holes: a remote file has none but the one at its end, which is always right
must o "put('$f', b''); os.truncate('$f', 1 << 20); os.pwrite(os.open('$f', RW), b'island', 1 << 19)"
must r "fd = remote('$f')"
check "SEEK_DATA" r "[os.lseek(fd, at, os.SEEK_DATA) for at in (0, 5, (1 << 20) - 1)]" "[0, 5, 1048575]"
check "SEEK_HOLE" r "[os.lseek(fd, at, os.SEEK_HOLE) for at in (0, 5, (1 << 20) - 1)]" "[1048576, 1048576, 1048576]"
for whence in DATA HOLE; do
	check "SEEK_$whence at the end, behind it, before the start" r "[error_of(os.lseek, fd, at, os.SEEK_$whence) for at in (1 << 20, 1 << 40, -1)]" "['ENXIO', 'ENXIO', 'ENXIO']"
done
must o "os.truncate('$f', 2 << 20)"
check "SEEK_HOLE knows the size of the moment" r "os.lseek(fd, (1 << 20) + 1, os.SEEK_HOLE)" 2097152
check "a sparse file is copied right" r "run('cp --sparse=always $M/f $DIR/sparse && cmp $M/f $DIR/sparse') or os.stat('$DIR/sparse').st_blocks < 100"
check "FS_IOC_FIEMAP is refused" r "error_of(fcntl.ioctl, fd, 0xc020660b, bytes(32))" EOPNOTSUPP

# ---- what belongs to the disk
must o "put('$E/swap', bytes(1 << 20))"
check "swap space" r "run('chmod 600 $M/swap; mkswap -q $M/swap') or libc('swapon', b'$M/swap', 0)" EINVAL
check "… and there is none" r "'/swap' in open('/proc/swaps').read()" False

# ---- leases
check "leases are refused" r "[error_of(fcntl.fcntl, fd, fcntl.F_SETLEASE, kind) for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK)]" "['EINVAL', 'EINVAL']"
check "… and there is none" r "fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_UNLCK"
check "… of directories as well" r "fcntl.fcntl(os.open('$M', RO), fcntl.F_SETLEASE, fcntl.F_RDLCK)" EINVAL
finish
