#!/bin/bash
# demo.sh [--store URL] [--size 1GiB] [--release] [--keep]: the main job, on this machine, in a minute or two.
#   A redis full of data runs on "node-a", a client writes to it all the time, and the cloud says that node-a
#   will go. Lifeboat moves redis to "node-b". Then every acknowledged write is looked for, and all data compared.
#   --store URL   where checkpoints go; without it a real S3 server (Ceph, 600 MB to fetch once) is started for it
#   --size SIZE   how much data redis has
#   --release     build with optimisation even if that was never done before (it takes some minutes)
#   --keep        leave logs and records in their folder
# Sets up what is missing. Exit code 0 only if nothing was lost.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source-path=SCRIPTDIR source=lib/debian.sh
. deploy/lib/debian.sh
usage() { sed -n '2,/^set/s/^# //p' "$0"; }
STORE='' SIZE=1GiB KEEP='' PROFILE=debug
[ ! -x target/release/lifeboatd ] || PROFILE=release
while [ $# -gt 0 ]; do
  case $1 in
    --store) STORE=${2:?--store needs a URL}; shift;;
    --size) SIZE=${2:?--size needs a size}; shift;;
    --release) PROFILE=release;;
    --keep) KEEP=1;;
    -h | --help) usage; exit 0;;
    *) die "unknown option $1 (see --help)";;
  esac
  shift
done
need_root
# The settings of a daemon that this shell may be working with are not ours.
for v in ${!LIFEBOAT_@}; do
  case $v in LIFEBOAT_CACHE | LIFEBOAT_DEBIAN_MIRROR | LIFEBOAT_CRIU_SUITES) ;; *) unset "$v";; esac
done
command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
PORT=16379
WORKLOAD=demo-redis
BIN=$PWD/target/demo
BENCH=$PWD/target/$PROFILE/lifeboat-bench
CEPH=$CACHE/ceph

D=$(mktemp -d /tmp/lifeboat-demo.XXXXXX)
mkdir "$D"/{a,b}
PIDS=() STARTED_CEPH=''
step() { printf '\n%s\n' "$*"; }
note() { printf '  %s\n' "$*"; }
fail() { printf '\nFAILED: %s\n' "$*" >&2; KEEP=1; exit 1; }

