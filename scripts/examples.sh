#!/usr/bin/env bash
# Runs the programs of examples/ against the Atoll of the environment (ATOLL_URL, ATOLL_API_KEY), over plain HTTP.
#
#   scripts/with-atoll.sh scripts/examples.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/../tests/examples"
: "${ATOLL_URL:?scripts/with-atoll.sh sets it}" "${ATOLL_API_KEY:?scripts/with-atoll.sh sets it}"
cache=${ATOLL_CACHE_DIR:-/var/cache/atoll}/e2b
export E2B_API_KEY=e2b_${ATOLL_API_KEY#atl_} E2B_API_URL=$ATOLL_URL/e2b E2B_SANDBOX_URL=$ATOLL_URL

atoll template prepare code-interpreter

list=../../examples/requirements.txt
venv=$cache/examples-$(sha256sum "$list" | cut -c1-16)
if [ ! -e "$venv/ready" ]; then
    mkdir -p "$cache"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$list" pytest==8.4.2
    touch "$venv/ready"
fi
"$venv/bin/python" -B -m pytest -p no:cacheprovider "$@"
