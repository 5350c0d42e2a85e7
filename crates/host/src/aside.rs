//! Our own program once more, as a process of its own that has nothing of the agent's but a socket.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use atoll_launch::wire;

/// Starts it; with our end of the socket that it has as its standard input. The agent's environment, where secrets may be,
/// does not go along.
pub(crate) fn start(program: &Path, arguments: &[&OsStr]) -> io::Result<(Child, OwnedFd)> {
    let (ours, theirs) = wire::pair()?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .spawn()?;
    Ok((child, ours))
}
