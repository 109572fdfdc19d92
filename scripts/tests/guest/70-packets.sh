#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Packets that nobody of ours has sent: truncated, oversized, forged, foreign, repeated. Each is counted and dropped, the service goes
# on, and no byte of a file changes. node2 plays the attacker, from its own address and port as well. The module is loaded with plain=1
# and the nodes have no keys, so that these packets get past what 71-closed.sh is about.
# time-limit: 300

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

expect "without keys" reload plain=1
for k in 1 2; do
	# The tool would take the keys of before.
	expect "… node$k knows the other" sh_on $k 'cd /sys/kernel/config/vremote/peers && mkdir $1 && echo $2 >$1/address' node$((3 - k)) 10.77.0.$((3 - k))
done
expect "… which is up" eventually 20 sh_on 1 'vremote peer show | grep -q "up "'
expect "… and the log says that it is open to all" sh_on 1 'dmesg | grep -q "plain=1: peers without a key are believed"'

begin /srv/packets
f=$DIR/f
agent o 1
agent r 2
agent x 2
must o "blob = data(1 << 20, 1); put('$f', blob); put('$DIR/secret', b'secret'); os.chmod('$DIR/secret', 0o600); fd = share('$f')"
must r "blob = data(1 << 20, 1); fd = remote('$f')"
check "the file" r "read_all(fd) == blob"
must x "
from wire import encode
A, B = '10.77.0.1', '10.77.0.2'
plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
peer = wire.raw_sender(B, A)
me, it = int(peers()['node1']['own_epoch'], 16), int(peers()['node1']['epoch'], 16)
run('ip addr add 10.77.0.99/24 dev eth0 2>/dev/null || true')
stranger = wire.raw_sender('10.77.0.99', A)
def ours(kind, payload=b'', **fields):
    return encode(kind, payload, **{'epoch': me, 'peer_epoch': it, **fields})"

# counted WHAT REASON PYTHON: after the packets the origin has counted at least one more drop for this reason, and serves.
counted() {
	local before after
	before=$(ask o "drops()['$2']")
	must x "$3"
	check "$1: counted as $2" o "wait(lambda: drops()['$2'] > $before, 5)"
	check "$1: the service goes on" r "timed(os.fstat, fd)[1] < 2 and size(fd)" 1048576
}

# ---- from addresses that are no peer's
counted "another port of a peer" unknown_sender "plain.sendto(ours('GetShared', count=1, file=1), (A, 1104))"
counted "another address" unknown_sender "stranger(ours('Hello', b'node2', peer_epoch=0))"
counted "another address, random bytes" unknown_sender "[stranger(data(n, n)) for n in (0, 1, 99, 100, 500, 1472, 9000, 60000)]"
check "nobody has answered the stranger" o "not any('10.77.0.99' in str(p) for p in peers().values()) and len(peers()) == 1"

# ---- from a peer's address: not well formed
for bytes in 0 1 4 50 99; do
	counted "$bytes bytes" truncated "peer(ours('GetShared', count=1)[:$bytes]); peer(ours('GetShared', count=1)[:99])"
done
counted "a fragment that is shorter than said" truncated "peer(ours('Put', bytes(100), length=1000))"
counted "another magic number" magic "peer(ours('GetShared', count=1, magic=b'VRMS'))"
counted "the predecessors' text messages" truncated "[peer(m) for m in (b'/root/f,4096,0,r', b'f,10,0,w,data', b'f,0,0,i', b',,,', b'f,0,0,r' + bytes(5))]"
counted "… longer ones" magic "peer(b'/root/f,4096,0,w,' + b'x' * 4096)"
counted "another version" version "peer(ours('GetShared', count=1, version=2)); peer(ours('GetShared', count=1, version=0))"
counted "unknown kinds" kind "[peer(ours(k)) for k in (0, 4, 15, 47, 63, 128, 255)]"
counted "unknown flags" field "peer(ours('GetShared', count=1, flags=0x8000)); peer(ours('GetShared', count=1, flags=0x100))"
counted "an impossible length" field "peer(ours('Put', b'x', length=0xffffffff)); peer(ours('Write', bytes(1366), length=72 * 1024 + 1))"
counted "an impossible offset" field "peer(ours('Write', b'x' * 10, length=60000, offset=17)); peer(ours('Put', b'x', length=1, offset=1366))"
counted "an impossible fragment size" field "[peer(ours('Put', b'x', fragment=n)) for n in (0, 1, 255, 1367, 65535)]"
counted "no pages, or too many" field "peer(ours('GetShared', count=0)); peer(ours('GetShared', count=257)); peer(ours('GetModified', count=0xffffffff))"
counted "an impossible size, status or request" field "peer(ours('SetSize', size=1 << 63)); peer(ours('Grant', status=4096)); peer(ours('Open', request=0))"
counted "no session" wrong_epoch "peer(ours('GetShared', count=1, epoch=me ^ 1)); peer(ours('GetShared', count=1, peer_epoch=it ^ 1))"

