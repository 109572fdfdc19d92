# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# For scripts/bench: one function for each part of what is measured. Each takes the systems that are there at the moment, and leaves out
# those that it says nothing of. A line of samples.tsv is round, measure, system, and KEY=VALUE … as `measure` and `counted` print them.

PARTS=(read random write pingpong faults)
NODE=2    # where is measured
LIMIT=180 # seconds for one sample; what takes longer hangs

# Processor time of all emulators so far, in ticks.
cpu_ticks() {
	local k pid total=0 stat
	for ((k = 1; k <= VREMOTE_NODES; k++)); do
		read -r pid <"$STATE/node.$k/pid"
		read -r stat <"/proc/$pid/stat"
		stat=${stat##*) }
		# shellcheck disable=SC2086
		set -- $stat
		total=$((total + ${12} + ${13}))
	done
	echo $total
}
TICKS=$(getconf CLK_TCK)

# sample [--cold] MEASURE SYSTEM CMD …: runs it in node $NODE. A system that hangs is given up, and what hung in it is killed: it may not
# go on beside what is measured next.
sample() {
	local cold='' measure system before line rc=0
	if [ "$1" = --cold ]; then
		cold=$1
		shift
	fi
	measure=$1 system=$2
	shift 2
	! is_missing "$system" "$measure" || return 0
	before=$(cpu_ticks)
	line=$(within $LIMIT $NODE $VT/counted $cold $ORIGIN "$@" 2>"$TMP/why") || rc=$?
	case $rc in
	0) ;;
	124 | 137)
		missing "$system" all "$measure: not ended within $LIMIT s"
		prepare "$NODE" pkill -KILL -f "^$VT/measure [^s]"
		return
		;;
	*)
		missing "$system" "$measure" "$(tail -n 3 "$TMP/why")"
		return
		;;
	esac
	printf '%d\t%s\t%s\t%s cpu=%s\n' "$ROUND" "$measure" "$system" "$line${cold:+ cold=1}" \
		"$(awk -v t=$(($(cpu_ticks) - before)) -v hz="$TICKS" 'BEGIN { printf "%.2f", t / hz }')" >>"$OUT/samples.tsv"
	DONE+="${DONE:+, }$measure $system $(figure "$line")"
}

figure() { # LINE: its one number that says most
	tr ' ' '\n' <<<"$1" | awk -F= '
		{ v[$1] = $2 }
		END {
			if (v["p50"]) printf "%.0f us", v["p50"]
			else if (v["seconds"] > 0 && v["bytes"]) printf "%.0f MB/s", v["bytes"] / v["seconds"] / 1e6
			else printf "%.1f s", v["seconds"]
		}'
}

# progress: what has been measured since it was called last.
DONE=''
progress() {
	[ -z "$DONE" ] || say "round $ROUND of $ROUNDS: $DONE"
	DONE=''
}

# prepare NODE CMD …: if it fails, what is measured next fails with a better reason.
prepare() {
	within 60 "$@" >/dev/null 2>&1 || true
}

measure_network() {
	sample nothing host $VT/measure nothing
	# Without caches the programs themselves come from the disk, which costs time of the processor that is nobody's.
	sample --cold nothing_cold host $VT/measure nothing
	sample echo echo $VT/measure echo $ORIGIN 1400 1500
	sample echo_page echo $VT/measure echo $ORIGIN 4096 1500
	sample stream iperf3 bash -c "iperf3 -c $ORIGIN -R -t 2 -J | awk '
		/\"error\"/ { print >\"/dev/stderr\" }
		/\"sum_received\"/ { s = 1 }
		s && /\"bytes\"/ { gsub(/[^0-9]/, \"\"); b = \$0 }
		s && /\"seconds\"/ { sub(/.*:[ \t]*/, \"\"); sub(/,.*/, \"\"); t = \$0 }
		s && /}/ { s = 0 }
		END { if (!b || !t) exit 1; printf \"bytes=%s seconds=%s\", b, t }'"
	progress
}

measure_read() {
	local s
	for s in "$@"; do
		sample --cold cold "$s" $VT/measure read "${PLACE[$s]}/read"
		# What is cached is cached, whichever way it came.
		[ "$s" != nfs_tls ] || continue
		sample warm "$s" $VT/measure read "${PLACE[$s]}/read" 8
		sample map "$s" $VT/measure map "${PLACE[$s]}/read" 8
	done
	progress
}

