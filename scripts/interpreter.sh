#!/usr/bin/env bash
# Runs the tests with the unmodified SDKs of E2B's code interpreter, Python of both generations and JavaScript, against the
# Atoll of the environment (ATOLL_URL, ATOLL_API_KEY): over plain HTTP on one port, or under scripts/e2b-tls.sh with TLS and
# host names. The template is built once per machine.
#
#   scripts/with-atoll.sh scripts/interpreter.sh [pytest arguments]
#   scripts/with-atoll.sh scripts/interpreter.sh bench      the figure through the Python SDK instead
#   scripts/e2b-tls.sh scripts/with-atoll.sh scripts/interpreter.sh
#   scripts/e2b-tls.sh scripts/with-atoll.sh scripts/interpreter.sh few      what differs with TLS, by the newest SDKs
set -euo pipefail
cd "$(dirname "$0")/../tests/interpreter"
# shellcheck source=sdks.sh
. ../../scripts/sdks.sh
atoll template prepare code-interpreter >&2
generations="new old"
case ${1:-} in
    bench) generations=new ;;
    few) generations=new && shift && set -- -m few "$@" ;;
esac
declare -A venv
for generation in $generations; do
    venv[$generation]=$(installed interpreter "requirements-$generation.txt")
done
packages=$(installed interpreter-js package-lock.json)
e2b_finds_it

if [ "${1:-}" = bench ]; then
    exec "${venv[new]}/bin/python" -B ../../bench/through_interpreter.py
fi
failed=0
for generation in $generations; do
    echo "E2B's code interpreter SDK, Python, $(sed -n 's/^e2b-code-interpreter==//p' "requirements-$generation.txt"), $setup"
    within "${venv[$generation]}/bin/python" -B -m pytest -n 2 "$@" || failed=1
done
# A selection among the tests in Python says nothing about those in JavaScript.
if [ $# -eq 0 ] || [ "$1" = -m ]; then
    echo "E2B's code interpreter SDK, JavaScript, $(sed -n 's/.*"@e2b.code-interpreter": "\([^"]*\)".*/\1/p' package.json), $setup"
    cp interpreter.test.mjs "$packages/"
    within npm --prefix "$packages" test --silent || failed=1
fi
exit "$failed"
