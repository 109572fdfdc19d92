#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Directories of another node: listing, creating, removing, renaming, links, attributes; with the origin's permissions and errors.
# time-limit: 300

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/names
agent o 1
agent r 2
E=$DIR/e M=/vremote/node1$DIR/e
must o "os.mkdir('$E'); put('$E/file', b'content'); os.mkdir('$E/dir'); put('$E/dir/inner', b'inner'); run('vremote export add $E --no-root-squash')"

# ---- listing
check "a directory is listed" r "sorted(os.listdir('$M'))" "['dir', 'file']"
check "… with types and numbers" r "sorted((e.name, e.is_dir(), e.inode() == os.stat(e.path).st_ino) for e in os.scandir('$M'))" "[('dir', True, True), ('file', False, True)]"
check "… which are the origin's" r "sorted(e.inode() for e in os.scandir('$M')) == $(ask o "sorted(os.stat('$E/' + n).st_ino for n in os.listdir('$E'))")"
check "all of it is on one device, which is not that of the way there" r "(lambda d: ({os.stat('$M/' + n).st_dev for n in ('.', 'file', 'dir', 'dir/inner')} == {d}, os.stat('/vremote').st_dev != d))(os.stat('$M').st_dev)" "(True, True)"
check "… so that find -xdev and du -x see it" r "run('find $M -xdev -type f | wc -l; du -x --inodes -s $M').split()[:2]" "['2', '4']"
check "… and . and .." r "run('ls -a $M').split()" "['.', '..', 'dir', 'file']"
check "the way to an export is shown" r "(os.listdir('/vremote/node1'), os.listdir('/vremote/node1/srv'), os.listdir('/vremote/node1$DIR'))" "(['srv'], ['names'], ['e'])"
must o "os.mkdir('$E/many'); [put('$E/many/%04d-%s' % (i, 'x' * (i % 200)), b'') for i in range(3000)]"
check "3,000 names, each once" r "sorted(os.listdir('$M/many')) == sorted('%04d-%s' % (i, 'x' * (i % 200)) for i in range(3000))"
check "… by find" r "run('find $M/many -type f | wc -l')" 3000
check "a file cannot be listed" r "os.listdir('$M/file')" ENOTDIR
check "nor what is not there" r "os.listdir('$M/nothing')" ENOENT


# ---- what is shared by a descriptor alone is that file, and no directory
must o "os.mkdir('$DIR/only'); put('$DIR/only/shared', b'one file'); put('$DIR/only/other', b''); held = share('$DIR/only/shared')"
check "the way to a shared file is listed, and nothing beside it" r "(sorted(os.listdir('/vremote/node1$DIR')), os.listdir('/vremote/node1$DIR/only'))" "(['e', 'only'], ['shared'])"
for call in "os.unlink('/vremote/node1$DIR/only/shared')" "os.rename('/vremote/node1$DIR/only/shared', '/vremote/node1$DIR/only/new')" \
	"os.mkdir('/vremote/node1$DIR/only/sub')" "os.symlink('x', '/vremote/node1$DIR/only/sym')" \
	"os.link('/vremote/node1$DIR/only/shared', '/vremote/node1$DIR/only/new')" "os.chmod('/vremote/node1$DIR/only/shared', 0o600)" \
	"os.rename('/vremote/node1$DIR/only/shared', '$M/new')" "os.rename('$M/file', '/vremote/node1$DIR/only/new')"; do
	check "there nothing can be changed: ${call%%(*}" r "$call" EPERM
done
must o "os.close(held)"

