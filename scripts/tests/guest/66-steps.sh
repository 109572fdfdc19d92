#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# A node dies in the middle of a step: one kind of message to and from one node is lost, all of it, so that the protocol stands exactly
# there; then the node that asked, the one that has the page or the origin loses its power, and the network is well again. The others go on
# within lease and margin, what an fsync had confirmed is there, nothing old is read, and what had been done at the origin is not done
# again. The module has plain=1 and the nodes no keys, so that the network can tell kinds apart. Boots a node for each row. By default some
# of the rows; all of them with LONG=1, or those that STEPS names ("Grant:r Put:o").
# nodes: 3
# time-limit: 480

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

[ "$VREMOTE_NODES" -ge 3 ] || skip_all "three nodes are needed"
# Some seconds after the lease (5 s) and its margin have passed everybody has to have gone on.
SOON=$((VREMOTE_DEBUG ? 120 : 25))
LATE='EIO ETIMEDOUT ESTALE ENOTCONN'

# Node 1 (o) is the origin, node 2 (r) has written page 3 with an fsync before, node 3 (s) has the file open. What is blocked, at which
# node; what comes before the block; who does what; and what page 3 or the size may be at the origin when r, s or o has died.
#   before: "before", as synced; newer: what r wrote last; either
#        name        at kind        before                                                     who action                           r       s       o
ROWS=(
	"GetShared      2 GetShared    |o os.pwrite(plain,b'before',3*PAGE)                      |r os.pread(fd,6,3*PAGE)             |before -      either"
	"GetModified    2 GetModified  |o os.pread(plain,6,3*PAGE)                               |r os.pwrite(fd,b'newer!',3*PAGE)    |before -      before"
	"Grant          2 Grant        |o os.pread(plain,6,3*PAGE)                               |r os.pwrite(fd,b'newer!',3*PAGE)    |before -      before"
	"Invalidate     3 Invalidate   |s os.pread(fd,6,3*PAGE)                                  |r os.pwrite(fd,b'newer!',3*PAGE)    |either either either"
	"Ack            3 Ack          |s os.pread(fd,6,3*PAGE)                                  |r os.pwrite(fd,b'newer!',3*PAGE)    |either either either"
	"Recall         2 Recall       |r os.pwrite(fd,b'newer!',3*PAGE)                         |s os.pread(fd,6,3*PAGE)             |before newer  before"
	"Put            2 Put          |r os.pwrite(fd,b'newer!',3*PAGE)                         |s os.pread(fd,6,3*PAGE)             |before newer  before"
	"PutReply       2 Reply        |r os.pwrite(fd,b'newer!',3*PAGE)                         |r os.fsync(fd)                      |newer  newer  either"
	"Commit         2 Commit       |r os.pwrite(fd,b'newer!',3*PAGE)                         |r os.fsync(fd)                      |newer  newer  either"
	"CommitReply    2 Reply        |r os.pwrite(fd,b'newer!',3*PAGE),libc('sync_file_range',fd,0,0,7) |r os.fsync(fd)             |newer  newer  newer"
	"Write          2 Write        |o os.pread(plain,6,3*PAGE)                               |r os.pwrite(fd,b'newer!',16*PAGE)   |short  -      short"
	"WriteReply     2 Reply        |o os.pread(plain,6,3*PAGE)                               |r os.pwrite(fd,b'newer!',16*PAGE)   |long   long   size"
	"SetSizeReply   2 Reply        |o os.pread(plain,6,3*PAGE)                               |r os.ftruncate(fd,16*PAGE+6)        |long   long   size"
	"OpenReply      2 Reply        |o os.pread(plain,6,3*PAGE)                               |r os.open(path,RW)                  |before before before"
	"HelloAck       2 HelloAck     |r os.pwrite(fd,b'newer!',3*PAGE)                         |r (time.sleep(6),os.pread(fd,6,3*PAGE))[1] |before newer before"
)
STEPS=${STEPS:-Grant:r Ack:s Recall:s CommitReply:o WriteReply:r}

expect "without keys" without_keys
begin /srv/steps
v=/vremote/node1$DIR
opened() { # NODE-AGENT: it opens the row's file, in time
	must "$1" "path = '$v/$file'"
	check "$what: $1 opens the file" "$1" "wait(lambda: error_of(lambda: globals().update(fd=os.open(path, RW))) == 'none', $SOON)"
}
serve() {
	must o "run('vremote export add --no-root-squash $DIR'); plain = os.open('$DIR/$file', RW)"
}
declare -A NODE=([o]=1 [r]=2 [s]=3)
lost() { # more than once: whoever sends it has sent it again
	local lost
	read -r _ lost < <(fault "$1" count) && [ "${lost:-0}" -ge 2 ]
}
unanswered() { # NAME: what it was told to do has not ended
	! read -r -t 0 _ <&"${AGENT_OUT[$1]}"
}
# What page 3 (or the size) may be, as Python.
wanted() {
	case $1 in
	before) echo "{b'before'}" ;;
	newer) echo "{b'newer!'}" ;;
	either) echo "{b'before', b'newer!'}" ;;
	short) echo "{16 * PAGE}" ;;
	long) echo "{16 * PAGE + 6}" ;;
	size) echo "{16 * PAGE, 16 * PAGE + 6}" ;;
	esac
}
look() { # as that is found at the origin
	case $1 in
	short | long | size) echo "os.fstat(plain).st_size" ;;
	*) echo "os.pread(plain, 6, 3 * PAGE)" ;;
	esac
}

