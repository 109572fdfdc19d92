#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Three nodes: everybody sees everybody's writes, an invalidation reaches all, a path finds its node.
# nodes: 3
# time-limit: 300

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

[ "$VREMOTE_NODES" -ge 3 ] || skip_all "needs three nodes"
begin /srv/three
program counter
f=$DIR/f
agent o 1
agent a 2
agent b 3
must o "put('$f', data(40 * PAGE, 1)); fd = share('$f'); plain = os.open('$f', RW)"
must a "fd = remote('$f')"
must b "fd = remote('$f')"

check "node2 reads" a "read_all(fd) == data(40 * PAGE, 1)"
check "node3 reads" b "read_all(fd) == data(40 * PAGE, 1)"
check "node2 writes every page" a "[os.pwrite(fd, b'node2', p * PAGE) for p in range(40)] == [5] * 40"
check "node3 sees it" b "all(os.pread(fd, 5, p * PAGE) == b'node2' for p in range(40))"
check "node1 sees it" o "all(os.pread(plain, 5, p * PAGE) == b'node2' for p in range(40))"
check "node3 writes every page, next to that" b "[os.pwrite(fd, b'node3', p * PAGE + 10) for p in range(40)] == [5] * 40"
check "node2 sees both" a "all(os.pread(fd, 15, p * PAGE) == b'node2' + data(40 * PAGE, 1)[p * PAGE + 5:p * PAGE + 10] + b'node3' for p in range(40))"
for time in 1 2 3 4 5; do
	[ $time = 1 ] || for name in a b; do must $name "os.pread(fd, 5, 20)"; done
	must o "c2, c3 = Change('node2'), Change('node3'); os.pwrite(plain, b'node1', 20)"
	# On a busy machine something may have been sent again.
	[ "$(ask o "c2.of('retransmits') + c3.of('retransmits')")" != 0 ] || break
done
check "node1 writes: an invalidation goes to each reader" o "[c.messages().get('Invalidate') for c in (c2, c3)]" "[1, 1]"
check "… and both have acknowledged before the write ended" o "[c.messages().get('Ack', 0) >= 1 for c in (c2, c3)]" "[True, True]"
check "node2 sees it" a "os.pread(fd, 5, 20)" "b'node1'"
check "node3 sees it" b "os.pread(fd, 5, 20)" "b'node1'"
must b "os.pwrite(fd, b'owner', 30)"
check "a page of one remote's is read by the other" a "os.pread(fd, 5, 30)" "b'owner'"
check "node2 makes it longer" a "os.pwrite(fd, b'longer', 40 * PAGE)" 6
check "node3 sees the size" b "(size(fd), os.pread(fd, 10, 40 * PAGE))" "(163846, b'longer')"
check "node3 cuts it" b "os.ftruncate(fd, 100)" ok
check "node2 sees that" a "(size(fd), len(read_all(fd)))" "(100, 100)"
check "one hash everywhere" o "sha(plain)" "$(ask b 'sha(fd)')"
check "… at node2 too" a "sha(fd)" "$(ask b 'sha(fd)')"

# ---- which node a path belongs to
must o "put('$DIR/one', b'of node1'); h1 = share('$DIR/one'); put('$DIR/both', b'node1 has it'); h2 = share('$DIR/both')"
must a "put('$DIR/two', b'of node2'); h1 = share('$DIR/two'); put('$DIR/both', b'node2 has it'); h2 = share('$DIR/both')"
check "a path of node1" b "read_all(remote('$DIR/one'))" "b'of node1'"
check "a path of node2" b "read_all(remote('$DIR/two'))" "b'of node2'"
check "the same path of two nodes, named by node" b "get('/vremote/node1$DIR/both') + get('/vremote/node2$DIR/both')" "b'node1 has itnode2 has it'"
check "… and not named: one of the two" b "read_all(remote('$DIR/both')) in (b'node1 has it', b'node2 has it')"
check "node1 opens node2's" o "read_all(remote('$DIR/two'))" "b'of node2'"
check "node2 opens node1's" a "read_all(remote('$DIR/one'))" "b'of node1'"

