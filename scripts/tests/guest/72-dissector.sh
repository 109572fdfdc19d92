#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Whoever has the keys of a test cluster can see what passes: modules that are loaded with keylog=1 show them to root, and the dissector for
# Wireshark decrypts a capture with them. tshark runs here and not in a node, which is much slower.
# time-limit: 300

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

LOG=/sys/kernel/debug/vremote/keylog
begin /srv/dissector
f=$DIR/f

expect_fail "without keylog=1 there is no key log" on 1 test -e $LOG
expect_fail "… and nothing about keys" sh_on 1 'vremote status | grep -q keylog'
expect "with it" reload keylog=1
expect_eq "… it is there, for root" "$(on 1 stat -c '%a %U' $LOG)" "400 root"
expect "… empty, as nothing was said yet" sh_on 1 '! grep -q . $1' $LOG
expect "… and the log says so" sh_on 1 'dmesg | grep -q "keylog=1: the keys of sessions can be read"'
expect "… and the status" sh_on 1 'vremote status | grep -q "keylog=1: the keys of sessions can be read"'
expect "… also for programs" sh_on 1 'vremote status --json | grep -q "\"keylog\": *true"'
expect_fail "… and nobody can ask for it later" on 1 test -e /sys/module/vremote/parameters/keylog

# ---- a capture, from the handshake on
expect "tcpdump listens" sh_on 1 '
	rm -f /root/dissector.*
	tcpdump -Z root -i eth0 -s 0 -U --immediate-mode -w /root/dissector.pcap host 10.77.0.1 and host 10.77.0.2 and udp port 1104 >/dev/null 2>/root/dissector.err &
	echo $! >/root/dissector.pid
	for i in $(seq 100); do ! grep -q "listening on" /root/dissector.err || exit 0; sleep 0.1; done; cat /root/dissector.err >&2; exit 1'
expect "all nodes know each other" "$TOP/scripts/cluster" peers
agent o 1
agent r 2
must o "put('$f', b''.join((b'known bytes of page %d ' % p * 200)[:PAGE] for p in range(8))); fd = share('$f'); run('vremote export add $DIR --no-root-squash')"
must r "fd = remote('/vremote/node1$f')"
file=$(ask o "shared('$f')['file']")
check "three pages are read" r "[os.pread(fd, 22, p * PAGE) for p in (1, 4, 6)] == [b'known bytes of page %d ' % p for p in (1, 4, 6)]"
must r "os.pwrite(fd, b'written afar', 4 * PAGE + 7); os.fsync(fd)"
must r "fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 100, 50); fcntl.lockf(fd, fcntl.LOCK_UN)"
must r "os.mkdir('/vremote/node1$DIR/made')"
check "the origin reads what was written" o "os.pread(fd, 12, 4 * PAGE + 7)" "b'written afar'"
must r "os.close(fd)"
check "… and hears of the close" o "wait(lambda: shared('$f')['remote_opens'] == 0)"
must o "os.close(fd); run('vremote export del $DIR')"
# What it has not read yet when it is told to end would be lost. Nodes greet each other every second: with a packet of the next second, all
# that was sent until now is in the file.
expect "tcpdump has seen all" sh_on 1 '
	now=$(date +%s)
	for i in $(seq 300); do
		last=$(tcpdump -tt -r /root/dissector.pcap 2>/dev/null | tail -n 1)
		[ "${last%%.*}" -le "$now" ] || exit 0
		sleep 0.1
	done
	exit 1'
expect "tcpdump ends" sh_on 1 'kill -INT $(cat /root/dissector.pid); for i in $(seq 100); do [ -e /proc/$(cat /root/dissector.pid) ] || exit 0; sleep 0.1; done; exit 1'
expect "its packets" pull 1:/root/dissector.pcap "$TMP/packets.pcap"
on 1 cat $LOG >"$TMP/keys"
expect_match "each key is a line" "$(grep -vcE '^VREMOTE [0-9a-f]{16} [0-9a-f]{64}$' "$TMP/keys"; wc -l <"$TMP/keys")" $'^0\n([2-9]|[1-9][0-9]+)$'
# One bit of the last sealed message is wrong.
must o "
damaged = bytearray(get('/root/dissector.pcap'))
damaged[damaged.rindex(b'VRMT\\x01\\x04') + 70] ^= 4
put('/root/dissector.damaged', damaged)"
expect "packets, one of them damaged" pull 1:/root/dissector.damaged "$TMP/damaged.pcap"

