//! What the sandbox uses, as its own control group counts it.
//!
//! The launcher shows the sandbox its own group somewhere below /sys/fs/cgroup, in either version's layout; which files
//! are there is found out once, by trying. Nothing here writes. Neighbours: `metrics` and `proc_files` read it.

use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    pub used: u64,
    pub active_file: u64,
    pub inactive_file: u64,
    pub shared: u64,
    pub anonymous: u64,
}

impl MemoryUse {
    /// Page cache that could be given back.
    pub fn cache(&self) -> u64 {
        (self.active_file + self.inactive_file).min(self.used)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuUse {
    pub user_us: u64,
    pub system_us: u64,
}

impl CpuUse {
    pub fn total_us(&self) -> u64 {
        self.user_us + self.system_us
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    V1(PathBuf),
    V2(PathBuf),
    /// All of the machine: `/proc`.
    Machine(PathBuf),
}

#[derive(Debug, Clone, Default)]
pub struct Cgroup {
    memory: Option<Source>,
    cpu: Option<Source>,
    pids: Option<PathBuf>,
}

impl Cgroup {
    pub fn find() -> Self {
        Self::find_below(Path::new("/sys/fs/cgroup"))
    }

    /// For a sandbox that is a machine of its own.
    pub fn of_machine() -> Self {
        let proc = || Some(Source::Machine(PathBuf::from("/proc")));
        Self { memory: proc(), cpu: proc(), pids: None }
    }

    fn find_below(root: &Path) -> Self {
        let v1 = |names: &[&str], file: &str| {
            names.iter().map(|name| root.join(name)).find(|folder| folder.join(file).exists()).map(Source::V1)
        };
        let v2 = |file: &str| {
            ["", "unified"].iter().map(|name| root.join(name)).find(|folder| folder.join(file).exists()).map(Source::V2)
        };
        let cpu_names = ["cpu,cpuacct", "cpuacct,cpu", "cpuacct", "cpu"];
        Self {
            memory: v1(&["memory"], "memory.usage_in_bytes").or_else(|| v2("memory.current")),
            cpu: v1(&cpu_names, "cpuacct.usage").or_else(|| v2("cpu.stat")),
            pids: ["pids", "", "unified"]
                .iter()
                .map(|name| root.join(name).join("pids.current"))
                .find(|file| file.exists()),
        }
    }

    pub fn memory(&self) -> Option<MemoryUse> {
        let (used, stat, prefix) = match self.memory.as_ref()? {
            Source::Machine(proc) => return machine_memory(&fs::read_to_string(proc.join("meminfo")).ok()?),
            Source::V1(folder) => {
                (number(&folder.join("memory.usage_in_bytes"))?, folder.join("memory.stat"), "total_")
            }
            Source::V2(folder) => (number(&folder.join("memory.current"))?, folder.join("memory.stat"), ""),
        };
        let stat = fs::read_to_string(stat).unwrap_or_default();
        let field = |name: &str| key(&stat, &format!("{prefix}{name}")).unwrap_or(0);
        Some(MemoryUse {
            used,
            active_file: field("active_file"),
            inactive_file: field("inactive_file"),
            shared: field("shmem"),
            anonymous: if prefix.is_empty() { field("anon") } else { field("rss") },
        })
    }

    pub fn cpu(&self) -> Option<CpuUse> {
        match self.cpu.as_ref()? {
            Source::Machine(proc) => machine_cpu(&fs::read_to_string(proc.join("stat")).ok()?),
            Source::V1(folder) => {
                let total_us = number(&folder.join("cpuacct.usage"))? / 1000;
                // In ticks of 1/100 s; the remainder between them and the exact total is counted as the user's.
                let stat = fs::read_to_string(folder.join("cpuacct.stat")).unwrap_or_default();
                let system_us = (key(&stat, "system").unwrap_or(0) * 10_000).min(total_us);
                Some(CpuUse { user_us: total_us - system_us, system_us })
            }
            Source::V2(folder) => {
                let stat = fs::read_to_string(folder.join("cpu.stat")).ok()?;
                Some(CpuUse { user_us: key(&stat, "user_usec")?, system_us: key(&stat, "system_usec")? })
            }
        }
    }

    pub fn processes(&self) -> Option<u64> {
        number(self.pids.as_ref()?)
    }
}

/// From `/proc/meminfo`, in kilobytes.
fn machine_memory(text: &str) -> Option<MemoryUse> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
    };
    Some(MemoryUse {
        used: bytes("MemTotal")?.saturating_sub(bytes("MemFree")?),
        active_file: bytes("Active(file)")?,
        inactive_file: bytes("Inactive(file)")?,
        shared: bytes("Shmem").unwrap_or(0),
        anonymous: bytes("AnonPages").unwrap_or(0),
    })
}

/// From the first line of `/proc/stat`, in hundredths of a second: user, nice, system, idle, iowait, irq, softirq.
fn machine_cpu(text: &str) -> Option<CpuUse> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let of = |index: usize| ticks.get(index).copied().unwrap_or(0) * 10_000;
    Some(CpuUse { user_us: of(0) + of(1), system_us: of(2) + of(5) + of(6) })
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The value of a line `name value`.
fn key(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("folder");
            fs::write(path, text).expect("file");
        }
        root
    }

    #[test]
    fn version_1_is_read() {
        let root = folder(&[
            ("memory/memory.usage_in_bytes", "1000\n"),
            ("memory/memory.stat", "active_file 1\ntotal_active_file 300\ntotal_inactive_file 200\ntotal_rss 400\n"),
            ("cpu,cpuacct/cpuacct.usage", "5000000000\n"),
            ("cpu,cpuacct/cpuacct.stat", "user 300\nsystem 100\n"),
            ("pids/pids.current", "7\n"),
        ]);
        let group = Cgroup::find_below(root.path());
        let memory = group.memory().expect("memory");
        assert_eq!((memory.used, memory.cache(), memory.anonymous), (1000, 500, 400));
        assert_eq!(group.cpu(), Some(CpuUse { user_us: 4_000_000, system_us: 1_000_000 }));
        assert_eq!(group.processes(), Some(7));
    }

    #[test]
    fn a_machine_of_its_own_is_read_from_proc() {
        let text = "MemTotal: 1000 kB\nMemFree: 400 kB\nActive(file): 50 kB\nInactive(file): 30 kB\nShmem: 1 kB\n";
        let memory = machine_memory(text).expect("memory");
        assert_eq!((memory.used, memory.cache(), memory.shared), (600 << 10, 80 << 10, 1 << 10));
        let cpu = machine_cpu("cpu  3 1 5 100 7 2 1 0 0 0\ncpu0 1 1 1\n").expect("processors");
        assert_eq!((cpu.user_us, cpu.system_us), (40_000, 80_000));
        assert_eq!((machine_memory(""), machine_cpu("intr 1")), (None, None));
    }

    #[test]
    fn version_2_is_read_and_nothing_is_no_error() {
        let root = folder(&[
            ("memory.current", "1000\n"),
            ("memory.stat", "anon 400\nactive_file 300\ninactive_file 200\n"),
            ("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\n"),
        ]);
        let group = Cgroup::find_below(root.path());
        assert_eq!(group.memory().map(|memory| (memory.used, memory.anonymous)), Some((1000, 400)));
        assert_eq!(group.cpu().map(|cpu| cpu.total_us()), Some(5));
        let empty = tempfile::tempdir().expect("a temporary folder");
        let nothing = Cgroup::find_below(empty.path());
        assert_eq!((nothing.memory(), nothing.cpu(), nothing.processes()), (None, None, None));
    }
}