# ---- directories
check "mkdir" r "os.mkdir('$M/new', 0o750)" ok
check "… is there at the origin, with its mode" o "(lambda s: (stat.S_ISDIR(s.st_mode), s.st_mode & 0o7777))(os.stat('$E/new'))" "(True, 488)"
check "… whatever the umask of anybody at the origin" r "os.umask(0) is not None and os.mkdir('$M/open', 0o1777) or os.umask(0o22)" 0
check "… sticky bit included" o "os.stat('$E/open').st_mode & 0o7777" 1023
check "again" r "os.mkdir('$M/new')" EEXIST
check "in a directory that is not there" r "os.mkdir('$M/nothing/new')" ENOENT
check "below a file" r "os.mkdir('$M/file/new')" ENOTDIR
check "deep, and a file in it" r "os.makedirs('$M/a/b/c/d') or put('$M/a/b/c/d/f', b'deep')" ok
check "… read at the origin" o "get('$E/a/b/c/d/f')" "b'deep'"
check "rmdir of what is not empty" r "os.rmdir('$M/a/b')" ENOTEMPTY
check "rmdir" r "os.rmdir('$M/new') or exists('$M/new')" False
check "… is gone at the origin" o "exists('$E/new')" False
check "rmdir of a file" r "os.rmdir('$M/file')" ENOTDIR
check "a tree is removed" r "run('rm -r $M/a') or exists('$M/a')" False
check "the export itself stays" r "os.rmdir('$M')" EBUSY
must r "os.mkdir('$M/replaced')"
must o "os.rename('$E/replaced', '$E/old'); os.mkdir('$E/replaced')"
check "one that is replaced at the origin is the new one" r "(os.stat('$M/replaced').st_ino != os.stat('$M/old').st_ino, os.listdir('$M/replaced'))" "(True, [])"
must o "os.rmdir('$E/replaced'); os.rmdir('$E/old')"
check "a directory made at the origin is seen at once" o "os.mkdir('$E/theirs')" ok
check "… from afar" r "os.path.isdir('$M/theirs') and 'theirs' in os.listdir('$M')"
check "… and gone at once" o "os.rmdir('$E/theirs')" ok
check "… from afar" r "exists('$M/theirs')" False

must r "fd = os.open('$M', os.O_RDONLY)"
check "fsync of a directory" r "calm(lambda c: os.fsync(fd) or os.fdatasync(fd) or c.messages()['Commit'])" 2
must r "os.close(fd)"
check "… of one on the way" r "(lambda fd: os.fsync(fd) or os.close(fd))(os.open('/vremote/node1', os.O_RDONLY))" ok
check "… of the mount point" r "(lambda fd: os.fsync(fd) or os.close(fd))(os.open('/vremote', os.O_RDONLY))" ok
must r "os.mkdir('$M/moved'); fd = os.open('$M/moved', os.O_RDONLY)"
must o "os.rename('$E/moved', '$E/away'); os.mkdir('$E/moved')"
check "… not of another one that has its name now" r "os.fsync(fd)" ESTALE
must r "os.close(fd)"
must o "os.rmdir('$E/moved'); os.rmdir('$E/away')"

# ---- files
check "unlink" r "put('$M/gone', b'x') or os.unlink('$M/gone') or exists('$M/gone')" False
check "… at the origin" o "exists('$E/gone')" False
check "unlink of what is not there" r "os.unlink('$M/gone')" ENOENT
check_in "unlink of a directory" r "os.unlink('$M/dir')" "EISDIR EPERM"
check "an open file that is unlinked here" r "put('$M/open-file', b'still here') or globals().update(fd=os.open('$M/open-file', RW)) or os.unlink('$M/open-file') or os.pread(fd, 20, 0)" "b'still here'"
check "… takes writes" r "os.pwrite(fd, b'STILL', 0) == 5 and os.fsync(fd) is None and os.pread(fd, 20, 0)" "b'STILL here'"
must r "os.close(fd)"
must o "put('$E/open-file', b'second'); "
check "one that is unlinked at the origin" r "globals().update(fd=os.open('$M/open-file', RW)) or os.pread(fd, 9, 0)" "b'second'"
must o "os.unlink('$E/open-file'); put('$E/open-file', b'third')"
check "… stays what it was" r "os.pwrite(fd, b'SEC', 0) == 3 and os.pread(fd, 9, 0)" "b'SECond'"
check "… and the name is the new file's" r "get('$M/open-file')" "b'third'"
must r "os.close(fd)"

