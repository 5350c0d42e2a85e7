//! Ending every process of a cgroup, whatever it does against it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use super::{Version, freeze, write};

const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const TOLD_PAUSE: Duration = Duration::from_micros(500);
const LAST_PAUSE: Duration = Duration::from_millis(5);

/// Kills and waits until nothing is left but, perhaps, zombies that their parent has yet to reap.
pub(super) fn all(version: Version, path: &Path) -> io::Result<()> {
    let at_once = version == Version::V2 && ok_unless_missing(write(&path.join("cgroup.kill"), "1"))?;
    let deadline = Instant::now() + PATIENCE;
    // The kernel wakes whoever waits on it when the last process has gone, though not always at once.
    let events = File::open(path.join("cgroup.events")).ok();
    let mut pause = if events.is_some() { TOLD_PAUSE } else { FIRST_PAUSE };
    loop {
        if is_empty(version, path)? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let text = format!("processes in {} are still there {PATIENCE:?} after SIGKILL", path.display());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        if !at_once {
            one_by_one(version, path)?;
        }
        await_event(events.as_ref(), pause);
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Waits for a change of the group, where it can tell of one, and for no longer than `at_most`.
fn await_event(events: Option<&File>, at_most: Duration) {
    let Some(mut events) = events else { return std::thread::sleep(at_most) };
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(at_most.subsec_nanos()) };
    let _woken = poll(&mut [PollFd::new(events, PollFlags::PRI)], Some(&timeout));
    // Reading it is what makes the next change a new one.
    let _read = events.seek(SeekFrom::Start(0)).and_then(|_| events.read(&mut [0; 256]));
}

/// For kernels before 5.14 and for v1: frozen while they are signalled, so that none forks away.
fn one_by_one(version: Version, path: &Path) -> io::Result<()> {
    freeze::request(version, path, true)?;
    for pid in processes(path)? {
        let _gone = kill_process(pid, Signal::KILL);
    }
    // On v1 a frozen process does not die; on v2 it does, but thawing hurts nobody.
    freeze::request(version, path, false)
}

pub(super) fn processes(path: &Path) -> io::Result<Vec<Pid>> {
    match fs::read_to_string(path.join("cgroup.procs")) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok().and_then(Pid::from_raw)).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        // The cgroup was removed while we read.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

pub(super) fn is_empty(version: Version, path: &Path) -> io::Result<bool> {
    match version {
        Version::V2 => match fs::read_to_string(path.join("cgroup.events")) {
            Ok(events) => Ok(events.lines().any(|line| line == "populated 0")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(true),
            Err(error) => Err(error),
        },
        Version::V1 => Ok(processes(path)?.is_empty()),
    }
}

fn ok_unless_missing(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
