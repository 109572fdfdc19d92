#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# What programs of the origin do to a file beside read and write, while a remote has pages of it that it has written and nobody else has
# seen: direct I/O, copying without a buffer, requests in flight, a block device, looking for data and blocks. None of it finds the old bytes
# in the origin's cache or on its disk, and none of it is lost on the remote.
# time-limit: 240

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/origin
program flight
agent o 1
agent r 2
# Pages go home when somebody wants them, not by themselves.
writing_back 2 0
F=$DIR/f PAGES=64
must o "
def direct_read(fd, at, count):
    memory = mmap.mmap(-1, count)
    return memory[:os.preadv(fd, [memory], at)]
def direct_write(fd, at, content):
    memory = mmap.mmap(-1, len(content))
    memory[:] = content
    return os.pwritev(fd, [memory], at)"
for a in o r; do must $a "want = data($PAGES * PAGE, 1)"; done
# Opened before anybody shares the file: they are to take part as well.
must o "put('$F', want); early = os.open('$F', RW); early_direct = os.open('$F', RW | os.O_DIRECT); early_view = mmap.mmap(early, $PAGES * PAGE)"
check "before it is shared the file is read past the cache" o "differs(direct_read(early_direct, 0, $PAGES * PAGE), want)"
must o "fd = share('$F'); flagged_direct = share('$F', RW | os.O_DIRECT); late_direct = os.open('$F', RW | os.O_DIRECT)"
must o "turned = os.open('$F', RW); fcntl.fcntl(turned, fcntl.F_SETFL, os.O_DIRECT)"
must r "fd = remote('$F'); view = mmap.mmap(fd, $PAGES * PAGE); entry = lambda: next(e for e in remotes() if e['ino'] == os.fstat(fd).st_ino & 0xffffffff and e['writers'])"

# dirty TEXT [PLACE …]: the remote writes TEXT there, and has these pages alone until somebody wants them.
dirty() {
	local text=$1 at
	shift
	[ $# != 0 ] || set -- 100 8190 200000 262100
	for at; do
		must r "os.pwrite(fd, b'$text', $at)"
		for a in o r; do must $a "want = overwritten(want, $at, b'$text')"; done
	done
	[ "$(ask r "entry()['modified'] > 0")" = True ] || fail "preparation: the remote has no page alone after writing '$text'"
}

# ---- direct I/O
turn=0
for way in early_direct flagged_direct late_direct turned; do
	case $way in
	early_direct) what="O_DIRECT, opened before the file was shared" ;;
	flagged_direct) what="O_DIRECT, opened to share it" ;;
	late_direct) what="O_DIRECT, opened without a flag of ours" ;;
	turned) what="O_DIRECT, by fcntl" ;;
	esac
	turn=$((turn + 1))
	dirty "direct read $turn"
	check "$what: a read gives what the remote wrote a moment ago" o "differs(direct_read($way, 0, $PAGES * PAGE), want)"
	dirty "beside $turn" 40970
	must r "view[20 * PAGE]"
	check "$what: a write of a sector, beside bytes that the remote has just written to that page" o "direct_write($way, 40960 + 1024, b'sector %02d' % $turn * 56 + b'sector .')" 512
	check "$what: a write of pages that the remote has" o "direct_write($way, 20 * PAGE, data(3 * PAGE, $turn + 10))" 12288
	for a in o r; do must $a "want = overwritten(overwritten(want, 40960 + 1024, b'sector %02d' % $turn * 56 + b'sector .'), 20 * PAGE, data(3 * PAGE, $turn + 10))"; done
	check "… is read at the remote" r "differs(read_all(fd), want)"
	check "… shown by a mapping there" r "differs(view[:], want)"
	check "… and read and shown at the origin" o "(differs(read_all(early), want), differs(early_view[:], want))" "(True, True)"
done
check "the remote makes the file longer" r "os.pwrite(fd, b'longer' * 700, $PAGES * PAGE)" 4200
check "… O_DIRECT at the origin reads up to the new end" o "direct_read(early_direct, $PAGES * PAGE, 8192) == b'longer' * 700"
must o "os.ftruncate(early, $PAGES * PAGE)"

