# What the scripts that run other people's SDKs share: installing them once per machine, and where they find this Atoll.
# Sourced, never run. Callers have `set -euo pipefail`; ATOLL_URL and ATOLL_API_KEY say which Atoll it is.
# shellcheck shell=bash disable=SC2034
: "${ATOLL_URL:?scripts/with-atoll.sh sets it}" "${ATOLL_API_KEY:?scripts/with-atoll.sh sets it}"
sdks=${ATOLL_CACHE_DIR:-/var/cache/atoll}/e2b

# installed NAME LIST [PACKAGE...]: prints the folder with all that LIST names (requirements of pip's, a package.json, or a
# package-lock.json beside one), and puts it there where it isn't yet. Others may run beside this one.
installed() {
    local list=$2 folder lock code=0
    folder=$sdks/$1-$(sha256sum "$list" | cut -c1-16)
    shift 2
    mkdir -p "$sdks"
    exec {lock}>"$sdks/lock"
    flock "$lock"
    [ -e "$folder/ready" ] || install_into "$folder" "$list" "$@" >&2 || code=1
    exec {lock}>&-
    echo "$folder"
    return "$code"
}
install_into() { # FOLDER LIST [PACKAGE...]
    local folder=$1 list=$2
    shift 2
    mkdir -p "$folder" || return 1
    case $list in
        *.txt) python3 -m venv "$folder" && "$folder/bin/pip" install --quiet --disable-pip-version-check -r "$list" "$@" ;;
        *-lock.json) cp package.json "$list" "$folder/" && npm --prefix "$folder" ci --silent --no-audit --no-fund ;;
        *) cp "$list" "$folder/package.json" && npm --prefix "$folder" install --silent --no-audit --no-fund ;;
    esac && touch "$folder/ready"
}

# e2b_finds_it: tells E2B's SDKs, by their own variables, where this Atoll is: on one port with plain HTTP, or under
# scripts/e2b-tls.sh by TLS and host names. `setup` says which; `within COMMAND...` runs what uses them. It comes after all is
# installed: whoever installs trusts the machine's certificates, not the test's.
e2b_finds_it() {
    # The older generation only takes keys that look like E2B's own.
    export E2B_API_KEY=e2b_${ATOLL_API_KEY#atl_}
    unset E2B_DOMAIN E2B_API_URL E2B_SANDBOX_URL E2B_VOLUME_API_URL E2B_DEBUG
    if [ -n "${ATOLL_E2B_TLS:-}" ]; then
        export E2B_DOMAIN=$ATOLL_DOMAIN:${ATOLL_URL##*:}
        export SSL_CERT_FILE=$ATOLL_E2B_TLS/ca.pem NODE_EXTRA_CA_CERTS=$ATOLL_E2B_TLS/ca.pem
        setup="TLS and host names"
    else
        export E2B_API_URL=$ATOLL_URL/e2b E2B_SANDBOX_URL=$ATOLL_URL E2B_VOLUME_API_URL=$ATOLL_URL/e2b
        setup="plain HTTP"
    fi
}
within() {
    if [ -n "${ATOLL_E2B_TLS:-}" ]; then
        # Names are looked up at a resolver of the test's own, in a mount namespace of its own.
        # shellcheck disable=SC2016
        unshare --mount sh -c 'mount --bind "$0/resolv.conf" /etc/resolv.conf && exec "$@"' "$ATOLL_E2B_TLS" "$@"
    else
        "$@"
    fi
}
