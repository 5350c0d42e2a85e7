//! Machines that fault tests kill: QEMU dies at a fault point, and nobody else does. Nothing in a release.

use std::fs;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Far more than a process takes to die.
const PATIENCE: Duration = Duration::from_secs(10);

/// In the order in which they began, or were found again.
static BEGUN: Mutex<Vec<i32>> = Mutex::new(Vec::new());

pub(super) fn note(pid: i32) {
    BEGUN.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
}

/// `return(kill FILE)`: kills the machine that began last, once for each time that the file was made, and answers when it is
/// dead. So a test says when a point counts, and sees whether it was come to.
pub(in crate::driver) fn kill_youngest(file: &str) -> io::Result<()> {
    if fs::remove_file(file).is_err() {
        return Ok(());
    }
    let youngest = BEGUN.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().copied().find(|pid| lives(*pid));
    let pid = youngest.ok_or_else(|| io::Error::other("there is no machine to kill"))?;
    kill_process(Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?, Signal::KILL)?;
    let begun = Instant::now();
    while lives(pid) && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// A dead one has no program any more, also while its parent has still to take note.
fn lives(pid: i32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program.to_string_lossy().contains("qemu"))
}
