#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The origin's power is cut while four programs of a remote write and sync, each in another way, at a moment that is drawn: what was
# confirmed by then is on its disk. Twice; with LONG=1 in the environment 1000 times, or CUTS times.
# time-limit: 240

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

TIMES=2
[ -z "${LONG:-}" ] || TIMES=${CUTS:-1000}
KINDS='fsync append dsync msync'

begin /srv/power
equip() { # NODE: puts the program there
	unset "PUSHED[$1]"
	provide "$1" && push "$PROGRAMS/power.py" "$1:$VT/"
}
equip 2 && equip 1 || exit 1
confirmed() { grep -cxE '[0-9]+' "$TMP/$1" || true; }
begun() { # each writer has had some records confirmed
	local kind
	for kind in $KINDS; do [ "$(confirmed $kind)" -ge 3 ] || return 1; done
}

total=0
for ((n = 1; n <= TIMES; n++)); do
	on 1 vremote export add "$DIR" --no-root-squash || exit 1
	eventually 30 on 2 stat "/vremote/node1$DIR" >"$TMP/stat" || fail "cut $n: the remote reaches the export"
	for kind in $KINDS; do
		on 2 python3 $VT/power.py write "/vremote/node1$DIR/$kind.$n" $kind $n >"$TMP/$kind" 2>"$TMP/$kind.error" &
	done
	eventually 60 begun || fail "cut $n: all write"
	sleep $((RANDOM % 3)).$((RANDOM % 10))
	fault 1 kill
	on 2 pkill -9 -f power.py
	wait
	fault 1 start || exit 1
	equip 1 || exit 1
	count=0 wrong=''
	for kind in $KINDS; do
		acked=$(confirmed $kind)
		count=$((count + acked))
		found=$(on 1 python3 $VT/power.py check "$DIR/$kind.$n" $kind $n "$acked" 2>&1)
		[ "$found" = ok ] || wrong+=" $kind: $found"
	done
	expect_eq "power cut $n: all that was confirmed by then is on the disk ($count records)" "$wrong" ''
	sh_on 1 'rm -rf "$1"/*' "$DIR"
	total=$((total + count))
done
note "$total records confirmed before $TIMES power cuts"
finish
