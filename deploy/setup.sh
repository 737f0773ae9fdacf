#!/bin/bash
# setup.sh [--demo | --tests]: installs what a fresh Debian 12/13 or Ubuntu 24.04 lacks to build and run Lifeboat;
# with --demo or --tests also what these need. Idempotent; says in a line what it does; quick if nothing is missing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib/debian.sh
. "$here/lib/debian.sh"
tests='' demo=''
for arg; do
  case $arg in
    --demo) demo=1;;
    --tests) tests=1;;
    -h | --help) sed -n '2,3s/^# //p' "$0"; exit 0;;
    *) die "unknown option $arg (there are --demo and --tests)";;
  esac
done
need_root
command -v apt-get >/dev/null || die "this script knows Debian and Ubuntu only; it needs apt-get"

missing=()
# want PACKAGE COMMAND|FILE…: the package is wanted if one of them is not there, whoever installed the others.
want() {
  local package=$1 what; shift
  for what; do
    case $what in
      /*) compgen -G "$what" >/dev/null && continue;;
      *) command -v "$what" >/dev/null && continue;;
    esac
    missing+=("$package"); return
  done
}

want jq jq
want patchelf patchelf
want gcc gcc
want libc6-dev /usr/include/stdio.h
want pkg-config pkg-config
want curl curl
want ca-certificates /etc/ssl/certs/ca-certificates.crt
want iproute2 ip tc
want util-linux nsenter unshare flock
# CRIU comes from Debian; elsewhere its mirror must be named as well (LIFEBOAT_DEBIAN_MIRROR).
want debian-archive-keyring '/usr/share/keyrings/debian-archive-keyring.*'
if [ -n "$demo$tests" ]; then
  want redis-server redis-server
  want redis-tools redis-cli redis-benchmark
  want openssl openssl
fi
if [ -n "$tests" ]; then
  want postgresql '/usr/lib/postgresql/*/bin/initdb' '/usr/lib/postgresql/*/bin/postgres'
  want postgresql-contrib '/usr/lib/postgresql/*/bin/pgbench'
  want default-jdk-headless javac java
  want python3 python3
  want nodejs node
  want bsdutils script
  want procps ps pgrep
  want dbus-daemon dbus-daemon
  # to build CRIU's own test programs
  want make make
  want dpkg-dev dpkg-source
  want libaio-dev /usr/include/libaio.h
  want libcap-dev /usr/include/sys/capability.h
  want libnl-3-dev /usr/include/libnl3/netlink/netlink.h
  want libnl-route-3-dev /usr/include/libnl3/netlink/route/link.h
fi

# Only the distribution's own sources, where they can be told: a broken third-party source must not stop us.
apt_options() {
  local f d=$CACHE/sources
  rm -rf "$d"; mkdir -p "$d"
  for f in /etc/apt/sources.list.d/{debian,ubuntu}.sources; do [ ! -f "$f" ] || ln -s "$f" "$d"; done
  if [ -z "$(ls -A "$d")" ]; then
    grep -qs '^deb .*\(debian\|ubuntu\)' /etc/apt/sources.list || return 0
  fi
  # List-Cleanup: the other sources' lists stay as they are.
  printf '%s\n' -o "Dir::Etc::sourceparts=$d" -o APT::Get::List-Cleanup=0
}

install_missing() {
  local -a options; local policy=/usr/sbin/policy-rc.d kept='' service
  say "installing ${missing[*]}"
  mkdir -p "$CACHE"
  mapfile -t options < <(apt_options)
  # Packages must not start their services: the tests run servers of their own, and port 6379 is not ours to take.
  if [ -e "$policy" ]; then kept=1; else printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 755 "$policy"; fi
  local log=$CACHE/apt.log rc=0
  {
    export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l
    apt-get "${options[@]}" -q update &&
      apt-get "${options[@]}" -q -y -o DPkg::Lock::Timeout=300 --no-install-recommends install "${missing[@]}"
  } >"$log" 2>&1 || rc=$?
  [ -n "$kept" ] || rm -f "$policy"
  [ $rc = 0 ] || { tail -15 "$log" >&2; die "apt-get failed; see $log"; }
  # Nor at the next boot.
  if [ -d /run/systemd/system ]; then
    for service in redis-server postgresql; do
      [[ " ${missing[*]} " != *" $service "* ]] || systemctl disable --now --quiet "$service" || true
    done
  fi
}
[ ${#missing[@]} = 0 ] || install_missing

"$here/criu/bundle.sh"
if [ -n "$tests" ]; then
  "$here/s3/ceph.sh" get "$CACHE/ceph"
  "$here/criu/zdtm.sh" get "$CACHE/zdtm"
fi

# Rust is rarely the distribution's: only say what is wrong with it.
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/../Cargo.toml" 2>/dev/null || true)
rustc=$(command -v rustc || echo "$HOME/.cargo/bin/rustc")
found=$("$rustc" --version 2>/dev/null | awk '{ print $2 }' || true)
if [ -z "$found" ] || dpkg --compare-versions "$found" lt "${wanted:-0}"; then
  say "to build: Rust ${wanted:-} or newer is needed, ${found:-none} found; rustup installs it (Debian: apt-get install rustup, then rustup default stable)"
fi
say "ready"
