//! What bounds the processes of a sandbox, apart from what they can see: cgroups, limits, sysctls, capabilities.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, CpuSet, LinkNameSpaceType, UnshareFlags, move_into_link_name_space,
    sched_setaffinity, set_capabilities, unshare_unsafe,
};
use rustix::time::{ClockId, clock_gettime};

use super::child::{Attempt, Attempted};

/// Open files of one process.
const MAX_OPEN_FILES: u64 = 65_536;
/// Memory that one process may keep from being swapped; there is no swap, and cgroups bound the rest.
const MAX_LOCKED_BYTES: u64 = 64 << 20;
const MAX_STACK_BYTES: u64 = 8 << 20;

/// Limits that are counted for the namespace as a whole. Written once; `/proc/sys` is read-only afterwards.
const SYSCTLS: &[(&str, &str)] = &[
    ("/proc/sys/user/max_user_namespaces", "0"),
    ("/proc/sys/user/max_inotify_instances", "1024"),
    ("/proc/sys/user/max_inotify_watches", "65536"),
    // Low ports for everybody inside: the network namespace is the sandbox's own.
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
];

/// `ping` for everybody inside. The kernel takes groups only once they are mapped.
const PING_GROUPS: (&str, &str) = ("/proc/sys/net/ipv4/ping_group_range", "0 65535");

/// What root inside may do, by number: to files, processes, ids and sockets of its own namespaces. Not among them:
/// anything that the machine has only one of, NET_ADMIN (its own address would be its to change), MKNOD, and
/// SYS_RESOURCE, which would lift the limits above.
const KEPT: &[u32] = &[
    0,  // CHOWN
    1,  // DAC_OVERRIDE
    2,  // DAC_READ_SEARCH
    3,  // FOWNER
    4,  // FSETID
    5,  // KILL
    6,  // SETGID
    7,  // SETUID
    8,  // SETPCAP
    10, // NET_BIND_SERVICE
    13, // NET_RAW: ping; packet sockets are refused by seccomp
    15, // IPC_OWNER
    18, // SYS_CHROOT
    19, // SYS_PTRACE: debuggers; nothing outside the pid namespace has a number inside
    28, // LEASE
    31, // SETFCAP
];

/// The kernel has no more than 64.
const CAPABILITIES: u32 = 64;

/// The capabilities that this kernel knows and [`KEPT`] does not.
pub(super) fn to_drop() -> Vec<u32> {
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok().and_then(|text| text.trim().parse().ok());
    let last: u32 = last.unwrap_or(CAPABILITIES - 1);
    (0..=last.min(CAPABILITIES - 1)).filter(|number| !KEPT.contains(number)).collect()
}

/// Enters the v1 cgroups, then makes them look like the root of all.
pub(super) fn join_cgroups(tasks: Vec<OwnedFd>) -> Attempt<()> {
    for file in tasks {
        // `0` is whoever writes: the one case in which the kernel needs no machine-wide lock.
        rustix::io::write(&file, b"0").attempted(|| "writing to tasks".to_owned())?;
    }
    // SAFETY: without CLONE_FILES the table of descriptors stays as it is.
    unsafe { unshare_unsafe(UnshareFlags::NEWCGROUP) }.attempted(|| "a cgroup namespace".to_owned())
}

/// Keeps the sandbox on some processors, so that programs count no more than it has time for.
pub(super) fn stay_on(cpus: &[usize]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cpus.iter().filter(|cpu| **cpu < CpuSet::MAX_CPU).for_each(|cpu| set.set(*cpu));
    Ok(sched_setaffinity(None, &set)?)
}

/// Lets time since boot begin now: `ps` and whoever else counts from the boot see the sandbox's own, as its
/// `/proc/uptime` has it. Kernels without time namespaces go on with the machine's.
pub(super) fn begin_boot_time() -> Attempt<()> {
    // SAFETY: without CLONE_FILES the table of descriptors stays as it is.
    match unsafe { unshare_unsafe(UnshareFlags::NEWTIME) } {
        Ok(()) => {}
        Err(rustix::io::Errno::INVAL) => return Ok(()),
        Err(error) => return Err(error).attempted(|| "a time namespace".to_owned()),
    }
    let seconds = clock_gettime(ClockId::Boottime).tv_sec;
    own_its_files()?;
    fs::write("/proc/self/timens_offsets", format!("boottime -{seconds} 0\n"))
        .attempted(|| "the offset of the time since boot".to_owned())?;
    // What was unshared is for children: this process moves in by itself, having one thread.
    let entered = fs::File::open("/proc/self/ns/time_for_children")
        .and_then(|namespace| Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Time))?));
    entered.attempted(|| "entering the time namespace".to_owned())
}

/// After a change of ids the files of a process in /proc belong to the machine's root, until it says otherwise.
pub(super) fn own_its_files() -> Attempt<()> {
    set_dumpable_behavior(DumpableBehavior::Dumpable).attempted(|| "its own files in /proc".to_owned())
}

pub(super) fn set_rlimits() -> Attempt<()> {
    let finite = [(Resource::Nofile, MAX_OPEN_FILES), (Resource::Memlock, MAX_LOCKED_BYTES), (Resource::Core, 0)];
    for (resource, wanted) in finite {
        // The hard limit can't be raised from inside a user namespace.
        let bound = getrlimit(resource).maximum.map_or(wanted, |hard| hard.min(wanted));
        let limit = Rlimit { current: Some(bound), maximum: Some(bound) };
        setrlimit(resource, limit).attempted(|| format!("the limit {resource:?}"))?;
    }
    let stack = getrlimit(Resource::Stack);
    let current = stack.maximum.map_or(MAX_STACK_BYTES, |hard| hard.min(MAX_STACK_BYTES));
    let limit = Rlimit { current: Some(current), maximum: stack.maximum };
    setrlimit(Resource::Stack, limit).attempted(|| "the stack limit".to_owned())
}

pub(super) fn set_sysctls() -> Attempt<()> {
    SYSCTLS.iter().try_for_each(set_sysctl)
}

pub(super) fn set_ping_groups() -> Attempt<()> {
    set_sysctl(&PING_GROUPS)
}

fn set_sysctl((path, value): &(&str, &str)) -> Attempt<()> {
    let written = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    written.attempted(|| format!("writing {value} to {path}"))
}

/// Takes the capabilities away for good, from the process and from what exec as root would give.
pub(super) fn drop_capabilities(numbers: &[u32]) -> Attempt<()> {
    for number in numbers {
        // SAFETY: the call takes a number and touches no memory.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(*number), 0, 0, 0) };
        if result != 0 {
            return Err((format!("dropping capability {number}"), io::Error::last_os_error()));
        }
    }
    let kept = CapabilitySet::from_bits_retain(KEPT.iter().fold(0, |kept, number| kept | 1 << number));
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).attempted(|| "keeping no other capabilities".to_owned())
}

/// Brings the loopback interface up: a new network namespace has it down, and the guest lacks the power.
pub(super) fn bring_loopback_up() -> Attempt<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let socket = socket.attempted(|| "a socket".to_owned())?;
    super::sys::set_interface_up(std::os::fd::AsFd::as_fd(&socket), c"lo").attempted(|| "the loopback".to_owned())
}
