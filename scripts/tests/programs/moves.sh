# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# For tests of vremote-migrate, sourced after agents.sh, and after `begin`: mover.py runs on node 1 with its files in $DIR there.
# NODES are those that take part. A move takes at most LIMIT seconds.
#
#   daemons              starts vremoted where it does not run
#   start [EXTRA …]      a program with a lower id than the one before, in PID: what a node starts by itself gets higher ones
#   move FROM TO [OPTION …]
#   where                the nodes on which it is there, and runs, each followed by a blank
#   goes_on              it makes steps
#   ends [NODE …]        ends it and checks the log: prints ok; if nodes are named, it ran on these, in this order
#   clean NODE           prints what of moves is left there, and what is not as it was: mounts, and what the daemon, which has to run, has open

PID=20000
MOVER=$VT/mover.py

for k in $NODES; do
	provide $k
	push "$PROGRAMS/mover.py" "$k:$VT/" || exit 1
done

daemons() {
	local k
	for k in $NODES; do
		sh_on $k 'pgrep -x vremoted >/dev/null || { setsid vremoted </dev/null >>/var/log/vremoted.log 2>&1 & }'
		expect "vremoted runs on node $k" eventually 30 on $k test -S /run/vremote/vremoted.sock
	done
}
up() { on "$1" vremote status --json | python3 -c 'import json, sys; sys.exit(any(p["state"] != "up" for p in json.load(sys.stdin)["peers"]))'; }
for k in $NODES; do expect "the peers know each other (node $k)" eventually 30 up $k; done
daemons

start() {
	local got
	PID=$((PID - 10))
	# Somebody else may start a process in that moment: then it has the next id.
	got=$(on 1 python3 $MOVER run "$DIR" $PID "$@")
	expect_match "a program starts (${*:-plain})" "$got" '^[0-9]+$'
	PID=$got
	eventually 60 sh_on 1 'test -s "$1"/log' "$DIR" || fail "it works"
}
move() {
	local from=$1 to=$2
	shift 2
	on "$from" timeout $LIMIT vremote-migrate $PID "$(addr "$to")" "$@"
}
where() {
	local k
	for k in $NODES; do sh_on $k '[ -d /proc/$1 ] && ! grep -q "^State:.[ZXTt]" /proc/$1/status && ! grep -qsx 1 /sys/fs/cgroup"$(sed -n s/^0:://p /proc/$1/cgroup)"/cgroup.freeze && printf "%s " '$k $PID; done
}
steps() { sh_on 1 'wc -l <"$1"/log' "$DIR"; }
goes_on() {
	local before
	before=$(steps)
	eventually 60 eval "[ \$(steps) -gt $((before + 5)) ]"
}
ends() {
	on 1 python3 $MOVER stop "$DIR" >"$TMP/end" || fail "it can be ended"
	on 1 python3 $MOVER check "$DIR" "$@"
}
# What is the same before and after moves. A mount has other numbers after a restart of the node. Names of CRIU are those that it gives to files
# that have none while it dumps or restores.
LIKE='like() {
	cut -d " " -f 4- /proc/self/mountinfo | sed "s/ shared:[0-9]*//" | sort
	for pid in $(pgrep -x vremoted); do echo "vremoted: $(ls /proc/$pid/fd | wc -l) descriptors, $(ls /proc/$pid/task | wc -l) threads"; done
	find / /srv -xdev \( -name "link_remap.*" -o -name "*.cr.*.ghost" \) -print
}'
clean() {
	sh_on "$1" "$LIKE"'
		for i in $(seq 200); do
			left=$(pgrep -xa criu; ls /var/lib/vremote/jobs; ls /var/lib/vremote/claims /run/vremote/away 2>/dev/null | grep -x "[0-9a-f]*"; ls -d /sys/fs/cgroup/vremote/*/ /run/vremote/leaving/* 2>/dev/null; vremote jobs | tail -n +2)
			[ -n "$left" ] || left=$(diff <(echo "$1") <(like))
			[ -n "$left" ] || exit 0
			sleep 0.1
		done
		printf "%s\n" "$left"' "$(<"$TMP/like.$1")"
}
# The daemons have just begun: what they are like is taken when it stays so.
for k in $NODES; do
	sh_on $k "$LIKE"'
		now=""
		for i in $(seq 30); do
			before=$now now=$(like)
			[ "$i" = 1 ] || [ "$now" != "$before" ] || break
			sleep 1
		done
		printf "%s\n" "$now"' >"$TMP/like.$k" || exit 1
done
