#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Files mapped into processes, at the origin and at a remote: loads see the last store or write of either, whatever way it was made.
# time-limit: 300

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/mmap
program counter
library library
agent o 1
agent r 2
F=$DIR/f
# Python maps no more than the file has when it is mapped.
must o "put('$F', data(40 * PAGE + 100, 1)); fd = share('$F'); plain = os.open('$F', RW); os.ftruncate(plain, 41 * PAGE); om = mmap.mmap(plain, 41 * PAGE)"
must r "fd = remote('$F'); m = mmap.mmap(fd, 41 * PAGE)"
must o "os.ftruncate(plain, 40 * PAGE + 100)"

# ---- shared mappings
check "a remote mapping shows the file" r "m[:40 * PAGE + 100] == data(40 * PAGE + 100, 1)"
check "… and zeroes behind its end" r "m[40 * PAGE + 100:] == bytes(PAGE - 100)"
check "the origin writes" o "os.pwrite(plain, b'written at the origin', 5000)" 21
check "… the mapping, which had the page, shows it" r "m[5000:5021]" "b'written at the origin'"
check "a store into the remote mapping" r "m.__setitem__(slice(9000, 9006), b'stored')" ok
check "… is read at the origin" o "os.pread(plain, 6, 9000)" "b'stored'"
check "… shown by a mapping there" o "om[9000:9006]" "b'stored'"
check "… and read by this node itself" r "os.pread(fd, 6, 9000)" "b'stored'"
check "a store into the origin's mapping" o "om.__setitem__(slice(9000, 9003), b'REP')" ok
check "… is shown by the remote mapping" r "m[9000:9006]" "b'REPred'"
check "a write of this node is shown by its own mapping" r "os.pwrite(fd, b'own write', 13000) and m[13000:13009]" "b'own write'"
check "stores into every page" r "[m.__setitem__(slice(p * PAGE + p, p * PAGE + p + 8), b'page %03d' % p) for p in range(40)][-1]" ok
check "… are all read at the origin" o "all(os.pread(plain, 8, p * PAGE + p) == b'page %03d' % p for p in range(40))"
ok=0
for i in 1 2 3 4 5 6 7 8 9 10; do
	must r "m[20000] = $((2 * i))"
	[ "$(ask o "om[20000]")" = $((2 * i)) ] && ok=$((ok + 1))
	must o "om[20000] = $((2 * i + 1))"
	[ "$(ask r "m[20000]")" = $((2 * i + 1)) ] && ok=$((ok + 1))
done
expect_eq "a byte stored to in turns by both mappings" $ok 20
check "msync: on the disk of the origin" r "m.__setitem__(slice(30000, 30005), b'msync') or m.flush() or [e['modified'] for e in remotes() if e['writers']]" "[0]"
check "… and still writable here" r "m.__setitem__(slice(30000, 30005), b'MSYNC')" ok
check "… and seen there" o "om[30000:30005]" "b'MSYNC'"
check "a mapping outlives its descriptor" r "os.close(fd) or m.__setitem__(slice(100, 105), b'alive') or globals().update(fd=remote('$F'))" ok
check "… and its stores arrive" o "os.pread(plain, 5, 100)" "b'alive'"
check "stores of a process are kept when it ends" r "ends(lambda: m.__setitem__(slice(200, 205), b'child'))" "done"
check "… the origin has them" o "os.pread(plain, 5, 200)" "b'child'"
check "read(2) into a mapping of the same file" r "os.preadv(fd, [memoryview(m)[8 * PAGE:9 * PAGE]], 9 * PAGE)" 4096
check "… is a store as well" o "om[8 * PAGE:9 * PAGE] == om[9 * PAGE:10 * PAGE]"
check "write(2) from a mapping of the same file" r "os.pwrite(fd, memoryview(m)[9 * PAGE:10 * PAGE], 11 * PAGE)" 4096
check "… arrives" o "om[9 * PAGE:10 * PAGE] == om[11 * PAGE:12 * PAGE]"

# ---- private mappings
must r "p = mmap.mmap(fd, 4 * PAGE, flags=mmap.MAP_PRIVATE)"
check "a store into a private mapping" r "p[0:3] == m[0:3] and p.__setitem__(slice(0, 7), b'private')" ok
check "… stays there" o "os.pread(plain, 7, 0) != b'private'"
check "… whatever is written to the file" o "os.pwrite(plain, b'public!', 0)" 7
check "… on any node" r "(p[0:7], m[0:7])" "(b'private', b'public!')"
check "a private page that was not stored to is the file's" r "sha(p[3 * PAGE:])" "$(ask o "sha(os.pread(plain, PAGE, 3 * PAGE))")"

