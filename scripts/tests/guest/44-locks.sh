#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Locks by fcntl(2), of processes and of open file descriptions, and by flock(2): those of all nodes exclude each other, whoever waits
# gets them, and they are free when their holder closes the file, ends, or its node is gone.
# time-limit: 400

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/locks
agent o 1
agent r 2
agent q 2
F=$DIR/f
must o "put('$F', data(10000)); fd = share('$F'); plain = os.open('$F', RW)"
for name in r q; do must $name "fd = remote('$F')"; done

# What the kernel calls struct flock: type, whence, start, length, pid.
HELPERS="
def posix(fd, kind, start=0, length=0, command=fcntl.F_SETLK):
    return struct.unpack('hhqqi4x', fcntl.fcntl(fd, command, struct.pack('hhqqi4x', kind, 0, start, length, 0)))
def own(fd, kind, start=0, length=0):
    return posix(fd, kind, start, length, 37)
def own_wait(fd, kind, start=0, length=0):
    return posix(fd, kind, start, length, 38)
def own_who(fd, kind, start=0, length=0):
    return posix(fd, kind, start, length, 36)
def who(fd, kind, start=0, length=0):
    return posix(fd, kind, start, length, fcntl.F_GETLK)
R, W, U = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
SH, EX, NB, UN = fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_NB, fcntl.LOCK_UN
class Waiting(threading.Thread):
    # A call that may wait, in the background; threads of a process have one owner, so flock or a process of its own is needed.
    def __init__(self, call, *args):
        super().__init__(daemon=True)
        self.call, self.args, self.took = call, args, None
        self.start()
    def run(self):
        begin = time.monotonic()
        self.result = error_of(self.call, *self.args)
        self.took = time.monotonic() - begin
    def done(self, limit=10):
        self.join(limit)
        return 'waits' if self.is_alive() else self.result
"
for name in o r q; do must $name "$HELPERS"; done

# ---- fcntl: ranges, kinds, owners
check "a remote locks a range for writing" r "error_of(posix, fd, W, 100, 50)" none
check "… the origin cannot" o "error_of(posix, plain, W, 120, 1)" EAGAIN
check "… not even for reading" o "error_of(posix, plain, R, 149, 1)" EAGAIN
check "… but beside it" o "error_of(posix, plain, W, 150, 50)" none
check "another process of that node neither" q "error_of(posix, fd, R, 0, 0)" EAGAIN
check "F_GETLK at the origin finds the remote's lock" o "who(plain, W, 0, 1000)[:4]" "(1, 0, 100, 50)"
check "… and says that its process is elsewhere" o "who(plain, W, 0, 1000)[4] < 0"
check "F_GETLK at another remote process finds that of its own node, with its process id" q "who(fd, W, 100, 10)[4] > 1"
check "F_GETLK at a remote finds the origin's" r "who(fd, R, 150, 10)[:4]" "(1, 0, 150, 50)"
check "… and nothing where nothing is" r "who(fd, W, 5000, 10)[0]" 2
check "the remote unlocks a part" r "error_of(posix, fd, U, 110, 10)" none
check "… which is free" o "error_of(posix, plain, W, 110, 10)" none
check "… the rest is not" o "[error_of(posix, plain, W, at, 1) for at in (109, 120)]" "['EAGAIN', 'EAGAIN']"
check "many may read" r "error_of(posix, fd, R, 1000, 100)" none
check "… at the origin" o "error_of(posix, plain, R, 1050, 100)" none
check "… in another process" q "error_of(posix, fd, R, 1000, 1)" none
check "… nobody may write" q "error_of(posix, fd, W, 1060, 1)" EAGAIN
check "unlocking everything" r "error_of(posix, fd, U)" none
must o "posix(plain, U)"
check "… leaves that of another process" o "(who(plain, W)[:4], error_of(posix, plain, R))" "((0, 0, 1000, 1), 'none')"
must o "posix(plain, U)"
must q "posix(fd, U)"
check "a lock for reading becomes one for writing" r "[error_of(posix, fd, kind, 0, 10) for kind in (R, W)] and error_of(posix, fd, W)" none
check "… up to the largest offset" o "error_of(posix, plain, R, (1 << 63) - 1, 1)" EAGAIN
check "closing any descriptor of the file unlocks" r "os.close(remote('$F'))" ok
check "… everything" o "error_of(posix, plain, W)" none
must o "posix(plain, U)"
check "a lock for writing needs a descriptor for writing" r "error_of(posix, remote('$F', RO), W)" EBADF
check "wrong ranges" r "[error_of(posix, fd, W, -1, 1), error_of(posix, fd, W, (1 << 63) - 1, 2)]" "['EINVAL', 'EOVERFLOW']"

