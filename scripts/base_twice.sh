#!/usr/bin/env bash
# Proves that the base template is made reproducibly: made twice, at the same time and in different places, from one state
# of Debian's archive, it is the same image. The archive is one that stands still (tests/base/mirror.py): the real one may
# change between two builds. Where the images differ, it says in which files.
#
#   scripts/base_twice.sh [PROGRAM]     as root; target/release/atoll by default
set -euo pipefail
program=$(realpath -m "${1:-$(dirname "$0")/../target/release/atoll}")
cd "$(dirname "$0")/.."

work=$(mktemp -d /var/tmp/atoll-base.XXXXXX)
mirror=
clean_up() {
    [ -z "$mirror" ] || kill "$mirror" 2>/dev/null || true
    wait
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

mkdir "$work/archive"
mkfifo "$work/port"
python3 tests/base/mirror.py "$work/archive" >"$work/port" &
mirror=$!
read -r port <"$work/port"
export ATOLL_DEBIAN_MIRROR=http://127.0.0.1:$port/debian
export ATOLL_DEBIAN_SECURITY_MIRROR=http://127.0.0.1:$port/debian-security
export no_proxy=127.0.0.1${no_proxy:+,$no_proxy}

# make CACHE: prints the digest of the image that was made there.
make() { "$program" template prepare base --json --cache-dir "$1" 2>"$1.log" | sed -n 's/.*"digest":"\([0-9a-f]*\)".*/\1/p'; }
caches=("$work/one" "$work/another/further/down")
mkdir -p "${caches[@]}"
makers=()
for cache in "${caches[@]}"; do
    make "$cache" >"$cache.digest" &
    makers+=($!)
done
for index in "${!makers[@]}"; do
    wait "${makers[index]}" || { cat "${caches[index]}.log"; exit 1; }
done
digests=("$(cat "${caches[0]}.digest")" "$(cat "${caches[1]}.digest")")
packages=$(find "$work/archive" -type f -size +0 | wc -l)
if [ -n "${digests[0]}" ] && [ "${digests[0]}" = "${digests[1]}" ]; then
    echo "made twice from the same $packages files of the archive: ${digests[0]}"
else
    echo "the base template differs from build to build: ${digests[*]}"
    for index in 0 1; do
        fsck.erofs --extract="$work/files$index" "${caches[index]}/images/${digests[index]}.erofs" >/dev/null
        # Names, owners, modes and times.
        (cd "$work/files$index" && find . -printf '%p %U:%G %m %s %T@ %l\n' | sort) >"$work/list$index"
    done
    diff -rq --no-dereference "$work/files0" "$work/files1" | head -n 20 || true
    diff "$work/list0" "$work/list1" | head -n 20 || true
    false
fi
