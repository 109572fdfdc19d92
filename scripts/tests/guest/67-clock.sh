#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The wall clock of one node after the other jumps hours ahead and back, while all nodes write and read: nobody is fenced, no call
# fails or is late, locks and leases stand, sessions stay; the times of files are those of the origin's clock. And a lease runs out as ever.
# nodes: 3
# time-limit: 240

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

other=3
[ "$VREMOTE_NODES" -ge 3 ] || other=2
begin /srv/clock
v=/vremote/node1$DIR
agent o 1
agent r 2
agent s $other
must o "put('$DIR/f', bytes(32 * PAGE)); put('$DIR/lock', b''); run('vremote export add --no-root-squash $DIR')"
must r "wait(lambda: exists('$v/f'), 30); fd = os.open('$v/f', RW); lock = os.open('$v/lock', RW); fcntl.lockf(lock, fcntl.LOCK_EX)"
must s "fd = os.open('$v/f', RW); lock = os.open('$v/lock', RW)"
must o "fd = os.open('$DIR/f', RW)"
# Both remotes and the origin write numbers that grow and check what they see; how long the longest call took is told with the rest.
for who in o r s; do
	case $who in o) me=0 ;; r) me=1 ;; s) me=2 ;; esac
	must $who "
rng, mine, seen, longest, over, trouble, rounds = random.Random($me), {}, {}, 0, False, [], 0
def load():
    global longest, rounds
    try:
        while not over:
            page, slot, start = rng.randrange(32), rng.randrange(3), time.monotonic()
            if rng.random() < 0.3:
                rounds += 1; os.pwrite(fd, struct.pack('<Q', rounds), page * PAGE + 512 * $me); mine[page] = rounds
            got = struct.unpack('<Q', os.pread(fd, 8, page * PAGE + 512 * slot))[0]
            if got < seen.get((page, slot), 0) or slot == $me and got != mine.get(page, 0): raise ValueError(f'{got} in page {page}, slot {slot}')
            seen[page, slot] = got
            longest = max(longest, time.monotonic() - start)
    except Exception as e: trouble.append(repr(e))
thread = threading.Thread(target=load); thread.start()
def jump(hours):
    time.clock_settime(time.CLOCK_REALTIME, time.time() + hours * 3600)
def standing():
    return [(p['name'], p['state'], p['fences'], p['revocations']) for p in status()['peers']]"
done
before=$(for who in o r s; do ask $who 'sorted(standing())'; done)
declare -A TURN=()
for who in o r s; do
	for hours in 5 -10 5; do
		at=$(ask $who 'rounds')
		must $who "jump($hours)"
		sleep 2
		# Longer than the lease, once in each node with a clock that has gone back, and once with one that is ahead.
		[ $hours = 5 ] && [ -n "${TURN[$who]:-}" ] || sleep 4
		TURN[$who]=1
		check "the clock of $who jumps $hours hours: all go on" $who "trouble or wait(lambda: rounds > $at + 5, 20)"
		check "… with no error elsewhere" "$([ $who = r ] && echo s || echo r)" "trouble" "[]"
		if [ $who = r ]; then
			check "… it still has its lock" s "error_of(fcntl.lockf, lock, fcntl.LOCK_EX | fcntl.LOCK_NB)" EAGAIN
		fi
		if [ $who != s ]; then
			check "… a write's time is that of the origin's clock" r "os.pwrite(fd, b'x', 4000) and os.fsync(fd)" ok
			check "… as it is now" o "abs(os.stat('$DIR/f').st_mtime - time.time()) < 10"
			check "… also for who asks from afar" s "abs(os.stat('$v/f').st_mtime - $(ask o 'time.time()')) < 20"
		fi
	done
done
for who in o r s; do must $who "over = True; thread.join()"; done
for who in o r s; do
	check "$who: no error, nothing old" $who "trouble" "[]"
	check "$who: no call has waited for a lease" $who "longest < $((VREMOTE_DEBUG ? 30 : 9)) or longest"
	note "$who: $(ask $who 'rounds') writes, the longest call took $(ask $who 'round(longest, 2)') s"
done
expect_eq "nobody was fenced, and all are up" "$(for who in o r s; do ask $who 'sorted(standing())'; done)" "$before"
for who in r s; do check "$who and the origin end with the same bytes" $who "sha(fd)" "$(ask o 'sha(fd)')"; done

# ---- a lease runs out as ever by a clock that has gone back
for who in o r; do must $who "jump(-5)"; done
must r "os.pwrite(fd, b'unsaved', 9 * PAGE)"
fault 2 partition
tell s "timed(os.pread, fd, 1, 9 * PAGE)"
must r "time.sleep(7)"
check "a node whose clock has gone back shows nothing when its lease has run out" r "bounded(lambda: os.pread(fd, 7, 9 * PAGE), 'EIO ETIMEDOUT ESTALE', 12, 3)"
expect_match "an origin whose clock has gone back gives the page to another one after the lease" "$(answer s)" "^\((b.*|.ETIMEDOUT.), ([0-9]|1[01])\."
check "… or to who asks again" s "timed(os.pread, fd, 1, 9 * PAGE)[1] < 8 and error_of(os.pread, fd, 1, 9 * PAGE)" none
fault 2 heal
# Whatever happened, the clocks are right again: by the host's.
for k in 1 2 3; do [ $k -gt "$VREMOTE_NODES" ] || on $k date -s "@$(date +%s)" >/dev/null; done
leave o r s
finish
