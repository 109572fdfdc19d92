#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Who may open what: the origin decides, by the opener's ids. Root is nobody below an export, unless told otherwise.
# time-limit: 180

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/permissions
E=$DIR/export
agent o 1
agent r 2

must o "
os.chmod('$DIR', 0o755)
os.mkdir('$E'); os.chmod('$E', 0o755)
def make(name, uid, gid, mode, content=b'content'):
    put('$E/' + name, content)
    os.chown('$E/' + name, uid, gid)
    os.chmod('$E/' + name, mode)
make('all', 0, 0, 0o666)
make('owner', 1000, 2000, 0o600)
make('group', 1000, 2000, 0o060)
make('read', 1000, 2000, 0o444)
make('write', 1000, 2000, 0o222)
make('root', 0, 0, 0o600)
make('nobody', 65534, 65534, 0o600)
for name, mode in ('open', 0o777), ('closed', 0o700), ('sticky', 0o1777):
    os.mkdir('$E/' + name); os.chmod('$E/' + name, mode)
make('closed/file', 0, 0, 0o666)
run('vremote export add $E')"
must r "
def opens(name, flags, uid=0, gid=0, groups=()):
    return as_user(uid, gid, list(groups), lambda: remote('$E/' + name, flags) and 'ok')"

# ---- files
check "anybody opens what is for all" r "opens('all', RW, 1234, 1234)" ok
check "the owner opens" r "opens('owner', RW, 1000, 1000)" ok
check "another user does not" r "opens('owner', RO, 1001, 1000)" EACCES
check "the group opens" r "opens('group', RW, 1001, 2000)" ok
check "a supplementary group opens" r "opens('group', RW, 1001, 1001, [5, 2000, 7])" ok
check "another group does not" r "opens('group', RW, 1001, 1001, [5, 2001])" EACCES
check "the owner without the owner's bits does not" r "opens('group', RW, 1000, 2000)" EACCES
check "the last of 64 groups counts" r "opens('group', RW, 1001, 1001, list(range(3000, 3063)) + [2000])" ok
check "… the 65th does not" r "opens('group', RW, 1001, 1001, list(range(3000, 3064)) + [9999])" EACCES
check "reading what may be read" r "opens('read', RO, 1001, 1001)" ok
check "not writing it" r "opens('read', WO, 1000, 1000)" EACCES
check "not truncating it" r "opens('read', RO | TRUNC, 1000, 1000)" EACCES
check "writing what may be written" r "opens('write', WO, 1001, 1001)" ok
check "not reading it" r "opens('write', RW, 1001, 1001)" EACCES
check "nothing was truncated" o "[name for name in ('all', 'owner', 'group', 'read', 'write', 'root') if get('$E/' + name) != b'content']" "[]"
check "a directory without permission" r "opens('closed/file', RO, 1000, 1000)" EACCES
check "the same below the mount, without the flag" r "as_user(1001, 1000, [], lambda: get('/vremote/node1$E/owner'))" EACCES
check "… and with permission" r "as_user(1000, 1000, [], lambda: get('/vremote/node1$E/owner'))" "b'content'"
check "cached pages are for those only who may open" r "as_user(1001, 1001, [], lambda: os.open('/vremote/node1$E/owner', RO))" EACCES
check "permission is checked anew after a chmod at the origin" o "os.chmod('$E/all', 0o600)" ok
check "… at the next open" r "opens('all', RO, 1234, 1234)" EACCES
check "a local root capability does not count" r "get('/vremote/node1$E/root')" EACCES

# ---- access(2), chdir(2), and listing
must o "os.mkdir('$E/listed'); os.chown('$E/listed', 1000, 2000)"
for bits in 000 100 400 500 040 010 007; do
	must o "os.chmod('$E/listed', 0o$bits)"
	for who in "1000, 1000, []" "1001, 1001, [2000]" "1001, 1001, []"; do
		here() { echo "as_user($who, lambda: [error_of(call) for call in (lambda: os.chdir('$1'), lambda: os.close(os.open('$1', RO)))] + [os.access('$1', right) for right in (4, 2, 1)])"; }
		want=$(ask o "$(here "$E/listed")")
		check "a directory with mode $bits, for $who: access, chdir and open as at the origin" r "$(here "/vremote/node1$E/listed")" "$want"
	done
done
for name in owner group read write root; do
	for who in "1000, 1000, []" "1001, 1001, [2000]" "1001, 1001, []"; do
		here() { echo "as_user($who, lambda: [os.access('$1', right) for right in (4, 2, 1)])"; }
		want=$(ask o "$(here "$E/$name")")
		check "access to '$name', for $who: as at the origin, $want" r "$(here "/vremote/node1$E/$name")" "$want"
	done
