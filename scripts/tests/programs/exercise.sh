# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# For what runs `vremote-exercise` (userspace/exercise) in the nodes: guest tests, after agents.sh, and scripts/soak.
#
#   exercise "NODE …" EXERCISE OPTION …     one party in each of the nodes, the first of which has the file; a node may come twice.
#                                           Status 0 if all were content. FIGURES is party 0's last line, and $TMP/party.K what
#                                           party K printed. After PARTY_SECONDS (14,500) a party that hangs is given up.
#   figure NAME                             a number in that line; 0 if it is not there
#   why                                     what the parties printed, without the figures of those that were content

FIGURES=''

exercise() {
	local nodes=$1 at='' k party=0 rc=0 pid pids=()
	shift
	for k in $nodes; do at+=${at:+,}10.77.0.$k; done
	rm -f "$TMP"/party.*
	for k in $nodes; do
		timeout --kill-after=5 "${PARTY_SECONDS:-14500}" "$TOP/scripts/cluster" exec "$k" -- vremote-exercise "$1" --at "$at" --party $party "${@:2}" >"$TMP/party.$party" 2>&1 </dev/null &
		pids+=($!)
		party=$((party + 1))
	done
	party=0
	for pid in "${pids[@]}"; do
		wait "$pid" || {
			rc=$?
			echo "(party $party ended with status $rc)" >>"$TMP/party.$party"
		}
		party=$((party + 1))
	done
	FIGURES=$(grep -E "^$1 [a-z]" "$TMP/party.0" | tail -n 1)
	return $rc
}

figure() {
	local n
	n=$(grep -oE " $1=[0-9]+" <<<"$FIGURES" | head -n 1)
	echo "$((${n#*=} + 0))"
}

why() {
	local file
	for file in "$TMP"/party.*; do
		echo "--- party ${file##*.}:"
		cat "$file"
	done
}
