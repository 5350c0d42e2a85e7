#!/usr/bin/env bash
# Runs the tests with the unmodified SDKs of E2B's code interpreter, Python and JavaScript, against the Atoll of the
# environment (ATOLL_URL, ATOLL_API_KEY), over plain HTTP on one port. The template is built once per machine.
#
#   scripts/with-atoll.sh scripts/interpreter.sh [pytest arguments]
#   scripts/with-atoll.sh scripts/interpreter.sh bench      the figure through the Python SDK instead
set -euo pipefail
cd "$(dirname "$0")/../tests/interpreter"
: "${ATOLL_URL:?scripts/with-atoll.sh sets it}" "${ATOLL_API_KEY:?scripts/with-atoll.sh sets it}"
cache=${ATOLL_CACHE_DIR:-/var/cache/atoll}/e2b
export E2B_API_KEY=e2b_${ATOLL_API_KEY#atl_} E2B_API_URL=$ATOLL_URL/e2b E2B_SANDBOX_URL=$ATOLL_URL
failed=0

atoll template prepare code-interpreter >&2

venv=$cache/interpreter-$(sha256sum requirements.txt | cut -c1-16)
if [ ! -e "$venv/ready" ]; then
    mkdir -p "$cache"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
    touch "$venv/ready"
fi
if [ "${1:-}" = bench ]; then
    exec "$venv/bin/python" -B ../../bench/through_interpreter.py
fi
echo "E2B's code interpreter SDK, Python, $(sed -n 's/^e2b-code-interpreter==//p' requirements.txt)"
"$venv/bin/python" -B -m pytest -n 2 "$@" || failed=1

packages=$cache/interpreter-js-$(sha256sum package-lock.json | cut -c1-16)
if [ ! -e "$packages/ready" ]; then
    mkdir -p "$packages"
    cp package.json package-lock.json "$packages/"
    npm --prefix "$packages" ci --silent --no-audit --no-fund
    touch "$packages/ready"
fi
echo "E2B's code interpreter SDK, JavaScript, $(sed -n 's/.*"@e2b.code-interpreter": "\([^"]*\)".*/\1/p' package.json)"
cp interpreter.test.mjs "$packages/"
npm --prefix "$packages" test --silent || failed=1
exit "$failed"
