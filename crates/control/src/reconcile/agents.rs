//! Hosts' agents over the fleet's connections.

use std::time::Duration;

use async_trait::async_trait;
use atoll_model::{HostId, SandboxId};
use atoll_rpc::atoll::host::v1::{
    AcknowledgeRequest, DeleteImageRequest, DestroySandboxRequest, ListSandboxesRequest, NetworkPolicy,
    ResumeSandboxRequest, SandboxState, SetNetworkRequest, TerminateRequest, acknowledge_request,
};
use atoll_rpc::connectrpc::client::CallOptions;

use super::judge::{Seen, State};
use super::views::{Agents, Inventory};
use crate::db::Db;
use crate::fleet::{Fleet, FleetError};

/// One hung host delays no other, and its own pass not for long.
const LIST: Duration = Duration::from_secs(5);
const ACT: Duration = Duration::from_secs(20);
/// A lost answer is asked for again within a minute.
const RESUME: Duration = Duration::from_secs(30);

pub struct FleetAgents {
    fleet: Fleet,
    db: Db,
}

impl FleetAgents {
    #[must_use]
    pub fn new(fleet: Fleet, db: Db) -> Self {
        Self { fleet, db }
    }

    /// What a host is told to do away with for what rows say now, rows must say after a power cut too. If they can't be
    /// written out it is told all the same: nothing else works then.
    async fn rows_stay(&self) {
        if let Err(error) = self.db.write_out().await {
            tracing::error!(%error, "a host deletes what a power cut might make rows name again");
        }
    }
}

fn within(deadline: Duration) -> CallOptions {
    CallOptions::default().with_timeout(deadline)
}

#[async_trait]
impl Agents for FleetAgents {
    async fn list(&self, host: &HostId) -> Result<Inventory, FleetError> {
        let client = self.fleet.host_client(host);
        let answer = client.list_sandboxes_with_options(ListSandboxesRequest::default(), within(LIST)).await;
        let answer = answer.map_err(|error| FleetError::from_rpc(host, "list its sandboxes", error))?.into_owned();
        let mut sandboxes = Vec::with_capacity(answer.sandboxes.len());
        for sandbox in answer.sandboxes {
            let state = match sandbox.state.as_known() {
                Some(SandboxState::SANDBOX_STATE_STARTING) => State::Starting,
                Some(SandboxState::SANDBOX_STATE_RUNNING) => State::Running,
                Some(SandboxState::SANDBOX_STATE_PAUSED) => State::Paused,
                Some(SandboxState::SANDBOX_STATE_EXITED) => State::Exited,
                // A newer agent's state that we don't know: leave such a sandbox alone.
                Some(SandboxState::SANDBOX_STATE_UNSPECIFIED) | None => State::Starting,
            };
            let Ok(id) = sandbox.id.parse() else {
                tracing::warn!(%host, id = sandbox.id, "a host lists something that is no sandbox id");
                continue;
            };
            let (reason, generation, exit_code) = (sandbox.reason, sandbox.generation, sandbox.exit_code);
            let network_generation = sandbox.network_generation;
            sandboxes.push(Seen { id, state, reason, generation, exit_code, network_generation });
        }
        Ok(Inventory { sandboxes, complete: answer.inventory_complete })
    }

    async fn acknowledge(&self, host: &HostId, items: Vec<(SandboxId, u64, State)>) -> Result<(), FleetError> {
        if items.iter().any(|(.., state)| *state == State::Exited) {
            self.rows_stay().await;
        }
        let item = |(id, generation, state): (SandboxId, u64, State)| acknowledge_request::Item {
            id: id.to_string(),
            generation,
            state: match state {
                State::Starting => SandboxState::SANDBOX_STATE_STARTING,
                State::Running => SandboxState::SANDBOX_STATE_RUNNING,
                State::Paused => SandboxState::SANDBOX_STATE_PAUSED,
                State::Exited => SandboxState::SANDBOX_STATE_EXITED,
            }
            .into(),
            ..Default::default()
        };
        let request = AcknowledgeRequest { items: items.into_iter().map(item).collect(), ..Default::default() };
        let answer = self.fleet.host_client(host).acknowledge_with_options(request, within(LIST)).await;
        answer.map(|_| ()).map_err(|error| FleetError::from_rpc(host, "take an acknowledgement", error))
    }

    async fn resume(&self, host: &HostId, sandbox: &SandboxId, generation: u64) -> Result<(), FleetError> {
        let request = ResumeSandboxRequest { id: sandbox.to_string(), generation, ..Default::default() };
        let answer = self.fleet.host_client(host).resume_sandbox_with_options(request, within(RESUME)).await;
        answer.map(|_| ()).map_err(|error| FleetError::from_rpc(host, "resume a sandbox", error))
    }

    async fn destroy(
        &self,
        host: &HostId,
        sandbox: &SandboxId,
        generation: u64,
        reason: &str,
    ) -> Result<(), FleetError> {
        self.rows_stay().await;
        let (id, reason) = (sandbox.to_string(), reason.to_owned());
        let request = DestroySandboxRequest { id, generation, reason, ..Default::default() };
        let answer = self.fleet.host_client(host).destroy_sandbox_with_options(request, within(ACT)).await;
        answer.map(|_| ()).map_err(|error| FleetError::from_rpc(host, "destroy a sandbox", error))
    }

    async fn set_network(
        &self,
        host: &HostId,
        sandbox: &SandboxId,
        generation: u64,
        network: NetworkPolicy,
    ) -> Result<(), FleetError> {
        let (id, network) = (sandbox.to_string(), network.into());
        let request = SetNetworkRequest { id, network, generation, ..Default::default() };
        let answer = self.fleet.host_client(host).set_network_with_options(request, within(ACT)).await;
        answer.map(|_| ()).map_err(|error| FleetError::from_rpc(host, "set a sandbox's network", error))
    }

    async fn delete_image(&self, host: &HostId, digest: &str) -> Result<(), FleetError> {
        self.rows_stay().await;
        let request = DeleteImageRequest { digest: digest.to_owned(), ..Default::default() };
        let answer = self.fleet.host_client(host).delete_image_with_options(request, within(ACT)).await;
        answer.map(|_| ()).map_err(|error| FleetError::from_rpc(host, "delete an image", error))
    }

    async fn terminate(&self, host: &HostId, reason: &str) -> Result<(), FleetError> {
        let request = TerminateRequest { reason: reason.to_owned(), ..Default::default() };
        let answer = self.fleet.host_client(host).terminate_with_options(request, within(ACT)).await;
        answer.map(|_| ()).map_err(|error| FleetError::from_rpc(host, "terminate", error))
    }
}
