//! What a sandbox may reach, changed while it lives: the row first, under a generation of its own, then its host. A host
//! that doesn't hear of it, or fails, is told again by `reconcile`, which sees that another generation is in force there;
//! and of two changes at once the later row counts, whichever of the two its host hears first.

use atoll_model::{HostId, SandboxId};
use atoll_rpc::atoll::host::v1::SetNetworkRequest;
use atoll_rpc::connectrpc::client::CallOptions;

use super::{Filling, HOST_DEADLINE, Network, Owner, SandboxError, SandboxRecord, Sandboxes, store};
use crate::audit::{self, Entry};
use crate::fleet::{Fleet, FleetError};

impl Sandboxes {
    /// Replaces what a team's running or paused sandbox may reach. With an error of its host it is written down all the
    /// same, and in force as soon as the host obeys.
    pub async fn set_network(
        &self,
        owner: &Owner,
        id: &SandboxId,
        mut network: Network,
    ) -> Result<SandboxRecord, SandboxError> {
        let attempted = "set the network of";
        let record = store::get(&self.db, &owner.team, id).await?.ok_or(SandboxError::NotFound)?;
        // Who may come in, and how, is not about ways out.
        network.public = record.network.public;
        network.inbound = record.network.inbound.clone();
        network.identities = record.network.identities.clone();
        let filling = network.filling(&self.secrets, &owner.team).await?;
        let mut tx = self.db.begin().await?;
        let Some(changed) = store::set_network(&mut tx, id, &network).await? else {
            drop(tx);
            return Err(self.moved_on(id, attempted).await);
        };
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
        crate::failpoint!("control::network::after_row");
        let host = changed.host().cloned().ok_or(SandboxError::Changed { attempted })?;
        // In a task of its own: whoever goes away has asked for it all the same.
        let (fleet, told) = (self.fleet.clone(), changed.clone());
        let telling = self.tasks.spawn(async move { tell(&fleet, &host, &told, &filling).await });
        match telling.await.map_err(|_| SandboxError::Interrupted)? {
            // A later change was there first.
            Ok(()) | Err(FleetError::Agent { code: atoll_rpc::connectrpc::ErrorCode::Aborted, .. }) => Ok(changed),
            Err(error) => Err(error.into()),
        }
    }
}

/// Tells a host what the row says.
async fn tell(fleet: &Fleet, host: &HostId, record: &SandboxRecord, filling: &Filling) -> Result<(), FleetError> {
    let request = SetNetworkRequest {
        id: record.id.to_string(),
        network: record.network.to_wire(filling, &record.id).into(),
        generation: record.host_network_generation(),
        ..Default::default()
    };
    let options = CallOptions::default().with_timeout(HOST_DEADLINE);
    let answer = fleet.host_client(host).set_network_with_options(request, options).await;
    answer.map(drop).map_err(|error| FleetError::from_rpc(host, "set a sandbox's network", error))
}
