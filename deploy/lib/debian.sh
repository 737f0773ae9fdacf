# shellcheck shell=bash
# Sourced, not run. Takes packages out of a newer Debian than this machine's without touching the machine's own apt:
# CRIU and Ceph of the stable release are too old for us, and installing newer ones would replace libc.

CACHE=${LIFEBOAT_CACHE:-/var/cache/lifeboat}
APT_DIR=$CACHE/apt

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }
need_root() { [ "$(id -u)" = 0 ] || die "must run as root (try: sudo $0)"; }

# The first value of a field in the machine's deb822 Debian source ("URIs" or "Signed-By").
_debian_field() {
  local f
  for f in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/*.sources; do
    [ -f "$f" ] || continue
    # A source is Debian's if it names the main archive's keyring and not the security one's.
    awk -v want="$1:" 'BEGIN { RS = ""; FS = "\n" }
      /Signed-By:[^\n]*debian-archive/ && !/debian-security/ {
        for (i = 1; i <= NF; i++) if (split($i, w, " ") > 1 && w[1] == want) { print w[2]; exit } }' "$f"
  done | head -n1
}

_debian_mirror() {
  local m=${LIFEBOAT_DEBIAN_MIRROR:-}
  [ -n "$m" ] || m=$(_debian_field URIs)
  # Older installations have one-line sources.
  [ -n "$m" ] || m=$(awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^https?:.*\/debian\/?$/) { print $i; exit } }' /etc/apt/sources.list 2>/dev/null || true)
  [ -n "$m" ] || die "no Debian mirror among this machine's apt sources: set LIFEBOAT_DEBIAN_MIRROR to one, and install debian-archive-keyring"
  printf '%s\n' "$m"
}

_debian_keyring() {
  local k
  for k in "$(_debian_field Signed-By)" /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
    [ -n "$k" ] && [ -f "$k" ] && { printf '%s\n' "$k"; return; }
  done
  die "no Debian archive keyring: apt-get install debian-archive-keyring"
}

# debian_apt SUITE ARGS…: apt-get that knows only SUITE and believes that nothing is installed,
# so that "install --download-only" yields the whole closure, libc included. (Errors are returned by hand: callers try several suites.)
debian_apt() {
  local suite=$1 d=$APT_DIR/$1 mirror keyring; shift
  mkdir -p "$d"/{state/lists/partial,cache/archives/partial,sources.d}; : >"$d/status"
  mirror=$(_debian_mirror) || return 1; keyring=$(_debian_keyring) || return 1
  # Targets: only what is needed; desktop machines would fetch icons and translations too.
  printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\nTargets: Packages\nPDiffs: no\n\nTypes: deb-src\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\nTargets: Sources\nPDiffs: no\n' \
    "$mirror" "$suite" "$keyring" "$mirror" "$suite" "$keyring" >"$d/sources.d/debian.sources"
  local o=(-qq -o Dir::State="$d/state" -o Dir::State::status="$d/status" -o Dir::Cache="$d/cache"
    -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$d/sources.d"
    -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null
    -o APT::Install-Recommends=0 -o APT::Sandbox::User=root -o Debug::NoLocking=1)
  # sid moves several times a day: lists older than some hours name packages that are gone.
  if [ -z "$(find "$d/updated" -mmin -240 2>/dev/null)" ]; then
    DEBIAN_FRONTEND=noninteractive apt-get "${o[@]}" update >&2 || return 1
    touch "$d/updated"
  fi
  DEBIAN_FRONTEND=noninteractive apt-get "${o[@]}" "$@"
}

# debian_extract SUITE ROOT PACKAGE…: downloads the packages with all they need and unpacks them into ROOT (merged /usr).
debian_extract() {
  local suite=$1 root=$2 deb d; shift 2
  mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
  for d in bin sbin lib lib64; do ln -sfn "usr/$d" "$root/$d"; done
  rm -f "$APT_DIR/$suite"/cache/archives/*.deb
  debian_apt "$suite" -y --download-only install "$@" >/dev/null || return 1
  for deb in "$APT_DIR/$suite"/cache/archives/*.deb; do
    # tar, not dpkg -x: the links of the merged /usr must stay links.
    dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$root" || return 1
  done
  rm -f "$APT_DIR/$suite"/cache/archives/*.deb
}

# Only one of our scripts at a time changes the cache.
lock_cache() {
  mkdir -p "$CACHE"
  exec {CACHE_LOCK}>"$CACHE/lock"
  flock -w 900 "$CACHE_LOCK" || die "another run holds $CACHE/lock"
}
