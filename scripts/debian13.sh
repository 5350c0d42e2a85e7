#!/usr/bin/env bash
# Runs a command in a Debian 13 of its own on this machine's kernel, with this project at its own path: what is newer
# there (QEMU, nftables, mkfs and the rest) has to do too. The system is made once and kept in the machine-wide cache.
#
#   scripts/debian13.sh COMMAND...
set -euo pipefail
here=$(realpath "$(dirname "$0")/..")
LOG=${LOG:-/dev/null}
# shellcheck source=scripts/lib.sh
source "$here/scripts/lib.sh"
[ $# -gt 0 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2; }

cache=${ATOLL_CACHE_DIR:-/var/cache/atoll}
# What the README asks of a machine, and what virtual machines need beside it.
packages=("${RUN_PACKAGES[@]}" qemu-system-x86 e2fsprogs xz-utils mount procps python3-minimal)
list=$(IFS=,; echo "${packages[*]}")
root=$cache/roots/trixie-$(printf '%s' "$list" | sha256sum | cut -c1-16)
if [ ! -e "$root" ]; then
    mkdir -p "$cache/roots"
    draft=$(mktemp -d "$cache/roots/.draft.XXXXXX")
    trap 'rm -rf --one-file-system "$draft"' EXIT
    mmdebstrap --quiet --variant=apt --skip=cleanup/apt/lists --include="$list" trixie "$draft/root" http://deb.debian.org/debian
    mkdir -p "$draft/root/old" "$draft/root$here"
    mv -T "$draft/root" "$root" 2>/dev/null || [ -e "$root" ]
    rm -rf --one-file-system "$draft"
    trap - EXIT
fi
mkdir -p "$root$here"
export HERE=$here ROOT=$root CACHE=$cache ATOLL_CACHE_DIR=/var/cache/atoll PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# Mounts of its own, which are gone when the last process in it is.
# shellcheck disable=SC2016
exec unshare --mount --propagation private bash -c '
    set -euo pipefail
    mount --bind "$ROOT" "$ROOT"
    for place in /dev /proc /sys /run; do mount --rbind "$place" "$ROOT$place"; done
    # Images are the same everywhere; its kernel for virtual machines is its own.
    for part in images templates; do
        mkdir -p "$CACHE/$part" "$ROOT/var/cache/atoll/$part"
        mount --bind "$CACHE/$part" "$ROOT/var/cache/atoll/$part"
    done
    mount -t tmpfs tmpfs "$ROOT/tmp"
    mkdir -p "$ROOT$HERE"
    mount --bind "$HERE" "$ROOT$HERE"
    if [ -n "${CARGO_TARGET_DIR:-}" ]; then
        mkdir -p "$ROOT$CARGO_TARGET_DIR"
        mount --bind "$CARGO_TARGET_DIR" "$ROOT$CARGO_TARGET_DIR"
    fi
    cp --dereference /etc/resolv.conf "$ROOT/etc/.resolv.conf.$$"
    mv -f "$ROOT/etc/.resolv.conf.$$" "$ROOT/etc/resolv.conf"
    cd "$ROOT"
    pivot_root . old
    umount -l /old
    unset HERE ROOT CACHE TMPDIR
    # A kernel for virtual machines is fetched: by a list of today.
    ls -d /var/cache/atoll/kernels/*cloud* >/dev/null 2>&1 || apt-get update -qq
    cd "$1"
    shift
    exec "$@"
' bash "$here" "$@"
