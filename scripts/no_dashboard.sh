#!/usr/bin/env bash
# Proves what is built where there is no npm, and where it was asked to do without: a page in place of the dashboard, which
# says so and how to get the real one. Builds only the crate that embeds it (crates/assets), in a directory of its own.
#
#   scripts/no_dashboard.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=lib.sh
. scripts/lib.sh

work=$(mktemp -d "${TMPDIR:-/tmp}/atoll-no-dashboard.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin"
printf '#!/bin/sh\nexit 127\n' >"$work/bin/npm"
chmod +x "$work/bin/npm"

# embed SETTING...: what it says, and the page it embeds, in $work. Any file does as the guest agent.
embed() {
    env "$@" ATOLL_GUEST_BINARY=/bin/true cargo check -p atoll-assets --locked --target-dir "$work/target" >"$work/said" 2>&1 ||
        { cat "$work/said"; fail "It can't be built with $*."; }
    (cd "$work"/target/debug/build/atoll-assets-*/out && grep -o 'path: "[^"]*"' dashboard.rs && cp dashboard/0 "$work/page") >"$work/paths"
    [ "$(cat "$work/paths")" = $'path: "index.html"\npath: "no_dashboard.css"' ] ||
        fail "With $*, this is embedded: $(cat "$work/paths")"
}
# has FILE TEXT
has() { grep -qF -- "$2" "$work/$1" || { cat "$work/$1"; fail "This should say: $2"; }; }

embed ATOLL_SKIP_DASHBOARD= PATH="$work/bin:$PATH"
has said "npm was not found: the binary gets a page in place of the dashboard"
has page "This binary was built on a machine without npm, so it has no dashboard."
embed ATOLL_SKIP_DASHBOARD=1
has page "This binary was built with ATOLL_SKIP_DASHBOARD=1, without its dashboard."
has page "apt-get install nodejs npm"
has page "cargo build --release --bin atoll"
has page 'href="/docs"'
has page 'href="/no_dashboard.css"'
! grep -iE '<style|<script|style=' "$work/page" || fail "The policy that pages are served with allows nothing inline."
good "without npm, a page says so, and how to get the dashboard"
