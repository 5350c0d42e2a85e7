#!/usr/bin/env bash
# What Atoll leaves in the kernel and in /run, one thing a line, sorted: to compare before and after.
#
#   scripts/leaks.sh > before; ...; scripts/leaks.sh | comm -13 before -     prints what was left
#
# Counts processes, mounts, network links and namespaces, nft tables, cgroups, loop and zram devices, addresses and
# address blocks, of every Atoll on the machine; what was there before (another Atoll that goes on running) is no leak.
# scripts/leaks_test.sh proves that each would be named.
set -euo pipefail

{
    for status in /proc/[0-9]*/comm; do
        name=$(cat "$status" 2>/dev/null || true)
        case $name in
        atoll | atoll-* | postgres | qemu-system-*) echo "process $(echo "$status" | cut -d/ -f3) $name" ;;
        esac
    done
    # A file system in user space outlives its server, and needn't bear our name.
    awk '/atoll/ || / - fuse(blk|[.][^ ]+)? / {print "mount", $5}' /proc/self/mountinfo
    find /run/netns -mindepth 1 -maxdepth 1 -printf 'netns %f\n' 2>/dev/null || true
    # Sandboxes' links are in interface groups 0xA7000000 and up, which the kernel shows as negative numbers.
    for group in /sys/class/net/*/netdev_group; do
        value=$(cat "$group" 2>/dev/null || echo 0)
        [ $((value >> 24 & 255)) -ne 167 ] || echo "link $(echo "$group" | cut -d/ -f5)"
    done
    # Where sandboxes find their host.
    ip -o -4 address show dev lo 2>/dev/null | awk '$4 ~ /^198[.]18[.]/ {print "address", $4}'
    if command -v nft >/dev/null 2>&1; then nft list tables 2>/dev/null | awk '/atoll/ {print "nft", $0}'; fi
    find /sys/fs/cgroup -maxdepth 3 -type d -name 'atoll*' -printf 'cgroup %p\n' 2>/dev/null || true
    for loop in /sys/block/loop*/loop/backing_file; do
        [ -e "$loop" ] || continue
        file=$(cat "$loop" 2>/dev/null || true)
        case $file in *atoll* | *pool*) echo "loop $(echo "$loop" | cut -d/ -f4) $file" ;; esac
    done
    # The first one is there from the start on some machines, and holds nothing.
    for size in /sys/block/zram*/disksize; do
        [ "$(cat "$size" 2>/dev/null || echo 0)" = 0 ] || echo "zram $(echo "$size" | cut -d/ -f4)"
    done
    find /run/atoll/blocks -type f -printf 'block %f\n' 2>/dev/null || true
    find /var/cache/atoll/building -mindepth 1 -maxdepth 1 -printf 'build %p\n' 2>/dev/null || true
} | sort
