//! What a sandbox uses, read from its cgroups.

use std::fs;
use std::io;
use std::path::Path;

use super::{Controller, Hierarchy, Version};
use crate::driver::Usage;

/// Adds what this hierarchy counts.
pub(super) fn add(hierarchy: &Hierarchy, path: &Path, usage: &mut Usage) -> io::Result<()> {
    let v2 = hierarchy.version == Version::V2;
    if v2 || (hierarchy.has(Controller::Cpuacct) && usage.cpu_usec == 0) {
        usage.cpu_usec = cpu_usec(hierarchy, path)?;
    }
    if hierarchy.has(Controller::Memory) {
        let (current, reclaimable, events) = if v2 {
            ("memory.current", "inactive_file", "memory.events")
        } else {
            ("memory.usage_in_bytes", "total_inactive_file", "memory.oom_control")
        };
        let cache = field(&read(path, "memory.stat")?, reclaimable).unwrap_or_default();
        usage.memory_bytes = number(&read(path, current)?).saturating_sub(cache);
        usage.oom_kills = field(&read(path, events)?, "oom_kill").unwrap_or_default();
    }
    if hierarchy.has(Controller::Pids) {
        usage.processes = u32::try_from(number(&read(path, "pids.current")?)).unwrap_or(u32::MAX);
    }
    Ok(())
}

/// Processor time in microseconds.
pub(super) fn cpu_usec(hierarchy: &Hierarchy, path: &Path) -> io::Result<u64> {
    if hierarchy.version == Version::V2 {
        return Ok(field(&read(path, "cpu.stat")?, "usage_usec").unwrap_or_default());
    }
    Ok(number(&read(path, "cpuacct.usage")?) / 1_000)
}

fn read(path: &Path, file: &str) -> io::Result<String> {
    let path = path.join(file);
    fs::read_to_string(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("reading {}: {error}", path.display())))
}

fn number(text: &str) -> u64 {
    text.trim_end().parse().unwrap_or_default()
}

/// The value of a line `name value`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}