# The same at the origin, of pages that the remote has written since, and that are in nobody else's memory.
must o "op = mmap.mmap(plain, 40 * PAGE, flags=mmap.MAP_PRIVATE); before = op[30 * PAGE]"
must r "os.pwrite(fd, b'remote, untouched', 29 * PAGE + 9) and os.pwrite(fd, b'remote, touched', 30 * PAGE + 9) and os.pwrite(fd, b'remote, stored to', 31 * PAGE + 9) and m.__setitem__(slice(32 * PAGE + 9, 32 * PAGE + 15), b'stored')"
check "a private mapping at the origin shows what the remote has written before it was first touched" o "op[29 * PAGE + 9:29 * PAGE + 26]" "b'remote, untouched'"
check "… and afterwards" o "op[30 * PAGE + 9:30 * PAGE + 24]" "b'remote, touched'"
check "… and around what is stored to it first" o "op.__setitem__(31 * PAGE, 33) or (op[31 * PAGE:31 * PAGE + 1], op[31 * PAGE + 9:31 * PAGE + 26])" "(b'!', b'remote, stored to')"
check "… and what the remote has stored through a mapping" o "op[32 * PAGE + 9:32 * PAGE + 15]" "b'stored'"
check "… of its own stores the remote sees nothing" r "os.pread(fd, 1, 31 * PAGE) != b'!' and m[31 * PAGE] != 33"
must o "op.close()"

# ---- what may be mapped, and how
check "a shared mapping for writing needs a descriptor for both" r "mmap.mmap(remote('$F', RO), PAGE)" EACCES
check "one for reading does not" r "mmap.mmap(remote('$F', RO), 12, prot=mmap.PROT_READ)[0:7]" "b'public!'"
check "a private one for writing neither" r "mmap.mmap(remote('$F', RO), PAGE, flags=mmap.MAP_PRIVATE).__setitem__(0, 1)" ok
check "a mapping of the last, partial page" r "ends(lambda: mmap.mmap(fd, 100, offset=40 * PAGE)[99])" "done"
must o "os.truncate('$F', 39 * PAGE)"
check "the origin makes the file shorter: SIGBUS behind its end" r "ends(lambda: m[40 * PAGE])" SIGBUS
check "… and for stores" r "ends(lambda: m.__setitem__(39 * PAGE, 1))" SIGBUS
check "… not before it" r "ends(lambda: m[39 * PAGE - 1])" "done"
must o "os.truncate('$F', 41 * PAGE); os.pwrite(plain, b'longer', 40 * PAGE)"
check "the origin makes it longer: what is new is there" r "m[40 * PAGE:40 * PAGE + 6]" "b'longer'"
check "… and takes stores" r "m.__setitem__(slice(40 * PAGE, 40 * PAGE + 6), b'LONGER')" ok
check "… which arrive" o "os.pread(plain, 6, 40 * PAGE)" "b'LONGER'"
check "the remote makes it shorter" r "os.ftruncate(fd, 10 * PAGE) or ends(lambda: m[12 * PAGE])" SIGBUS
check "… the origin's mapping as well" o "ends(lambda: om[12 * PAGE])" SIGBUS

# ---- a silent origin
must r "os.ftruncate(fd, 41 * PAGE); drop_caches()"
fault 2 partition
check "the origin is silent: a load ends in SIGBUS, in bounded time" r "bounded_end(lambda: m[30 * PAGE], 'SIGBUS', 15)"
fault 2 heal
check "… and works again later" r "wait(lambda: ends(lambda: m[30 * PAGE]) == 'done', 10)"

# ---- programs
must o "run('cp /bin/bash $DIR/shell; cp $VT/library.so $DIR/library.so; chmod 755 $DIR/*; vremote export add $DIR')"
check "a program runs from a remote file" r "run('/vremote/node1$DIR/shell -c \"echo here; exit 7\"', 7)" here
# Its getuid is where the shell has $UID from; without it that is 0.
check "… with a library from one" r "run(r'LD_PRELOAD=/vremote/node1$DIR/library.so /vremote/node1$DIR/shell -c \"echo \\\$UID\"')" 4711
must r "
def loaded(path):
    # What a function of the library gives, twice, and whether its code is mapped from that file, in a process of its own.
    code = 'import ctypes, sys; a = ctypes.CDLL(sys.argv[1]).answer; print(a(), a(), any(\"r-xp\" in line and sys.argv[1] in line for line in open(\"/proc/self/maps\")))'
    return subprocess.run([sys.executable, '-c', code, path], capture_output=True, text=True).stdout.strip()"
check "a library from a remote file in a program that runs already" r "loaded('/vremote/node1$DIR/library.so')" "42 43 True"
check "programs from remote files, eight at once" r "run(r'(for i in 1 2 3 4 5 6 7 8; do /vremote/node1$DIR/shell -c \"echo \\\$((\$i * \$i))\" & done; wait) | sort -n | xargs')" "1 4 9 16 25 36 49 64"

