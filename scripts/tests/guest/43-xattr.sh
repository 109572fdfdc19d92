#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Extended attributes of another node's files and directories: those of users, with the origin's permissions, limits and errors.
# time-limit: 240

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
