#!/usr/bin/env bash
# Runs the tests with the unmodified E2B SDKs of both generations, Python and JavaScript, against the Atoll of the
# environment (ATOLL_URL, ATOLL_API_KEY): over plain HTTP on one port, or under scripts/e2b-tls.sh with TLS and host names.
#
#   scripts/with-atoll.sh scripts/e2b.sh [python|javascript] [new|old] [arguments for the test runner]
#   scripts/with-atoll.sh scripts/e2b.sh bench      the figures through the newest Python SDKs instead
#   scripts/e2b-tls.sh scripts/with-atoll.sh scripts/e2b.sh
set -euo pipefail
cd "$(dirname "$0")/../tests/e2b"
# shellcheck source=sdks.sh
. ../../scripts/sdks.sh

languages="python javascript" generations="new old" bench=
case ${1:-} in
    python | javascript) languages=$1 && shift ;;
    bench) languages=python generations=new bench=yes && shift ;;
esac
case ${1:-} in
    new | old) generations=$1 && shift ;;
esac
# The SDKs open 200 connections at most unless they are told, which open terminals and watches use up.
export E2B_MAX_CONNECTIONS=1500 E2B_ENVD_RPC_CONNECTIONS=500
list_of() { if [ "$1" = python ]; then echo "requirements-$2.txt"; else echo "js/package-$2.json"; fi; }
declare -A folders
for generation in $generations; do
    for language in $languages; do
        name=$generation
        [ "$language" = python ] || name=js-$generation
        folders[$language-$generation]=$(installed "$name" "$(list_of "$language" "$generation")")
    done
done
e2b_finds_it

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
            folder=${folders[python-$generation]}
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
            folder=${folders[javascript-$generation]}
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
