#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# What one node writes, the other reads: every page, every byte, both directions, whoever opened when and how.

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/coherence

# directions ORIGIN REMOTE: all checks with the file on node ORIGIN.
directions() {
	local o=o$1 r=r$2 way="node$1 → node$2" f=$DIR/file.$1
	agent "$o" "$1"
	agent "$r" "$2"
	# 39 whole pages and a part; all byte values, runs of NULs, commas and percent signs.
	must "$o" "PAGES, blob = 40, bytearray(data(39 * PAGE + 1234, 1)); blob[5000:9500] = bytes(4500); blob[20000:20016] = b'%s,%n,,r,0,w,i,,\0'; blob[30000:30256] = bytes(range(256))"$'\n'"put('$f', blob)"
	must "$r" "PAGES, blob = 40, bytearray(data(39 * PAGE + 1234, 1)); blob[5000:9500] = bytes(4500); blob[20000:20016] = b'%s,%n,,r,0,w,i,,\0'; blob[30000:30256] = bytes(range(256))"
	must "$o" "plain = os.open('$f', RW)"
	must "$o" "fd = share('$f')"
	check "$way: open" "$r" "fd = remote('$f')" ok
	check "$way: the whole file, byte for byte" "$r" "read_all(fd) == blob"
	check "$way: each page for itself, in any order" "$r" "all(os.pread(fd, PAGE, p * PAGE) == blob[p * PAGE:(p + 1) * PAGE] for p in random.Random(2).sample(range(PAGES), PAGES))"

	check "$way: the remote writes into every page" "$r" "[os.pwrite(fd, b'remote %02d' % p, p * PAGE + 7 * p) for p in range(PAGES)] == [9] * PAGES"
	check "… and reads that back" "$r" "all(os.pread(fd, 9, p * PAGE + 7 * p) == b'remote %02d' % p for p in range(PAGES))"
	check "… an unflagged descriptor of the origin, opened before, sees all of it" "$o" "all(os.pread(plain, 9, p * PAGE + 7 * p) == b'remote %02d' % p for p in range(PAGES))"
	check "… and so does cat" "$o" "run('sha256sum < $f').split()[0] == sha(fd)"
	check "$way: nothing else has changed" "$o" "[blob.__setitem__(slice(p * PAGE + 7 * p, p * PAGE + 7 * p + 9), b'remote %02d' % p) for p in range(PAGES)] and read_all(fd) == blob"

	check "$way: the origin writes into every page, unflagged" "$o" "[os.pwrite(plain, b'origin %02d' % p, p * PAGE + 11 * p + 500) for p in range(PAGES)] == [9] * PAGES"
	check "… the remote, which had them all, sees all of it" "$r" "all(os.pread(fd, 9, p * PAGE + 11 * p + 500) == b'origin %02d' % p for p in range(PAGES))"
	check "$way: plain tools write at the origin" "$o" "run('printf tool | dd of=$f bs=1 seek=81950 conv=notrunc status=none') or os.pread(fd, 4, 81950)" "b'tool'"
	check "… the remote sees that" "$r" "os.pread(fd, 4, 81950)" "b'tool'"

	# A page that the other node has written, and this one has never read, is written in part: both parts must live.
	check "$way: the remote writes the first half of every page" "$r" "[os.pwrite(fd, b'R' * 100, p * PAGE) for p in range(39)] == [100] * 39"
	check "… the origin, without reading, the second half" "$o" "[os.pwrite(plain, b'O' * 100, p * PAGE + 2048) for p in range(39)] == [100] * 39"
	check "… both halves at the origin" "$o" "all(os.pread(plain, 100, p * PAGE) == b'R' * 100 and os.pread(plain, 100, p * PAGE + 2048) == b'O' * 100 for p in range(39))"
	check "… both halves at the remote" "$r" "all(os.pread(fd, 100, p * PAGE) == b'R' * 100 and os.pread(fd, 100, p * PAGE + 2048) == b'O' * 100 for p in range(39))"
	check "… equal hashes" "$r" "sha(fd)" "$(ask "$o" 'sha(plain)')"

	# One page back and forth.
	ok=0
	for i in 1 2 3 4 5 6 7 8; do
		must "$r" "os.pwrite(fd, struct.pack('<Q', struct.unpack('<Q', os.pread(fd, 8, 12288))[0] + 1 if $i > 1 else 1), 12288)"
		[ "$(ask "$o" "struct.unpack('<Q', os.pread(plain, 8, 12288))[0]")" = $((2 * i - 1)) ] && ok=$((ok + 1))
		must "$o" "os.pwrite(plain, struct.pack('<Q', struct.unpack('<Q', os.pread(plain, 8, 12288))[0] + 1), 12288)"
		[ "$(ask "$r" "struct.unpack('<Q', os.pread(fd, 8, 12288))[0]")" = $((2 * i)) ] && ok=$((ok + 1))
	done
	expect_eq "$way: a number counted up in turns" $ok 16

	check "$way: a second open sees the first one's writes and undoes none" "$r" "os.pwrite(fd, b'first', 4096) and os.pread(remote('$f'), 5, 4096)" "b'first'"
	check "$way: written, closed, opened again" "$r" "os.close(fd) or globals().update(fd=remote('$f')) or os.pread(fd, 5, 4096)" "b'first'"
	check "$way: written, closed: the origin has it" "$r" "os.pwrite(fd, b'last', 8192) and os.close(fd)" ok
	check "… in cat as well" "$o" "get('$f')[8192:8196]" "b'last'"
	leave "$o" "$r"
}
directions 1 2
directions 2 1

