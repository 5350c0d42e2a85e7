//! Destroying a sandbox: the decision is written first, then the host is told.
//!
//! Once the row is `stopped` the sandbox is gone for its owner, whatever its host does: a host that can't be reached
//! destroys it when it is back, because `reconcile` finds it alive there and unwanted.

use std::time::Duration;

use atoll_model::{HostId, SandboxId, SandboxStatus};
use atoll_rpc::atoll::host::v1::DestroySandboxRequest;
use atoll_rpc::connectrpc::client::CallOptions;
use serde_json::json;

use super::store::{self, Change, Due};
use super::{Owner, SandboxError, SandboxRecord, Sandboxes};
use crate::audit::{self, Entry};
use crate::fleet::FleetError;

/// How long a host may take. Killing is quick; the rest happens behind its answer.
const DEADLINE: Duration = Duration::from_secs(20);
/// How often a row that changes under our hands is looked at again.
const TRIES: usize = 8;

impl Sandboxes {
    /// Destroys a team's sandbox. Of one that is stopped already nothing is left to do.
    pub async fn destroy(&self, owner: &Owner, id: &SandboxId) -> Result<(), SandboxError> {
        for _ in 0..TRIES {
            let record = self.used_last(&owner.team, id).await?.ok_or(SandboxError::NotFound)?;
            if record.status().is_final() {
                return Ok(());
            }
            let now = self.clock.now();
            let change = stop(&record, "deleted", now);
            let entry = Entry {
                team: Some(&owner.team),
                actor: &owner.actor,
                origin: &owner.origin,
                action: "sandbox.delete",
                target_kind: "sandbox",
                target_id: Some(id.as_str()),
                result: "ok",
                details: json!({ "status": record.status() }),
            };
            let decide = async {
                let mut tx = self.db.begin().await?;
                let Some(stopped) = store::change_in(&mut tx, &change).await? else { return Ok(None) };
                audit::record(&mut tx, now, &entry).await?;
                tx.commit().await?;
                Ok::<_, SandboxError>(Some(stopped))
            };
            let Some(stopped) = self.row_of(decide).await? else { continue };
            self.finish_destroying(stopped).await;
            return Ok(());
        }
        Err(SandboxError::Changed { attempted: "delete" })
    }

    /// Destroys any sandbox for a reason of control's own. Whatever fails is logged, and left to `reconcile`.
    pub async fn destroy_now(&self, id: &SandboxId, reason: &str) {
        for _ in 0..TRIES {
            let stopped = match store::get_any(&self.db, id).await {
                Ok(Some(record)) if !record.status().is_final() => {
                    self.change(&stop(&record, reason, self.clock.now())).await
                }
                Ok(_) => return,
                Err(error) => Err(error),
            };
            match stopped {
                Ok(Some(stopped)) => return self.finish_destroying(stopped).await,
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(sandbox = %id, reason, error = &error as &dyn std::error::Error, "could not destroy");
                    return;
                }
            }
        }
        tracing::error!(sandbox = %id, reason, "could not destroy: the row kept changing");
    }

    /// Destroys it if it is what was seen and still due.
    pub(super) async fn destroy_if_due(&self, record: SandboxRecord, due: Due, reason: &str) {
        let change = stop(&record, reason, self.clock.now());
        match self.row_of(store::change_if_due(&self.db, due, &change)).await {
            Ok(Some(stopped)) => self.finish_destroying(stopped).await,
            Ok(None) => {}
            Err(error) => {
                let (sandbox, error) = (&record.id.0, &error as &dyn std::error::Error);
                tracing::error!(%sandbox, reason, error, "could not destroy");
            }
        }
    }

    /// The host's part. In a task of its own, so that a client that goes away does not stop it.
    async fn finish_destroying(&self, stopped: SandboxRecord) {
        let service = self.clone();
        let task = self.tasks.spawn(async move {
            if let Some(host) = stopped.host() {
                let reason = stopped.reason.as_deref().unwrap_or("deleted");
                service.tell_host_to_destroy(host, &stopped, reason).await;
            }
        });
        if let Err(error) = task.await {
            tracing::error!(error = &error as &dyn std::error::Error, "the task that destroys a sandbox failed");
        }
    }

    /// Tells a host to destroy; a failure is logged, for `reconcile` tries again when the host answers.
    pub(super) async fn tell_host_to_destroy(&self, host: &HostId, record: &SandboxRecord, reason: &str) {
        let request = DestroySandboxRequest {
            id: record.id.to_string(),
            generation: record.host_generation(),
            reason: reason.to_owned(),
            ..Default::default()
        };
        let options = CallOptions::default().with_timeout(DEADLINE);
        if let Err(error) = self.fleet.host_client(host).destroy_sandbox_with_options(request, options).await {
            let error = FleetError::from_rpc(host, "destroy a sandbox", error);
            tracing::warn!(sandbox = %record.id.0, %host, %error, "the host did not destroy it yet");
        }
    }
}

fn stop<'a>(record: &'a SandboxRecord, reason: &'a str, at: crate::db::Millis) -> Change<'a> {
    Change {
        id: &record.id,
        from: record.status(),
        generation: record.generation,
        to: SandboxStatus::Stopped,
        reason: Some(reason),
        decided: true,
        host: None,
        at,
    }
}
