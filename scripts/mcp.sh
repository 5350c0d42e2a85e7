#!/usr/bin/env bash
# Runs the tests of `atoll mcp` with the official Python SDK of the Model Context Protocol, both generations, over stdio and
# HTTP, against the Atoll of the environment (ATOLL_URL, ATOLL_API_KEY).
#
#   scripts/with-atoll.sh scripts/mcp.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/../tests/mcp"
# shellcheck source=sdks.sh
. ../../scripts/sdks.sh
failed=0

atoll template prepare code-interpreter

for generation in new old; do
    list=requirements-$generation.txt
    venv=$(installed "mcp-$generation" "$list")
    echo "The MCP SDK, Python, $(sed -n 's/^mcp==//p' "$list")"
    "$venv/bin/python" -B -m pytest "$@" || failed=1
done
exit "$failed"