# ---- seen with the keys
# seen FILE [OPTION …]: what tshark says of a capture; twice over the packets, as Wireshark does.
seen() {
	local file=$1
	shift
	(cd "$TMP" && "$TOP/scripts/tshark" -2 -r "$file" "$@" 2>>tshark.err)
}
open() { seen packets.pcap -o vremote.keylog:keys "$@"; }
closed() { seen packets.pcap "$@"; }
some() { [ -n "$(open -Y "$1")" ]; }
packets=$(open -T fields -e frame.number | wc -l)
note "$packets packets"
expect "there are packets" [ "$packets" -gt 30 ]
expect_eq "every one is recognised" "$(open -Y vremote -T fields -e frame.number | wc -l)" "$packets"
expect_eq "none is malformed, every tag is right" \
	"$(open -Y 'vremote.malformed || vremote.payload.malformed || vremote.tag.status == 0 || vremote.tag.status == 2')" ""
open -V >"$TMP/open.txt"
expect_fail "no error of Lua" grep -qi 'lua error' "$TMP/open.txt"
expect "the handshake" some 'vremote.what == 1'
expect "… and its answer" some 'vremote.what == 2'
kinds=" $(open -T fields -e vremote.kind | tr ',' '\n' | sort -nu | tr '\n' ' ')"
for kind in "1 Hello" "2 HelloAck" "3 Reply" "17 Open" "18 Close" "22 Commit" "25 Make" "30 Lock" "34 Grant" "38 Put"; do
	expect_match "there is a ${kind#* }" "$kinds" " ${kind% *} "
done
expect "a page is asked for" some "vremote.kind == 32 && vremote.file == $file && vremote.page <= 1"
for p in 1 4 6; do
	expect "page $p is granted, with its bytes" some \
		"vremote.kind == 34 && vremote.file == $file && vremote.page == $p && vremote.data contains \"known bytes of page $p known\""
done
expect "the written page comes home, with its bytes" some \
	"vremote.kind == 38 && ip.src == 10.77.0.2 && vremote.file == $file && vremote.page == 4 && vremote.data contains \"written afar\""
expect "the fsync is asked for" some "vremote.kind == 22 && vremote.file == $file"
expect "the lock has its range" some 'vremote.kind == 30 && vremote.lock.start == 50 && vremote.lock.end == 149 && vremote.lock.kind == 2'
expect "the new directory has its name" some "vremote.kind == 25 && vremote.path contains \"/dissector/made\""
expect "the open has its path" some "vremote.kind == 17 && vremote.path == \"$f\""
expect "replies are found by their requests" some 'vremote.kind == 3 && vremote.request_in && vremote.attr.ino'
mkdir -p "$BUILD/test" && open >"$BUILD/test/dissector.txt"

# ---- without, and damaged
expect_eq "without keys every packet is recognised" "$(closed -Y vremote -T fields -e frame.number | wc -l)" "$packets"
closed -V -x >"$TMP/closed.txt"
expect_eq "… nothing of the content" "$(closed -Y 'vremote.kind || vremote.data || vremote.path')$(grep -E 'known bytes|written afar|/srv|node2' "$TMP/closed.txt")" ""
expect_fail "… and there is no error" grep -qiE 'lua error|vremote.malformed|Expert Info \(Error' "$TMP/closed.txt"
expect_eq "the damaged packet is found" "$(seen damaged.pcap -o vremote.keylog:keys -Y vremote.tag.wrong -T fields -e frame.number | wc -l)" 1
expect_fail "… without an error of Lua" grep -qi 'lua error' <<<"$(seen damaged.pcap -o vremote.keylog:keys -V)"
expect_eq "tshark complains of nothing" "$(head -n 5 "$TMP/tshark.err")" ""

leave o r
expect "secret again" reload
expect_fail "… without a key log" on 1 test -e $LOG
expect "… all nodes know each other" "$TOP/scripts/cluster" peers
on 1 sh -c 'rm -f /root/dissector.*'
finish
