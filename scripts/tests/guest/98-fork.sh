#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# vremote_fork(): children on another node, their files, their ends.
# time-limit: 600

. "$(dirname "$0")/../lib.sh"

DIR=/srv/fork
PEER=$(addr 2)

# A program of the library's, built on node 1.
[ -e "$TOP/build/tools/libvremote.so" ] || skip_all "build/tools has no libvremote.so (make tools)"
sh_on 1 "rm -rf $DIR; mkdir -p $DIR"
for file in "$TOP/build/tools/libvremote.so" "$TOP/userspace/libvremote/include/vremote.h" "$TOP/userspace/libvremote/examples/sum.c" \
	"$TOP/scripts/tests/programs/forks.c"; do
	push "$file" "1:$DIR/$(basename "$file")"
done
for program in sum forks; do
	expect "$program.c is built" sh_on 1 "cd $DIR && gcc -Wall -Werror -O1 -I. -o $program $program.c -L. -lvremote -Wl,-rpath,$DIR"
done

# In a directory that both nodes have.
sum() { sh_on 1 "cd / && $DIR/sum $*"; }
forks() { sh_on 1 "cd / && $DIR/forks $*" 2>&1; }

# What earlier tests have left would answer in place of the errors below.
clean() {
	local k
	for k in 1 2; do
		sh_on $k 'pkill -x vremoted && sleep 1; rm -rf /run/vremote /var/lib/vremote'
	done
}
clean

expect_eq "vremote_available() with the module" "$(forks available)" 2
expect_eq "an address that is none" "$(forks errno nonsense)" EINVAL
expect_eq "no address" "$(forks errno '')" EINVAL
expect_eq "no daemon" "$(forks errno "$PEER")" EHOSTDOWN

# ---- daemons and keys
for k in 1 2; do
	sh_on $k 'vremoted >/var/log/vremoted.log 2>&1 </dev/null &'
done
expect "the daemons are there" sh_on 1 'for i in $(seq 100); do [ -S /run/vremote/fork.sock ] && exit; sleep 0.1; done; exit 1'
on 1 mv /etc/vremote/keys/node2 /root/key
expect_eq "no key" "$(forks errno "$PEER")" EACCES
on 1 mv /root/key /etc/vremote/keys/node2
expect_eq "not a peer" "$(forks errno 10.77.0.99)" EHOSTUNREACH

# ---- work on two nodes
out=$(sum "$PEER" 1000000 $DIR/part 2>&1)
expect_match "two nodes add up the numbers" "$out" 'here 249999500000 there 250000000000 sum 499999500000'
expect_match "… the child on the other one, with the number that its parent was told" "$out" 'was process [0-9]+ of node2$'
expect_match "a second child finds everything there" "$(sum "$PEER" 1000 $DIR/part 2>&1)" 'sum 499500'

# ---- ends
expect_eq "the exit status" "$(forks exit "$PEER" 7)" "exited 7"
expect_eq "a signal" "$(forks kill "$PEER" 15)" "killed 15"
expect_eq "signals meanwhile" "$(forks signals "$PEER")" "killed 9"
expect_eq "WNOHANG" "$(forks nohang "$PEER")" "0 then killed 9"
expect_eq "waited for twice" "$(forks twice "$PEER")" ECHILD
expect_eq "a signal after the end" "$(forks late "$PEER")" ESRCH
expect_eq "eight at once" "$(forks many "$PEER" 8)" "8 of 8"
expect_eq "for wait(2) there is no child" "$(forks wait "$PEER")" ECHILD

# ---- a node that is lost
forks lost "$PEER" >"$TMP/lost" &
waits=$!
expect "a child runs" sh_on 2 'for i in $(seq 100); do pgrep -x forks >/dev/null && exit; sleep 0.1; done; exit 1'
on 2 pkill -9 -x vremoted
said() { [ "$(wc -l <"$TMP/lost")" -ge "$1" ]; }
expect "its node does not answer any more: the wait ends" eventually 120 said 1
expect_eq "… with an error" "$(head -n 1 "$TMP/lost")" EHOSTUNREACH
sh_on 2 'vremoted >>/var/log/vremoted.log 2>&1 </dev/null &'
wait $waits
expect_eq "… and once the node answers and does not know the child, there is none" "$(tail -n 1 "$TMP/lost")" ECHILD
on 2 pkill -9 -x forks

# ---- what cannot be moved
expect_eq "a socket" "$(forks socket "$PEER")" EBUSY
expect_eq "… leaves no process behind" "$(sh_on 1 'pgrep -c -x forks')" 0

# ---- other users
sh_on 1 "chmod 755 $DIR; chmod 666 $DIR/part"
expect_eq "any user can" "$(sh_on 1 "cd / && setpriv --reuid 1000 --regid 1000 --clear-groups $DIR/forks exit $PEER 5" 2>&1)" "exited 5"


# A tree with the rights of somebody else is not the caller's, even if its first process is. The library makes no such tree.
push "$TOP/scripts/tests/programs/foreign.py" "1:$DIR/foreign.py"
sh_on 1 "chmod 644 $DIR/foreign.py; cp /usr/bin/sleep $DIR/foreign && chmod 4755 $DIR/foreign"
foreign() { sh_on 1 "cd / && setpriv --reuid 1000 --regid 1000 --clear-groups python3 $DIR/foreign.py $PEER $DIR/foreign $*" 2>&1; }
expect_match "a tree with a process of root's" "$(foreign)" "^1 process [0-9]+ \(.*foreign 60\) is not user 1000's alone"
# Which is found when the tree is frozen.
expect_match "… that has become that after the first look" "$(foreign late)" "^5 process [0-9]+ \(.*foreign 60\) is not user 1000's alone"

expect "no job is left at node 2" sh_on 2 'for i in $(seq 100); do [ -z "$(ls -d /sys/fs/cgroup/vremote/*/ 2>/dev/null)" ] && exit; sleep 0.1; done; exit 1'
clean
