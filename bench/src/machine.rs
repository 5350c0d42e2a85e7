//! What the figures were measured on.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

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

/// What a process and all its descendants hold, shared pages counted once, and what the kernel holds that it can't
/// give back, in KiB. Looked at when the kernel's part has stood still: what was destroyed before is freed with a delay.
pub struct Held {
    pub processes: u64,
    pub kernel: u64,
}

impl Held {
    pub fn now(pid: u32) -> Result<Self> {
        const STEADY: u64 = 256;
        let mut last = 0_u64;
        for _ in 0..60 {
            std::fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the kernel's caches")?;
            std::thread::sleep(Duration::from_secs(1));
            let mut kernel = 0;
            for field in ["SUnreclaim", "SReclaimable", "KernelStack", "PageTables", "Percpu"] {
                kernel += meminfo(field)?;
            }
            if kernel.abs_diff(last) < STEADY {
                return Ok(Self { processes: tree(pid)?.into_iter().map(proportional_kib).sum(), kernel });
            }
            last = kernel;
        }
        bail!("the kernel's memory did not stand still within a minute: something else is running");
    }

    /// What each of so many takes that were not there before, in MB: of processes, and of the kernel.
    pub fn above(&self, before: &Self, count: usize) -> (f64, f64) {
        let per = |before: u64, after: u64| (after as f64 - before as f64) / count as f64 / 1024.0;
        (per(before.processes, self.processes), per(before.kernel, self.kernel))
    }
}

/// A process and its descendants.
fn tree(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // The name in parentheses may hold anything; what follows the last one is fixed.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.push((pid, parent.unwrap_or(0)));
    }
    let mut tree = vec![root];
    let mut looked_at = 0;
    while looked_at < tree.len() {
        let parent = tree[looked_at];
        tree.extend(parents.iter().filter(|(_, its)| *its == parent).map(|(pid, _)| pid));
        looked_at += 1;
    }
    Ok(tree)
}

/// Resident memory of a process with shared pages divided among those who share them, in KiB; 0 when it has ended.
fn proportional_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Processor time of a process since its start.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // SAFETY: sysconf only reads a constant of the system.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100).max(1);
    // After the name come the state and then utime and stime as the 12th and 13th.
    Ok(Duration::from_millis((ticks(11) + ticks(12)) * 1000 / per_second))
}

/// Resident memory of a process, in KiB.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse().ok()).unwrap_or(0))
}
