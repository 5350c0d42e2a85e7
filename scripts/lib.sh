# What the scripts share: speaking to people, running long steps with progress, installing what is missing.
# Sourced, never run. Callers have `set -euo pipefail` and define LOG (a file that long steps write to).
# shellcheck shell=bash disable=SC2034

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' dim='' green='' red='' plain=''
fi

say() { printf '%s\n' "$*"; }
good() { printf '%s✓%s %s\n' "$green" "$plain" "$*"; }
# fail MESSAGE [WHAT TO DO]: ends the script.
fail() {
    printf '\n%s✗ %s%s\n' "$red" "$1" "$plain" >&2
    [ $# -lt 2 ] || printf '  %s\n' "$2" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# seconds 83 -> 1 min 23 s
seconds() {
    if [ "$1" -ge 60 ]; then printf '%d min %d s' $(($1 / 60)) $(($1 % 60)); else printf '%d s' "$1"; fi
}

# run LABEL HINT COMMAND...: runs it with its output in $LOG, shows how long it takes and its latest line, and on
# failure the end of its output and the hint.
run() {
    local label=$1 hint=$2 began=$SECONDS from child code=0 line shown=0
    shift 2
    from=$(($(stat -c %s "$LOG") + 1))
    printf '\n== %s: %s\n' "$label" "$*" >>"$LOG"
    "$@" >>"$LOG" 2>&1 </dev/null &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        if [ -t 1 ]; then
            line=$(tail -n 1 "$LOG" | tr -d '\r' | cut -c1-$((${COLUMNS:-80} - 32 - ${#label})) 2>/dev/null || true)
            printf '\r\e[K… %s %s(%s) %s%s' "$label" "$dim" "$(seconds $((SECONDS - began)))" "$line" "$plain"
        elif [ $((SECONDS - began)) -ge $((shown + 30)) ]; then
            shown=$((SECONDS - began))
            say "… $label ($(seconds "$shown"))"
        fi
        sleep 0.2
    done
    wait "$child" || code=$?
    [ ! -t 1 ] || printf '\r\e[K'
    if [ "$code" -ne 0 ]; then
        say "${red}✗ $label failed (exit code $code). The end of its output:${plain}" >&2
        tail -c "+$from" "$LOG" | tail -n 40 | sed 's/^/    /' >&2
        fail "$label failed." "$hint The whole log is $LOG"
    fi
    if [ $((SECONDS - began)) -ge 2 ]; then good "$label ($(seconds $((SECONDS - began))))"; else good "$label"; fi
}

need_root() {
    [ "$(id -u)" -eq 0 ] || fail "This needs root: sandboxes are made of namespaces, mounts and networks." "Run: sudo $0 $*"
}

# version_at_least 1.95.0 1.90
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

APT_UPDATED=
apt_update() {
    [ -z "$APT_UPDATED" ] || return 0
    run "Reading Debian's package lists" "Check the network and /etc/apt/sources.list." apt-get update -q
    APT_UPDATED=yes
}

# apt_install PACKAGE...: installs those that are missing.
apt_install() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    have apt-get || fail "These are missing, and this machine has no apt-get: ${missing[*]}" \
        "Atoll is built on Debian and its like; install them with this machine's own package manager."
    apt_update
    run "Installing ${missing[*]}" "Try: apt-get install ${missing[*]}." \
        env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
}

MINIMUM_RUST=1.90
# Rust: what is there already, else by rustup: Debian's where there is one, else Rust's own.
ensure_rust() {
    if ! have cargo && [ -x "$HOME/.cargo/bin/cargo" ]; then
        export PATH="$HOME/.cargo/bin:$PATH"
    fi
    if have cargo && version_at_least "$(cargo --version | cut -d' ' -f2)" "$MINIMUM_RUST"; then
        good "Rust $(rustc --version | cut -d' ' -f2)"
        return
    fi
    local hint="Install Rust $MINIMUM_RUST or newer as https://rustup.rs says, then run this again."
    if ! have rustup; then
        apt_update
        if apt-cache show rustup >/dev/null 2>&1; then
            apt_install rustup
        else
            # Debian 12 has none.
            apt_install curl ca-certificates
            run "Installing rustup" "$hint" install_rustup
            export PATH="$HOME/.cargo/bin:$PATH"
        fi
    fi
    run "Installing Rust by rustup" "$hint" rustup default stable
}
# Checked against the sum that is published beside it.
install_rustup() {
    local folder url
    url=https://static.rust-lang.org/rustup/dist/$(uname -m)-unknown-linux-gnu
    folder=$(mktemp -d)
    (
        cd "$folder" &&
            curl --proto =https --tlsv1.2 -fsS --remote-name-all "$url/rustup-init" "$url/rustup-init.sha256" &&
            sed 's/\*.*/*rustup-init/' rustup-init.sha256 | sha256sum --check --quiet &&
            chmod +x rustup-init && ./rustup-init -y --no-modify-path --profile minimal --default-toolchain none
    )
    local code=$?
    rm -rf "$folder"
    return $code
}

MINIMUM_NODE=20.19
NODE=22.23.5 NPM=10.9.9
# Node builds the dashboard: what is there already, else from npm. Where it can't be had, the binary is built with a page
# that says so.
ensure_node() {
    if ! have node || ! have npm; then
        apt_install nodejs npm
    fi
    version_at_least "$(node --version | tr -d v)" "$MINIMUM_NODE" || newer_node || {
        say "! Node $(node --version) is older than $MINIMUM_NODE, and a newer one can't be had here: building without the dashboard. Install one and run this again to get it."
        export ATOLL_SKIP_DASHBOARD=1
        return 0
    }
    good "Node $(node --version | tr -d v)"
}
# Debian 12's is too old, but its npm gets another, into the cache.
newer_node() {
    local arch folder=${ATOLL_CACHE_DIR:-/var/cache/atoll}/node-$NODE
    case $(uname -m) in x86_64) arch=x64 ;; aarch64) arch=arm64 ;; *) return 1 ;; esac
    if [ ! -e "$folder/ready" ]; then
        mkdir -p "$folder"
        say "… Installing Node $NODE (this machine's is $(node --version))"
        npm install --prefix "$folder" --no-audit --no-fund --no-save "node-linux-$arch@$NODE" "npm@$NPM" >>"$LOG" 2>&1 || return 1
        touch "$folder/ready"
    fi
    export PATH="$folder/node_modules/node-linux-$arch/bin:$folder/node_modules/.bin:$PATH"
    version_at_least "$(node --version | tr -d v)" "$MINIMUM_NODE"
}

# What compiling needs, and what runs: mkfs for the storage pool, the tools that make the base template.
BUILD_PACKAGES=(build-essential ca-certificates)
RUN_PACKAGES=(btrfs-progs curl debian-archive-keyring erofs-utils iproute2 kmod mmdebstrap nftables util-linux)

# free_mb PATH: free space there, or at its nearest parent that exists.
free_mb() {
    local path=$1
    while [ ! -e "$path" ]; do path=$(dirname "$path"); done
    df -Pm "$path" | awk 'NR == 2 {print $4}'
}

# Kernel features that sandboxes are made of. Says everything that is missing at once.
check_kernel() {
    local missing=() fs
    version_at_least "$(uname -r | cut -d- -f1)" 5.19 || missing+=("Linux 5.19 or newer (this is $(uname -r))")
    for fs in overlay erofs btrfs; do
        grep -qw "$fs" /proc/filesystems || modprobe -q "$fs" 2>/dev/null || missing+=("the file system $fs")
    done
    unshare --user --map-root-user true 2>/dev/null || missing+=("user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone)")
    unshare --net sh -c 'ip link add name probe0 type veth peer name probe1' 2>/dev/null || missing+=("veth network links")
    modprobe -q nf_tables 2>/dev/null || [ -d /sys/module/nf_tables ] || zgrep -q '^CONFIG_NF_TABLES=y' /proc/config.gz 2>/dev/null || missing+=("nftables")
    grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null ||
        awk '$1 == "memory" && $4 == 1 {found = 1} END {exit !found}' /proc/cgroups 2>/dev/null ||
        missing+=("control groups that bound memory (on some machines the kernel wants cgroup_enable=memory)")
    if [ ${#missing[@]} -gt 0 ]; then
        printf '  missing: %s\n' "${missing[@]}" >&2
        fail "This machine's kernel lacks what sandboxes are made of." \
            "Debian 12 or newer with its own kernel has all of it. Inside a container, run on the machine itself instead."
    fi
    good "Kernel $(uname -r) has what sandboxes are made of"
}
