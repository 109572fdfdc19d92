#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Extended attributes of another node's files and directories: those of users, with the origin's permissions, limits and errors. And what
# lsattr(1) shows and chattr(1) sets: flags, of which two say that a file is not to be changed.
# time-limit: 300

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/xattr
agent o 1
agent r 2
E=$DIR/e M=/vremote/node1$DIR/e
must o "os.mkdir('$E'); put('$E/f', b'content'); os.mkdir('$E/dir'); put('$DIR/only', b'shared by a descriptor'); run('vremote export add $E --no-root-squash'); xs = lambda path: {name: os.getxattr(path, name) for name in sorted(os.listxattr(path)) if name.startswith('user.')}"
must r "fd = remote('$E/f'); xs = lambda path: {name: os.getxattr(path, name) for name in sorted(os.listxattr(path))}"

# ---- from both sides, seen at the other at once
check "none at first" r "(os.listxattr('$M/f'), error_of(os.getxattr, '$M/f', 'user.a'))" "([], 'ENODATA')"
check "set at the remote" r "os.setxattr('$M/f', 'user.a', b'value')" ok
check "… is at the origin" o "xs('$E/f')" "{'user.a': b'value'}"
check "… and at the remote, by path and by descriptor" r "(xs('$M/f'), xs(fd))" "({'user.a': b'value'}, {'user.a': b'value'})"
check "changed at the origin" o "os.setxattr('$E/f', 'user.a', b'other')" ok
check "… is seen at the remote at once" r "os.getxattr(fd, 'user.a')" "b'other'"
check "added at the origin" o "os.setxattr('$E/f', 'user.b', b'\\x00\\xff\\n')" ok
check "… is seen at once" r "xs('$M/f')" "{'user.a': b'other', 'user.b': b'\\x00\\xff\\n'}"
check "set by descriptor" r "os.setxattr(fd, 'user.c', b'')" ok
check "… empty, and there" o "xs('$E/f')" "{'user.a': b'other', 'user.b': b'\\x00\\xff\\n', 'user.c': b''}"
check "… at the remote" r "os.getxattr('$M/f', 'user.c')" "b''"
check "removed by descriptor" r "os.removexattr(fd, 'user.a')" ok
check "… is gone at the origin" o "sorted(xs('$E/f'))" "['user.b', 'user.c']"
check "removed at the origin" o "os.removexattr('$E/f', 'user.b')" ok
check "… is gone at the remote" r "(os.listxattr(fd), error_of(os.getxattr, fd, 'user.b'))" "(['user.c'], 'ENODATA')"
check "a descriptor for reading can set them, as it can at the origin" r "os.setxattr(os.open('$M/f', RO), 'user.d', b'ro') or os.getxattr('$M/f', 'user.d')" "b'ro'"
before=$(ask o "os.stat('$E/f').st_ctime_ns")
check "the time of the inode's change is the origin's" r "os.setxattr('$M/f', 'user.d', b'again') or os.fstat(fd).st_ctime_ns > $before"
check "… to the nanosecond" r "os.fstat(fd).st_ctime_ns" "$(ask o "os.stat('$E/f').st_ctime_ns")"
for what in dir ''; do
	check "of a directory ('$what')" r "os.setxattr('$M/$what', 'user.of', b'a directory') or (xs('$M/$what'), xs(os.open('$M/$what', RO)))" "({'user.of': b'a directory'}, {'user.of': b'a directory'})"
	check "… at the origin" o "xs('$E/$what')" "{'user.of': b'a directory'}"
	check "… removed" r "os.removexattr('$M/$what', 'user.of') or os.listxattr('$M/$what')" "[]"
done

