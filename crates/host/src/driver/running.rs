//! A sandbox that runs: a handle on its first process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use atoll_model::SandboxId;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::process::{self, InitProcess};
use crate::cgroup::Cgroups;

/// How a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit code of the first process; 128 + the signal's number when a signal ended it. `None` when the kernel
    /// can't tell (before Linux 6.15, or when its parent never took note of its end).
    pub code: Option<i32>,
    /// The kernel has killed processes of the sandbox for want of memory, and the first process was killed too.
    pub out_of_memory: bool,
}

/// A handle; dropping it changes nothing for the sandbox.
#[derive(Debug, Clone)]
pub struct Running {
    pub id: SandboxId,
    pub init: InitProcess,
    pidfd: Arc<OwnedFd>,
    cgroups: Arc<Cgroups>,
}

impl Running {
    pub(super) fn new(id: SandboxId, init: InitProcess, pidfd: OwnedFd, cgroups: Arc<Cgroups>) -> Self {
        Self { id, init, pidfd: Arc::new(pidfd), cgroups }
    }

    /// Waits until the first process, and with it all others, has ended. May be called any number of times.
    /// Ask before [`clean_up`](super::Driver::clean_up): what memory did is told by the cgroup.
    ///
    /// # Errors
    /// When the descriptor can't be watched.
    pub async fn exited(&self) -> io::Result<Exit> {
        let pidfd = self.pidfd.as_fd().try_clone_to_owned()?;
        // SAFETY: an OwnedFd keeps one descriptor open until it is dropped, and says which whenever it is asked.
        let watched = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        let _readable = watched.readable().await?;
        let mut code = None;
        for pause in process::REAPED_WITHIN {
            tokio::time::sleep(pause).await;
            code = process::exit_code(self.pidfd.as_fd());
            if code.is_some() {
                break;
            }
        }
        let killed = code.is_none_or(|code| code == 128 + libc::SIGKILL);
        let oom_kills = self.cgroups.usage(self.id.as_str()).map_or(0, |usage| usage.oom_kills);
        Ok(Exit { code, out_of_memory: killed && oom_kills > 0 })
    }

    #[must_use]
    pub fn is_alive(&self) -> bool {
        !process::has_ended(self.pidfd.as_fd())
    }
}
