//! Resuming: `paused -> resuming -> running`, asked for or because a request came to a sandbox that wakes by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::{SandboxId, SandboxStatus, TeamId};
use atoll_rpc::atoll::host::v1::{NetworkPolicy, ResumeSandboxRequest};
use atoll_rpc::connectrpc::client::CallOptions;

use super::timing::StepTimes;
use super::{HOST_DEADLINE, Kept, Owner, SandboxError, SandboxRecord, Sandboxes, lifetime, store};
use crate::db::DbError;
use crate::fleet::FleetError;

/// How long a request waits for somebody else's resume.
const WAKE_LIMIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A sandbox that moves changes its place this often at most while somebody resumes it.
const LOOKS: usize = 8;

/// What a resume came to.
#[derive(Debug, Clone)]
pub struct Resumed {
    pub record: SandboxRecord,
    pub kept: Kept,
    pub times: StepTimes,
}

impl Sandboxes {
    /// Resumes a team's paused sandbox.
    pub async fn resume(&self, owner: &Owner, id: &SandboxId) -> Result<Resumed, SandboxError> {
        let record = self.used_last(&owner.team, id).await?.ok_or(SandboxError::NotFound)?;
        self.resume_record(Arc::unwrap_or_clone(record), Some(owner.clone())).await
    }

    async fn resume_record(&self, record: SandboxRecord, asked_by: Option<Owner>) -> Result<Resumed, SandboxError> {
        if record.status() != SandboxStatus::Paused {
            return Err(SandboxError::InvalidState { attempted: "resume", status: record.status() });
        }
        let service = self.clone();
        let task = self.tasks.spawn(async move { service.resume_while_paused(record, asked_by.as_ref()).await });
        task.await.map_err(|_| SandboxError::Interrupted)?
    }

    /// One that has moved to another host between the look and the decision is still paused, and resumed there.
    async fn resume_while_paused(
        &self,
        mut record: SandboxRecord,
        asked_by: Option<&Owner>,
    ) -> Result<Resumed, SandboxError> {
        for _ in 0..LOOKS {
            let (id, generation) = (record.id.0.clone(), record.generation);
            match self.resume_now(record, asked_by).await {
                Err(SandboxError::InvalidState { status: SandboxStatus::Paused, attempted }) => {
                    let now = store::get_any(&self.db, &id).await?.ok_or(SandboxError::NotFound)?;
                    if now.status() != SandboxStatus::Paused || now.generation == generation {
                        return Err(SandboxError::InvalidState { attempted, status: now.status() });
                    }
                    record = now;
                }
                other => return other,
            }
        }
        Err(SandboxError::Changed { attempted: "resume" })
    }

    async fn resume_now(&self, record: SandboxRecord, asked_by: Option<&Owner>) -> Result<Resumed, SandboxError> {
        let reason = record.reason.clone();
        let (times, deciding) = (StepTimes::default(), Instant::now());
        let decided = self.decide_for(asked_by, "sandbox.resume", &record, SandboxStatus::Resuming, None).await?;
        times.end("decide", deciding);
        let Some(resuming) = decided else {
            return Err(self.moved_on(&record.id, "resume").await);
        };
        crate::failpoint!("control::resume::before_host");
        let host = resuming.host().cloned().ok_or(SandboxError::Changed { attempted: "resume" })?;
        let policy = self.changed_policy(&resuming).await?;
        let request = ResumeSandboxRequest {
            id: resuming.id.to_string(),
            generation: resuming.host_generation(),
            network: policy.into(),
            network_generation: resuming.host_network_generation(),
            ..Default::default()
        };
        let options = CallOptions::default().with_timeout(HOST_DEADLINE);
        let calling = Instant::now();
        let answer = self.fleet.host_client(&host).resume_sandbox_with_options(request, options).await;
        times.end("host", calling);
        crate::failpoint!("control::resume::after_host");
        match answer {
            Ok(answer) => {
                let (answer, finishing) = (answer.into_owned(), Instant::now());
                times.add_host(&answer.steps);
                let running = self.settle(&resuming, SandboxStatus::Running, None).await?;
                times.end("finish", finishing);
                let record = running.ok_or(SandboxError::Changed { attempted: "resume" })?;
                Ok(Resumed { record, kept: answer.kept, times })
            }
            Err(error) => {
                let error = FleetError::from_rpc(&host, "resume a sandbox", error);
                if matches!(error, FleetError::Agent { .. }) || error.never_arrived() {
                    self.settle(&resuming, SandboxStatus::Paused, reason.as_deref()).await?;
                }
                Err(error.into())
            }
        }
    }

    /// What it may reach, if that has changed since it was made: its host may have missed it.
    async fn changed_policy(&self, record: &SandboxRecord) -> Result<Option<NetworkPolicy>, SandboxError> {
        if record.network_generation == 0 {
            return Ok(None);
        }
        let filling = record.network.what_can_be_filled(&self.secrets, &record.team_id).await?;
        Ok(Some(record.network.to_wire(&filling, &record.id)))
    }

    /// A team's sandbox that requests can be sent into: running, woken up first when it is one that wakes by itself.
    /// Restarts its idle clock.
    pub async fn usable(
        &self,
        team: &TeamId,
        id: &SandboxId,
        attempted: &'static str,
    ) -> Result<Arc<SandboxRecord>, SandboxError> {
        let deadline = Instant::now() + WAKE_LIMIT;
        loop {
            let record = self.used_last(team, id).await?.ok_or(SandboxError::NotFound)?;
            match record.status() {
                SandboxStatus::Running => {
                    self.activity.touch(id);
                    return Ok(record);
                }
                SandboxStatus::Paused if record.auto_resume => {
                    lifetime::raise_to_floor(&self.db, id).await?;
                    match self.resume_record(Arc::unwrap_or_clone(record), None).await {
                        Ok(resumed) => return Ok(Arc::new(resumed.record)),
                        // Somebody else was first: look again.
                        Err(SandboxError::InvalidState { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                SandboxStatus::Resuming | SandboxStatus::Pausing if record.auto_resume => {}
                SandboxStatus::Resuming => {}
                status => return Err(SandboxError::InvalidState { attempted, status }),
            }
            if Instant::now() >= deadline {
                return Err(SandboxError::InvalidState { attempted, status: SandboxStatus::Resuming });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The row of a sandbox. A running one is asked for with every exec, and mostly nothing has changed since the last.
    pub(super) async fn used_last(&self, team: &TeamId, id: &SandboxId) -> Result<Option<Arc<SandboxRecord>>, DbError> {
        let read = async { Ok(store::get(&self.db, team, id).await?.map(Arc::new)) };
        self.used.read(&self.db, (team.clone(), id.clone()), read).await
    }

    /// The host that a usable sandbox is on.
    pub fn host_of(record: &SandboxRecord) -> Result<&atoll_model::HostId, SandboxError> {
        record.host().ok_or(SandboxError::Changed { attempted: "reach" })
    }
}
