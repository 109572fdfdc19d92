#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# What an operation costs in messages: counters do not jitter, so they are asserted.

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/warm
f=$DIR/f
agent o 1
agent r 2
must o "put('$f', data((8 << 20) + PAGE, 1)); fd = share('$f'); put('$DIR/large', b''); os.truncate('$DIR/large', 64 << 20); large = share('$DIR/large'); put('$DIR/page', bytes(4096)); page = share('$DIR/page')"
must r "fd = remote('$f'); large = remote('$DIR/large'); page = remote('$DIR/page')"
# The kernel writes nothing back by itself.
must r "run('echo 0 >/proc/sys/vm/dirty_writeback_centisecs')"

# ---- cold, warm (a read that ends at the end of the file asks for its size, so these end before)
# On a machine that has other things to do, answers come later than a request waits for them, and come twice: that is not what is
# counted here, so such a read is made anew.
must r "all_of_it = Change()"
for time in {1..8}; do
	must r "drop_caches(); c = Change()"
	must r "cold = [len(os.pread(fd, 65536, at)) for at in range(0, 8 << 20, 65536)]"
	# Not the first one: pages that were here before cost the same.
	[ $time = 1 ] || [ "$(ask r "c.of('retransmits')")" != 0 ] || break
done
check "8 MiB cold" r "cold == [65536] * 128"
check "no request had to be repeated" r "c.of('retransmits')" 0
note "messages: $(ask r 'c.messages()'), bytes received: $(ask r "c.of('rx_bytes')")"
check "readahead is real: at least 8 pages a request" r "0 < c.messages()['GetShared'] <= 2048 / 8"
check "each page came once" r "c.messages()['Grant'] <= 2048 * 1.02"
check "at most 10 % more bytes than the file" r "8 << 20 <= c.of('rx_bytes') <= (8 << 20) * 1.10"
must r "c = Change()"
check "8 MiB warm" r "[len(os.pread(fd, 65536, at)) for at in range(0, 8 << 20, 65536)] == [65536] * 128"
check "0 packets for it" r "c.messages()" "{}"
check "a warm file read by path has no page messages" r "(lambda c: (get('/vremote/node1$f') == data((8 << 20) + PAGE, 1), c.page_messages()))(Change())" "(True, 0)"
must r "os.close(fd); fd = remote('$f'); c = Change()"
check "… also when it was closed and opened again" r "(sha(fd) == sha(data((8 << 20) + PAGE, 1)), c.page_messages())" "(True, 0)"
check "reading wrote nothing back" r "drop_caches() or all_of_it.messages().get('Put', 0)" 0
must r "m = mmap.mmap(fd, 1 << 20); c = Change(); [m.__setitem__(page * PAGE, page % 256) for page in range(256)]"
check "stores to one page after another: at least 8 pages a request" r "0 < c.messages()['GetModified'] <= 256 / 8 or c.messages()"
must r "m.close(); m = mmap.mmap(large, 64 << 20); c = Change(); [m.__setitem__(page * PAGE, 1) for page in random.Random(5).sample(range(16384), 100)]"
check "… here and there: no page more than stored to" r "[entry['modified'] for entry in remotes() if entry['ino'] == os.fstat(large).st_ino]" "[100]"
must r "m.close()"
check "one page of 64 MiB does not bring the rest" r "(lambda c: os.pread(large, 1, 40 << 20) == b'\\0' and c.of('rx_bytes') < 1 << 20)(Change())"

# ---- one page between two nodes: the messages of each step, on both sides together
# step WHAT AGENT PYTHON WANTED [STATES]: the change is counted at node 2 when all is quiet, without what it has sent again on a busy machine.
step() {
	local got
	must r "c = Change()"
	must "$2" "$3"
	got=$(ask r "wait(lambda: all(not e['gets'] and not e['puts'] for e in remotes()), 5) and ' '.join(f'{kind}:{count - (kind in (\"GetShared\", \"GetModified\", \"Put\")) * c.of(\"retransmits\")}' for kind, count in sorted(c.messages().items()) if kind in wire.PAGE_KINDS)")
	expect_eq "$1" "$got" "$4"
	expect_eq "… and then the states of origin and remote" "$(ask o "origin_state('$DIR/page')") $(ask r "remote_state('node1', $ino)")" "$5"
}
ino=$(ask o "os.fstat(page).st_ino")
# Nothing of before is under way any more.
must r "wait(lambda: (lambda c: time.sleep(0.3) or not c.page_messages())(Change()), 100)"
step "nothing read yet" r "0" "" "M I"
step "the remote reads: one round trip" r "os.pread(page, 8, 0)" "GetShared:1 Grant:1" "S S"
step "it reads again: nothing" r "os.pread(page, 8, 0)" "" "S S"
step "the origin reads: nothing" o "os.pread(page, 8, 0)" "" "S S"
step "the remote writes what it has: one round trip" r "os.pwrite(page, b'remote', 0)" "GetModified:1 Grant:1" "I M"
check "… without the page's bytes" r "c.of('rx_bytes') < 1000"
step "it writes again: nothing" r "os.pwrite(page, b'remote', 8)" "" "I M"
step "it reads: nothing" r "os.pread(page, 8, 0)" "" "I M"
step "the origin reads: the page comes home, a copy stays" o "os.pread(page, 8, 0)" "Put:1 Recall:1" "S S"
step "the origin writes: invalidated, acknowledged" o "os.pwrite(page, b'origin', 0)" "Ack:1 Invalidate:1" "M I"
step "the remote writes what it does not have: one round trip" r "os.pwrite(page, b'remote', 0)" "GetModified:1 Grant:1" "I M"
step "the origin writes: recalled" o "os.pwrite(page, b'origin', 8)" "Put:1 Recall:1" "M I"
check "nothing was lost on the way" o "os.pread(page, 16, 0)" "b'remote\\x00\\x00origin\\x00\\x00'"
step "a whole page is overwritten: one round trip" r "os.pwrite(page, b'x' * 4096, 0)" "GetModified:1 Grant:1" "I M"
must r "run('echo 500 >/proc/sys/vm/dirty_writeback_centisecs')"
note "bytes received for it: $(ask r "c.of('rx_bytes')")"

# ---- not one message in 100 ms, as a predecessor
check "300 random pages in less than 10 s" r "drop_caches() or (lambda t: t[1] < 10 or t[1])(timed(lambda: [os.pread(large, 1, p * PAGE) for p in random.Random(3).sample(range(16384), 300)]))"
finish
