//! The sandbox's own /proc/meminfo, stat, loadavg and uptime.
//!
//! The launcher has mounted files of a private tmpfs over them and passed its directory; this file writes their
//! contents, in place, so that programs see the sandbox's limits and use and not the host's. They are refreshed only
//! while a program that the guest started is alive: an idle sandbox causes no wake-ups at all. When the last one has
//! gone, the guest also gives its own free memory back.

use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{Mode, OFlags, openat};

use crate::cgroup::{Cgroup, CpuUse, MemoryUse};
use crate::guest::Guest;

/// How soon after a start the files are refreshed first, and how often then.
const FIRST_REFRESH: Duration = Duration::from_millis(200);
const REFRESH: Duration = Duration::from_secs(2);

/// Ticks of a processor's time per second, as programs expect them in /proc/stat.
const TICKS: u64 = 100;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Meminfo,
    Stat,
    Loadavg,
    Uptime,
}

impl Name {
    fn as_str(self) -> &'static str {
        match self {
            Self::Meminfo => "meminfo",
            Self::Stat => "stat",
            Self::Loadavg => "loadavg",
            Self::Uptime => "uptime",
        }
    }
}

/// Averages of busy processors over 1, 5 and 15 minutes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Load([f64; 3]);

impl Load {
    /// Moves the averages on by `seconds` in which `busy` processors were busy on average.
    fn advance(&mut self, busy: f64, seconds: f64) {
        for (average, minutes) in self.0.iter_mut().zip([1.0, 5.0, 15.0]) {
            let keep = (-seconds / (60.0 * minutes)).exp();
            *average = *average * keep + busy * (1.0 - keep);
        }
    }
}

struct Sample {
    at: Instant,
    cpu: CpuUse,
    load: Load,
}

pub struct ProcFiles {
    folder: Option<OwnedFd>,
    cpus: u32,
    memory_bytes: u64,
    since: Instant,
    sample: Mutex<Sample>,
    refreshing: AtomicBool,
    started: AtomicU32,
}

impl ProcFiles {
    /// `cpu` is what the group has used up to now.
    pub fn new(folder: Option<OwnedFd>, cpus: u32, memory_bytes: u64, cpu: CpuUse) -> Self {
        let now = Instant::now();
        Self {
            folder,
            cpus,
            memory_bytes,
            since: now,
            sample: Mutex::new(Sample { at: now, cpu, load: Load::default() }),
            refreshing: AtomicBool::new(false),
            started: AtomicU32::new(1),
        }
    }

    /// Before a start: the one file that is out of date however idle the sandbox was.
    pub fn freshen(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
        if self.folder.is_some() && !self.refreshing.load(Ordering::Relaxed) {
            let cpu = crate::lock(&self.sample).cpu;
            self.write(Name::Uptime, &uptime(self.since.elapsed(), self.cpus, cpu));
        }
    }

    /// Keeps the files fresh from now until no program is left; called after every start.
    pub fn keep_fresh(&self, guest: &Arc<Guest>) {
        if self.refreshing.swap(true, Ordering::Relaxed) {
            return;
        }
        let guest = guest.clone();
        tokio::spawn(async move {
            let mut pause = FIRST_REFRESH;
            loop {
                tokio::time::sleep(pause).await;
                pause = REFRESH;
                guest.proc_files.refresh(&guest.cgroup);
                if guest.processes.is_empty() {
                    break;
                }
            }
            // Both happen on the guest's one thread, without a pause between the look and the mark.
            guest.proc_files.refreshing.store(false, Ordering::Relaxed);
            crate::memory::give_back();
        });
    }

    fn refresh(&self, cgroup: &Cgroup) {
        if self.folder.is_none() {
            return;
        }
        let running = self.since.elapsed();
        let (cpu, load) = {
            let mut sample = crate::lock(&self.sample);
            let now = Instant::now();
            let cpu = cgroup.cpu().unwrap_or(sample.cpu);
            let seconds = now.duration_since(sample.at).as_secs_f64();
            if seconds > 0.0 {
                let used = cpu.total_us().saturating_sub(sample.cpu.total_us()) as f64 / 1e6;
                sample.load.advance(used / seconds, seconds);
            }
            sample.at = now;
            sample.cpu = cpu;
            (cpu, sample.load)
        };
        let started = self.started.load(Ordering::Relaxed);
        self.write(Name::Uptime, &uptime(running, self.cpus, cpu));
        self.write(Name::Loadavg, &loadavg(load, cgroup.processes().unwrap_or(1), started));
        self.write(Name::Stat, &stat(running, self.cpus, cpu, started));
        if let Some(memory) = cgroup.memory().filter(|_| self.memory_bytes > 0) {
            self.write(Name::Meminfo, &meminfo(self.memory_bytes, memory));
        }
    }