# ---- flags and errors
check "XATTR_CREATE of what is there" r "os.setxattr(fd, 'user.d', b'x', os.XATTR_CREATE)" EEXIST
check "XATTR_REPLACE of what is not" r "os.setxattr(fd, 'user.none', b'x', os.XATTR_REPLACE)" ENODATA
check "… change nothing" o "xs('$E/f')" "{'user.c': b'', 'user.d': b'again'}"
check "XATTR_CREATE of what is not there" r "os.setxattr(fd, 'user.new', b'new', os.XATTR_CREATE)" ok
check "XATTR_REPLACE of what is" r "os.setxattr(fd, 'user.new', b'newer', os.XATTR_REPLACE) or os.getxattr(fd, 'user.new')" "b'newer'"
check "removal of what is not there" r "os.removexattr(fd, 'user.none')" ENODATA
check "of a file that is not there" r "os.getxattr('$M/nothing', 'user.a')" ENOENT
for name in user. u none.a .user userx.a "user.$(printf 'x%.0s' {1..251})" ''; do
	want=$(ask o "error_of(os.setxattr, '$E/f', '$name', b'x')")
	check "the name '${name:0:20}': as at the origin, $want" r "error_of(os.setxattr, '$M/f', '$name', b'x')" "$want"
	want=$(ask o "error_of(os.getxattr, '$E/f', '$name')")
	check "… read: $want" r "error_of(os.getxattr, '$M/f', '$name')" "$want"
done
check "the longest name, of any bytes" r "os.setxattr('$M/f', b'user.' + bytes(range(1, 251)), b'long') or os.getxattr('$M/f', b'user.' + bytes(range(1, 251)))" "b'long'"
check "… listed" r "(b'user.' + bytes(range(1, 251))) in [os.fsencode(name) for name in os.listxattr('$M/f')]"
must r "os.removexattr('$M/f', b'user.' + bytes(range(1, 251)))"
must r "buffer = ctypes.create_string_buffer(100)"
check "the length only" r "(libc('getxattr', b'$M/f', b'user.new', None, 0), libc('listxattr', b'$M/f', None, 0))" "(5, $(ask o "libc('listxattr', b'$E/f', None, 0)"))"
check "room for exactly that" r "(libc('getxattr', b'$M/f', b'user.new', buffer, 5), buffer.raw[:5])" "(5, b'newer')"
check "too little room: get" r "libc('getxattr', b'$M/f', b'user.new', buffer, 4)" ERANGE
check "too little room: list" r "libc('listxattr', b'$M/f', buffer, 4)" ERANGE
check "more than enough" r "(libc('getxattr', b'$M/f', b'user.new', ctypes.create_string_buffer(100000), 100000), libc('fgetxattr', fd, b'user.c', buffer, 100))" "(5, 0)"
for bytes in 3000 5000 65536 65537; do
	want=$(ask o "error_of(os.setxattr, '$E/f', 'user.large', data($bytes))")
	must o "error_of(os.removexattr, '$E/f', 'user.large')"
	check "$bytes bytes: as at the origin, $want" r "error_of(os.setxattr, '$M/f', 'user.large', data($bytes))" "$want"
done
must r "error_of(os.removexattr, '$M/f', 'user.large')"
must r "[os.setxattr('$M/dir', 'user.n%02d' % i, b'%d' % i) for i in range(60)]"
check "60 of them" r "xs('$M/dir') == {'user.n%02d' % i: b'%d' % i for i in range(60)}"
check "… at the origin" o "xs('$E/dir') == {'user.n%02d' % i: b'%d' % i for i in range(60)}"
must o "put('$E/full', b''); [os.setxattr('$E/full', 'user.fill%d' % i, bytes(500)) for i in range(7)]"
want=$(ask o "error_of(os.setxattr, '$E/full', 'user.more', bytes(1000))")
check "no room for more: as at the origin, $want" r "error_of(os.setxattr, '$M/full', 'user.more', bytes(1000))" "$want"

# ---- values of 64 KiB, where the file system has room for them
must o "run('truncate -s 64M $DIR/disk && mke2fs -q -F -t ext4 -b 4096 -O ea_inode $DIR/disk && mkdir $DIR/large && mount -o loop $DIR/disk $DIR/large && vremote export add --no-root-squash $DIR/large'); put('$DIR/large/f', b'')"
L=/vremote/node1$DIR/large
for bytes in 5000 60000 65535 65536; do
	check "$bytes bytes are set" r "os.setxattr('$L/f', 'user.large', data($bytes, $bytes))" ok
	check "… at the origin" o "os.getxattr('$DIR/large/f', 'user.large') == data($bytes, $bytes)"
	check "… and read back" r "(os.getxattr('$L/f', 'user.large') == data($bytes, $bytes), libc('getxattr', b'$L/f', b'user.large', None, 0))" "(True, $bytes)"
