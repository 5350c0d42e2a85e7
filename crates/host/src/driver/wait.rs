//! Waiting for descriptors, with a deadline, from a blocking thread.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::process;

/// After the ready pipe was closed without a word: for the exit code.
const EXIT_PATIENCE: Duration = Duration::from_millis(500);

/// Which of the descriptors can be read (or have ended); waits until one can.
pub(super) fn readable(fds: &[BorrowedFd<'_>], deadline: Instant) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long"));
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut polled, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// How a child ended that never said that it was ready. Its end of the pipe closes a moment before it is gone.
pub(super) fn ending(pidfd: BorrowedFd<'_>, executed: bool) -> String {
    let who = if executed { "the guest agent" } else { "the child" };
    if readable(&[pidfd], Instant::now() + EXIT_PATIENCE).is_err() {
        return format!("{who} closed its end of the ready pipe");
    }
    for pause in process::REAPED_WITHIN {
        std::thread::sleep(pause);
        if let Some(code) = process::exit_code(pidfd) {
            return format!("{who} ended with code {code}");
        }
    }
    format!("{who} ended")
}