    /// Writes in place. A failure leaves an old content, which is all that can be done about it.
    fn write(&self, name: Name, text: &str) {
        let Some(folder) = &self.folder else { return };
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if let Ok(fd) = openat(folder, name.as_str(), flags, Mode::empty()) {
            let file = File::from(fd);
            let length = text.len() as u64;
            if file.write_all_at(text.as_bytes(), 0).is_ok() && file.metadata().is_ok_and(|meta| meta.len() > length) {
                let _ = file.set_len(length);
            }
        }
    }
}

fn uptime(running: Duration, cpus: u32, cpu: CpuUse) -> String {
    let seconds = running.as_secs_f64();
    let idle = (seconds * f64::from(cpus) - cpu.total_us() as f64 / 1e6).max(0.0);
    format!("{seconds:.2} {idle:.2}\n")
}

fn loadavg(load: Load, processes: u64, last_pid: u32) -> String {
    let [one, five, fifteen] = load.0;
    let running = (one.ceil() as u64).clamp(1, processes.max(1));
    format!("{one:.2} {five:.2} {fifteen:.2} {running}/{processes} {last_pid}\n")
}

fn stat(running: Duration, cpus: u32, cpu: CpuUse, started: u32) -> String {
    let ticks = |micros: u64| micros / (1_000_000 / TICKS);
    let wall = running.as_millis() as u64 * TICKS / 1000;
    let (user, system) = (ticks(cpu.user_us), ticks(cpu.system_us));
    let cpus = u64::from(cpus);
    let mut text = String::new();
    let mut line = |name: &str, user: u64, system: u64, wall: u64| {
        let idle = wall.saturating_sub(user + system);
        let _ = writeln!(text, "cpu{name} {user} 0 {system} {idle} 0 0 0 0 0 0");
    };
    line(" ", user, system, wall * cpus);
    for index in 0..cpus {
        line(&index.to_string(), user / cpus, system / cpus, wall);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let booted = now.saturating_sub(running).as_secs();
    let _ = write!(
        text,
        "intr 0\nctxt 0\nbtime {booted}\nprocesses {started}\nprocs_running 1\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n"
    );
    text
}

fn meminfo(total: u64, memory: MemoryUse) -> String {
    let used = memory.used.min(total);
    let free = total - used;
    let cached = memory.cache();
    let fields: [(&str, u64); 24] = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", (free + cached).min(total)),
        ("Buffers", 0),
        ("Cached", cached + memory.shared),
        ("SwapCached", 0),
        ("Active", memory.active_file + memory.anonymous),
        ("Inactive", memory.inactive_file),
        ("Active(anon)", memory.anonymous),
        ("Inactive(anon)", 0),
        ("Active(file)", memory.active_file),
        ("Inactive(file)", memory.inactive_file),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", memory.anonymous),
        ("Mapped", 0),
        ("Shmem", memory.shared),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
    ];
    let mut text = String::new();
    for (name, bytes) in fields {
        let _ = writeln!(text, "{:<16}{:>8} kB", format!("{name}:"), bytes / 1024);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_have_the_kernels_shape() {
        let memory =
            MemoryUse { used: 100 << 20, active_file: 20 << 20, inactive_file: 10 << 20, shared: 0, anonymous: 0 };
        let text = meminfo(512 << 20, memory);
        assert!(
            text.starts_with("MemTotal:         524288 kB\nMemFree:          421888 kB\nMemAvailable:     452608 kB\n")
        );
        assert_eq!(meminfo(512 << 20, MemoryUse { used: 1, ..memory }).len(), text.len(), "it can be written in place");

        let cpu = CpuUse { user_us: 3_000_000, system_us: 1_000_000 };
        let text = stat(Duration::from_secs(10), 2, cpu, 5);
        assert!(text.starts_with("cpu  300 0 100 1600 0 0 0 0 0 0\ncpu0 150 0 50 800 "), "{text}");
        assert_eq!(uptime(Duration::from_secs(10), 2, cpu), "10.00 16.00\n");
    }

    #[test]
    fn the_load_follows_what_is_busy_and_fades_when_idle() {
        let mut load = Load::default();
        for _ in 0..300 {
            load.advance(2.0, 2.0);
        }
        assert!(load.0[0] > 1.99 && load.0[2] < load.0[1]);
        load.advance(0.0, 3600.0);
        assert!(load.0[0] < 0.01);
        assert_eq!(loadavg(Load([0.5, 0.25, 0.1]), 4, 17), "0.50 0.25 0.10 1/4 17\n");
    }
}
