//! Runs a recipe's build script, kept in namespaces of its own so that nothing of it outlives it.
//!
//! The script mounts and chroots; `unshare` gives it its own mounts and its own process ids, so that its death takes
//! every process and every mount along, whoever killed it. Its standard input is the lock: a build whose Atoll was
//! killed goes on holding it until it has really ended.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{BaseError, BaseImage};

/// What a build reads and writes while it runs, with room to spare.
const FREE_DISK: u64 = 2 << 30;
/// The same for what is put on top of another image, which is copied: this many times its size more.
const COPIES: u64 = 2;
/// Lines of output that an error quotes.
const QUOTED_LINES: usize = 20;
/// A longer line of output is cut.
const LINE_LIMIT: usize = 400;
/// Program, the Debian package that brings it.
const PROGRAMS: [(&str, &str); 3] =
    [("mmdebstrap", "mmdebstrap"), ("mkfs.erofs", "erofs-utils"), ("unshare", "util-linux")];
const KEYRING: (&str, &str) = ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring");

/// Refuses to begin where the build could only fail, and says what to do.
pub(super) fn check_machine(building: &Path, ground: Option<&BaseImage>) -> Result<(), BaseError> {
    let uid =
        std::fs::metadata("/proc/self").map_err(|source| BaseError::io("read the user id", "/proc/self", source))?;
    if uid.uid() != 0 {
        return Err(BaseError::NotRoot);
    }
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| find_program(program).is_none()).map(|(_, package)| *package).collect();
    if !Path::new(KEYRING.0).exists() {
        missing.push(KEYRING.1);
    }
    if !missing.is_empty() {
        return Err(BaseError::MissingPrograms { packages: missing.join(" ") });
    }
    let space = rustix::fs::statvfs(building)
        .map_err(|errno| BaseError::io("measure free space in", building, io::Error::from(errno)))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let needed = FREE_DISK + ground.map_or(0, |image| COPIES * image.size_bytes);
    if free < needed {
        return Err(BaseError::NoSpace { path: building.to_owned(), needed_mb: needed >> 20, free_mb: free >> 20 });
    }
    Ok(())
}

/// Where `program` is: in PATH, or where Debian keeps what only root runs.
fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// What a build may take from others on its machine.
#[derive(Debug, Clone)]
pub enum Haste {
    /// Somebody waits for it.
    Waited,
    /// Nobody does, until this is cancelled: it gets the processor time and the disk that nobody else wants.
    Spare(CancellationToken),
}

impl Haste {
    /// Ends when somebody waits for what was begun without.
    async fn comes(&self) {
        match self {
            Self::Waited => std::future::pending().await,
            Self::Spare(wanted) => wanted.cancelled().await,
        }
    }
}

/// Gives a build, which is a process group, the share of the machine that any other program has.
async fn hurry(group: u32) {
    let group = group.to_string();
    let orders: [&[&str]; 2] =
        [&["renice", "--priority", "0", "--pgrp", &group], &["ionice", "-c", "2", "-n", "4", "-P", &group]];
    for words in orders {
        let done = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output().await;
        if !done.as_ref().is_ok_and(|output| output.status.success()) {
            tracing::warn!(?done, command = words[0], "a build that is waited for goes on slowly");
        }
    }
}

/// Runs `directory/recipe/build.sh`; the image is at the returned path. Dropping the future ends the build.
pub(super) async fn run(
    directory: &Path,
    ground: Option<&Path>,
    lock: File,
    haste: Haste,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<PathBuf, BaseError> {
    let image = directory.join("image.erofs");
    let words: &[&str] = match &haste {
        Haste::Waited => &["unshare"],
        Haste::Spare(_) => &["nice", "-n", "19", "ionice", "-c", "3", "unshare"],
    };
    let mut command = Command::new(words[0]);
    if matches!(haste, Haste::Spare(_)) {
        // To be hurried as one. What is waited for stays in the group of who waits, for Ctrl-C.
        command.process_group(0);
    }
    let mut child = command
        .args(&words[1..])
        .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--"])
        .arg("sh")
        .arg(directory.join("recipe/build.sh"))
        .arg(&image)
        .arg(directory.join("work"))
        .args(ground)
        .current_dir(directory)
        // Nothing of the caller's own environment may change what is built, but how to reach the archive.
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("TMPDIR", directory)
        .envs(std::env::vars().filter(|(name, _)| {
            name.starts_with("ATOLL_DEBIAN_")
                || matches!(name.as_str(), "http_proxy" | "https_proxy" | "no_proxy" | "PIP_INDEX_URL" | "PIP_CERT")
        }))
        .stdin(Stdio::from(lock))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| BaseError::io("start the build script with unshare in", directory, source))?;

    let (lines, mut output) = mpsc::channel(64);
    let readers = [
        child.stdout.take().map(|pipe| tokio::spawn(forward(pipe, lines.clone()))),
        child.stderr.take().map(|pipe| tokio::spawn(forward(pipe, lines.clone()))),
    ];
    drop(lines);
    let mut tail = VecDeque::with_capacity(QUOTED_LINES);
    let mut step = String::from("begin");
    let mut hurried = false;
    loop {
        let line = tokio::select! {
            line = output.recv() => line,
            () = haste.comes(), if !hurried => {
                hurried = true;
                if let Some(group) = child.id() {
                    hurry(group).await;
                }
                continue;
            }
        };
        let Some(line) = line else { break };
        if let Some(text) = line.strip_prefix("step: ") {
            text.clone_into(&mut step);
            progress(text);
        } else if !line.trim().is_empty() {
            if tail.len() == QUOTED_LINES {
                tail.pop_front();
            }
            tail.push_back(line);
        }
    }
    for reader in readers.into_iter().flatten() {
        // It ended with its pipe.
        let _ = reader.await;
    }
    let status =
        child.wait().await.map_err(|source| BaseError::io("wait for the build script in", directory, source))?;
    if status.success() {
        return Ok(image);
    }
    Err(BaseError::Failed { step, status: status.to_string(), output: tail.into_iter().collect::<Vec<_>>().join("\n") })
}

/// Lines of a pipe, cut to a sane length, until it closes.
async fn forward(pipe: impl AsyncRead + Unpin, lines: mpsc::Sender<String>) {
    let mut reader = BufReader::new(pipe).split(b'\n');
    while let Ok(Some(bytes)) = reader.next_segment().await {
        let line: String = String::from_utf8_lossy(&bytes[..bytes.len().min(LINE_LIMIT)]).into_owned();
        if lines.send(line).await.is_err() {
            return;
        }
    }
}
