# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# For scripts/soak: a round in which nodes die, or are silent for longer than their leases, the origin among them. Every node writes records
# to files of its own and syncs each, while all read what the others write. What was confirmed is there in the end, whatever happened.
#
#   crashes SECONDS SEED DIR    status 0 if it is. FIGURES says how much that was; what happened is in $OUT/disturbed, what is missing in
#                               $TMP/party.1

CRASHES_POWER=$TOP/scripts/tests/programs/power.py

# One file after the other: a writer ends when its node dies, or when what it had open is over.
keep_writing() { # NODE SEED DIR
	local k=$1 generation=0 kinds=(fsync append dsync) kind path
	while [ -e "$OUT/running" ]; do
		generation=$((generation + 1))
		kind=${kinds[$(((generation + k) % ${#kinds[@]}))]}
		path=$3
		[ "$k" = 1 ] || path=/vremote/node1$3
		"$CLUSTER" push "$CRASHES_POWER" "$k:/run/" &&
			{ [ "$k" != 1 ] || on 1 sh -c "mkdir -p '$3' && { vremote export add '$3' --no-root-squash || true; }"; } &&
			on "$k" timeout "$EACH" python3 /run/power.py write "$path/$k.$generation" $kind "$2.$k.$generation" >"$OUT/confirmed/$k.$generation.$kind"
		sleep 1
	done >>"$TMP/party.$k.log" 2>&1
}

keep_reading() { # NODE DIR
	local path=$2
	[ "$1" = 1 ] || path=/vremote/node1$2
	while [ -e "$OUT/running" ]; do
		on "$1" timeout 20 sh -c "cat '$path'/* >/dev/null" || true
		sleep 1
	done >/dev/null 2>&1
}

# As disturb, but longer than a lease, and of those who take part.
disturb_all() {
	local k what
	while [ -e "$OUT/running" ]; do
		sleep $((5 + RANDOM % 20))
		k=$((RANDOM % VREMOTE_NODES + 1))
		pick partition pause kill kill
		what=$PICKED
		case $what in
		partition) "$CLUSTER" fault $k partition && sleep $((6 + RANDOM % 4)) && "$CLUSTER" fault $k heal && set_faults $k ;;
		pause) "$CLUSTER" fault $k pause && sleep $((6 + RANDOM % 4)) && "$CLUSTER" fault $k resume ;;
		kill) "$CLUSTER" fault $k kill && sleep $((RANDOM % 8)) && "$CLUSTER" fault $k start && set_faults $k ;;
		esac || echo "node$k: $what failed"
		echo "node$k: $what"
	done >>"$OUT/disturbed" 2>&1
}

crashes() {
	local seconds=$1 seed=$2 dir=$3 k pids=() file name kind count found files=0 records=0 rc=0
	rm -rf "$OUT/confirmed" "$TMP"/party.*
	mkdir -p "$OUT/confirmed"
	for ((k = 1; k <= VREMOTE_NODES; k++)); do
		keep_writing $k "$seed" "$dir" &
		pids+=($!)
		keep_reading $k "$dir" &
		pids+=($!)
	done
	sleep "$seconds"
	rm -f "$OUT/running"
	# It ends with every node up and heard.
	# shellcheck disable=SC2154 # scripts/soak sets it
	wait "$disturber" || true
	# A writer may just begin.
	while [ -n "$(jobs -rp | grep -xFf <(printf '%s\n' "${pids[@]}"))" ]; do
		for ((k = 1; k <= VREMOTE_NODES; k++)); do on $k pkill -f power.py || true; done
		sleep 1
	done
	"$CLUSTER" push "$CRASHES_POWER" 1:/run/ || return 1
	for file in "$OUT"/confirmed/*; do
		count=$(grep -cxE '[0-9]+' "$file") || continue
		name=${file##*/} kind=${file##*.}
		name=${name%.*}
		found=$(on 1 python3 /run/power.py check "$dir/$name" "$kind" "$seed.$name" "$count" 2>&1)
		[ "$found" = ok ] || {
			echo "node ${name%.*}, file $name, $kind: $found" >>"$TMP/party.1"
			rc=1
		}
		files=$((files + 1)) records=$((records + count))
	done
	FIGURES="crashes files=$files records=$records faults=$(grep -c ': ' "$OUT/disturbed")"
	[ $files -ge "$VREMOTE_NODES" ] || {
		echo "only $files files were written to" >>"$TMP/party.1"
		rc=1
	}
	on 1 rm -rf "$dir"
	return $rc
}
