# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# For scripts/bench: what is compared, and how each is set up. Node 1 is the origin of them all; node 2 is the client.
#
#   local            ext4 of node 2 itself
#   nfs              NFSv4.2, sec=sys, from node 1's ext4
#   nfs_tls          the same with xprtsec=tls
#   vremote          encrypted
#   vremote_plain    with plain=1, which is for benchmarks only; the same files. The module is loaded anew between the two.
#
# What cannot be set up is noted with the reason (missing), and the others are measured.

declare -A PLACE=(
	[local]=/srv/bench/local
	[nfs]=/mnt/nfs
	[nfs_tls]=/mnt/nfs_tls
	[vremote]=/vremote/node1/srv/bench/vremote
	[vremote_plain]=/vremote/node1/srv/bench/vremote
)
# What node 1 calls the directory of the same files.
declare -A HOME_PLACE=([nfs]=/srv/bench/nfs [nfs_tls]=/srv/bench/nfs [vremote]=/srv/bench/vremote [vremote_plain]=/srv/bench/vremote)
PRESENT=()

# missing SYSTEM MEASURE|all REASON: that was not measured. What fails twice, and a system of which all is missing, is not tried again.
declare -A MISSING=()
missing() {
	local reason
	reason=$(tr '\t\n' '  ' <<<"$3" | tr -cd '[:print:]' | sed -E 's/ +/ /g; s/ $//' | tail -c 300)
	MISSING[$1.$2]=$((${MISSING[$1.$2]:-0} + 1))
	printf '%s\t%s\t%s\n' "$1" "$2" "${reason:-it failed and did not say why}" >>"$OUT/missing.tsv"
	say "not measured: $1, $2: $reason"
}
is_missing() { [ "${MISSING[$1.all]:-0}" != 0 ] || [ "${MISSING[$1.$2]:-0}" -ge 2 ]; }

# set_up SYSTEM: it is PRESENT, or missing.
set_up() {
	if "set_up_$1" >"$TMP/why" 2>&1; then PRESENT+=("$1"); else missing "$1" all "$(<"$TMP/why")"; fi
}

condition() { printf '%s\t%s\n' "$1" "$2" >>"$OUT/conditions.tsv"; }
mount_of() { within 20 2 awk -v place="$1" '$2 == place { print $3, $4 }' /proc/mounts; }

# The files: the same sizes in each directory.
FILES='
	files() { # DIRECTORY READ SPARSE SMALL, in MiB
		mkdir -p $1
		"$measure" write $1/read $(($2 << 20))
		"$measure" write $1/sparse $(($3 << 20))
		"$measure" write $1/small $(($4 << 20))
		head -c 4096 /dev/zero >$1/page
		sync
	}'

set_up_origin() {
	within 240 1 bash -ec "measure=\$1; $FILES
		files /srv/bench/nfs \$2 \$3 \$4 >/dev/null
		files /srv/bench/vremote \$2 \$3 \$4 >/dev/null
		iperf3 -s -D >/dev/null
		setsid \$measure serve >/dev/null 2>&1 </dev/null &" bash $VT/measure "$MIB" "$SPARSE" "$SMALL" || die "node1 could not be prepared"
}

set_up_local() {
	within 120 2 bash -ec "measure=\$1; $FILES
		files /srv/bench/local \$2 1 1 >/dev/null" bash $VT/measure "$MIB" &&
		condition system.local.mount "$(mount_of /srv)" &&
		condition system.local.encryption none
}

set_up_nfs() {
	within 60 1 nfs-serve /srv/bench/nfs &&
		within 60 2 bash -ec '
			mkdir -p /mnt/nfs
			mount -t nfs4 -o vers=4.2 node1:/srv/bench/nfs /mnt/nfs
			test -s /mnt/nfs/read' &&
		condition "NFS server" "$(within 20 1 exportfs -s | tail -n 1), $(within 20 1 cat /proc/fs/nfsd/threads) threads" &&
		condition system.nfs.mount "$(mount_of /mnt/nfs)" &&
		condition system.nfs.encryption none
}

# tlshd makes the handshakes for the kernels. The certificate is node 1's own, made now; node 2 trusts that one alone.
TLSHD='
	mkdir -p -m 700 /root/tls
	cd /root/tls
	printf "[authenticate.%s]\nx509.truststore=/root/tls/node1.pem\n" client server >tlshd.conf
	[ ! -e node1.key ] || printf "x509.certificate=/root/tls/node1.pem\nx509.private_key=/root/tls/node1.key\n" >>tlshd.conf
	setsid tlshd -s -c /root/tls/tlshd.conf >tlshd.log 2>&1 </dev/null &
	sleep 1
	pidof tlshd >/dev/null || { echo "tlshd does not run:"; cat tlshd.log; exit 1; } >&2'

