//! What this machine can run, told before anything is tried: `atoll host check`.

use std::path::Path;

use crate::driver::{self, Check};

/// Free room below which a host is of little use.
const WANTED_DISK: u64 = 5 << 30;

/// Looks at everything that an agent needs that keeps its things in `data_dir`: the driver's needs, and its own, and what was
/// found out before that `cache_dir` remembers. Changes nothing on the machine.
#[must_use]
pub fn check(data_dir: &Path, cache_dir: &Path) -> Vec<Check> {
    let mut checks = driver::check();
    checks.extend([
        tool("mkfs.btrfs", "install btrfs-progs: the storage pool is made with it"),
        tool("nft", "install nftables: the sandboxes' firewall is loaded with it"),
        loop_devices(),
        disk(data_dir),
        driver::kvm::check(driver::vm::Accel::remembered(cache_dir)),
        machines(),
    ]);
    checks
}

/// Containers need none of it, so it is no fault.
fn machines() -> Check {
    let detail = match driver::vm::has_qemu() {
        Ok(()) => "QEMU is installed: `--driver vm` makes every sandbox a virtual machine".to_owned(),
        Err(why) => format!("none: {why}"),
    };
    Check { name: "virtual machines", ok: true, detail, remedy: "" }
}

fn loop_devices() -> Check {
    let name = "loop devices";
    let remedy = "run `modprobe loop`, or put the data directory on a btrfs: the storage pool is a file otherwise";
    let there = Path::new("/dev/loop-control").exists();
    let detail = if there { "/dev/loop-control" } else { "/dev/loop-control is missing" };
    Check { name, ok: there, detail: detail.to_owned(), remedy: if there { "" } else { remedy } }
}

fn tool(name: &'static str, remedy: &'static str) -> Check {
    match driver::program(name) {
        Some(path) => Check { name, ok: true, detail: path.display().to_string(), remedy: "" },
        None => Check { name, ok: false, detail: "not found".to_owned(), remedy },
    }
}

fn disk(data_dir: &Path) -> Check {
    let name = "disk";
    let remedy = "free some disk, or put the data directory elsewhere (--data-dir)";
    let there = data_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(there) {
        Ok(it) => {
            let free = it.f_bavail.saturating_mul(it.f_frsize);
            let ok = free >= WANTED_DISK;
            let detail = format!("{} MiB free at {}", free >> 20, there.display());
            Check { name, ok, detail, remedy: if ok { "" } else { remedy } }
        }
        Err(error) => Check { name, ok: false, detail: format!("{}: {error}", there.display()), remedy },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_that_fails_says_what_to_do() {
        for check in check(Path::new("/var/lib/atoll"), Path::new("/var/cache/atoll")) {
            assert_eq!(check.ok, check.remedy.is_empty(), "{check:?}");
            assert!(!check.detail.is_empty(), "{check:?}");
        }
    }

    #[test]
    fn the_disk_that_counts_is_that_of_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let of = |path: &Path| disk(path).detail.split_once(" at ").unwrap().1.to_owned();
        assert_eq!(of(dir.path()), dir.path().display().to_string());
        assert_eq!(of(&dir.path().join("not/there/yet")), dir.path().display().to_string());
        let checks = check(dir.path(), dir.path());
        let disk = checks.iter().find(|check| check.name == "disk").unwrap();
        assert!(disk.detail.ends_with(&dir.path().display().to_string()), "{disk:?}");
    }
}
