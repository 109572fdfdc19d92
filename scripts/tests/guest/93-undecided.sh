#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Moves of which it is not known whether they have succeeded: the target has noted that it runs the program, and then says nothing. Until it does
# the program stands still at the source, through the end of every daemon; an operator may decide.
# time-limit: 600

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

LIMIT=200
[ "$VREMOTE_DEBUG" = 0 ] || LIMIT=600
NODES='1 2'

begin /srv/undecided
. "$TOP/scripts/tests/programs/moves.sh"

push "$PROGRAMS/stop_at_commit.py" "2:$VT/" || exit 1
state() { on "$1" vremote jobs | awk -v job="$JOB" '$1 == job { print $2 }'; }
is_state() { [ "$(state "$1")" = "$2" ]; }
# [SIGNAL [MODE [NOTE]]]: a move gets there; its program is sent the signal; without one it gives up by itself. NOTE is that of the
# target's after which its daemon does nothing more: the second is that the program runs there.
undecided() {
	local stopping rc=0
	sh_on 2 'exec python3 $1/stop_at_commit.py $(pgrep -x vremoted) $2' "$VT" "${3:-2}" &
	stopping=$!
	on 1 timeout $LIMIT vremote-migrate $PID "$(addr 2)" --mode "${2:-stop}" >"$TMP/out" 2>&1 &
	MOVING=$!
	wait $stopping || rc=$?
	expect "the target's daemon stands still once the move is committed" [ $rc = 0 ]
	# Whoever wants it to go on is not heard while CRIU has it in its hands, nor when that lets it go.
	on 1 kill -CONT $PID
	[ -z "${1:-}" ] || on 1 pkill "$1" -x vremote-migrate
	rc=0
	wait $MOVING || rc=$?
	if [ -n "${1:-}" ]; then return; fi
	expect_eq "… vremote-migrate says that it does not know" $rc 3
	expect_match "… and what is to be done" "$(cat "$TMP/out")" 'stands still here until that is known.*vremote jobs says what to do'
}
find_job() {
	expect "… vremote jobs says that it is undecided" eventually 30 sh_on 1 'vremote jobs | grep -q " undecided "'
	JOB=$(on 1 vremote jobs | awk '$2 == "undecided" { print $1 }')
	expect_match "… and what to do" "$(on 1 vremote jobs)" "$JOB: it stands still: node2 was told to run it.*vremote jobs resume $JOB.*vremote jobs stop $JOB"
}
# Not at the source, whether the target has got to it or not.
stands_still() {
	local before
	before=$(on 1 cat /proc/$PID/stat | cut -d ' ' -f 14,15)
	sleep "$1"
	on 1 test -d /proc/$PID && [[ $(where) != *1* ]] && [ "$(on 1 cat /proc/$PID/stat | cut -d ' ' -f 14,15)" = "$before" ]
}

# ---- the target is back

start memory=4
undecided
find_job
expect "… it stands still here" stands_still 3
expect_match "… it cannot be moved meanwhile" "$(move 1 2 2>&1)" "process $PID is being moved already"
on 1 pkill -9 -x vremoted
on 1 kill -CONT $PID
expect "… and whoever wants it to go on is not heard, even without a daemon" stands_still 3
daemons
expect "the source's daemon is killed: the next one does not know either" eventually 30 is_state 1 undecided
expect "… and it stands still" stands_still 3
on 2 pkill -CONT -x vremoted
expect "the target's daemon goes on: then it is known" eventually 60 is_state 1 moved
expect "… at the target, too" eventually 60 is_state 2 here
expect_eq "… it is there alone" "$(where)" "2 "
expect "… and goes on" goes_on
expect "… back" move 2 1 --mode stop
expect_eq "no step is missing or doubled" "$(ends node1 node2 node1)" ok
for k in 1 2; do expect_eq "nothing is left on node $k" "$(clean $k)" ''; done

# ---- the target's daemon is killed, and an operator ends what is here

