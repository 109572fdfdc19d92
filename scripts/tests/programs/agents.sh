# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# For guest tests, sourced after ../lib.sh: Python processes in the nodes that a test talks to line by line (agent.py), and small
# C programs built for the nodes. An agent keeps what it has opened, and answers in milliseconds.
#
#   begin DIR               clean nodes, an empty DIR in each
#   agent NAME NODE         starts one; it ends with the test
#   ask NAME PYTHON         prints its answer          tell NAME PYTHON; answer NAME [SECONDS]   the same in two steps
#   must NAME PYTHON        the same, for what prepares: a result line only if it fails
#   check WHAT NAME PYTHON [WANTED]                    one result line: the answer must be WANTED (default: True)
#   reload PARAMETERS       the module anew in all nodes, which know nobody then
#   without_keys            the same with plain=1, and then all nodes know each other, and say everything in the clear: so `fault … kind`
#                           can tell messages apart
#   keyless NODE            that, in one node that has been booted `bare`
#   writing_back NODE CENTISECONDS   how often that kernel writes dirty pages by itself; 0: never, 500 at first
#   program NAME            builds NAME.c and puts it into every node as $VT/NAME; library NAME: a shared library, as $VT/NAME.so
#   finish                  ends the agents; nothing may be open or exported any more

PROGRAMS=$TOP/scripts/tests/programs
VT=/root/vremote-test
ASK_SECONDS=$((${VREMOTE_DEBUG:-0} ? 240 : 60))
declare -A AGENT_IN=() AGENT_OUT=() AGENT_NODE=() AGENT_TOKEN=() PUSHED=()
: "${VREMOTE_NODES:=2}"

# Puts what is in programs/ into a node, once per test.
provide() {
	[ -z "${PUSHED[$1]:-}" ] || return 0
	tar -C "$PROGRAMS" -cf - agent.py wire.py | on "$1" sh -c "mkdir -p $VT && tar -C $VT --no-same-owner -xf -" || return 1
	PUSHED[$1]=1
}

agent() {
	local name=$1 node=$2 in out
	provide "$node" || return 1
	mkfifo "$TMP/$name.in" "$TMP/$name.out"
	# The agent ends when nobody holds the other end of its input: no child of ours may.
	(
		for fd in "${AGENT_IN[@]}" "${AGENT_OUT[@]}"; do eval "exec $fd>&-"; done
		on "$node" python3 -u $VT/agent.py <"$TMP/$name.in" >"$TMP/$name.out"
	) &
	exec {in}<>"$TMP/$name.in" {out}<"$TMP/$name.out"
	AGENT_IN[$name]=$in AGENT_OUT[$name]=$out AGENT_NODE[$name]=$node
	[ "$(ask "$name" '"here"')" = here ] || {
		fail "an agent in node $node"
		return 1
	}
}

tell() {
	AGENT_TOKEN[$1]=$EPOCHREALTIME.$RANDOM
	printf '%s %s\n' "${AGENT_TOKEN[$1]}" "${2//$'\n'/$'\x1e'}" >&"${AGENT_IN[$1]}"
}

answer() {
	local line=''
	# Answers to what was given up before are of no use.
	while [ "${line%% *}" != "${AGENT_TOKEN[$1]}" ]; do
		if ! IFS= read -r -t "${2:-$ASK_SECONDS}" line <&"${AGENT_OUT[$1]}"; then
			echo "no answer of '$1' in node ${AGENT_NODE[$1]} within ${2:-$ASK_SECONDS} s"
			return 1
		fi
	done
	printf '%s\n' "${line#* }"
}

ask() {
	tell "$1" "$2"
	answer "$1" "${3:-}"
}

reload() {
	local k
	for ((k = 1; k <= VREMOTE_NODES; k++)); do
		sh_on $k 'umount /vremote; vremote clear && rmmod vremote && insmod /root/vremote.ko $1 && mount -t vremote vremote /vremote' "$*" || return 1
	done
}