# ---- load
must o "put('$DIR/page', bytes(8192)); page = share('$DIR/page'); put('$DIR/log', b''); log = share('$DIR/log', RW | APPEND); put('$DIR/slots', bytes(16 * PAGE)); slot = share('$DIR/slots')"
pids=()
on 1 $VT/counter -o "$DIR/page" 0 3 500 5 >"$TMP/1" 2>&1 & pids+=($!)
on 2 $VT/counter "$DIR/page" 1 3 500 5 >"$TMP/2" 2>&1 & pids+=($!)
on 3 $VT/counter "$DIR/page" 2 3 500 5 >"$TMP/3" 2>&1 & pids+=($!)
for k in 1 2 3; do expect "node$k counts to 500 in its bytes of one page" wait "${pids[k - 1]}"; done
note "$(cat "$TMP/1" "$TMP/2" "$TMP/3" | tr '\n' ';') (count, seconds)"
check "none lost" o "[struct.unpack('<Q', os.pread(page, 8, at))[0] for at in (0, 1024, 2048)]" "[500, 500, 500]"

must a "log = remote('$DIR/log', WO | APPEND); slot = remote('$DIR/slots')"
must b "log = remote('$DIR/log', WO | APPEND); slot = remote('$DIR/slots')"
for n in o a b; do tell $n "append(log, '$n', 200)"; done
for n in o a b; do expect_eq "$n appends 200 records" "$(answer $n)" ok; done
check "none lost, torn or twice" o "appended(get('$DIR/log'), 'oab', 200)"

fault 2 loss 3% reorder 3%
tell o "stress(slot, 0, [1, 2], 16, 10, 1)"
tell a "stress(slot, 1, [0, 2], 16, 10, 2)"
tell b "stress(slot, 2, [0, 1], 16, 10, 3)"
ro=$(answer o 90) ra=$(answer a 90) rb=$(answer b 90)
fault 2 heal
for got in "$ro" "$ra" "$rb"; do expect_match "random reads and writes under loss: no number goes back" "$got" '^\{'; done
check "the last numbers of all are everywhere" o "same_slots(slots(slot, 1, 16), '$ra') and same_slots(slots(slot, 2, 16), '$rb')"
check "… at node2" a "same_slots(slots(slot, 0, 16), '$ro') and same_slots(slots(slot, 2, 16), '$rb')"
check "… at node3" b "same_slots(slots(slot, 0, 16), '$ro') and same_slots(slots(slot, 1, 16), '$ra')"

# ---- the machine of all three stands still for longer than any time-out and lease: no node is to blame, nothing is lost
must o "put('$DIR/still', bytes(16 * PAGE)); slot = share('$DIR/still')"
must a "slot = remote('$DIR/still')"
must b "slot = remote('$DIR/still')"
tell o "stress(slot, 0, [1, 2], 16, 11, 4)"
tell a "stress(slot, 1, [0, 2], 16, 11, 5)"
tell b "stress(slot, 2, [0, 1], 16, 11, 6)"
sleep 2
for k in 1 2 3; do fault $k pause; done
sleep 7
for k in 1 2 3; do fault $k resume; done
ro=$(answer o 90) ra=$(answer a 90) rb=$(answer b 90)
for got in "$ro" "$ra" "$rb"; do expect_match "reads and writes while all stand still: no number goes back" "$got" '^\{'; done
check "the last numbers are everywhere" o "same_slots(slots(slot, 1, 16), '$ra') and same_slots(slots(slot, 2, 16), '$rb')"
check "… at node2" a "same_slots(slots(slot, 0, 16), '$ro') and same_slots(slots(slot, 2, 16), '$rb')"
check "… at node3" b "same_slots(slots(slot, 0, 16), '$ro') and same_slots(slots(slot, 1, 16), '$ra')"

# ---- one node of three is silent: the others go on
must o "put('$DIR/free', bytes(8192)); free = share('$DIR/free')"
must a "free = remote('$DIR/free')"
must b "free = remote('$DIR/free')"
fault 3 partition
check "node2 writes while node3 is cut off" a "(lambda t: t[0] == 5 and t[1] < 2 or t)(timed(os.pwrite, free, b'going', 3000))"
check "node1 sees it" o "os.pread(free, 5, 3000)" "b'going'"
fault 3 heal
check "node3 is back" b "wait(lambda: peers()['node1']['state'] == 'up' and peers()['node2']['state'] == 'up', 10) and os.pread(free, 5, 3000)" "b'going'"
finish
