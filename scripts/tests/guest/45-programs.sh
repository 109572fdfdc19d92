#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Programs that rely on locks, mappings and names, on two nodes at once: SQLite with a rollback journal and with a write-ahead log, and
# git. 80 transactions in each mode; with LONG=1 in the environment 10,000.
# time-limit: 400

. "$(dirname "$0")/../lib.sh"
. "$TOP/scripts/tests/programs/agents.sh"

TIMES=20 LIMIT=300
[ "$VREMOTE_DEBUG" = 0 ] || TIMES=10 LIMIT=1200
[ -z "${LONG:-}" ] || TIMES=2500 LIMIT=7200

begin /srv/programs
HERE=$DIR THERE=/vremote/node1$DIR
agent o 1
agent r 2
must o "run('vremote export add $DIR --no-root-squash')"
for k in 1 2; do push "$PROGRAMS/ledger.py" "$k:$VT/" || exit 1; done

# Two writers on each node, all at once.
write() { # MODE
	local -a jobs=()
	local w node rc=0
	for w in a b c d; do
		case $w in a | b) node=1 path=$HERE ;; *) node=2 path=$THERE ;; esac
		on $node timeout $LIMIT python3 $VT/ledger.py write "$path/$1.db" $w $TIMES >"$TMP/$w" 2>&1 &
		jobs+=($!)
	done
	for w in "${jobs[@]}"; do wait "$w" || rc=1; done
	note "$1: $(cat "$TMP"/[abcd])"
	return $rc
}
for mode in delete truncate persist wal; do
	expect "SQLite makes a database from afar (journal mode $mode)" on 2 python3 $VT/ledger.py create "$THERE/$mode.db" $mode
	expect "… four writers on two nodes, $TIMES transactions each" write $mode
	expect_eq "… nothing is lost or torn, seen from afar" "$(on 2 python3 $VT/ledger.py check "$THERE/$mode.db" a:$TIMES b:$TIMES c:$TIMES d:$TIMES 2>&1)" ok
	expect_eq "… and at the origin" "$(on 1 python3 $VT/ledger.py check "$HERE/$mode.db" a:$TIMES b:$TIMES c:$TIMES d:$TIMES 2>&1)" ok
done

GIT='export GIT_CONFIG_GLOBAL=/root/vremote-test/gitconfig HOME=/root; git config --global user.name t; git config --global user.email t@t
git config --global safe.directory "*"; git config --global init.defaultBranch main; set -e'
expect "git makes a repository from afar" sh_on 2 "$GIT"'
	git init -q "$1/repo"; cd "$1/repo"
	for i in $(seq 40); do seq $((i * 50)) >file$i; done; mkdir -p a/b/c; ln -s ../file1 a/link; cp /bin/ls a/b/c/; git add .; git commit -qm first' "$THERE"
expect "… the origin commits to it" sh_on 1 "$GIT"'
	cd "$1/repo"; test -z "$(git status --porcelain)"; seq 9 >>file3; git mv file4 a/; git commit -qam second; git checkout -qb side; echo x >side; git add side; git commit -qm side; git checkout -q main' "$HERE"
expect "… the remote sees that, merges and packs" sh_on 2 "$GIT"'
	cd "$1/repo"; test -z "$(git status --porcelain)"; git merge -q --no-ff -m merge side; test -e side; git gc -q; git fsck --full --strict' "$THERE"
expect "… and clones it to itself, and back" sh_on 2 "$GIT"'
	rm -rf /root/vremote-test/clone; git clone -q "$1/repo" /root/vremote-test/clone; git clone -q /root/vremote-test/clone "$1/clone"
	diff -r --no-dereference -x .git "$1/repo" "$1/clone"; git -C "$1/clone" fsck --full --strict; rm -rf /root/vremote-test/clone' "$THERE"
expect "… the origin finds both in order" sh_on 1 "$GIT"'
	for r in repo clone; do cd "$1/$r"; git fsck --full --strict; test -z "$(git status --porcelain)"; test "$(git rev-list --count HEAD)" = 4; done' "$HERE"
commit() { # NODE DIR WHO
	sh_on "$1" "$GIT"'
		cd "$1/repo"
		for i in $(seq 5); do
			echo "$2 $i" >>"by-$2"
			for try in $(seq 200); do git add "by-$2" 2>/dev/null && git commit -qm "$2 $i" -- "by-$2" 2>/dev/null && break; sleep 0.05; done
		done' "$2" "$3"
}
commit 1 "$HERE" one >"$TMP/one" 2>&1 &
first=$!
expect "both nodes commit at once, again and again" commit 2 "$THERE" two
expect "… the origin as well" wait $first
expect_eq "… every commit is there" "$(sh_on 1 "$GIT"'; cd "$1/repo"; git fsck --full --strict >&2; git rev-list --count HEAD' "$HERE" 2>/dev/null)" 14
finish