# ---- well formed, but lies
must x "import itertools; ids = itertools.count(1)"
before=$(ask o 'drops()["late_answer"]')
must x "[peer(ours(k, bytes(4096) if k != 'Ack' else b'', request=next(ids), file=n, flags=3, seq=n)) for k in ('Grant', 'Reply', 'Ack') for n in range(20)]"
check "answers that nobody waits for" o "wait(lambda: drops()['late_answer'] > $before, 5)"
must x "
for name in range(1, 40):
    peer(ours('Put', data(1300, 9), request=next(ids), file=name, index=0, seq=name, size=1 << 20))
    peer(ours('GetShared', request=next(ids), file=name + 1000, count=256))
    peer(ours('GetShared', request=next(ids), file=name, index=(1 << 64) - 1, count=2))
    peer(ours('Write', b'forged', request=next(ids), file=name + 1000, index=0))
    peer(ours('SetSize', request=next(ids), file=name + 1000, size=0))
    peer(ours('Allocate', request=next(ids), file=name + 1000, index=0, size=1 << 20, count=3))
    # The right file, or one that is not there, and no range or mode that there is.
    peer(ours('Allocate', request=next(ids), file=name, index=(1 << 63) - 1, size=(1 << 63) - 1))
    peer(ours('Allocate', request=next(ids), file=name, index=0, size=0))
    peer(ours('Allocate', request=next(ids), file=name, index=0, size=1 << 20, count=0xffffffff))
    peer(ours('Close', request=next(ids), file=name + 1000, flags=1))
    peer(ours('Recall', request=next(ids), file=name, index=name, seq=1 << 60))
    peer(ours('Invalidate', request=next(ids), file=name, index=name, seq=1 << 60))"
check "… and requests about what is not open: no byte has changed" o "get('$f') == blob"
check "… and no size" o "os.stat('$f').st_size" 1048576
must x "
def user(uid, gid=0, groups=(), count=None):
    return struct.pack('<IIH', uid, gid, len(groups) if count is None else count) + b''.join(struct.pack('<I', g) for g in groups)
for path in (b'', b'/', b'relative', b'/../etc/shadow', b'$DIR/../../etc/shadow', b'$DIR//f', b'$DIR/./f', b'$DIR/f\\0x', b'/etc/shadow', b'/' * 4095, b'/' + b'x' * 4094, b'$DIR/secret'):
    for kind in 'Lookup', 'Open', 'ListXattr', 'GetFileAttr':
        peer(ours(kind, (user(1000, 1000) + path)[:1366], request=next(ids), index=2))
    for xattr in b'', b'\\0', b'\\xff', b'\\x05user.', b'\\x06user.aforged', b'\\x06user\\0aforged', b'\\x09trusted.aforged', b'\\x0asecurity.aforged', b'\\xffuser.a':
        for kind in 'GetXattr', 'SetXattr':
            for count in len(path), 0, len(path) + 1, 0xffffffff:
                peer(ours(kind, (user(0, 0) + path + xattr)[:1366], request=next(ids), count=count, size=len(xattr) % 9))
    for attr in b'', struct.pack('<6I', 0x10, 0, 0, 0, 0, 0), struct.pack('<6I', 0, 8, 0, 0, 9, 0), b'\xff' * 24:
        for count in len(path), 0, len(path) + 1, 0xffffffff:
            for which in 0, 1, 2, 3:
                peer(ours('SetFileAttr', (user(0, 0) + path + attr)[:1366], request=next(ids), count=count, size=which))