# ---- both ways at once, other calls, mappings
agent o 1
agent r 2
must o "put('$DIR/a', data(50000, 3)); a = share('$DIR/a')"
must r "put('$DIR/b', data(50000, 4)); b = share('$DIR/b')"
must o "b = remote('$DIR/b')"
must r "a = remote('$DIR/a')"
check "each node is origin and remote at once" o "read_all(b) == data(50000, 4)"
check "… the other way" r "read_all(a) == data(50000, 3)"
tell o "[os.pwrite(b, b'%05d' % i, i * 5) for i in range(9000)][-1]"
tell r "[os.pwrite(a, b'%05d' % i, i * 5) for i in range(9000)][-1]"
expect_eq "… both write at the same time" "$(answer o) $(answer r)" "5 5"
check "… first file" o "os.pread(a, 45000, 0) == b''.join(b'%05d' % i for i in range(9000))"
check "… second file" r "os.pread(b, 45000, 0) == b''.join(b'%05d' % i for i in range(9000))"

check "writev and readv" r "os.lseek(a, 4090, 0) and os.writev(a, [b'abc', b'', b'defghi', b'jkl'])" 12
check "… across a page's border" o "os.preadv(a, (bufs := [bytearray(3), bytearray(9)]), 4090) and bytes(bufs[0] + bufs[1])" "b'abcdefghijkl'"
check "lseek from start, place and end" r "(os.lseek(a, 100, 0), os.lseek(a, 50, 1), os.lseek(a, -10, 2), len(os.read(a, 100)))" "(100, 150, 49990, 10)"
check "lseek beyond what is possible" r "os.lseek(a, -1, 0)" EINVAL
check "read at the end of the file" r "(os.pread(a, 10, 50000), os.pread(a, 10, 60000), len(os.pread(a, 100, 49950)))" "(b'', b'', 50)"
check "sendfile from a remote file" r "(lambda t: os.sendfile(t, a, 0, 50000) and sha(t))(os.open('$DIR/sent', RW | CREAT | TRUNC))" "$(ask o 'sha(a)')"
check "a write with no bytes" r "os.pwrite(a, b'', 10)" 0
check "read-only is read-only" r "os.pwrite(remote('$DIR/a', RO), b'x', 0)" EBADF
check "write-only is write-only" r "os.pread(remote('$DIR/a', WO), 1, 0)" EBADF
check "… and writes" r "os.pwrite(remote('$DIR/a', WO), b'wo', 20000)" 2
check "… into a page that was never read" o "os.pread(a, 2, 20000)" "b'wo'"

check "a mapping at the origin" o "globals().update(m=mmap.mmap(a, 50000)) or m[20000:20002]" "b'wo'"
check "the remote writes a page that is mapped there" r "os.pwrite(a, b'seen through the mapping', 20000)" 24
check "… and the mapping shows it" o "m[20000:20024]" "b'seen through the mapping'"
check "a store into the mapping" o "m.__setitem__(slice(30000, 30005), b'store')" ok
check "… is read by the remote" r "os.pread(a, 5, 30000)" "b'store'"
check "… again and again" r "os.pwrite(a, b'STORE', 30000)" 5
check "… in both directions" o "m[30000:30005] == b'STORE' and m.__setitem__(slice(30000, 30003), b'new')" ok
check "… without losing either" r "os.pread(a, 5, 30000)" "b'newRE'"

# ---- names
names="NAMES = [b'with space', b'a,b,c', b',', b'%s%n', b'new\nline', b'tab\there', b'-rf', b'*?[', b'\$HOME', b'\\\\back', b'\xff\xfe\x80', 'größe'.encode(), b'quo\"te\'s', b'x' * 255, b'a.b', b'...']"
must o "$names; base = b'$DIR/names, all/of them/'; os.makedirs(base)
[put(base + n, b'I am ' + n) for n in NAMES]
held = [share(base + n) for n in NAMES]"
must r "$names; base = b'$DIR/names, all/of them/'"
check "names of any bytes, by descriptor" r "[n for n in NAMES if read_all(remote(base + n)) != b'I am ' + n]" "[]"
check "… below the mount" r "[n for n in NAMES if get(b'/vremote/node1' + base + n) != b'I am ' + n]" "[]"
check "… written from afar" r "[n for n in NAMES if os.pwrite(remote(base + n), b'It is', 0) != 5]" "[]"
check "… and read at home" o "[n for n in NAMES if get(base + n)[:5] != b'It is']" "[]"
check "the status file is still valid" o "len(status()['shares']) >= len(NAMES)"
must o "[os.close(h) for h in held]; os.mkdir('$DIR/x'); os.mkdir('$DIR/x/b'); put('$DIR/x/b.c', b'dot'); put('$DIR/x/b/c', b'slash'); h1, h2 = share('$DIR/x/b.c'), share('$DIR/x/b/c')"
check "x/b.c and x/b/c are two files" r "read_all(remote('$DIR/x/b.c')) + read_all(remote('$DIR/x/b/c'))" "b'dotslash'"
must o "os.rename('$DIR/x/b.c', '$DIR/x/renamed')"
check "a file renamed at the origin is found by its new name" r "read_all(remote('$DIR/x/renamed'))" "b'dot'"
check "… and not by its old one" r "remote('$DIR/x/b.c')" ENOENT
must o "os.link('$DIR/x/renamed', '$DIR/x/second'); h3 = share('$DIR/x/second')"
check "written by one name" r "os.pwrite(remote('$DIR/x/renamed'), b'DOT', 0)" 3
check "… a file has changed by its other name too" o "get('$DIR/x/second')" "b'DOT'"
finish
