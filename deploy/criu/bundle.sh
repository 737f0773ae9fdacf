#!/bin/bash
# bundle.sh [DEST]: CRIU with its own loader and libraries in one folder (default /usr/lib/lifeboat/criu).
# It runs in every root file system where the folder is visible at this same path, whatever libc is there:
# that is how CRIU gets into a workload's container. Idempotent; the files are kept in the cache, unpatched.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../lib/debian.sh
. "$here/../lib/debian.sh"
need_root
DEST=${1:-/usr/lib/lifeboat/criu}
case $DEST in /*) ;; *) die "DEST must be absolute: it is written into the programs";; esac
OLDEST=4.1

version_of() { "$@" --version 2>/dev/null | awk '/^Version:/ { print $2 }'; }
at_least() { dpkg --compare-versions "$1" ge "$2"; }

# check CRIU…: CRIU asks whether loopback is up, and its feature cache must not remember another CRIU's answers.
check() { local out; out=$("$@" check 2>&1) || { printf '%s\n' "$out" >&2; return 1; }; }

# closure OUT CRIU [LOADER LIBS]: copies CRIU, its loader and every library that it would load to OUT/bin and OUT/lib.
closure() {
  local out=$1 criu=$2 name path list libs=/none
  rm -rf "$out"; mkdir -p "$out"/{bin,lib}
  if [ $# -gt 2 ]; then list=$("$3" --library-path "$4" --list "$criu"); else list=$(ldd "$criu"); fi
  while read -r name path; do
    # "libx.so.1 => /path (0x…)", or the loader "/lib64/ld-linux…so.2 (0x…)"; the vdso has no path.
    case $path in '=> /'*) path=${path#=> }; path=${path% (*};; *) continue;; esac
    cp -L "$path" "$out/lib/${name##*/}"; [ "$name" != libc.so.6 ] || libs=${path%/*}
  done <<<"$list"
  # What a library preloaded into CRIU may need (Rust's standard library links the unwinder).
  [ ! -e "$libs/libgcc_s.so.1" ] || cp -L "$libs/libgcc_s.so.1" "$out/lib/"
  cp -L "${3:-$(patchelf --print-interpreter "$criu")}" "$out/lib/"
  cp -L "$criu" "$out/bin/criu"
}

if [ -x "$DEST/bin/criu" ] && [ -f "$DEST/VERSION" ] && [ "$(version_of "$DEST/bin/criu")" = "$(sed -n 's/^criu=//p' "$DEST/VERSION")" ]; then
  say "CRIU $(version_of "$DEST/bin/criu") is in $DEST"; exit 0
fi
command -v patchelf >/dev/null || die "patchelf is missing (deploy/setup.sh installs it)"
lock_cache
FILES=$CACHE/criu
stage=$(mktemp -d "$CACHE/bundle.XXXXXX"); trap 'rm -rf "$stage"' EXIT

if [ ! -f "$FILES/VERSION" ]; then
  system=$(command -v criu || true)
  if [ -n "$system" ] && at_least "$(version_of "$system")" $OLDEST && check "$system"; then
    say "taking the system's CRIU $(version_of "$system")"
    closure "$stage/files" "$system"
    origin=$system
  else
    for suite in ${LIFEBOAT_CRIU_SUITES:-sid trixie}; do
      say "fetching CRIU from Debian $suite"
      rm -rf "$stage/root"
      if debian_extract "$suite" "$stage/root" criu; then origin="Debian $suite"; break; fi
    done
    [ -n "${origin:-}" ] || die "cannot fetch CRIU"
    criu=$stage/root/usr/sbin/criu; [ -e "$criu" ] || criu=$stage/root/usr/bin/criu
    loader=$stage/root$(patchelf --print-interpreter "$criu")
    closure "$stage/files" "$criu" "$loader" "$(printf '%s:' "$stage"/root/usr/lib/*-linux-gnu*/)$stage/root/usr/lib"
  fi
  loader=$(cd "$stage/files/lib" && echo ld-*.so*)
  version=$(version_of "$stage/files/lib/$loader" --library-path "$stage/files/lib" "$stage/files/bin/criu")
  at_least "$version" $OLDEST || die "CRIU '$version' from $origin is older than $OLDEST"
  printf 'criu=%s\nloader=%s\norigin=%s\n' "$version" "$loader" "$origin" >"$stage/files/VERSION"
  rm -rf "$FILES"; mv "$stage/files" "$FILES"
fi

loader=$(sed -n 's/^loader=//p' "$FILES/VERSION")
cp -a "$FILES" "$stage/new"
# --force-rpath: DT_RPATH is also searched for the libraries' own needs, DT_RUNPATH is not.
patchelf --set-interpreter "$DEST/lib/$loader" --force-rpath --set-rpath "$DEST/lib" "$stage/new/bin/criu"
mkdir -p "$DEST"/{bin,lib}
# File by file and by rename: lifeboat's own files live here too, and a running CRIU keeps the files that it has open.
for p in "$stage"/new/{lib/*,bin/criu,VERSION}; do
  p=${p#"$stage/new/"}; cp -a "$stage/new/$p" "$DEST/$p.new"; mv -f "$DEST/$p.new" "$DEST/$p"
done
version=$(version_of "$DEST/bin/criu")
[ "$version" = "$(sed -n 's/^criu=//p' "$FILES/VERSION")" ] || die "the bundle in $DEST does not run"
# A kernel or container that CRIU cannot work in is a fact about the machine, not about the bundle: say it, loudly, and fail.
check "$DEST/bin/criu" || die "'$DEST/bin/criu check' fails on this machine (see above)"
say "CRIU $version is in $DEST"
