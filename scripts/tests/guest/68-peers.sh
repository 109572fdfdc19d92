#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# A node is removed and added while files are open, and a module is taken down at an origin that others hold pages of: what they had written
# comes home first, who has nothing to do with it goes on, and what the removed one had open is over.
# nodes: 3
# time-limit: 180

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

[ "$VREMOTE_NODES" -ge 3 ] || skip_all "three nodes are needed"
begin /srv/peers
v=/vremote/node1$DIR
agent o 1
agent r 2
agent s 3
must o "put('$DIR/f', bytes(32 * PAGE)); plain = os.open('$DIR/f', RW); run('vremote export add --no-root-squash $DIR')"
for who in r s; do must $who "wait(lambda: exists('$v/f'), 30); fd = os.open('$v/f', RW)"; done

# ---- removed, while it lives and has files open
must r "os.pwrite(fd, b'of r', 0)"
must s "os.pwrite(fd, b'of s', PAGE); os.pread(fd, 1, 20 * PAGE); fcntl.lockf(fd, fcntl.LOCK_EX, 10, 100)"
r_fences=$(ask o "peers()['node2']['fences']")
must r "seen, over = [], False
def go_on():
    while not over:
        seen.append(error_of(os.pwrite, fd, b'r', 5 * PAGE)); time.sleep(0.05)
thread = threading.Thread(target=go_on); thread.start()"
expect "a peer that has files open is removed" sh_on 1 'vremote peer del node3'
check "what it had written is here" o "os.pread(plain, 4, PAGE)" "b'of s'"
check "… its locks are free" o "error_of(fcntl.lockf, plain, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 100)" none
check "… what it has open is over, in time" s "bounded(lambda: os.pwrite(fd, b'more', PAGE), 'EIO ETIMEDOUT ESTALE ENOTCONN', 12)"
check "… and shows nothing that is no more" s "bounded(lambda: os.pread(fd, 4, PAGE), 'EIO ETIMEDOUT ESTALE ENOTCONN', 12)"
check "… it opens nothing" s "bounded(lambda: os.open('$v/f', RO), 'EIO ETIMEDOUT ESTALE ENOTCONN ENOENT', 12)"
check "another remote, which had it open all the time, goes on" r "os.pread(fd, 4, 0)" "b'of r'"
check "… it sees what the removed one had written" r "os.pread(fd, 4, PAGE)" "b'of s'"

# ---- added, while others have files open
expect "it is added again" "$TOP/scripts/cluster" peers
check "… and opens the file anew" s "wait(lambda: error_of(lambda: globals().update(new=os.open('$v/f', RW))) == 'none', 30) and os.pread(new, 4, PAGE)" "b'of s'"
check "… what it had open before stays over" s "error_of(os.pread, fd, 1, 0)" ESTALE
check "… and it writes what the others see" s "os.pwrite(new, b'anew', 2 * PAGE)" 4
check "… a remote" r "os.pread(fd, 4, 2 * PAGE)" "b'anew'"
check "… the origin" o "os.pread(plain, 4, 2 * PAGE)" "b'anew'"
must r "over = True; thread.join()"
check "nobody else was told of an error meanwhile" r "set(seen)" "{'none'}"
check "… or fenced" o "peers()['node2']['fences']" "$r_fences"

# ---- the origin's module goes, while remotes hold pages that they have written
must r "os.pwrite(fd, b'last of r', 6 * PAGE)"
must s "os.pwrite(new, b'last of s', 7 * PAGE)"
must o "os.close(plain)"
expect_fail "the module is not unloaded while there are peers" on 1 rmmod vremote 2>/dev/null
check "… nor is anything lost by trying" r "os.pread(fd, 9, 6 * PAGE)" "b'last of r'"
must r "os.pwrite(fd, b'very last', 6 * PAGE)"
expect "exports and peers removed, it is unloaded" sh_on 1 'umount /vremote; vremote clear && rmmod vremote'
check "what remotes had written is here, without an fsync" o "get('$DIR/f')[6 * PAGE:6 * PAGE + 9] + get('$DIR/f')[7 * PAGE:7 * PAGE + 9]" "b'very lastlast of s'"
check "… a remote's call ends in time" r "bounded(lambda: os.pread(fd, 9, 6 * PAGE), 'EIO ETIMEDOUT ESTALE ENOTCONN', 12)"
expect "loaded again" sh_on 1 'insmod /root/vremote.ko && mount -t vremote vremote /vremote'
expect "… all nodes know each other" "$TOP/scripts/cluster" peers
must o "run('vremote export add --no-root-squash $DIR')"
check "… and a remote opens the file anew" r "wait(lambda: error_of(lambda: globals().update(new=os.open('$v/f', RW))) == 'none', 60) and os.pread(new, 9, 6 * PAGE)" "b'very last'"
check "… what it had open before stays over" r "error_of(os.pread, fd, 1, 0)" ESTALE
check "… none of its bytes were lost" r "error_of(os.fsync, new)" none
leave r s o
finish
