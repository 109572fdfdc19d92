# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# For guest tests: sourced first. A test states what must hold with the expect functions; each prints one result line.
# VREMOTE_NODES is the number of nodes in the cluster, VREMOTE_DEBUG is 1 on the debug kernel.

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
set +e

: "${VREMOTE_NODES:=2}" "${VREMOTE_DEBUG:=0}"
VREMOTE_FAILED=0
TMP=$(mktemp -d)
trap 'rc=$?; rm -rf "$TMP"; [ $rc != 0 ] || exit $VREMOTE_FAILED; exit $rc' EXIT

# on NODE CMD …: runs CMD in a node; stdin, stdout, stderr and status are CMD's.
on() {
	local node=$1
	shift
	"$TOP/scripts/cluster" exec "$node" -- "$@"
}
# sh_on NODE SCRIPT [ARG …]: runs a bash script in a node; ARGs are $1 …
sh_on() {
	local node=$1 script=$2
	shift 2
	on "$node" bash -c "$script" bash "$@"
}
addr() { "$TOP/scripts/cluster" addr "$1"; }
push() { "$TOP/scripts/cluster" push "$@"; }
pull() { "$TOP/scripts/cluster" pull "$@"; }
fault() { "$TOP/scripts/cluster" fault "$@"; }
heal_all() {
	local k
	for ((k = 1; k <= VREMOTE_NODES; k++)); do fault "$k" clear; done
}

pass() { printf 'ok - %s\n' "$*"; }
fail() {
	VREMOTE_FAILED=1
	printf 'not ok - %s\n' "$*"
}
note() { printf '# %s\n' "$*"; }
skip() { printf 'ok - %s # SKIP %s\n' "$1" "$2"; }         # skip WHAT WHY: this result is not to be had here
skip_all() { # skip_all WHY: ends the test
	printf 'ok - all # SKIP %s\n' "$1"
	exit 0
}

# expect WHAT CMD …: CMD must succeed. expect_fail WHAT CMD …: it must not.
expect() {
	local what=$1
	shift
	if "$@"; then pass "$what"; else fail "$what (status $?: $*)"; fi
}
expect_fail() {
	local what=$1
	shift
	if "$@"; then fail "$what (should have failed: $*)"; else pass "$what"; fi
}
# expect_status WHAT STATUS CMD …
expect_status() {
	local what=$1 want=$2 rc=0
	shift 2
	"$@" || rc=$?
	if [ "$rc" = "$want" ]; then pass "$what"; else fail "$what (status $rc instead of $want: $*)"; fi
}
# expect_eq WHAT GOT WANTED
expect_eq() {
	if [ "$2" = "$3" ]; then pass "$1"; else fail "$(printf '%s (got %q instead of %q)' "$1" "${2:0:300}" "${3:0:300}")"; fi
}
# expect_match WHAT TEXT REGEX
expect_match() {
	if [[ $2 =~ $3 ]]; then pass "$1"; else fail "$(printf '%s (got %q, which does not match %s)' "$1" "${2:0:300}" "$3")"; fi
}
# eventually SECONDS CMD …: CMD succeeds within so many seconds (tests wait for events, not for time).
eventually() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}
