//! `GET /metrics`: what the sandbox uses of what it has.

use std::sync::Mutex;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::cgroup::{Cgroup, CpuUse};

#[derive(Debug, Serialize)]
pub struct Metrics {
    pub ts: u64,
    pub cpu_count: u32,
    /// Of all processors together: 100 is all of them busy.
    pub cpu_used_pct: f64,
    pub mem_total: u64,
    pub mem_used: u64,
    pub mem_cache: u64,
    pub mem_total_mib: u64,
    pub mem_used_mib: u64,
    pub disk_used: u64,
    pub disk_total: u64,
}

struct Mark {
    at: Instant,
    used_us: u64,
    percent: f64,
}

/// Remembers the last reading, so that each one tells the time since.
pub struct Meter {
    cpus: u32,
    memory_bytes: u64,
    mark: Mutex<Mark>,
}

impl Meter {
    /// `used` is what the group has used up to now.
    pub fn new(cpus: u32, memory_bytes: u64, used: CpuUse) -> Self {
        let used_us = used.total_us();
        Self { cpus, memory_bytes, mark: Mutex::new(Mark { at: Instant::now(), used_us, percent: 0.0 }) }
    }

    pub fn read(&self, cgroup: &Cgroup) -> Metrics {
        let memory = cgroup.memory().unwrap_or_default();
        let total = if self.memory_bytes > 0 { self.memory_bytes } else { host_memory() };
        let cache = memory.cache();
        let used = memory.used.saturating_sub(memory.inactive_file);
        let (disk_used, disk_total) = disk();
        Metrics {
            ts: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            cpu_count: self.cpus,
            cpu_used_pct: self.cpu_percent(cgroup),
            mem_total: total,
            mem_used: used,
            mem_cache: cache,
            mem_total_mib: total >> 20,
            mem_used_mib: used >> 20,
            disk_used,
            disk_total,
        }
    }

    fn cpu_percent(&self, cgroup: &Cgroup) -> f64 {
        /// Readings closer together than this repeat the last one: the counters are too coarse for them.
        const SHORTEST_MICROS: u128 = 20_000;
        let Some(cpu) = cgroup.cpu() else { return 0.0 };
        let mut mark = crate::lock(&self.mark);
        let micros = mark.at.elapsed().as_micros();
        if micros >= SHORTEST_MICROS {
            let used = cpu.total_us().saturating_sub(mark.used_us);
            let percent = used as f64 * 100.0 / (micros as f64 * f64::from(self.cpus));
            *mark = Mark { at: Instant::now(), used_us: cpu.total_us(), percent: (percent * 100.0).round() / 100.0 };
        }
        mark.percent
    }
}

/// Bytes used and available in all on the sandbox's disk.
fn disk() -> (u64, u64) {
    rustix::fs::statvfs("/").map_or((0, 0), |disk| {
        let block = disk.f_frsize;
        (disk.f_blocks.saturating_sub(disk.f_bfree) * block, disk.f_blocks * block)
    })
}

fn host_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit)
}
