//! The log: to stderr, and to `<data>/logs/atoll.log`, which is rotated and bounded.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Context;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::output;

/// One file; with the older ones the log takes at most five times as much.
const MAX_BYTES: u64 = 16 << 20;
const OLDER: usize = 4;
const FILE_DEFAULT: &str = "info";
/// Libraries that have much to say about every connection.
const QUIET: &str = "hyper=warn,rustls=warn,sqlx=warn,h2=warn,tower=warn";

/// Starts logging. `filter` is what the user asked for, for both places.
pub fn start(data_dir: &Path, filter: Option<&str>, default_stderr: &str) -> anyhow::Result<()> {
    let make = |fallback: &str| {
        let chosen = filter.unwrap_or(fallback);
        EnvFilter::try_new(format!("{QUIET},{chosen}")).with_context(|| format!("--log `{chosen}` is no log filter"))
    };
    let path = super::log_file(data_dir);
    let file = RotatingFile::open(path.clone(), MAX_BYTES, OLDER)
        .with_context(|| format!("opening the log {}", path.display()))?;
    let colours = io::stderr().is_terminal() && output::colours(&io::stderr());
    let to_stderr = layer().with_writer(io::stderr).with_ansi(colours).with_target(false);
    let to_file = layer().with_writer(Mutex::new(file)).with_ansi(false);
    // What was asked for is one filter for both. With one for each, whoever asks whether it would be heard and then says
    // nothing (sqlx does, of each statement, where anything is heard at that level) has the next event of its thread dropped.
    let (all, stderr, kept) = match filter {
        Some(_) => (Some(make(FILE_DEFAULT)?), None, None),
        None => (None, Some(make(default_stderr)?), Some(make(FILE_DEFAULT)?)),
    };
    tracing_subscriber::registry()
        .with(to_stderr.with_filter(stderr))
        .with(to_file.with_filter(kept))
        .with(all)
        .try_init()
        .context("starting the log")
}

/// A file that makes way for a fresh one when it is full: `x.log` becomes `x.log.1`, that `x.log.2`, and so on.
struct RotatingFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    max_bytes: u64,
    older: usize,
}

impl RotatingFile {
    fn open(path: PathBuf, max_bytes: u64, older: usize) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let file = open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, file, bytes, max_bytes, older })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let name = |number: usize| {
            let mut name = self.path.clone().into_os_string();
            if number > 0 {
                name.push(format!(".{number}"));
            }
            PathBuf::from(name)
        };
        for number in (0..self.older).rev() {
            match std::fs::rename(name(number), name(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = open(&self.path)?;
        self.bytes = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Write for RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.max_bytes {
            self.rotate()?;
        }
        let written = self.file.write(line)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_never_takes_more_than_its_share() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/x.log");
        let mut log = RotatingFile::open(path.clone(), 100, 2).unwrap();
        for number in 0..50 {
            writeln!(log, "line {number:04} {}", "x".repeat(20)).unwrap();
        }
        let files: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().flatten().collect();
        assert_eq!(files.len(), 3);
        assert!(files.iter().all(|file| file.metadata().unwrap().len() <= 100));
        assert!(std::fs::read_to_string(&path).unwrap().contains("line 0049"));
    }

    #[test]
    fn a_restart_goes_on_where_the_log_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        for _ in 0..2 {
            writeln!(RotatingFile::open(path.clone(), 100, 1).unwrap(), "started").unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "started\nstarted\n");
    }
}
