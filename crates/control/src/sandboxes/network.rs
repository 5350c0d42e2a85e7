//! What a sandbox may reach, changed while it lives: its host first, then the row, so that the row never promises what
//! is not in force. A crash in between leaves the host stricter or wider than the row says until the next change.

use atoll_model::{SandboxId, SandboxStatus};
use atoll_rpc::atoll::host::v1::SetNetworkRequest;
use atoll_rpc::connectrpc::client::CallOptions;

use super::{HOST_DEADLINE, Network, Owner, SandboxError, SandboxRecord, Sandboxes, store};
use crate::audit::{self, Entry};
use crate::fleet::FleetError;

impl Sandboxes {
    /// Replaces what a team's running or paused sandbox may reach.
    pub async fn set_network(
        &self,
        owner: &Owner,
        id: &SandboxId,
        mut network: Network,
    ) -> Result<SandboxRecord, SandboxError> {
        let record = store::get(&self.db, &owner.team, id).await?.ok_or(SandboxError::NotFound)?;
        // Who may come in, and how, is not about ways out.
        network.public = record.network.public;
        network.inbound = record.network.inbound.clone();
        if !matches!(record.status(), SandboxStatus::Running | SandboxStatus::Paused) {
            return Err(SandboxError::InvalidState { attempted: "set the network of", status: record.status() });
        }
        let host = record.host().ok_or(SandboxError::Changed { attempted: "set the network of" })?;
        let headers = self.secrets.fill(&owner.team, &network.headers).await?;
        let network_now = network.to_wire(&headers).into();
        let request = SetNetworkRequest { id: id.to_string(), network: network_now, ..Default::default() };
        let options = CallOptions::default().with_timeout(HOST_DEADLINE);
        let answer = self.fleet.host_client(host).set_network_with_options(request, options).await;
        answer.map_err(|error| FleetError::from_rpc(host, "set a sandbox's network", error))?;
        let mut tx = self.db.begin().await?;
        let changed = store::set_network(&mut tx, id, &network).await?;
        let entry = Entry {
            team: Some(&owner.team),
            actor: &owner.actor,
            origin: &owner.origin,
            action: "sandbox.network",
            target_kind: "sandbox",
            target_id: Some(id.as_str()),
            result: "ok",
            details: network.audited(),
        };
        audit::record(&mut tx, self.clock.now(), &entry).await?;
        tx.commit().await?;
        changed.ok_or(SandboxError::NotFound)
    }
}
