#!/usr/bin/env bash
# Runs a command beside a real Atoll of its own: a fresh data directory, any free port, gone afterwards.
#
#   scripts/with-atoll.sh [--program FILE] COMMAND...
#
# The command finds ATOLL_URL, ATOLL_API_KEY, ATOLL_DATA_DIR and ATOLL_PID in its environment, and atoll in its PATH.
set -euo pipefail
program=$(realpath -m "$(dirname "$0")/../target/release/atoll")
if [ "${1:-}" = --program ]; then
    program=$(realpath "$2")
    shift 2
fi
[ $# -gt 0 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }

data=$(mktemp -d /tmp/atoll-with.XXXXXX)
pid=
stop() {
    local code=$?
    if [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; then
        "$program" rm --all >/dev/null 2>&1 </dev/null || true
        kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" || true
    fi
    if [ "$code" -ne 0 ]; then
        printf '\nThe end of the log of atoll up:\n'
        tail -n 15 "$data/logs/atoll.log" 2>/dev/null || true
    fi
    rm -rf --one-file-system "$data"
    exit "$code"
}
trap stop EXIT
trap 'exit 130' INT TERM

# Settings of another Atoll must not reach this one, nor its client.
unset ATOLL_URL ATOLL_API_KEY ATOLL_LISTEN ATOLL_DATABASE_URL
export ATOLL_DATA_DIR=$data
# Nothing that the command didn't ask for.
export ATOLL_BUILD_AHEAD=${ATOLL_BUILD_AHEAD:-false} ATOLL_SPARE_MACHINES=${ATOLL_SPARE_MACHINES:-0}
"$program" up --data-dir "$data" --listen 127.0.0.1:0 >"$data/up.log" 2>&1 </dev/null &
pid=$!
credential() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$data/credentials.json" 2>/dev/null | head -n 1; }
deadline=$((SECONDS + 300))
until ATOLL_URL=$(credential url) && [ -n "$ATOLL_URL" ] && curl -fsS -o /dev/null --max-time 2 "$ATOLL_URL/readyz" 2>/dev/null; do
    kill -0 "$pid" 2>/dev/null || { echo "atoll up has ended" >&2; exit 1; }
    [ "$SECONDS" -lt "$deadline" ] || { echo "atoll up is not ready after 5 minutes" >&2; exit 1; }
    sleep 0.1
done
ATOLL_API_KEY=$(credential api_key)
export ATOLL_URL ATOLL_API_KEY ATOLL_PID=$pid
PATH="$(dirname "$program"):$PATH" "$@"
