#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Counters as people and programs see them: vremote stats, vremote top, and the text that Prometheus reads.
# time-limit: 60

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/stats
f=$DIR/f
agent o 1
agent r 2
must o "put('$f', bytes(256 * 4096)); fd = share('$f')"
must r "fd = remote('$f')"
must r "
def metrics():
    found = {}
    for line in run('vremote stats --prometheus').splitlines():
        if not line.startswith('#'):
            series, value = line.rsplit(' ', 1)
            found[series] = float(value)
    return found
before = metrics()"
check "a page is read" r "os.pread(fd, 4, 0)" "b'\\x00\\x00\\x00\\x00'"
must r "after = metrics(); grown = {s: v - before.get(s, 0) for s, v in after.items() if v != before.get(s, 0)}"
check "the request is counted for Prometheus" r "grown['vremote_messages_total{peer=\"node1\",direction=\"sent\",kind=\"GetShared\"}'] >= 1"
check "… and what came" r "grown['vremote_bytes_total{peer=\"node1\",direction=\"received\"}'] > 4096"
check "… and the peer is up" r "after['vremote_peer_up{peer=\"node1\"}']" 1.0
check "the counters are the status document's" r "after['vremote_messages_total{peer=\"node1\",direction=\"sent\",kind=\"GetShared\"}'] == peers()['node1']['tx']['GetShared']"
tell r "
end = time.monotonic() + 6
while time.monotonic() < end:
    for page in range(256): os.pread(fd, 1, page * 4096)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)"
stats=$(on 2 vremote stats --interval 2)
answer r 30 >/dev/null
expect_match "vremote stats shows what a peer sends and gets in a second" "$stats" $'\nnode1 +up +[0-9]+ +[1-9][0-9]* +[1-9][0-9]* '
expect_match "… and which messages are the most" "$stats" $'\nGrant +0 +[1-9]'
expect_eq "vremote top looks again and again" "$(on 2 vremote top --interval 0.2 --count 3 | grep -c '^node node2,')" 3
expect_fail "an interval of nothing is refused" on 2 vremote stats --interval 0 2>/dev/null

# ---- events
sh_on 2 'timeout -s INT 100 vremote events --json >/run/events 2>/run/events.error & echo $! >/run/events.pid'
expect "vremote events listens" eventually 30 on 2 sh -c 'grep -qx 1 /sys/kernel/tracing/instances/vremote-*/events/vremote/vremote_copy/enable'
must r "os.pread(fd, 1, 200 * 4096); os.pwrite(fd, b'x', 200 * 4096)"
expect "it tells that a page became shared, then modified" eventually 10 on 2 sh -c 'grep "\"event\":\"copy\".*\"page\":200,\"state\":\"S\"" /run/events && grep "\"page\":200,\"state\":\"M\"" /run/events'
sh_on 2 'kill $(cat /run/events.pid)'
expect "it takes its trace instance away when it ends" eventually 10 on 2 sh -c '! ls -d /sys/kernel/tracing/instances/vremote-*'
expect_eq "… without a word" "$(on 2 cat /run/events.error)" ''
expect "each line is an object" on 2 python3 -c 'import json; [json.loads(line) for line in open("/run/events")]'
tell r "time.sleep(1) or os.pwrite(fd, b'x', 201 * 4096)"
expect_match "for people, with messages, so many" "$(on 2 timeout 20 vremote events --messages --count 3)" $'^ +[0-9.]+  .*\n +[0-9.]+  .*\n +[0-9.]+  [^\n]*$'
answer r >/dev/null
must r "os.close(fd)"
finish