peer(ours('Open', user(0, 0, (), 65535) + b'$f', request=next(ids)))
peer(ours('Open', user(0, 0, range(65)) + b'$f', request=next(ids)))
peer(ours('Open', b'', request=next(ids)))
peer(ours('Open', user(1000) + b'$f', request=next(ids), index=0xffffffffffffffff))"
check "names that lead elsewhere change no extended attribute" o "os.listxattr('$f') + os.listxattr('/etc/shadow') + os.listxattr('/')" "[]"
check "… and no flag" o "[run('lsattr -d ' + path).split()[0] == run('lsattr -d ' + like).split()[0] for path, like in (('$f', '$DIR/secret'), ('/etc/shadow', '/etc/passwd'))]" "[True, True]"
must o "
for name, options in ('root', '--no-root-squash'), ('user', ''):
    os.makedirs('$DIR/' + name); put('$DIR/' + name + '/f', b''); run(f'vremote export add $DIR/{name} {options}')"
must r "held = remote('/vremote/node1$DIR/user/f', RO)"
must x "
def append_only(file, path):
    peer(ours('SetFileAttr', user(0, 0) + path + struct.pack('<6I', 0x20, 0, 0, 0, 0, 0), request=next(ids), file=file, count=len(path), size=1))
append_only($(ask o "shared('$DIR/user/f')['file']"), b'$DIR/user/f')
append_only($(ask o "shared('$DIR/user/f')['file']"), b'$DIR/root/f')
append_only($(ask o "shared('$f')['file']"), b'$DIR/root/f')
append_only(0, b'$DIR/root/f')"
check "root of another node is root where the export says so" o "wait(lambda: 'a' in run('lsattr $DIR/root/f').split()[0], 5)"
check "… and not at what it has open elsewhere" o "['a' in run('lsattr ' + path).split()[0] for path in ('$DIR/user/f', '$f')]" "[False, False]"
must o "run('chattr -a $DIR/root/f; vremote export del $DIR/root')"
must r "os.close(held)"
must o "run('vremote export del $DIR/user')"
check "names that lead elsewhere open nothing" o "[s['path'] for s in status()['shares'] if s['path'] != '$f' and (s['descriptors'] or s['remote_opens'])]" "[]"

# ---- names that lead out of an export only if something moves, or by ways that no client of ours takes
must o "
os.makedirs('$DIR/tree/in/d'); os.mkdir('$DIR/beyond'); os.mkdir('$DIR/tree/proc')
put('$DIR/tree/in/f', bytes(6)); put('$DIR/beyond/f', bytes(600))
# On the way back to where it is the look-up waits for the disk again and again.
for n in range(100): os.mkdir('$DIR/tree/in/d/%d' % n)
os.symlink(''.join('%d/../' % n for n in range(100)) + '..', '$DIR/tree/in/d/way')
os.symlink('/etc', '$DIR/tree/absolute'); os.symlink('../..', '$DIR/tree/up')
run('mount -t proc proc $DIR/tree/proc; vremote export add --no-root-squash $DIR/tree')"
must x "
listener = wire.Capture('eth0')
def look_up(path, count=1, limit=5):
    # (status, size) of each answer
    asked, got, end = {next(ids) for _ in range(count)}, {}, time.monotonic() + limit
    for request in asked: peer(ours('Lookup', user(0) + path, request=request))
    while len(got) < count and time.monotonic() < end:
        for source, target, payload in listener.packets():
            for header in map(wire.decode, wire.datagrams(payload) if (source, target) == (A, B) else ()):
                if header and header['kind'] == 'Reply' and header['request'] in asked:
                    got[header['request']] = header['status'], header['size']
    return set(got.values())"
check "a look-up by hand" x "look_up(b'$DIR/tree/in/d/way/f')" "{(0, 6)}"
check "a link out of the export, in the middle of a path: ELOOP" x "[look_up(b'$DIR/tree/' + path) for path in (b'absolute/passwd', b'up/f', b'proc/1/root/etc/passwd')]" "[{(40, 0)}, {(40, 0)}, {(40, 0)}]"
must o "
stop = threading.Event()
def storm():
    while not stop.is_set():
        for _ in range(20):
            os.rename('$DIR/tree/in/d', '$DIR/beyond/d'); os.rename('$DIR/beyond/d', '$DIR/tree/in/d')
        put('/proc/sys/vm/drop_caches', b'2')
