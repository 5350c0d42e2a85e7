//! Names in the small file system that the agent makes for each sandbox, and lends to the child to mount from.

/// What becomes `/dev`.
pub const DEV: &str = "dev";
pub const NULL: &str = "dev/null";
/// A directory with nothing in it, to cover others with.
pub const EMPTY: &str = "empty";
/// Where the cgroups are attached, one directory per controller.
pub const CGROUPS: &str = "cgroup";

/// Files at the top, and what each is bound over.
pub const BOUND_FILES: &[(&str, &str)] = &[
    ("meminfo", "/proc/meminfo"),
    ("cpuinfo", "/proc/cpuinfo"),
    ("stat", "/proc/stat"),
    ("loadavg", "/proc/loadavg"),
    ("uptime", "/proc/uptime"),
    ("swaps", "/proc/swaps"),
    ("boot_id", "/proc/sys/kernel/random/boot_id"),
    ("cpus", "/sys/devices/system/cpu/online"),
    ("cpus", "/sys/devices/system/cpu/possible"),
    ("cpus", "/sys/devices/system/cpu/present"),
];