done
check "root, who is nobody, has no access" r "[os.access('/vremote/node1$E/' + name, os.R_OK) for name in ('root', 'closed', 'nobody')]" "[False, False, True]"
must o "os.rmdir('$E/listed')"

# ---- root
check "root is nobody below an export" r "opens('root', RO)" EACCES
check "… also where its group would do" r "opens('owner', RO)" EACCES
check "… and opens what is nobody's" r "opens('nobody', RW)" ok
check "root does not pass closed directories" r "opens('closed/file', RO)" EACCES
must o "run('vremote export del $E'); run('vremote export add $E --no-root-squash')"
check "with --no-root-squash root is root" r "opens('root', RW)" ok
check "… also through closed directories" r "opens('closed/file', RW)" ok
check "… and others are still others" r "opens('root', RO, 1000, 1000)" EACCES
must o "run('vremote export del $E'); run('vremote export add $E')"
check "squashed again" r "opens('root', RO)" EACCES

# ---- creating, in an export only
check "a new file" r "as_user(1000, 1000, [2000], lambda: os.write(remote('$E/open/new', RW | CREAT, 0o640), b'made afar'))" 9
check "… is the user's, with the mode asked for" o "(lambda s: f'{s.st_uid} {s.st_gid} {s.st_mode & 0o7777:o} {s.st_size}')(os.stat('$E/open/new'))" "1000 1000 640 9"
check "… with its bytes" o "get('$E/open/new')" "b'made afar'"
check "O_EXCL on what is there" r "opens('open/new', RW | CREAT | EXCL, 1000, 1000)" EEXIST
check "O_CREAT on what is there" r "opens('open/new', RW | CREAT, 1000, 1000)" ok
check "… has changed nothing" o "get('$E/open/new')" "b'made afar'"
check "O_CREAT | O_TRUNC on what is there" r "as_user(1000, 1000, [], lambda: os.write(remote('$E/open/new', RW | CREAT | TRUNC), b'new'))" 3
check "… has" o "get('$E/open/new')" "b'new'"
check "O_EXCL makes a new one" r "opens('open/exclusive', RW | CREAT | EXCL, 1000, 1000)" ok
check "the opener's umask counts" r "as_user(1000, 1000, [], lambda: os.umask(0o077) and remote('$E/open/masked', RW | CREAT, 0o666) and 'ok')" ok
check "… at the origin" o "f\"{os.stat('$E/open/masked').st_mode & 0o7777:o}\"" 600
check "below the mount, without the flag" r "as_user(1000, 1000, [], lambda: put('/vremote/node1$E/open/plain', b'plain') or 'ok')" ok
check "… makes a file as well" o "get('$E/open/plain')" "b'plain'"
check "root makes files of nobody" r "opens('open/squashed', RW | CREAT)" ok
check "… at the origin" o "os.stat('$E/open/squashed').st_uid" 65534
check "not in a directory without permission" r "opens('new', RW | CREAT, 1000, 1000)" EACCES
check "not in a missing directory" r "opens('none/new', RW | CREAT, 1000, 1000)" ENOENT
check_in "not outside an export" r "remote('$DIR/new', RW | CREAT)" "ENOENT EACCES"
# Five programs of each node wait for a byte that they share, and then all make one name; the byte is set now at one node, now at the other,
# because who sees it first has the start of the others. For those of the origin the way is shorter: they begin the later, the more often
# they win, so that the rounds become close, and either node wins some, which shows that it was a race.
RACE="
def racers(count, gate, late, make):
    # For round k they wait until the byte says k; of each result ('W': has made it, 'E': it was there, '?': neither) one byte is told.
    global told
    told, tell = os.pipe()
    for _ in range(count):
        if os.fork():
            continue
        os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)
        k = 1
        while True:
            while (now := os.pread(gate, 2, 0))[0] < k:
                os.sched_yield()
            if now[0] == 255:
                os._exit(0)
            time.sleep(now[1] * late)
            os.write(tell, {'none': b'W', 'EEXIST': b'E'}.get(error_of(lambda: os.close(make(k))), b'?'))
            k += 1
def results(count):
    got = b''
    while len(got) < count:
        got += os.read(told, count - len(got))
    return ''.join(sorted(got.decode()))"
