#!/usr/bin/env bash
# Measures Atoll beside the peers that run on this machine, and writes bench/RESULTS.md.
# Usage: scripts/bench.sh [--quick] [--no-peers]
#        scripts/bench.sh --e2b              what a program waits for that uses E2B's Python SDK
#        scripts/bench.sh --api [--quick]    the API alone, into bench/API.md
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --api ]; then
  shift
  exec scripts/bench-api.sh "$@"
fi

die() { printf 'bench: %s\n' "$*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die "needs root (sandboxes, namespaces); try: sudo scripts/bench.sh"

if [ "${1:-}" = --e2b ]; then
  cargo build --release --bin atoll
  export ATOLL_CPU_OVERCOMMIT=1000 ATOLL_MEMORY_OVERCOMMIT=100 ATOLL_DISK_OVERCOMMIT=1000
  exec scripts/with-atoll.sh scripts/e2b.sh bench
fi

missing=()
command -v crun >/dev/null || missing+=(crun)
command -v bwrap >/dev/null || missing+=(bubblewrap)
if [ ${#missing[@]} -gt 0 ]; then
  echo "bench: installing the peers: ${missing[*]}"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null \
    || echo "bench: could not install ${missing[*]}; they are left out"
fi

echo "bench: building (release)"
cargo build --release --bin atoll
cargo build --release -p atoll-bench
libcontainer=()
if cargo build --release --manifest-path bench/libcontainer/Cargo.toml --target-dir target/bench-libcontainer; then
  libcontainer=(--libcontainer target/bench-libcontainer/release/bench-libcontainer)
else
  echo "bench: bench/libcontainer doesn't build here; it is left out"
fi

dir=$(mktemp -d /var/tmp/atoll-bench.XXXXXX)
pid=
finish() {
  status=$?
  if [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; then
    kill -TERM "$pid"
    wait "$pid" || true
  fi
  if [ "$status" = 0 ]; then rm -rf "$dir"; else echo "bench: failed; logs are in $dir" >&2; fi
}
trap finish EXIT

ATOLL_CACHE_DIR=${ATOLL_CACHE_DIR:-/var/cache/atoll}
export ATOLL_CACHE_DIR
# 1,000 idle sandboxes of one processor each are more than the defaults promise on a small machine.
target/release/atoll up --data-dir "$dir/data" --listen 127.0.0.1:0 \
    --cpu-overcommit 1000 --memory-overcommit 100 --disk-overcommit 1000 >"$dir/up.log" 2>&1 &
pid=$!
echo "bench: waiting for Atoll (pid $pid)"
for _ in $(seq 600); do
  kill -0 "$pid" 2>/dev/null || { cat "$dir/up.log" >&2; die "atoll up ended"; }
  if [ -s "$dir/data/credentials.json" ]; then
    url=$(sed -n 's/.*"url" *: *"\([^"]*\)".*/\1/p' "$dir/data/credentials.json")
    if curl -fsS -o /dev/null "$url/readyz" 2>/dev/null; then break; fi
  fi
  sleep 0.5
done
curl -fsS -o /dev/null "$url/readyz" || die "Atoll is not ready; see $dir/up.log"

image=$(find "$ATOLL_CACHE_DIR/images" -name '*.erofs' -printf '%T@ %p\n' | sort -rn | sed -n '1s/^[^ ]* //p')
[ -n "$image" ] || die "no base image in $ATOLL_CACHE_DIR/images"
target/release/atoll-bench --data-dir "$dir/data" --pid "$pid" --image "$image" "${libcontainer[@]}" "$@"
