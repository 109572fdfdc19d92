#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Of one kind of message after the other, and of no other, many are lost, then repeated, then delayed, then corrupted, on all ways to and
# from the origin; meanwhile three nodes exercise one file against a model, and make, lock, change and remove others. Everything they see
# is right, nothing is done twice and no call fails. The module has plain=1 and the nodes no keys, so that the origin's network can
# tell kinds apart; a corrupted packet is then found by UDP's checksum. All kinds but Working, which needs an origin that is slow.
# By default a kind of those that bring and take pages has each fault by itself, one of the others all at once; with LONG=1 all have each.
# nodes: 3
# time-limit: 900

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"
. "$TOP/scripts/tests/programs/exercise.sh"

PAGES='GetShared GetModified Grant Invalidate Recall Ack Put Reply Commit Write'
OTHERS='Hello HelloAck Lookup Open Close GetAttr SetSize Allocate List ReadLink Make Link Remove Rename SetAttr Lock Unlocked GetXattr SetXattr
	ListXattr StatFs GetFileAttr SetFileAttr'
# How many packets have to meet a fault, and how many seconds that may take.
HITS=4 PATIENCE=$((VREMOTE_DEBUG ? 90 : 30)) ROUND=$((VREMOTE_DEBUG ? 60 : 15)) LEAST=$((VREMOTE_DEBUG ? 20 : 200))
other=3
[ "$VREMOTE_NODES" -ge 3 ] || other=2

expect "without keys" without_keys
begin /srv/kinds
v=/vremote/node1$DIR
agent o 1
agent r 2
agent s $other
must o "put('$DIR/locked', bytes(PAGE)); run('vremote export add --no-root-squash $DIR')"
must r "wait(lambda: exists('$v/locked'), 30)"

# The origin cuts off a page that a node has written to. That the page has come home may be confirmed after an answer with the new size.
must o "put('$DIR/cut', bytes(PAGE)); cut = os.open('$DIR/cut', RW)"
must r "wait(lambda: exists('$v/cut'), 30); cut = os.open('$v/cut', RW)"
fault 1 kind Reply delay 40ms 40ms
old=0
for ((n = 0; n < 20; n++)); do
	must o "os.pwrite(cut, b'x' * 100, PAGE)"
	must r "size(cut) == PAGE + 100 and os.pwrite(cut, b'y', PAGE + 4)"
	must o "os.ftruncate(cut, PAGE)"
	[ "$(ask r 'size(cut)')" = 4096 ] || old=$((old + 1))
done
fault 1 heal
expect_eq "a file that was cut is as short at a node whose page was cut off" "$old" 0
must r "os.close(cut)"
must o "os.close(cut); os.unlink('$DIR/cut')"

# Both nodes make names and take them away, each its own, so that a change that is lost or made twice is an error; and both count in a file
# under a lock that they wait for.
for who in r s; do
	must $who "
over, rounds, trouble, me = False, 0, [], '$v/$who'
def need(what, got, wanted):
    if got != wanted: raise ValueError(f'{what}: {got!r} instead of {wanted!r}')
def turn(n):
    flags = array.array('i', [0])
    os.mkdir(me); os.mkdir(me + '/d')
    with open(me + '/f', 'wb') as f: f.write(b'x' * n)
    need('size', os.stat(me + '/f').st_size, n)
    os.link(me + '/f', me + '/second'); need('links', os.stat(me + '/f').st_nlink, 2)
    os.symlink('f', me + '/link'); need('link', os.readlink(me + '/link'), 'f')
    os.rename(me + '/second', me + '/d/renamed')
    need('names', sorted(os.listdir(me)), ['d', 'f', 'link']); need('names', os.listdir(me + '/d'), ['renamed'])
    os.chmod(me + '/f', 0o600 + n % 8); need('mode', os.stat(me + '/f').st_mode & 0o777, 0o600 + n % 8)
    os.setxattr(me + '/f', 'user.n', str(n).encode(), os.XATTR_CREATE)
    need('attribute', os.getxattr(me + '/f', 'user.n'), str(n).encode()); need('attributes', os.listxattr(me + '/f'), ['user.n'])
    os.statvfs(me)
    fd = os.open(me + '/f', RW | APPEND)
    os.write(fd, b'y' * 100); os.ftruncate(fd, n + 50); fallocate(fd, 0, 0, 2 * PAGE); need('grown', os.fstat(fd).st_size, 2 * PAGE)
    need('bytes', os.pread(fd, n + 60, 0), b'x' * n + b'y' * 50 + bytes(10)); os.fsync(fd)
    fcntl.ioctl(fd, 0x80086601, flags); flags[0] ^= 0x80; fcntl.ioctl(fd, 0x40086602, flags)  # FS_IOC_GETFLAGS, SETFLAGS: noatime
    wanted, flags[0] = flags[0], 0; fcntl.ioctl(fd, 0x80086601, flags); need('flags', flags[0], wanted)
    os.close(fd)
    os.unlink(me + '/d/renamed'); os.unlink(me + '/link'); os.unlink(me + '/f'); os.rmdir(me + '/d'); os.rmdir(me)
