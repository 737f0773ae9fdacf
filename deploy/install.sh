#!/bin/bash
# install.sh [--prefix DIR] [--debug] [--programs-only]: builds Lifeboat and installs it.
#   DIR (default /usr/lib/lifeboat) gets lifeboatd, lifeboat, lifeboat-hook and the page filter;
#   /usr/bin/lifeboat and /usr/sbin/lifeboatd become links to it; the units go to /etc/systemd/system.
#   --debug           the unoptimised build: quicker to make, slower to run
#   --programs-only   DIR and nothing else
#   LIFEBOAT_FEATURES=lifeboatd/kubernetes builds the daemon with what is not in it otherwise.
# Needs Rust, and what deploy/setup.sh installs. A build from nothing takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source-path=SCRIPTDIR source=lib/debian.sh
. deploy/lib/debian.sh
PREFIX=/usr/lib/lifeboat PROFILE=release ALL=1
while [ $# -gt 0 ]; do
  case $1 in
    --prefix) PREFIX=${2:?--prefix needs a folder}; shift;;
    --debug) PROFILE=debug;;
    --programs-only) ALL=;;
    -h | --help) sed -n '2,/^set/s/^# //p' "$0"; exit 0;;
    *) die "unknown option $1 (see --help)";;
  esac
  shift
done
case $PREFIX in /*) ;; *) PREFIX=$PWD/$PREFIX;; esac
[ -z "$ALL" ] || need_root

# Under sudo the compiler is the caller's, and so should be what it makes.
as_caller() {
  local home
  if [ "$(id -u)" != 0 ] || [ -z "${SUDO_USER:-}" ] || [ "$SUDO_USER" = root ]; then "$@"; return; fi
  home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
  runuser -u "$SUDO_USER" -- env HOME="$home" PATH="$home/.cargo/bin:$PATH" "$@"
}
PATH=$HOME/.cargo/bin:$PATH
as_caller cargo --version >/dev/null 2>&1 || die "cargo is missing: https://rustup.rs installs it"

OUT=${CARGO_TARGET_DIR:-target}/$PROFILE
if [ $PROFILE = debug ]; then
  # Everything at once, as deploy/test.sh builds it: what is there already is used.
  as_caller cargo build --locked --workspace
else
  # In one go, so that what they share is built once; lifeboat-bench is for deploy/demo.sh.
  as_caller cargo build --locked --release -p lifeboatd -p lifeboat-preload -p lifeboat-bench \
    ${LIFEBOAT_FEATURES:+--features $LIFEBOAT_FEATURES}
  # What runs in other root file systems must bring its libc along.
  as_caller cargo rustc --locked --release -p lifeboat-client --bin lifeboat -- -C target-feature=+crt-static
  as_caller cargo rustc --locked --release -p lifeboat-preload --bin lifeboat-hook -- -C target-feature=+crt-static
  for f in lifeboat lifeboat-hook; do
    # ldd calls a static program "statically linked" or "not a dynamic executable".
    ! ldd "$OUT/$f" 2>/dev/null | grep -q '=>' || die "$OUT/$f is not statically linked"
  done
fi

mkdir -p "$PREFIX"
for f in lifeboatd lifeboat lifeboat-hook liblifeboat_preload.so; do
  # By rename: the old one may be running.
  install -m 755 "$OUT/$f" "$PREFIX/$f.new"
  # Line numbers make up most of a release build; names of functions stay.
  [ $PROFILE = debug ] || strip --strip-debug "$PREFIX/$f.new"
  mv -f "$PREFIX/$f.new" "$PREFIX/$f"
done
[ -n "$ALL" ] || exit 0

ln -sfn "$PREFIX/lifeboat" /usr/bin/lifeboat
ln -sfn "$PREFIX/lifeboatd" /usr/sbin/lifeboatd
mkdir -p /etc/systemd/system /etc/lifeboat
for unit in lifeboatd lifeboat-shutdown; do
  sed "s|/usr/lib/lifeboat/|$PREFIX/|g" "deploy/systemd/$unit.service" >"/etc/systemd/system/$unit.service"
done
install -Dm 644 deploy/systemd/logind.conf /etc/systemd/logind.conf.d/lifeboat.conf
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  say "installed in $PREFIX; next: set LIFEBOAT_STORE in /etc/default/lifeboatd, then systemctl enable --now lifeboatd lifeboat-shutdown"
else
  say "installed in $PREFIX; next: $PREFIX/lifeboatd --store URL"
fi
