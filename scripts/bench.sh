#!/usr/bin/env bash
# Measures Atoll beside the peers that run on this machine, and writes bench/RESULTS.md.
# Usage: scripts/bench.sh [--quick] [--no-peers]
#        scripts/bench.sh --only create,destroy,files   these alone, shown; ATOLL_BIN measures another program
#        scripts/bench.sh --e2b              what a program waits for that uses E2B's Python SDK
#        scripts/bench.sh --api [--quick]    the API alone, into bench/API.md
#        scripts/bench.sh --hosts            heartbeats, reconciling, deaths and returns of hosts alone (4 min), shown
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
[[ "${1:-}" =~ ^--(hosts|only)$ ]] || command -v crun >/dev/null || missing+=(crun)
[[ "${1:-}" =~ ^--(hosts|only)$ ]] || command -v bwrap >/dev/null || missing+=(bubblewrap)
if [ ${#missing[@]} -gt 0 ]; then
  echo "bench: installing the peers: ${missing[*]}"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null \
    || echo "bench: could not install ${missing[*]}; they are left out"
fi

echo "bench: building (release)"
program=${ATOLL_BIN:-}
[ -n "$program" ] || { program=target/release/atoll; cargo build --release --bin atoll; }
# In another system there is what was built in this one.
if command -v cargo >/dev/null; then cargo build --release -p atoll-bench; fi
libcontainer=()
if [ "${1:-}" = --hosts ] || [ "${1:-}" = --only ]; then
  :
elif cargo build --release --manifest-path bench/libcontainer/Cargo.toml --target-dir target/bench-libcontainer; then
  libcontainer=(--libcontainer target/bench-libcontainer/release/bench-libcontainer)
else
  echo "bench: bench/libcontainer doesn't build here; it is left out"
fi

# Hosts: a PostgreSQL of its own, with its data in memory's reach but every commit on the disk. Rows into $dir/hosts.md.
hosts() {
  echo "bench: hosts (heartbeats, reconciling, deaths and returns)"
  bin=$(find /usr/lib/postgresql -name pg_ctl | sort -V | tail -n 1 | xargs -r dirname)
  [ -n "$bin" ] || die "needs PostgreSQL (apt-get install postgresql)"
  mkdir "$dir/postgres"
  chmod 711 "$dir"
  chown postgres "$dir/postgres"
  as_postgres "$bin/initdb" -D "$dir/postgres/data" -U postgres -A trust -E UTF8 >/dev/null
  as_postgres "$bin/pg_ctl" -D "$dir/postgres/data" -w -l "$dir/postgres/log" \
    -o "-c listen_addresses='' -c unix_socket_directories='$dir/postgres' -c shared_buffers=512MB" start >/dev/null
  postgres=$dir/postgres/data
  hosts_of heartbeats 10000 100000 --program "$program"
  hosts_of reconcile '' ''
  as_postgres "$bin/pg_ctl" -D "$postgres" -m fast stop >/dev/null
  postgres=
  ATOLL_BIN=$(realpath "$program") target/release/cluster --rows "$dir/hosts.md"
}
as_postgres() { (cd / && setpriv --reuid=postgres --regid=postgres --clear-groups -- "$@"); }
hosts_of() { # BENCH HOSTS HOSTS ARGUMENTS...: on SQLite, then on an empty database of PostgreSQL with its own number of hosts
  local database="b$RANDOM$RANDOM" program=$1 few=${2:+--hosts=$2} many=${3:+--hosts=$3}
  shift 3
  "target/release/$program" --rows "$dir/hosts.md" ${few:+"$few"} "$@"
  as_postgres "$bin/createdb" -h "$dir/postgres" -U postgres "$database"
  "target/release/$program" --rows "$dir/hosts.md" ${many:+"$many"} "$@" \
    --database-url "postgres://postgres@localhost/$database?host=$dir/postgres"
}

dir=$(mktemp -d /var/tmp/atoll-bench.XXXXXX)
pid=
postgres=
finish() {
  status=$?
  [ -z "$postgres" ] || as_postgres "$bin/pg_ctl" -D "$postgres" -m immediate stop >/dev/null || true
  if [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; then
    kill -TERM "$pid"
    wait "$pid" || true
  fi
  if [ "$status" = 0 ]; then rm -rf "$dir"; else echo "bench: failed; logs are in $dir" >&2; fi
}
trap finish EXIT

if [ "${1:-}" = --hosts ]; then
  hosts
  printf '\n| what | goal | measured | met |\n| --- | --- | --- | --- |\n'
  cat "$dir/hosts.md"
  exit
fi

ATOLL_CACHE_DIR=${ATOLL_CACHE_DIR:-/var/cache/atoll}
# Nothing is built beside what is measured.
export ATOLL_CACHE_DIR ATOLL_BUILD_AHEAD=false
# Starts of machines are measured without; those that take one over have a server of their own.
export ATOLL_SPARE_MACHINES=0
# 1,000 idle sandboxes of one processor each are more than the defaults promise on a small machine.
"$program" up --data-dir "$dir/data" --listen 127.0.0.1:0 --log info,atoll_host::driver::vm=debug \
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

digest=$(ATOLL_DATA_DIR="$dir/data" "$program" template get base --json | sed -n 's/.*"digest" *: *"\([0-9a-f]*\)".*/\1/p')
image=$ATOLL_CACHE_DIR/images/$digest.erofs
[ -f "$image" ] || die "the image of base is not at $image"
if [ "${1:-}" = --only ]; then
  target/release/atoll-bench --data-dir "$dir/data" --pid "$pid" --log "$dir/up.log" --image "$image" "$@"
  exit
fi
hosts
echo "bench: virtual machines on a Debian 13"
newer=()
quick=()
case " $* " in *" --quick "*) quick=(--quick) ;; esac
if scripts/debian13.sh env ATOLL_BIN="$program" scripts/bench.sh --only vm "${quick[@]}" | grep '^| vm' >"$dir/newer.md"; then
  newer=(--newer "$dir/newer.md")
else
  echo "bench: it could not be measured there; it is left out"
fi

target/release/atoll-bench --hosts "$dir/hosts.md" "${newer[@]}" --data-dir "$dir/data" --pid "$pid" --log "$dir/up.log" --image "$image" "${libcontainer[@]}" "$@"