# ---- a program that is run at the origin, and opened from afar
must o "run('cp /bin/sleep $DIR/tool; chmod 777 $DIR/tool')"
check "the origin runs a program that a remote has open" r "globals().update(reading=remote('$DIR/tool', RO)) or os.pread(reading, 4, 0)" "b'\x7fELF'"
check "… for reading" o "run('$DIR/tool 0.1')" ""
check "… not for writing" r "globals().update(writing=remote('$DIR/tool'))" ok
check "… which is said" o "error_of(os.execv, '$DIR/tool', ['tool'])" ETXTBSY
check "… until that is closed" r "os.close(writing) or os.close(reading)" ok
check "… then it runs" o "wait(lambda: ends(os.execv, '$DIR/tool', ['tool', '0.1']) == 'done')"
check "a program that runs at the origin" o "globals().update(running=subprocess.Popen(['$DIR/tool', '60'])) or time.sleep(0.5) or running.poll()" ok
check "… is not written to" r "error_of(remote, '$DIR/tool')" ETXTBSY
check "… but read" r "os.close(remote('$DIR/tool', RO))" ok
must o "running.kill(); running.wait()"

# ---- programs that the origin runs, and that a remote has just written there
must o "
def ran(*argv):
    # What it prints, once nobody has it open for writing any more.
    end = time.monotonic() + 10
    while True:
        try:
            return subprocess.run(argv, capture_output=True, text=True).stdout.strip()
        except OSError as error:
            if error.errno != errno.ETXTBSY or time.monotonic() > end:
                raise
            time.sleep(0.02)"
must o "put('$DIR/program', get('/bin/true')); put('$DIR/script', b'#!/bin/sh\necho old\n'); put('$DIR/loaded.so', bytes(len(get('$DIR/library.so')))); run('chmod 777 $DIR/program $DIR/script $DIR/loaded.so')"
check "a program and a script at the origin" o "(ran('$DIR/program', '-c', 'echo ran'), ran('$DIR/script'))" "('', 'old')"
check "… a remote writes another program into that file" r "(lambda fd: (os.ftruncate(fd, 0), write_all(fd, get('/bin/bash')), os.close(fd))[0])(remote('$DIR/program'))" ok
check "… which is what the origin then runs" o "ran('$DIR/program', '-c', 'echo ran')" ran
check "… the same with the script" r "(lambda fd: (os.pwrite(fd, b'new', 15), os.close(fd))[0])(remote('$DIR/script'))" 3
check "… which the origin then runs" o "ran('$DIR/script')" new
check "… and with a library" r "(lambda fd: (write_all(fd, get('$VT/library.so')), os.close(fd))[0])(remote('$DIR/loaded.so'))" ok
check "… which the origin then loads" o "ran('python3', '-c', 'import ctypes; print(ctypes.CDLL(\"$DIR/loaded.so\").answer())')" 42

check "a program without permission to run" o "os.chmod('$DIR/shell', 0o644)" ok
check "… does not" r "run('/vremote/node1$DIR/shell -c true 2>/dev/null', 126)" ""

must o "os.chmod('$DIR/shell', 0o711)"
check "who may run it need not be able to read it" r "as_user(1000, 1000, [], lambda: run('/vremote/node1$DIR/shell -c \"echo ran\"'))" ran
check "… and cannot" r "as_user(1000, 1000, [], lambda: open('/vremote/node1$DIR/shell', 'rb').read(1))" EACCES
must o "os.chmod('$DIR/shell', 0o744)"
check "who may read it need not be able to run it" r "as_user(1000, 1000, [], lambda: run('/vremote/node1$DIR/shell -c true 2>/dev/null', 126) + str(len(open('/vremote/node1$DIR/shell', 'rb').read(9))))" 9

# ---- two mappings of one page, stored to at the same time
must o "put('$DIR/page', bytes(8192)); page = share('$DIR/page')"
count() { # TIMES LEAD
	on 1 $VT/counter -l $((VREMOTE_DEBUG ? 1200 : 300)) -o -m "$DIR/page" 0 2 "$1" "$2" >"$TMP/1" 2>&1 &
	local first=$! rc=0
	on 2 $VT/counter -l $((VREMOTE_DEBUG ? 1200 : 300)) -m "$DIR/page" 1 2 "$1" "$2" >"$TMP/2" 2>&1 || rc=1
	wait $first || rc=1
	note "node1: $(cat "$TMP/1"); node2: $(cat "$TMP/2") (count, seconds)"
	return $rc
}
numbers() { ask o "[struct.unpack('<Q', os.pread(page, 8, at))[0] for at in (0, 1024)]"; }
expect "counters in one page, 500 each by loads and stores, in turns" count 500 1
expect_eq "none lost" "$(numbers)" "[500, 500]"
fault 2 loss 2%
expect "10,000 each with 2 % loss, as fast as each can" count 10000 0
expect_eq "none lost" "$(numbers)" "[10500, 10500]"
fault 2 heal
finish
