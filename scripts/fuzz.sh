#!/usr/bin/env bash
# Asks a real server everything that its own OpenAPI document lets one think of, right and wrong, and fails when an
# answer is a 500, has a status or a shape that the document doesn't name, or accepts what the document forbids.
#
#   scripts/fuzz.sh PROGRAM [DATABASE_URL]      ATOLL_FUZZ_SECONDS: how long (60)
#
# The tool is schemathesis from PyPI, in a virtual environment that is kept between runs.
set -euo pipefail
cd "$(dirname "$0")/.."
program=$(realpath "$1")
database=${2:-}
seconds=${ATOLL_FUZZ_SECONDS:-60}
version=4.32.5
venv=${ATOLL_CACHE_DIR:-/var/cache/atoll}/schemathesis-$version
work=$(mktemp -d /tmp/atoll-fuzz.XXXXXX)
server=

cleanup() {
    if [ -n "$server" ]; then
        kill -TERM "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

if [ ! -x "$venv/bin/schemathesis" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
fi

arguments=(server --data-dir "$work/data" --listen 127.0.0.1:0)
[ -z "$database" ] || export ATOLL_DATABASE_URL=$database
"$program" "${arguments[@]}" >"$work/log" 2>&1 &
server=$!
for _ in $(seq 300); do
    url=$(sed -n 's|^make the first admin at \(.*\)/setup with the token .*|\1|p' "$work/log")
    [ -z "$url" ] || break
    kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.2
done
[ -n "$url" ] || { echo "the server did not start in time" >&2; cat "$work/log" >&2; exit 1; }
token=$(sed -n 's|^make the first admin at .* with the token ||p' "$work/log")
jwt=$(python3 - "$url" "$token" <<'PYTHON'
import json, sys, urllib.request
body = {"token": sys.argv[2], "email": "fuzz@example.test", "password": "a long enough one"}
request = urllib.request.Request(sys.argv[1] + "/v1/auth/setup", json.dumps(body).encode(),
                                 {"content-type": "application/json"})
print(json.load(urllib.request.urlopen(request))["token"])
PYTHON
)

# Not asked: what ends the session that asks (sessions, the account's own switches), and what never ends or is no
# request and answer (streams, WebSockets). A server without hosts says 503 to a create, as it should; and not every
# text that has a schema's form is one that makes sense, so a 400 with a field is fine for those.
cd "$work"
timeout $((seconds * 3 + 60)) "$venv/bin/schemathesis" run "$url/openapi.json" \
    --header "Authorization: Bearer $jwt" \
    --checks all --exclude-checks not_a_server_error,positive_data_acceptance \
    --seed "${ATOLL_FUZZ_SEED:-1}" --phases examples,coverage,fuzzing --continue-on-failure --max-time "$seconds" --request-timeout 20 \
    --warnings off --no-color \
    --exclude-path-regex '/(events|exec/stream|pty|watch|tunnel|relay)$|/auth/(logout|switch-team)|/v1/sessions|/me/password|/users/[^/]+/(active|admin)$'

# 5xx is judged here: 503 and 504 are answers, 500 is a bug, and the log says of each what went wrong.
if grep -q 'a request failed' "$work/log"; then
    grep 'a request failed' "$work/log" | head -20 >&2
    echo "the server answered 500" >&2
    exit 1
fi