# ---- rename
check "rename" r "put('$M/r1', b'one') or os.rename('$M/r1', '$M/r2') or (exists('$M/r1'), get('$M/r2'))" "(False, b'one')"
check "… at the origin" o "(exists('$E/r1'), get('$E/r2'))" "(False, b'one')"
check "over another file" r "put('$M/r3', b'three') or os.rename('$M/r3', '$M/r2') or get('$M/r2')" "b'three'"
check "into another directory" r "os.rename('$M/r2', '$M/dir/r2') or sorted(os.listdir('$M/dir'))" "['inner', 'r2']"
check "of a directory, with what is in it" r "os.rename('$M/dir', '$M/moved') or get('$M/moved/inner')" "b'inner'"
check "… written through the new name" r "put('$M/moved/inner', b'INNER')" ok
check "… at the origin" o "get('$E/moved/inner')" "b'INNER'"
check "… into itself" r "os.rename('$M/moved', '$M/moved/sub')" EINVAL
check "… over one that is not empty" r "os.mkdir('$M/full') or put('$M/full/x', b'') or error_of(os.rename, '$M/moved', '$M/full')" ENOTEMPTY
check "a directory over a file" r "os.rename('$M/full', '$M/file')" ENOTDIR
check "a file over a directory" r "os.rename('$M/file', '$M/full')" EISDIR
check "of what is not there" r "os.rename('$M/nothing', '$M/else')" ENOENT
check "to this node" r "os.rename('$M/file', '$DIR/file')" EXDEV
check "mv does that by copying" r "run('mv $M/moved/r2 $DIR/r2; cat $DIR/r2')" three
check "an open file keeps its bytes when it is renamed" r "globals().update(fd=os.open('$M/file', RW)) or os.rename('$M/file', '$M/file2') or os.pwrite(fd, b'CON', 0) and get('$M/file2')" "b'CONtent'"
must r "os.rename('$M/file2', '$M/file'); os.close(fd)"
check "exchange of two names" r "put('$M/x1', b'1') or put('$M/x2', b'2') or run('mv --exchange -T $M/x1 $M/x2 2>/dev/null || python3 -c \"import ctypes; exit(ctypes.CDLL(None).renameat2(-100, b\\\\\"$M/x1\\\\\", -100, b\\\\\"$M/x2\\\\\", 2))\"') or (get('$M/x1'), get('$M/x2'))" "(b'2', b'1')"