start memory=4 sockets
undecided -9
find_job
on 2 pkill -9 -x vremoted
expect "the program that moved it and the target's daemon are killed: it stands still here" stands_still 3
on 1 kill -CONT $PID
expect "… whoever wants it to go on" stands_still 3
expect "it goes on there, without a daemon" eventually 60 eval '[ "$(where)" = "2 " ]'
expect "vremote jobs stop ends it here" on 1 vremote jobs stop "$JOB"
expect "… at once" eventually 5 sh_on 1 '! [ -d /proc/$1 ]' $PID
expect "… and it goes on there" goes_on
on 1 pkill -9 -x vremoted
NODES=2 daemons
expect "there is a daemon, and none here that it can ask" eventually 60 is_state 2 unconfirmed
UNKNOWN='it has come from node1, and it is not known yet that it does not go on there'
expect_match "… it cannot be moved on" "$(move 2 1 2>&1)" "$UNKNOWN"
expect_match "… nor can a part of it" "$(PID=$(on 2 pgrep -P $PID); move 2 1 2>&1)" "$UNKNOWN"
daemons
expect "… for good, once there is a daemon" eventually 60 is_state 2 here
expect "… back" move 2 1 --mode stop
expect_eq "no step is missing or doubled" "$(ends node1 node2 node1)" ok
for k in 1 2; do expect_eq "nothing is left on node $k" "$(clean $k)" ''; done

# ---- nobody knows, and an operator lets it go on here

start memory=4
undecided -9 stop 1
find_job
on 2 pkill -9 -x vremoted
daemons
expect "the target's daemon is killed as it is about to let it go: the next one does not know whether it has run" eventually 90 is_state 2 unsure
expect "… which the source says" eventually 30 sh_on 1 'vremote jobs | grep -q "node2 does not know whether it has run there"'
expect "… it stands still here" stands_still 3
expect_fail "… there is nothing to let go on at the target" on 2 vremote jobs resume "$JOB" 2>"$TMP/err"
expect "vremote jobs resume lets it go on here" on 1 vremote jobs resume "$JOB"
expect "… which it does" goes_on
expect_eq "… where it was" "$(on 1 cat /proc/$PID/cgroup | grep -c '^0::/vremote')" 0
expect_eq "… alone" "$(where)" "1 "
expect "… the target forgets it" eventually 30 eval '[ -z "$(state 2)" ]'
# What it has done at the target is not undone: steps may be doubled.
on 1 python3 $MOVER stop "$DIR" >"$TMP/end"
expect_match "… it ends well" "$(cat "$TMP/end")" '^end '
for k in 1 2; do expect_eq "nothing is left on node $k" "$(clean $k)" ''; done

# ---- an operator lets it go on here, and it runs there, however memory moved: CRIU may have more to do with it than to let it go

for mode in stop lazy; do
	start memory=4
	# With lazy memory there is one note, when all of it is there.
	undecided -9 $mode $([ $mode = lazy ] && echo 1)
	find_job
	expect "… it stands still here ($mode)" stands_still 3
	on 2 pkill -9 -x vremoted
	eventually 60 eval '[ "$(where)" = "2 " ]'
	expect "it runs at the target, and an operator lets it go on here" on 1 vremote jobs resume "$JOB"
	expect "… both run" eventually 30 eval '[ "$(where)" = "1 2 " ]'
	on 1 pkill -9 -x vremoted
	daemons
	expect "… until the target hears of that, even from another daemon" eventually 60 eval '[ "$(where)" = "1 " ]'
	expect "… it goes on here" goes_on
	on 1 python3 $MOVER stop "$DIR" >"$TMP/end"
	expect_match "… it ends well" "$(cat "$TMP/end")" '^end '
	for k in 1 2; do expect_eq "nothing is left on node $k" "$(clean $k)" ''; done
done
for k in 1 2; do on $k pkill -x vremoted; done
finish
