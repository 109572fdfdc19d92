#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Two programs count in different bytes of one page, on both nodes, 10,000 times each, with 2 % of the packets lost: no increment
# is lost. The page changes hands thousands of times.
# time-limit: 400

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

SECONDS_EACH=$((VREMOTE_DEBUG ? 1200 : 300))

begin /srv/counters
program counter
agent o 1
must o "put('$DIR/page', bytes(8192)); fd = share('$DIR/page')"

# count TIMES LEAD: both at once, the one never more than LEAD turns ahead of the other (0: each as fast as it can).
count() {
	on 1 $VT/counter -l $SECONDS_EACH -o "$DIR/page" 0 2 "$1" "$2" >"$TMP/1" 2>&1 &
	local first=$! rc=0
	on 2 $VT/counter -l $SECONDS_EACH "$DIR/page" 1 2 "$1" "$2" >"$TMP/2" 2>&1 || rc=1
	wait $first || rc=1
	note "node1: $(cat "$TMP/1"); node2: $(cat "$TMP/2") (count, seconds)"
	return $rc
}
numbers() { ask o "[struct.unpack('<Q', os.pread(fd, 8, at))[0] for at in (0, 1024)]"; }
given_up() { # how often the page was taken from the remote and from the origin
	ask o "counts('tx').get('Recall', 0) + counts('tx').get('Grant', 0)"
}

before=$(given_up)
expect "1,000 each without loss, in turns" count 1000 1
expect_eq "none lost" "$(numbers)" "[1000, 1000]"
fault 2 loss 2%
expect "10,000 each with 2 % loss in both directions, as fast as each can" count 10000 0
expect_eq "none lost" "$(numbers)" "[11000, 11000]"
expect "10,000 each with 2 % loss, never more than 10 turns apart" count 10000 10
expect_eq "none lost" "$(numbers)" "[21000, 21000]"
fault 2 heal
moved=$(($(given_up) - before))
note "the page was granted and recalled $moved times"
expect "the page did change hands" [ $moved -ge 2000 ]
check "the bytes between are untouched" o "os.pread(fd, 1016, 8) == bytes(1016) and os.pread(fd, 3064, 1032) == bytes(3064)"
agent r 2
check "the remote reads the same numbers" r "(lambda fd: [struct.unpack('<Q', os.pread(fd, 8, at))[0] for at in (0, 1024)])(remote('$DIR/page'))" "[21000, 21000]"
finish
