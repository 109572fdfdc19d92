#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Each way of moving memory does what it says, in figures that do not depend on time: how many bytes move, and when. The program has 64 MiB of
# memory, of which it writes little, and a large file.
# time-limit: 400

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

LIMIT=200
[ "$VREMOTE_DEBUG" = 0 ] || LIMIT=800
NODES='1 2'
MIB=64 FILE_MIB=512

begin /srv/modes
. "$TOP/scripts/tests/programs/moves.sh"
program resident
sh_on 1 'truncate -s $2M "$1"/file' "$DIR" $FILE_MIB

begin_one() { # PAUSE: the program, in PID; it writes a page each PAUSE milliseconds
	PID=$((PID - 10))
	PID=$(sh_on 1 'cd /; echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid; rm -f "$2"/log; setsid "$3" $4 "$2"/file "$2"/log $5 </dev/null >/dev/null 2>&1 & echo $!' $PID "$DIR" $VT/resident $MIB "$1")
	eventually 120 sh_on 1 'grep -q ready "$1"/log' "$DIR" || fail "the program starts"
}
end_one() { # it runs on node 2
	eventually 60 sh_on 1 'grep -q "^arrived node2 " "$1"/log' "$DIR" || fail "it says that it runs on node 2"
	on 2 pkill -x resident
	eventually 30 eval '! on 2 pgrep -x resident >/dev/null' || fail "it ends"
}
# says WHAT EXPRESSION: it is true of the result of the last move, which is `r`, in MiB where it is bytes
says() {
	local got
	got=$(python3 -c '
import json, sys
r, mib = json.load(open(sys.argv[1])), float(1 << 20)
print(eval(sys.argv[2]) or r)' "$TMP/result" "$2")
	expect_eq "$1" "$got" True
}
received() { on 2 cat /sys/class/net/eth0/statistics/rx_bytes; }

# ---- while it stands still

begin_one 100
expect "stop" eval 'move 1 2 --mode stop --json --timeline /run/move.svg >"$TMP/result"'
says "… it is that mode, without rounds" 'r["mode"] == "stop" and r["rounds"] == 0'
says "… all memory moved, once, before it ran there" "$MIB <= r['bytes'] / mib < $MIB + 8 and r['bytes_of_rounds'] == [r['bytes']] and r['bytes_before_it_runs'] >= r['bytes']"
on 1 cat /run/move.svg >"$TMP/move.svg"
for phase in preflight 'freeze and dump' restore finish; do expect "… its timeline shows the phase '$phase'" grep -qE "<title>$phase: [0-9.]+ s</title>" "$TMP/move.svg"; done
expect_match "… and memory that moves bit by bit: different heights of its curve" "$(sed -nE 's/.*points="([^"]*)".*/\1/p' "$TMP/move.svg" | tr ' ' '\n' | cut -d , -f 2 | sort -u | wc -l)" '^([5-9]|[0-9]{2,})$'
expect_eq "… which is XML" "$(python3 -c 'import sys, xml.dom.minidom; print(xml.dom.minidom.parse(sys.argv[1]).documentElement.tagName)' "$TMP/move.svg")" svg
end_one

# ---- while it runs. A huge page counts as written as a whole when a byte of it is: what moves again must not be that.

# The kernel puts huge pages together while memory moves, too: 16 MiB in 10 s, which is much where all is slow. Not here, so that counts are exact.
huge() { sh_on 1 'echo $1 >/sys/kernel/mm/transparent_hugepage/enabled' "$1"; }
begin_one 100
expect_match "the program has huge pages" "$(on 1 grep AnonHugePages /proc/$PID/smaps_rollup)" '[1-9][0-9]+ kB'
huge madvise
expect "precopy" eval 'move 1 2 --mode precopy --json >"$TMP/result"'
says "… it is that mode, in some rounds" 'r["mode"] == "precopy" and 2 <= r["rounds"] <= 8 and len(r["bytes_of_rounds"]) == r["rounds"] + 1'
says "… the first one moved all memory" "r['bytes_of_rounds'][0] / mib >= $MIB"
says "… each later one a tenth of it at most, the one while it stands still as well" 'max(r["bytes_of_rounds"][1:]) <= r["bytes_of_rounds"][0] / 10'
note "rounds of precopy: $(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["bytes_of_rounds"])' "$TMP/result")"
end_one
huge always

begin_one 100
expect "no mode is named" eval 'move 1 2 --json >"$TMP/result"'
says "… of so much memory it is precopy" 'r["mode"] == "precopy" and r["rounds"] >= 2'
says "… and little moves while it stands still" 'r["bytes_of_rounds"][-1] <= r["bytes_of_rounds"][0] / 10'
end_one

# ---- after it runs

begin_one 1
before=$(received)
expect "lazy" eval 'move 1 2 --mode lazy --json >"$TMP/result"'
says "… it is that mode, without rounds" 'r["mode"] == "lazy" and r["rounds"] == 0 and r["bytes_of_rounds"] == []'
says "… it ran before 1 % of memory and file had been sent" "r['bytes_before_it_runs'] / mib <= ($MIB + $FILE_MIB) / 100"
says "… in the end all memory moved" "r['bytes'] / mib >= $MIB"
read -r _ _ arrived < <(sh_on 1 'for i in $(seq 600); do grep -m 1 "^arrived " "$1"/log && exit; sleep 0.1; done' "$DIR")
note "received before it ran: $((arrived - before)) bytes"
expect "… nor had that node received more by any way" [ $((arrived - before)) -le $(((MIB + FILE_MIB) * 1048576 / 100)) ]
end_one

for k in 1 2; do expect_eq "nothing is left on node $k" "$(clean $k)" ''; done
for k in 1 2; do on $k pkill -x vremoted; done
finish
