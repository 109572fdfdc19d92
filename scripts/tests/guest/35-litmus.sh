#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# What all nodes do to a few words at the same time, through mappings and by read and write: litmus tests show no outcome that is not
# sequentially consistent, and each word is linearizable. Four parties on three nodes, without and with loss.
# nodes: 3
# time-limit: 300

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"
. "$TOP/scripts/tests/programs/exercise.sh"

# Two of them in one node, which is not the origin: the larger shapes have four threads.
FOUR='1 2 3 3' ALL='1 2 3' LITMUS=10 WORDS=6 LIMIT=120 ROUNDS=5 OPS=100
[ "$VREMOTE_NODES" -ge 3 ] || FOUR='1 1 2 2' ALL='1 2'
[ "$VREMOTE_DEBUG" = 0 ] || LITMUS=60 WORDS=30 LIMIT=400 ROUNDS=2 OPS=20

begin /srv/litmus

# run WHAT "NODE …" EXERCISE OPTION …
run() {
	local what=$1 nodes=$2 line
	shift 2
	if exercise "$nodes" "$1" --path "$DIR/$1" --limit $LIMIT "${@:2}"; then pass "$what"; else
		fail "$what"
		why
	fi
	while IFS= read -r line; do note "$line"; done < <(grep "^$1" "$TMP/party.0")
}
litmus() {
	run "litmus tests: $1" "$FOUR" litmus --rounds 1000000 --seconds $LITMUS --seed "$2"
	expect "$1: at least $ROUNDS rounds" [ "$(figure rounds)" -ge $ROUNDS ]
}
words() {
	run "linearizable words: $1" "$ALL" words --count 100000 --seconds $WORDS --seed "$2"
	expect "$1: at least $OPS operations" [ "$(figure ops)" -ge $OPS ]
	expect "$1: the nodes saw each other's values" [ "$(figure foreign)" -ge $((OPS / 20)) ]
}

litmus "a good network" 1
words "a good network" 1
fault 2 loss 2% duplicate 2% reorder 3%
fault 3 loss 2%
litmus "loss 2 %, duplicate 2 %, reorder 3 %" $RANDOM
words "loss 2 %, duplicate 2 %, reorder 3 %" $RANDOM
heal_all
finish
