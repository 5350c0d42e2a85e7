#!/usr/bin/env bash
# Proves that scripts/quickstart.sh, run twice, shows what its first program said and does no work twice, and that its
# stop leaves nothing running.
#
#   scripts/quickstart_twice.sh     as root
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib.sh
. scripts/lib.sh

work=$(mktemp -d /var/tmp/atoll-quickstart.XXXXXX)
export ATOLL_DATA_DIR=$work/data ATOLL_LISTEN=127.0.0.1:0 ATOLL_BIN_DIR=''
cache=${ATOLL_CACHE_DIR:-/var/cache/atoll}
program=$(realpath -m "${CARGO_TARGET_DIR:-target}/release/atoll")
clean_up() {
    local pid
    # Also those that the script has lost.
    for pid in $(servers); do
        kill -TERM "$pid"
        tail --pid "$pid" -f /dev/null
    done
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# same WHAT BEFORE AFTER
same() { [ "$2" = "$3" ] || fail "The second run has changed $1." "before: $2, after: $3"; }
# Those that serve the data directory, by pid.
servers() { pgrep -f "^$program up --data-dir $ATOLL_DATA_DIR " || true; }
images() { find "$cache/images" -name '*.erofs' -printf '%f %i %T@\n' | sort; }
# count COMMAND...: how many things it lists.
count() { "$program" "$@" --json | python3 -c 'import json, sys; print(len(json.load(sys.stdin)["items"]))'; }
# What is there once, and must be the same after a second run.
state() {
    sha256sum "$program" "$ATOLL_DATA_DIR/credentials.json"
    # What it says as it starts.
    grep -c 'base template' "$ATOLL_DATA_DIR/up.log"
    stat -c '%i %Y' "$program"
    cat "$ATOLL_DATA_DIR/quickstart.pid"
    images
}
shows_the_program() {
    grep -qx 42 "$1" || fail "The output of the first program is not shown."
    grep -qF "$(credential url)" "$1" || fail "The server's address is not shown."
}
credential() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$ATOLL_DATA_DIR/credentials.json" | head -n 1; }

scripts/quickstart.sh | tee "$work/first"
shows_the_program "$work/first"
pid=$(servers)
[ "$(wc -w <<<"$pid")" = 1 ] || fail "One server should run, not: $pid"
before=$(state)

scripts/quickstart.sh | tee "$work/second"
shows_the_program "$work/second"
same "the program, who may use it, its starts, or the images" "$before" "$(state)"
same "the server" "$pid" "$(servers)"
! grep -E '^ +(Compiling|Downloaded|Installing) ' "$ATOLL_DATA_DIR/quickstart.log" || fail "The second run has built something."
for things in "admin users" "key list" "hosts list"; do
    # shellcheck disable=SC2086
    [ "$(count $things)" = 1 ] || fail "After two runs \`atoll $things\` shows more than one."
done
[ "$("$program" ps --json)" = '[]' ] || fail "A sandbox was left behind."

scripts/quickstart.sh --stop
[ -z "$(servers)" ] || fail "The server runs on after --stop."
# Nothing to stop is no failure.
scripts/quickstart.sh --stop | grep -q 'Nothing to stop'
