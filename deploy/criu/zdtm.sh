#!/bin/bash
# CRIU's own test programs: each has a state that a checkpoint could damage, and checks it afterwards.
#   zdtm.sh get DIR                        fetch CRIU's source and build them (needs what setup.sh --tests installs)
#   zdtm.sh list DIR [--long]              names of those that can run here: host flavour, no special treatment
#   zdtm.sh baseline DIR OUT [NAME…]       run them through plain CRIU; PASS and FAIL lines go to OUT
# A test is static/NAME or transition/NAME below DIR/zdtm. --long adds, by tabs: its flags, options for dump, for restore.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../lib/debian.sh
. "$here/../lib/debian.sh"
usage="usage: ${0##*/} get DIR | list DIR [--long] | baseline DIR OUT [NAME…]"
verb=${1:?$usage}; mkdir -p "${2:?$usage}"; D=$(cd "$2" && pwd); shift 2

get() (
  [ ! -f "$D/complete" ] || return 0
  lock_cache
  say "fetching and building CRIU's test programs"
  rm -rf "$D"/{source,zdtm,build.log}; mkdir -p "$D/source"
  # The version of the bundle if it is still to be had: tests and program belong together. Without Debian's own patches: no test needs them.
  (cd "$D/source" && debian_apt sid --download-only --tar-only source criu)
  tar -xf "$D"/source/criu_*.orig.tar.* -C "$D/source" --strip-components=1
  # -Werror is for CRIU's developers: newer compilers warn of more.
  local make=(make -k -j"$(nproc)" USERCFLAGS=-Wno-error)
  {
    "${make[@]}" -C "$D/source/test/zdtm/lib"
    # Some need libraries that we do without; what does not build is not listed.
    "${make[@]}" -C "$D/source/test/zdtm/static" || true
    "${make[@]}" -C "$D/source/test/zdtm/transition" || true
  } >"$D/build.log" 2>&1 || { tail -5 "$D/build.log" >&2; die "the build failed; see $D/build.log"; }
  ln -sfn source/test/zdtm "$D/zdtm"
  # Most of them drop root and write beside themselves.
  chmod a+w "$D"/zdtm/{static,transition}
  rm -f "$D"/source/criu_*.tar.*
  local runnable; runnable=$("$here/zdtm.py" list "$D")
  wc -l <<<"$runnable" >"$D/complete"
)

need_root
case $verb in
  get) get; say "$(cat "$D/complete") of CRIU's test programs are in $D";;
  list | baseline) [ -f "$D/complete" ] || die "first: $0 get $D"; exec "$here/zdtm.py" "$verb" "$D" "$@";;
  *) die "$usage";;
esac
