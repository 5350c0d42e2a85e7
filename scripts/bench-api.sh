#!/usr/bin/env bash
# Measures the API on SQLite and on a PostgreSQL of its own, and writes bench/API.md.
# Usage: scripts/bench.sh --api [--quick]
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "bench: needs root, to start a PostgreSQL as the user postgres" >&2; exit 1; }

options=()
[ "${1:-}" != --quick ] || options=(--seconds 3 --audit-rows 10000)
cargo build --release --bin atoll
cargo build --release -p atoll-bench --bin api
bench() { target/release/api --program target/release/atoll "${options[@]}" "$@"; }

bin=$(find /usr/lib/postgresql -name pg_ctl | sort -V | tail -n 1 | xargs dirname)
dir=$(mktemp -d /var/tmp/atoll-bench-api.XXXXXX)
as_postgres() { (cd / && setpriv --reuid=postgres --regid=postgres --clear-groups -- "$@"); }
finish() {
    [ ! -s "$dir/data/postmaster.pid" ] || as_postgres "$bin/pg_ctl" -D "$dir/data" -m fast stop >/dev/null || true
    rm -rf --one-file-system "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM
chown postgres "$dir" && chmod 755 "$dir"
as_postgres "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 >/dev/null
as_postgres "$bin/pg_ctl" -D "$dir/data" -w -l "$dir/log" \
    -o "-c listen_addresses='' -c unix_socket_directories='$dir'" start >/dev/null

{
    cat <<TEXT
# Measured: the API

By \`scripts/bench.sh --api\`. Server, database and load share the processors of one machine: the load is one thread with
kept-alive connections that understands nothing of an answer but its length. No TLS.

- Machine: $(nproc) processors, kernel $(uname -r)
- Commit: $(git rev-parse --short=12 HEAD)
- Date: $(date -u +%FT%RZ)

TEXT
    bench
    printf '\n'
    bench --database-url "postgres://postgres@localhost/postgres?host=$dir"
} | tee "$dir/report"
cp "$dir/report" bench/API.md
