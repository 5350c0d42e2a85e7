#!/usr/bin/env bash
# Runs the tests with the unmodified SDKs of E2B's code interpreter, Python of both generations and JavaScript, against the
# Atoll of the environment (ATOLL_URL, ATOLL_API_KEY): over plain HTTP on one port, or under scripts/e2b-tls.sh with TLS and
# host names. The template is built once per machine.
#
#   scripts/with-atoll.sh scripts/interpreter.sh [pytest arguments]
#   scripts/with-atoll.sh scripts/interpreter.sh bench      the figure through the Python SDK instead
#   scripts/e2b-tls.sh scripts/with-atoll.sh scripts/interpreter.sh
set -euo pipefail
cd "$(dirname "$0")/../tests/interpreter"
: "${ATOLL_URL:?scripts/with-atoll.sh sets it}" "${ATOLL_API_KEY:?scripts/with-atoll.sh sets it}"
cache=${ATOLL_CACHE_DIR:-/var/cache/atoll}/e2b
export E2B_API_KEY=e2b_${ATOLL_API_KEY#atl_}
unset E2B_DOMAIN E2B_API_URL E2B_SANDBOX_URL E2B_DEBUG
failed=0

atoll template prepare code-interpreter >&2

# Before the variables for TLS: whoever installs trusts the machine's certificates, not the test's.
venv_of() { echo "$cache/interpreter-$(sha256sum "requirements-$1.txt" | cut -c1-16)"; }
for generation in new old; do
    venv=$(venv_of "$generation")
    if [ ! -e "$venv/ready" ]; then
        mkdir -p "$cache"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r "requirements-$generation.txt"
        touch "$venv/ready"
    fi
done
packages=$cache/interpreter-js-$(sha256sum package-lock.json | cut -c1-16)
if [ ! -e "$packages/ready" ]; then
    mkdir -p "$packages"
    cp package.json package-lock.json "$packages/"
    npm --prefix "$packages" ci --silent --no-audit --no-fund
    touch "$packages/ready"
fi

if [ -n "${ATOLL_E2B_TLS:-}" ]; then
    export E2B_DOMAIN=$ATOLL_DOMAIN:${ATOLL_URL##*:}
    export SSL_CERT_FILE=$ATOLL_E2B_TLS/ca.pem NODE_EXTRA_CA_CERTS=$ATOLL_E2B_TLS/ca.pem
    # Names are looked up at a resolver of the test's own, in a mount namespace of its own.
    within() {
        # shellcheck disable=SC2016
        unshare --mount sh -c 'mount --bind "$0/resolv.conf" /etc/resolv.conf && exec "$@"' "$ATOLL_E2B_TLS" "$@"
    }
    setup="TLS and host names"
else
    export E2B_API_URL=$ATOLL_URL/e2b E2B_SANDBOX_URL=$ATOLL_URL
    within() { "$@"; }
    setup="plain HTTP"
fi

if [ "${1:-}" = bench ]; then
    exec "$(venv_of new)/bin/python" -B ../../bench/through_interpreter.py
fi
for generation in new old; do
    echo "E2B's code interpreter SDK, Python, $(sed -n 's/^e2b-code-interpreter==//p' "requirements-$generation.txt"), $setup"
    within "$(venv_of "$generation")/bin/python" -B -m pytest -n 2 "$@" || failed=1
done
echo "E2B's code interpreter SDK, JavaScript, $(sed -n 's/.*"@e2b.code-interpreter": "\([^"]*\)".*/\1/p' package.json), $setup"
cp interpreter.test.mjs "$packages/"
within npm --prefix "$packages" test --silent || failed=1
exit "$failed"
