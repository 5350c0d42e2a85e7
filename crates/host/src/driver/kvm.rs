//! Whether this machine runs virtual machines in hardware, proven by booting one: `/dev/kvm` that opens proves nothing,
//! since a nested one may be emulated, and then be too slow for anything or fail at what only a whole system does.
//!
//! Two guests are tried. The first is a boot sector of eight bytes that ends the machine by QEMU's exit device: firmware,
//! disk and processor have worked then, and no kernel is needed for it. The second is what sandboxes are made of: their
//! kernel, up to its first program. What can't run is no fault of a host: containers need none of this.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use atoll_rpc::channel::{PROOF, PROVEN};

use super::vm::{Accel, FIRMWARE, Kernel, kernel_command_line};
use super::{Check, program};

/// A machine that needs longer, for a boot sector or for a kernel, is not worth having: hardware takes a tenth of it.
const LIMIT: Duration = Duration::from_secs(5);
const LIMIT_IN_SOFTWARE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// `mov al, 0x10; out 0xf4, al; hlt; jmp back`
const CODE: [u8; 8] = [0xb0, 0x10, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd, 0x90];
/// What QEMU ends with when the guest has written 0x10: twice that and one.
const BOOTED: i32 = 0x10 * 2 + 1;

/// What came of an attempt.
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

/// What is known of it on this machine; `remembered` is what a host that was started in this boot has found out. Takes up
/// to five seconds where that is nothing.
#[must_use]
pub fn check(remembered: Option<bool>) -> Check {
    let software = "virtual machines run in software here, many times slower";
    let detail = match remembered {
        Some(true) => "a whole system has booted".to_owned(),
        Some(false) => format!("no whole system boots: {software}"),
        None => match firmware() {
            Found::NoDevice => format!("no /dev/kvm: {software}"),
            Found::Closed(why) => format!("/dev/kvm can't be opened ({why}): {software}"),
            Found::NoQemu => "/dev/kvm is there, but no qemu to prove it with (install qemu-system-x86)".to_owned(),
            Found::OtherMachine => "/dev/kvm is there; it is proven on x86-64 only".to_owned(),
            Found::Booted(took) => format!(
                "a boot sector ran within {} ms; whether a whole system boots is tried when a host starts",
                took.as_millis()
            ),
            Found::TooSlow => format!("nothing booted within {} s: {software}", LIMIT.as_secs()),
            Found::Failed(why) => format!("nothing booted ({why}): {software}"),
        },
    };
    Check { name: "kvm", ok: true, detail, remedy: "" }
}

/// Whether a boot sector runs. Takes up to five seconds where KVM is there and does not work.
pub(super) fn runs_firmware() -> bool {
    matches!(firmware(), Found::Booted(_))
}

/// Whether the kernel of virtual machines boots, up to its first program. Takes up to five seconds under KVM.
pub(super) fn runs(kernel: &Kernel, accel: Accel) -> bool {
    let Some(qemu) = program("qemu-system-x86_64") else { return false };
    let found = boot_system(&qemu, kernel, accel);
    tracing::debug!(?found, ?accel, "booting a whole system");
    matches!(found, Found::Booted(_))
}

fn firmware() -> Found {
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
        Ok(disk) => boot_sector(&qemu, &disk.0),
        Err(error) => Found::Failed(error.to_string()),
    }
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

fn boot_sector(qemu: &Path, disk: &Path) -> Found {
    let mut command = Command::new(qemu);
    command.args(["-accel", "kvm", "-machine", "pc", "-cpu", "host", "-m", "16", "-display", "none", "-nodefaults"]);
    command.args(["-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-drive"]);
    command.arg(format!("file={},format=raw,if=ide", disk.display()));
    let begin = Instant::now();
    match run(command.stdout(Stdio::null()), LIMIT) {
        Ok(Some((status, _))) if status.code() == Some(BOOTED) => Found::Booted(begin.elapsed()),
        Ok(Some((status, _))) => Found::Failed(format!("qemu ended with {status}")),
        Ok(None) => Found::TooSlow,
        Err(error) => Found::Failed(error.to_string()),
    }
}

/// The machine of `vm::qemu`, without devices.
fn boot_system(qemu: &Path, kernel: &Kernel, accel: Accel) -> Found {
    let mut command = Command::new(qemu);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "256M"]);
    command.args(["-machine", "microvm,x-option-roms=off,isa-serial=on,pit=off,rtc=on", "-serial", "stdio"]);
    command.args(FIRMWARE).args(accel.arguments());
    command.args(["-append", &kernel_command_line(accel, PROOF), "-kernel"]);
    command.arg(&kernel.image).arg("-initrd").arg(&kernel.initramfs);
    let begin = Instant::now();
    let limit = if accel == Accel::Kvm { LIMIT } else { LIMIT_IN_SOFTWARE };
    match run(command.stdout(Stdio::piped()), limit) {
        Ok(Some((_, console))) if console.contains(PROVEN) => Found::Booted(begin.elapsed()),
        Ok(Some((status, console))) => {
            Found::Failed(format!("{status}: {}", console.lines().last().unwrap_or("no word on its console")))
        }
        Ok(None) => Found::TooSlow,
        Err(error) => Found::Failed(error.to_string()),
    }
}

/// How it ended within the limit, and what it printed; it is killed when it doesn't.
fn run(command: &mut Command, limit: Duration) -> std::io::Result<Option<(ExitStatus, String)>> {
    let begin = Instant::now();
    let mut guest = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let console = guest.stdout.take().map(|mut console| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _what_there_is = console.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    let ended = loop {
        match guest.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if begin.elapsed() < limit => std::thread::sleep(LOOK_AGAIN),
            _ => break None,
        }
    };
    if ended.is_none() {
        end(&mut guest);
    }
    let text = console.and_then(|console| console.join().ok()).unwrap_or_default();
    Ok(ended.map(|status| (status, text)))
}

fn end(guest: &mut Child) {
    let _ended_already = guest.kill();
    let _reaped_already = guest.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_system_counts_as_proof() {
        assert_eq!(check(Some(true)).detail, "a whole system has booted");
        assert!(check(Some(false)).detail.contains("in software"));
        assert!(!check(None).detail.contains("has booted"));
    }

    #[test]
    fn what_ends_otherwise_than_the_guest_would_end_it_is_no_boot() {
        let disk = Disk::new().unwrap();
        assert_eq!(fs::read(&disk.0).unwrap().len(), 512);
        let kernel = Kernel { version: String::new(), image: disk.0.clone(), initramfs: disk.0.clone() };
        for program in ["/bin/true", "/nowhere"] {
            assert!(matches!(boot_sector(Path::new(program), &disk.0), Found::Failed(_)));
            assert!(matches!(boot_system(Path::new(program), &kernel, Accel::Tcg), Found::Failed(_)));
        }
        let path = disk.0.clone();
        drop(disk);
        assert!(!path.exists());
    }
}
