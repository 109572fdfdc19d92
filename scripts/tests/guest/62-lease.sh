#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# A node that falls silent keeps what it was granted for 5 s and not longer: it shows and changes nothing after that, and others get what
# it held as soon as they want it. If nobody does, nothing is lost. Waits out leases several times.
# time-limit: 300
# nodes: 3

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/lease
f=$DIR/f
late='EIO ETIMEDOUT'
agent o 1
agent r 2
agent s 3
# What is written here stays here until somebody wants it, however slow the machine is: the kernel's own writing back would bring it home.
writing_back 2 0
fences() { ask o "peers()['node2']['fences']"; }
up() { ask "$1" "wait(lambda: peers()['$2']['state'] == 'up', 30) or peers()['$2']['state']"; }
again() { # node 2 opens the file anew
	check "a new descriptor works" r "wait(lambda: error_of(lambda: globals().update(new=remote('$f'))) == 'none', 30)"
	check "… which does not bring back the old one" r "(os.pread(new, 1, 0) and error_of(os.pread, fd, 1, 0), error_of(os.pwrite, fd, b'?', 0), error_of(os.ftruncate, fd, 0), error_of(mmap.mmap, fd, PAGE))" "('ESTALE', 'ESTALE', 'ESTALE', 'ESTALE')"
	# It means nothing to the origin any more: its end is not that of the new one.
	must r "os.close(fd); fd = new; fcntl.lockf(fd, fcntl.LOCK_EX); fcntl.lockf(fd, fcntl.LOCK_UN)"
	check "… also after the old one was closed" r "os.pread(fd, 1, 63 * PAGE)" "b'o'"
}

must o "put('$f', b'o' * (64 * PAGE)); plain = os.open('$f', RW); fd = share('$f')"
must r "fd = remote('$f')"
must s "fd = remote('$f')"

# ---- nobody wants what the silent node has: it gets its lease back, and nothing is lost
must r "os.pwrite(fd, b'kept', 0) and os.pread(fd, 4, PAGE) and read_all(fd); fcntl.lockf(fd, fcntl.LOCK_EX)"
before=$(fences)
fault 2 partition
must r "time.sleep(7)"
check "a page in memory is not shown when the lease has run out" r "bounded(lambda: os.pread(fd, 4, 0), '$late', 9, 3)"
check "… nor is one that was only read" r "bounded(lambda: os.pread(fd, 4, 2 * PAGE), '$late', 9, 3)"
check "… nor is one changed" r "bounded(lambda: os.pwrite(fd, b'late', 40), '$late', 9, 3)"
expect_match "vremote status says so" "$(on 2 vremote status)" 'node1 does not answer: [0-9]+ of its files wait for it; dirty pages waiting for origin node1: [0-9]+ KiB'
fault 2 heal
check "the lease is renewed, and the page is shown" r "wait(lambda: error_of(os.pread, fd, 4, 0) == 'none', 20) and os.pread(fd, 4, 0)" "b'kept'"
check "… nothing was taken" o "os.pread(plain, 4, 0)" "b'kept'"
expect_eq "… nobody was fenced" "$(fences)" "$before"
check "… and its lock is still its own" s "error_of(fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)" EAGAIN
must r "fcntl.lockf(fd, fcntl.LOCK_UN)"

# ---- the origin wants it
must r "os.pwrite(fd, b'synced', 5 * PAGE); os.fsync(fd); os.pwrite(fd, b'unsaved', 6 * PAGE); read_all(fd); m = mmap.mmap(fd, 64 * PAGE); m[7 * PAGE]; m[8 * PAGE] = 1; p = mmap.mmap(fd, 64 * PAGE, mmap.MAP_PRIVATE); p[9 * PAGE]"
must r "seen = []
def watch():
    # Pairs of when a read returned and what it returned; a jump of the clock is when the node stood still.
    while not over:
        try: got = os.pread(fd, 1, 10 * PAGE)
        except OSError as e: got = errno.errorcode[e.errno]
        seen.append((time.monotonic(), got))
        time.sleep(0.002)