# What was started last is stopped first.
cleanup() {
  local rc=$? i
  trap - EXIT INT TERM
  # The supervisor must not start anything any more; the hold ends redis.
  for f in supervisor hold; do
    [ ! -f "$D/$f.pid" ] || kill -TERM "$(cat "$D/$f.pid")" 2>/dev/null || true
  done
  for ((i = ${#PIDS[@]} - 1; i >= 0; i--)); do
    kill -TERM "${PIDS[i]}" 2>/dev/null || true
    wait "${PIDS[i]}" 2>/dev/null || true
  done
  [ -z "$STARTED_CEPH" ] || deploy/s3/ceph.sh down "$CEPH"
  if [ -n "$KEEP" ]; then printf 'logs are in %s\n' "$D" >&2; else rm -rf "$D"; fi
  exit $rc
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# quietly NAME COMMAND…: its output goes to a file, which is shown when it fails.
quietly() {
  local log=$D/$1.log; shift
  "$@" >"$log" 2>&1 || { tail -20 "$log" >&2; fail "$*"; }
}

# eventually SECONDS WHAT COMMAND…: until the command succeeds.
eventually() {
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@"; do
    [ $SECONDS -lt $end ] || fail "$what"
    sleep 0.05
  done
}

daemon() {
  local node=$1; shift
  "$BIN/lifeboatd" --node "node-$node" --store "$STORE" --socket "$D/$node/lb.sock" --state-dir "$D/$node/state" \
    --log-json "$@" </dev/null >/dev/null 2>"$D/$node/daemon.log" &
  PIDS+=($!)
  eventually 20 "the daemon of node-$node does not answer: see $D/$node/daemon.log" on "$node" status
}

# on NODE ARGUMENTS…: the client, against a node's daemon.
on() { local node=$1; shift; "$BIN/lifeboat" --socket "$D/$node/lb.sock" "$@" >/dev/null 2>&1; }

# What an orchestrator does: exit code 75 means "run me again elsewhere".
supervise() {
  local node rc
  for node in a b; do
    rc=0
    "$BIN/lifeboat" --socket "$D/$node/lb.sock" run --workload $WORKLOAD --require-daemon -- \
      redis-server --port $PORT --save '' --appendonly no --dir "$D" --logfile '' \
      </dev/null >>"$D/$node/redis.log" 2>&1 &
    echo $! >"$D/hold.pid"
    echo "$node" >"$D/where"
    wait $! || rc=$?
    rm -f "$D/hold.pid"
    [ $rc = 75 ] || return $rc
  done
}
answers() { [ "$(redis-cli -p $PORT ping 2>/dev/null)" = PONG ]; }
has_said() { grep -q "$1" "$2"; }
digest() { "$BENCH" redis digest --address 127.0.0.1:$PORT --size "$SIZE"; }

step 'Setting up'
deploy/setup.sh --demo
if [ $PROFILE = debug ]; then
  note 'building without optimisation (some minutes the first time; --release makes the fast one)'
else
  note 'building'
fi
if [ $PROFILE = debug ]; then
  quietly build deploy/install.sh --prefix "$BIN" --programs-only --debug
else
  quietly build deploy/install.sh --prefix "$BIN" --programs-only
fi
! (exec 3<>/dev/tcp/127.0.0.1/$PORT) 2>/dev/null || fail "port $PORT is in use"

if [ -z "$STORE" ]; then
  note 'starting an S3 server (Ceph)'
  deploy/s3/ceph.sh env "$CEPH" >"$D/ceph.env" 2>/dev/null || {
    STARTED_CEPH=1
    deploy/s3/ceph.sh up "$CEPH" >"$D/ceph.env"
  }
  # shellcheck disable=SC1091
  . "$D/ceph.env"
  export AWS_ACCESS_KEY_ID=$LIFEBOAT_TEST_S3_ACCESS_KEY AWS_SECRET_ACCESS_KEY=$LIFEBOAT_TEST_S3_SECRET_KEY
  bucket=lifeboat-demo-$$
  # Older curls do not sign for S3 unless the digest of the (empty) body is given.
  quietly bucket curl -sS --fail --aws-sigv4 "aws:amz:$LIFEBOAT_TEST_S3_REGION:s3" \
    -H "x-amz-content-sha256: $(sha256sum </dev/null | cut -d' ' -f1)" \
    --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" -X PUT "$LIFEBOAT_TEST_S3_ENDPOINT/$bucket"
  STORE="s3://$bucket/demo?endpoint=$LIFEBOAT_TEST_S3_ENDPOINT&region=$LIFEBOAT_TEST_S3_REGION"
fi
note "store: $STORE"

step 'Two nodes, one of them in a cloud that will take it away'
"$BENCH" metadata-emulator gce >"$D/metadata.url" &
PIDS+=($!)
eventually 10 'the metadata server does not start' test -s "$D/metadata.url"
METADATA=$(cat "$D/metadata.url")
daemon a --metadata-endpoint "$METADATA"
daemon b
note "node-a, told by $METADATA; node-b"

step "redis with $SIZE of data, under \`lifeboat run\` on node-a"
supervise &
echo $! >"$D/supervisor.pid"
PIDS+=($!)
eventually 20 'redis does not start' answers
"$BENCH" redis fill --address 127.0.0.1:$PORT --size "$SIZE"
before=$(digest)
note "digest of the data: ${before:0:16}…"
"$BENCH" redis write --address 127.0.0.1:$PORT --record "$D/record" >"$D/client.jsonl" &
WRITER=$!
PIDS+=("$WRITER")
sleep 2
note "a client writes all the time"

step 'The cloud says that node-a will go'
curl -sS --fail -X PUT --data TRUE "$METADATA/control/preempted"
eventually 60 'redis does not leave node-a' has_said '"save ended"' "$D/a/daemon.log"
has_said '"committed":true' "$D/a/daemon.log" || fail "the evacuation failed: $(grep '"ERROR"' "$D/a/daemon.log" | tail -2)"
eventually 60 'redis does not come back' has_said first-answer "$D/client.jsonl"
note "redis runs on node-$(cat "$D/where"), and the client goes on"
eventually 120 'the memory is not loaded' has_said '"all memory is loaded"' "$D/b/daemon.log"
sleep 2
kill -TERM "$WRITER"
wait "$WRITER" || fail 'the client failed'

step 'What took how long'
"$BENCH" timeline --from "$D/a/daemon.log" --to "$D/b/daemon.log" --client "$D/client.jsonl" --workload $WORKLOAD |
  sed 's/^/  /'

step 'Is everything there?'
"$BENCH" redis check --address 127.0.0.1:$PORT --record "$D/record" | sed 's/^/  /' || fail 'acknowledged writes are lost'
after=$(digest)
note "digest of the data: ${after:0:16}…, before: ${before:0:16}…"
[ "$before" = "$after" ] || fail 'the data is not what it was'
step 'Nothing was lost.'