# ---- links
check "a hard link" r "os.link('$M/file', '$M/hard') or (os.stat('$M/hard').st_ino == os.stat('$M/file').st_ino, os.stat('$M/file').st_nlink)" "(True, 2)"
check "… is the same file" r "put('$M/hard', b'linked') or get('$M/file')" "b'linked'"
check "… at the origin" o "(get('$E/file'), os.stat('$E/file').st_nlink)" "(b'linked', 2)"
check "over a name that is there" r "os.link('$M/file', '$M/moved')" EEXIST
check "of a directory" r "os.link('$M/moved', '$M/dirlink')" EPERM
check "to this node" r "os.link('$M/file', '$DIR/link')" EXDEV
check "a symlink" r "os.symlink('some/where', '$M/sym') or (os.path.islink('$M/sym'), os.readlink('$M/sym'))" "(True, 'some/where')"
check "… at the origin" o "os.readlink('$E/sym')" some/where
check "a symlink never leads into this node's own tree" r "os.symlink('/etc/passwd', '$M/bad') or error_of(get, '$M/bad')" ELOOP
check "… nor does one in the middle of a path" r "os.symlink('/etc', '$M/baddir') or error_of(get, '$M/baddir/passwd')" ELOOP
check "… one that stays below does" r "os.symlink('moved', '$M/good') or get('$M/good/inner')" "b'INNER'"
check "readlink of a file" r "os.readlink('$M/file')" EINVAL
check "… a link to a file is followed" r "os.symlink('moved/inner', '$M/tofile') or get('$M/tofile')" "b'INNER'"
check "… written through" r "open('$M/tofile', 'r+b').write(b'IN') and get('$M/moved/inner')" "b'INNER'"
check "… also to a directory" r "(os.listdir('$M/good/'), os.stat('$M/good').st_ino == os.stat('$M/moved').st_ino)" "(['inner'], True)"
check "… upwards, from a directory" r "os.symlink('../tofile', '$M/moved/up') or get('$M/moved/up')" "b'INNER'"
check "… also when the directory was reached by a link" r "get('$M/good/up')" "b'INNER'"
check "… into nowhere" r "os.symlink('nowhere', '$M/dangling') or error_of(get, '$M/dangling')" ENOENT
check "… where a file is made then" r "put('$M/dangling', b'made') or get('$M/nowhere')" "b'made'"
must r "os.unlink('$M/nowhere')"
check "… in a circle" r "os.symlink('circle', '$M/circle') or error_of(get, '$M/circle')" ELOOP
check "… out of the export" r "os.symlink('../../../../../etc/passwd', '$M/out') or error_of(get, '$M/out')" ELOOP
check "… not followed if not wanted" r "error_of(os.open, '$M/tofile', RO | os.O_NOFOLLOW)" ELOOP
must r "[os.unlink('$M/' + name) for name in ('tofile', 'moved/up', 'dangling', 'circle', 'out')]"
must o "os.mkdir('$E/proc'); run('mount -t proc proc $E/proc')"
check "a link of procfs, which leads where no path does" r "os.readlink('$M/proc/1/cwd')" EINVAL
check "… nor can it be gone through" r "os.listdir('$M/proc/1/cwd/')" ELOOP
must o "run('umount $E/proc'); os.rmdir('$E/proc')"
must o "
os.makedirs('$E/in/d'); os.mkdir('$DIR/beyond'); put('$E/in/f', b'inside'); put('$DIR/beyond/f', b'outside'); os.symlink('..', '$E/in/d/way')
stop = threading.Event()
def storm():
    while not stop.is_set():
        os.rename('$E/in/d', '$DIR/beyond/d'); os.rename('$DIR/beyond/d', '$E/in/d')
storms = threading.Thread(target=storm); storms.start()"
must r "
def found(path):
    try:
        return get(path).decode()
    except OSError as error:
        return errno.errorcode[error.errno]"
check "… nor out of the export while a directory is moved out and in" r "{found('$M/in/d/way/f') for _ in range(400)} - {'ENOENT', 'ELOOP', 'EAGAIN', 'ESTALE'}" "{'inside'}"
must o "stop.set(); storms.join(); run('rm -r $E/in $DIR/beyond')"
check "a symlink is removed itself" r "os.unlink('$M/sym') or exists('$M/sym')" False
check "a long target" r "os.symlink('l' * 4000, '$M/long') or os.readlink('$M/long') == 'l' * 4000"

# ---- FIFOs, sockets, files that are only made
check "a FIFO" r "os.umask(0) is not None and os.mkfifo('$M/fifo', 0o622) or os.umask(0o22)" 0
check "… is one at the origin, with its mode" o "(lambda s: (stat.S_ISFIFO(s.st_mode), s.st_mode & 0o7777))(os.stat('$E/fifo'))" "(True, 402)"
check "… again" r "os.mkfifo('$M/fifo')" EEXIST
check "… carries bytes between two programs of this node" r "run('timeout 10 cat $M/fifo & echo through >$M/fifo; wait \$!')" through
check "… and not to another node, where nobody has opened it" o "os.open('$E/fifo', WO | os.O_NONBLOCK)" ENXIO
check "… with O_REMOTE, which would promise that, it is refused without waiting" r "bounded(lambda: remote('/vremote/node1$DIR/e/fifo', WO), 'ENXIO', 3)"
check "… whoever may not write it may not" r "as_user(1000, 1000, [], lambda: os.chmod and os.open('$M/fifo', RW | os.O_NONBLOCK))" EACCES
check "… whoever may only write it may do that" r "globals().update(reader=os.open('$M/fifo', RO | os.O_NONBLOCK)) or as_user(1000, 1000, [], lambda: os.write(os.open('$M/fifo', WO), b'from a user')), os.read(reader, 20)" "('11', b'from a user')"
must r "os.close(reader)"
check "… renamed, linked and removed" r "os.rename('$M/fifo', '$M/fifo2') or os.link('$M/fifo2', '$M/fifo3') or os.stat('$M/fifo3').st_nlink, os.unlink('$M/fifo2'), os.unlink('$M/fifo3')" "(2, None, None)"
check "a socket" r "globals().update(server=socket.socket(socket.AF_UNIX)) or os.chdir('$M') or server.bind('sock')" ok
check "… is one at the origin" o "stat.S_ISSOCK(os.stat('$E/sock').st_mode)"
check "… takes connections from this node" r "server.listen() or globals().update(client=socket.socket(socket.AF_UNIX)) or client.connect('sock') or client.send(b'hello') and server.accept()[0].recv(9)" "b'hello'"
check "… not from another" o "socket.socket(socket.AF_UNIX).connect('$E/sock')" ECONNREFUSED
check "… cannot be opened" r "os.open('$M/sock', RO)" ENXIO
must r "server.close(); client.close(); os.chdir('/'); os.unlink('$M/sock')"
for what in S_IFCHR S_IFBLK; do
	check "a device ($what)" r "os.mknod('$M/device', 0o600 | stat.$what, os.makedev(1, 3))" EPERM