done
check "65537 bytes" r "os.setxattr('$L/f', 'user.large', data(65537))" E2BIG
check "65536 bytes by the longest path and name" r "
name = '$L/' + '/'.join(['d' * 250] * 14)
os.makedirs(name)
os.setxattr(name, 'user.' + 'n' * 250, data(65536, 3))" ok
check "… read back" r "os.getxattr(name, 'user.' + 'n' * 250) == data(65536, 3)"
must o "run('vremote export del $DIR/large')"
must r "drop_caches()"
check "the file system can be unmounted" o "wait(lambda: subprocess.run(['umount', '$DIR/large'], capture_output=True).returncode == 0, 10)"

# ---- only those of users
must o "os.setxattr('$E/f', 'trusted.t', b't'); run('setfacl -m u:1000:r $E/f')"
check "others are not listed" r "sorted(os.listxattr('$M/f'))" "['user.c', 'user.d', 'user.new']"
for name in trusted.t security.s security.capability system.posix_acl_access system.posix_acl_default trusted.new; do
	check "$name: get" r "os.getxattr('$M/f', '$name')" EOPNOTSUPP
	check_in "$name: set" r "os.setxattr('$M/f', '$name', b'')" "EOPNOTSUPP EINVAL"
	check_in "$name: remove" r "os.removexattr('$M/f', '$name')" "EOPNOTSUPP EINVAL"
done
check "… stay what they are at the origin" o "(os.getxattr('$E/f', 'trusted.t'), len(os.getxattr('$E/f', 'system.posix_acl_access')) > 0)" "(b't', True)"
must o "run('setfacl -b $E/f'); os.symlink('f', '$E/link'); os.mkfifo('$E/fifo')"
for name in link fifo; do
	for call in "os.setxattr(PATH, 'user.a', b'x', follow_symlinks=False)" "os.getxattr(PATH, 'user.a', follow_symlinks=False)" \
		"os.removexattr(PATH, 'user.a', follow_symlinks=False)"; do
		want=$(ask o "(lambda PATH: error_of(lambda: $call))('$E/$name')")
		check "$name, ${call%%(*}: as at the origin, $want" r "(lambda PATH: error_of(lambda: $call))('$M/$name')" "$want"
	done
	check "$name: listxattr" r "os.listxattr('$M/$name', follow_symlinks=False)" "[]"
done

# ---- permissions are the origin's: the same calls by a user here and there
must o "
put('$E/theirs', b''); os.chmod('$E/theirs', 0o600)
put('$E/readable', b''); os.chmod('$E/readable', 0o644)
put('$E/own', b''); os.chown('$E/own', 1000, 1000); os.chmod('$E/own', 0o600)
put('$E/group', b''); os.chown('$E/group', 0, 2000); os.chmod('$E/group', 0o660)
os.mkdir('$E/sticky'); os.chmod('$E/sticky', 0o1777)
os.mkdir('$E/closed'); put('$E/closed/in', b''); os.chmod('$E/closed', 0o700)
def reset(path):
    for name in os.listxattr(path):
        if name.startswith('user.'): os.removexattr(path, name)
    os.setxattr(path, 'user.a', b'secret')"
for name in theirs readable own group sticky closed closed/in; do
	for call in "os.getxattr(PATH, 'user.a')" "os.listxattr(PATH)" "os.setxattr(PATH, 'user.n', b'new')" "os.removexattr(PATH, 'user.a')"; do
		for who in "1000, 1000, []" "1001, 1001, [2000]"; do
			must o "reset('$E/$name')"
			want=$(ask o "(lambda PATH: as_user($who, lambda: $call))('$E/$name')")
			must o "reset('$E/$name')"
			check "$name, user ${who%%,*}, ${call%%(*}: as at the origin, $want" r "(lambda PATH: as_user($who, lambda: $call))('$M/$name')" "$want"
		done
	done
