//! Whether this machine can run containers, told so that a person knows what to do about it.

use std::fs;

use crate::cgroup::{Controller, Hierarchies};

/// One thing that is needed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do when it is not ok; empty otherwise.
    pub remedy: &'static str,
}

impl Check {
    fn new(name: &'static str, result: Result<String, String>, remedy: &'static str) -> Self {
        match result {
            Ok(detail) => Self { name, ok: true, detail, remedy: "" },
            Err(detail) => Self { name, ok: false, detail, remedy },
        }
    }
}

/// The oldest kernel with idmapped mounts of erofs and of layers of an overlay.
const OLDEST_KERNEL: (u32, u32) = (5, 19);
/// The first kernel that mounts erofs from a file without a loop device.
const EROFS_FROM_FILE: (u32, u32) = (6, 12);

/// Looks at everything the container driver needs. Changes nothing on the machine.
#[must_use]
pub fn check() -> Vec<Check> {
    vec![
        Check::new("root", root(), "run as root: namespaces, mounts and cgroups of sandboxes are made by the agent"),
        Check::new("kernel", kernel(), "use Linux 5.19 or later (Debian 12 and Ubuntu 24.04 have it)"),
        Check::new(
            "namespaces",
            namespaces(),
            "set the sysctl user.max_user_namespaces above 0, and use a kernel with all namespaces",
        ),
        Check::new("overlay", filesystem("overlay"), "run `modprobe overlay`"),
        Check::new("erofs", erofs(), "run `modprobe erofs` (and `modprobe loop` before Linux 6.12)"),
        Check::new("btrfs", filesystem("btrfs"), "run `modprobe btrfs`: volumes of sandboxes are its subvolumes"),
        Check::new("cgroups", cgroups(), "mount cgroup v2 with the controllers cpu, memory and pids, or these on v1"),
        Check::new("seccomp", seccomp(), "use a kernel with CONFIG_SECCOMP_FILTER"),
    ]
}

fn root() -> Result<String, String> {
    const SYS_ADMIN: u64 = 1 << 21;
    let status = fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default();
    if !rustix::process::geteuid().is_root() {
        Err("not root".to_owned())
    } else if effective & SYS_ADMIN == 0 {
        Err("root without CAP_SYS_ADMIN (inside a container?)".to_owned())
    } else {
        Ok("root with CAP_SYS_ADMIN".to_owned())
    }
}

/// The running kernel's version.
pub(super) fn release() -> Option<((u32, u32), String)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?.trim_end().to_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((version, release))
}

fn kernel() -> Result<String, String> {
    match release() {
        Some((version, release)) if version >= OLDEST_KERNEL => Ok(format!("Linux {release}")),
        Some((_, release)) => Err(format!("Linux {release} is too old")),
        None => Err("the kernel's version can't be read".to_owned()),
    }
}

fn namespaces() -> Result<String, String> {
    let missing: Vec<_> = ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"]
        .into_iter()
        .filter(|kind| fs::symlink_metadata(format!("/proc/self/ns/{kind}")).is_err())
        .collect();
    if !missing.is_empty() {
        return Err(format!("missing: {}", missing.join(", ")));
    }
    let most = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    match most.trim().parse::<u64>() {
        Ok(0) => Err("user.max_user_namespaces is 0".to_owned()),
        _ => Ok(format!("all seven; at most {} user namespaces", most.trim())),
    }
}

fn filesystem(name: &str) -> Result<String, String> {
    let known = fs::read_to_string("/proc/filesystems").map_err(|error| error.to_string())?;
    if known.lines().any(|line| line.split_whitespace().last() == Some(name)) {
        Ok("in the kernel".to_owned())
    } else {
        Err(format!("the kernel does not know {name} now"))
    }
}

fn erofs() -> Result<String, String> {
    filesystem("erofs")?;
    if release().is_some_and(|(version, _)| version >= EROFS_FROM_FILE) {
        Ok("mounted from files directly".to_owned())
    } else if fs::metadata("/dev/loop-control").is_ok() {
        Ok("mounted through loop devices".to_owned())
    } else {
        Err("this kernel needs loop devices for it, and there are none".to_owned())
    }
}

fn cgroups() -> Result<String, String> {
    let found = Hierarchies::detect().map_err(|error| error.to_string())?;
    let missing: Vec<_> = [Controller::Cpu, Controller::Memory, Controller::Pids]
        .into_iter()
        .filter(|controller| found.of(*controller).is_none())
        .map(Controller::as_str)
        .collect();
    if !missing.is_empty() {
        Err(format!("{}; missing: {}", found.kind(), missing.join(", ")))
    } else if found.v2().is_none() && found.of(Controller::Freezer).is_none() {
        Err("nothing can freeze: neither v2 nor the v1 freezer is mounted".to_owned())
    } else {
        Ok(found.kind().to_owned())
    }
}

fn seccomp() -> Result<String, String> {
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.contains("errno") => Ok("filters available".to_owned()),
        _ => Err("the kernel has no seccomp filters".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_run_containers() {
        let wrong: Vec<_> = check().into_iter().filter(|check| !check.ok).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