done
check "… is not there" o "exists('$E/device')" False
must o "os.mknod('$E/device', 0o666 | stat.S_IFCHR, os.makedev(1, 3))"
check "… one of the origin cannot be opened" r "os.open('$M/device', RW)" ENXIO
must o "os.unlink('$E/device')"
check "a file by mknod" r "os.mknod('$M/made', 0o640 | stat.S_IFREG) or (size(os.open('$M/made', RO)), os.stat('$M/made').st_mode)" "(0, 33184)"
check "… again" r "os.mknod('$M/made', 0o640 | stat.S_IFREG)" EEXIST
check "… at the origin" o "os.stat('$E/made').st_mode & 0o777" 416

# ---- attributes
check "chmod" r "os.chmod('$M/file', 0o4751) or os.stat('$M/file').st_mode & 0o7777" 2537
check "… at the origin" o "os.stat('$E/file').st_mode & 0o7777" 2537
check "chown" r "os.chown('$M/file', 1000, 2000) or (lambda s: (s.st_uid, s.st_gid, s.st_mode & 0o7777))(os.stat('$M/file'))" "(1000, 2000, 489)"
check "… takes the set-uid bit, at the origin" o "(lambda s: (s.st_uid, s.st_gid, s.st_mode & 0o7777))(os.stat('$E/file'))" "(1000, 2000, 489)"
check "times" r "os.utime('$M/file', ns=(1234567890123456789, 987654321000000001)) or (lambda s: (s.st_atime_ns, s.st_mtime_ns))(os.stat('$M/file'))" "(1234567890123456789, 987654321000000001)"
check "… at the origin" o "os.stat('$E/file').st_mtime_ns" 987654321000000001
check "touch" r "run('touch $M/file') or abs(os.stat('$M/file').st_mtime - time.time()) < 30"
check "a write inside the file sets its time" r "os.utime('$M/file', (1000, 1000)) or globals().update(fd=os.open('$M/file', RW)) or os.pwrite(fd, b'L', 0) and os.fstat(fd).st_mtime > 1000"
check "… which others see when it is closed" r "os.utime('$M/file', (1000, 1000)) or os.pwrite(fd, b'l', 0) and os.close(fd)" ok
check "… at the origin" o "os.stat('$E/file').st_mtime > 1000"
check "a time that is set afterwards stays" r "globals().update(fd=os.open('$M/file', RW)) or os.pwrite(fd, b'L', 0) and os.utime('$M/file', (1000, 2000)) or os.close(fd) or os.stat('$M/file').st_mtime" 2000.0
check "… at the origin, when the page is there" o "(get('$E/file')[:1], os.stat('$E/file').st_mtime)" "(b'L', 2000.0)"
check "by descriptor" r "globals().update(fd=os.open('$M/file', RW)) or os.fchmod(fd, 0o640) or os.fstat(fd).st_mode & 0o777" 416
must o "os.rename('$E/file', '$E/elsewhere'); put('$E/file', b'another'); os.chmod('$E/file', 0o600)"
check "a descriptor's file has lost its name to another: that one is left alone" r "os.fchmod(fd, 0o604) or os.fstat(fd).st_mode & 0o777" 388
check "… at the origin" o "[os.stat('$E/' + name).st_mode & 0o777 for name in ('file', 'elsewhere')]" "[384, 388]"
must o "os.rename('$E/elsewhere', '$E/file')"
must r "os.close(fd)"
check "of what has no name any more" r "put('$M/nameless', b'') or globals().update(fd=os.open('$M/nameless', RW)) or os.unlink('$M/nameless') or os.fchmod(fd, 0o640) or os.fchown(fd, 5, 6) or os.utime(fd, (7, 8)) or (lambda s: (s.st_mode & 0o777, s.st_uid, s.st_gid, s.st_mtime, s.st_nlink))(os.fstat(fd))" "(416, 5, 6, 8.0, 0)"
must r "os.close(fd)"
check "of the export itself" r "os.chmod('$M', 0o751) or os.utime('$M', (5, 6)) or (lambda s: (s.st_mode & 0o777, s.st_mtime))(os.stat('$M'))" "(489, 6.0)"
check "of a directory" r "os.chmod('$M/moved', 0o700) or os.stat('$M/moved').st_mode & 0o777" 448