# 1 % of the pages of a larger file: what a sparse reader waits for, and what he gets that he did not ask for.
measure_random() {
	local s
	for s in "$@"; do
		[ "$s" != local ] || continue
		sample --cold random "$s" $VT/measure random "${PLACE[$s]}/sparse" $((SPARSE * 256 / 100)) "$ROUND"
	done
	progress
}

measure_write() {
	local s file
	for s in "$@"; do
		file=${PLACE[$s]}/written.$s
		prepare 2 rm -f "$file"
		# What the journal of the origin has to do for the removal is not to be in it.
		prepare 1 sync
		sample --cold write "$s" $VT/measure write "$file" $((MIB << 20))
		sample overwrite "$s" $VT/measure write "$file" $((MIB << 20))
	done
	progress
}

measure_pingpong() {
	local s
	for s in "$@"; do
		[ "$s" != local ] || continue
		# So that what the disk has to do is of the page alone.
		prepare 1 sync
		# Without locks NFS promises nothing.
		[[ $s = nfs* ]] || sample pingpong "$s" $VT/measure pingpong "${PLACE[$s]}/page" $ORIGIN "${HOME_PLACE[$s]}/page" 500
		sample pingpong_locked "$s" $VT/measure pingpong "${PLACE[$s]}/page" $ORIGIN "${HOME_PLACE[$s]}/page" 50 lock
	done
	progress
}

fault() { timeout --kill-after=5 60 "$CLUSTER" fault "$@" </dev/null; }

# The faults need large packets to be split in the guest, which costs speed by itself: what is lossless is measured with that, too.
measure_faults() {
	local s how systems=() pages=$((SPARSE * 256 < 1000 ? SPARSE * 256 : 1000))
	for s in "$@"; do [[ $s != nfs && $s != vremote ]] || systems+=("$s"); done
	[ ${#systems[@]} != 0 ] || return 0
	for how in clean rough; do
		if [ $how = clean ]; then
			within 60 2 netfault loss 0% >"$TMP/why" 2>&1
		else
			fault 2 loss 1% duplicate 1% reorder 5% >"$TMP/why" 2>&1
		fi || {
			for s in "${systems[@]}"; do
				missing "$s" ${how}_read "$(<"$TMP/why")"
				missing "$s" ${how}_random "$(<"$TMP/why")"
			done
			continue
		}
		# An echo that is lost costs it a second, and says nothing.
		[ $how = rough ] || sample clean_echo echo $VT/measure echo $ORIGIN 4096 500
		for s in "${systems[@]}"; do
			sample --cold ${how}_read "$s" $VT/measure read "${PLACE[$s]}/small"
			sample --cold ${how}_random "$s" $VT/measure random "${PLACE[$s]}/sparse" $pages "$ROUND"
		done
	done
	fault 2 heal >/dev/null 2>&1 || true
	prepare 2 netfault
	progress
}

# A node that has a page to itself stands still: how long somebody else waits for it. Once, at the end.
measure_lease() {
	prepare 2 $VT/measure touch "${PLACE[vremote]}/page"
	fault 2 pause >"$TMP/why" 2>&1 || {
		missing vremote lease "$(<"$TMP/why")"
		return
	}
	NODE=1 sample lease vremote $VT/measure touch /srv/bench/vremote/page
	fault 2 resume || true
	progress
}

# On a cluster of its own: a page is written that k other nodes have, by its origin (node 1), or by a remote (node 2; the origin is
# one of the k then).
SHARERS=(1 3 7)
measure_upgrade() {
	local k shared=/vremote/node1/srv/bench/vremote/shared others j
	NODE=1 ORIGIN=10.77.0.2 sample sharers_echo echo $VT/measure echo 10.77.0.2 1400 500
	for k in "${SHARERS[@]}"; do
		others=()
		for ((j = 2; j <= k + 1; j++)); do others+=("10.77.0.$j"); done
		NODE=1 sample upgrade_origin_$k vremote $VT/measure upgrade $shared 200 "${others[@]}"
		others[0]=10.77.0.1
		NODE=2 sample upgrade_remote_$k vremote $VT/measure upgrade $shared 200 "${others[@]}"
	done
	progress
}