done
must o "os.mkdir('$DIR/squashed'); put('$DIR/squashed/f', b''); os.chmod('$DIR/squashed/f', 0o644); run('vremote export add $DIR/squashed')"
check "root is nobody where it is squashed" r "os.setxattr('/vremote/node1$DIR/squashed/f', 'user.a', b'x')" EACCES
must o "run('mkdir $DIR/ro && mount --bind $E $DIR/ro && mount -o remount,bind,ro $DIR/ro && vremote export add --no-root-squash $DIR/ro')"
check "a mount for reading" r "(os.getxattr('/vremote/node1$DIR/ro/f', 'user.d'), error_of(os.setxattr, '/vremote/node1$DIR/ro/f', 'user.d', b'x'), error_of(os.removexattr, '/vremote/node1$DIR/ro/f', 'user.d'))" "(b'again', 'EROFS', 'EROFS')"
must o "run('vremote export del $DIR/ro')"
must r "drop_caches()"
check "… can be unmounted" o "wait(lambda: subprocess.run(['umount', '$DIR/ro'], capture_output=True).returncode == 0, 10)"

# ---- outside of exports
must o "os.setxattr('$DIR/only', 'user.only', b'this'); held = share('$DIR/only')"
must r "only = remote('$DIR/only'); O = '/vremote/node1$DIR/only'"
check "a file that is shared by a descriptor shows its own" r "(xs(only), xs(O))" "({'user.only': b'this'}, {'user.only': b'this'})"
check "… which cannot be changed there, like its mode" r "(error_of(os.setxattr, only, 'user.x', b''), error_of(os.removexattr, O, 'user.only'))" "('EPERM', 'EPERM')"
check "… and are what they were" o "xs('$DIR/only')" "{'user.only': b'this'}"
check "the way to what is shared has none" r "(os.listxattr('/vremote/node1$DIR'), os.listxattr('/vremote/node1'), error_of(os.getxattr, '/vremote/node1/srv', 'user.a'))" "([], [], 'ENODATA')"
check "… and gets none" r "[error_of(os.setxattr, path, 'user.a', b'x') for path in ('/vremote/node1$DIR', '/vremote/node1')]" "['EPERM', 'EPERM']"
check "the directory of all nodes" r "(os.listxattr('/vremote'), error_of(os.getxattr, '/vremote', 'user.a'))" "([], 'EOPNOTSUPP')"
must r "os.close(only)"
must o "os.close(held)"

# ---- flags, from both sides
for a in o r; do must $a "
def of_file(path, call):
    fd = path if isinstance(path, int) else os.open(path, RO | os.O_NONBLOCK)
    try:
        return call(fd)
    finally:
        if fd != path:
            os.close(fd)
def flags(path):
    return of_file(path, lambda fd: struct.unpack('<Q', fcntl.ioctl(fd, 0x80086601, bytes(8)))[0])
def set_flags(path, value):
    of_file(path, lambda fd: fcntl.ioctl(fd, 0x40086602, struct.pack('<Q', value)))
def xflags(path):
    return of_file(path, lambda fd: struct.unpack('<5I', fcntl.ioctl(fd, 0x801c581f, bytes(28))[:20]))
def set_xflags(path, value, extent=0, project=0):
    of_file(path, lambda fd: fcntl.ioctl(fd, 0x401c5820, struct.pack('<5I8x', value, extent, 0, project, 0)))"; done