# ---- notices: a node has those of what is done there; names are made at the origin
must o "os.mkdir('$E/watched'); put('$E/watched/file', b'content')"
for a in o r; do
	[ $a = o ] && P=$E/watched || P=$M/watched
	must $a "
def watch(path):
    global inotify, fanotify, dnotify
    inotify = libc('inotify_init1', os.O_NONBLOCK)
    libc('inotify_add_watch', inotify, path.encode(), 0xfc6)  # names, attributes, bytes
    fanotify = libc('fanotify_init', 2, 0)
    libc('fanotify_mark', fanotify, 1, 0x08000002, -100, path.encode())  # bytes of what is in it
    dnotify = []
    signal.signal(signal.SIGIO, lambda *_: dnotify.append(1))
    fcntl.fcntl(os.open(path, RO), fcntl.F_NOTIFY, 0x80000026)
def seen():
    # Which of the three have told something since the last time.
    time.sleep(0.3)
    told = []
    for fd, name in (inotify, 'inotify'), (fanotify, 'fanotify'):
        try:
            os.read(fd, 65536) and told.append(name)
        except BlockingIOError:
            pass
    if dnotify:
        told.append('dnotify')
        dnotify.clear()
    return ' '.join(told) or 'none'
watch('$P')"
done
check "a new name at the remote is told there" r "put('$M/watched/own', b'') or seen()" "inotify dnotify"
check "… and at the origin, which makes it" o "seen()" "inotify dnotify"
check "a write at the remote is told there" r "globals().update(fd=os.open('$M/watched/file', RW)) or os.pwrite(fd, b'C', 0) and seen()" "inotify fanotify dnotify"
check "… not at the origin" o "seen()" none
check "a new name at the origin is told there" o "put('$E/watched/new', b'') or seen()" "inotify dnotify"
check "… not at the remote" r "seen()" none
check "nor is a write at the origin" o "put('$E/watched/file', b'again') or seen()" "inotify fanotify dnotify"
check "… at the remote" r "(seen(), os.pread(fd, 9, 0))" "('none', b'again')"
must r "os.close(fd)"
for a in o r; do must $a "signal.signal(signal.SIGIO, signal.SIG_IGN); os.close(inotify); os.close(fanotify)"; done

# ---- permissions are the origin's
must o "os.chmod('$E', 0o755); os.mkdir('$E/own'); os.chown('$E/own', 1000, 1000); os.mkdir('$E/sticky'); os.chmod('$E/sticky', 0o1777); put('$E/sticky/theirs', b''); os.chown('$E/sticky/theirs', 1001, 1001)"
must r "
def user(call, *args):
    return as_user(1000, 1000, [], lambda: call(*args) or 'ok')"
