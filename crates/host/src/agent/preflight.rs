//! What this machine can run, told before anything is tried: `atoll host check`.

use std::path::Path;

use crate::driver::{self, Check};

/// Free room below which a host is of little use.
const WANTED_DISK: u64 = 5 << 30;

/// Looks at everything that the agent needs: the driver's needs, and the agent's own. Changes nothing on the machine.
#[must_use]
pub fn check() -> Vec<Check> {
    let mut checks = driver::check();
    checks.extend([
        tool("mkfs.btrfs", "install btrfs-progs: the storage pool is made with it"),
        tool("nft", "install nftables: the sandboxes' firewall is loaded with it"),
        loop_devices(),
        disk(Path::new(DATA_DIR)),
        driver::kvm::check(),
        machines(),
    ]);
    checks
}

/// Where the data directory is unless a setting says otherwise.
const DATA_DIR: &str = "/var/lib/atoll";

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
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    let found = std::env::split_paths(&path).chain(sbin).map(|dir| dir.join(name)).find(|path| path.is_file());
    match found {
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
        for check in check() {
            assert_eq!(check.ok, check.remedy.is_empty(), "{check:?}");
            assert!(!check.detail.is_empty(), "{check:?}");
        }
    }
}