must o "put('$E/flagged', b'content'); os.mkdir('$E/flags')"
check "lsattr shows the same at both nodes" r "run('cd $M && lsattr -d f dir flagged flags')" "$(ask o "run('cd $E && lsattr -d f dir flagged flags')")"
check "chattr at the remote" r "run('chattr +Ad $M/flagged && chattr +d $M/flags')" ""
check "… is there at the origin" o "(flags('$E/flagged') & 0xf0, flags('$E/flags') & 0xf0)" "(192, 64)"
check "… and at the remote" r "run('cd $M && lsattr -d flagged flags')" "$(ask o "run('cd $E && lsattr -d flagged flags')")"
check "… by descriptor" r "flags(os.open('$M/flagged', RW)) & 0xf0" 192
before=$(ask o "os.stat('$E/flagged').st_ctime_ns")
check "chattr at the origin" o "run('chattr -A $E/flagged')" ""
check "… is seen at the remote at once" r "flags('$M/flagged') & 0xf0" 64
check "… and is a change of the inode" r "os.stat('$M/flagged').st_ctime_ns > $before"
check "the other form of it, FS_IOC_FSGETXATTR" r "xflags('$M/flagged')" "$(ask o "xflags('$E/flagged')")"
check "FS_IOC_FSSETXATTR" r "set_xflags('$M/flagged', 0x60)" ok
check "… at the origin" o "(xflags('$E/flagged')[0], flags('$E/flagged') & 0xf8)" "(96, 136)"
must r "set_flags('$M/flagged', 0)"
check "whether a file has extents is not changed" o "flags('$E/flagged')" "$(ask o "flags('$E/f')")"
for bit in 0x4000 0x2000000 0x40000000; do
	check "a flag that says how bytes or names are kept, $bit" r "[error_of(set_flags, path, flags(path) | $bit) for path in ('$M/flagged', '$M/flags')]" "['EOPNOTSUPP', 'EOPNOTSUPP']"
done
check "… in the other form" r "error_of(set_xflags, '$M/flagged', 0x8000)" EOPNOTSUPP
for what in "set_flags(PATH, flags(PATH) | 0x1000000)" "set_flags(PATH, flags(PATH) | 0x100)" "set_flags(PATH, flags(PATH) | 0x10000)" "set_xflags(PATH, 0x800, 4096)" "set_xflags(PATH, 0, 0, 7)" \
	"set_xflags(PATH, 1 << 30)" "set_xflags(PATH, 0x20000)"; do
	want=$(ask o "(lambda PATH: error_of(lambda: $what))('$E/flagged')")
	check "$what: as at the origin, $want" r "(lambda PATH: error_of(lambda: $what))('$M/flagged')" "$want"
done
check "… and nothing is changed by that" o "flags('$E/flagged')" "$(ask o "flags('$E/f')")"
check "a FIFO has none" r "error_of(flags, '$M/fifo')" "$(ask o "error_of(flags, '$E/fifo')")"

# ---- flags are the owner's, two of them root's
must o "put('$E/theirs', b''); os.chmod('$E/theirs', 0o666); put('$E/mine', b''); os.chown('$E/mine', 1000, 1000); os.chmod('$E/mine', 0o666)"
for name in mine theirs; do
	for call in "flags(PATH) & 0x70" "set_flags(PATH, flags(PATH) ^ 0x40)" "set_flags(PATH, flags(PATH) | 0x10)" "set_flags(PATH, flags(PATH) | 0x20)"; do
		for who in 1000 1001; do
			want=$(ask o "(lambda PATH: as_user($who, $who, [], lambda: $call))('$E/$name')")
			check "flags of $name, user $who, $call: as at the origin, $want" r "(lambda PATH: as_user($who, $who, [], lambda: $call))('$M/$name')" "$want"
		done
	done
done
must o "os.chmod('$DIR/squashed', 0o777)"
S=/vremote/node1$DIR/squashed
check "root is nobody where it is squashed: flags of others" r "error_of(set_flags, '$S/f', 0x40)" EPERM
check "… and of its own files, but for those that are root's" r "put('$S/own', b'') or (error_of(set_flags, '$S/own', 0x40), error_of(set_flags, '$S/own', 0x50), error_of(set_flags, '$S/own', 0x60), flags('$S/own') & 0xf0)" "('none', 'EPERM', 'EPERM', 64)"
must o "run('chattr +d $DIR/only'); held = share('$DIR/only')"
must r "only = remote('$DIR/only')"
check "a file that is shared by a descriptor shows its own" r "(flags(only) & 0xf0, error_of(set_flags, only, 0))" "(64, 'EPERM')"
check "the way to what is shared has no flags" r "[(flags(path), error_of(set_flags, path, 0x40)) for path in ('/vremote/node1$DIR', '/vremote/node1')]" "[(0, 'EPERM'), (0, 'EPERM')]"
check "… nor has the directory of all nodes" r "error_of(flags, '/vremote')" ENOTTY
must r "os.close(only)"
must o "os.close(held)"

