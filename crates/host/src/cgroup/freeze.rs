//! Freezing and thawing, each confirmed by the kernel.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Version, write};

/// How long a freeze may take: a process in an uninterruptible wait holds it up.
const PATIENCE: Duration = Duration::from_secs(5);
/// The kernel announces changes of `cgroup.events` at most every 10 ms, so we look more often than we would be told.
const FIRST_PAUSE: Duration = Duration::from_micros(30);
const LONGEST_PAUSE: Duration = Duration::from_millis(2);

pub(super) fn set(version: Version, path: &Path, frozen: bool) -> io::Result<()> {
    request(version, path, frozen)?;
    let deadline = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    while is_frozen(version, path)? != frozen {
        if Instant::now() >= deadline {
            if frozen {
                request(version, path, false)?;
            }
            let what = if frozen { "freeze" } else { "thaw" };
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} did not {what} within {PATIENCE:?}", path.display()),
            ));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(())
}

/// Asks, and does not wait.
pub(super) fn request(version: Version, path: &Path, frozen: bool) -> io::Result<()> {
    match (version, frozen) {
        (Version::V2, _) => write(&path.join("cgroup.freeze"), if frozen { "1" } else { "0" }),
        (Version::V1, true) => write(&path.join("freezer.state"), "FROZEN"),
        (Version::V1, false) => write(&path.join("freezer.state"), "THAWED"),
    }
}

pub(super) fn is_frozen(version: Version, path: &Path) -> io::Result<bool> {
    match version {
        Version::V2 => {
            let events = fs::read_to_string(path.join("cgroup.events"))?;
            Ok(events.lines().any(|line| line == "frozen 1"))
        }
        Version::V1 => Ok(fs::read_to_string(path.join("freezer.state"))?.trim_end() == "FROZEN"),
    }
}
