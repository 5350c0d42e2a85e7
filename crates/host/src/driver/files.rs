//! What a sandbox reads about itself where the kernel would tell about the whole machine, as it is at the start. The
//! guest agent keeps these files up to date through its descriptor 6.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use atoll_launch::sys;
use rustix::fs::{Gid, MemfdFlags, Mode, SealFlags, Uid, fchmod, fchown, fcntl_add_seals, memfd_create};

/// What the host's processors say of themselves, read once: reading it again takes milliseconds.
#[derive(Debug, Clone)]
pub(super) struct Processors {
    /// One text per processor, without its number.
    blocks: Vec<String>,
}

impl Processors {
    pub(super) fn of_this_machine() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/cpuinfo")?))
    }

    fn parse(cpuinfo: &str) -> Self {
        let without_number = |block: &str| {
            let lines = block.lines().filter(|line| !line.starts_with("processor"));
            lines.fold(String::new(), |text, line| text + line + "\n")
        };
        Self { blocks: cpuinfo.split("\n\n").filter(|it| !it.trim().is_empty()).map(without_number).collect() }
    }

    fn cpuinfo(&self, count: u32) -> String {
        let mut text = String::new();
        for (number, block) in (0..count).zip(self.blocks.iter().cycle()) {
            // Writing to a string can't fail.
            let _written = write!(text, "processor\t: {number}\n{block}\n");
        }
        text
    }
}

/// The first contents of every bound file, by name.
pub(super) fn first_contents(processors: &Processors, vcpus: u32, memory_bytes: u64) -> Vec<(&'static str, String)> {
    let vcpus = vcpus.max(1);
    vec![
        ("meminfo", meminfo(memory_bytes)),
        ("cpuinfo", processors.cpuinfo(vcpus)),
        ("stat", stat(vcpus)),
        ("loadavg", "0.00 0.00 0.00 1/1 1\n".to_owned()),
        ("uptime", "0.00 0.00\n".to_owned()),
        ("swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_owned()),
        ("boot_id", format!("{}\n", random_uuid())),
        ("cpus", if vcpus == 1 { "0\n".to_owned() } else { format!("0-{}\n", vcpus - 1) }),
    ]
}

fn meminfo(bytes: u64) -> String {
    let total = bytes / 1024;
    let fields = [
        ("MemTotal", total),
        ("MemFree", total),
        ("MemAvailable", total),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", 0),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", 0),
        ("Mapped", 0),
        ("Shmem", 0),
        ("Slab", 0),
    ];
    fields
        .iter()
        .fold(String::new(), |text, (name, value)| text + &format!("{:<15}{value:>9} kB\n", format!("{name}:")))
}

fn stat(vcpus: u32) -> String {
    let zeros = "0 0 0 0 0 0 0 0 0 0";
    let mut text = format!("cpu  {zeros}\n");
    for number in 0..vcpus {
        let _written = writeln!(text, "cpu{number} {zeros}");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let _written =
        write!(text, "intr 0\nctxt 0\nbtime {now}\nprocesses 1\nprocs_running 1\nprocs_blocked 0\nsoftirq 0\n");
    text
}

/// A random (version 4) UUID.
fn random_uuid() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

const ALL_SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// A file in memory that nobody can change any more; the owners are ids of the host.
fn sealed(name: &str, contents: &[u8], mode: u32, uid: u32, gid: u32) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = fs::File::from(fd);
    file.write_all(contents)?;
    io::Seek::rewind(&mut file)?;
    fchown(file.as_fd(), Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    fchmod(file.as_fd(), Mode::from_raw_mode(mode))?;
    fcntl_add_seals(file.as_fd(), ALL_SEALS)?;
    Ok(file.into())
}

/// A program in memory that nobody can change, to be run in sandboxes. It is one file for all of them, so nobody inside may
/// open it: whoever can open a file can watch (inotify) what others do with it.
///
/// # Errors
/// When memory runs out.
pub fn sealed_program(program: &[u8]) -> io::Result<OwnedFd> {
    let padding = vec![0; program.len().next_multiple_of(sys::HUGE_PAGE) - program.len()];
    let file = sealed("atoll-guest", &[program, &padding].concat(), 0o500, 0, 0)?;
    // Every launch runs through most of it: two pages of 2 MiB are mapped at two faults, small ones at dozens.
    if let Err(error) = sys::collapse(file.as_fd(), program.len().next_multiple_of(sys::HUGE_PAGE)) {
        tracing::debug!(%error, "the guest agent's program is not in huge pages");
    }
    Ok(file)
}

/// The guest's configuration. `owner` is root inside on the host's side, and the only one inside who may open it.
pub(super) fn sealed_config(config: &serde_json::Value, owner: u32) -> io::Result<OwnedFd> {
    sealed("atoll-guest-config", &serde_json::to_vec(config)?, 0o400, owner, owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_has_as_many_processors_as_the_sandbox() {
        let processors = Processors::parse("processor\t: 0\nmodel name\t: A\n\nprocessor\t: 1\nmodel name\t: A\n\n");
        let three = processors.cpuinfo(3);
        assert_eq!(three.matches("model name").count(), 3);
        assert!(three.contains("processor\t: 2\n"));
        assert_eq!(processors.cpuinfo(1).matches("processor").count(), 1);
    }

    #[test]
    fn meminfo_tells_the_limit_and_no_swap() {
        let text = meminfo(512 << 20);
        assert!(text.lines().any(|line| line.split_whitespace().eq(["MemTotal:", "524288", "kB"])), "{text}");
        assert!(text.lines().any(|line| line.split_whitespace().eq(["SwapTotal:", "0", "kB"])), "{text}");
    }

    #[test]
    fn boot_ids_are_uuids_and_differ() {
        let (one, other) = (random_uuid(), random_uuid());
        assert_ne!(one, other);
        assert_eq!(one.len(), 36);
        assert_eq!(one.as_bytes()[14], b'4');
    }

    #[test]
    fn a_sealed_program_can_not_be_changed() {
        let fd = sealed_program(b"text").unwrap();
        let again =
            fs::OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)));
        assert!(again.and_then(|mut file| file.write_all(b"x")).is_err());
    }
}
