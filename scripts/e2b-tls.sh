#!/usr/bin/env bash
# Runs a command with what E2B's SDKs need for TLS and host names: a certificate for *.sbx.test of a CA made here, and a
# resolver at which all these names mean this machine. Nothing of it is left afterwards, and no setting of the machine's
# is touched.
#
#   scripts/e2b-tls.sh scripts/with-atoll.sh scripts/e2b.sh
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }

work=$(mktemp -d /tmp/atoll-e2b-tls.XXXXXX)
resolver=
stop() {
    local code=$?
    [ -z "$resolver" ] || kill "$resolver" 2>/dev/null || true
    rm -rf --one-file-system "$work"
    exit "$code"
}
trap stop EXIT
trap 'exit 130' INT TERM

domain=sbx.test
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=Atoll's tests" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -keyout "$work/ca.key" -out "$work/ca.pem" 2>"$work/log"
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$domain" \
    -keyout "$work/key.pem" -out "$work/request.pem" 2>>"$work/log"
printf 'subjectAltName=DNS:%s,DNS:*.%s\nextendedKeyUsage=serverAuth\n' "$domain" "$domain" >"$work/extensions"
openssl x509 -req -in "$work/request.pem" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
    -extfile "$work/extensions" -out "$work/cert.pem" 2>>"$work/log"

python3 "$(dirname "$0")/../tests/e2b/resolver.py" "$domain" "$work/resolv.conf" &
resolver=$!
until [ -s "$work/resolv.conf" ]; do
    kill -0 "$resolver" 2>/dev/null || { echo "the resolver has ended" >&2; exit 1; }
    sleep 0.05
done
export ATOLL_DOMAIN=$domain ATOLL_TLS_CERT=$work/cert.pem ATOLL_TLS_KEY=$work/key.pem ATOLL_E2B_TLS=$work
"$@"
