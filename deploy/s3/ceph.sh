#!/bin/bash
# A real S3 server for tests: one-node Ceph RGW from Debian sid, unpacked into a folder and run by chroot;
# nothing is installed on the machine. In-process imitations accept what real servers refuse.
#   ceph.sh get DIR    fetch and unpack (about 600 MB); does nothing if it is there
#   ceph.sh up DIR     start it with no data, or leave it running; prints endpoint and keys as KEY=VALUE lines
#   ceph.sh env DIR    print the same lines if it runs, or fail
#   ceph.sh down DIR   stop it and drop its data (logs stay in DIR/data/log)
# Everything listens on loopback only: http CEPH_PORT (18207), https CEPH_TLS_PORT (18547, self-signed, DIR/tls.pem),
# monitor CEPH_MON_PORT (16890), OSD: a free port from CEPH_OSD_PORT (17800) on.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../lib/debian.sh
. "$here/../lib/debian.sh"
usage="usage: ${0##*/} get|up|env|down DIR"
verb=${1:?$usage}; mkdir -p "${2:?$usage}"; D=$(cd "$2" && pwd -P)
ROOT=$D/root RUN=$D/data
PORT=${CEPH_PORT:-18207} TLS_PORT=${CEPH_TLS_PORT:-18547} MON_PORT=${CEPH_MON_PORT:-16890} OSD_PORT=${CEPH_OSD_PORT:-17800}
ACCESS_KEY=CEPHACCESSKEY0000001 SECRET_KEY=cephsecretkeycephsecretkeycephsecretkey1

get() (
  # A subshell: the lock ends with it and is not inherited by the servers.
  [ ! -f "$D/complete" ] || return 0
  lock_cache
  say "fetching Ceph RGW from Debian sid"
  rm -rf "$ROOT"; mkdir -p "$ROOT"/{proc,sys,dev,run,tmp,data,etc,root,var/log/ceph,var/lib/ceph}
  debian_extract sid "$ROOT" radosgw ceph-mon ceph-osd ceph-common bash coreutils libc-bin
  printf 'root:x:0:0:root:/root:/bin/bash\n' >"$ROOT/etc/passwd"
  printf 'root:x:0:\n' >"$ROOT/etc/group"
  printf '127.0.0.1 localhost\n' >"$ROOT/etc/hosts"
  chroot "$ROOT" /sbin/ldconfig
  rm -rf "$ROOT"/usr/share/{doc,man,locale,icons}
  chroot "$ROOT" radosgw --version | tee "$D/complete" >&2
)

# Our servers: by where they are rooted, so that stale pid files neither hide one nor hit a stranger.
servers() {
  local p
  for p in /proc/[0-9]*; do
    [ "$(readlink "$p/root" 2>/dev/null)" != "$ROOT" ] || printf '%s\n' "${p#/proc/}"
  done
}

answers() { curl -sf -m 2 -o /dev/null "http://127.0.0.1:$PORT/"; }

runs() { [ -n "$(servers)" ] && answers; }

print_env() {
  printf 'LIFEBOAT_TEST_S3_%s\n' "ENDPOINT=http://127.0.0.1:$PORT" "TLS_ENDPOINT=https://localhost:$TLS_PORT" "CA_FILE=$D/tls.pem" \
    "ACCESS_KEY=$ACCESS_KEY" "SECRET_KEY=$SECRET_KEY" REGION=us-east-1
}

config() {
  cat <<K
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon host = [v1:127.0.0.1:$MON_PORT]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind port min = $OSD_PORT
ms bind port max = $((OSD_PORT + 100))
ms bind msgr1 = true
ms bind msgr2 = false
keyring = /data/keyring
run dir = /data/run
admin socket = /data/run/\$name.asok
pid file = /data/run/\$name.pid
log file = /data/log/\$name.log
# One of everything, and no complaint about it.
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail warn = 1
mon data avail crit = 1
# RGW makes a dozen pools at its first start, each a round of consensus: do not batch them by the second.
paxos propose interval = 0.05
mon data = /data/mon
osd data = /data/osd
osd class dir = $CLASSES
# Not memstore: tests store many GiB, and the memory belongs to the workloads under test.
osd objectstore = bluestore
bluestore block size = ${CEPH_BLOCK:-34359738368}
osd memory target = 939524096
rgw frontends = beast endpoint=127.0.0.1:$PORT ssl_endpoint=127.0.0.1:$TLS_PORT ssl_certificate=/data/both.pem
rgw data = /data/rgw
rgw dns name = localhost
rgw thread pool size = 64
# Deleted objects give their space back within seconds, not hours.
rgw gc obj min wait = 5
rgw gc processor period = 10
rgw gc processor max time = 10
K
}

