# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# In the guests of scripts/loads: what a line of the list says in one word. All work in the current directory.

export HOME=/tmp GIT_AUTHOR_NAME=load GIT_AUTHOR_EMAIL=load@localhost GIT_COMMITTER_NAME=load GIT_COMMITTER_EMAIL=load@localhost
export TREE=/usr/include/linux

stress() { # STRESSOR [OPTION …]; the same seed on every file system
	local stressor=$1
	shift
	stress-ng --verify --seed 1 --metrics-brief --temp-path "$PWD" --timeout "${SECONDS_EACH}s" --"$stressor" 1 "$@"
}

verified() { # FIO-OPTION …
	fio --name=load --directory="$PWD" --size=8m --verify=crc32c --verify_fatal=1 --verify_state_save=0 --group_reporting "$@"
}

benched() { # DBENCH-OPTION …: dbench's status is 0 whatever its clients met; its remark on the semaphore means nothing
	local out rc=0
	out=$(dbench -c /usr/share/dbench/client.txt -D "$PWD" "$@" 2>&1) || rc=$?
	echo "$out"
	[ $rc = 0 ] && grep -q '^Throughput' <<<"$out" && awk '!/barrier semaphore/ && tolower($0) ~ /error|failed/ { exit 1 }' <<<"$out"
}

# ---- sqlite3

PRAGMAS=()
sql() { sqlite3 -bail -batch -cmd '.output /dev/null' "${PRAGMAS[@]}" -cmd '.output stdout' data.db "$@"; }

is() { # WHAT GOT WANTED
	[ "$2" = "$3" ] || {
		echo "error: $1: got '$2' instead of '$3'"
		return 1
	}
}

whole() { # FILE
	is "integrity_check of $1" "$(sqlite3 -bail -batch "$1" 'PRAGMA integrity_check;')" ok
}

database() { # JOURNAL-MODE [PRAGMA]: each step is a process of its own, and sees what the last one left
	local mode=$1 sum
	PRAGMAS=(-cmd "PRAGMA journal_mode = $mode; ${2:-}")
	is journal_mode "$(sql "PRAGMA journal_mode = $mode;")" "${mode,,}"
	sql "CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT, v TEXT); CREATE INDEX i ON t (k);"
	sql "BEGIN;
		WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 2000)
		INSERT INTO t SELECT x, printf('key %05d', x * 7919 % 2000), hex(zeroblob(x % 450)) || x FROM n; COMMIT;"
	is "rows" "$(sql "SELECT count(*), sum(length(v)) FROM t;")" "2000|$(awk 'BEGIN { for (x = 1; x <= 2000; x++) s += 2 * (x % 450) + length(x); print s }')"
	whole data.db
	# Twenty transactions of their own, one that is taken back, and what all leave behind.
	for x in {1..20}; do echo "UPDATE t SET k = 'changed $x' WHERE id % 100 = $x;"; done | sql
	sql "BEGIN; DELETE FROM t; ROLLBACK; DELETE FROM t WHERE id > 1500;"
	is "rows after deleting" "$(sql "SELECT count(*), count(DISTINCT k) FROM t WHERE k LIKE 'changed%';")" "300|20"
	sum=$(sql "SELECT group_concat(id || k || v) FROM t;" | sha256sum)
	sql "VACUUM;"
	is "contents after VACUUM" "$(sql "SELECT group_concat(id || k || v) FROM t;" | sha256sum)" "$sum"
	whole data.db
}

counted() { # JOURNAL-MODE: two processes of one node add to one number
	local mode=$1 pids=() pid rc=0
	is journal_mode "$(sql "PRAGMA journal_mode = $mode;")" "${mode,,}"
	sql "CREATE TABLE c (n INTEGER); INSERT INTO c VALUES (0);"
	for _ in 1 2; do
		for _ in {1..50}; do echo "BEGIN IMMEDIATE; UPDATE c SET n = n + 1; COMMIT;"; done | sql -cmd ".timeout 30000" &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do wait "$pid" || rc=1; done
	[ $rc = 0 ] || echo "error: a writer failed"
	is "count of two writers" "$(sql "SELECT n FROM c;")" 100
	whole data.db
	return $rc
}

# ---- lmdb: a mapped file, locks of processes in another

lightning() {
	local x
	{
		printf 'VERSION=3\nformat=print\ntype=btree\nmapsize=16777216\nmaxreaders=126\ndb_pagesize=4096\nHEADER=END\n'
		for x in {10001..13000}; do printf ' key %d\n value %d of a length that fills pages %d\n' "$x" $((x * 31)) $((x % 97)); done
		echo DATA=END
	} >text
	mdb_load -n -f text data.mdb
	mdb_stat -n -e data.mdb
	mdb_dump -n -p data.mdb | sed -n '/HEADER=END/,$p' >back
	sed -n '/HEADER=END/,$p' text | cmp - back
	mdb_dump -n data.mdb >dumped
}

# ---- git

