#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The cluster tool itself: what the other tests rely on.
# time-limit: 180

. "$(dirname "$0")/../lib.sh"

# ---- exec passes everything through
expect_status "exit status 0" 0 on 1 true
expect_status "exit status 42" 42 on 1 sh -c 'exit 42'
expect_status "exit status 255" 255 on 1 sh -c 'exit 255'
expect_status "death by signal 9 is 137" 137 on 1 sh -c 'kill -9 $$'
expect_status "a missing command is 127" 127 on 1 no-such-command 2>/dev/null
expect_eq "stdout and stderr are apart" "$(on 2 sh -c 'echo out; echo err >&2' 2>/dev/null)" out
expect_eq "stderr holds nothing else" "$(on 2 sh -c 'echo out; echo err >&2; kill -9 $$' 2>&1 >/dev/null)" err
args=('' 'a b' "it's" 'a"b' '$HOME' '`id`' '*' $'new\nline' $'tab\there' '\' '-n' $'\xff\xfe' 'ümlaut' '!x' ';' '&')
printf '%s\0' "${args[@]}" >"$TMP/want"
on 1 printf '%s\0' "${args[@]}" >"$TMP/got"
expect "arguments arrive as they are" cmp "$TMP/want" "$TMP/got"
head -c 3000000 /dev/urandom >"$TMP/random"
on 1 cat <"$TMP/random" >"$TMP/back"
expect "3 MB of random bytes through stdin and stdout" cmp "$TMP/random" "$TMP/back"
expect_eq "an empty stdin ends at once" "$(on 1 wc -c </dev/null | tr -d ' ')" 0
expect_eq "exec runs as root with a usual PATH" "$(on 1 sh -c 'id -u; command -v ip; command -v vremote-init' | xargs)" "0 /usr/sbin/ip /usr/local/sbin/vremote-init"

pids=()
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
	on $((i % 2 + 1)) sh -c "sleep 0.5; echo $i; exit $i" >"$TMP/par.$i" &
	pids+=($!)
done
good=0
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
	wait "${pids[i - 1]}"
	[ $? = $i ] && [ "$(cat "$TMP/par.$i")" = $i ] && good=$((good + 1))
done
expect_eq "12 at once, each with its own output and status" $good 12

# ---- files
chmod 751 "$TMP/random"
expect "push" push "$TMP/random" "2:/tmp/a file"
expect_eq "push keeps the mode" "$(on 2 stat -c %a '/tmp/a file')" 751
expect "push into a directory" push "$TMP/random" 2:/srv/
expect "pull" pull "2:/srv/random" "$TMP/pulled"
expect "pulled is pushed" cmp "$TMP/random" "$TMP/pulled"
expect_fail "pull of what is not there" pull 2:/no/such/file "$TMP/x" 2>/dev/null
expect_fail "there is no node 99" on 99 true 2>/dev/null

# ---- who is who
expect_eq "addr" "$(addr 1) $(addr node2)" "10.77.0.1 10.77.0.2"
expect_eq "hostname" "$(on 2 hostname)" node2
expect "nodes reach each other by name" on 1 ping -q -c 1 -W 5 node2
expect "/srv is its own ext4" on 1 sh -c 'grep -q " /srv ext4 " /proc/mounts'

# ---- faults
lost() { # percent of pings from node 1 that get no answer
	on 1 ping -q -c "$1" -i 0.01 -W 1 10.77.0.2 | sed -nE 's/.* ([0-9.]+)% packet loss.*/\1/p'
}
between() { awk -v x="$2" -v a="$1" -v b="$3" 'BEGIN { exit !(x >= a && x <= b) }'; }
expect_eq "no loss without a fault" "$(lost 50)" 0
expect "fault loss 20%" fault 2 loss 20%
got=$(lost 300)
note "20 % loss each way: $got % of the round trips lost (36 % expected)"
expect "loss acts in both directions" between 22 "$got" 50
expect "exec is not touched by it" on 2 true
expect "fault delay 50ms" fault 2 loss 0% delay 50ms
rtt=$(on 1 ping -q -c 5 -i 0.2 10.77.0.2 | sed -nE 's,^rtt min/avg[^=]*= ([0-9.]+)/.*,\1,p')
expect "delay acts in both directions (100 ms, is $rtt)" between 99 "$rtt" 200
expect "duplicate and reorder" fault 2 delay 0ms duplicate 30% reorder 20%
dup=$(on 1 ping -c 100 -i 0.01 10.77.0.2 | grep -c DUP)
expect "duplicates arrive ($dup of 100)" between 20 "$dup" 120
expect "heal" fault 2 heal
expect_eq "no loss after heal" "$(lost 50)" 0
expect "partition" fault 2 partition
expect_eq "nothing gets through a partition" "$(lost 10)" 100
expect "exec gets through a partition" on 2 true
expect "heal again" fault 2 heal
expect "reachable again" eventually 10 on 1 ping -q -c 1 -W 1 10.77.0.2
expect_fail "nonsense is refused" fault 2 loss much 2>/dev/null

expect "pause" fault 2 pause
expect_eq "a paused node does not answer" "$(lost 5)" 100
expect_fail "exec in a paused node says so" on 2 true 2>/dev/null
expect "resume" fault 2 resume
expect "answers again" eventually 10 on 1 ping -q -c 1 -W 1 10.77.0.2
expect "exec works again" on 2 true

on 2 sh -c 'echo kept >/srv/kept && sync /srv/kept'
expect "kill" fault 2 kill
expect_fail "a dead node has no exec" on 2 true 2>/dev/null
expect "start" fault 2 start
expect_eq "what was synced is still there" "$(on 2 cat /srv/kept)" kept
