#!/usr/bin/env bash
# Runs the tests with the unmodified E2B SDKs of both generations against the Atoll of the environment (ATOLL_URL,
# ATOLL_API_KEY): everything over plain HTTP on one port.
#
#   scripts/with-atoll.sh scripts/e2b.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/../tests/e2b"
: "${ATOLL_URL:?scripts/with-atoll.sh sets it}" "${ATOLL_API_KEY:?scripts/with-atoll.sh sets it}"

venvs=${ATOLL_CACHE_DIR:-/var/cache/atoll}/e2b
failed=0
for generation in new old; do
    requirements=requirements-$generation.txt
    venv=$venvs/$generation-$(sha256sum "$requirements" | cut -c1-16)
    if [ ! -e "$venv/ready" ]; then
        mkdir -p "$venvs"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
        touch "$venv/ready"
    fi
    echo "E2B SDK, Python, $(sed -n 's/^e2b==//p' "$requirements")"
    # The older generation only takes keys that look like E2B's own.
    key=e2b_${ATOLL_API_KEY#atl_}
    E2B_API_KEY=$key E2B_API_URL=$ATOLL_URL/e2b E2B_SANDBOX_URL=$ATOLL_URL \
        "$venv/bin/python" -m pytest -n 2 "$@" || failed=1
done
exit "$failed"
