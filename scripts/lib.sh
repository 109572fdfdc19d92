# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Shared by every script here: where things are, how progress and errors look, and how to enter the toolchain root.
# Sourced, never run.

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CACHE=${VREMOTE_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set; set VREMOTE_CACHE}/.cache}/vremote}
BUILD=$TOP/build
JOBS=${JOBS:-$(nproc)}
export TOP CACHE BUILD JOBS

# say TEXT: one line of progress, with the seconds since the first script of this run started.
: "${VREMOTE_T0:=$(date +%s)}"
export VREMOTE_T0
say() {
	local t=$(($(date +%s) - VREMOTE_T0))
	printf '[%3d:%02d] %s\n' $((t / 60)) $((t % 60)) "$*" >&2
}

# die WHAT [WHAT-TO-DO]: ends the script with status 1 and a message that says what to do next.
die() {
	printf 'vremote: error: %s\n' "$1" >&2
	[ $# -lt 2 ] || printf 'vremote:   to fix: %s\n' "$2" >&2
	exit 1
}

case $TOP$CACHE in
*[[:space:]:,\'\"\\]*) die "the paths $TOP and $CACHE must be without spaces, colons, commas and quotes" "kernel builds and QEMU cannot cope; move the checkout, or set VREMOTE_CACHE" ;;
esac

# need COMMAND PACKAGE: makes sure COMMAND exists; installs PACKAGE when run as root on a Debian machine, names it otherwise.
need() {
	command -v "$1" >/dev/null 2>&1 && return 0
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
		say "installing $2 (for $1)"
		{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$2"; } \
			>"${TMPDIR:-/tmp}/vremote-apt.log" 2>&1 ||
			die "could not install $2" "see ${TMPDIR:-/tmp}/vremote-apt.log, or install $2 by hand"
		command -v "$1" >/dev/null 2>&1 && return 0
	fi
	die "the command '$1' is missing" "apt-get install $2"
}

# hash_of FILE|STRING …: a short key over the contents of the files and the text of the strings that are not files.
hash_of() {
	local x
	for x in "$@"; do
		if [ -f "$x" ]; then sha256sum <"$x"; else printf '%s' "$x" | sha256sum; fi
	done | sha256sum | cut -c1-16
}

# quietly LOG CMD …: runs CMD with its output in LOG; shows the elapsed time every 20 s, and the log's end on failure.
quietly() {
	local log=$1 start pid rc=0 ticker
	shift
	mkdir -p "$(dirname "$log")"
	start=$(date +%s)
	"$@" >"$log" 2>&1 &
	pid=$!
	(
		while sleep 20 && kill -0 "$pid" 2>/dev/null; do
			say "  … $(($(date +%s) - start)) s: $(tail -n 1 "$log" | tr -cd '[:print:]' | cut -c1-90)"
		done
	) &
	ticker=$!
	wait "$pid" || rc=$?
	kill "$ticker" 2>/dev/null || true
	wait "$ticker" 2>/dev/null || true
	if [ "$rc" != 0 ]; then
		tail -n 40 "$log" >&2
		die "'$1' failed with status $rc" "the whole log is $log"
	fi
}

# with_lock NAME CMD …: one builder of a cached thing at a time, across checkouts.
with_lock() {
	local name=$1
	shift
	mkdir -p "$CACHE"
	exec 9>"$CACHE/.lock-$name"
	flock 9
	"$@"
	flock -u 9
	exec 9>&-
}

# ns CMD …: runs CMD as root of a private mount namespace; without root privileges, as root of a user namespace.
ns() {
	if [ "$(id -u)" = 0 ]; then
		unshare --mount --propagation private -- "$@"
	else
		unshare --map-root-user --map-auto --mount --propagation private -- "$@" ||
			return $?
	fi
}
