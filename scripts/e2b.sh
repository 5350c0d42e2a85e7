#!/usr/bin/env bash
# Runs the tests with the unmodified E2B SDKs of both generations, Python and JavaScript, against the Atoll of the
# environment (ATOLL_URL, ATOLL_API_KEY): over plain HTTP on one port, or under scripts/e2b-tls.sh with TLS and host names.
#
#   scripts/with-atoll.sh scripts/e2b.sh [python|javascript] [new|old] [arguments for the test runner]
#   scripts/with-atoll.sh scripts/e2b.sh bench      the figures through the newest Python SDKs instead
#   scripts/e2b-tls.sh scripts/with-atoll.sh scripts/e2b.sh
set -euo pipefail
cd "$(dirname "$0")/../tests/e2b"
: "${ATOLL_URL:?scripts/with-atoll.sh sets it}" "${ATOLL_API_KEY:?scripts/with-atoll.sh sets it}"

languages="python javascript" generations="new old" bench=
case ${1:-} in
    python | javascript) languages=$1 && shift ;;
    bench) languages=python generations=new bench=yes && shift ;;
esac
case ${1:-} in
    new | old) generations=$1 && shift ;;
esac
cache=${ATOLL_CACHE_DIR:-/var/cache/atoll}/e2b
mkdir -p "$cache"

# The older generation only takes keys that look like E2B's own.
export E2B_API_KEY=e2b_${ATOLL_API_KEY#atl_}
# The SDKs open 200 connections at most unless they are told, which open terminals and watches use up.
export E2B_MAX_CONNECTIONS=1500 E2B_ENVD_RPC_CONNECTIONS=500
unset E2B_DOMAIN E2B_API_URL E2B_SANDBOX_URL E2B_VOLUME_API_URL E2B_DEBUG
# once FOLDER LANGUAGE LIST: installs an SDK where it isn't yet. Others may run beside this one.
once() {
    local lock
    exec {lock}>"$cache/lock"
    flock "$lock"
    if [ ! -e "$1/ready" ]; then
        if [ "$2" = python ]; then
            python3 -m venv "$1"
            "$1/bin/pip" install --quiet --disable-pip-version-check -r "$3"
        else
            mkdir -p "$1"
            cp "$3" "$1/package.json"
            npm --prefix "$1" install --silent --no-audit --no-fund
        fi
        touch "$1/ready"
    fi
    exec {lock}>&-
}
list_of() { if [ "$1" = python ]; then echo "requirements-$2.txt"; else echo "js/package-$2.json"; fi; }
folder_of() { # LANGUAGE GENERATION
    local list
    list=$(list_of "$1" "$2")
    [ "$1" = python ] && echo "$cache/$2-$(sha256sum "$list" | cut -c1-16)" || echo "$cache/js-$2-$(sha256sum "$list" | cut -c1-16)"
}
# Before the variables for TLS: whoever installs trusts the machine's certificates, not the test's.
for generation in $generations; do
    for language in $languages; do
        once "$(folder_of "$language" "$generation")" "$language" "$(list_of "$language" "$generation")"
    done
done

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
    export E2B_API_URL=$ATOLL_URL/e2b E2B_SANDBOX_URL=$ATOLL_URL E2B_VOLUME_API_URL=$ATOLL_URL/e2b
    within() { "$@"; }
    setup="plain HTTP"
fi

# by_a_name PYTHON: one port again, and a name of the machine's own in the place of its address.
by_a_name() {
    local port=${ATOLL_URL##*:} hosts code=0
    hosts=$(mktemp /tmp/atoll-e2b-hosts.XXXXXX)
    printf '127.0.0.1 localhost atoll.lan\n' >"$hosts"
    echo "The same by a name, http://atoll.lan:$port"
    # shellcheck disable=SC2016
    E2B_API_URL=http://atoll.lan:$port/e2b E2B_SANDBOX_URL=http://atoll.lan:$port E2B_VOLUME_API_URL=http://atoll.lan:$port/e2b \
        unshare --mount sh -c 'mount --bind "$0" /etc/hosts && exec "$@"' "$hosts" \
        "$1" -B -m pytest -n 2 test_inside.py test_ports.py test_volumes.py || code=1
    rm -f "$hosts"
    return "$code"
}

failed=0
for generation in $generations; do
    for language in $languages; do
        if [ "$language" = python ]; then
            list=$(list_of python "$generation")
            folder=$(folder_of python "$generation")
            if [ -n "$bench" ]; then
                "$folder/bin/python" -B ../../bench/through_sdk.py
                exec ../../scripts/interpreter.sh bench
            fi
            echo "E2B SDK, Python, $(sed -n 's/^e2b==//p' "$list"), $setup"
            # Of a run of all tests it is asked whether they have called every method of the SDK.
            calls=
            [ $# -gt 0 ] || calls=$(mktemp -d /tmp/atoll-e2b-calls.XXXXXX)
            tests() { ATOLL_E2B_CALLS=$calls within "$folder/bin/python" -B -m pytest "$@" || failed=1; }
            if [ -z "$calls" ]; then
                tests -n 2 "$@"
            else
                tests -n 2 -m "not alone"
                tests -m alone
                python3 -B calls.py "$calls" || failed=1
                rm -rf "$calls"
                [ -n "${ATOLL_E2B_TLS:-}" ] || by_a_name "$folder/bin/python" || failed=1
            fi
        else
            list=$(list_of javascript "$generation")
            folder=$(folder_of javascript "$generation")
            echo "E2B SDK, JavaScript, $(sed -n 's/.*"e2b": "\([^"]*\)".*/\1/p' "$list"), $setup"
            calls=
            [ $# -gt 0 ] || calls=$(mktemp -d /tmp/atoll-e2b-calls.XXXXXX)
            export NODE_PATH=$folder/node_modules
            ATOLL_E2B_CALLS=$calls within node --test --test-concurrency=2 "$@" js/*.test.cjs || failed=1
            if [ -n "$calls" ]; then
                node js/calls.cjs "$calls" || failed=1
                rm -rf "$calls"
            fi
        fi
    done
done
exit "$failed"
