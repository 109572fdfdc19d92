#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# A network where everybody listens, repeats and forges: nothing can be read, nothing that was recorded works again, nothing that was
# changed is taken, and who has another key is kept out and told so. node2 plays the attacker, from its own address and port as well.
# time-limit: 240

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/closed
f=$DIR/f
agent o 1
agent r 2
agent x 2
must o "put('$f', b'ordinary' * 8192); fd = share('$f')"
must r "fd = remote('$f')"
must x "
from wire import encode
A, B = '10.77.0.1', '10.77.0.2'
peer = wire.raw_sender(B, A)
me, it = int(peers()['node1']['own_epoch'], 16), int(peers()['node1']['epoch'], 16)
capture = wire.Capture('eth0')
list(capture.packets())
def recorded(): return [(s, bytes(p)) for s, t, p in capture.packets() if {s, t} == {A, B}]
def cut(packet):
    # With segmentation offload several datagrams are one packet; the first of each is at its start.
    while packet:
        end = 40 + int.from_bytes(packet[6:8], 'little')
        yield packet[:end]
        packet = packet[end:].lstrip(b'\\0') if packet[end:end + 4] != b'VRMT' else packet[end:]
def datagrams(packets, sender): return [d for s, p in packets if s == sender for d in cut(p)]
WHAT = {'first': 1, 'second': 2, 'cookie': 3, 'message': 4}"

check "peers are encrypted, and none is in trouble" o "[(p['encrypted'], p['state'], p.get('reason')) for p in peers().values()] == [(True, 'up', None)] * $((VREMOTE_NODES - 1))"

# ---- listening
must r "os.pwrite(fd, b'a secret that must not be seen', 5000); os.fsync(fd)"
must o "os.pwrite(fd, b'another secret of the origin', 9000)"
check "what was written arrives" r "os.pread(fd, 28, 9000)" "b'another secret of the origin'"
must x "heard = recorded()"
check "… unseen by who listens" x "len(heard) > 4 and not any(word in p for s, p in heard for word in (b'secret', b'ordinary', b'closed', b'node'))"
check "… only sealed messages pass" x "{d[5] for s in (A, B) for d in datagrams(heard, s)}" "{4}"

# counted WHAT REASON PYTHON: after the packets the origin has counted at least one more drop for this reason, and serves.
counted() {
	local before
	before=$(ask o "drops()['$2']")
	must x "$3"
	check "$1: counted as $2" o "wait(lambda: drops()['$2'] > $before, 5)"
	check "$1: the session goes on" r "timed(os.fstat, fd)[1] < 2 and size(fd)" 65536
}

# ---- forging
counted "an open message from a peer's address" open "peer(encode('GetShared', epoch=me, peer_epoch=it, count=1, file=1))"
counted "an open greeting" open "peer(encode('Hello', b'node2', epoch=me, peer_epoch=it))"
counted "a message with a changed bit" forged "
rng = random.Random(1)
for d in datagrams(heard, B):
    d = bytearray(d); d[rng.randrange(16, len(d))] ^= 1 << rng.randrange(8); peer(bytes(d))"
counted "a message of a session that there is not" unknown_session "
for d in datagrams(heard, B):
    peer(d[:8] + bytes(8) + d[16:])"
counted "random bytes with a right beginning" forged "
sealed = datagrams(heard, B)[0]
for n in range(200): peer(sealed[:24] + os.urandom(len(sealed) - 24))"
counted "a handshake without the key" forged "peer(b'VRMT\\x01\\x01' + (80).to_bytes(2, 'little') + os.urandom(112))"

# ---- repeating
must r "os.pwrite(fd, b'said once', 0); os.fsync(fd)"
must x "heard = recorded()"
counted "what was said before" replayed "[peer(d) for turn in range(3) for d in datagrams(heard, B)]"
must r "log = remote('$f', WO | APPEND)"
must x "recorded()"
check "an append" r "os.write(log, b'once')" 4
must x "once = recorded()"
must o "size_then = os.fstat(fd).st_size; os.ftruncate(fd, 65536)"
check "… is there" o "size_then" 65540
counted "… repeated" replayed "[peer(d) for turn in range(3) for d in datagrams(once, B)]"
check "… is not made again" o "os.stat('$f').st_size" 65536
must r "os.close(log)"

# ---- another key
must r "os.close(fd)"
forged=$(ask o "drops()['forged']")
expect "node2 takes another key for node1" sh_on 2 '
	cp -p /etc/vremote/keys/node1 /root/right-key && vremote peer del node1 && rm -f /root/wrong-key && vremote keygen /root/wrong-key && vremote peer add node1 10.77.0.1 /root/wrong-key'
check "it cannot open the file" r "error_of(lambda: remote('/vremote/node1$f')) in ('ETIMEDOUT', 'ENOTCONN')"
check "… and is told why" r "(peers()['node1']['state'], peers()['node1']['reason'])" "('unauthenticated', 'it has another key for this node')"
check "… node1 sees it, too" o "wait(lambda: 'another key' in peers()['node2'].get('reason', ''), 30)"
check "… and has counted it" o "drops()['forged'] > $forged"
expect "with the right key again" sh_on 2 'vremote peer del node1 && vremote peer add node1 10.77.0.1 /root/right-key && rm /root/right-key /root/wrong-key'
check "… it opens" r "wait(lambda: error_of(lambda: os.close(remote('/vremote/node1$f'))) == 'none', 20)"
check "… and reads" r "(lambda n: (os.pread(n, 30, 5000), os.close(n)))(remote('/vremote/node1$f'))[0]" "b'a secret that must not be seen'"