storms = threading.Thread(target=storm); storms.start()"
must x "seen = set().union(*(look_up(b'$DIR/tree/in/d/way/f', 50, 3) for _ in range(12)))"
must o "stop.set(); storms.join()"
note "look-ups while a directory moved, (status, size): $(ask x seen)"
check "while a directory is moved out and in, what is outside is never found" x "{size for status, size in seen if not status} | {6}" "{6}"
check "… and what is not found is ENOENT, ELOOP or EAGAIN" x "{status for status, size in seen} - {0, 2, 11, 40}" "set()"
must o "run('vremote export del $DIR/tree; umount $DIR/tree/proc; rm -r $DIR/tree $DIR/beyond')"

must x "
for name in b'', b'node2', b'x' * 255, b'x' * 300, b'a/b', bytes(10):
    peer(ours('Hello', name, peer_epoch=0, epoch=me ^ 2)); peer(ours('Hello', name, peer_epoch=it ^ 4, epoch=me ^ 2)); peer(ours('HelloAck', name, peer_epoch=0, epoch=me ^ 8))"
check "forged greetings do not end the session" r "(timed(os.pread, fd, 10, 100)[0] == blob[100:110], peers()['node1']['epoch'] == f'{int(peers()[\"node1\"][\"epoch\"], 16):016x}')" "(True, True)"
check "… at the origin either" o "wait(lambda: peers()['node2']['epoch'] != '0' * 16 and peers()['node2']['state'] == 'up', 5)"

# ---- old packets again: a writer's and a reader's traffic, all of it, three times, in any order, while work goes on
must x "
capture = wire.Capture('eth0')
list(capture.packets())"
must r "
for i in range(60):
    os.pwrite(fd, b'turn %03d' % i, (i % 7) * PAGE)
    if i % 3 == 0: os.fsync(fd)
    size(remote('$f'))"
must o "
for i in range(60):
    os.pwrite(fd, b'TURN %03d' % i, (i % 7) * PAGE + 100)"
must r "
for i in range(60):
    os.pwrite(fd, b'last %03d' % i, (i % 7) * PAGE)
os.pwrite(fd, b'grown', 1 << 20)
os.fsync(fd)"
must x "recorded = [d for s, t, p in capture.packets() if (s, t) == (B, A) for d in wire.datagrams(p)]"
note "recorded: $(ask x 'len(recorded)') datagrams of node2"
must x "
rng = random.Random(5)
for turn in range(3):
    for d in rng.sample(recorded, len(recorded)): peer(d)"
check "repeated packets change nothing at the origin" o "(lambda c: [c[p * PAGE:p * PAGE + 5] for p in range(7)] == [b'last '] * 7 and [c[p * PAGE + 100:p * PAGE + 105] for p in range(7)] == [b'TURN '] * 7 and c[1 << 20:] == b'grown')(get('$f'))"
check "… nor at the remote" r "sha(fd)" "$(ask o "sha('$f')")"
check "and both go on" r "os.pwrite(fd, b'after the replay', 5000) and os.fsync(fd)" ok
check "… at the origin too" o "os.pread(fd, 16, 5000)" "b'after the replay'"

# ---- noise
must x "
rng = random.Random(6)
for n in range(4000):
    d = bytearray(ours(rng.choice(list(wire.KINDS)), rng.randbytes(rng.choice((0, 1, 17, 100, 1366))), request=next(ids), file=rng.randrange(8), index=rng.randrange(300),
        count=rng.randrange(1, 257), flags=rng.randrange(256), seq=rng.randrange(1 << 12), size=rng.randrange(1 << 21)))
    for _ in range(rng.randrange(4)): d[rng.randrange(42, len(d))] = rng.randrange(256)
    if rng.random() < 0.2: d = d[:rng.randrange(len(d))]
    if len(d) < 41 or d[40] not in (17, 18, 19, 20, 21, 31, 36, 37, 38): peer(bytes(d))
for n in range(2000):
    peer(rng.randbytes(rng.randrange(1472)))"
check "after 6,000 random packets the origin answers" r "wait(lambda: error_of(lambda: os.close(remote('$f'))) == 'none', $((VREMOTE_DEBUG ? 200 : 15)))"
must r "os.close(fd)"
check "… and a new descriptor reads and writes" r "(lambda n: os.pwrite(n, b'fine', 0) == 4 and os.pread(n, 4, 0) == b'fine')(remote('$f'))"
check "… and the origin sees it" o "os.pread(fd, 4, 0)" "b'fine'"
must x "run('ip addr del 10.77.0.99/24 dev eth0')"
leave o r x
expect "closed again" reload
expect "… all nodes know each other" "$TOP/scripts/cluster" peers
finish
