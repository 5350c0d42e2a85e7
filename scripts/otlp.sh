#!/usr/bin/env bash
# Runs the tests of the export of metrics with OpenTelemetry's own messages (opentelemetry-proto, from PyPI), against an Atoll
# that is started to send them to the test.
#
#   scripts/otlp.sh [--program FILE] [pytest arguments]
set -euo pipefail
here=$(realpath "$(dirname "$0")")
if [ "${1:-}" = --tests ]; then
    shift
    cd "$here/../tests/otlp"
    # shellcheck source=sdks.sh
    . "$here/sdks.sh"
    venv=$(installed otlp requirements.txt)
    exec "$venv/bin/python" -B -m pytest "$@"
fi
program=()
if [ "${1:-}" = --program ]; then
    program=(--program "$2")
    shift 2
fi
port=$(python3 -c 'import socket; it = socket.socket(); it.bind(("127.0.0.1", 0)); print(it.getsockname()[1])')
export ATOLL_OTLP_ENDPOINT=http://127.0.0.1:$port ATOLL_OTLP_INTERVAL=1s
export ATOLL_OTLP_HEADERS=api-key=a-key-that-nobody-may-see
exec "$here/with-atoll.sh" "${program[@]}" "$here/otlp.sh" --tests "$@"
