//! The two sides that the reconciler looks at, as traits: control's records, and a host's agent. So the same code runs
//! over the database and a network, and over memory in a simulation.

use async_trait::async_trait;
use atoll_model::{HostId, SandboxId, SandboxStatus};
use atoll_rpc::atoll::host::v1::NetworkPolicy;

use super::judge::{Row, Seen, State};
use crate::db::DbError;
use crate::fleet::FleetError;

/// A change to a row as it was read.
#[derive(Debug, Clone)]
pub struct RowChange<'a> {
    pub row: &'a Row,
    pub to: SandboxStatus,
    pub reason: Option<&'a str>,
    /// A decision of control raises the generation; a finding does not.
    pub decided: bool,
}

/// Control's records of sandboxes.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// All rows of a host that are not stopped.
    async fn on_host(&self, host: &HostId) -> Result<Vec<Row>, DbError>;

    /// Rows by id, whatever their status and host.
    async fn by_id(&self, ids: &[SandboxId]) -> Result<Vec<Row>, DbError>;

    /// Changes a row if it still is what was read; the row as it is then.
    async fn change(&self, change: &RowChange<'_>) -> Result<Option<Row>, DbError>;

    /// What a sandbox may reach, and the generation of that.
    async fn network(&self, id: &SandboxId) -> Result<Option<(NetworkPolicy, u64)>, DbError>;

    /// Notes that something was destroyed on a host because nobody wanted it there.
    async fn note_orphan(&self, host: &HostId, seen: &Seen, known: bool) -> Result<(), DbError>;

    /// Digests of images that the host is still to delete.
    async fn pending_deletions(&self, host: &HostId) -> Result<Vec<String>, DbError>;

    /// The host has deleted the image.
    async fn deletion_done(&self, host: &HostId, digest: &str) -> Result<(), DbError>;
}

/// What a host has.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    pub sandboxes: Vec<Seen>,
    pub complete: bool,
}

/// A host's agent. Each call has its own deadline.
#[async_trait]
pub trait Agents: Send + Sync + 'static {
    async fn list(&self, host: &HostId) -> Result<Inventory, FleetError>;
    /// Control knows these states now.
    async fn acknowledge(&self, host: &HostId, items: Vec<(SandboxId, u64, State)>) -> Result<(), FleetError>;
    async fn resume(&self, host: &HostId, sandbox: &SandboxId, generation: u64) -> Result<(), FleetError>;
    async fn destroy(
        &self,
        host: &HostId,
        sandbox: &SandboxId,
        generation: u64,
        reason: &str,
    ) -> Result<(), FleetError>;
    /// What a sandbox may reach from now on.
    async fn set_network(
        &self,
        host: &HostId,
        sandbox: &SandboxId,
        generation: u64,
        network: NetworkPolicy,
    ) -> Result<(), FleetError>;
    async fn delete_image(&self, host: &HostId, digest: &str) -> Result<(), FleetError>;
    /// Destroy everything, forget the credentials, end.
    async fn terminate(&self, host: &HostId, reason: &str) -> Result<(), FleetError>;
}
