#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Processes move between two nodes while they run: by each way of moving memory, with their files, and so that on any failure exactly one
# of them goes on. 6 moves in a row, and a kill in few phases; with LONG=1 in the environment 200, and in all.
# time-limit: 2700

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

TIMES=6 LIMIT=300 PHASES='60 95' LAZY='75'
[ "$VREMOTE_DEBUG" = 0 ] || LIMIT=1200
[ -z "${LONG:-}" ] || TIMES=200 LIMIT=14400 PHASES='30 50 65 80 90 100' LAZY='30 50 60 65 70 75 80 90 100'
NODES='1 2'

begin /srv/migrate
. "$TOP/scripts/tests/programs/moves.sh"

# ---- refusals, before anything is frozen

refuse() { # WHAT PID OPTIONS… : the answer must match $MATCH
	local what=$1 out rc=0
	shift
	out=$(on 1 vremote-migrate "$@" 2>&1) || rc=$?
	if [ $rc = 1 ] && [[ $out =~ $MATCH ]]; then pass "$what"; else fail "$what (status $rc: $out)"; fi
}
target=$(addr 2)
MATCH='no process 4194000' refuse "no process" 4194000 "$target"
MATCH='process 1 ' refuse "process 1" 1 "$target"
MATCH='thread of the kernel' refuse "a thread of the kernel" 2 "$target"
MATCH='no peer' refuse "an address that is no peer's" "$(on 1 pgrep -x vremoted)" 10.77.0.99
expect "the program itself" sh_on 1 'vremote-migrate $$ "$1" 2>&1 | grep -q "itself, or has started it"' "$target"
expect "a user who is not root" sh_on 1 'setpriv --reuid 1000 --regid 1000 --clear-groups vremote-migrate $(pgrep -x vremoted) "$1" 2>&1 | grep -q "only root can move"' "$target"
expect_status "no number" 2 on 1 vremote-migrate x "$target" 2>"$TMP/err"

start
expect "a program that can be moved" move 1 2 --check
expect_match "what would be done, for programs" "$(move 1 2 --dry-run --json)" "\"path\":\"$DIR/log\",\"place\":\"remote\",\"there\":\"/vremote/node1$DIR/log\""
expect_eq "… nothing is moved by that" "$(where)" "1 "
on 2 pkill -x vremoted
MATCH='cannot be reached|ended the connection' refuse "no daemon on the target" $PID "$target"
daemons
sh_on 2 'echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid; setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $! >/run/taken' $PID
if [ "$(on 2 cat /run/taken)" = $PID ]; then
	MATCH="the id $PID is taken, by sleep" refuse "an id that is taken" $PID "$target"
fi
sh_on 2 'kill $(cat /run/taken)'
expect "… and goes on" goes_on

# ---- there and back by each mode

for mode in stop precopy lazy; do
	result="\"mode\":\"$mode\",\"rounds\":$([ $mode = precopy ] && echo '[1-8]' || echo 0),"
	expect_match "$mode: there, by that mode" "$(move 1 2 --mode $mode --json)" "$result"
	expect_eq "… it is there alone" "$(where)" "2 "
	expect "… and goes on" goes_on
	expect_match "$mode: and back, by that mode" "$(move 2 1 --mode $mode --json)" "$result"
	expect_eq "… it is here alone" "$(where)" "1 "
	expect "… and goes on" goes_on
done
expect_eq "no step is missing or doubled, all hashes are right" "$(ends node1 node2 node1 node2 node1 node2 node1)" ok

