#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# What keeps a process from being moved is named before it is frozen, with what to do about it.
# time-limit: 300

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

LIMIT=60
[ "$VREMOTE_DEBUG" = 0 ] || LIMIT=240
NODES='1 2'

begin /srv/blockers
. "$TOP/scripts/tests/programs/moves.sh"

# run PYTHON: a program that has done this, in PID. In it stay() leaves a part of the program outside of what is moved: the parent, in which it
# is true; the child, in which it is not, goes on and is to be moved.
run() {
	PID=$((PID - 10))
	sh_on 1 'cd /; rm -f "$2"/ready; echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid
		setsid python3 -c "$3" "$2" "$4" </dev/null >"$2"/said 2>&1 &' $PID "$DIR" '
import ctypes, fcntl, os, pty, signal, socket, sys, time
DIR, FIRST = sys.argv[1], os.getpid()
def ready(pid):
    with open(DIR + "/new", "w") as f: f.write(str(pid))
    os.rename(DIR + "/new", DIR + "/ready")
def wait():
    while True: time.sleep(1)
def stay():
    child = os.fork()
    if child: ready(child)
    return bool(child)
exec(sys.argv[2])
if os.getpid() == FIRST: ready(FIRST)
wait()' "$1"
	eventually 30 on 1 test -e "$DIR/ready" || fail "the program starts ($(on 1 cat "$DIR/said"))"
	PID=$(on 1 cat "$DIR/ready")
}
end_all() { on 1 pkill -9 -f "$DIR"; }
# blocked WHAT REGEX PYTHON: a move says this, with what to do about it; nothing was frozen.
blocked() {
	local out rc=0 line=$'[^\n]*'
	local said="blocked: $line$2$line"$'\n *to fix: '
	run "$3"
	out=$(move 1 2 2>&1) || rc=$?
	if [ $rc = 1 ] && [[ $out =~ $said ]]; then pass "$1"; else fail "$1 (status $rc: $out)"; fi
	[[ $out != *CRIU* ]] || fail "… it is found before CRIU has to do with it ($out)"
	expect_eq "… it is there, and runs" "$(where)" '1 '
	end_all
}

run 'pass'
expect "a program that has nothing in the way" move 1 2 --check
end_all
blocked "io_uring" 'io_uring. cannot be moved' 'assert ctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(120)) >= 0'
on 1 mknod "$DIR/device" c 1 3
blocked "a device that the target does not have" "$DIR/device: node2 has no such device" 'f = open(DIR + "/device")'
blocked "a pipe to another process" 'a pipe to process [0-9]+ \(python3.*which is not moved' 'r, w = os.pipe()
if stay(): wait()'
blocked "a terminal of another process" 'the terminal /dev/pts/' 'child, f = pty.fork()
if child: ready(child); wait()'
blocked "a Unix socket to another process" 'a Unix socket that is connected with process [0-9]+ \(python3.*which is not moved' 'a, b = socket.socketpair()
if stay(): a.close(); wait()
b.close()'
blocked "a Unix socket of another process that has a name, as /dev/log" "a Unix socket that is connected with process [0-9]+ \\(python3.*, $DIR/socket, which is not moved" 'a = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
a.bind(DIR + "/socket")
if stay(): wait()
a.close()
b = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
b.connect(DIR + "/socket")'
connected='a = socket.create_server(("127.0.0.1", 0))
b = socket.create_connection(a.getsockname())
c = a.accept()[0]
'
blocked "a connection by TCP" 'a connection to 127.0.0.1' "$connected"
blocked "… one that the other end has closed" 'a connection to 127.0.0.1' "$connected"'c.close()'

sh_on 2 'setsid python3 -c "import socket, time; s = socket.create_server((\"\", 7777)); u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind((\"\", 7778)); time.sleep(600)" </dev/null >/dev/null 2>&1 & echo $! >/run/taker'
eventually 30 sh_on 2 'ss -lnu | grep -q :7778' || fail "a program on node 2 has the ports"
blocked "a port of TCP that is taken at the target" 'node2 cannot have a socket of TCP at 0.0.0.0:7777' 's = socket.create_server(("", 7777))'
blocked "a port of UDP that is taken at the target" 'node2 cannot have a socket of UDP at 0.0.0.0:7778' 's = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 7778))'
sh_on 2 'kill $(cat /run/taker)'
blocked "an address that the target does not have" "node2 cannot have a socket of TCP at $(addr 1):7777" "s = socket.create_server(('$(addr 1)', 7777))"
run 's = socket.create_server(("", 7777))'
expect "a port that is free there" move 1 2 --check
end_all

blocked "a lock by fcntl that is held" "$DIR/locked: it holds a lock" 'f = open(DIR + "/locked", "w"); fcntl.lockf(f, fcntl.LOCK_EX)'
blocked "a lock by flock that is held" "$DIR/locked: it holds a lock" 'f = open(DIR + "/locked", "w"); fcntl.flock(f, fcntl.LOCK_SH)'
run 'f = open(DIR + "/locked", "w")
ready(os.getpid())
while True:
    fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(0.01)
    fcntl.lockf(f, fcntl.LOCK_UN); time.sleep(0.07)'
expect "locks that are held for moments" move 1 2 --check
end_all

# ---- if the target cannot even be asked, what the program has in the way is said all the same

run 'f = open(DIR + "/locked", "w"); fcntl.lockf(f, fcntl.LOCK_EX)'
out=$(on 1 vremote-migrate $PID 10.77.0.99 2>&1)
expect_match "an address that is no peer's, and a lock" "$out" "no peer.*also in the way: .*$DIR/locked: it holds a lock"
out=$(on 1 vremote-migrate $PID 10.77.0.99 --json 2>/dev/null)
expect_match "… for programs" "$out" "\"error\".*\"blockers\":\[.*$DIR/locked: it holds a lock"
on 2 pkill -x vremoted
out=$(move 1 2 2>&1)
expect_match "no daemon, and a lock" "$out" "(cannot be reached|ended the connection).*also in the way: .*$DIR/locked: it holds a lock"
daemons
end_all

for k in 1 2; do expect_eq "nothing is left on node $k" "$(clean $k)" ''; done
for k in 1 2; do on $k pkill -x vremoted; done
finish
