#!/usr/bin/env bash
# Runs the tests of `atoll mcp` with the official Python SDK of the Model Context Protocol, both generations, over stdio and
# HTTP, against the Atoll of the environment (ATOLL_URL, ATOLL_API_KEY).
#
#   scripts/with-atoll.sh scripts/mcp.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/../tests/mcp"
: "${ATOLL_URL:?scripts/with-atoll.sh sets it}" "${ATOLL_API_KEY:?scripts/with-atoll.sh sets it}"
cache=${ATOLL_CACHE_DIR:-/var/cache/atoll}/mcp
failed=0

atoll template prepare code-interpreter

for generation in new old; do
    list=requirements-$generation.txt
    venv=$cache/$generation-$(sha256sum "$list" | cut -c1-16)
    if [ ! -e "$venv/ready" ]; then
        mkdir -p "$cache"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$list"
        touch "$venv/ready"
    fi
    echo "The MCP SDK, Python, $(sed -n 's/^mcp==//p' "$list")"
    "$venv/bin/python" -B -m pytest "$@" || failed=1
done
exit "$failed"