# row NAME AT KIND PREPARER PREPARATION ACTOR ACTION VICTIM EXPECTED
row() {
	local name=$1 at=$2 kind=$3 preparer=$4 preparation=$5 actor=$6 action=$7 victim=$8 expected=$9 got k
	local survivor=r fences
	what="$name, $victim dies" file=$name.$victim
	[ $victim != r ] || survivor=s
	must o "put('$DIR/$file', b'o' * (16 * PAGE)); plain = os.open('$DIR/$file', RW); os.fsync(plain); run('sync')"
	for k in r s; do opened $k; done
	must r "os.pwrite(fd, b'before', 3 * PAGE); os.pwrite(fd, b'synced', 8 * PAGE); os.fsync(fd)"
	must "$preparer" "$preparation"
	fences=$(ask o "peers()['node${NODE[$survivor]}']['fences']")
	fault "$at" kind "$kind" loss 100%
	tell "$actor" "$action"
	expect "$what: $kind is lost, again and again" eventually 20 lost "$at"
	expect "$what: there the protocol stands" unanswered "$actor"
	fault "${NODE[$victim]}" kill
	[ "$at" = "${NODE[$victim]}" ] || fault "$at" heal
	if [ "$victim" != "$actor" ]; then
		got=$(answer "$actor" $SOON)
		# A call whose answer the death has taken ends with an error; one that could go on has done what it should.
		expect_match "$what: the call of the other ends in time" "$got" "^(b'before'|b'newer!'|6|ok|[0-9]+|${LATE// /|})\$"
		if [ "$victim" = o ]; then expect_match "$what: … and says nothing that is not so" "$got" "^(b'before'|b'newer!'|${LATE// /|})\$"; fi
	fi
	leave $victim
	unset "PUSHED[${NODE[$victim]}]"
	[ "$victim" = o ] || living
	expect "$what: it boots again" fault "${NODE[$victim]}" start bare
	expect "$what: … and is known" keyless "${NODE[$victim]}"
	agent $victim "${NODE[$victim]}"
	if [ "$victim" = o ]; then
		serve
		check "$what: what the origin has is as it may be" o "$(look "$expected") in $(wanted "$expected") or $(look "$expected")"
		check "$what: what fsync had confirmed is there" o "os.pread(plain, 6, 8 * PAGE)" "b'synced'"
		for k in r s; do
			check_in "$what: what $k had open shows nothing that is no more" $k "error_of(os.pread, fd, 6, 15 * PAGE)" "$LATE"
			must $k "os.close(fd)"
			opened $k
		done
		# What had been written before and was not synced is gone, which is reported once.
		must r "error_of(os.fsync, fd)"
		check "$what: r writes" r "os.pwrite(fd, b'fresh!', 3 * PAGE) and os.fsync(fd)" ok
	else
		opened $victim
	fi
	for k in r s; do
		check "$what: $k reads what is there now" $k "os.pread(fd, 6, 3 * PAGE) + os.pread(fd, 6, 8 * PAGE)" "b'fresh!synced'"
		must $k "os.close(fd)"
	done
	must o "os.close(plain)"
}
# While it is dead: the origin and the other remote, whose descriptor is still good.
living() {
	local k=$survivor
	check "$what: the origin gets the page in time" o "timed(os.pread, plain, 6, 3 * PAGE)[1] < 12"
	check "$what: … as it may be" o "$(look "$expected") in $(wanted "$expected") or $(look "$expected")"
	# If the write was confirmed it must be there.
	[ "${got:-}" != 6 ] || check "$what: … with what was confirmed" o "os.pread(plain, 6, 3 * PAGE)" "b'newer!'"
	check "$what: what fsync had confirmed is there" o "os.pread(plain, 6, 8 * PAGE)" "b'synced'"
	check "$what: the origin writes the page" o "timed(os.pwrite, plain, b'fresh!', 3 * PAGE)[1] < 12"
	check "$what: $k, who had it open, reads that" $k "os.pread(fd, 6, 3 * PAGE)" "b'fresh!'"
	check "$what: … and writes and syncs" $k "os.pwrite(fd, b'$k', 5 * PAGE) and os.fsync(fd)" ok
	check "$what: … of which the origin knows" o "os.pread(plain, 1, 5 * PAGE)" "b'$k'"
	check "$what: … and $k was not fenced" o "peers()['node${NODE[$k]}']['fences']" "$fences"
}

agent o 1
agent r 2
agent s 3
must o "run('vremote export add --no-root-squash $DIR')"
rows=0
for line in "${ROWS[@]}"; do
	IFS='|' read -r head before act ends <<<"$line"
	read -r name at kind <<<"$head"
	read -r preparer before <<<"$before"
	read -r actor act <<<"$act"
	read -r end_r end_s end_o <<<"$ends"
	for victim in r s o; do
		end=end_$victim
		[ "${!end}" != - ] || continue
		[ -n "${LONG:-}" ] || [[ " $STEPS " = *" $name:$victim "* ]] || continue
		row "$name" "$at" "$kind" "$preparer" "$before" "$actor" "$act" $victim "${!end}"
		rows=$((rows + 1))
	done
done
note "$rows rows"
expect "a node has died in some row" [ $rows -gt 0 ]
leave o r s
finish
expect "with keys again" reload
expect "… all nodes know each other" "$TOP/scripts/cluster" peers
