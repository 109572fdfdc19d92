#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The module's life: it does not go while anything is open, goes without a trace when nothing is, comes back; and without it nothing
# is opened that should not be.

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/module
f=$DIR/f
agent o 1
agent r 2
must o "put('$f', b'content')"

loaded() { on "$1" grep -q '^vremote ' /proc/modules; }
no_peers() { on "$1" vremote clear; }
unload() { sh_on "$1" 'umount /vremote 2>/dev/null; rmmod vremote'; }

# ---- not while it is in use
expect_fail "rmmod while there are peers" on 1 rmmod vremote 2>/dev/null
must o "fd = share('$f')"
must r "fd = remote('$f')"
expect "umount at the origin" on 1 umount /vremote
expect_fail "umount while a remote file is open" on 2 umount /vremote 2>/dev/null
expect_fail "rmmod at the remote while a file is open" on 2 rmmod vremote 2>/dev/null
expect "peers are removed at the origin" no_peers 1
expect_fail "rmmod at the origin while a file is shared" on 1 rmmod vremote 2>/dev/null
check "the origin's file still works" o "os.pread(fd, 7, 0)" "b'content'"
check "no peers any more: ENOTCONN" o "remote('$DIR/x')" ENOTCONN
check "the remote's calls end in time" r "timed(lambda: os.pread(fd, 7, 0))[1] < 12"
must o "os.close(fd)"
must r "os.close(fd)"

# ---- gone
expect "peers are removed at the remote" no_peers 2
expect "rmmod at the origin" eventually 10 unload 1
expect "rmmod at the remote" eventually 10 unload 2
expect_fail "the module is gone" loaded 1
expect_fail "no debugfs directory stays" on 1 test -e /sys/kernel/debug/vremote
expect_fail "no configfs directory stays" on 1 test -e /sys/kernel/config/vremote
expect_fail "no file system type stays" on 1 grep -q vremote /proc/filesystems
expect_fail "the port is free" on 1 sh -c 'ss -Huln | grep -q ":1104 "'
check "O_REMOTE without the module" o "os.open('$f', RW | REMOTE)" EOPNOTSUPP
check "O_REMOTE and O_ORIGIN without the module" o "os.open('$f', RW | REMOTE | ORIGIN)" EOPNOTSUPP
check "nothing is created" o "error_of(os.open, '$DIR/new', RW | CREAT | REMOTE) + ' ' + error_of(os.open, '$DIR/new', RW | CREAT | REMOTE | ORIGIN) + ' ' + str(exists('$DIR/new'))" "EOPNOTSUPP EOPNOTSUPP False"
check "nothing is truncated" o "error_of(os.open, '$f', RW | TRUNC | REMOTE) + ' ' + error_of(os.open, '$f', RW | TRUNC | REMOTE | ORIGIN) + ' ' + str(get('$f'))" "EOPNOTSUPP EOPNOTSUPP b'content'"
check "decimal flags are refused without the module too" o "error_of(os.open, '$f', RW | 10000000) + ' ' + str(get('$f'))" "EINVAL b'content'"
check "other files are as ever" o "put('$DIR/plain', b'x') or get('$DIR/plain')" "b'x'"
expect_fail "nothing to mount" on 1 mount -t vremote vremote /vremote 2>/dev/null

# ---- bad starts
must o "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 1104))"
expect_fail "insmod while another program has the port" on 1 insmod /root/vremote.ko 2>/dev/null
expect_fail "leaves nothing behind" on 1 test -e /sys/kernel/config/vremote
must o "s.close()"
expect_fail "insmod with an unknown port" on 1 insmod /root/vremote.ko port=70000 2>/dev/null
expect "insmod with another port and time limit" on 1 insmod /root/vremote.ko port=1234 timeout_ms=1500
expect_match "the log names the port" "$("$TOP/scripts/cluster" dmesg 1 | grep 'UDP Server' | tail -n 1)" 'Remote Storage.*UDP Server: Listening on port 1234'
check "no peers: ENOTCONN at once" o "bounded(lambda: remote('$f'), 'ENOTCONN', 1)"
expect "a key" sh_on 1 'rm -f /root/silent && vremote keygen /root/silent'
check "a peer that never answers: in the time that was set" o "run('vremote peer add silent 10.77.0.77 /root/silent') and False or bounded(lambda: remote('$f'), 'ENOTCONN ETIMEDOUT', 4)"
for bad in '/ 10.0.0.1' 'x nonsense' 'x 10.0.0.1:99999' 'x 10.0.0.256' 'x 0.0.0.0' 'x 224.0.0.1' 'silent 10.77.0.78' 'other 10.77.0.77' 'node1 10.77.0.9' 'x'; do
	# shellcheck disable=SC2086
	expect_fail "vremote peer add $bad" on 1 vremote peer add $bad /root/silent 2>/dev/null
done
expect_fail "vremote peer del of nobody" on 1 vremote peer del nobody 2>/dev/null
expect_fail "vremote export add of nothing" on 1 vremote export add /no/such/dir 2>/dev/null
expect_fail "vremote export add twice" sh_on 1 'vremote export add /srv && vremote export add /srv/../srv' 2>/dev/null
expect "vremote export del" on 1 vremote export del /srv
expect_fail "vremote export add of a file" on 1 vremote export add "$f" 2>/dev/null
expect_fail "vremote export del of nothing" on 1 vremote export del /no/such/dir 2>/dev/null
check "the one peer is still the only one" o "list(peers())" "['silent']"
expect "unloaded again" sh_on 1 'vremote peer del silent && rm /root/silent && rmmod vremote'
expect_eq "20 times in and out" "$(sh_on 1 'for i in $(seq 20); do insmod /root/vremote.ko && rmmod vremote || break; echo .; done' | wc -l)" 20

# ---- back
expect "the cluster tool loads it again and introduces the nodes" "$TOP/scripts/cluster" peers
must o "fd = share('$f')"
check "and it works" r "wait(lambda: error_of(lambda: globals().update(fd=remote('$f'))) == 'none', 20) and os.pread(fd, 7, 0)" "b'content'"
check "both ways" r "os.pwrite(fd, b'CONTENT', 0)" 7
check "… as the origin sees" o "get('$f')" "b'CONTENT'"
finish
