//! One service at a time works on a data directory.
//!
//! The lock is the kernel's (flock on a descriptor that no child inherits), so it ends with the process, however that
//! ends. What the file says is only for the message to whoever comes second.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::output::with_hint;

/// A service that was killed a moment ago may have left a child that had not got rid of the lock yet, or the kernel is
/// still closing its files. It is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(10);

/// Held until it is dropped.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

impl DataDirLock {
    /// Takes `data_dir` for the command `what`.
    pub fn take(data_dir: &Path, what: &str) -> anyhow::Result<Self> {
        let path = data_dir.join("service.lock");
        let doing = || format!("locking {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(doing)?;
        let patience = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error).with_context(doing),
            }
            let mut holder = String::new();
            let _unreadable_says_nothing = file.rewind().and_then(|()| (&file).take(200).read_to_string(&mut holder));
            if is_running(&holder) || Instant::now() > patience {
                let holder = if holder.trim().is_empty() { "another process" } else { holder.trim() };
                return Err(with_hint(
                    format!("{} is in use by {holder}", data_dir.display()),
                    "stop that one first, or give this one another --data-dir and --listen",
                ));
            }
            std::thread::sleep(AGAIN);
        }
        file.set_len(0).with_context(doing)?;
        file.rewind().with_context(doing)?;
        let since = chrono::Utc::now().format("%Y-%m-%d %H:%M:%S UTC");
        writeln!(file, "`atoll {what}`, process {}, since {since}", std::process::id()).with_context(doing)?;
        Ok(Self { _file: file })
    }
}

/// Whether the process that the lock's file names lives. One that can't be seen from here doesn't count as one.
fn is_running(holder: &str) -> bool {
    let pid = holder.split_once("process ").and_then(|(_, rest)| rest.split_once(','));
    let Some(pid) = pid.and_then(|(pid, _)| pid.parse::<u32>().ok()) else { return false };
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    // Behind the name, which may hold anything in its parentheses.
    state.is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or_default().starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes the lock that has just been let go. The kernel lets a parent go on a moment before it closes what a child
    /// must not keep, and any test of this process may be starting one.
    fn soon(data_dir: &Path) -> anyhow::Result<()> {
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            match DataDirLock::take(data_dir, "server") {
                Err(_) if std::time::Instant::now() < patience => std::thread::yield_now(),
                result => return result.map(drop),
            }
        }
    }

    #[test]
    fn who_comes_second_is_told_who_holds_it_and_who_comes_later_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDirLock::take(folder.path(), "up").unwrap();
        let refused = DataDirLock::take(folder.path(), "up").unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        soon(folder.path()).unwrap();
    }

    #[test]
    fn what_a_killed_one_has_left_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        let path = folder.path().join("service.lock");
        std::fs::write(&path, format!("`atoll host`, process {}, since a moment ago", dead.id())).unwrap();
        let left = File::open(&path).unwrap();
        left.lock().unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| DataDirLock::take(folder.path(), "host"));
            std::thread::sleep(Duration::from_millis(100));
            assert!(!second.is_finished());
            drop(left);
            second.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_child_does_not_inherit_it() {
        let folder = tempfile::tempdir().unwrap();
        let lock = DataDirLock::take(folder.path(), "up").unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        drop(lock);
        let again = soon(folder.path());
        assert!(child.try_wait().unwrap().is_none(), "the child ended early, so this proves nothing");
        child.kill().unwrap();
        child.wait().unwrap();
        again.unwrap();
    }
}
