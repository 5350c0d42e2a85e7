//! What the figures were measured on.

use std::process::Command;

use anyhow::Result;

/// Lines that say machine, kernel and commit.
pub fn describe() -> Result<Vec<String>> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("")
        .trim_start_matches([' ', '\t', ':']);
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let memory = meminfo("MemTotal")? / 1024;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let dirty = git(&["status", "--porcelain"]).is_some_and(|text| !text.is_empty());
    let date = Command::new("date").arg("-uIminutes").output()?;
    Ok(vec![
        format!("Machine: {cores} cores ({model}), {memory} MiB of memory, kernel {}", kernel.trim()),
        format!("Commit: {commit}{}", if dirty { " and uncommitted changes" } else { "" }),
        format!("Date: {}", String::from_utf8_lossy(&date.stdout).trim()),
    ])
}

/// A field of /proc/meminfo, in KiB.
pub fn meminfo(field: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let value = line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse().ok());
    value.ok_or_else(|| anyhow::anyhow!("/proc/meminfo has no {field}"))
}

/// Memory in use that can't be given back by dropping caches, in KiB; tmpfs counts, page cache doesn't.
pub fn used_kib(with_reclaimable_slab: bool) -> Result<u64> {
    let cache = meminfo("Cached")? - meminfo("Shmem")?;
    let used = meminfo("MemTotal")? - meminfo("MemFree")? - meminfo("Buffers")? - cache;
    Ok(if with_reclaimable_slab { used } else { used - meminfo("SReclaimable")? })
}

/// Resident memory of a process, in KiB.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse().ok()).unwrap_or(0))
}
