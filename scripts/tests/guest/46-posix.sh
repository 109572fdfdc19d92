#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The same results through the mount as on the origin's ext4: posix.py makes some thousands of calls in one directory there and in another one
# from the other node, and what both print is compared. What differs, and why, is in the table below; nothing else may, and all of it must.
# time-limit: 480

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

begin /srv/posix
E=$DIR/e

# What is different, as `SCENARIO.STEP: on ext4 -> through the mount`, below the reason.
differences() {
	cat <<-'END'
		# Who writes from afar is not known to the origin's write path: set-id bits go as with a writer who has no right to keep them.
		set_id_bits_by_writing.write, 6666, owner: 2666 -> 0666
		set_id_bits_by_writing.write, 2767, owner: 2767 -> 0767
		set_id_bits_by_writing.write, root: 6777 -> 0777
		set_id_bits_by_writing.truncate, root: 6777 -> 0777
		# Files without a name from the start (O_TMPFILE).
		tmpfile.in a directory: ok -> EOPNOTSUPP
		# Devices are their own node's, and so are whiteouts.
		nodes.a character device: crw-r--r-- 0:0 links 1 -> EPERM
		nodes.a block device: brw-r--r-- 0:0 links 1 -> EPERM
		nodes.user, a device: EACCES -> EPERM
		renaming_flags.flags 4: ok, ['c', '-'] -> EINVAL
		# What is absolute leads out of the export.
		openat2.BENEATH, an absolute link: EXDEV -> ELOOP
		openat2.IN_ROOT, an absolute link: ok -> ELOOP
		working_directories.chroot, /abs: b'in jail' -> ELOOP
		# No name is trusted without asking the origin.
		openat2.CACHED: ok -> EAGAIN
		# Whether a directory may be searched is seen by the origin when it looks up what is in it. ".." is not looked up.
		searching.000, upwards: EACCES -> 1
		searching.600, upwards: EACCES -> 1
		# A path of the origin has at most 4095 bytes, however it is reached.
		deep.20 directories of 250 bytes: ok -> ENAMETOOLONG
		deep.how many: 20 -> 16
		# A directory that was removed is not held open at the origin.
		removed_directory.fchmod: 0700 -> ENOENT
		removed_directory.fchown: 1:2 -> ENOENT
		removed_directory.futimens: 6.0 -> ENOENT
		removed_directory.fsetxattr: b'x' -> ENOENT
		# Opening asks for the path again.
		unlinked_file.reopened by /proc: b'written' -> ENOENT
		unlinked_file.O_PATH of what is gone, reopened: ok -> ENOENT
		# Offsets are those of any origin; a read or write there has the answer of this one.
		offsets.lseek 9223372036854775807 0: EINVAL -> 9223372036854775807
		offsets.lseek beyond the largest file: EINVAL -> 17592186040321
		# To lseek all is data.
		holes.SEEK_DATA 0: 524288 -> 0
		holes.SEEK_HOLE 0: 0 -> 1048576
		holes.SEEK_HOLE 524288: 528384 -> 1048576
		holes.SEEK_DATA 1048575: ENXIO -> 1048575
		holes.SEEK_HOLE 1048575: 1048575 -> 1048576
		# Reads and writes that must not wait, or not stay in memory.
		call_flags.preadv2 NOWAIT: (4, b'2345') -> EOPNOTSUPP
		call_flags.preadv2 DONTCACHE: (4, b'2345') -> EOPNOTSUPP
		call_flags.pwritev2 DONTCACHE: (2, b'0123ab6789') -> EOPNOTSUPP
		# O_DIRECT is buffered, so nothing has to be aligned.
		direct.read at an odd place: EINVAL -> 4096
		direct.write of an odd length: EINVAL -> 10
		# Reading file data from afar does not change the time of access.
		reading_times.read: b'0000000\n00'; file a+ m= c=; fd a+ m= c= -> b'0000000\n00'; file a= m= c=; fd a= m= c=
		reading_times.a load: b'0'; file a+ m= c= -> b'0'; file a= m= c=
		reading_times.execve: , status 0; script a+ m= c= -> , status 0; script a= m= c=
		reading_times.sendfile: 10; file a+ m= c= -> 10; file a= m= c=
		reading_times.copy_file_range: 10; file a+ m= c= -> 10; file a= m= c=
		# When a file was born is not told.
		stats.statx, time of birth: True -> False
		# Each device of an origin has a number here, but only stat(2) knows it.
		descriptors./proc, maps: ('r--s', '00000000', True, True, 'DIR/descriptors/file') -> ('r--s', '00000000', False, True, 'DIR/descriptors/file')
		# What belongs to ext4: handles, generations, where blocks are.
		handles.name_to_handle_at: ok -> EOPNOTSUPP
		handles.name_to_handle_at of a directory: ok -> EOPNOTSUPP
		handles.FS_IOC_GETVERSION: ok -> ENOTTY
		handles.FIBMAP: ok -> EINVAL
		handles.FIEMAP: 0 -> EOPNOTSUPP
		# That two wait for each other is not noticed; the test's alarm ends it.
		record_locks.two that wait for each other: ('EDEADLK', 'status 0') -> ('EINTR', 'status 0')
		# Leases.
		leases.F_SETLEASE for reading: 0 -> EINVAL
		leases.F_GETLEASE then: read -> none
		leases.F_SETLEASE, given back: 0 -> EINVAL
		leases.F_SETLEASE for writing: 0 -> EINVAL
		# Extended attributes but those of users, and access control lists.
		attributes.'trusted.x', set: ok -> EOPNOTSUPP
		attributes.'trusted.x', get: b'x' -> EOPNOTSUPP
		attributes.'trusted.x', remove: ok -> EOPNOTSUPP
		attributes.'security.x', set: ok -> EOPNOTSUPP
		attributes.'security.x', get: b'x' -> EOPNOTSUPP
		attributes.'security.x', remove: ok -> EOPNOTSUPP
		attributes.'system.posix_acl_access', get: ENODATA -> EOPNOTSUPP
		attributes.'system.posix_acl_access', remove: ok -> EOPNOTSUPP
	END
}

