#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Moves that fail for what is around them: disks are full, the network is cut, the other machine loses its power. The program goes on, here or
# there and never on both, and nothing is left. Boots node 2 once.
# time-limit: 600

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

LIMIT=200
[ "$VREMOTE_DEBUG" = 0 ] || LIMIT=600
NODES='1 2'

begin /srv/unlucky
. "$TOP/scripts/tests/programs/moves.sh"

fails() { # WHAT PATTERN OPTIONS… : the move ends in an error that says why, and the program goes on here alone
	local what=$1 pattern=$2 out rc=0
	shift 2
	out=$(move 1 2 "$@" 2>&1) || rc=$?
	if [ $rc = 1 ] && [[ $out =~ $pattern ]]; then
		pass "$what"
		note "$(tail -n 2 <<<"$out")"
	else fail "$what (status $rc: $out)"; fi
	expect "… the program goes on" goes_on
	expect_eq "… here alone" "$(where)" "1 "
}

# Whoever comes first to where there is no room says so: CRIU, or a program of ours.
REASON='No space left|CRIU|stream of pages|connection failed'

# ---- disks

start memory=4
full() { # NODE DIRECTORY OPTIONS : a file system with no room to speak of is there
	sh_on "$1" 'mkdir -p "$1" && mount -t tmpfs -o "$2" full "$1"' "$2" "$3"
}
expect "the target has no room for images" full 2 /var/lib/vremote/jobs size=1m
fails "… which is found before anything is frozen" 'are free for images.*make room'
expect "… there is room again" on 2 umount /var/lib/vremote/jobs
for mode in stop precopy lazy; do
	# Room there seems to be, but not for one file more.
	expect "the target's disk is full once the move has begun ($mode)" full 2 /var/lib/vremote/jobs nr_inodes=4
	fails "… the move fails" "$REASON" --mode $mode
	expect "… there is room again" eventually 20 on 2 umount /var/lib/vremote/jobs
	expect "the source's disk is full once the move has begun ($mode)" full 1 /run/vremote/leaving nr_inodes=6
	fails "… the move fails" "$REASON" --mode $mode
	expect "… there is room again" eventually 20 on 1 umount /run/vremote/leaving
done
stands_still() { on 1 grep -q '^State:.T' /proc/$PID/status; }
for mode in precopy lazy; do
	expect "its user stops it" on 1 kill -STOP $PID
	expect "… the target's disk is full" full 2 /var/lib/vremote/jobs nr_inodes=4
	rc=0
	out=$(move 1 2 --mode $mode 2>&1) || rc=$?
	expect_match "… a move of it fails once it has begun ($mode)" "$rc $out" "^1 .*($REASON)"
	# Who would wake it may come late.
	expect_eq "… nothing of it is left here" "$(clean 1)" ''
	sleep 1
	expect "… it stands still as before" stands_still
	expect "… there is room again" eventually 20 on 2 umount /var/lib/vremote/jobs
	expect "… until its user lets it go on" on 1 kill -CONT $PID
	expect "… which it does" goes_on
done
for k in 1 2; do expect_eq "nothing is left on node $k" "$(clean $k)" ''; done
begun=${EPOCHREALTIME/./}
expect "now it moves" move 1 2 --mode stop
whole=$(((${EPOCHREALTIME/./} - begun) / 1000))
expect "… and goes on" goes_on
expect "… back" move 2 1 --mode stop
expect_eq "no step is missing or doubled" "$(ends node1 node2 node1)" ok

# ---- the network, the power

begin_move() {
	on 1 timeout $LIMIT vremote-migrate $PID "$(addr 2)" --mode stop >"$TMP/out" 2>&1 &
	MOVING=$!
}
end_move() {
	wait $MOVING && STATUS="it moved" || STATUS="it stayed"
	note "$(tail -n 1 "$TMP/out")"
}
strike() { # PERCENT SECONDS : after that part of a move of $whole ms the network is cut for so long
	local at=$((whole * $1 / 100))
	begin_move
	sleep $((at / 1000)).$(printf %03d $((at % 1000)))
	fault 2 partition && sleep "$2" && fault 2 heal
	end_move
}
start memory=4
# Once it runs at the target its files are elsewhere: a longer cut than they wait for would reach the program as an error of a file.
for cut in '20 12' '60 3' '90 3'; do
	# shellcheck disable=SC2086 # two words
	strike $cut
	expect "the network is cut for ${cut#* } s after ${cut% *} % ($STATUS): it goes on" eventually 120 goes_on
	expect_match "… one of them" "$(where)" '^[12] $'
	if [ "$(where)" = "2 " ]; then expect "… back" move 2 1 --mode stop; fi
done
expect_eq "no step is missing or doubled" "$(ends)" ok
for k in 1 2; do expect_eq "nothing is left on node $k" "$(clean $k)" ''; done

start memory=4
begin_move
# Something of it has arrived, and it cannot run there yet.
expect "a move begins" eventually 60 sh_on 2 '[ -n "$(ls -A /var/lib/vremote/jobs)" ]'
fault 2 kill
end_move
expect "the target loses its power in the middle ($STATUS): the program goes on here" eventually 120 goes_on
expect "the target boots again" fault 2 start
PUSHED=()
provide 2
daemons
expect_eq "… it knows nothing of it" "$(where)" "1 "
expect "the next move succeeds" move 1 2
expect "… and it goes on" goes_on
expect "… back" move 2 1
expect_eq "no step is missing or doubled" "$(ends node1 node2 node1)" ok
for k in 1 2; do expect_eq "nothing is left on node $k" "$(clean $k)" ''; done
for k in 1 2; do on $k pkill -x vremoted; done
finish
