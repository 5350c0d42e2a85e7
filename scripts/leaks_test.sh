#!/usr/bin/env bash
# Proves that scripts/leaks.sh names what an Atoll would leave: makes one of each, of an Atoll that never was, looks, and
# takes it away again. Mounts, links, addresses and nft tables are made in namespaces; cgroups, a loop device and a zram
# device are real ones, which nothing uses.
#
#   scripts/leaks_test.sh     as root
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" != inside ]; then
    # With network and mounts of its own; `ip netns` keeps its names in a directory that is only seen in here.
    exec unshare --mount --net --propagation private -- "$0" inside
fi

name=atoll-leaktest$$
# Its data directory needn't bear our name.
dir=$(mktemp -d /var/tmp/leaks.XXXXXX)
loop='' zram='' pids=() cgroups=()
clean_up() {
    [ ${#pids[@]} -eq 0 ] || kill -TERM "${pids[@]}" 2>/dev/null || true
    wait
    [ ${#cgroups[@]} -eq 0 ] || rmdir "${cgroups[@]}" || true
    [ -z "$loop" ] || losetup --detach "$loop" || true
    [ -z "$zram" ] || echo "$zram" >/sys/class/zram-control/hot_remove || true
    nft delete table inet "atoll_leaktest$$" 2>/dev/null || true
    ip netns delete "$name" 2>/dev/null || true
    umount "$dir/fuse" "$dir/$name" 2>/dev/null || true
    rm -rf --one-file-system "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

expected=()
mkdir "$dir/fuse" "$dir/$name" "$dir/bin"

for program in atoll atoll-guest qemu-system-x86_64; do
    cp "$(command -v sleep)" "$dir/bin/$program"
    "$dir/bin/$program" 1000 &
    pids+=($!)
    # Its name in the kernel has 15 characters.
    expected+=("process $! ${program:0:15}")
done

mount -t tmpfs tmpfs "$dir/$name"
expected+=("mount $dir/$name")
# Whose server has gone.
exec 3<>/dev/fuse
mount -i -t fuse none "$dir/fuse" -o fd=3,rootmode=40000,user_id=0,group_id=0
exec 3>&-
expected+=("mount $dir/fuse")

mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
ip netns add "$name"
expected+=("netns $name")
ip link set lo up
ip address add 198.18.255.0/32 dev lo
expected+=("address 198.18.255.0/32")
nft add table inet "atoll_leaktest$$"
expected+=("nft table inet atoll_leaktest$$")

# Every hierarchy: a machine has one of version 2, several of version 1, or both.
while read -r hierarchy; do
    mkdir "$hierarchy/$name"
    cgroups+=("$hierarchy/$name")
    expected+=("cgroup $hierarchy/$name")
done < <(awk '/ - cgroup2? / {print $5}' /proc/self/mountinfo)
[ ${#cgroups[@]} -gt 0 ] || { echo "this machine has no cgroups" >&2; exit 1; }

truncate -s 16M "$dir/pool.img"
loop=$(losetup --find --show "$dir/pool.img")
expected+=("loop ${loop#/dev/} $dir/pool.img")
if [ -e /sys/class/zram-control/hot_add ] || modprobe -q zram; then
    zram=$(cat /sys/class/zram-control/hot_add)
    echo 16M >"/sys/block/zram$zram/disksize"
    expected+=("zram zram$zram")
fi

found=$(scripts/leaks.sh)
# Links are told by their group in sysfs, which shows those of the namespace that it was mounted in.
ip link add atlfff0 type veth peer name atlfff1
found+=$'\n'$(unshare --mount --propagation private -- sh -c \
    'mount -t sysfs sysfs /sys && echo 0xA7000001 >/sys/class/net/atlfff0/netdev_group && scripts/leaks.sh')
expected+=("link atlfff0")

missed=0
for line in "${expected[@]}"; do
    grep -qxF "$line" <<<"$found" && echo "named: $line" && continue
    echo "NOT NAMED: $line"
    missed=1
done
clean_up
trap - EXIT
left=$(scripts/leaks.sh | grep -F -e "leaktest$$" -e "$dir" || true)
[ -z "$left" ] || { printf 'left behind by the test itself:\n%s\n' "$left"; exit 1; }
exit "$missed"
