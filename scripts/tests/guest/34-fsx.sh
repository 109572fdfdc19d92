#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Random reads, writes, appends, truncations, loads, stores, holes and fsyncs of one file by three nodes in turns: after each the file is
# what a model says (make soak goes on with other seeds). First on a good network, then on one that loses 2 % of the packets, repeats and reorders others.
# With LONG=1 in the environment (scripts/long) a million operations more, or OPERATIONS.
# nodes: 3
# time-limit: 300

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"
. "$TOP/scripts/tests/programs/exercise.sh"

NODES='1 2 3' GOOD=12 BAD=20 LIMIT=120 LEAST=200
[ "$VREMOTE_NODES" -ge 3 ] || NODES='1 2 2'
[ "$VREMOTE_DEBUG" = 0 ] || GOOD=60 BAD=90 LIMIT=400 LEAST=20

begin /srv/fsx

# run WHAT SECONDS OPTION …
run() {
	local what=$1 seconds=$2 line
	shift 2
	if exercise "$NODES" fsx --path "$DIR/f" --count 10000000 --seconds "$seconds" --limit $LIMIT "$@"; then pass "$what"; else
		fail "$what"
		why
	fi
	while IFS= read -r line; do note "$line"; done < <(grep '^fsx' "$TMP/party.0")
	expect "$what: at least $LEAST operations" [ "$(figure ops)" -ge $LEAST ]
}

run "a good network" $GOOD --seed 1
fault 2 loss 2% duplicate 2% reorder 3%
fault 3 loss 2%
run "loss 2 %, duplicate 2 %, reorder 3 %" $BAD --seed 2
heal_all
# Pages that all nodes want at once, since there are so few: every operation finds them elsewhere.
run "a small file, a turn for each operation" $GOOD --seed 9724 --largest 20000 --longest 9000 --longest-mapped 9000 --turn 1

# many FILES OPERATIONS: so many in all, by as many runs at once. Every other file is small, and its pages are everywhere.
many() {
	local files=$1 each=$(($2 / $1)) i seed rc=0 total=0 runs=() options
	for ((i = 0; i < files; i++)); do
		seed=$((SEED + i)) options=()
		[ $((i % 2)) = 0 ] || options=(--largest 65536 --longest 8192 --longest-mapped 8192)
		mkdir "$TMP/$i"
		(
			TMP=$TMP/$i
			exercise "$NODES" fsx --path "$DIR/f$i" --count $each --turn 16 --limit 14000 --port $((7800 + 20 * i)) --seed $seed "${options[@]}" || {
				why
				exit 1
			}
			echo "$FIGURES"
			figure ops >"$TMP/ops"
		) >"$TMP/$i.log" 2>&1 &
		runs+=($!)
	done
	for i in "${!runs[@]}"; do
		wait "${runs[i]}" || rc=1
		while IFS= read -r line; do note "$line"; done <"$TMP/$i.log"
		total=$((total + $(cat "$TMP/$i/ops" 2>/dev/null || echo 0)))
	done
	note "$total operations in all"
	[ $rc = 0 ] && [ $total = "$2" ]
}
if [ -n "${LONG:-}" ]; then
	SEED=${SEED:-1000}
	for k in 2 3; do fault $k loss 2%; done
	expect "${OPERATIONS:=1000000} operations on four files, loss 2 %" many 4 "$OPERATIONS"
	heal_all
fi
finish