# ---- open file descriptions
must r "one, two = remote('$F'), remote('$F')"
check "an open file description locks" r "error_of(own, one, W, 0, 10)" none
check "… against another one of its process" r "error_of(own, two, W, 0, 10)" EAGAIN
check "… against the origin" o "error_of(own, plain, R, 5, 1)" EAGAIN
check "… until it is closed" r "os.close(one) or error_of(own, two, W, 0, 10)" none
check "… at the origin as well" r "os.close(two)" ok
check "… which finds it free" o "error_of(own, plain, W, 0, 10)" none
check "F_OFD_GETLK at a remote finds the origin's" r "own_who(fd, W, 5, 1)[:4]" "(1, 0, 0, 10)"
must o "own(plain, U)"
must r "own(fd, W, 20, 10)"
check "F_OFD_GETLK at the origin finds the remote's" o "own_who(plain, R, 0, 0)[:4]" "(1, 0, 20, 10)"
check "… as does F_GETLK" o "who(plain, R, 0, 0)[:4]" "(1, 0, 20, 10)"
check "… and another process of that node" q "own_who(fd, R, 0, 0)" "(1, 0, 20, 10, -1)"
check "… and nothing beside it" o "own_who(plain, W, 30, 10)[0]" 2
check "the origin waits for a remote's (F_OFD_SETLKW)" o "globals().update(w=Waiting(own_wait, plain, W, 25, 1)) or w.done(1)" waits
check "… which is unlocked" r "error_of(own, fd, U)" none
check "… it has it" o "w.done(2)" none
check "a remote waits for the origin's" r "globals().update(w=Waiting(own_wait, fd, R, 0, 0)) or w.done(1)" waits
check "another process of it as well" q "globals().update(w=Waiting(own_wait, fd, R, 0, 0)) or w.done(1)" waits
check "… which is unlocked" o "error_of(own, plain, U)" none
check "… both read" r "w.done(2)" none
check "… at once" q "w.done(2)" none
check "… the origin may not write" o "error_of(own, plain, W)" EAGAIN
for name in r q; do must $name "own(fd, U)"; done

# ---- how many
if [ "$VREMOTE_DEBUG" = 0 ]; then
	must r "resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000)); many = [remote('$F') for _ in range(4096)]"
	tell r "{error_of(own, n, R, i, 1) for i, n in enumerate(many)}"
	expect_eq "4096 owners have locks of one file" "$(answer r 200)" "{'none'}"
	check "… one more has none" r "error_of(own, fd, R, 5000, 1)" ENOLCK
	check "… nor has one of another process" q "error_of(own, fd, R, 5000, 1)" ENOLCK
	check "… until an owner is gone" r "os.close(many.pop()) or wait(lambda: error_of(own, fd, R, 5000, 1) == 'none')"
	must r "[os.close(n) for n in many]; own(fd, U)"
	check "… and nothing of all that is left" o "wait(lambda: error_of(own, plain, W) == 'none')"
	must o "own(plain, U)"
else
	skip "4096 owners have locks of one file" "it takes too long on the debug kernel"
fi

# ---- flock
check "flock, shared by two nodes" r "error_of(fcntl.flock, fd, SH)" none
check "… at the origin" o "error_of(fcntl.flock, plain, SH | NB)" none
check "… neither can have it alone" r "error_of(fcntl.flock, fd, EX | NB)" EAGAIN
must r "fcntl.flock(fd, SH)"
check "… until the other lets go" o "error_of(fcntl.flock, plain, UN)" none
check "… then it can" r "error_of(fcntl.flock, fd, EX | NB)" none
check "… and nobody else" o "error_of(fcntl.flock, plain, SH | NB)" EAGAIN
check "… in its own node neither" q "error_of(fcntl.flock, fd, SH | NB)" EAGAIN
check "flock and fcntl do not know each other" o "error_of(posix, plain, W)" none
must o "posix(plain, U)"

