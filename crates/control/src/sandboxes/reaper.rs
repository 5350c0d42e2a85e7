//! Acts when a sandbox has been idle for its timeout, or has come to its end: pauses or destroys it. One replica does it
//! at a time (a lease); every replica writes its own part of the idle clock.

use std::time::Duration;

use atoll_model::OnTimeout;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::{Keep, SandboxError, SandboxRecord, Sandboxes, lifetime, store};
use crate::db::{DbError, Millis, leases};

const LEASE: &str = "idle-reaper";
const LEASE_TIME: Duration = Duration::from_secs(30);
/// Looked at per round; more wait for the next.
const BATCH: i64 = 200;
/// Paused or destroyed at the same time.
const AT_ONCE: usize = 8;

impl Sandboxes {
    /// Runs until `shutdown`, then writes what is left of the idle clock.
    pub async fn run_reaper(self, holder: String, interval: Duration, shutdown: CancellationToken) {
        let mut renew_at = Millis(0);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(interval) => {}
            }
            if let Err(error) = self.reap_once(&holder, &mut renew_at).await {
                tracing::error!(error = &error as &dyn std::error::Error, "looking for idle sandboxes failed");
            }
        }
        if let Err(error) = self.activity.flush(&self.db).await {
            tracing::error!(error = &error as &dyn std::error::Error, "could not write the idle clock");
        }
        if renew_at.0 > 0
            && let Err(error) = leases::release(&self.db, LEASE, &holder).await
        {
            tracing::debug!(error = &error as &dyn std::error::Error, "could not give the reaper's lease up");
        }
    }

    pub(super) async fn reap_once(&self, holder: &str, renew_at: &mut Millis) -> Result<(), DbError> {
        self.activity.flush(&self.db).await?;
        let now = self.clock.now();
        if now >= *renew_at {
            let held = leases::take(&self.db, LEASE, holder, now, LEASE_TIME).await?.is_some();
            *renew_at = if held { now + LEASE_TIME / 2 } else { Millis(0) };
            if !held {
                return Ok(());
            }
        }
        let idle = store::idle(&self.db, now, BATCH).await?;
        let idle = idle.into_iter().filter(|record| !self.activity.is_active(&record.id));
        let idle = idle.map(|record| (record, Keep::Memory));
        // An end comes although somebody uses the sandbox.
        let over = lifetime::over(&self.db, now, BATCH).await?;
        let over = over.into_iter().map(|listed| (listed.record.clone(), listed.keep()));
        let all = futures::stream::iter(idle.chain(over));
        all.for_each_concurrent(AT_ONCE, |(record, keep)| self.act(record, keep)).await;
        Ok(())
    }

    async fn act(&self, record: SandboxRecord, keep: Keep) {
        let id = record.id.0.clone();
        match record.on_timeout.0.0 {
            OnTimeout::Kill => self.destroy_now(&id, "timeout").await,
            OnTimeout::Pause => match self.pause_record(record, "timeout", keep, None).await {
                Ok(_) => tracing::info!(sandbox = %id, "paused: idle for its timeout, or at its end"),
                Err(SandboxError::InvalidState { .. } | SandboxError::Changed { .. }) => {}
                Err(error) => tracing::warn!(sandbox = %id, %error, "could not pause an idle sandbox"),
            },
        }
    }
}
