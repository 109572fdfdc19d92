#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# A node dies without a word. The other one ends its calls in time, has the last version that it knows of, and works with the
# dead node's next life. Boots each node once.
# time-limit: 300

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/crash
f=$DIR/f
agent o 1
agent r 2
must o "put('$f', data(64 * PAGE, 1)); fd = share('$f'); plain = os.open('$f', RW)"
must r "fd = remote('$f'); read_all(fd)"

# ---- the remote dies, holding pages that it has written
must o "[os.pwrite(plain, b'from the origin', p * PAGE) for p in range(16)]"
must r "[os.pwrite(fd, b'never seen', p * PAGE + 100) for p in range(8)]; os.pwrite(fd, b'confirmed', 20 * PAGE); os.fsync(fd); os.pwrite(fd, b'held', 30 * PAGE)"
expect "the remote's power is cut" fault 2 kill
check "pages that the dead node did not own are read at once" o "timed(os.pread, plain, 100, 50 * PAGE)[1] < 2"
check "a page that it only read is written within the time limit" o "timed(os.pwrite, plain, b'x', 40 * PAGE)[1] < 12"
check "a page that it had written is not waited for without end" o "timed(os.pread, plain, 15, 0)[1] < 12"
leave r
PUSHED=()
expect "the remote boots again" fault 2 start
check "its former pages are the origin's again, in the last version that the origin had" o "wait(lambda: error_of(os.pread, plain, 15, 0) == 'none', 20) and os.pread(plain, 15, 0)" "b'from the origin'"
check "… all of them" o "all(os.pread(plain, 15, p * PAGE) == b'from the origin' for p in range(8))"
check "… also when the origin's version was not yet on its disk" o "os.fsync(plain) or [os.pread(plain, 15, p * PAGE) for p in range(16)] == [b'from the origin'] * 16"
check "what the dead node's fsync had confirmed is there" o "os.pread(plain, 9, 20 * PAGE)" "b'confirmed'"
agent r 2
check "the new life opens the file" r "globals().update(fd=remote('$f')) or os.pread(fd, 15, 0)" "b'from the origin'"
check "… writes it" r "os.pwrite(fd, b'second life', 0)" 11
check "… and the origin sees that" o "os.pread(plain, 11, 0)" "b'second life'"
check "the hashes are equal" r "sha(fd)" "$(ask o 'sha(plain)')"

# ---- the origin dies
must r "os.pwrite(fd, b'unsaved', 10 * PAGE)"
expect "the origin's power is cut" fault 1 kill
must r "drop_caches()"
check "a read that needs it ends in time" r "bounded(lambda: os.pread(fd, 10, 63 * PAGE), 'EIO ETIMEDOUT ESTALE ENOTCONN', 12)"
leave o
PUSHED=()
expect "the origin boots again" fault 1 start
agent o 1
must o "fd = share('$f')"
check "the old descriptor refuses instead of showing what is no more" r "error_of(os.pread, fd, 10, 63 * PAGE) in ('ESTALE', 'EIO', 'ENOTCONN', 'ETIMEDOUT')"
# What is over is ESTALE whether bytes were lost with it or not. A descriptor that is opened then, and is not over, is told what nobody has been
# told yet, once.
check_in "fsync says that bytes are lost" r "wait(lambda: error_of(lambda: globals().update(probe=remote('$f'))) == 'none', 30) and '/'.join((error_of(os.fsync, probe), error_of(os.fsync, probe), str(os.close(probe))))" "EIO/none/None ESTALE/none/None"
check "… what was open is over for fsync as well" r "error_of(os.fsync, fd)" ESTALE
check "a new descriptor works" r "wait(lambda: error_of(lambda: globals().update(new=remote('$f'))) == 'none', 20) and sha(new)" "$(ask o 'sha(fd)')"
check "… also while the old one is open" r "os.pwrite(new, b'new', 0) and os.fsync(new)" ok
check "… as the origin sees" o "get('$f')[:3]" "b'new'"
must r "os.close(fd)"
finish
