#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The origin's power is cut while four programs of a remote write and sync, each in another way, at moments that are drawn: what was
# confirmed by then is on its disk. Most cuts are of the disk alone: what it holds at that moment is copied and checked on the host, file
# system included. Every 50th, and the last, is of the machine, which then boots from that disk. Ten cuts; with LONG=1 in the
# environment 1000, or CUTS.
# time-limit: 240

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

CUTS=${CUTS:-1000} EACH=50
[ -n "${LONG:-}" ] || CUTS=10 EACH=5
KINDS='fsync append dsync msync'
IMAGE=$BUILD/cluster/${VREMOTE_CLUSTER:-default}/cut
mkdir -p "$IMAGE"

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
start() { # SEED: node 2 writes
	local kind
	on 1 vremote export add "$DIR" --no-root-squash || return 1
	eventually 30 on 2 stat "/vremote/node1$DIR" >"$TMP/stat" || return 1
	for kind in $KINDS; do
		on 2 python3 $VT/power.py write "/vremote/node1$DIR/$kind" $kind "$1" >"$TMP/$kind" 2>"$TMP/$kind.error" &
	done
	eventually 60 begun
}
# The disk as it is now: a file system that replays its journal and has all that was confirmed before.
cut_disk() { # SEED
	local kind acked=()
	for kind in $KINDS; do acked+=("$kind:$(confirmed $kind)"); done
	"$TOP/scripts/cluster" disk 1 "$IMAGE/disk" || return 1
	# shellcheck disable=SC2016
	"$TOP/scripts/toolchain" bash -c '
		cd "$1" && seed=$2 dir=$3 check=$4
		shift 4
		e2fsck -fp disk >log 2>&1 || [ $? = 1 ] || { cat log; exit 1; }
		for pair; do
			kind=${pair%:*}
			debugfs -R "dump $dir/$kind $kind" disk 2>log && [ -e "$kind" ] || { cat log; exit 1; }
			found=$(python3 "$check" check "$kind" "$kind" "$seed" "${pair#*:}" 2>&1)
			[ "$found" = ok ] || { echo "$kind: $found"; rc=1; }
			rm "$kind"
		done
		exit ${rc:-0}' bash "$IMAGE" "$1" "${DIR#/srv}" "$PROGRAMS/power.py" "${acked[@]}" || return 1
	for kind in "${acked[@]}"; do records=$((records + ${kind#*:})); done
}
cut_machine() { # SEED
	local kind acked found wrong=''
	fault 1 kill
	on 2 pkill -9 -f power.py
	wait
	fault 1 start || exit 1
	equip 1 || exit 1
	for kind in $KINDS; do
		acked=$(confirmed $kind)
		records=$((records + acked))
		found=$(on 1 python3 $VT/power.py check "$DIR/$kind" $kind "$1" "$acked" 2>&1)
		[ "$found" = ok ] || wrong+=" $kind: $found"
	done
	expect_eq "the machine loses its power, seed $1: all that was confirmed by then is on the disk" "$wrong" ''
	sh_on 1 'rm -rf "$1"/*' "$DIR"
}

disks=0 machines=0 records=0
for ((seed = 1; disks + machines < CUTS; seed++)); do
	start $seed || { fail "seed $seed: all write"; cat "$TMP"/*.error; exit 1; }
	good=1
	for ((n = 1; n < EACH && disks + machines + 1 < CUTS; n++)); do
		sleep 0.$((RANDOM % 1000))
		cut_disk $seed || { good=0 && break; }
		disks=$((disks + 1))
	done
	expect "what is on the disk is all that was confirmed, seed $seed: in $((n - 1)) moments" [ $good = 1 ]
	cut_machine $seed
	machines=$((machines + 1))
done
note "$disks cuts of the disk, $machines of the machine; $records times a record was confirmed before one"
rm -rf "$IMAGE"
finish
