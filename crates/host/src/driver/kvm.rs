//! Whether this machine runs virtual machines in hardware, proven by booting one: `/dev/kvm` that opens proves nothing,
//! since a nested one may be emulated and too slow for anything.
//!
//! The guest is a boot sector of eight bytes that ends the machine by QEMU's exit device: firmware, disk and processor
//! have worked then. No kernel is needed for it. What can't run is no fault of a host: containers need none of this.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Check;

/// A machine that needs longer for a boot sector is not worth having.
const LIMIT: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// `mov al, 0x10; out 0xf4, al; hlt; jmp back`
const CODE: [u8; 8] = [0xb0, 0x10, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd, 0x90];
/// What QEMU ends with when the guest has written 0x10: twice that and one.
const BOOTED: i32 = 0x10 * 2 + 1;

/// What came of the attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    NoDevice,
    /// It can't be opened, and why.
    Closed(String),
    NoQemu,
    OtherMachine,
    Booted(Duration),
    TooSlow,
    Failed(String),
}

/// Tries it. Takes up to five seconds where KVM is there and does not work.
#[must_use]
pub fn check() -> Check {
    Check { name: "kvm", ok: true, detail: tell(&find()), remedy: "" }
}

/// Whether a guest has booted under KVM here. Takes up to five seconds, as [`check`] does.
pub(super) fn is_proven() -> bool {
    matches!(find(), Found::Booted(_))
}

fn tell(found: &Found) -> String {
    let software = "virtual machines run in software here, many times slower";
    match found {
        Found::NoDevice => format!("no /dev/kvm: {software}"),
        Found::Closed(why) => format!("/dev/kvm can't be opened ({why}): {software}"),
        Found::NoQemu => "/dev/kvm is there, but no qemu to prove it with (install qemu-system-x86)".to_owned(),
        Found::OtherMachine => "/dev/kvm is there; it is proven on x86-64 only".to_owned(),
        Found::Booted(took) => format!("a guest booted in {} ms", took.as_millis()),
        Found::TooSlow => format!("no guest booted within {} s: {software}", LIMIT.as_secs()),
        Found::Failed(why) => format!("no guest booted ({why}): {software}"),
    }
}

fn find() -> Found {
    let device = Path::new("/dev/kvm");
    if !device.exists() {
        return Found::NoDevice;
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open(device) {
        return Found::Closed(error.to_string());
    }
    if !cfg!(target_arch = "x86_64") {
        return Found::OtherMachine;
    }
    let Some(qemu) = program("qemu-system-x86_64") else { return Found::NoQemu };
    match Disk::new() {
        Ok(disk) => boot(&qemu, &disk.0),
        Err(error) => Found::Failed(error.to_string()),
    }
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// A file with the boot sector, removed at the end.
struct Disk(PathBuf);

impl Disk {
    fn new() -> std::io::Result<Self> {
        let name = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let path = std::env::temp_dir().join(format!("atoll-kvm-{}", name.trim()));
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let disk = Self(path);
        file.write_all(&sector())?;
        Ok(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn sector() -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..CODE.len()].copy_from_slice(&CODE);
    // What firmware takes for a disk that can be booted.
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn boot(qemu: &Path, disk: &Path) -> Found {
    let mut command = Command::new(qemu);
    command.args(["-accel", "kvm", "-machine", "pc", "-cpu", "host", "-m", "16", "-display", "none", "-nodefaults"]);
    command.args(["-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-drive"]);
    command.arg(format!("file={},format=raw,if=ide", disk.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    let mut guest = match command.spawn() {
        Ok(guest) => guest,
        Err(error) => return Found::Failed(error.to_string()),
    };
    let ended = loop {
        match guest.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if begin.elapsed() < LIMIT => std::thread::sleep(LOOK_AGAIN),
            _ => break None,
        }
    };
    match ended {
        Some(status) if status.code() == Some(BOOTED) => Found::Booted(begin.elapsed()),
        Some(status) => Found::Failed(format!("qemu ended with {status}")),
        None => {
            let _ = guest.kill();
            let _ = guest.wait();
            Found::TooSlow
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_guest_that_has_booted_counts_as_proof() {
        assert_eq!(tell(&Found::Booted(Duration::from_millis(80))), "a guest booted in 80 ms");
        for found in [Found::NoDevice, Found::Closed("x".into()), Found::TooSlow, Found::Failed("x".into())] {
            assert!(tell(&found).contains("in software"), "{found:?}");
        }
        assert!(tell(&Found::NoQemu).contains("qemu-system-x86"));
    }

    #[test]
    fn what_ends_otherwise_than_the_guest_would_end_it_is_no_boot() {
        let disk = Disk::new().unwrap();
        assert_eq!(fs::read(&disk.0).unwrap().len(), 512);
        assert!(matches!(boot(Path::new("/bin/true"), &disk.0), Found::Failed(_)));
        assert!(matches!(boot(Path::new("/nowhere"), &disk.0), Found::Failed(_)));
        let path = disk.0.clone();
        drop(disk);
        assert!(!path.exists());
    }
}