# The tool would take the keys of before.
know() { # NODE: all others, without keys
	local k others=()
	for ((k = 1; k <= VREMOTE_NODES; k++)); do [ $k = "$1" ] || others+=("$k"); done
	# shellcheck disable=SC2016
	sh_on "$1" 'cd /sys/kernel/config/vremote/peers && for k; do mkdir node$k && echo 10.77.0.$k >node$k/address || exit 1; done' "${others[@]}"
}
acquainted() { # NODE: sees all its peers
	# shellcheck disable=SC2016
	sh_on "$1" '[ "$(vremote peer show | grep -c "up ")" = $1 ]' $((VREMOTE_NODES - 1))
}
without_keys() {
	local k
	reload plain=1 || return 1
	# What has just been put into them is to be there when they have lost their power.
	for ((k = 1; k <= VREMOTE_NODES; k++)); do know $k && on $k sync || return 1; done
	for ((k = 1; k <= VREMOTE_NODES; k++)); do eventually 30 acquainted $k || return 1; done
}
keyless() {
	local out=$BUILD
	[ "$VREMOTE_DEBUG" = 0 ] || out=$BUILD/debug
	push "$out/vremote.ko" "$1:/root/" && sh_on "$1" 'insmod /root/vremote.ko plain=1 && mkdir -p /vremote && mount -t vremote vremote /vremote' &&
		know "$1" && eventually 60 acquainted "$1"
}

writing_back() { on "$1" sh -c "echo $2 >/proc/sys/vm/dirty_writeback_centisecs"; }

# must NAME PYTHON: a step that prepares something; a result line only if it fails.
must() {
	local got
	got=$(ask "$1" "pass; $2")
	[ "$got" = ok ] || fail "$(printf 'preparation (%s: %s → %s)' "$1" "$2" "${got:0:400}")"
}

check() {
	local got
	got=$(ask "$2" "$3")
	if [ "$got" = "${4-True}" ]; then pass "$1"; else fail "$(printf '%s (%s: %s → %s instead of %s)' "$1" "$2" "$3" "${got:0:400}" "${4-True}")"; fi
}

# check_in WHAT NAME PYTHON "WORD WORD …": the answer must be one of the words.
check_in() {
	local got
	got=$(ask "$2" "$3")
	if [[ " $4 " = *" $got "* ]]; then pass "$1 ($got)"; else fail "$1 ($2: $3 → ${got:0:400}, none of: $4)"; fi
}

# leave NAME …: ends these agents and waits until they have closed everything.
leave() {
	local name in out
	for name in "$@"; do
		in=${AGENT_IN[$name]} out=${AGENT_OUT[$name]}
		exec {in}>&-
		while IFS= read -r -t "$ASK_SECONDS" _ <&"$out"; do :; done
		exec {out}<&-
		rm -f "$TMP/$name.in" "$TMP/$name.out"
		unset "AGENT_IN[$name]" "AGENT_OUT[$name]" "AGENT_NODE[$name]"
	done
}

program() { # NAME
	compiled "$1" "$1" -static -pthread
}
library() { # NAME
	compiled "$1" "$1.so" -shared -fPIC
}
compiled() { # NAME OUT FLAG …
	local source=$PROGRAMS/$1.c out=$BUILD/test/programs/$2 k
	mkdir -p "$BUILD/test/programs"
	if ! [ "$out" -nt "$source" ]; then
		"$TOP/scripts/toolchain" gcc -std=gnu11 -O2 -Wall -Wextra -Werror "${@:3}" -o "$out.$$" "$source" && mv "$out.$$" "$out" || {
			fail "building $1.c"
			exit 1
		}
	fi
	for ((k = 1; k <= VREMOTE_NODES; k++)); do push "$out" "$k:$VT/" || exit 1; done
}

begin() {
	local k
	DIR=$1
	for ((k = 1; k <= VREMOTE_NODES; k++)); do
		sh_on "$k" '
			for d in /sys/kernel/config/vremote/exports/*/; do [ ! -d "$d" ] || rmdir "$d"; done
			rm -rf "$1" && mkdir -p "$1"' "$DIR" || {
			fail "node $k can be prepared"
			exit 1
		}
	done
}

# Every test ends by showing that what it made is gone: in time for thousands of cached pages to be taken home.
finish() {
	local k left limit=$((VREMOTE_DEBUG ? 90 : 10))
	leave "${!AGENT_NODE[@]}"
	for ((k = 1; k <= VREMOTE_NODES; k++)); do
		agent "end$k" "$k" || continue
		ask "end$k" 'no_exports()' >/dev/null
		left=$(ask "end$k" "wait(lambda: idle() is True, $limit) or idle()")
		expect_eq "nothing is left open in node $k" "$left" True
		leave "end$k"
		on "$k" rm -rf "$DIR"
	done
}
