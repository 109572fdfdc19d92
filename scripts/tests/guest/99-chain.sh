#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Processes move on from node to node, and several at once: files stay their origin's, on every node that a process comes to.
# nodes: 3
# time-limit: 300

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

[ "$VREMOTE_NODES" -ge 3 ] || skip_all "it takes three nodes"
LIMIT=120
[ "$VREMOTE_DEBUG" = 0 ] || LIMIT=600
NODES='1 2 3'

begin /srv/chain
. "$TOP/scripts/tests/programs/moves.sh"

# files NODE: where its descriptors lead to
files() { sh_on "$1" 'readlink /proc/$1/fd/* | sort -u' $PID; }

# ---- from node to node, and home

for mode in stop lazy; do
	start memory=4
	expect_match "$mode: from node 1 to node 2, by that mode" "$(move 1 2 --mode $mode --json)" "\"mode\":\"$mode\""
	expect "… it goes on" goes_on
	expect "$mode: from there to node 3" move 2 3 --mode $mode
	expect_eq "… it is there alone" "$(where)" "3 "
	expect "… and goes on" goes_on
	expect_match "… with the files of node 1" "$(files 3)" "/vremote/node1$DIR/log"
	expect_match "… which come from there, not from node 2" "$(files 3 | grep -c /vremote/node2)" '^0$'
	expect "$mode: home" move 3 1 --mode $mode
	expect_eq "… it is there alone" "$(where)" "1 "
	expect_match "… and its files are local" "$(files 1)" "(^|[[:space:]])$DIR/log"
	expect "… and it goes on" goes_on
	expect_eq "no step is missing or doubled, all hashes are right" "$(ends node1 node2 node3 node1)" ok
done

# ---- the node in the middle is not needed any more

start
expect "from node 1 to node 2" move 1 2
expect "… to node 3" move 2 3
on 2 pkill -x vremoted
fault 2 partition
expect "it goes on without the node that it has left" goes_on
fault 2 heal
eventually 30 up 1 || fail "the peers find each other again"
daemons
expect "… and comes home" move 3 1
expect_eq "… with no step missing or doubled" "$(ends)" ok

# ---- several at once, in both directions

top=$DIR pids=()
for n in 1 2 3; do
	DIR=$top/$n
	on 1 mkdir -p "$DIR"
	start
	pids+=("$PID")
done
all() { # WHAT FROM TO: moves all of them at the same time
	local n pid movers=() rc=0
	for n in 0 1 2; do
		PID=${pids[n]} move $2 $3 --mode stop >"$TMP/move.$n" 2>&1 &
		movers+=($!)
	done
	for pid in "${movers[@]}"; do wait $pid || rc=1; done
	[ $rc = 0 ] || cat "$TMP"/move.*
	expect "$1" [ $rc = 0 ]
}
all "three processes move at the same time" 1 2
all "… and back" 2 1
for n in 1 2 3; do
	DIR=$top/$n PID=${pids[n - 1]}
	expect_eq "… process $n has no step missing or doubled" "$(ends node1 node2 node1)" ok
done
DIR=$top

for k in $NODES; do expect_eq "nothing is left on node $k" "$(clean $k)" ''; done
for k in $NODES; do on $k pkill -x vremoted; done
finish