# ---- what is only to be appended to, and what is not to be changed at all
must o "put('$E/log', b'log;'); put('$E/fixed', b'fixed'); put('$E/late', b'late')"
must r "log, fixed, late = (os.open('$M/' + name, RW) for name in ('log', 'fixed', 'late')); [os.pwrite(fd, b'X', 0) for fd in (log, fixed, late)]"
check "append-only, set at the remote" r "run('chattr +a $M/log')" ""
check "… who had it open overwrites nothing" r "[error_of(*call) for call in ((os.pwrite, log, b'y', 0), (os.pwrite, log, b'y', 100), (os.ftruncate, log, 0), (fallocate, log, PUNCH_HOLE | KEEP_SIZE, 0, 4096))]" "['EPERM', 'EPERM', 'EPERM', 'EPERM']"
check "… nor does who opens it" r "[error_of(os.open, '$M/log', how) for how in (RW, WO, RW | TRUNC, WO | APPEND | TRUNC)]" "['EPERM', 'EPERM', 'EPERM', 'EPERM']"
check "… it is appended to" r "more = os.open('$M/log', RW | APPEND)
os.write(more, b'more')" ok
check "… and by no trick written to otherwise" r "fcntl.fcntl(more, fcntl.F_SETFL, 0) or error_of(os.pwrite, more, b'y', 0)" EPERM
check "… through a mapping either" r "view = mmap.mmap(more, 4)
assert ends(view.__setitem__, 0, 1) == 'SIGBUS'" ok
must r "view.close(); os.close(more)"
for name in log fixed; do
	[ $name = log ] || check "immutable, set at the remote" r "run('chattr +i $M/fixed')" ""
	check "… $name keeps its name, mode and attributes" r "[error_of(*call) for call in ((os.unlink, '$M/$name'), (os.rename, '$M/$name', '$M/x'), (os.link, '$M/$name', '$M/x'), (os.chmod, '$M/$name', 0o600), (os.setxattr, '$M/$name', 'user.a', b'x'))]" "['EPERM', 'EPERM', 'EPERM', 'EPERM', 'EPERM']"
done
check "… who had it open changes nothing" r "[error_of(*call) for call in ((os.pwrite, fixed, b'y', 0), (os.pwrite, fixed, b'y', 100), (os.ftruncate, fixed, 0), (fallocate, fixed, 0, 0, 9000))]" "['EPERM', 'EPERM', 'EPERM', 'EPERM']"
check "… nor does who opens it" r "[error_of(os.open, '$M/fixed', how) for how in (RW, WO | APPEND, RO | TRUNC)]" "['EPERM', 'EPERM', 'EPERM']"
check "… it is read" r "get('$M/fixed')" "b'Xixed'"
check "both have what was written before, and nothing else" o "(get('$E/log'), get('$E/fixed'))" "(b'Xog;more', b'Xixed')"
must o "run('chattr +i $E/late')"
check "immutable, set at the origin: soon for who had it open elsewhere" r "wait(lambda: error_of(os.pwrite, late, b'X', 0) == 'EPERM', 10)"
check "… with what was written until then" o "get('$E/late')" "b'Xate'"
must o "run('chattr -i $E/late')"
check "… until that is taken back" r "os.pwrite(late, b'l', 0)" 1
check "… which is seen" o "get('$E/late')" "b'late'"
must o "[(os.mkdir('$E/' + name), put('$E/' + name + '/old', b'')) for name in ('growing', 'still')]; run('chattr +a $E/growing && chattr +i $E/still')"
check "to an append-only directory names are added" r "put('$M/growing/new', b'new') or get('$M/growing/new')" "b'new'"
check "… and none is taken from it" r "(error_of(os.unlink, '$M/growing/old'), error_of(os.rename, '$M/growing/old', '$M/old'))" "('EPERM', 'EPERM')"
check "in an immutable one neither" r "(error_of(put, '$M/still/new', b''), error_of(os.mkdir, '$M/still/new'), error_of(os.unlink, '$M/still/old'))" "('EPERM', 'EPERM', 'EPERM')"
must o "run('cd $E && chattr -ia log fixed && chattr -R -ia growing still')"
must r "[os.close(fd) for fd in (log, fixed, late)]"