# ---- directories: their locks are their node's own
must o "os.mkdir('$DIR/d'); run('vremote export add --no-root-squash $DIR/d'); of = os.open('$DIR/d', RO)"
for name in r q; do must $name "of = os.open('/vremote/node1$DIR/d', RO)"; done
check "flock of a directory" r "error_of(fcntl.flock, of, EX | NB)" none
check "… excludes those of its own node" q "error_of(fcntl.flock, of, EX | NB)" EAGAIN
check "… and nobody on another one" o "error_of(fcntl.flock, of, EX | NB)" none
for name in r q o; do must $name "os.close(of)"; done
must o "run('vremote export del $DIR/d')"

# ---- waiting
check "the origin waits for a remote's lock" o "globals().update(w=Waiting(fcntl.flock, plain, EX)) or w.done(1)" waits
check "another process of the remote too" q "globals().update(w=Waiting(fcntl.flock, fd, EX)) or w.done(1)" waits
check "… the holder unlocks" r "error_of(fcntl.flock, fd, UN)" none
sleep 1
check "… and one of them has it" o "w.done(0.1) if w.done(0.1) == 'none' else 'none'" none
[ "$(ask o 'w.done(0.1)')" = none ] && first=o second=q || first=q second=o
check "… only one" $second "w.done(0.5)" waits
check "… the other gets it afterwards" $first "fcntl.flock(plain if 'plain' in globals() else fd, UN)" ok
check "… within a second" $second "w.done(1)" none
must $second "fcntl.flock(plain if 'plain' in globals() else fd, UN)"
must r "fcntl.flock(fd, EX)"
check "a remote waits for its own node's process" q "globals().update(w=Waiting(fcntl.flock, fd, EX)) or w.done(1)" waits
check "… which ends its descriptor" r "os.close(fd)" ok
check "… and is told at once" q "w.done(2)" none
must q "fcntl.flock(fd, UN)"
must r "fd = remote('$F')"
must o "posix(plain, W, 0, 10)"
check "a process waits for the origin's lock (F_SETLKW)" r "globals().update(child=subprocess.Popen([sys.executable, '-c', 'import fcntl, os; fd = os.open(\"$F\", os.O_RDWR | 0o20); fcntl.lockf(fd, fcntl.LOCK_EX, 10); print(\"locked\", flush=True); input()'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)) or time.sleep(1.5) or select.select([child.stdout], [], [], 0)[0]" "[]"
check "… the origin unlocks" o "posix(plain, U) and True"
check "… it has it" r "child.stdout.readline()" "b'locked\\n'"
check "… the origin has not" o "error_of(posix, plain, W)" EAGAIN
check "… until the process is killed" r "child.kill() or child.wait()" -9
check "… which frees it" o "error_of(posix, plain, W)" none
must o "posix(plain, U)"
# Locks of descriptions end with the last descriptor, so with the process that is killed, whoever waits for them.
HOLDER="import fcntl, os, struct; fd = os.open('$F', os.O_RDWR | 0o20); fcntl.fcntl(fd, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 10, 0)); fcntl.flock(fd, fcntl.LOCK_EX); print('locked', flush=True); input()"
for holder in r o; do
	if [ $holder = r ]; then
		other=o fd=plain code=$HOLDER what="a process of the remote"
	else
		other=r fd=fd code=${HOLDER/ | 0o20/} what="a process of the origin"
	fi
	check "$what has locks of a description and by flock" $holder "globals().update(child=subprocess.Popen([sys.executable, '-c', \"\"\"$code\"\"\"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)) or child.stdout.readline()" "b'locked\\n'"
	check "… the other node has neither" $other "(error_of(own, $fd, R), error_of(fcntl.flock, $fd, SH | NB))" "('EAGAIN', 'EAGAIN')"
	check "… and waits for both" $other "globals().update(w=Waiting(own_wait, $fd, W), v=Waiting(fcntl.flock, $fd, EX)) or (w.done(0.5), v.done(0.5))" "('waits', 'waits')"
	check "… the process is killed" $holder "child.kill() or child.wait()" -9
	check "… which frees both, of a description and by flock" $other "(w.done(3), v.done(3))" "('none', 'none')"
	must $other "own($fd, U); fcntl.flock($fd, UN)"
done
must o "posix(plain, W)"
check "a signal ends the wait" r "(lambda begin: (signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(InterruptedError(4, 'x'))), signal.setitimer(signal.ITIMER_REAL, 1), error_of(posix, fd, W, 0, 0, fcntl.F_SETLKW), time.monotonic() - begin < 3)[2:])(time.monotonic())" "('EINTR', True)"
must o "posix(plain, U)"
check "… and leaves nothing behind" o "who(plain, W)[0]" 2

