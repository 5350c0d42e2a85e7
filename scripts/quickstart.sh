#!/usr/bin/env bash
# From a clean clone to a program that has run in a sandbox: checks the machine, installs what is missing, builds,
# starts Atoll in the background and runs a first program. Run again, it does nothing twice.
#
#   scripts/quickstart.sh          as root, on Debian or its like
#   scripts/quickstart.sh --stop   stops what it started
#
# Settings: ATOLL_DATA_DIR (default /var/lib/atoll), ATOLL_LISTEN (default 127.0.0.1:7420), ATOLL_BIN_DIR (where a link
# to the program goes, default /usr/local/bin; empty for none).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib.sh
. scripts/lib.sh

data=${ATOLL_DATA_DIR:-/var/lib/atoll}
listen=${ATOLL_LISTEN:-127.0.0.1:7420}
cache=${ATOLL_CACHE_DIR:-/var/cache/atoll}
bin_dir=${ATOLL_BIN_DIR-/usr/local/bin}
target=${CARGO_TARGET_DIR:-$PWD/target}
program=$(realpath -m "$target/release/atoll")
pid_file=$data/quickstart.pid
server_log=$data/logs/atoll.log
# What it prints itself, before and beside its log.
output=$data/up.log
export ATOLL_DATA_DIR=$data ATOLL_LISTEN=$listen ATOLL_CACHE_DIR=$cache
# Its first program is for this Atoll, whichever one the caller works with.
unset ATOLL_URL ATOLL_API_KEY

# The pid of the Atoll that this script started, if it lives. The file has pid and start time, so that another process
# that got the number later is never taken for it.
started_pid() {
    local pid began
    [ -r "$pid_file" ] && read -r pid began <"$pid_file" || return 1
    [ "$(start_time "$pid")" = "$began" ] || return 1
    echo "$pid"
}
# Field 22 of stat; the second field may hold spaces, so count from the closing bracket.
start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

credential() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$data/credentials.json" 2>/dev/null | head -n 1; }

stop_server() {
    local pid=$1 waited=0
    kill -TERM "$pid"
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.1
        waited=$((waited + 1))
        [ "$waited" -lt 600 ] || fail "Atoll (process $pid) has not ended within a minute." "Its log is $server_log; kill -9 $pid ends it, sandboxes go on."
    done
    rm -f "$pid_file"
}

case ${1:-} in
--stop)
    need_root --stop
    if pid=$(started_pid); then
        left=$("$program" sandbox list --quiet 2>/dev/null | wc -l || true)
        stop_server "$pid"
        good "Atoll stopped."
        [ "${left:-0}" -eq 0 ] || say "  Sandboxes that go on: $left. Start Atoll again to reach them; atoll rm ends them."
    else
        say "Nothing to stop: this script has not started an Atoll in $data, or it has ended."
    fi
    exit 0
    ;;
-h | --help)
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
'') ;;
*) fail "Unknown argument: $1" "See $0 --help" ;;
esac

need_root
mkdir -p "$data"
chmod 700 "$data"
LOG=$data/quickstart.log
: >"$LOG"
say "${bold}Atoll: from a clone to a first sandbox${plain}"

say
say "${bold}1. This machine${plain}"
[ "$(uname -s)" = Linux ] || fail "Sandboxes need Linux; this is $(uname -s)."
# The tools that the checks themselves use come first.
apt_install iproute2 kmod util-linux
check_kernel
needed=6000
[ -x "$program" ] && needed=1000
free=$(free_mb "$target")
[ "$free" -ge "$needed" ] || fail "Building needs $needed MB of free disk at $target, there are $free MB." "Free some, or set CARGO_TARGET_DIR to a directory on a larger disk."
needed=2500
compgen -G "$cache/images/*.erofs" >/dev/null && needed=100
free=$(free_mb "$cache")
[ "$free" -ge "$needed" ] || fail "The base template needs $needed MB of free disk at $cache, there are $free MB." "Free some, or set ATOLL_CACHE_DIR to a directory on a larger disk."
free=$(free_mb "$data")
[ "$free" -ge 2000 ] || fail "Sandboxes need 2000 MB of free disk at $data to begin with, there are $free MB." "Free some, or set ATOLL_DATA_DIR to a directory on a larger disk."
good "Free disk: $((free / 1024)) GB at $data"
apt_install "${BUILD_PACKAGES[@]}" "${RUN_PACKAGES[@]}"
good "Debian packages"
ensure_rust
ensure_node