for a in o r; do must $a "$RACE"; done
must o "put('$DIR/gate', bytes(2)); gate = share('$DIR/gate')"
must r "gate = remote('$DIR/gate')"
# Milliseconds, of which they begin `late` later.
UNIT=$((VREMOTE_DEBUG ? 5 : 1))
must o "racers(5, gate, 0.001 * $UNIT, lambda k: os.open('$E/open/race%d' % k, RW | CREAT | EXCL))"
must r "racers(5, gate, 0, lambda k: remote('$E/open/race%d' % k, RW | CREAT | EXCL))"
round=0 wrong='' here=0 there=0 late=2
while [ $round -lt 30 ] || { [ $round -lt 200 ] && { [ $here -lt 3 ] || [ $there -lt 3 ]; }; }; do
	round=$((round + 1))
	[ $((round % 2)) = 0 ] && opener=o || opener=r
	must $opener "os.pwrite(gate, bytes([$round, $late]), 0)"
	mine=$(ask o "results(5)") theirs=$(ask r "results(5)")
	case $mine/$theirs in
	EEEEW/EEEEE) here=$((here + 1)) late=$((late < 200 ? late + 1 + late / 8 : late)) ;;
	EEEEE/EEEEW) there=$((there + 1)) late=$((late > 0 ? late - 1 - late / 8 : 0)) ;;
	*) wrong+=" $round:$mine/$theirs" ;;
	esac
done
must o "os.pwrite(gate, bytes([255, 0]), 0); [os.wait() for _ in range(5)]"
must r "[os.wait() for _ in range(5)]; os.close(gate)"
must o "os.close(gate)"
note "$round rounds; programs of the origin won $here, of the remote $there; in the end those began $((late * UNIT)) ms later"
expect_eq "one of 10 programs on two nodes that begin at one moment wins O_EXCL, and all others are told so, in each of $round rounds" "$wrong" ""
expect "… and either node has won some" [ $here -ge 3 -a $there -ge 3 ]
check "… the names are there, the user's" o "{os.stat('$E/open/race%d' % k).st_uid for k in range(1, $round + 1)}" "{1000}"
must o "[os.unlink('$E/open/race%d' % k) for k in range(1, $round + 1)]"
check "no local file has appeared" r "os.listdir('$DIR')" "[]"

# ---- taking an export back
must o "run('vremote export del $E')"
check "an export that was taken back is one no more" r "opens('all', RW, 1234, 1234)" ENOENT
check "… and nothing of it is held, so that its file system could be unmounted" o "wait(lambda: not any(s['path'].startswith('$E/') for s in status()['shares']), 10)"

# ---- shared by a descriptor: ids as they are
must o "put('$DIR/secret', b'secret'); os.chmod('$DIR/secret', 0o600); fd = share('$DIR/secret')"
check "root is root for a file shared by a descriptor" r "read_all(remote('$DIR/secret'))" "b'secret'"
check "another user is not" r "as_user(1000, 1000, [], lambda: remote('$DIR/secret', RO))" EACCES
must o "os.chown('$DIR/secret', 1000, 1000)"
check "until the file is that user's" r "as_user(1000, 1000, [], lambda: remote('$DIR/secret', RW) and 'ok')" ok
must o "os.chmod('$DIR/secret', 0o400)"
check "read-only for its owner" r "as_user(1000, 1000, [], lambda: remote('$DIR/secret', RW))" EACCES
for change in "os.pwrite(fd, b'x', 1)" "os.pwrite(fd, b'at the end', 6)" "os.ftruncate(fd, 3)" "os.posix_fallocate(fd, 0, 8192)"; do
	must o "put('$DIR/suid', b'secret'); os.chmod('$DIR/suid', 0o6777); held = share('$DIR/suid')"
	check "set-id bits do not outlive ${change%%(*}" r "as_user(1001, 1001, [], lambda: (lambda fd: ($change, 'done')[1])(remote('$DIR/suid')))" "done"
	check "… at the origin" o "oct(os.stat('$DIR/suid').st_mode & 0o7777)" 0o777
	must o "os.close(held)"
done
must o "
put('$DIR/swapped', b'shared'); put('$DIR/other', b'not shared'); held = share('$DIR/swapped')
stop = threading.Event()
def swap():
    while not stop.is_set():
        for old, new in ('swapped', 'away'), ('other', 'swapped'), ('swapped', 'other'), ('away', 'swapped'):
            os.rename('$DIR/' + old, '$DIR/' + new)
swaps = threading.Thread(target=swap); swaps.start()"
check "while its name is another file's again and again it is opened and truncated" r "'none' in {error_of(lambda: os.close(remote('$DIR/swapped', RW | TRUNC))) for _ in range(200)}"
must o "stop.set(); swaps.join()"
check "… and the other file never is" o "(get('$DIR/swapped'), get('$DIR/other'))" "(b'', b'not shared')"
must o "os.close(held)"
check "an open descriptor keeps what it has" r "as_user(1000, 1000, [], lambda: read_all(remote('$DIR/secret', RO)))" "b'secret'"
finish
