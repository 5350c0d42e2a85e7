#!/bin/sh
# Builds the code interpreter: sh build.sh OUTPUT_IMAGE WORK_DIRECTORY BASE_IMAGE
#
# The base template, and on it the server of port 49999, its kernels, and the packages that people compute with. All of
# it is put together in a copy of base: Debian's packages by apt, Python's by pip, in the versions that are pinned here.
#
# Lines on stdout that begin with "step: " say how far it is. What is needed: root, mkfs.erofs, and the way to Debian's
# archive and to PyPI.
#
# ATOLL_DEBIAN_MIRROR, ATOLL_DEBIAN_SECURITY_MIRROR  as for base
# PIP_INDEX_URL, PIP_CERT                            another index than https://pypi.org, and who signs for it
set -eu
export LC_ALL=C TZ=UTC
umask 022

SOURCE_DATE_EPOCH=1795910400 # 2026-11-29 00:00:00 UTC: raised by hand when the recipe changes
UUID=a7011ba5-e000-4000-8000-000000000002
SUITE=bookworm
export SOURCE_DATE_EPOCH

usage="usage: build.sh OUTPUT_IMAGE WORK_DIRECTORY BASE_IMAGE"
image=${1:?$usage}
work=${2:?$usage}
base=${3:?$usage}
recipe=$(cd "$(dirname "$0")" && pwd)
root=$work/root
home=/usr/lib/atoll/interpreter
mirror=${ATOLL_DEBIAN_MIRROR:-http://deb.debian.org/debian}
security=${ATOLL_DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
step() { echo "step: $*"; }
inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TZ=UTC PYTHONHASHSEED=0 \
    HOME=/root DEBIAN_FRONTEND=noninteractive SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" \
    ${http_proxy:+"http_proxy=$http_proxy"} ${https_proxy:+"https_proxy=$https_proxy"} ${no_proxy:+"no_proxy=$no_proxy"} \
    "$@"; }
# What the build may leave behind in the image is what it found there.
pip() { inside ${PIP_INDEX_URL:+"PIP_INDEX_URL=$PIP_INDEX_URL"} ${PIP_CERT:+PIP_CERT=/tmp/pip-cert.pem} \
    /usr/bin/python3 -m pip "$@"; }

step "copying the base template"
mkdir -p "$root" "$work/base"
# Kernels before 6.12 mount images through a loop device only.
mount -t erofs -o ro "$base" "$work/base" 2>/dev/null || mount -t erofs -o ro,loop "$base" "$work/base"
cp -a "$work/base/." "$root/"
umount "$work/base"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
cp -L /etc/hosts "$root/etc/hosts"
[ -z "${PIP_CERT:-}" ] || cp -L "$PIP_CERT" "$root/tmp/pip-cert.pem"
mv "$root/etc/apt/sources.list" "$work/sources.list"
printf 'deb %s %s main\n' "$mirror" "$SUITE" "$mirror" "$SUITE-updates" "$security" "$SUITE-security" \
    >"$root/etc/apt/sources.list"

# base keeps no package lists; parts are files named in `with`, for those who want more languages.
lists="packages.txt"
[ ! -s "$recipe/with" ] || lists="$lists $(sed "s,.*,parts/&.txt," "$recipe/with" | paste -sd" ")"
# shellcheck disable=SC2086
packages=$(cd "$recipe" && cat $lists | sed -e 's/#.*//' -e '/^[[:space:]]*$/d' | sort -u)
step "installing Debian's packages"
inside apt-get -q -o Acquire::Retries=3 -o Acquire::http::Timeout=30 update
# shellcheck disable=SC2086
inside apt-get -q -y --no-install-recommends -o Acquire::Retries=3 -o Acquire::http::Timeout=30 install $packages

step "installing the server"
(cd "$recipe/files" && find . -type f) | sort | while read -r file; do
    install -D -o root -g root -m 0644 "$recipe/files/$file" "$root/$file"
done
chmod 0755 "$root$home/start"
if grep -qsx java "$recipe/with"; then
    inside sh -c "javac -nowarn -d $home/kernels/java/classes $home/kernels/java/atoll/*.java"
fi
cp "$recipe/server.txt" "$recipe/requirements.txt" "$root/tmp/"
inside python3 -m venv --without-pip "$home/venv"
pip --python "$home/venv/bin/python" install --quiet --no-cache-dir --no-compile --no-deps --only-binary :all: \
    --retries 3 -r /tmp/server.txt

step "installing Python's packages for computing"
pip install --quiet --no-cache-dir --no-compile --no-deps --only-binary :all: --retries 3 -r /tmp/requirements.txt
inside python3 -m pip check || { echo "the pinned packages don't fit together" >&2; exit 1; }
# Tests of these packages are of no use to who uses them.
find "$root/usr/local/lib" "$root$home/venv" -type d -name tests -prune -exec rm -rf {} +

step "removing what differs from build to build"
mv "$work/sources.list" "$root/etc/apt/sources.list"
: >"$root/etc/resolv.conf"
printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' >"$root/etc/hosts"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/cache/debconf/*-old "$root"/var/cache/ldconfig/* \
    "$root"/var/lib/dpkg/*-old "${root:?}"/var/log/* "${root:?}"/tmp/* "$root/root/.cache" "$root/root/.npm"
mkdir -p "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial" "$root/var/log/apt"
inside chown _apt:root /var/lib/apt/lists/partial /var/cache/apt/archives/partial
chmod 0700 "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial"
find "$root" -xdev -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

step "compiling Python's packages"
inside python3 -m compileall -q -j0 -s / /usr/local/lib/python3.11/dist-packages "$home" >"$work/compile.log" ||
    { cat "$work/compile.log" >&2; exit 1; }
umount "$root/proc"
umount -l "$root/dev"
find "$root" -xdev -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

step "packing the image"
rm -f "$image"
mkfs.erofs --quiet --preserve-mtime -U "$UUID" "$image" "$root"
step "done"
