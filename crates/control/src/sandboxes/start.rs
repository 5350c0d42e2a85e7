//! A row that has a host becomes a sandbox there, or is undone.

use std::time::{Duration, Instant};

use atoll_model::{HostId, SandboxId, SandboxStatus};
use atoll_rpc::atoll::host::v1::{self as wire, CreateSandboxRequest};
use atoll_rpc::connectrpc::ConnectError;
use atoll_rpc::connectrpc::ErrorCode as RpcCode;
use atoll_rpc::connectrpc::client::CallOptions;

use super::store::{self, Change};
use super::timing::StepTimes;
use super::{HOST_DEADLINE, SandboxError, SandboxRecord, Sandboxes};
use crate::fleet::FleetError;
use crate::templates::store::Template;
use crate::volumes::{self, Mount};

/// How long a create waits for a template's ready command, and between two tries.
const READY_PATIENCE: Duration = Duration::from_secs(60);
const READY_AGAIN: Duration = Duration::from_millis(100);

impl Sandboxes {
    /// Gives the row to another host, with a new generation.
    pub(super) async fn move_to(
        &self,
        record: &SandboxRecord,
        host: &HostId,
        mounts: &[Mount],
    ) -> Result<Moved, SandboxError> {
        if !mounts.is_empty() && !volumes::move_along(&self.db, &record.id, host, mounts).await? {
            return Ok(Moved::VolumesStay);
        }
        let mut tx = self.db.begin().await?;
        if !store::takes_something_new(&mut tx, host).await? {
            return Ok(Moved::HostLeaves);
        }
        let change = Change { host: Some(host), ..self.decision(record, SandboxStatus::Starting, None) };
        let Some(record) = store::change_in(&mut tx, &change).await? else { return Ok(Moved::Changed) };
        tx.commit().await?;
        Ok(Moved::There(Box::new(record)))
    }

    /// Lets `host` build it. The inner error is the host's failure, after it was told to undo, with the row as it is.
    #[allow(clippy::type_complexity)]
    pub(super) async fn start_on(
        &self,
        record: SandboxRecord,
        host: &HostId,
        spec: &wire::SandboxSpec,
        times: &StepTimes,
    ) -> Result<Result<SandboxRecord, (SandboxRecord, FleetError)>, SandboxError> {
        self.start_like(record, host, spec, None, times).await
    }

    /// The same, with the environment of another sandbox of the host beneath its own.
    #[allow(clippy::type_complexity)]
    pub(super) async fn start_like(
        &self,
        record: SandboxRecord,
        host: &HostId,
        spec: &wire::SandboxSpec,
        env_of: Option<&SandboxId>,
        times: &StepTimes,
    ) -> Result<Result<SandboxRecord, (SandboxRecord, FleetError)>, SandboxError> {
        crate::failpoint!("control::create::before_host");
        let request = CreateSandboxRequest {
            id: record.id.to_string(),
            generation: record.host_generation(),
            spec: spec.clone().into(),
            env_of: env_of.map(ToString::to_string).unwrap_or_default(),
            ..Default::default()
        };
        let options = CallOptions::default().with_timeout(HOST_DEADLINE);
        let calling = Instant::now();
        let answer = self.fleet.host_client(host).create_sandbox_with_options(request, options).await;
        times.end("host", calling);
        let kept = match answer {
            Ok(answer) => {
                let answer = answer.into_owned();
                times.add_host(&answer.steps);
                answer.kept
            }
            Err(error) => return self.undo_start(record, host, error).await.map(Err),
        };
        crate::failpoint!("control::create::after_host");
        let finishing = Instant::now();
        let running = Change {
            id: &record.id,
            from: SandboxStatus::Starting,
            generation: record.generation,
            to: SandboxStatus::Running,
            reason: None,
            decided: false,
            host: None,
            at: self.clock.now(),
        };
        let running = self.change(&running).await?;
        times.end("finish", finishing);
        if let Some(running) = running {
            return Ok(Ok(SandboxRecord { begun_with: Some(kept).filter(|kept| !kept.is_empty()), ..running }));
        }
        self.after_it_changed(&record, host).await.map(Ok)
    }

    /// A host could not build it: it is told to undo what it may have made, and the row gets a newer generation.
    async fn undo_start(
        &self,
        record: SandboxRecord,
        host: &HostId,
        error: ConnectError,
    ) -> Result<(SandboxRecord, FleetError), SandboxError> {
        let error = FleetError::from_rpc(host, "create a sandbox", error);
        // What the host may still be making is refused or destroyed by a newer generation.
        let Some(record) = self.decide(&record, SandboxStatus::Starting, None).await? else {
            self.destroy_now(&record.id.0, "create_failed").await;
            return Err(error.into());
        };
        if !error.never_arrived() {
            self.tell_host_to_destroy(host, &record, "create_failed").await;
        }
        Ok((record, error))
    }

