//! The first process of a sandbox: told apart from all others that ever had its number, watched, and its end explained.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

/// Kept in the sandbox's record. A number is used again, but never with the same start time in the same boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitProcess {
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks since the host's boot.
    pub start_time: u64,
    pub host_boot_id: String,
}

/// The id of the host's current boot; empty if the kernel does not tell.
#[must_use]
pub fn host_boot_id() -> &'static str {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    BOOT_ID.get_or_init(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim_end().to_owned()).unwrap_or_default()
    })
}

impl InitProcess {
    /// Describes a process that runs now.
    pub(super) fn of(pid: i32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_time = start_time(&stat)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has no start time")))?;
        Ok(Self { pid, start_time, host_boot_id: host_boot_id().to_owned() })
    }

    /// A handle on it, if it is the very same process and still lives.
    pub(super) fn open(&self) -> Option<OwnedFd> {
        if self.host_boot_id != host_boot_id() {
            return None;
        }
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Compared after opening: the handle stays with the process that was found.
        let same = Self::of(self.pid).is_ok_and(|found| found == *self);
        (same && !has_ended(std::os::fd::AsFd::as_fd(&pidfd))).then_some(pidfd)
    }
}

/// Field 22, counted from behind the name, which may hold blanks and brackets.
fn start_time(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(19)?.parse().ok()
}

/// Whether all threads of the process are gone.
pub(super) fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1))
}

/// Pauses before asking for the exit code again. Between the end of a process and its being reaped, which the zygote
/// leaves to the kernel, is next to nothing.
pub(super) const REAPED_WITHIN: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(5), Duration::from_millis(20)];

/// The first version of the kernel's `struct pidfd_info`.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ids: [u32; 8],
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: libc::c_ulong = 0xC000_FF0B | ((size_of::<PidfdInfo>() as libc::c_ulong) << 16);

/// How a process that was reaped has ended, as a shell would say it: the exit code, or 128 and the signal's number.
/// `None` before Linux 6.15, or while its parent has not taken note of it.
pub(super) fn exit_code(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request's number carries the size of info, which is ours to write to.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    if result != 0 || info.mask & PIDFD_INFO_EXIT == 0 {
        return None;
    }
    let status = info.exit_code;
    if libc::WIFEXITED(status) { Some(libc::WEXITSTATUS(status)) } else { Some(128 + libc::WTERMSIG(status)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let numbers: Vec<String> = (4..=30).map(|field| field.to_string()).collect();
        let stat = format!("7 (a) b) S {}", numbers.join(" "));
        assert_eq!(start_time(&stat), Some(22));
        assert_eq!(start_time("nonsense"), None);
    }

    #[test]
    fn a_process_is_found_again_and_another_with_its_number_is_not() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let init = InitProcess::of(i32::try_from(child.id()).unwrap()).unwrap();
        let later = InitProcess { start_time: init.start_time + 1, ..init.clone() };
        let other_boot = InitProcess { host_boot_id: "another".to_owned(), ..init.clone() };
        let pidfd = init.open().expect("it lives");
        assert!(later.open().is_none() && other_boot.open().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(init.open().is_none());
        assert!(has_ended(std::os::fd::AsFd::as_fd(&pidfd)));
    }
}