versions() {
	git init -q -b main first
	cp -a "$TREE"/netfilter "$TREE"/[a-i]*.h first
	git -C first add .
	git -C first commit -q -m one
	git clone -q --no-local first clone
	for x in 1 2 3; do
		sed -i "s/define/DEFINE$x/" clone/[a-d]*.h
		git -C clone rm -q netfilter/*"$x"*.h 2>/dev/null || true
		git -C clone mv "$(cd clone && ls i*.h | head -n 1)" "moved$x"
		git -C clone commit -q -a -m "change $x"
	done
	git -C clone push -q origin main:other
	git -C first checkout -q other
	diff -r -x .git first clone
	git -C clone gc -q
	git -C first fsck --full --strict
	git -C clone fsck --full --strict
	is "git status" "$(git -C clone status --porcelain)" ""
}

# ---- coreutils and their like, each compared with what it does on tmpfs

tools() {
	local here=$PWD there
	there=$(mktemp -d)
	cd "$there"
	tool_steps >"$there.out" 2>&1
	cd "$here"
	rm -rf "$there"
	set +e # what went wrong here is to be seen below
	tool_steps >"$there.here" 2>&1
	set -e
	diff "$there.out" "$there.here"
	rm -f "$there.out" "$there.here"
}

tool_steps() (
	set -eE
	trap 'echo "failed: $BASH_COMMAND"' ERR
	seq 30000 >numbers
	sort -R --random-source=numbers numbers >shuffled
	sort -n -T . -S 64k shuffled -o sorted
	cmp numbers sorted
	split -b 10k numbers part.
	cat part.* | cmp - numbers
	mkdir -p deep/er/dir
	ln -s ../er deep/link
	ln numbers deep/hard
	stat -c '%h %s %F' numbers deep/hard deep/link
	mv -n numbers deep/er/dir/
	install -m 640 sorted deep/installed
	stat -c '%a %s' deep/installed
	truncate -s 1M sparse
	printf x | dd of=sparse bs=1 seek=524288 conv=notrunc,fsync status=none
	cp --sparse=always sparse copied
	cmp sparse copied
	sha256sum sparse
	sed -i s/1/one/g sorted
	md5sum sorted
	tail -n 2 sorted
	tac sorted | sed -n 1,2p
	truncate -s -5 sorted
	wc -c sorted
	echo appended >>sorted
	tail -n 1 sorted
	: >sorted
	test ! -s sorted
	gzip -k shuffled
	gunzip -c shuffled.gz | cmp - shuffled
	touch -d '2001-02-03 04:05:06.789 UTC' shuffled
	TZ=UTC stat -c %y shuffled
	chmod u+s,g-w,o= shuffled
	stat -c %a shuffled
	flock lock true
	(flock -x 9 && flock -n lock false || echo locked) 9>lock
	mkfifo fifo
	echo through >fifo &
	cat fifo
	wait
	rmdir deep/er/dir 2>/dev/null || echo "not empty"
	find . -type f -empty | sort
	rm -rf deep part.*
	find . | LC_ALL=C sort
)

compiled() { # a program of several files, built and run there
	local x
	for x in {1..12}; do printf 'int f%d(int x) { return x + %d; }\n' "$x" "$x" >"f$x.c"; done
	{
		printf '#include <stdio.h>\n'
		printf 'int f%d(int);\n' {1..12}
		printf 'int main(void) { int x = 0; '
		printf 'x = f%d(x); ' {1..12}
		printf 'printf("%%d\\n", x); return 0; }\n'
	} >main.c
	printf 'prog: main.o %s\n\tgcc -o $@ $^\nlib.so: %s\n\tgcc -shared -o $@ $^\n%%.o: %%.c\n\tgcc -fPIC -O -c -o $@ $<\n' "$(echo f{1..12}.o)" "$(echo f{1..12}.o)" >Makefile
	make -s -j2 prog lib.so
	is "the program" "$(./prog)" 78
	is "the library" "$(python3 -c 'import ctypes; print(ctypes.CDLL("./lib.so").f7(1))')" 8
	is "make again" "$(make prog)" "make: 'prog' is up to date."
}

looped() { # a file system in a file, through a loop device
	truncate -s 24M image
	mke2fs -q -F -t ext4 image
	mkdir -p /tmp/looped
	trap 'umount /tmp/looped 2>/dev/null || true' EXIT
	mount -o loop image /tmp/looped
	cp -a "$TREE"/netfilter /tmp/looped
	sync
	diff -r "$TREE"/netfilter /tmp/looped/netfilter
	umount /tmp/looped
	e2fsck -f -n image
}

listed() { # what find says of the tree here; sizes of directories are the file system's own business
	find . -type f -printf '%P %m %s %n %U %G %T@\n' -o -printf '%P %y %m %l\n' | LC_ALL=C sort
}

imported() { # Python's modules from there, byte code written there
	local lib
	lib=$(python3 -c 'import json, os; print(os.path.dirname(os.path.dirname(json.__file__)))')
	cp -r "$lib"/json "$lib"/email "$lib"/logging .
	find . -name __pycache__ -exec rm -r {} +
	for _ in 1 2; do
		is "where the modules came from" "$(PYTHONPATH=$PWD python3 -c '
import email.mime.text, json.decoder, logging.config, os
print(all(m.__file__.startswith(os.getcwd()) and os.path.exists(m.__cached__) for m in (email.mime.text, json.decoder, logging.config)))')" True
	done
	python3 -m compileall -q -f .
}