# ---- calls that take what is in memory, or nothing: they may refuse, but not give what is old
dirty "not waited for"
check "RWF_NOWAIT does not read what is old" o "(lambda b: error_of(os.preadv, early, [b], 8192, os.RWF_NOWAIT) == 'EAGAIN' or differs(bytes(b), want[8192:12288]))(bytearray(4096))"
dirty "not to be kept"
check "RWF_DONTCACHE neither" o "(lambda b: error_of(os.preadv, early, [b], 8192, 0x80) == 'EOPNOTSUPP' or differs(bytes(b), want[8192:12288]))(bytearray(4096))"

# ---- copying without a buffer
must o "put('$DIR/local', bytes(1000)); local = os.open('$DIR/local', RW); emptied = lambda: os.ftruncate(local, 0) or os.lseek(local, 0, 0)"
copies() { # WHAT PYTHON: from the shared file, `source`, to the local one
	local source
	for source in early fd; do
		turn=$((turn + 1))
		dirty "$turn. copy"
		must o "source = $source; emptied()"
		check "$1, from a descriptor that was $([ $source = fd ] && echo 'opened to share the file' || echo 'opened before the file was shared')" o "$2" $((PAGES * 4096))
		check "… has what the remote wrote a moment ago" o "differs(get('$DIR/local'), want)"
	done
}
copies sendfile "moved(lambda s, t, n, offset: os.sendfile(t, s, offset, n), source, local, 1 << 30, offset=0)"
copies splice "spliced(source, local, 1 << 30)"
copies copy_file_range "moved(os.copy_file_range, source, local, 1 << 30, offset_src=0, offset_dst=0)"
turn=$((turn + 1))
dirty "$turn. into a socket"
check "sendfile into a socket" o "
one, other = socket.socketpair()
got = bytearray()
reader = threading.Thread(target=lambda: [got.extend(part) for part in iter(lambda: other.recv(65536), b'')])
reader.start()
moved(lambda s, t, n, offset: os.sendfile(t, s, offset, n), early, one.fileno(), 1 << 30, offset=0)
one.close()
reader.join()" ok
check "… has what the remote wrote a moment ago" o "differs(bytes(got), want)"
back() { # WHAT PYTHON: 20,000 bytes of the local file into the middle of the shared one, where the remote has written just before and behind
	turn=$((turn + 1))
	dirty "$turn. around" 29990 50000
	must o "emptied(); os.pwrite(local, data(20000, $turn), 0)"
	check "$1 into the shared file" o "$2" 20000
	for a in o r; do must $a "want = overwritten(want, 30000, data(20000, $turn))"; done
	check "… is read at the remote, beside what that wrote a moment ago" r "differs(read_all(fd), want)"
	check "… and at the origin" o "differs(read_all(early), want)"
}
back sendfile "os.lseek(early, 30000, 0) and moved(lambda s, t, n, offset: os.sendfile(t, s, offset, n), local, early, 20000, offset=0)"
back splice "spliced(local, early, 20000, 0, 30000)"
back copy_file_range "moved(os.copy_file_range, local, early, 20000, offset_src=0, offset_dst=30000)"
dirty "within" 100
check "copy_file_range within the shared file" o "os.copy_file_range(early, early, 5000, 0, 100000)" 5000
for a in o r; do must $a "want = overwritten(want, 100000, want[:5000])"; done
check "… takes what the remote wrote a moment ago, and is read there" r "differs(read_all(fd), want)"

# ---- requests in flight
for way in uring 'uring -a' aio 'aio -a'; do
	turn=$((turn + 1))
	dirty "$turn. in flight"
	check "flight $way, from the shared file" o "run('$VT/flight $way $F $DIR/copy')" ""
	check "… has what the remote wrote a moment ago" o "differs(get('$DIR/copy'), want)"
	dirty "$turn. to be lost"
	must o "put('$DIR/copy', data($PAGES * PAGE, $turn))"
	check "flight $way, into the shared file" o "run('$VT/flight $way $DIR/copy $F')" ""
	for a in o r; do must $a "want = data($PAGES * PAGE, $turn)"; done
	check "… is read at the remote" r "differs(read_all(fd), want)"
	check "… and shown by a mapping there" r "differs(view[:], want)"
done

