//! Pausing: `running -> pausing -> paused`. If the host refuses, the row goes back to `running`; if its answer is
//! lost, the row stays `pausing` until `reconcile` has asked the host what is true.

use std::sync::Arc;
use std::time::Instant;

use atoll_model::{SandboxId, SandboxStatus};
use atoll_rpc::atoll::host::v1::PauseSandboxRequest;
use atoll_rpc::connectrpc::client::CallOptions;

use super::store::{self, Change, Due};
use super::timing::StepTimes;
use super::{HOST_DEADLINE, Owner, SandboxError, SandboxRecord, Sandboxes};
use crate::fleet::FleetError;

/// What a pause is to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    Memory,
    /// Its processes end; a resume starts new ones over its files.
    Files,
}

/// Whose decision a pause is.
enum By {
    Owner(Box<Owner>),
    /// Control's own, as long as it is due.
    Itself(Due),
}

/// What a pause or a resume kept: `memory` or `files`.
pub type Kept = String;

/// What a pause came to.
#[derive(Debug, Clone)]
pub struct Paused {
    pub record: SandboxRecord,
    pub kept: Kept,
    /// Of its memory, to swap.
    pub freed_bytes: u64,
    pub times: StepTimes,
}

impl Sandboxes {
    /// Pauses a team's running sandbox, with its memory.
    pub async fn pause(&self, owner: &Owner, id: &SandboxId) -> Result<Paused, SandboxError> {
        self.pause_keeping(owner, id, Keep::Memory).await
    }

    /// Pauses a team's running sandbox.
    pub async fn pause_keeping(&self, owner: &Owner, id: &SandboxId, keep: Keep) -> Result<Paused, SandboxError> {
        let record = self.used_last(&owner.team, id).await?.ok_or(SandboxError::NotFound)?;
        self.pause_record(Arc::unwrap_or_clone(record), "user", keep, By::Owner(Box::new(owner.clone()))).await
    }

    /// Pauses it if it still is due.
    pub(super) async fn pause_if_due(
        &self,
        record: SandboxRecord,
        due: Due,
        reason: &'static str,
        keep: Keep,
    ) -> Result<Paused, SandboxError> {
        self.pause_record(record, reason, keep, By::Itself(due)).await
    }

    /// Pauses it for `reason`. Runs to its end although the caller may go away.
    async fn pause_record(
        &self,
        record: SandboxRecord,
        reason: &'static str,
        keep: Keep,
        by: By,
    ) -> Result<Paused, SandboxError> {
        if record.status() != SandboxStatus::Running {
            return Err(SandboxError::InvalidState { attempted: "pause", status: record.status() });
        }
        let service = self.clone();
        let task = self.tasks.spawn(async move { service.pause_now(record, reason, keep, by).await });
        task.await.map_err(|_| SandboxError::Interrupted)?
    }

    async fn pause_now(
        &self,
        record: SandboxRecord,
        reason: &'static str,
        keep: Keep,
        by: By,
    ) -> Result<Paused, SandboxError> {
        let (times, deciding) = (StepTimes::default(), Instant::now());
        let (pausing, why) = (SandboxStatus::Pausing, Some(reason));
        let decided = match by {
            By::Owner(owner) => self.decide_for(Some(&owner), "sandbox.pause", &record, pausing, why).await?,
            By::Itself(due) => {
                self.row_of(store::change_if_due(&self.db, due, &self.decision(&record, pausing, why))).await?
            }
        };
        times.end("decide", deciding);
        let Some(pausing) = decided else {
            return Err(self.moved_on(&record.id, "pause").await);
        };
        crate::failpoint!("control::pause::before_host");
        let host = pausing.host().cloned().ok_or(SandboxError::Changed { attempted: "pause" })?;
        let request = PauseSandboxRequest {
            id: pausing.id.to_string(),
            generation: pausing.host_generation(),
            reason: reason.to_owned(),
            files_only: keep == Keep::Files,
            ..Default::default()
        };
        let options = CallOptions::default().with_timeout(HOST_DEADLINE);
        let calling = Instant::now();
        let answer = self.fleet.host_client(&host).pause_sandbox_with_options(request, options).await;
        times.end("host", calling);
        crate::failpoint!("control::pause::after_host");
        match answer {
            Ok(answer) => {
                let (answer, finishing) = (answer.into_owned(), Instant::now());
                times.add_host(&answer.steps);
                let paused = self.settle(&pausing, SandboxStatus::Paused, Some(reason)).await?;
                times.end("finish", finishing);
                let record = paused.ok_or(SandboxError::Changed { attempted: "pause" })?;
                self.nudge_moves();
                Ok(Paused { record, kept: answer.kept, freed_bytes: answer.freed_bytes, times })
            }
            Err(error) => {
                let error = FleetError::from_rpc(&host, "pause a sandbox", error);
                if matches!(error, FleetError::Agent { .. }) || error.never_arrived() {
                    self.settle(&pausing, SandboxStatus::Running, None).await?;
                }
                Err(error.into())
            }
        }
    }

    /// Writes what a host did of a decision: the generation stays.
    pub(super) async fn settle(
        &self,
        record: &SandboxRecord,
        to: SandboxStatus,
        reason: Option<&str>,
    ) -> Result<Option<SandboxRecord>, SandboxError> {
        let change = Change {
            id: &record.id,
            from: record.status(),
            generation: record.generation,
            to,
            reason,
            decided: false,
            host: None,
            at: self.clock.now(),
        };
        Ok(self.change(&change).await?)
    }

    /// A compare-and-set found another row than was read: says what it is now.
    pub(super) async fn moved_on(&self, id: &SandboxId, attempted: &'static str) -> SandboxError {
        match store::get_any(&self.db, id).await {
            Ok(Some(record)) => SandboxError::InvalidState { attempted, status: record.status() },
            Ok(None) => SandboxError::NotFound,
            Err(error) => error.into(),
        }
    }
}