up() {
  get
  ! runs || { print_env; return; }
  down
  ! (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null || die "port $PORT is taken by another program (set CEPH_PORT)"
  rm -rf "$RUN"; mkdir -p "$RUN"/{mon,osd,run,rgw,log}
  [ -f "$D/tls.pem" ] || openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE -keyout "$D/key.pem" -out "$D/tls.pem" 2>/dev/null
  cat "$D/tls.pem" "$D/key.pem" >"$RUN/both.pem"
  local CLASSES; CLASSES=$(cd "$ROOT" && echo usr/lib/*/rados-classes)
  CLASSES=/$CLASSES config >"$RUN/ceph.conf"
  # The mounts live in the servers' own mount namespace and vanish with them.
  # shellcheck disable=SC2016 # expanded by the inner shells
  MON_PORT=$MON_PORT ACCESS_KEY=$ACCESS_KEY SECRET_KEY=$SECRET_KEY unshare -m --propagation private bash -ec '
    mount --bind /proc "$1/proc"; mount --rbind /dev "$1/dev"; mount --rbind /sys "$1/sys"; mount --bind "$2" "$1/data"
    exec chroot "$1" /bin/bash -ec "$3"' - "$ROOT" "$RUN" '
    export CEPH_CONF=/data/ceph.conf; cd /data
    ceph-authtool -C keyring -g -n mon. --cap mon "allow *"
    ceph-authtool keyring -g -n client.admin --cap mon "allow *" --cap osd "allow *"
    ceph-authtool keyring -g -n osd.0 --cap mon "allow profile osd" --cap osd "allow *"
    ceph-authtool keyring -g -n client.rgw --cap mon "allow rw" --cap osd "allow rwx"
    while read -r key eq value; do [ "$key" != fsid ] || fsid=$value; done <ceph.conf
    monmaptool --create --clobber --fsid "$fsid" --addv a "[v1:127.0.0.1:$MON_PORT]" monmap
    ceph-mon --mkfs -i a --monmap monmap --keyring keyring; ceph-mon -i a
    read -r osd </proc/sys/kernel/random/uuid
    ceph-osd -i 0 --mkfs --osd-uuid "$osd" & timeout 60 ceph osd new "$osd" 0; wait $!
    ceph-osd -i 0
    timeout 60 radosgw-admin user create --uid t --display-name t --access-key "$ACCESS_KEY" --secret-key "$SECRET_KEY"
    radosgw -n client.rgw' >"$RUN/log/up.log" 2>&1 </dev/null 9>&- || { tail -5 "$RUN/log/up.log" >&2; down; die "Ceph did not start; see $RUN/log"; }
  local i
  for ((i = 0; i < 150; i++)); do
    if answers; then print_env; return; fi
    sleep 0.2
  done
  down; die "radosgw did not answer; see $RUN/log"
}

down() {
  local p i
  # Not gently: nobody needs the data, and an OSD takes five seconds to save it.
  for ((i = 0; i < 50; i++)); do
    p=$(servers); [ -n "$p" ] || break
    # shellcheck disable=SC2086
    kill -KILL $p 2>/dev/null || true
    sleep 0.1
  done
  rm -rf "$RUN"/{mon,osd,rgw}
}

need_root
# One at a time; the servers must not inherit the lock (see 9>&-).
exec 9>"$D/lock"; flock -w 120 9 || die "another ${0##*/} holds $D/lock"
case $verb in
  get) get; say "$(cat "$D/complete") is in $D";;
  up) up;;
  env) runs || die "not running: $0 up $D"; print_env;;
  down) down;;
  *) die "$usage";;
esac