say
say "${bold}2. Build${plain}"
run "Building the program, with guest agent and dashboard inside" "Run it by hand to see all of it: cargo build --release --bin atoll." \
    cargo build --release --locked --bin atoll
if [ -n "$bin_dir" ] && [ -d "$bin_dir" ]; then
    if [ ! -e "$bin_dir/atoll" ] || [ -L "$bin_dir/atoll" ]; then
        ln -sfn "$program" "$bin_dir/atoll"
    else
        say "! $bin_dir/atoll is another file, left as it is; the program is $program"
    fi
fi

run "Checking what this machine can run" "What failed says what to do; run it by hand: $program host check." \
    "$program" host check

say
say "${bold}3. Start${plain}"
if pid=$(started_pid) && [ "$(readlink "/proc/$pid/exe" || true)" != "$program" ]; then
    say "… restarting Atoll with the new build; sandboxes go on"
    stop_server "$pid"
fi
if ! pid=$(started_pid); then
    setsid "$program" up --data-dir "$data" --listen "$listen" >>"$output" 2>&1 </dev/null &
    pid=$!
    echo "$pid $(start_time "$pid")" >"$pid_file"
fi
# Ready means that a create would succeed; the very first start makes the base template before.
wait_ready() {
    local last='' deadline=$((SECONDS + 600))
    until url=$(credential url) && [ -n "$url" ] && curl -fsS -o /dev/null --max-time 2 "$url/readyz" 2>/dev/null; do
        kill -0 "$pid" 2>/dev/null || { tail -n 30 "$output"; return 1; }
        [ "$SECONDS" -lt "$deadline" ] || {
            say "Atoll runs (process $pid) but is not ready after 10 minutes. It says:"
            [ -z "$url" ] || curl -sS --max-time 5 "$url/readyz"
            return 1
        }
        line=$(tail -n 1 "$output" 2>/dev/null || true)
        [ "$line" = "$last" ] || say "$line"
        last=$line
        sleep 0.2
    done
}
run "Starting Atoll (the first time it also makes the base template: about 90 s)" \
    "If $listen is taken, choose another: ATOLL_LISTEN=127.0.0.1:9000 $0. Atoll's own log is $server_log." wait_ready
url=$(credential url)

say
say "${bold}4. A first program in a first sandbox${plain}"
say "${dim}\$ atoll run -- python3 -c 'print(6*7)'${plain}"
began=$(date +%s%N)
answer=$("$program" run -- python3 -c 'print(6*7)') || fail "The first program did not run." "Atoll's log is $server_log"
took=$((($(date +%s%N) - began) / 1000000))
say "$answer"
[ "$answer" = 42 ] || fail "The first program answered something else than 42." "Atoll's log is $server_log"
good "a sandbox was made, ran it, and is gone again: $took ms"

say
say "${bold}Atoll runs.${plain}"
if [ -z "${ATOLL_SKIP_DASHBOARD:-}" ]; then
    say "  Dashboard   $url"
else
    say "  Dashboard   not in this build, for want of Node $MINIMUM_NODE or newer; the API is at $url"
fi
if [ -t 1 ]; then
    say "  Log in as   $(credential admin_email)   password: $(credential admin_password)"
else
    say "  Log in as   $(credential admin_email), with the admin_password in $data/credentials.json"
fi
if [ "$data" = /var/lib/atoll ]; then
    say "  Next        atoll run -it -- bash        atoll --help"
else
    say "  Next        export ATOLL_DATA_DIR=$data; atoll run -it -- bash        atoll --help"
fi
say "  Logs        $server_log"
say "  Stop        $0 --stop"