# ---- counting under a lock: read, add, write on both nodes
must o "os.ftruncate(fd, 0); os.pwrite(fd, bytes(8), 0)"
COUNT="
def count(fd, times, lock):
    for _ in range(times):
        lock(fd, True)
        os.pwrite(fd, struct.pack('<Q', struct.unpack('<Q', os.pread(fd, 8, 0))[0] + 1), 0)
        lock(fd, False)
    return 'done'
def by_fcntl(fd, on):
    posix(fd, W if on else U, 0, 8, fcntl.F_SETLKW)
def by_flock(fd, on):
    fcntl.flock(fd, EX if on else UN)
"
for name in o r q; do must $name "$COUNT"; done
times=200
[ "$VREMOTE_DEBUG" = 0 ] || times=30
total=0
for how in by_fcntl by_flock; do
	tell o "count(plain, $times, $how)"
	tell r "count(fd, $times, $how)"
	tell q "count(fd, $times, $how)"
	expect_eq "three processes on two nodes count under a lock ($how)" "$(answer o 120) $(answer r 120) $(answer q 120)" "done done done"
	total=$((total + 3 * times))
	check "… none is lost" o "struct.unpack('<Q', os.pread(plain, 8, 0))[0]" $total
done

# ---- what is late on the network: it takes nothing away that its owner has got since
keeps() { # WHAT: for longer than it takes until what was lost is sent again
	check "$1" o "{time.sleep(0.1) or error_of(posix, plain, W, 0, 10) for _ in range($((VREMOTE_DEBUG ? 80 : 40)))}" "{'EAGAIN'}"
}
must r "posix(fd, W, 0, 10)"
fault 2 partition
check "an unlock does not wait long for a network that is down" r "timed(posix, fd, U, 0, 10)[1] < $((VREMOTE_DEBUG ? 8 : 3))"
must r "time.sleep(0.7)"
fault 2 heal
check "… the owner locks again as soon as it is up" r "error_of(posix, fd, W, 0, 10)" none
keeps "… and keeps that lock"
must r "posix(fd, U, 0, 10)"
fault 2 partition
check "a lock that the origin does not answer fails in time" r "bounded(lambda: posix(fd, W, 0, 10), 'EIO ETIMEDOUT', $((VREMOTE_DEBUG ? 20 : 8)))"
fault 2 heal
check "… the owner locks again as soon as it is up" r "wait(lambda: error_of(posix, fd, W, 0, 10) == 'none', 15)"
keeps "… and keeps that lock"
must r "posix(fd, U, 0, 10)"
check "… until it is unlocked" o "error_of(posix, plain, W, 0, 10)" none
must o "posix(plain, U, 0, 10)"

# ---- a node that goes away
must r "posix(fd, W, 0, 10); fcntl.flock(fd, EX)"
check "a remote holds locks" o "(error_of(posix, plain, W), error_of(fcntl.flock, plain, SH | NB))" "('EAGAIN', 'EAGAIN')"
sh_on 1 'cp -p /etc/vremote/keys/node2 /root/key && vremote peer del node2' >/dev/null
check "… the origin removes that node as a peer" o "(error_of(posix, plain, W), error_of(fcntl.flock, plain, SH | NB))" "('none', 'none')"
sh_on 1 'vremote peer add node2 10.77.0.2 /root/key && rm /root/key'
check "… and meets it again" o "wait(lambda: peers()['node2']['state'] == 'up')"
check "what was opened before is over" r "error_of(posix, fd, W, 20, 10)" ESTALE
must r "os.close(fd); fd = remote('$F')"
must o "posix(plain, U); fcntl.flock(plain, UN)"
check "… what is opened now can lock" r "(error_of(posix, fd, W), error_of(fcntl.flock, fd, EX | NB))" "('none', 'none')"
sh_on 2 'cp -p /etc/vremote/keys/node1 /root/key && vremote peer del node1 && vremote peer add node1 10.77.0.1 /root/key && rm /root/key'
check "a remote that forgets the origin, and meets it again, has given its locks back" o "wait(lambda: (error_of(posix, plain, W), error_of(fcntl.flock, plain, SH | NB)) == ('none', 'none'), 20)"
finish
