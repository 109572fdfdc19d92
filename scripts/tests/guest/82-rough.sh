#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# On a network that loses, repeats, reorders and corrupts packets, data are equal and reads never go back.
# time-limit: 300

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/rough
f=$DIR/f
agent o 1
agent r 2
must o "put('$f', data(8 << 20, 1)); fd = share('$f'); put('$DIR/slots', bytes(32 * PAGE)); slot = share('$DIR/slots')"
must r "fd = remote('$f'); slot = remote('$DIR/slots')"

# both SECONDS WHAT: both nodes write and read everywhere, and each checks what it sees (see stress in agent.py).
both() {
	local a b
	tell o "stress(slot, 0, [1], 32, $1, $RANDOM)"
	tell r "stress(slot, 1, [0], 32, $1, $RANDOM)"
	a=$(answer o $(($1 + 60))) b=$(answer r $(($1 + 60)))
	expect_match "$2: the origin sees no number go back" "$a" '^\{'
	expect_match "$2: the remote sees no number go back" "$b" '^\{'
	check "$2: the origin ends with the remote's last numbers" o "same_slots(slots(slot, 1, 32), '$b')"
	check "$2: the remote ends with the origin's last numbers" r "same_slots(slots(slot, 0, 32), '$a')"
	must o "os.truncate('$DIR/slots', 0); os.truncate('$DIR/slots', 32 * PAGE)"
}
both 8 "a good network"

fault 2 loss 5% reorder 5% duplicate 5%
must r "c = Change()"
check "8 MiB read under loss: equal" r "sha(fd)" "$(ask o "sha('$f')")"
check "some were sent again" r "c.of('retransmits') > 0"
check "2 MiB written under loss" r "write_all(fd, data(2 << 20, 2), 12345) or os.fsync(fd)" ok
check "… equal" o "os.pread(fd, 2 << 20, 12345) == data(2 << 20, 2)"
check "grown under loss" r "write_all(fd, data(1 << 20, 3), 8 << 20) or os.fsync(fd)" ok
check "… equal" o "get('$f')[8 << 20:] == data(1 << 20, 3)"
both 15 "loss 5 %, reorder 5 %, duplicate 5 %"
check "files can be opened and closed 30 times" r "[os.close(remote('$f')) for _ in range(30)] == [None] * 30"
fault 2 heal

fault 2 corrupt 3% delay 5ms 5ms
both 10 "corrupt 3 %, delay 5 to 10 ms"
fault 2 heal
check "everything is equal at the end" r "sha(fd)" "$(ask o 'sha(fd)')"
finish
