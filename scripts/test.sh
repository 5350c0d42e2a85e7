#!/usr/bin/env bash
# Proves everything: formatting, lints, unit tests, the real binary with real sandboxes, the dashboard, the documents.
# As root on Debian or its like, from a clean clone; installs what it needs. The last line is the count of all tests.
#
#   scripts/test.sh            all of it
#   scripts/test.sh lint unit  only these parts: lint unit system fuzz dashboard docs leaks
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib.sh
. scripts/lib.sh
need_root "$@"

parts=${*:-lint unit system fuzz dashboard docs leaks}
wants() { [[ " $parts " == *" $1 "* ]]; }
began=$SECONDS
work=$(mktemp -d /tmp/atoll-test.XXXXXX)
LOG=$work/log
: >"$LOG"
target=${CARGO_TARGET_DIR:-$PWD/target}
program=$(realpath -m "$target/release/atoll")
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never} CARGO_INCREMENTAL=0
passed=0 failed=0
results=() broken=() flaky=()

# stage NAME COMMAND...: one test of its own, whose output is shown as it comes; a failure doesn't stop the others.
stage() {
    local name=$1 from=$SECONDS code=0
    shift
    say
    say "${bold}== $name${plain}"
    "$@" </dev/null 2>&1 | tee "$work/stage" || code=$?
    ended "$name" "$code" $((SECONDS - from)) "$work/stage"
}
# together NAME FUNCTION [NAME FUNCTION]...: stages that wait more than they work, at the same time. Their output is shown
# when all have ended.
together() {
    local from=$SECONDS names=() children=() index code
    while [ $# -gt 0 ]; do
        "$2" </dev/null >"$work/stage.${#names[@]}" 2>&1 &
        names+=("$1")
        children+=($!)
        shift 2
    done
    say
    say "… side by side: $(printf '%s; ' "${names[@]}")"
    for index in "${!children[@]}"; do
        code=0
        wait "${children[index]}" || code=$?
        say
        say "${bold}== ${names[index]}${plain}"
        cat "$work/stage.$index"
        ended "${names[index]}" "$code" $((SECONDS - from)) "$work/stage.$index"
    done
}
# ended NAME CODE SECONDS FILE: notes how a stage ended, whose output is in the file.
ended() {
    if [ "$2" -eq 0 ]; then
        passed=$((passed + 1))
        results+=("ok      $(printf '%5d s' "$3")  $1")
    else
        failed=$((failed + 1))
        results+=("FAILED  $(printf '%5d s' "$3")  $1")
    fi
    count "$4"
    second_try "$4"
    [[ ${results[-1]} == ok* ]] || failing "$4"
}
# Keeps the names of the tests that failed for the end, where they are looked for; else the last lines of the stage.
failing() {
    local names
    names=$(sed 's/\x1b\[[0-9;]*m//g' "$1" | grep -E '^ +(FAIL|TIMEOUT|ABORT|SIG[A-Z]+) |^ *(FAIL|FAILED) ' |
        sed -E 's/^ +//; s/\[ *[0-9.]+s\] *//; s/\( *[0-9]+\/[0-9]+\) *//; s/^/    /' | sort -u || true)
    [ -n "$names" ] || names=$(tail -n 5 "$1" | sed 's/^/    /')
    broken+=("${results[-1]:17}"$'\n'"$names")
}
# Keeps the names of the tests that passed only when they were asked again: each is a race, in the test or in Atoll.
second_try() {
    local name
    while read -r name; do
        flaky+=("    $name")
    done < <(sed 's/\x1b\[[0-9;]*m//g' "$1" | grep -E '^ +FLAKY [0-9]|\(retry x[0-9]+\)' |
        sed -E 's/^ +//; s/\[ *[0-9.]+s\] *//; s/\( *[0-9]+\/[0-9]+\) *//' | sort -u || true)
}
# Adds what nextest and vitest counted to the total. Of a stage that counts its own tests, its own count is enough.
count() {
    local counts inner_passed inner_failed
    counts=$(sed 's/\x1b\[[0-9;]*m//g' "$1" | awk '
        /^ +Summary \[.*tests? run:/ || /^ +Tests +[0-9]/ {
            found = 1
            for (i = 2; i <= NF; i++) {
                if ($i ~ /^passed/) passed += $(i - 1)
                if ($i ~ /^failed/ || $i ~ /^timed/) failed += $(i - 1)
            }
        }
        END { if (found) print passed + 0, failed + 0 }')
    [ -n "$counts" ] || return 0
    read -r inner_passed inner_failed <<<"$counts"
    if [[ ${results[-1]} == ok* ]]; then passed=$((passed - 1)); else failed=$((failed - 1)); fi
    passed=$((passed + inner_passed))
    failed=$((failed + inner_failed))
}

cleanup() {
    # Only what this run started: its servers are known by their data directories below $work.
    [ ! -s "$work/atoll.pid" ] || kill -TERM "$(cat "$work/atoll.pid")" 2>/dev/null || true
    [ ! -s "$work/postgres/data/postmaster.pid" ] || stop_postgres
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say "${bold}What the tests need${plain}"
apt_install "${BUILD_PACKAGES[@]}" "${RUN_PACKAGES[@]}" postgresql qemu-system-x86 haproxy libfaketime shellcheck python3-venv skopeo
wants dashboard && apt_install chromium fonts-liberation
ensure_rust
ensure_node
rustup component add clippy rustfmt >>"$LOG" 2>&1 || true
have cargo-nextest || run "Installing cargo-nextest" "It comes from crates.io." cargo install --locked --quiet cargo-nextest
if wants lint && ! have cargo-machete; then
    run "Installing cargo-machete" "It comes from crates.io." cargo install --locked --quiet cargo-machete
fi
check_kernel
scripts/leaks.sh >"$work/before"

# A PostgreSQL of our own: its own cluster, a socket in $work and no port, so that no other one is touched.
start_postgres() {
    local bin
    bin=$(find /usr/lib/postgresql -name pg_ctl | sort -V | tail -n 1 | xargs dirname)
    mkdir -p "$work/postgres"
    chmod 755 "$work"
    chown postgres "$work/postgres"
    as_postgres "$bin/initdb" -D "$work/postgres/data" -U postgres -A trust --no-sync -E UTF8
    as_postgres "$bin/pg_ctl" -D "$work/postgres/data" -w -l "$work/postgres/log" \
        -o "-F -c listen_addresses='' -c unix_socket_directories='$work/postgres' -c max_connections=400" start
}
stop_postgres() {
    local bin
    bin=$(find /usr/lib/postgresql -name pg_ctl | sort -V | tail -n 1 | xargs dirname)
    as_postgres "$bin/pg_ctl" -D "$work/postgres/data" -m immediate stop >>"$LOG" 2>&1 || true
}
as_postgres() { (cd / && setpriv --reuid=postgres --regid=postgres --clear-groups -- "$@"); }
if wants unit || wants system || wants fuzz; then
    run "Starting a PostgreSQL for the tests" "See its log in $work/postgres." start_postgres
    export ATOLL_TEST_POSTGRES=$work/postgres
fi

# A server that speaks S3, for the tests of the object store.
if wants unit || wants system; then
    moto=${ATOLL_CACHE_DIR:-/var/cache/atoll}/moto-$(sha256sum tests/s3/requirements.txt | cut -c1-16)
    install_moto() {
        python3 -m venv "$moto" &&
            "$moto/bin/pip" install --quiet --disable-pip-version-check -r tests/s3/requirements.txt && touch "$moto/ready"
    }
    [ -e "$moto/ready" ] || run "Installing the S3 server of the tests" "It comes from PyPI." install_moto
    export ATOLL_TEST_MOTO=$moto/bin/moto_server
fi

# The release binary is what people get; the tests across crates, the documents and the dashboard all use this one.
if wants system || wants fuzz || wants docs || wants dashboard; then
    run "Building the release binary" "Run: cargo build --release --bin atoll." cargo build --release --locked --bin atoll
    export ATOLL_BIN=$program
fi

# All of it with the same features, and by clippy, which compiles what it lints: so nothing is compiled twice.
workspace=(--workspace --features atoll/failpoints --locked)
linting=(env "RUSTC_WORKSPACE_WRAPPER=$(rustup which clippy-driver 2>/dev/null || command -v clippy-driver)" CLIPPY_ARGS=-Dwarnings__CLIPPY_HACKERY__)
nextest() { "${linting[@]}" cargo nextest run "${workspace[@]}" --no-fail-fast "$@"; }
if wants lint; then
    stage "Formatting" cargo fmt --all --check
    stage "Shell scripts" shellcheck scripts/*.sh .ci/run templates/*/*.sh
    stage "Dependencies that nobody uses" cargo machete
    stage "Lints" "${linting[@]}" cargo nextest run "${workspace[@]}" --no-run --cargo-quiet
    # The tests are to be run all the same.
    [[ ${results[-1]} == ok* ]] || linting=(env)
fi
if wants unit; then
    # A real OpenID provider, for the tests of signing in elsewhere.
    run "Installing the OpenID provider of the tests" "It comes from npm." npm --prefix tests/oidc ci --no-audit --no-fund
    stage "Unit tests" nextest -E 'not (package(atoll-tests) | binary(cluster_faults))'
fi
if wants system; then
    plain() { scripts/with-atoll.sh --program "$program" scripts/e2b.sh; }
    secure() { scripts/e2b-tls.sh scripts/with-atoll.sh --program "$program" scripts/e2b.sh; }
    together "E2B's SDKs, plain HTTP" plain "E2B's SDKs, TLS and host names" secure
    stage "E2B's SDKs, virtual machines" env ATOLL_DRIVER=vm \
        scripts/with-atoll.sh --program "$program" scripts/e2b.sh python -k test_machines
    # What holds for every sandbox, in machines as well.
    machines() {
        ATOLL_DRIVER=vm nextest --test-threads 4 -E 'package(atoll-tests) & (binary(lifecycle) | binary(limits)
            | binary(cp) | binary(run) | binary(sandbox_cli) | binary(bad_input))'
    }
    stage "Lifecycle, limits and the command line, virtual machines" machines
    debian13() {
        # Its kernel for machines, which `auto` fetches by itself only where it tries KVM.
        ATOLL_DRIVER=vm scripts/debian13.sh scripts/with-atoll.sh --program "$program" true &&
            ATOLL_SPARE_MACHINES=1 ATOLL_LOG=info,atoll_host::sandboxes=debug \
                scripts/debian13.sh scripts/with-atoll.sh --program "$program" scripts/machines.sh
    }
    stage "Containers and virtual machines on a Debian 13" debian13
    interpreter() { scripts/with-atoll.sh --program "$program" scripts/interpreter.sh; }
    examples() { scripts/with-atoll.sh --program "$program" scripts/examples.sh; }
    tools() { scripts/with-atoll.sh --program "$program" scripts/mcp.sh; }
    interpreter_tls() { scripts/e2b-tls.sh scripts/with-atoll.sh --program "$program" scripts/interpreter.sh few; }
    base_twice() { scripts/base_twice.sh "$program"; }
    together "E2B's code interpreter" interpreter "MCP" tools "The base template, made twice" base_twice
    stage "E2B's code interpreter, TLS and host names" interpreter_tls
    stage "Examples" examples
    stage "OpenTelemetry" scripts/otlp.sh --program "$program"
    # Most of these wait more than they work; one of them for 5 minutes.
    real() { ATOLL_PARTITION_SECONDS=300 nextest --test-threads 5 -E 'package(atoll-tests) | binary(cluster_faults)'; }
    stage "Tests of the real binary" real
    # But for one: what a dead replica was making is judged after 2 minutes when another lives, at once when it was alone.
    replicas() {
        ATOLL_TEST_REPLICAS=2 nextest --test-threads 4 \
            -E 'package(atoll-tests) & (binary(accounts_cli) | binary(bad_input) | binary(cp) | binary(fork) | binary(lifecycle) | binary(templates))
                - test(a_server_that_is_killed_in_the_middle_of_forks_leaves_only_whole_sandboxes)'
    }
    stage "Tests of the real binary, two replicas behind a load balancer" replicas
fi
if wants fuzz; then
    fuzz_postgres() {
        as_postgres "$(find /usr/lib/postgresql -name createdb | sort -V | tail -n 1)" -h "$work/postgres" -U postgres fuzz
        scripts/fuzz.sh "$program" "postgres://postgres@localhost/fuzz?host=$work/postgres"
    }
    fuzz_sqlite() { scripts/fuzz.sh "$program"; }
    together "The API against its own document, SQLite" fuzz_sqlite \
        "The API against its own document, PostgreSQL" fuzz_postgres
fi
if wants dashboard; then
    # The build of the release binary has installed its packages.
    stage "Dashboard: types, lints, units" npm --prefix dashboard run --silent check:all
    stage "Dashboard: the API's types are current" scripts/with-atoll.sh --program "$program" \
        npm --prefix dashboard run --silent types:check
    stage "Dashboard: a build without npm" scripts/no_dashboard.sh
    # Everybody may sign up, and a host that falls silent is noticed within seconds. Two servers, each with a part of the
    # files: they wait more than they work.
    browser() {
        env ATOLL_SIGNUP=open ATOLL_HEARTBEAT_INTERVAL=1s ATOLL_HOST_STALE_AFTER=6s ATOLL_MONITOR_INTERVAL=1s \
            scripts/with-atoll.sh --program "$program" npm --prefix dashboard run --silent test:browser -- "$@"
    }
    looks=(look components many image)
    looking() { browser "${looks[@]/%/.test.ts}"; }
    using() {
        local others=("${looks[@]/#/--exclude=tests/}")
        browser "${others[@]/%/.test.ts}"
    }
    together "Dashboard: in a browser" using "Dashboard: in a browser, its looks" looking
fi
if wants docs; then
    stage "Documents" scripts/with-atoll.sh --program "$program" python3 scripts/docs_check.py
    stage "Quickstart, twice, and its stop" scripts/quickstart_twice.sh
fi
if wants leaks; then
    # What was stopped a moment ago is torn down behind the answer.
    nothing_left() {
        local left deadline=$((SECONDS + 20))
        [ ! -s "$work/postgres/data/postmaster.pid" ] || stop_postgres
        while left=$(scripts/leaks.sh | comm -13 "$work/before" -) && [ -n "$left" ]; do
            [ "$SECONDS" -lt "$deadline" ] || { printf 'left behind:\n%s\n' "$left"; return 1; }
            sleep 0.5
        done
        say "nothing is left: no process, mount, link, netns, address, nft table, cgroup, loop or zram device, address block"
    }
    stage "What a leak would look like" scripts/leaks_test.sh
    stage "Leaks" nothing_left
fi

say
say "${bold}== Summary ($(seconds $((SECONDS - began))))${plain}"
printf '%s\n' "${results[@]}"
# A stage can fail without a failing test, when it does not compile for one.
[ "$failed" -ge "${#broken[@]}" ] || failed=${#broken[@]}
[ "${#broken[@]}" -eq 0 ] || printf '\n%s\n' "What failed:" "${broken[@]}"
[ "${#flaky[@]}" -eq 0 ] || printf '\n%s\n' "What passed only at the second attempt:" "${flaky[@]}"
say "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
