//! Hardware or software: what runs the guest's instructions, and what the guest's kernel must be told for it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::kernel::Kernel;
use crate::driver::{host_boot_id, kvm};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    Kvm,
    /// Software: runs everywhere, many times slower.
    Tcg,
}

impl Accel {
    /// KVM where a whole system has booted under it. Where it does not work the proof takes seconds, so it is made once per
    /// boot of the machine and remembered in the cache. Fetches the kernel where firmware runs.
    #[must_use]
    pub fn of_this_machine(cache: &Path, guest: &[u8]) -> Self {
        if !Path::new("/dev/kvm").exists() {
            return Self::Tcg;
        }
        if let Some(works) = Self::remembered(cache) {
            return if works { Self::Kvm } else { Self::Tcg };
        }
        let works = match kvm::runs_firmware().then(|| Kernel::ensure(cache, guest)) {
            None => false,
            Some(Ok(kernel)) => kvm::runs(&kernel, Self::Kvm),
            Some(Err(error)) => {
                tracing::warn!(%error, "whether KVM works here can't be found out");
                return Self::Tcg;
            }
        };
        let remember = || -> io::Result<()> {
            fs::create_dir_all(cache.join("kernels"))?;
            fs::write(memory(cache), told(works))
        };
        if let Err(error) = remember() {
            tracing::debug!(%error, "whether KVM works can't be remembered");
        }
        if works { Self::Kvm } else { Self::Tcg }
    }

    /// What was found out in this boot of the machine.
    pub(crate) fn remembered(cache: &Path) -> Option<bool> {
        let known = fs::read_to_string(memory(cache)).unwrap_or_default();
        [true, false].into_iter().find(|works| !host_boot_id().is_empty() && known == told(*works))
    }

    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            // Software copies byte by byte where it is told that a processor would be quick at that ("erms", "fsrm").
            Self::Tcg => &["-accel", "tcg,thread=multi,tb-size=64", "-cpu", "max,erms=off,fsrm=off"],
        }
    }

    /// The same as they were before that was known.
    pub(super) fn former_arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => self.arguments(),
            Self::Tcg => &["-accel", "tcg,thread=multi,tb-size=64", "-cpu", "max"],
        }
    }

    /// What of this machine's processors a guest can see, and could not go on without on another machine.
    pub(super) fn processor(self) -> String {
        let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        match self {
            Self::Kvm => format!("KVM, {}", kind(&text)),
            // What kernels measure differs a little from boot to boot.
            Self::Tcg => format!("software, {} MHz", (counter_khz(&text).unwrap_or_default() + 500) / 1000),
        }
    }

    /// Memory of the emulator itself, beyond the guest's.
    pub(super) const fn overhead_bytes(self) -> u64 {
        match self {
            Self::Kvm => 128 << 20,
            // Translated code is kept in 64 MiB.
            Self::Tcg => 224 << 20,
        }
    }

    /// On a busy machine a guest that is emulated may fail to measure its clock, and stops: so it is told.
    pub(super) fn kernel_parameters(self) -> String {
        match self {
            Self::Kvm => String::new(),
            Self::Tcg => {
                let clock = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| clock(&text));
                [THRIFTY, clock.as_deref().unwrap_or_default()].join(" ").trim_end().to_owned()
            }
        }
    }
}

/// What runs for the first time is translated first, and at each address anew: programs lie at the same ones every time,
/// and the kernel counts and asks no more than it has to.
const THRIFTY: &str = "norandmaps psi=0 lsm=landlock,yama";

fn memory(cache: &Path) -> PathBuf {
    cache.join("kernels").join("kvm")
}

fn told(works: bool) -> String {
    format!("{} {}\n", host_boot_id(), if works { "boots a system" } else { "does not" })
}

/// The first processor's name, and a digest of all lines that say what it is, and not how it is doing.
fn kind(cpuinfo: &str) -> String {
    let names = ["vendor_id", "cpu family", "model", "model name", "stepping", "flags"];
    let first = cpuinfo.lines().take_while(|line| !line.is_empty());
    let lines = first.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.trim(), value.trim()));
    let (mut hash, mut model) = (Sha256::new(), String::new());
    for (name, value) in lines.filter(|(name, _)| names.contains(name)) {
        hash.update(format!("{name}: {value}\n"));
        if name == "model name" {
            model = value.chars().filter(|letter| (' '..='~').contains(letter)).take(80).collect();
        }
    }
    format!("{model}, {}", hex::encode(&hash.finalize()[..4]))
}

/// The guest's counter runs as the host's does. Linux measures 500 of its cycles as one "bogomips" and 250 ticks a second.
fn clock(cpuinfo: &str) -> Option<String> {
    let khz = counter_khz(cpuinfo)?;
    let per_tick = khz * 1000 / 250;
    Some(format!("no_timer_check tsc_early_khz={khz} lpj={per_tick}"))
}

fn counter_khz(cpuinfo: &str) -> Option<u64> {
    let line = cpuinfo.lines().find(|line| line.starts_with("bogomips"))?;
    let bogomips: f64 = line.split_once(':')?.1.trim().parse().ok()?;
    Some((bogomips * 500.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_clock_follows_from_the_hosts() {
        let text = "processor\t: 0\nbogomips\t: 5000.00\n";
        assert_eq!(clock(text).as_deref(), Some("no_timer_check tsc_early_khz=2500000 lpj=10000000"));
        assert_eq!(clock("nothing"), None);
    }

    #[test]
    fn a_processor_is_told_by_what_it_can_and_not_by_how_fast_it_runs() {
        let text = |mhz: u32, flags: &str| {
            let one = format!("vendor_id\t: X\nmodel name\t: Y\ncpu MHz\t\t: {mhz}\nflags\t\t: {flags}\n\n");
            kind(&one.repeat(2))
        };
        assert!(text(1000, "fpu avx").starts_with("Y, "));
        assert_eq!(text(1000, "fpu avx"), text(2000, "fpu avx"));
        assert_ne!(text(1000, "fpu avx"), text(1000, "fpu"));
    }

    #[test]
    fn what_was_found_out_in_this_boot_is_not_tried_again() {
        let cache = tempfile::tempdir().unwrap();
        fs::create_dir(cache.path().join("kernels")).unwrap();
        assert_eq!(Accel::remembered(cache.path()), None);
        for (works, accel) in [(true, Accel::Kvm), (false, Accel::Tcg)] {
            fs::write(memory(cache.path()), told(works)).unwrap();
            assert_eq!(Accel::remembered(cache.path()), Some(works));
            let accel = if Path::new("/dev/kvm").exists() { accel } else { Accel::Tcg };
            assert_eq!(Accel::of_this_machine(cache.path(), b"guest"), accel);
        }
        fs::write(memory(cache.path()), told(true).replace(host_boot_id(), "another boot")).unwrap();
        assert_eq!(Accel::remembered(cache.path()), None);
    }
}
