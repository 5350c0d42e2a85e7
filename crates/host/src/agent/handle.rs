//! What others hold of a running agent, and what they may know of it.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use atoll_model::HostId;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::credentials::CredentialStore;

/// What the world may know of an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Set once the host is enrolled.
    pub host_id: Option<HostId>,
    /// A create would succeed; until then `problem` says what is missing.
    pub ready: bool,
    pub problem: Option<String>,
}

/// A running agent.
#[derive(Debug)]
pub struct HostHandle {
    pub(super) bound: SocketAddr,
    pub(super) status: watch::Receiver<Status>,
    pub(super) task: JoinHandle<anyhow::Result<()>>,
}

impl HostHandle {
    /// Where it listens for control.
    #[must_use]
    pub const fn bound_address(&self) -> SocketAddr {
        self.bound
    }

    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Told at every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until the agent has ended: by its token, because control deleted the host, or by an error.
    ///
    /// # Errors
    /// When the agent could not start or go on.
    pub async fn wait(self) -> anyhow::Result<()> {
        self.task.await.context("the agent's task was lost")?
    }
}

/// The host that a data directory is enrolled as, if it is.
///
/// # Errors
/// When its credentials are damaged.
pub fn enrolled_host(data_dir: &Path) -> anyhow::Result<Option<HostId>> {
    if !data_dir.join("credentials").exists() {
        return Ok(None);
    }
    Ok(CredentialStore::open(data_dir)?.host_id())
}
