#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# A large file through and back: equal hashes. 128 MiB; with LONG=1 in the environment 1 GiB. A minute, or five.
# time-limit: 900

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/copy
MIB=128
[ "${LONG:-0}" = 0 ] || MIB=1024
agent o 1
agent r 2

ASK_SECONDS=$((ASK_SECONDS * 4))
# Random bytes, with holes and a part of a page at the end.
size=$((MIB * 1048576 - 1234))
must o "run('head -c $((MIB * 3 / 4))M /dev/urandom > $DIR/f && truncate -s $size $DIR/f && dd if=/dev/urandom of=$DIR/f bs=1M seek=$((MIB * 7 / 8)) count=$((MIB / 16)) conv=notrunc status=none && truncate -s $size $DIR/f && sync -f $DIR')"
must o "run('vremote export add $DIR --no-root-squash')"

copy() { # AGENT FROM TO
	tell "$1" "timed(lambda: run('cat $2 > $3'))[1]"
	answer "$1"
}
seconds=$(copy r "/vremote/node1$DIR/f" "$DIR/copy")
note "$MIB MiB from node1 to node2: $seconds s"
tell o "run('sha256sum $DIR/f').split()[0]"
tell r "run('sha256sum $DIR/copy').split()[0]"
want=$(answer o) got=$(answer r)
expect_match "the origin's hash" "$want" '^[0-9a-f]{64}$'
expect_eq "$MIB MiB read through: equal hash" "$got" "$want"
must o "os.unlink('$DIR/f')"
must r "drop_caches()"

seconds=$(copy r "$DIR/copy" "/vremote/node1$DIR/back")
note "$MIB MiB from node2 to node1: $seconds s"
check "the copy's size at the origin" o "os.stat('$DIR/back').st_size" $size
tell o "run('sha256sum $DIR/back').split()[0]"
expect_eq "$MIB MiB written through: equal hash" "$(answer o)" "$want"
must r "os.unlink('$DIR/copy')"
must o "os.unlink('$DIR/back')"
# A message a page: a moment, or with the debug kernel on a busy machine minutes.
check "deleted files are let go, so that their blocks are free" o "wait(lambda: not any('$DIR/' in s['path'] for s in status()['shares']), $((VREMOTE_DEBUG ? 480 : 10)))"
finish
