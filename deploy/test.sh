#!/bin/bash
# test.sh: everything that must hold before a change lands, on a machine that need have nothing but Rust.
# Nothing is skipped: what is missing fails. Options are passed to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
# The settings of a daemon that this shell may be working with are not the tests'.
for v in ${!LIFEBOAT_@}; do
  case $v in LIFEBOAT_CACHE | LIFEBOAT_DEBIAN_MIRROR | LIFEBOAT_CRIU_SUITES) ;; *) unset "$v";; esac
done
command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
CACHE=${LIFEBOAT_CACHE:-/var/cache/lifeboat}
CEPH=$CACHE/ceph
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}

# step NAME COMMAND…: says how long it took. (Not "if COMMAND": that would switch -e off in functions.)
step() {
  STEP=$1; local start=$SECONDS; shift
  printf '\n== %s\n' "$STEP"
  "$@"
  printf '== %s: %d s\n' "$STEP" $((SECONDS - start))
  STEP=
}
started=
finish() {
  [ -z "$STEP" ] || echo "== FAILED: $STEP, after $SECONDS s in all" >&2
  [ -z "$started" ] || deploy/s3/ceph.sh down "$CEPH"
}
trap finish EXIT

# The layout of an installation, made of this tree's debug build: what tests run is what users would.
# PREFIX/bin has the daemon and everything that it looks for beside itself; PREFIX/criu is the bundle.
install_for_tests() {
  PREFIX=$PWD/target/lifeboat-test
  mkdir -p "$PREFIX/bin"
  # By rename, since a program may still run from the last time
  local f
  for f in lifeboatd lifeboat lifeboat-hook liblifeboat_preload.so; do
    install -m 755 "target/debug/$f" "$PREFIX/bin/$f.new"
    mv -f "$PREFIX/bin/$f.new" "$PREFIX/bin/$f"
  done
  ln -sfn /usr/lib/lifeboat/criu "$PREFIX/criu"
  export LIFEBOAT_TEST_PREFIX=$PREFIX LIFEBOAT_TEST_ZDTM=$CACHE/zdtm
}

start_server() {
  local lines
  # One that a developer has up stays up; one that we start, we stop.
  lines=$(deploy/s3/ceph.sh env "$CEPH" 2>/dev/null) || {
    started=1
    lines=$(deploy/s3/ceph.sh up "$CEPH")
  }
  while IFS='=' read -r name value; do export "$name=$value"; done <<<"$lines"
  echo "$LIFEBOAT_TEST_S3_ENDPOINT"
}

step 'set up' deploy/setup.sh --tests
step 'format' cargo fmt --all --check
step 'lint' cargo clippy --locked --workspace --all-targets -- -D warnings
step 'build' cargo build --locked --workspace
step 'install' install_for_tests
step 'object store' start_server
step 'test' cargo test --locked --workspace --no-fail-fast "$@"
# What is not in a build unless it is asked for.
step 'lint for Kubernetes' cargo clippy --locked -p lifeboatd -p lifeboat-watch --features kubernetes \
  --all-targets -- -D warnings
step 'test for Kubernetes' cargo test --locked -p lifeboat-watch --features kubernetes "$@"
echo "== everything: $SECONDS s"
