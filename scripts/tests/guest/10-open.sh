#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Open flags, names and refusals: what opens what, and what is visible of it.

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/open
agent o 1
agent r 2

line=$("$TOP/scripts/cluster" dmesg 1 | grep 'Remote Storage' | tail -n 1)
expect_match "one line of the log says what the module is and where it listens" "$line" 'vremote: .*Remote Storage.*UDP Server: Listening on port 1104'
check "the mount point is mounted, with its type" r "[line.split()[2] for line in open('/proc/mounts') if line.split()[1] == '/vremote']" "['vremote']"

# ---- flags
must o "put('$DIR/f', b'kept')"
check "O_ORIGIN without O_REMOTE" o "os.open('$DIR/f', RW | ORIGIN)" EINVAL
check "… creates nothing" o "error_of(os.open, '$DIR/new', RW | ORIGIN | CREAT) + ' ' + str(exists('$DIR/new'))" "EINVAL False"
for bit in 23 24 25 27 28 29 31; do
	check "O_REMOTE with unknown bit $bit" o "os.open('$DIR/f', ctypes.c_int(RW | REMOTE | ORIGIN | 1 << $bit).value)" EINVAL
done
for flags in 'os.O_PATH' 'os.O_TMPFILE' 'DIRECTORY'; do
	check "O_REMOTE with $flags" r "os.open('$DIR', RW | REMOTE | $flags)" EINVAL
done
# What an older system's README told its users to write, in decimal: on a stock kernel these numbers contain O_TRUNC or O_PATH.
for flags in 'RW | 10000000' 'RW | 20000000' 'RW | 10000000 | 20000000' 'WO | CREAT | 10000000' 'RW | REMOTE | 10000000' 'RW | REMOTE | ORIGIN | 10000000'; do
	check "open with $flags is refused" o "os.open('$DIR/f', $flags)" EINVAL
done
must o "error_of(os.open, '$DIR/f', RW | 10000000 + 20000000)"
check "none of the decimal numbers has truncated the file" o "get('$DIR/f')" "b'kept'"

# ---- not there, not shared
check "a missing file" r "remote('$DIR/none')" ENOENT
check "a file that is not shared" r "remote('$DIR/f')" ENOENT
check "… nor by its node's name" r "remote('/vremote/node1$DIR/f')" ENOENT
check "… nor without the flag" r "get('/vremote/node1$DIR/f')" ENOENT
check "no such node" r "remote('/vremote/nobody/x')" ENOENT
must r "put('$DIR/mine', b'local')"
check "a local file is never opened instead" r "remote('$DIR/mine')" ENOENT
check "nor truncated" r "error_of(remote, '$DIR/mine', RW | TRUNC) + ' ' + str(get('$DIR/mine'))" "ENOENT b'local'"
check "a read of a missing file leaves the service alive" r "peers()['node1']['state']" up

# ---- shared by a descriptor
must o "put('$DIR/hello', b'Hello from node1\n')"
check "the origin shares a file" o "fd = share('$DIR/hello')" ok
check "the path does not exist on the other node" r "exists('$DIR/hello')" False
check "which opens it with O_REMOTE" r "fd = remote('$DIR/hello')" ok
check "and reads it" r "os.read(fd, 100)" "b'Hello from node1\\n'"
check "no local file appears" r "exists('$DIR/hello')" False
check "a local file of no size does not hide it" r "put('$DIR/hello', b'') or read_all(remote('$DIR/hello'))" "b'Hello from node1\\n'"
check "and stays as it is" r "get('$DIR/hello')" "b''"
must r "os.unlink('$DIR/hello')"

check "F_GETFL at the remote shows O_REMOTE" r "fcntl.fcntl(fd, fcntl.F_GETFL) & (REMOTE | ORIGIN) == REMOTE"
check "F_GETFL at the origin shows both" o "fcntl.fcntl(fd, fcntl.F_GETFL) & (REMOTE | ORIGIN) == REMOTE | ORIGIN"
check "/proc/PID/fd names node and path" r "os.readlink(f'/proc/self/fd/{fd}')" "/vremote/node1$DIR/hello"
check "the descriptor's mount is in mountinfo, with type vremote" r "(lambda id: any(line.split()[0] == id and ' - vremote ' in line and line.split()[4] == '/vremote' for line in open('/proc/self/mountinfo')))([line.split()[1] for line in open(f'/proc/self/fdinfo/{fd}') if line.startswith('mnt_id')][0])"
check "fstat and stat of that path are the same file" r "(lambda a, b: (a.st_dev, a.st_ino, a.st_size, a.st_mode) == (b.st_dev, b.st_ino, b.st_size, b.st_mode))(os.fstat(fd), os.stat(f'/vremote/node1$DIR/hello'))"
check "mode, owner, size and times are the origin's" r "(lambda s: f'{s.st_nlink} {s.st_mode} {s.st_uid} {s.st_size} {s.st_mtime_ns}')(os.fstat(fd))" \
	"$(ask o "(lambda s: f'{s.st_nlink} {s.st_mode} {s.st_uid} {s.st_size} {s.st_mtime_ns}')(os.fstat(fd))")"

