#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# `vremote drain`: what remotes have written comes home and onto the disk of an origin that is to be taken down; they read on, and
# change nothing. Then its power is cut, and everything is there. Boots node 1 once.
# time-limit: 180

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/drain
v=/vremote/node1$DIR
agent o 1
agent r 2
must o "put('$DIR/f', data(64 * PAGE, 1)); put('$DIR/g', b'g'); put('$DIR/h', bytes(PAGE)); plain = os.open('$DIR/f', RW); run('sync'); run('vremote export add --no-root-squash $DIR'); h = share('$DIR/h')"
must r "f = os.open('$v/f', RW); m = mmap.mmap(f, 64 * PAGE); os.pread(f, 64 * PAGE, 0); h = remote('$DIR/h'); g = os.open('$v/g', RW)"
check "written by write and by stores, and not synced" r "os.pwrite(f, data(32 * PAGE, 2), 0) == 32 * PAGE and m.__setitem__(slice(40 * PAGE, 40 * PAGE + 5), b'store') or os.pwrite(h, b'shared', 0)" 6
must r "os.mkdir('$v/directory'); os.ftruncate(g, 5)"
check "the origin lacks it" o "sum(share['pages_owned'] for share in status()['shares']) >= 34"

said=$(on 1 vremote drain 2>"$TMP/error")
expect_eq "vremote drain succeeds" "$?" 0
note "$(cat "$TMP/error") $said"
expect_match "… says how much came home" "$said" '[0-9]+ files, [0-9]+ pages \([0-9]+ KiB\) brought home'
check "… all of it" o "[share['pages_owned'] for share in status()['shares']] == [0] * len(status()['shares']) and status()['drained']"
expect_match "vremote status says so" "$(on 1 vremote status)" 'drained: other nodes may read here'

# ---- reads go on, changes do not
check "what is open is read on" r "os.pread(f, 10, 0) == data(32 * PAGE, 2)[:10]"
check "what is opened is read" r "get('$v/g')" "b'g\\x00\\x00\\x00\\x00'"
check "a read-only mapping, too" r "m[40 * PAGE:40 * PAGE + 5]" "b'store'"
check "a write" r "error_of(os.pwrite, f, b'x', 0)" EROFS
check "a write at the end" r "error_of(os.pwrite, f, b'x', 64 * PAGE)" EROFS
check "a store through a mapping" r "ends(m.__setitem__, 0, 1)" SIGBUS
check "a truncation" r "error_of(os.ftruncate, f, 0)" EROFS
check "an allocation" r "error_of(fallocate, f, 0, 0, 100 * PAGE)" EROFS
check "opening for writing" r "error_of(os.open, '$v/g', RW)" EROFS
check "opening and truncating" r "error_of(os.open, '$v/g', RO | TRUNC)" EROFS
check "creating" r "error_of(os.open, '$v/new', RO | CREAT)" EROFS
check "opening what exists with O_CREAT, to read" r "os.read(os.open('$v/g', RO | CREAT), 1)" "b'g'"
for change in "mkdir, '$v/new'" "unlink, '$v/g'" "rmdir, '$v/directory'" "rename, '$v/g', '$v/new'" "link, '$v/g', '$v/new'" \
	"symlink, 'g', '$v/new'" "chmod, '$v/g', 0o600" "utime, '$v/g'" "setxattr, '$v/g', 'user.a', b'1'"; do
	check "${change%%,*}" r "error_of(os.$change)" EROFS
done
check "chattr" r "error_of(fcntl.ioctl, f, 0x40086602, struct.pack('<Q', 0x40))" EROFS
check "fsync" r "os.fsync(f)" ok
check "the origin's own programs write on" o "os.pwrite(plain, b'origin', 20 * PAGE)" 6
check "… and remotes see it" r "os.pread(f, 6, 20 * PAGE)" "b'origin'"

# ---- it ends
expect "vremote drain --end" on 1 vremote drain --end
check "writes work again" r "os.pwrite(f, b'again', 0)" 5
# Without the tool, which has all file systems synced: what the module itself puts on the disk.
expect "it can be done again" sh_on 1 'echo 1 >/sys/kernel/config/vremote/drained'
check "… and brings that home" o "os.pread(plain, 5, 0)" "b'again'"

# ---- power off: everything that was ever written is there
must r "m.close(); os.close(f); os.close(g); os.close(h)"
expect "power off" fault 1 kill
leave o
PUSHED=()
expect "power on" fault 1 start
agent o 1
check "what was written" o "get('$DIR/f')[5:20 * PAGE] == data(32 * PAGE, 2)[5:20 * PAGE] and get('$DIR/f')[40 * PAGE:40 * PAGE + 5] == b'store'"
check "… also since the first drain" o "get('$DIR/f')[:5]" "b'again'"
check "… and what was shared by a descriptor" o "get('$DIR/h')[:6]" "b'shared'"
check "… and names and sizes" o "os.path.isdir('$DIR/directory') and os.stat('$DIR/g').st_size" 5
check "it is drained no longer" o "status()['drained']" False
finish
