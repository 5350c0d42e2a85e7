//! The bounds of a sandbox, written to its cgroups.

use std::io;
use std::path::Path;

use super::{Controller, Hierarchy, Version, write};

/// The period that the processor quota is counted in.
const CPU_PERIOD_USEC: u64 = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Whole processors' worth of time.
    pub vcpus: u32,
    /// Without swap: none is allowed beyond.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids_max: u32,
}

impl Limits {
    /// Writes what the hierarchy controls.
    pub(super) fn apply(&self, hierarchy: &Hierarchy, path: &Path) -> io::Result<()> {
        let quota = u64::from(self.vcpus.max(1)) * CPU_PERIOD_USEC;
        let v2 = hierarchy.version == Version::V2;
        if hierarchy.has(Controller::Cpu) {
            if v2 {
                write(&path.join("cpu.max"), &format!("{quota} {CPU_PERIOD_USEC}"))?;
            } else {
                write(&path.join("cpu.cfs_quota_us"), &quota.to_string())?;
            }
        }
        if hierarchy.has(Controller::Memory) {
            let bytes = self.memory_bytes.to_string();
            if v2 {
                write(&path.join("memory.max"), &bytes)?;
                write_if_there(&path.join("memory.swap.max"), "0")?;
            } else {
                write(&path.join("memory.limit_in_bytes"), &bytes)?;
                // Memory and swap together: the same number means no swap. Absent without swap accounting.
                write_if_there(&path.join("memory.memsw.limit_in_bytes"), &bytes)?;
            }
        }
        if hierarchy.has(Controller::Pids) {
            write(&path.join("pids.max"), &self.pids_max.to_string())?;
        }
        Ok(())
    }
}

fn write_if_there(path: &Path, value: &str) -> io::Result<()> {
    match write(path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