over = False
watcher = threading.Thread(target=watch); watcher.start()
wait(lambda: len(seen) > 10)"
# Whatever ends with the session does not wait for a program that holds a file's lock for ever.
must o "put('$DIR/hung', bytes(PAGE)); hung = share('$DIR/hung'); put('$DIR/clean', bytes(PAGE)); clean = share('$DIR/clean')"
must r "clean = remote('$DIR/clean'); os.pwrite(clean, b'home', 0); os.fsync(clean); os.pread(clean, 4, 0)"
must r "hung = remote('$DIR/hung'); memory, missing = absent()
writer = threading.Thread(target=error_of, args=(os.pwritev, hung, [memory], 0)); writer.start(); time.sleep(0.5)"
check "a writer whose bytes never come waits for them" r "writer.is_alive()"
sh_on 1 'timeout -s INT 100 vremote events --json >/run/events 2>/dev/null & echo $! >/run/events.pid'
expect "vremote events listens" eventually 30 on 1 sh -c 'grep -qx 1 /sys/kernel/tracing/instances/vremote-*/events/vremote/vremote_peer/enable'
fault 2 pause
got=$(ask o "timed(os.pread, plain, 7, 6 * PAGE)")
expect_match "the origin gets a page that the silent node had written, in its last version here" "$got" "^\(b'ooooooo', ([4-9]|10)\."
check "… and all others at once" o "timed(os.pread, plain, 7, 8 * PAGE)[1] < 1"
check "what was synced is there" o "os.pread(plain, 6, 5 * PAGE)" "b'synced'"
must o "os.pwrite(plain, b'new' * 4, 10 * PAGE)"
expect_eq "the node was fenced" "$(fences)" $((before + 1))
expect_match "vremote status says so there" "$(on 1 vremote status)" 'node2 was silent while others wanted what it held'
expect "the log says so" on 1 sh -c 'dmesg | grep vremote: | grep -q "node2 does not answer, and its lease has run out"'
expect "vremote events has told that it would be" eventually 10 on 1 grep -q "node2.*does not answer: what it holds is wanted" /run/events
expect "… and that it was" eventually 10 on 1 grep -q "node2.*what it held is taken back" /run/events
sh_on 1 'kill $(cat /run/events.pid)'
expect "… and what was lost" on 1 sh -c 'dmesg | grep vremote: | grep -q "pages that a node may have written are taken back"'
fault 2 resume
must r "time.sleep(1); over = True; watcher.join()
gaps = [i for i in range(1, len(seen)) if seen[i][0] - seen[i - 1][0] > 4]"
check "that node, which had read a page again and again, has stood still once" r "len(gaps)" 1
check "… and does not show that page as it was before, not even to a read that was under way" r "set(g for t, g in seen[gaps[0]:]) & {b'o'} or 'none'" none
check "what was open there is over" r "error_of(os.pread, fd, 1, 0) in ('ESTALE', 'ETIMEDOUT', 'EIO')"
must o "os.ftruncate(clean, 10)"
check "… and does not keep the size that the file had then" r "os.stat('/vremote/node1$DIR/clean').st_size" 10
# What is over is ESTALE whether bytes were lost with it or not. A descriptor that is opened then is told what nobody has been told yet.
lost() { # FILE: what two fsyncs of a new descriptor say
	ask r "wait(lambda: error_of(lambda: globals().update(probe=remote('$1'))) == 'none', 30) and (error_of(os.fsync, probe), error_of(os.fsync, probe), os.close(probe))"
}
expect_eq "fsync says that bytes are lost" "$(lost "$f")" "('EIO', 'none', None)"
expect_eq "… and not of a file of which none are" "$(lost "$DIR/clean")" "('none', 'none', None)"
check "… what was open is over for fsync as well" r "(error_of(os.fsync, fd), error_of(os.fsync, clean))" "('ESTALE', 'ESTALE')"
must o "os.ftruncate(clean, 20)"
check "… nor does it keep the size after another one was opened and closed" r "os.stat('/vremote/node1$DIR/clean').st_size" 20
must r "os.close(clean)"
must o "os.close(clean)"
expect "… and the log of that node" on 2 sh -c 'dmesg | grep vremote: | grep -q "bytes written to inode .* are lost"'
expect_match "… and vremote status there how many" "$(on 2 vremote status)" '[1-9][0-9]* bytes that were written here to files of node1 never reached it'
must r "m.close(); p.close()"
again
check "… while the writer of another file still waits" r "writer.is_alive()"
must r "os.close(missing); writer.join(); os.close(hung)"
must o "os.close(hung)"
check "… and shows what is there" r "os.pread(fd, 3, 10 * PAGE) + os.pread(fd, 7, 6 * PAGE)" "b'newooooooo'"

