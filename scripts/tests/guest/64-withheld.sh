#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# A node that answers, and acknowledges everything but that it gives up one page, keeps others from writing to that page for a minute and
# not longer: then all that it was granted is taken back. One that does so for less than a minute loses nothing, however often. The module
# is loaded with plain=1 and the nodes have no keys, so that a filter in node2 can tell the acknowledgements of one page from all else.
# Waits out that minute twice in all.
# time-limit: 360

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

expect "without keys" without_keys

begin /srv/withheld
f=$DIR/f
agent o 1
agent r 2
# What is written there stays there until somebody wants it: in a minute the kernel's own writing back would bring it home.
writing_back 2 0
fenced() { ask o "(peers()['node2']['fences'], peers()['node2']['revocations'])"; }
# Of what node2 sends to node1, the acknowledgements (kind 37, the byte 40 of the message) of page 3 (lowest byte of the index, byte 72) are
# lost. The header of UDP has 8 bytes.
withhold() {
	on 2 nft 'add table inet withheld; add chain inet withheld out { type filter hook output priority 0; };
		add rule inet withheld out ip daddr 10.77.0.1 udp dport 1104 @th,384,8 37 @th,640,8 3 drop'
}
release() { on 2 nft 'delete table inet withheld'; }

must o "
put('$f', b'o' * (16 * PAGE)); plain = os.open('$f', RW); fd = share('$f')
def insist(at, data, limit):
    # Writes again and again until that works, or until so many seconds have passed: every errno, and how long it took.
    start, errors = time.monotonic(), []
    while True:
        errors.append(error_of(os.pwrite, plain, data, at))
        took = time.monotonic() - start
        if errors[-1] == 'none' or took > limit: return errors, took"
must r "fd = remote('$f'); os.pwrite(fd, b'synced', 8 * PAGE); os.fsync(fd); read_all(fd); os.pwrite(fd, b'unsaved', 9 * PAGE)"
before=$(fenced)

# ---- what a device may have is kept for some seconds, and then given up: or a program could have all that its node has taken back
must r "mapped = mmap.mmap(fd, 16 * PAGE); mapped[6 * PAGE] = 1; view = memoryview(mapped)[6 * PAGE:7 * PAGE]; pipes = pinned(view)"
check "a page that a device may have is given up after a third of a minute" o "(lambda r: r[0][-1] == 'none' and 10 < r[1] < $((VREMOTE_DEBUG ? 59 : 45)) or r)(insist(6 * PAGE, b'mine', 59))"
expect "… the log says so" on 2 sh -c 'dmesg | grep vremote: | grep -q "page 6 is given up although a device may be writing to it"'
check "… the node that had it sees the new bytes" r "mapped[6 * PAGE:6 * PAGE + 4]" "b'mine'"
must r "[os.close(end) for pipe in pipes for end in pipe]; view.release(); mapped.close()"
expect_eq "… nobody was fenced for that" "$(fenced)" "$before"

# ---- for less than a minute, twice: what was counted is forgotten when the page is given up
for turn in first second; do
	must r "os.pread(fd, 1, 3 * PAGE)"
	expect "acknowledgements of one page are lost for the $turn time" withhold
	check "… who wants to write to it is told so, again and again" o "set(insist(3 * PAGE, b'early', 33)[0]) <= {'ETIMEDOUT', 'EIO'}"
	check "… another page is written to at once" o "timed(os.pwrite, plain, b'other', 5 * PAGE)[1] < 3"
	expect "… they arrive again" release
	check "… and the page is written to" o "insist(3 * PAGE, b'early', 20)[0][-1]" none
done
expect_eq "nobody was fenced for that" "$(fenced)" "$before"
check "… and nothing is lost" o "os.pread(plain, 7, 9 * PAGE)" "b'unsaved'"

# ---- for ever, while other pages go to and fro
must r "os.pwrite(fd, b'unsaved', 9 * PAGE); os.pread(fd, 1, 3 * PAGE); over = False
def reader():
    while not over:
        try: os.pread(fd, 1, 4 * PAGE)
        except OSError: return
        time.sleep(0.05)
thread = threading.Thread(target=reader); thread.start()"
must o "others, over = [], False
def writer():
    while not over:
        others.append(error_of(os.pwrite, plain, b'other', 4 * PAGE))
        time.sleep(0.2)
thread = threading.Thread(target=writer); thread.start()"
expect "acknowledgements of one page are lost for ever" withhold
tell o "result = insist(3 * PAGE, b'taken', 150)"
expect "… vremote status says that what the node holds is taken back" eventually $((VREMOTE_DEBUG ? 200 : 100)) sh_on 1 'vremote status | grep -q "node2: reclaiming; it answers, but has not given up a page"'
expect_eq "… who wants the page writes to it in the end" "$(answer o 200)" ok
check "… with no other errors before" o "result[0][-1] == 'none' and set(result[0][:-1]) <= {'ETIMEDOUT', 'EIO'} or result"
check "… after a minute and a lease, not sooner" o "50 < result[1] < $((VREMOTE_DEBUG ? 150 : 90)) or result"
must o "over = True; thread.join()"
# Writes to one file take turns, as they do in every file system: one to the other page for each try at the page that is kept.
check "… while another page was written to as ever" o "set(others) == {'none'} and len(others) > 5 or others"
check "the node was fenced once, for that" o "(peers()['node2']['fences'] - ${before}[0], peers()['node2']['revocations'] - ${before}[1])" "(1, 1)"
expect_match "vremote status says so" "$(on 1 vremote status)" 'node2 answered, and kept a page that others wanted: all that it held taken back 1 times'
expect "the log says so" on 1 sh -c 'dmesg | grep vremote: | grep -q "node2 kept a page that others want, and its lease has run out"'
expect "… and which page it was" on 1 sh -c 'dmesg | grep vremote: | grep -q "page 3 is kept by a peer that was asked for it 12 times"'
check "what the node had synced is there" o "os.pread(plain, 6, 8 * PAGE)" "b'synced'"
must r "over = True; thread.join()"
check "what was open there is over" r "error_of(os.pread, fd, 1, 0) in ('ESTALE', 'ETIMEDOUT', 'EIO')"
expect "acknowledgements arrive again" release
# What is over is ESTALE whether bytes were lost with it or not. A descriptor that is opened then is told what nobody has been told yet.
check "fsync says that bytes are lost" r "wait(lambda: error_of(lambda: globals().update(probe=remote('$f'))) == 'none', 30) and (error_of(os.fsync, probe), error_of(os.fsync, probe), os.close(probe))" "('EIO', 'none', None)"
check "… what was open is over for fsync as well" r "error_of(os.fsync, fd)" ESTALE
check "a new descriptor of that node works" r "wait(lambda: error_of(lambda: globals().update(new=remote('$f'))) == 'none', 30) and os.pread(new, 5, 3 * PAGE)" "b'taken'"
check "… and gives up the page" o "insist(3 * PAGE, b'again', 10)[0]" "['none']"
must r "os.close(new); os.close(fd)"
leave o r
writing_back 2 500
expect "closed again" reload
expect "… all nodes know each other" "$TOP/scripts/cluster" peers
finish
