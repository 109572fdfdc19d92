#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Allocations of the kernel fail: in calls of a program, at a remote and at the origin, one after the other until each has failed once
# (programs/starve.c); and then, by chance, in the module's thread that receives, on both nodes under load. Calls say ENOMEM, or that they could
# do a part; what they say is so, the file is what it should be, nothing stands still, the kernel has nothing to report and nothing leaks.
# Only the debug kernel can do that.
# time-limit: 300

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

on 1 test -e /sys/kernel/debug/failslab || skip_all "the kernel has no failslab (the debug kernel has)"
program starve
begin /srv/starve
v=/vremote/node1$DIR
agent o 1
agent r 2
# So that also those fail that may wait for memory, of any size; without a word, which would be a long one.
attributes() { # NODE PROBABILITY
	# shellcheck disable=SC2016
	sh_on "$1" 'cd /sys/kernel/debug && for a in failslab fail_page_alloc; do
		echo 0 >$a/verbose; echo N >$a/ignore-gfp-wait; echo -1 >$a/times; echo Y >$a/task-filter; echo $1 >$a/probability
	done; echo N >fail_page_alloc/ignore-gfp-highmem; echo 0 >fail_page_alloc/min-order' "$2"
}
for k in 1 2; do
	expect "node$k: allocations can fail" attributes $k 0
	on $k sh -c 'echo "vremote-test: allocations fail" >/dev/kmsg'
done
must r "lost = peers()['node1']['lost_bytes']"
must o "put('$DIR/f', data(16 * PAGE, 1)); put('$DIR/g', data(16 * PAGE, 2)); put('$DIR/slots', bytes(32 * PAGE)); run('vremote export add --no-root-squash $DIR')"
must r "wait(lambda: exists('$v/f'), 60); g = os.open('$v/g', RW)"

# starved NODE PATH: the program's last line; what it printed before are notes
starved() {
	on "$1" timeout 900 $VT/starve "$2" >"$TMP/out" 2>&1
	while IFS= read -r line; do note "node$1: $line"; done <"$TMP/out"
	tail -n 1 "$TMP/out"
}
starved 2 "$v/f" >"$TMP/said"
grep '^#' "$TMP/said"
expect_eq "a remote: each allocation of each call fails once; what calls say is so" "$(tail -n 1 "$TMP/said")" "done"
expect_fail "… nobody is said to be silent for that" grep -q ETIMEDOUT "$TMP/out"
expect "… some failed" grep -q ': [1-9][0-9]* allocations failed, and the call [1-9]' "$TMP/out"
check "… the origin has what the program has" o "sha('$DIR/f')" "$(ask r "sha('$v/f')")"

# The remote takes the pages from the origin's program again and again, so that this has to ask for them.
must r "over = False
def take():
    n = 0
    while not over:
        # The same bytes: the program knows of no others.
        for page in range(16):
            try:
                if (got := os.pread(g, 1, page * PAGE + 4000)) and n % 2: os.fsync(g)
            except OSError as e: trouble.append(repr(e))
        n += 1; time.sleep(0.01)
trouble = []; taker = threading.Thread(target=take); taker.start()"
starved 1 "$DIR/g" >"$TMP/said"
grep '^#' "$TMP/said"
expect_eq "the origin: each allocation of each call fails once; what calls say is so" "$(tail -n 1 "$TMP/said")" "done"
expect_fail "… nobody is said to be silent for that" grep -q ETIMEDOUT "$TMP/out"
must r "over = True; taker.join()"
check "… the remote, which has read all the time, was told of no error" r "trouble" "[]"
check "… and has what the program has" r "sha('$v/g')" "$(ask o "sha('$DIR/g')")"

# ---- the thread that receives
must o "slot = os.open('$DIR/slots', RW)"
must r "slot = os.open('$v/slots', RW)"
for k in 1 2; do
	# shellcheck disable=SC2016
	expect "node$k: 3 % of the allocations of what receives fail" sh_on $k 'n=0; for p in /proc/[0-9]*; do
		case $(cat $p/comm 2>/dev/null) in vremote_rx*) echo 1 >$p/make-it-fail && n=$((n + 1)) ;; esac; done; [ $n -gt 0 ]'
	attributes $k 3
done
tell o "stress(slot, 0, [1], 32, 30, 1)"
tell r "stress(slot, 1, [0], 32, 30, 2)"
a=$(answer o 300) b=$(answer r 300)
for k in 1 2; do attributes $k 0; done
expect_match "the origin sees no number go back" "$a" '^\{'
expect_match "the remote sees no number go back" "$b" '^\{'
check "the origin ends with the remote's last numbers" o "same_slots(slots(slot, 1, 32), '$b')"
check "no node has lost bytes for want of memory" r "peers()['node1']['lost_bytes'] - lost" 0
check "the remote ends with the origin's last numbers" r "same_slots(slots(slot, 0, 32), '$a')"
for k in 1 2; do on $k sh -c 'echo "vremote-test: allocations succeed" >/dev/kmsg'; done
leave o r
finish
expect "nothing has leaked, and no kernel has reported anything" "$TOP/scripts/cluster" check --leaks