def add(fd):
    fcntl.lockf(fd, fcntl.LOCK_EX)
    os.pwrite(fd, struct.pack('<Q', struct.unpack('<Q', os.pread(fd, 8, 0))[0] + 1), 0)
    time.sleep(0.02)
    fcntl.lockf(fd, fcntl.LOCK_UN)
def names():
    global rounds
    while not over and not trouble:
        try: turn(rounds % 100 + 1)
        except Exception as e: trouble.append(f'turn {rounds}: {e!r}')
        else: rounds += 1
counted = 0
def locks():
    global counted
    fd = os.open('$v/locked', RW)
    while not over and not trouble:
        try: add(fd)
        except Exception as e: trouble.append(f'lock {counted}: {e!r}')
        else: counted += 1
    os.close(fd)
import array
threads = [threading.Thread(target=names), threading.Thread(target=locks)]
[thread.start() for thread in threads]"
done

# The exercise, again and again with other seeds; what it does in one turn takes it everywhere.
touch "$TMP/go"
rounds() {
	local seed=1 total=0
	while [ -e "$TMP/go" ]; do
		exercise "1 2 $other" fsx --path "$DIR/fsx" --count 10000000 --seconds $ROUND --limit $((VREMOTE_DEBUG ? 600 : 150)) --seed $seed --turn 4 --largest 65536 --longest 16384 --longest-mapped 8192 || {
			why >"$TMP/trouble"
			return
		}
		total=$((total + $(figure ops))) seed=$((seed + 1))
		echo "$total operations in $((seed - 1)) rounds" >"$TMP/total"
	done
}
rounds &
exercising=$!


content() { # nothing has gone wrong until now
	local who trouble
	if [ -s "$TMP/trouble" ]; then
		cat "$TMP/trouble"
		return 1
	fi
	for who in r s; do
		trouble=$(ask $who "trouble")
		[ "$trouble" = '[]' ] || {
			echo "$who: $trouble"
			return 1
		}
	done
}
# meets FAULT …: so many packets have met it, and if some were to be lost some were
meets() {
	local went lost end=$((SECONDS + PATIENCE))
	while true; do
		read -r went lost < <(fault 1 count) || return 1
		if [ $((went + lost)) -ge $HITS ] && { [ "$1" != loss ] || [ "$lost" -ge 1 ]; }; then break; fi
		[ $SECONDS -lt $end ] || {
			echo "$((went + lost)) packets met '$*' in $PATIENCE s, of which $lost were lost"
			return 1
		}
		sleep 0.2
	done
	met=$((met + went + lost))
}
# trial KIND FAULT …: arguments for each are one word
trial() {
	local kind=$1 what rc=0
	shift
	met=0
	for what; do
		# shellcheck disable=SC2086
		fault 1 loss 0% duplicate 0% delay 0ms corrupt 0% kind "$kind" $what && meets $what || rc=1
	done
	content || rc=1
	return $rc
}
bad_checksums() { # found by the nodes
	local who sum=0
	for who in o r s; do sum=$((sum + $(ask $who "drops()['receive_error']"))); done
	echo $sum
}

before=$(bad_checksums)
for kind in ${KINDS:-$PAGES $OTHERS}; do
	if [ -n "${LONG:-}" ] || [[ " $PAGES " = *" $kind "* ]]; then
		expect "$kind lost, repeated, delayed, corrupted" trial "$kind" 'loss 40%' 'duplicate 60%' 'delay 30ms 20ms' 'corrupt 40%'
	else
		expect "$kind lost, repeated, delayed, corrupted" trial "$kind" 'loss 25% duplicate 30% delay 10ms 10ms corrupt 15%'
	fi
	note "$kind: $met packets met the faults"
	[ ! -s "$TMP/trouble" ] || break
done
fault 1 heal
rm "$TMP/go"
wait $exercising
expect "what was read is what the model says" content
note "$(cat "$TMP/total")"
expect "… in at least $LEAST operations" [ "$(sed 's/ .*//' "$TMP/total")" -ge $LEAST ]
must r "over = True; [thread.join() for thread in threads]"
must s "over = True; [thread.join() for thread in threads]"
expect "names and locks went on as on a good network" content
note "$(ask r rounds) and $(ask s rounds) turns of all that changes names"
check "every addition under the lock is there, once" o "struct.unpack('<Q', get('$DIR/locked')[:8])[0]" "$(($(ask r counted) + $(ask s counted)))"
check "nothing is left over" o "sorted(set(os.listdir('$DIR')) - {'fsx'})" "['locked']"
expect "corrupted packets were found by their checksum" [ "$(bad_checksums)" -gt "$before" ]
leave o r s
finish
expect "with keys again" reload
expect "… all nodes know each other" "$TOP/scripts/cluster" peers
