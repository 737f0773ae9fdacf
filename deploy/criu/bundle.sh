#!/bin/bash
# bundle.sh [--no-check] [DEST]: CRIU with its own loader and libraries in one folder (default /usr/lib/lifeboat/criu).
# It runs in every root file system where the folder is visible at this same path, whatever libc is there:
# that is how CRIU gets into a workload's container. Idempotent; the files are kept in the cache, unpatched.
# --no-check: do not ask whether it can work on this machine (when an image is built for another one).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../lib/debian.sh
. "$here/../lib/debian.sh"
need_root
run_check=1; [ "${1:-}" != --no-check ] || { run_check=; shift; }
DEST=${1:-/usr/lib/lifeboat/criu}
case $DEST in /*) ;; *) die "DEST must be absolute: it is written into the programs";; esac
# Images are not readable across minor versions, and the page filter knows this one.
SERIES=4.2

version_of() { "$@" --version 2>/dev/null | awk '/^Version:/ { print $2 }'; }
right_version() { case $1 in "$SERIES" | "$SERIES".*) ;; *) return 1;; esac; }

# CRIU's own opinion of this kernel; it is long, and read only if it is bad.
check() { local out; out=$("$@" check 2>&1) || { printf '%s\n' "$out" >&2; return 1; }; }

finish() {
  [ -z "$run_check" ] || check "$DEST/bin/criu" || die "'$DEST/bin/criu check' fails on this machine (see above)"
  say "CRIU $(version_of "$DEST/bin/criu") is in $DEST"
  exit 0
}

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

made=$(sed -n 's/^criu=//p' "$DEST/VERSION" 2>/dev/null || true)
if [ -n "$made" ] && [ "$(version_of "$DEST/bin/criu")" = "$made" ]; then finish; fi
command -v patchelf >/dev/null || die "patchelf is missing (deploy/setup.sh installs it)"
lock_cache
FILES=$CACHE/criu
stage=$(mktemp -d "$CACHE/bundle.XXXXXX"); trap 'rm -rf "$stage"' EXIT

loader_of_files() { (cd "$stage/files/lib" && echo ld-*.so*); }
# Before its paths are patched in, a program is run by naming its loader.
version_of_files() { version_of "$stage/files/lib/$(loader_of_files)" --library-path "$stage/files/lib" "$stage/files/bin/criu"; }

if [ ! -f "$FILES/VERSION" ]; then
  origin=
  system=$(command -v criu || true)
  if [ -n "$system" ] && right_version "$(version_of "$system")" && check "$system"; then
    say "taking the system's CRIU $(version_of "$system")"
    closure "$stage/files" "$system"; origin=$system
  fi
  for suite in ${LIFEBOAT_CRIU_SUITES:-sid forky}; do
    [ -z "$origin" ] || break
    say "fetching CRIU from Debian $suite"
    root=$stage/$suite
    debian_extract "$suite" "$root" criu || continue
    criu=$root/usr/sbin/criu; [ -e "$criu" ] || criu=$root/usr/bin/criu
    closure "$stage/files" "$criu" "$root$(patchelf --print-interpreter "$criu")" "$(printf '%s:' "$root"/usr/lib/*-linux-gnu*/)$root/usr/lib"
    version=$(version_of_files)
    if right_version "$version"; then origin="Debian $suite"; else say "it has CRIU $version: not $SERIES"; fi
  done
  [ -n "$origin" ] || die "no CRIU $SERIES could be had (LIFEBOAT_CRIU_SUITES names the suites to try)"
  printf 'criu=%s\nloader=%s\norigin=%s\n' "$(version_of_files)" "$(loader_of_files)" "$origin" >"$stage/files/VERSION"
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
[ "$(version_of "$DEST/bin/criu")" = "$(sed -n 's/^criu=//p' "$FILES/VERSION")" ] || die "the bundle in $DEST does not run"
finish