# The program runs for half a minute and more on each node; it is silent on stderr unless it is broken itself.
transcript() { # NODE DIR
	on "$1" mkdir -m 755 "$2" || return 1
	on "$1" python3 -B $VT/posix.py "$2" 2>"$TMP/errors" || note "posix.py in node $1 ended with status $?"
	sed 's/^/# stderr: /' "$TMP/errors" >&2
}

for k in 1 2; do
	tar -C "$PROGRAMS" -cf - posix.py posix.d | on $k sh -c "mkdir -p $VT && tar -C $VT --no-same-owner -xf -"
	# The first syncfs is told of bytes that were lost before, if nobody was: in tests of that, whose files nobody synced then.
	sh_on $k 'sync -f /vremote 2>/dev/null || true'
	# Off unless somebody switches it on; the mount looks at this node's.
	sh_on $k 'echo 0 >/proc/sys/fs/protected_hardlinks'
done
sh_on 1 'mkdir "$1" && vremote export add "$1" --no-root-squash' "$E" || fail "the export"
SECONDS=0
transcript 1 "$E/here" >"$TMP/here"
note "$(wc -l <"$TMP/here") steps on ext4 in $SECONDS s"
SECONDS=0
transcript 2 "/vremote/node1$E/there" >"$TMP/there"
note "$(wc -l <"$TMP/there") steps through the mount in $SECONDS s"

declare -A HERE=() THERE=() ON_EXT4=() ON_MOUNT=() STEPS=() KNOWN=() WRONG=()
scenarios=() order=()
while IFS= read -r line; do
	key=${line%%: *}
	[ -z "${HERE["$key"]+known}" ] || fail "a step twice: $key"
	HERE["$key"]=${line#*: }
	order+=("$key")
	[ -n "${STEPS["${key%%.*}"]+known}" ] || scenarios+=("${key%%.*}")
	STEPS["${key%%.*}"]=0 KNOWN["${key%%.*}"]=0
done <"$TMP/here"
while IFS= read -r line; do
	key=${line%%: *}
	THERE["$key"]=${line#*: }
	[ -n "${HERE["$key"]+known}" ] || order+=("$key")
done <"$TMP/there"
while IFS= read -r line; do
	[ "${line:0:1}" != '#' ] || continue
	key=${line%%: *} line=${line#*: }
	ON_EXT4["$key"]=${line%% -> *} ON_MOUNT["$key"]=${line##* -> }
	[ -n "${HERE["$key"]+known}" ] || fail "the table of differences has a step that there is not: $key"
done < <(differences)
expect "there are many steps" [ ${#HERE[@]} -gt 2500 ]

for key in "${order[@]}"; do
	scenario=${key%%.*} here=${HERE["$key"]-missing} there=${THERE["$key"]-missing} is=''
	STEPS["$scenario"]=$((STEPS["$scenario"] + 1))
	if [ -z "${ON_EXT4["$key"]+known}" ]; then
		[ "$here" = "$there" ] || is="on ext4 $here, through the mount $there"
	else
		KNOWN["$scenario"]=$((KNOWN["$scenario"] + 1))
		[ "$here -> $there" = "${ON_EXT4["$key"]} -> ${ON_MOUNT["$key"]}" ] ||
			is="on ext4 $here, through the mount $there; in the table: ${ON_EXT4["$key"]} -> ${ON_MOUNT["$key"]}"
	fi
	[ -z "$is" ] || WRONG["$scenario"]+="#   $key: $is"$'\n'
done
for scenario in "${scenarios[@]}"; do
	if [ -z "${WRONG["$scenario"]:-}" ]; then
		pass "$scenario: as on local ext4, ${STEPS["$scenario"]} steps, ${KNOWN["$scenario"]} of them in the table of differences"
	else
		fail "$scenario: as on local ext4"
		printf '%s' "${WRONG["$scenario"]}"
	fi
done
finish