# The others go there by one way and come back by another.
WAYS='stop:precopy lazy:stop'
start threads pipeline nameless sockets timer terminal memory=4
for ways in $WAYS; do
	expect "threads, a pipeline, a file without a name, sockets, a timer, a terminal (${ways%:*})" move 1 2 --mode ${ways%:*}
	expect "… go on" goes_on
	expect "… back (${ways#*:})" move 2 1 --mode ${ways#*:}
	expect "… go on" goes_on
done
expect_eq "… all as it should be" "$(ends)" ok

# A program that has opened files of node 1 by another path comes home to them.
on 1 vremote export add "$DIR" --no-root-squash
expect "the files of node 1 are mounted at the same place on node 2" on 2 mount --bind "/vremote/node1$DIR" "$DIR"
PID=$((PID - 10))
expect_eq "a program starts on node 2" "$(on 2 python3 $MOVER run "$DIR" $PID)" $PID
expect "… works" eventually 60 sh_on 1 'test -s "$1"/log' "$DIR"
expect "… comes to node 1" move 2 1
expect_match "… where its files are local" "$(sh_on 1 'readlink /proc/$1/fd/*' $PID)" "(^|[[:space:]])$DIR/log"
expect "… and goes on" goes_on
expect_eq "… with no step missing or doubled" "$(ends node2 node1)" ok

# SQLite looks at the number of its file before it writes, and makes its journal by path. The working directory is below an export.
start sqlite directory
for ways in $WAYS; do
	expect "a writer of SQLite goes (${ways%:*})" move 1 2 --mode ${ways%:*}
	expect "… goes on" goes_on
	expect "… comes back (${ways#*:})" move 2 1 --mode ${ways#*:}
	expect "… goes on" goes_on
done
expect_eq "… every step is in its database, which is in order" "$(ends node1 node2 node1 node2 node1)" ok
on 2 umount "$DIR"
on 1 vremote export del "$DIR"

# ---- failures: the source goes on

start lock
MATCH="$DIR/log: it holds a lock on this file" refuse "a lock that is held for good" $PID "$target"
expect "… it goes on" goes_on
expect_eq "… here alone" "$(where)" "1 "
expect_eq "… as if nothing had happened" "$(ends node1)" ok

start memory=4
for mode in stop precopy lazy; do
	sh_on 2 'rm -f /run/enough; end=$((SECONDS + 25)); while [ $SECONDS -lt $end ] && ! [ -e /run/enough ]; do pkill -9 -x criu; sleep 0.02; done' &
	killer=$!
	expect_fail "CRIU of the target is killed ($mode)" move 1 2 --mode $mode 2>"$TMP/err"
	on 2 touch /run/enough
	wait $killer
	on 2 rm /run/enough
	note "$(tail -n 2 "$TMP/err")"
	expect "… the source goes on" goes_on
	expect_eq "… alone" "$(where)" "1 "
done
# A move takes $whole ms here and now: what happens after parts of that hits all phases.
begun=${EPOCHREALTIME/./}
expect "a move that is timed" move 1 2 --mode stop
whole=$(((${EPOCHREALTIME/./} - begun) / 1000))
expect "… back" move 2 1 --mode stop
kill_after() { # PERCENT NODE PROGRAM MODE: kills it within a move; sets STATUS
	local mover at=$((whole * $1 / 100))
	on 1 timeout $LIMIT vremote-migrate $PID "$target" --mode "$4" >"$TMP/out" 2>&1 &
	mover=$!
	sleep $((at / 1000)).$(printf %03d $((at % 1000)))
	on "$2" pkill -9 -x "$3"
	wait $mover && STATUS="it moved" || STATUS="it stayed"
}
alone() { [[ $(where) =~ ^[12]\ $ ]]; }
# CRIU of the source is killed while the target restores: the tree goes on at once, and is not to run at the target as well.
start memory=4
(
	# The first process in a tree's cgroup is the CRIU that is about to make the tree.
	sh_on 2 'n=0; while [ $((n += 1)) -lt 1000000 ]; do for list in /sys/fs/cgroup/vremote/*/cgroup.procs; do ! read -r pid 2>/dev/null <"$list" || break 2; done; done; kill -STOP $pid'
	on 1 pkill -9 -x criu
	sleep 1
	on 2 pkill -CONT -x criu
) &
killer=$!
expect_fail "CRIU of the source is killed while the target restores" move 1 2 --mode stop 2>"$TMP/err"
wait $killer
note "$(tail -n 2 "$TMP/err")"
expect "… the source goes on" goes_on
eventually 10 alone
expect_eq "… alone" "$(where)" "1 "
expect_eq "… no step is missing or doubled" "$(ends)" ok
start memory=4
fates() { # NODE PROGRAM MODE
	local percent
	for percent in $PHASES; do
		kill_after $percent "$@"
		daemons >"$TMP/daemons"
		expect "$2 of node $1 is killed after $percent % ($3; $STATUS)" eventually 120 goes_on
		# A tree that has begun to arrive, and has never run, is ended within a second or two.
		eventually 10 alone
		expect_match "… one of them goes on" "$(where)" '^[12] $'
		# Not before the daemons have agreed that it is there.
		if [ "$(where)" = "2 " ]; then expect "… back" eventually 60 move 2 1 --mode stop; fi
	done
}
fates 2 vremoted stop
fates 1 vremote-migrate stop
expect_eq "… no step is missing or doubled" "$(ends)" ok
# With lazy memory what the target did before it failed is not undone: steps may be doubled.
start memory=4
PHASES=$LAZY
fates 2 vremoted lazy
fates 1 vremote-migrate lazy
# CRIU waits for the tree that it is to give memory to, and for nobody else.
sh_on 2 'for i in $(seq 3000); do ! pgrep -f "[c]riu lazy-pages" >/dev/null || break; sleep 0.01; done; pkill -9 -x vremoted' &
killer=$!
expect_fail "vremoted of node 2 is killed before the memory is asked for" move 1 2 --mode lazy 2>"$TMP/err"
wait $killer
daemons >"$TMP/daemons"
expect "… the source goes on" eventually 120 goes_on
expect "… no CRIU is left over" eventually 30 sh_on 2 '! pgrep -x criu'
on 1 python3 $MOVER stop "$DIR" >"$TMP/end"
expect_match "… it ends well" "$(cat "$TMP/end")" '^end '

# ---- strangers

sh_on 1 'head -c 100000 /dev/urandom >/dev/tcp/'"$target"'/1104' 2>/dev/null
expect "random bytes do not disturb the daemon" on 2 vremote jobs >/dev/null

# ---- many times

start
here=1
for ((n = 1; n <= TIMES; n++)); do
	move $here $((3 - here)) --mode stop >/dev/null || {
		fail "move $n"
		break
	}
	here=$((3 - here))
done
pass "$((n - 1)) moves back and forth"
expect "it goes on" goes_on
expect_eq "no step is missing or doubled" "$(ends)" ok
start
expect "a program that shall end on the target" move 1 2
job=$(on 2 vremote jobs | awk -v pid=$PID '$4 == pid { print $1 }')
expect_match "vremote jobs shows it" "$job" '^[0-9a-f]{16}$'
expect_match "… and the source that it is away" "$(on 1 vremote jobs)" "$job +moved +node2"
expect "… vremote jobs stop ends it" on 2 vremote jobs stop "$job"
expect "… it is gone" eventually 10 eval '[ -z "$(where)" ]'
for k in 1 2; do expect_eq "nothing is left on node $k" "$(clean $k)" ''; done
for k in 1 2; do on $k pkill -x vremoted; done
finish