# ---- mappings, by processes that have loaded from them before
must r "ro = remote('$f', RO); read_all(fd); m = mmap.mmap(fd, 64 * PAGE); n = mmap.mmap(ro, 64 * PAGE, prot=mmap.PROT_READ); p = mmap.mmap(fd, 64 * PAGE, mmap.MAP_PRIVATE)
def loader(m):
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        m[7 * PAGE]; os.read(here, 1); m[7 * PAGE]; os._exit(0)
    os.close(here)
    def load():
        os.write(there, b'x'); os.close(there)
        status = os.waitpid(child, 0)[1]
        return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else 'done'
    return load
loaders = [loader(m), loader(n), loader(p)]; time.sleep(0.5)"
fault 2 partition
must r "time.sleep(6.5)"
check "a load through a shared mapping is SIGBUS after the lease" r "loaders[0]()" SIGBUS
check "… through one for reading as well" r "loaders[1]()" SIGBUS
check "… a private one goes on" r "loaders[2]()" "done"
fault 2 heal
check "all go on with the lease" r "wait(lambda: ends(lambda: m[7 * PAGE]) == 'done', 20)"
must r "m.close(); n.close(); p.close(); os.close(ro)"

# ---- another remote wants it
must r "os.pwrite(fd, b'second', 20 * PAGE); m = mmap.mmap(fd, 64 * PAGE)"
before=$(fences)
fault 2 partition
check "another remote gets a page of the silent node" s "os.pread(fd, 6, 20 * PAGE)" "b'oooooo'"
check "… and writes one that it had read" s "os.pwrite(fd, b'third', 21 * PAGE)" 5
expect_eq "… by one fence" "$(fences)" $((before + 1))
fault 2 heal
expect_eq "the node is heard again" "$(up o node2)" True
again
check "… and sees it" r "os.pread(fd, 5, 21 * PAGE)" "b'third'"
check "… a mapping of the old one is over as well" r "ends(lambda: m[21 * PAGE])" SIGBUS
must r "m.close()"

# ---- only one direction works: the silent node hears nothing, but is heard
must r "os.pwrite(fd, b'half', 30 * PAGE)"
before=$(fences)
on 1 tc qdisc add dev eth0 root netem loss 100% || fail "node 1 can be made dumb"
sleep 4
expect_match "vremote status says that it does not hear" "$(on 1 vremote status)" 'node2 is partitioned: it is heard, but does not answer'
expect "… the log as well" on 1 sh -c 'dmesg | grep "vremote: peer node2" | tail -n 3 | grep -q "node2 is heard, but does not answer"'
tell o "os.pread(plain, 4, 30 * PAGE)"
expect "… and, when somebody wants what it holds, that this is taken back" eventually 10 sh_on 1 'vremote status | grep "node2: reclaiming"'
expect_eq "who hears nothing is fenced too" "$(answer o)" "b'oooo'"
on 1 tc qdisc del dev eth0 root
expect_eq "… once" "$(fences)" $((before + 1))
expect_eq "… and is up when it hears again" "$(up r node1)" True
again

# ---- a lock of a silent node
must r "fcntl.lockf(fd, fcntl.LOCK_EX)"
tell s "timed(fcntl.lockf, fd, fcntl.LOCK_EX)"
fault 2 kill
expect_match "who waits for a lock of a dead node gets it" "$(answer s 60)" '^\(None, ([4-9]|1[0-9])\.'
must s "fcntl.lockf(fd, fcntl.LOCK_UN)"
tell o "timed(fcntl.lockf, plain, fcntl.LOCK_EX)"
expect_match "… so does a program of the origin" "$(answer o)" '^\(None, 0\.'
must o "fcntl.lockf(plain, fcntl.LOCK_UN)"
leave r
unset 'PUSHED[2]'
expect "the dead node boots again" fault 2 start
writing_back 2 0
agent r 2
check "… and takes part" r "wait(lambda: error_of(lambda: globals().update(fd=remote('$f'))) == 'none', 30) and os.pread(fd, 5, 21 * PAGE)" "b'third'"

# ---- a peer that is removed: what it keeps is not shown for long, and not before that changed by others
must r "read_all(fd)"
fault 2 partition
tell o "timed(lambda: run('vremote peer del node2'))[1]"
expect_match "a silent peer is removed when its lease has run out" "$(answer o)" '^[3-9]\.|^1[0-9]\.'
fault 2 heal
expect "the cluster tool introduces the nodes again" "$TOP/scripts/cluster" peers >/dev/null
writing_back 2 500
finish
