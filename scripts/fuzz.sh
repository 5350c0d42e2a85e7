#!/usr/bin/env bash
# Asks a real server everything that its own OpenAPI document lets one think of, right and wrong, and fails when an
# answer is a 500, has a status or a shape that the document doesn't name, or accepts what the document forbids.
#
#   scripts/fuzz.sh PROGRAM [DATABASE_URL]      ATOLL_FUZZ_SECONDS: how long (60)
#
# With a PostgreSQL there are two servers on it, behind a load balancer that asks them in turn.
#
# The tool is schemathesis from PyPI, in a virtual environment that is kept between runs.
set -euo pipefail
cd "$(dirname "$0")/.."
program=$(realpath "$1")
database=${2:-}
seconds=${ATOLL_FUZZ_SECONDS:-60}
settings=$PWD/tests/fuzz/schemathesis.toml
version=4.32.5
venv=${ATOLL_CACHE_DIR:-/var/cache/atoll}/schemathesis-$version
work=$(mktemp -d /tmp/atoll-fuzz.XXXXXX)
started=()

cleanup() {
    if [ ${#started[@]} -gt 0 ]; then
        kill -TERM "${started[@]}" 2>/dev/null || true
        wait "${started[@]}" 2>/dev/null || true
    fi
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# By one run at a time.
mkdir -p "$(dirname "$venv")"
(
    flock 8
    if [ ! -e "$venv/ready" ]; then
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
        touch "$venv/ready"
    fi
) 8>"$venv.lock"
[ -z "$database" ] || export ATOLL_DATABASE_URL=$database

# server NAME: starts one with its log in $work/NAME.log, and waits for what it says at its start: $url and $token. Each
# that starts while nobody has an account makes a new token; the last one counts.
server() {
    local log=$work/$1.log
    "$program" server --data-dir "$work/$1" --listen 127.0.0.1:0 --signup open >"$log" 2>&1 &
    started+=($!)
    for _ in $(seq 300); do
        url=$(sed -n 's|^make the first admin at \(.*\)/setup with the token .*|\1|p' "$log")
        [ -z "$url" ] || break
        kill -0 $! 2>/dev/null || { cat "$log" >&2; exit 1; }
        sleep 0.2
    done
    [ -n "$url" ] || { echo "the server did not start in time" >&2; cat "$log" >&2; exit 1; }
    token=$(sed -n 's|^make the first admin at .* with the token ||p' "$log")
}

server one
if [ -n "$database" ]; then
    first=${url#http://}
    server two
    # Any free port; it could be taken in between, but not by anything of ours.
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    cat >"$work/haproxy.cfg" <<HAPROXY
defaults
    mode http
    balance roundrobin
    retries 0
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen control
    bind 127.0.0.1:$port
    server one $first
    server two ${url#http://}
HAPROXY
    haproxy -db -f "$work/haproxy.cfg" &
    started+=($!)
    url=http://127.0.0.1:$port
    for _ in $(seq 100); do
        ! curl -fsS -o /dev/null "$url/healthz" 2>/dev/null || break
        sleep 0.1
    done
fi
# What is there to be asked about: the first admin, a person, a team of its own hosts with one that has registered (with
# openssl's key: no agent runs), a webhook. Says the admin's token, then ids as hooks.py takes them.
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=fuzz -keyout "$work/host.key" \
    -out "$work/host.csr" 2>/dev/null
python3 - "$url" "$token" "$work/host.csr" >"$work/known" <<'PYTHON'
import json, sys, urllib.request

url, token, csr = sys.argv[1:]
bearer = None


def send(method, path, body):
    headers = {"content-type": "application/json"} | ({"authorization": "Bearer " + bearer} if bearer else {})
    request = urllib.request.Request(url + path, json.dumps(body).encode(), headers, method=method)
    text = urllib.request.urlopen(request).read()
    return json.loads(text) if text else None


admin = {"token": token, "email": "fuzz@example.test", "password": "a long enough one"}
signed_in = send("POST", "/v1/auth/setup", admin)
bearer = signed_in["token"]
person = send("POST", "/v1/admin/users", {"email": "person@example.test", "name": "Person"})
team = signed_in["team_id"]
send("PUT", f"/v1/admin/teams/{team}/byoc", {"enabled": True})
made = send("POST", "/v1/hosts", {"type": "byoc"})
specs = {"arch": "x86_64", "cpu_cores": 2, "memory_mb": 4096, "disk_gb": 50, "drivers": ["container"],
         "agent_version": "0.0.0"}
send("POST", "/v1/hosts/register", {"token": made["registration_token"], "address": "198.51.100.1:7070",
                                    "specs": specs, "csr": open(csr).read()})
hook = send("POST", "/v1/webhooks", {"url": "https://hooks.example.test/"})
print(bearer)
print(json.dumps({"/v1/hosts/": made["host"]["id"], "/v1/teams/": team, "/v1/admin/teams/": team,
                  "/v1/webhooks/": hook["id"], "/v1/admin/users/": person["user_id"]}))
PYTHON
jwt=$(sed -n 1p "$work/known")
ATOLL_FUZZ_KNOWN=$(sed -n 2p "$work/known")
export ATOLL_FUZZ_KNOWN SCHEMATHESIS_HOOKS=$PWD/tests/fuzz/hooks.py

# Not asked: what ends the session that asks, and what never ends or is no request and answer (the stream of events,
# WebSockets).
cd "$work"
timeout $((seconds * 3 + 60)) "$venv/bin/schemathesis" --config-file "$settings" run "$url/openapi.json" \
    --header "Authorization: Bearer $jwt" \
    --seed "${ATOLL_FUZZ_SEED:-1}" --phases examples,coverage,fuzzing,stateful --continue-on-failure --max-time "$seconds" --request-timeout 20 \
    --warnings off --no-color \
    --exclude-path-regex '^/v1/(events|auth/logout)$|/(exec/stream|pty|files/watch|tunnel|tunnel/relay)$'

# What the log calls a failure of ours is one, whatever was answered.
if grep -h 'a request failed' "$work"/*.log >"$work/failed"; then
    head -20 "$work/failed" >&2
    echo "the server answered 500" >&2
    exit 1
fi
