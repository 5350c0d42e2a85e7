//! Ending every process of a cgroup, whatever it does against it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Version, freeze, write};

const PATIENCE: Duration = Duration::from_secs(10);

/// Kills and waits until nothing is left but, perhaps, zombies that their parent has yet to reap.
pub(super) fn all(version: Version, path: &Path) -> io::Result<()> {
    let at_once = version == Version::V2 && ok_unless_missing(write(&path.join("cgroup.kill"), "1"))?;
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(50);
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
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
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

fn processes(path: &Path) -> io::Result<Vec<Pid>> {
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
