#!/bin/sh
# Builds the base template: sh build.sh OUTPUT_IMAGE WORK_DIRECTORY
#
# A lean Debian with the tools that programs written by agents expect, packed as an uncompressed erofs image.
# The same recipe and the same state of the archive give the same bytes: every time stamp is clamped to
# SOURCE_DATE_EPOCH, the file system's UUID is fixed, and nothing of the building machine gets in.
# No part of Atoll is inside: the guest agent is handed to each sandbox as it starts.
#
# Lines on stdout that begin with "step: " say how far it is. What is needed: root, mmdebstrap, mkfs.erofs and
# Debian's archive keyring (checked by the caller, which knows how to say what to install).
#
# ATOLL_DEBIAN_MIRROR           where packages come from while building, default http://deb.debian.org/debian
# ATOLL_DEBIAN_SECURITY_MIRROR  the same for security updates, default http://deb.debian.org/debian-security
# The image itself always names deb.debian.org. The suite is the recipe's, whatever the machine runs.
set -eu
export LC_ALL=C TZ=UTC
umask 022

SUITE=bookworm
SOURCE_DATE_EPOCH=1795910400 # 2026-11-29 00:00:00 UTC: raised by hand when the recipe changes
UUID=a7011ba5-e000-4000-8000-000000000001
export SOURCE_DATE_EPOCH

image=${1:?usage: build.sh OUTPUT_IMAGE WORK_DIRECTORY}
work=${2:?usage: build.sh OUTPUT_IMAGE WORK_DIRECTORY}
recipe=$(cd "$(dirname "$0")" && pwd)
root=$work/root
mkdir -p "$work"
mirror=${ATOLL_DEBIAN_MIRROR:-http://deb.debian.org/debian}
security=${ATOLL_DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
step() { echo "step: $*"; }
inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TZ=UTC PYTHONHASHSEED=0 \
    SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" "$@"; }

packages=$(sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$recipe/packages.txt" | sort | paste -sd, -)

step "downloading and unpacking Debian $SUITE from $mirror"
mmdebstrap --quiet --mode=root --variant=apt --format=directory --include="$packages" \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
    --aptopt='Acquire::Retries "3"' --aptopt='Acquire::http::Timeout "30"' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/lintian/*' \
    --dpkgopt='path-exclude=/usr/share/bug/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-include=/usr/share/locale/locale.alias' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    "$SUITE" "$root" \
    "deb $mirror $SUITE main" "deb $mirror $SUITE-updates main" "deb $security $SUITE-security main"

step "writing settings and the user"
mv "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$root/etc/dpkg/dpkg.cfg.d/lean"
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root"/etc/apt/sources.list.d/*
(cd "$recipe/files" && find . -type f) | sort | while read -r file; do
    install -D -o root -g root -m 0644 "$recipe/files/$file" "$root/$file"
done
chmod 0440 "$root/etc/sudoers.d/user"
chmod 0755 "$root/usr/sbin/policy-rc.d"
rm -f "$root/etc/skel/.bash_logout"
cp "$root/etc/skel/.profile" "$root/etc/skel/.bashrc" "$root/root/"
mkdir -p "$root/usr/share/man/man1" "$root/usr/share/man/man5" "$root/usr/share/man/man7" "$root/usr/share/man/man8"
inside groupadd --gid 1000 user
inside useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash --comment "" user
inside visudo --check --quiet
echo 'LANG=C.UTF-8' > "$root/etc/default/locale"
echo 'LANG=C.UTF-8' > "$root/etc/environment"
# Names and addresses are each sandbox's own; empty files stand where the host agent puts them.
echo sandbox > "$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' > "$root/etc/hosts"
: > "$root/etc/resolv.conf"
: > "$root/etc/machine-id"

step "removing what differs from build to build"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/cache/debconf/*-old "$root"/var/cache/ldconfig/* \
    "$root"/var/lib/dpkg/*-old "${root:?}"/var/log/* "${root:?}"/tmp/* "${root:?}"/run/* "${root:?}"/var/tmp/* "${root:?}"/dev/* \
    "$root"/etc/passwd- "$root"/etc/group- "$root"/etc/shadow- "$root"/etc/gshadow- "$root"/etc/subuid- "$root"/etc/subgid- \
    "$root"/var/lib/systemd/catalog/database "$root"/var/lib/ucf/*.[0-9] "$root/etc/.pwd.lock" "$root/root/.bash_history"
mkdir -p "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial" "$root/var/log/apt"
inside chown _apt:root /var/lib/apt/lists/partial /var/cache/apt/archives/partial
chmod 0700 "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial"
# The day of the last password change is the day of the build unless it is set.
day=$((SOURCE_DATE_EPOCH / 86400))
sed -i -E "s/^([^:]*:[^:]*:)[0-9]+:/\1$day:/" "$root/etc/shadow"
find "$root" -xdev -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

# Byte code carries its source's time, so it is made anew now that those are final; in one process and in order,
# because what Python writes depends on what it read before.
step "compiling Python's library"
find "$root/usr/lib" "$root/usr/share" -xdev -type d -name __pycache__ -prune -exec rm -rf {} +
inside python3 -m compileall -q -j1 -s / -x '/(lib2to3/tests|test|idlelib|turtledemo|ensurepip/_bundled)/' \
    /usr/lib/python3.11 /usr/lib/python3/dist-packages /usr/share/python3 > "$work/compile.log" ||
    { cat "$work/compile.log" >&2; exit 1; }
find "$root" -xdev -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

step "packing the image"
rm -f "$image"
mkfs.erofs --quiet --preserve-mtime -U "$UUID" "$image" "$root"
step "done"