    /// The row moved on while the host was building: the monitor may have found it running already, or somebody
    /// deleted it.
    async fn after_it_changed(&self, record: &SandboxRecord, host: &HostId) -> Result<SandboxRecord, SandboxError> {
        let now = store::get_any(&self.db, &record.id).await?.ok_or(SandboxError::NotFound)?;
        match now.status() {
            SandboxStatus::Stopped => {
                self.tell_host_to_destroy(host, &now, "deleted").await;
                Err(SandboxError::Changed { attempted: "create" })
            }
            SandboxStatus::Missing => {
                let found = Change {
                    id: &now.id,
                    from: SandboxStatus::Missing,
                    generation: now.generation,
                    to: SandboxStatus::Running,
                    reason: None,
                    decided: false,
                    host: None,
                    at: self.clock.now(),
                };
                self.change(&found).await?.ok_or(SandboxError::Changed { attempted: "create" })
            }
            _ => Ok(now),
        }
    }

    /// Asks the template's ready command until it succeeds, for a while. A sandbox that runs and is not ready is given
    /// out all the same: its owner can see why.
    pub(super) async fn await_ready(&self, running: &SandboxRecord, template: &Template) {
        let (Some(command), Some(host)) = (&template.ready_cmd, running.host()) else { return };
        if only_sleeps(command) {
            return;
        }
        let deadline = Instant::now() + READY_PATIENCE;
        let guest = self.fleet.guest_client(host, &running.id);
        loop {
            let request = atoll_rpc::atoll::guest::v1::ExecRequest {
                cmd: "/bin/sh".to_owned(),
                args: vec!["-c".to_owned(), command.clone()],
                timeout_ms: READY_PATIENCE.as_millis() as u32,
                max_output_bytes: 4096,
                ..Default::default()
            };
            let options = CallOptions::default().with_timeout(READY_PATIENCE);
            match guest.exec_with_options(request, options).await.map(|answer| answer.into_owned().exit_code) {
                Ok(0) => return,
                Ok(_) if Instant::now() < deadline => {}
                _ => {
                    tracing::warn!(sandbox = %running.id.0, "a new sandbox runs, but its ready command does not succeed");
                    return;
                }
            }
            tokio::time::sleep(READY_AGAIN).await;
        }
    }

    /// Both tries failed: the row ends as `stopped`, and the error is what the client learns.
    pub(super) async fn give_up(&self, record: &SandboxRecord, error: FleetError) -> SandboxError {
        let decided = self.decide(record, SandboxStatus::Stopped, Some("create_failed")).await;
        if let Err(error) = volumes::give_back(&self.db, &record.id).await {
            tracing::warn!(sandbox = %record.id.0, %error, "its volumes stay on the host where it could not be made");
        }
        match decided {
            Ok(_) => match error {
                FleetError::Agent { code: RpcCode::ResourceExhausted, message, .. } => SandboxError::Full(message),
                error => error.into(),
            },
            Err(database) => database,
        }
    }

    /// A decision about the row: compare-and-set, with a new generation.
    pub(super) async fn decide(
        &self,
        record: &SandboxRecord,
        to: SandboxStatus,
        reason: Option<&str>,
    ) -> Result<Option<SandboxRecord>, SandboxError> {
        Ok(self.change(&self.decision(record, to, reason)).await?)
    }

    pub(super) fn decision<'a>(
        &self,
        record: &'a SandboxRecord,
        to: SandboxStatus,
        reason: Option<&'a str>,
    ) -> Change<'a> {
        Change {
            id: &record.id,
            from: record.status(),
            generation: record.generation,
            to,
            reason,
            decided: true,
            host: None,
            at: self.clock.now(),
        }
    }
}

/// What came of giving a row to another host.
pub(super) enum Moved {
    There(Box<SandboxRecord>),
    /// That host takes nothing new any more either.
    HostLeaves,
    /// What it mounts lies on the former host.
    VolumesStay,
    /// Somebody decided something else meanwhile.
    Changed,
}

/// Such a ready command says how long a build is to wait. It has nothing to tell of a new sandbox.
fn only_sleeps(command: &str) -> bool {
    command.trim().strip_prefix("sleep ").is_some_and(|rest| rest.trim().parse::<f64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::only_sleeps;

    #[test]
    fn a_ready_command_that_only_sleeps_is_told_from_others() {
        assert!(only_sleeps("sleep 20") && only_sleeps(" sleep 0.5 "));
        assert!(!only_sleeps("sleep 1; curl -f localhost") && !only_sleeps("sleep") && !only_sleeps("true"));
    }
}
