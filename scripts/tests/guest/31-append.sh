#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Several programs on both nodes append to one file: no record is lost, torn or moved.
# time-limit: 180

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/append
f=$DIR/log
agent o 1
agent p 1
agent r 2
agent s 2
must o "put('$f', b''); fd = os.open('$f', WO | APPEND); held = share('$f')"
must p "fd = share('$f', WO | APPEND)"
must r "fd = remote('$f', WO | APPEND)"
must s "fd = remote('$f', RW | APPEND)"

all() { # TIMES: everybody appends so often, at the same time
	local a
	for a in o p r s; do tell $a "append(fd, '$a', $1)"; done
	for a in o p r s; do expect_eq "$a has appended $1 records" "$(answer $a 100)" ok; done
}
all 500
check "2,000 records of four programs, none lost or torn" o "appended(get('$f'), 'oprs', 500)"
check "the remote reads the same" s "appended(read_all(fd), 'oprs', 500)"
check "equal hashes" s "sha(fd)" "$(ask o "sha('$f')")"

must o "os.truncate('$f', 0)"
fault 2 loss 5% duplicate 5% reorder 5%
all 100
fault 2 heal
check "400 records on a bad network: none lost, none twice" o "appended(get('$f'), 'oprs', 100)"
check "the remote reads the same" s "sha(fd)" "$(ask o "sha('$f')")"

must o "os.truncate('$f', 0)"
for a in o r; do tell $a "append(fd, '$a', 40, 5000)"; done
expect_eq "records larger than a page" "$(answer o) $(answer r)" "ok ok"
check "none lost or torn" o "appended(get('$f'), 'or', 40, 5000)"
finish