# ---- a handshake that was recorded begins nothing
must x "recorded()"
expect "node2 knows node1 anew" sh_on 2 'key=/etc/vremote/keys/node1; cp -p $key /root/key && vremote peer del node1 && vremote peer add node1 10.77.0.1 /root/key && rm /root/key'
check "… and they talk" r "wait(lambda: error_of(lambda: os.close(remote('/vremote/node1$f'))) == 'none', 20)"
must x "shaken = [d for d in datagrams(recorded(), B) if d[5] == WHAT['first']]"
check "a first message was recorded" x "len(shaken) > 0"
epoch=$(ask o "peers()['node2']['epoch']")
must r "fd = remote('/vremote/node1$f')"
counted "… sent again and again: it is known" replayed "
for n in range(400):
    peer(shaken[n % len(shaken)])"
check "… the session is the same" o "peers()['node2']['epoch']" "$epoch"
check "… and goes on" r "os.pwrite(fd, b'still here', 0) == 10 and os.fsync(fd) is None"
check "… at the origin" o "os.pread(fd, 10, 0)" "b'still here'"
must r "os.close(fd)"
tell x "
end = time.monotonic() + 8
while time.monotonic() < end:
    for d in shaken: peer(d)
    time.sleep(0.005)"
expect "while they are repeated, node2 knows node1 anew once more" sh_on 2 'key=/etc/vremote/keys/node1; cp -p $key /root/key && vremote peer del node1 && vremote peer add node1 10.77.0.1 /root/key && rm /root/key'
check "… and they talk" r "timed(lambda: wait(lambda: error_of(lambda: os.close(remote('/vremote/node1$f'))) == 'none', 20))[1] < 6"
answer x 30 >/dev/null
must x "recorded()"
must r "fd = remote('/vremote/node1$f')"

# ---- keys
expect "a key is not overwritten" sh_on 2 'rm -f /root/k; vremote keygen /root/k && ! vremote keygen /root/k 2>/root/why && grep -q "not overwritten" /root/why'
expect_fail "one that others can read is refused" sh_on 2 'chmod 644 /root/k; vremote peer add other 10.77.0.77 /root/k'
expect_fail "one that is too short is refused" sh_on 2 'chmod 600 /root/k; echo short >/root/k; vremote peer add other 10.77.0.77 /root/k'
expect_fail "a peer without a key is refused" on 2 vremote peer add other 10.77.0.77
expect "… with a hint" sh_on 2 'vremote peer add other 10.77.0.77 2>&1 | grep -q keygen'
check "the key is not to be read from the module" r "open('/sys/kernel/config/vremote/peers/node1/key').read() == ''"
expect "… nor in its status, nor in the log" sh_on 2 'key=$(base64 -d /etc/vremote/keys/node1 | od -An -tx1 | tr -d " \n"); [ ${#key} = 64 ] && ! { vremote status --json; dmesg; } | grep -qi "$key"'

# ---- decryption happens in memory of its own: a page that is on its way to the module stays as it is
# A namespace of node2 where node1's address is; a program there splices pages of a file that it may only read. They begin like a message of
# the session, so that the module tries to decrypt them.
expect "an attacker on node2, in a namespace of its own" sh_on 2 '
	ip netns add attacker && ip link add outside type veth peer name inside netns attacker &&
	ip address add 10.78.0.1/30 dev outside && ip link set outside up &&
	ip -n attacker address add 10.78.0.2/30 dev inside && ip -n attacker link set inside up &&
	ip -n attacker address add 10.77.0.1/32 dev lo && ip -n attacker link set lo up &&
	ip -n attacker route add 10.77.0.2/32 via 10.78.0.1 src 10.77.0.1'
must r "os.pwrite(fd, b'one more', 0); os.fsync(fd)"
must x "
index = datagrams(recorded(), A)[-1][8:16]
page = b'VRMT\\x01\\x04' + (1360).to_bytes(2, 'little') + index + (1 << 40).to_bytes(8, 'little') + bytes(16) + b'as it is' * 170
put('/root/page', page); os.chmod('/root/page', 0o444); os.sync()
put('/root/splice.py', b\"\"\"
import os, socket
source = os.open('/root/page', os.O_RDONLY)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(('10.77.0.1', 1104))
udp.connect(('10.77.0.2', 1104))
for n in range(50):
    out, into = os.pipe()
    os.splice(source, into, 1400, offset_src=0)
    os.splice(out, udp.fileno(), 1400)
    os.close(out); os.close(into)
\"\"\")
before = drops()['forged']
run('ip netns exec attacker python3 /root/splice.py')"
check "what it splices at the module is decrypted, and found to be forged" x "wait(lambda: drops()['forged'] >= before + 50, 5)"
check "… and the file is as it was" x "open('/root/page', 'rb').read() == page"
expect "the attacker goes" sh_on 2 'ip netns del attacker && rm -f /root/page /root/splice.py'
must r "os.close(fd)"
finish