# ---- a block device made of the file
for direct in off on; do
	turn=$((turn + 1))
	dirty "$turn. below"
	must o "loop = run('losetup -f --show --direct-io=$direct $F'); device = os.open(loop, RW)"
	check "a loop device of the shared file, direct I/O $direct, has what the remote wrote a moment ago" o "differs(os.pread(device, $PAGES * PAGE, 0), want)"
	dirty "$turn. again" 100000
	check "… what is written to it and synced" o "os.pwrite(device, data(8192, $turn), 163840) == 8192 and os.fsync(device)" ok
	for a in o r; do must $a "want = overwritten(want, 163840, data(8192, $turn))"; done
	check "… is in the file, at the remote" r "differs(read_all(fd), want)"
	must o "os.close(device); run('losetup -d ' + loop)"
done

# ---- looking for data: what a remote has written into a hole is none, even while only the remote has it
hole() { # TEXT: a file of 1 MiB with nothing in it but what the remote has just written, an island in the middle and the last bytes
	must r "os.ftruncate(fd, 0); os.ftruncate(fd, 1 << 20); os.pwrite(fd, b'$1', 1 << 19); os.pwrite(fd, b'$1', (1 << 20) - len('$1'))"
	for a in o r; do must $a "want = overwritten(overwritten(bytes(1 << 20), 1 << 19, b'$1'), (1 << 20) - len('$1'), b'$1')"; done
	[ "$(ask r "entry()['modified'] > 0")" = True ] || fail "preparation: the remote has no page alone after writing '$1'"
}
must o "
def places(fd, end):
    # Ranges of data, as SEEK_DATA and SEEK_HOLE tell them.
    at, result = 0, []
    while at < end:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            break
        hole = os.lseek(fd, at, os.SEEK_HOLE)
        result.append((at, hole))
        at = hole
    return result
def extents(fd):
    request = bytearray(struct.pack('QQIIII', 0, 1 << 30, 1, 0, 100, 0) + bytes(100 * 56)) # 1: FIEMAP_FLAG_SYNC
    fcntl.ioctl(fd, 0xc020660b, request)
    count = struct.unpack_from('I', request, 20)[0]
    return [(lambda start, physical, length: (start, start + length))(*struct.unpack_from('QQQ', request, 32 + 56 * i)) for i in range(count)]
def inside(ranges):
    # Whether both islands lie in them, and not everything does.
    return (any(a <= 1 << 19 < b for a, b in ranges), any(a <= (1 << 20) - 1 < b for a, b in ranges), sum(b - a for a, b in ranges) < 1 << 19)"
for which in early fd; do
	who=$([ $which = fd ] && echo 'a descriptor that shares the file' || echo 'one that was opened before')
	hole "for SEEK"
	check "SEEK_DATA and SEEK_HOLE at the origin find what the remote wrote into a hole ($who)" o "inside(places($which, 1 << 20))" "(True, True, True)"
	hole "for FIEMAP"
	check "FS_IOC_FIEMAP at the origin finds it ($who)" o "inside(extents($which))" "(True, True, True)"
done
# What is written but has no block yet counts as it does on a local file: programs take a file without blocks to be empty (tar -S does).
hole "for stat"
check "stat at the origin shows blocks for what the remote wrote into a hole" o "os.stat('$F').st_blocks > 0"
hole "for stat, there"
check "… and at the remote" r "os.fstat(fd).st_blocks > 0"
for command in 'cp' 'cp --sparse=auto' 'cp --sparse=always' 'cp --sparse=never' 'cp --reflink=auto' 'tar -S'; do
	turn=$((turn + 1))
	hole "$turn. island"
	case $command in
	'tar -S') line="tar -C $DIR -S -cf - f | tar -C $DIR/into -xf - && mv $DIR/into/f $DIR/copied" ;;
	*) line="$command $F $DIR/copied" ;;
	esac
	must o "run('rm -rf $DIR/copied $DIR/into; mkdir $DIR/into')"
	check "$command at the origin" o "run('$line')" ""
	check "… copies what the remote wrote a moment ago, to the last byte" o "differs(get('$DIR/copied'), want)"
done
hole "tar, there"
must r "run('rm -rf $DIR/into; mkdir $DIR/into')"
check "tar -S at the remote" r "run('tar -C /vremote/node1$DIR -S -cf - f | tar -C $DIR/into -xf -')" ""
check "… copies what that wrote a moment ago" r "differs(get('$DIR/into/f'), want)"
must r "view.close(); os.close(fd)"
must o "early_view.close(); [os.close(n) for n in (early, early_direct, flagged_direct, late_direct, turned, fd, local)]"
writing_back 2 500
finish