# ---- ways to name it
check "by node and path, with the flag" r "read_all(remote('/vremote/node1$DIR/hello', RO))[:5]" "b'Hello'"
check "by node and path, with plain open" r "get('/vremote/node1$DIR/hello')[:5]" "b'Hello'"
check "a relative path" r "os.chdir('$DIR') or read_all(remote('hello', RO))[:5]" "b'Hello'"
check "a relative path with dots and slashes" r "read_all(remote('../open/.//hello', RO))[:5]" "b'Hello'"
check "relative to a directory descriptor" r "read_all(remote('hello', RO, dir_fd=os.open('$DIR', RO | DIRECTORY)))[:5]" "b'Hello'"
check "relative to the root's descriptor, without the leading slash" r "read_all(remote('${DIR#/}/hello', RO, dir_fd=os.open('/', RO | DIRECTORY)))[:5]" "b'Hello'"
check "with dots in an absolute path" r "read_all(remote('/srv/../$DIR/./hello', RO))[:5]" "b'Hello'"
check "a path that is too long" r "remote('/' + 'x/' * 3000)" ENAMETOOLONG
check "a component that is too long" r "remote('/vremote/node1/' + 'x' * 256)" ENAMETOOLONG
check "an empty path" r "remote('')" ENOENT
check "the mount point shows the nodes" r "{'node1', 'node2'} <= set(os.listdir('/vremote'))"
check "one's own name leads to the local file" o "(lambda a, b: (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))(os.stat('/vremote/node1$DIR/hello'), os.stat('$DIR/hello'))"
check "… also to one that is not shared" o "get('/vremote/node1$DIR/f')" "b'kept'"
check "the directory on the way can be looked at" r "stat.S_ISDIR(os.stat('/vremote/node1$DIR').st_mode)"

# ---- directories, devices, pipes
must o "run('vremote export add $DIR')"
must o "os.mkdir('$DIR/dir') or os.mkfifo('$DIR/fifo') or os.mknod('$DIR/null', 0o666 | stat.S_IFCHR, os.makedev(1, 3)) or os.symlink('/etc/hostname', '$DIR/out') or os.symlink('hello', '$DIR/link')"
check "a directory" r "bounded(lambda: remote('$DIR/dir', RO), 'EISDIR', 3)"
check "a FIFO, without waiting for its other end" r "bounded(lambda: remote('$DIR/fifo', RO), 'ENXIO', 3)"
check "a device" r "bounded(lambda: remote('$DIR/null'), 'ENXIO', 3)"
check_in "a symlink does not lead out of the export" r "remote('$DIR/out', RO)" "ELOOP EXDEV ENOENT"
check_in "sharing a directory" o "os.open('$DIR/dir', RO | REMOTE | ORIGIN)" "EISDIR EOPNOTSUPP"
check_in "sharing a FIFO" o "os.open('$DIR/fifo', RO | os.O_NONBLOCK | REMOTE | ORIGIN)" "ENXIO EOPNOTSUPP"
check_in "sharing a device" o "os.open('/dev/null', RW | REMOTE | ORIGIN)" "ENXIO EOPNOTSUPP"
check "sharing a file of tmpfs" o "put('/tmp/x', b'x') or share('/tmp/x')" EOPNOTSUPP
check "sharing a file of proc" o "os.open('/proc/version', RO | REMOTE | ORIGIN)" EOPNOTSUPP
must o "run('vremote export add /tmp')"
check "opening a file of tmpfs from afar" r "remote('/vremote/node1/tmp/x', RO)" EOPNOTSUPP
check "the tool ends an export" o "run('vremote export del /tmp') and False or not any(e['path'] == '/tmp' for e in status()['exports'])"

# ---- changes, by root, who is nobody there
for call in "os.unlink('/vremote/node1$DIR/hello')" "os.rename('/vremote/node1$DIR/hello', '/vremote/node1$DIR/other')" \
	"os.mkdir('/vremote/node1$DIR/sub')" "os.link('/vremote/node1$DIR/hello', '/vremote/node1$DIR/other')" \
	"os.symlink('x', '/vremote/node1$DIR/sym')" "os.chmod('/vremote/node1$DIR/hello', 0o600)" \
	"os.fchmod(fd, 0o600)" "os.utime('/vremote/node1$DIR/hello', (1, 1))" "os.fchown(fd, 1, 1)"; do
	check_in "refused: ${call%%(*}" r "$call" "EACCES EPERM"
done
check "none of that changed mode, owner or times" o "(lambda s: (s.st_mode & 0o777, s.st_uid, s.st_mtime > 1000))(os.stat('$DIR/hello'))" "(420, 0, True)"
check "… or names" o "sorted(os.listdir('$DIR'))" "['dir', 'f', 'fifo', 'hello', 'link', 'null', 'out']"

# ---- the log
refusals() { on 1 sh -c 'dmesg | grep -c "vremote: .*refused"'; }
before=$(refusals)
check "60 refused opens" r "{error_of(remote, '/vremote/node1/etc/nothing%d' % i) for i in range(60)}" "{'ENOENT'}"
now=$(refusals)
note "$((now - before)) lines for 60 refusals"
expect "refusals are logged, a limited number of them" [ "$now" -ge 1 -a $((now - before)) -le 42 ]

# ---- the end
check "the remote still reads" r "os.pread(fd, 5, 0)" "b'Hello'"
must o "no_exports()"
check "closing the origin's descriptor ends the sharing" o "os.close(fd)" ok
check "what is open stays open" r "os.pread(fd, 5, 0)" "b'Hello'"
check "but cannot be opened anew" r "remote('$DIR/hello')" ENOENT
finish