# ---- another file has the name by now
must o "put('$E/moved', b''); os.setxattr('$E/moved', 'user.a', b'mine')"
must r "moved_fd = os.open('$M/moved', RW)"
must o "os.rename('$E/moved', '$E/away'); put('$E/moved', b''); os.setxattr('$E/moved', 'user.a', b'of another')"
check "a descriptor's file has lost its name to another: that one is left alone" r "(os.getxattr(moved_fd, 'user.a'), os.setxattr(moved_fd, 'user.a', b'still'), os.listxattr(moved_fd))" "(b'mine', None, ['user.a'])"
check "… at the origin" o "(os.getxattr('$E/moved', 'user.a'), os.getxattr('$E/away', 'user.a'))" "(b'of another', b'still')"
must r "dir_fd = os.open('$M/dir', RO)"
must o "os.rename('$E/dir', '$E/dir-away'); os.mkdir('$E/dir')"
check "a directory is meant by its path, which may be another's" r "(error_of(os.listxattr, dir_fd), error_of(os.setxattr, dir_fd, 'user.a', b'x'))" "('ESTALE', 'ESTALE')"
must r "os.close(dir_fd)"
must o "os.rmdir('$E/dir'); os.rename('$E/dir-away', '$E/dir')"
check "… and the path is the other's" r "os.getxattr('$M/moved', 'user.a')" "b'of another'"
must r "os.close(moved_fd); put('$M/here', b''); here = os.open('$M/here', RW); os.setxattr(here, 'user.a', b'1')"
check "renamed here, a descriptor goes along" r "os.rename('$M/here', '$M/there') or os.setxattr(here, 'user.a', b'2') or os.getxattr('$M/there', 'user.a')" "b'2'"
must r "os.close(here)"

# ---- exactly once
fault 2 loss 10%
check "under loss nothing runs twice: 30 made (that are not there), 30 removed" r "[os.setxattr('$M/theirs', 'user.l%d' % i, b'x', os.XATTR_CREATE) for i in range(30)] and [os.removexattr('$M/theirs', 'user.l%d' % i) for i in range(30)][-1]" ok
fault 2 heal

# ---- programs
must r "run('mkdir $DIR/tree && echo one >$DIR/tree/a && setfattr -n user.one -v 1 $DIR/tree/a && setfattr -n user.dir -v 2 $DIR/tree')"
check "setfattr and getfattr" r "run('setfattr -n user.tool -v by-tool $M/own && getfattr --only-values -n user.tool $M/own')" by-tool
check "getfattr -d shows the same at both nodes" r "run('cd $M && getfattr -d f dir 2>/dev/null | sort')" "$(ask o "run('cd $E && getfattr -d f dir 2>/dev/null | sort')")"
check "cp -a takes them there" r "run('cp -a $DIR/tree $M/tree && cd $M && getfattr -d -R tree') == run('cd $DIR && getfattr -d -R tree')"
check "… at the origin" o "run('cd $E && getfattr -d -R tree')" "$(ask r "run('cd $DIR && getfattr -d -R tree')")"
check "… and back" r "run('cp -a $M/tree $DIR/back && cd $DIR/back && getfattr -d -R .') == run('cd $DIR/tree && getfattr -d -R .')"
check "ls -l, which looks for access control lists, has nothing to complain about" r "run('ls -l $M 2>&1 | grep -c cannot || true')" 0
finish