check "a user makes a directory in its own" r "user(os.mkdir, '$M/own/d')" ok
check "… and owns it" o "(os.stat('$E/own/d').st_uid, os.stat('$E/own/d').st_gid)" "(1000, 1000)"
check "… not in that of another" r "user(os.mkdir, '$M/d')" EACCES
check "… removes no name there" r "user(os.unlink, '$M/x1')" EACCES
check "… changes no mode of another's" r "user(os.chmod, '$M/x1', 0o777)" EPERM
check "… nor an owner" r "user(os.chown, '$M/own/d', 1001, -1)" EPERM
check "… nor removes another's from a sticky directory" r "user(os.unlink, '$M/sticky/theirs')" EPERM
check "… nor sets another's times" r "user(os.utime, '$M/x1', (1, 1))" EPERM
check "… nor to now, without the right to write" r "user(os.utime, '$M/x1')" EACCES
must o "os.chmod('$E/moved', 0o700)"
check "… nor lists what it may not read" r "user(os.listdir, '$M/moved')" EACCES

# ---- names
names="NAMES = [b'with space', b'a,b', b'%s%n', b'new\nline', b'\xff\xfe', b'x' * 255, b'...', b'-rf']"
must r "$names; B = b'$M/own/'"
check "names of any bytes" r "[os.mkdir(B + n) for n in NAMES] and sorted(os.listdir(B)) == sorted(NAMES + [b'd'])"
check "… renamed" r "[os.rename(B + n, B + b'r' + n[:200]) for n in NAMES] and sorted(os.listdir(B)) == sorted([b'r' + n[:200] for n in NAMES] + [b'd'])"
check "a name that is too long" r "os.mkdir('$M/' + 'x' * 256)" ENAMETOOLONG
fault 2 loss 20%
check "under loss nothing runs twice: 60 directories made, renamed and removed" r "[os.mkdir('$M/own/l%d' % i) for i in range(60)] and [os.rename('$M/own/l%d' % i, '$M/own/m%d' % i) for i in range(60)] and [os.rmdir('$M/own/m%d' % i) for i in range(60)][-1]" ok
fault 2 heal

# ---- programs
must r "run('mkdir $DIR/tree && cp -a /usr/lib/python3*/email /etc/alternatives $DIR/tree && ln $DIR/tree/email/errors.py $DIR/tree/hard')"
SPACE="(lambda v: (v.f_frsize, v.f_blocks, v.f_files, v.f_bfree > 0, v.f_namemax))"
check "statfs shows the room that the origin has" r "$SPACE(os.statvfs('$M'))" "$(ask o "$SPACE(os.statvfs('$E'))")"
check "… of a descriptor as well" r "(lambda fd: ($SPACE(os.fstatvfs(fd)), os.close(fd))[0])(os.open('$M', RO))" "$(ask o "$SPACE(os.statvfs('$E'))")"
check "… and none of what is nobody's" r "(os.statvfs('/vremote').f_blocks, os.statvfs('/vremote/node1').f_blocks)" "(0, 0)"
check "a tree is copied in" r "run('cp -a $DIR/tree $M/tree && diff -r --no-dereference $DIR/tree $M/tree && find $M/tree -type f | wc -l') == run('find $DIR/tree -type f | wc -l')"
check "… with all attributes" r "run('cd $DIR/tree && find . -printf \"%p %y %m %U %G %T@ %l %n\\n\" | sort') == run('cd $M/tree && find . -printf \"%p %y %m %U %G %T@ %l %n\\n\" | sort')"
check "… moved, and removed" r "run('mv $M/tree $M/tree2 && diff -r --no-dereference $DIR/tree $M/tree2 && rm -r $M/tree2') or exists('$M/tree2')" False
check "tar in, and out" r "run('tar -C $DIR -cf - tree | tar -C $M -xf - && tar -C $M -cf $DIR/back.tar tree && mkdir $DIR/back && tar -C $DIR/back -xf $DIR/back.tar && diff -r --no-dereference $DIR/tree $DIR/back/tree')" ""
finish
