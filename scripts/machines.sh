#!/usr/bin/env bash
# A container and virtual machines by hand, with the command line alone: whether what this system has (QEMU above all) does.
# Runs beside an Atoll: scripts/with-atoll.sh scripts/machines.sh. One with ATOLL_SPARE_MACHINES and
# ATOLL_LOG=info,atoll_host::sandboxes=debug shows those too.
set -euo pipefail
die() { printf 'machines: %s\n' "$*" >&2; exit 1; }
is() { # WHAT EXPECTED FOUND
    [ "$2" = "$3" ] || die "$1: expected '$2', found '$3'"
    printf 'ok  %s\n' "$1"
}
machine() { atoll sandbox create --driver vm --memory 256 --disk 512; }
in_it() { atoll sandbox exec "$1" -- sh -c "$2"; }

# shellcheck disable=SC2016
is "a program in a container" 42 "$(atoll run --driver container -- python3 -c 'print(6*7)')"
for number in 1 2; do
    id=$(machine)
    is "a program in a virtual machine, the ${number}." 42 "$(in_it "$id" 'python3 -c "print(6*7)"')"
    [ "$number" = 2 ] || atoll rm "$id" >/dev/null
done
in_it "$id" 'sleep 1000 >/dev/null 2>&1 & echo $! > pid; date +%s%N > file'
written=$(in_it "$id" 'cat file')
mark=$(in_it "$id" 'cat pid')
atoll sandbox pause "$id" >/dev/null
atoll sandbox resume "$id" >/dev/null
is "what ran before a pause, after it" sleep "$(in_it "$id" "cat /proc/$mark/comm")"
for child in $(atoll sandbox fork --count 2 "$id"); do
    is "what ran in the parent, in a child" "sleep $written" "$(in_it "$child" "echo \$(cat /proc/$mark/comm) \$(cat file)")"
    [ "$(in_it "$child" hostname)" != "$(in_it "$id" hostname)" ] || die "a child has its parent's name"
done
# One that is up already is taken over: whoever gets it sees nothing of that.
if [ "${ATOLL_SPARE_MACHINES:-0}" != 0 ]; then
    deadline=$((SECONDS + 60))
    until grep -q 'a spare machine is ready' "$ATOLL_DATA_DIR/logs/atoll.log"; do
        [ "$SECONDS" -lt "$deadline" ] || die "there is no spare machine after a minute"
        sleep 0.2
    done
    taken=$(machine)
    is "a program in a machine that was a spare" 42 "$(in_it "$taken" 'python3 -c "print(6*7)"')"
    grep -q 'take over' "$ATOLL_DATA_DIR/logs/atoll.log" || die "no spare was taken over"
fi