set_up_nfs_tls() {
	[[ " ${PRESENT[*]} " = *" nfs "* ]] || {
		echo "NFS itself is not there"
		return 1
	}
	within 60 1 bash -ec '
		for tool in openssl tlshd; do command -v $tool >/dev/null || { echo "there is no $tool in the guest" >&2; exit 1; }; done
		mkdir -p -m 700 /root/tls
		cd /root/tls
		openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:secp384r1 -sha384 -nodes -days 30 -subj /CN=node1 \
			-addext subjectAltName=DNS:node1,IP:'"$ORIGIN"' -keyout node1.key -out node1.pem 2>openssl.log || { cat openssl.log >&2; exit 1; }
		chmod 600 node1.key' &&
		within 30 1 bash -ec "$TLSHD" &&
		within 20 1 cat /root/tls/node1.pem >"$TMP/node1.pem" &&
		push "$TMP/node1.pem" 2:/root/tls/ &&
		within 30 2 bash -ec "$TLSHD" &&
		# Under one name the server would take both mounts for one client, and the kernel would send everything through the first connection.
		within 120 2 bash -ec '
			mkdir -p /mnt/nfs_tls
			echo tls >/sys/fs/nfs/net/nfs_client/identifier
			for try in 1 2 3; do
				! timeout 30 mount -t nfs4 -o vers=4.2,xprtsec=tls,retry=0 node1:/srv/bench/nfs /mnt/nfs_tls 2>mount.log || break
				sleep 2
			done
			mountpoint -q /mnt/nfs_tls || { tail -n 2 mount.log; tail -n 3 /root/tls/tlshd.log; dmesg | grep -iE "tls|handshake|rpc" | tail -n 2; exit 1; } >&2
			grep " /mnt/nfs_tls " /proc/mounts | grep -q xprtsec=tls || { echo "the mount does not say xprtsec=tls" >&2; exit 1; }
			test -s /mnt/nfs_tls/read
			awk "/^TlsCurrTxSw|^TlsCurrRxSw/ { n += \$2 } END { exit !n }" /proc/net/tls_stat || { echo "no connection of this kernel is encrypted by TLS" >&2; exit 1; }' &&
		condition system.nfs_tls.mount "$(mount_of /mnt/nfs_tls)" &&
		condition system.nfs_tls.encryption "TLS$(within 20 2 ss -Htin state established '( dport = :2049 )' | grep -oE -m 1 ' version: [^ ]+ cipher: [^ ]+' | sed -E 's/ [a-z]+://g' || true), by the kernel"
}

set_up_vremote() {
	export_files && vremote_conditions vremote
}

# ---- the module, which is loaded either way

MODE=encrypted # what node 1 and node 2 speak now

export_files() {
	within 30 1 vremote export add /srv/bench/vremote --no-root-squash &&
		within 30 2 bash -c '
			for i in {1..100}; do test -s "$1/read" && exit; sleep 0.1; done 2>/dev/null
			echo "node2 does not see the files of VRemote"
			exit 1' bash "${PLACE[vremote]}" &&
		keep_warm
}

# What was cached of a file is dropped when it is shared: node 1 shares what is read, as long as the module is loaded, and reads it first.
keep_warm() {
	local answer
	[ -n "${AGENT_IN[home]:-}" ] || agent home 1 || return
	answer=$(ask home "kept = [share(f'${HOME_PLACE[vremote]}/{name}') for name in ('read', 'sparse', 'small')]
for fd in kept:
    for at in range(0, size(fd), 1 << 20):
        os.pread(fd, 1 << 20, at)")
	[ "$answer" = ok ] || {
		echo "node1 cannot share its files: $answer"
		return 1
	}
}
let_cool() {
	[ -z "${AGENT_IN[home]:-}" ] || ask home "while kept: os.close(kept.pop())" >/dev/null
}

vremote_conditions() { # SYSTEM
	local encrypted
	encrypted=$(within 20 2 grep -oE -m 1 '"encrypted":[a-z]+' /sys/kernel/debug/vremote/status | head -n 1)
	case $1.${encrypted#*:} in
	vremote.true) encrypted="each packet: Noise, ChaCha20-Poly1305" ;;
	vremote_plain.false) encrypted="none (plain=1)" ;;
	*)
		echo "the module says $encrypted"
		return 1
		;;
	esac
	grep -q "^system\.$1\." "$OUT/conditions.tsv" || {
		condition "system.$1.mount" "$(mount_of /vremote)"
		condition "system.$1.encryption" "$encrypted"
	}
}

# load encrypted|plain: the module anew on both nodes. Without the copies of the keys peers are added without one.
load() {
	local k plain=0
	[ "$1" = encrypted ] || plain=1
	MODE=none
	let_cool || return
	# What is cached goes first, and then the origin, while node 2 can still tell that it holds nothing; else its lease is waited for.
	within 60 2 bash -ec '! mountpoint -q /vremote || umount /vremote' || return
	for k in 1 2; do
		within 120 $k bash -ec '
			grep -q "^vremote " /proc/modules || exit 0
			! mountpoint -q /vremote || umount /vremote
			vremote clear
			for i in {1..100}; do ! rmmod vremote 2>rmmod.log || exit 0; sleep 0.1; done
			cat rmmod.log >&2
			exit 1' || return
	done
	for k in 1 2; do
		within 60 $k bash -ec '
			keys=/etc/vremote/keys
			if [ "$1" = 0 ]; then [ ! -e $keys.unused ] || mv $keys.unused $keys; else [ ! -e $keys ] || mv $keys $keys.unused; fi
			insmod /root/vremote.ko plain=$1
			vremote peer add "node$2" "10.77.0.$2"
			mount -t vremote vremote /vremote' bash $plain $((3 - k)) || return
	done
	for k in 1 2; do
		within 60 $k bash -c '
			for i in {1..300}; do ! grep -q "\"state\":\"up\"" /sys/kernel/debug/vremote/status || exit 0; sleep 0.1; done
			echo "the nodes do not find each other" >&2
			exit 1' || return
	done
	export_files && vremote_conditions "$([ $plain = 0 ] && echo vremote || echo vremote_plain)" && MODE=$1
}
