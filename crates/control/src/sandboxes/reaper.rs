//! Acts when a sandbox has been idle for its timeout, or has come to its end: pauses or destroys it. One replica does it
//! at a time (a lease); every replica writes its own part of the idle clock.
//!
//! Nothing here waits for a host: the clock is written, the lease renewed and the next idle sandbox found while a host
//! that hangs keeps those of its own waiting. Between the look and the act a sandbox may have been used, here or through
//! another replica, or given more time: whether it still is due is part of the very change that decides its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_model::{HostId, OnTimeout, SandboxId};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::store::Due;
use super::{Keep, SandboxError, SandboxRecord, Sandboxes, lifetime, store};
use crate::db::{DbError, Millis, leases};

const LEASE: &str = "idle-reaper";
const LEASE_TIME: Duration = Duration::from_secs(30);
/// Looked at per round; more wait for the next.
const BATCH: i64 = 1000;
/// How often ends are looked for while idle sandboxes are once.
const ENDS_PER_ROUND: u32 = 4;
/// Paused or destroyed at the same time on one host.
const AT_ONCE: usize = 8;

impl Sandboxes {
    /// Runs until `shutdown`, then writes what is left of the idle clock.
    pub async fn run_reaper(self, holder: String, interval: Duration, shutdown: CancellationToken) {
        tokio::join!(self.keep_idle_clock(interval, &shutdown), Reaper::new(&self, holder).run(interval, &shutdown));
        if let Err(error) = self.activity.flush(&self.db).await {
            tracing::error!(error = &error as &dyn std::error::Error, "could not write the idle clock");
        }
    }

    async fn keep_idle_clock(&self, interval: Duration, shutdown: &CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            if let Err(error) = self.activity.flush(&self.db).await {
                tracing::error!(error = &error as &dyn std::error::Error, "could not write the idle clock");
            }
        }
    }

    /// Ends what still is due, as its owner wished.
    pub(super) async fn act(&self, record: SandboxRecord, due: Due, keep: Keep) {
        let id = record.id.0.clone();
        // An end comes although somebody uses the sandbox.
        if due == Due::Idle && self.activity.is_active(&id) {
            return;
        }
        match record.on_timeout.0.0 {
            OnTimeout::Kill => self.destroy_if_due(record, due, "timeout").await,
            OnTimeout::Pause => match self.pause_if_due(record, due, "timeout", keep).await {
                Ok(_) => tracing::info!(sandbox = %id, "paused: idle for its timeout, or at its end"),
                Err(SandboxError::InvalidState { .. } | SandboxError::Changed { .. }) => {}
                Err(error) => tracing::warn!(sandbox = %id, %error, "could not pause an idle sandbox"),
            },
        }
    }
}

/// What is being ended now, and where.
type Acting = Arc<Mutex<HashMap<SandboxId, Option<HostId>>>>;

pub(super) struct Reaper {
    sandboxes: Sandboxes,
    holder: String,
    renew_at: Millis,
    acting: Acting,
    tasks: JoinSet<()>,
}

/// Takes a sandbox off the list when its end is made, or the task fails.
struct Listed {
    acting: Acting,
    id: SandboxId,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.acting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Reaper {
    pub(super) fn new(sandboxes: &Sandboxes, holder: String) -> Self {
        let (acting, tasks) = (Acting::default(), JoinSet::new());
        Self { sandboxes: sandboxes.clone(), holder, renew_at: Millis(0), acting, tasks }
    }

    async fn run(mut self, interval: Duration, shutdown: &CancellationToken) {
        // Lifetimes are promised to the second, idle timeouts are not: they are looked at less often.
        let mut rounds = (0..ENDS_PER_ROUND).cycle();
        while shutdown.run_until_cancelled(tokio::time::sleep(interval / ENDS_PER_ROUND)).await.is_some() {
            if let Err(error) = self.look(rounds.next() == Some(0)).await {
                tracing::error!(error = &error as &dyn std::error::Error, "looking for idle sandboxes failed");
            }
        }
        if self.renew_at.0 > 0
            && let Err(error) = leases::release(&self.sandboxes.db, LEASE, &self.holder).await
        {
            tracing::debug!(error = &error as &dyn std::error::Error, "could not give the reaper's lease up");
        }
    }

    /// Looks for what is due and begins to end it.
    #[cfg(test)]
    pub(super) async fn round(&mut self) -> Result<(), DbError> {
        self.look(true).await
    }

    async fn look(&mut self, for_idle: bool) -> Result<(), DbError> {
        while self.tasks.try_join_next().is_some() {}
        let (db, now) = (&self.sandboxes.db, self.sandboxes.clock.now());
        if now >= self.renew_at {
            let held = leases::take(db, LEASE, &self.holder, now, LEASE_TIME).await?.is_some();
            self.renew_at = if held { now + LEASE_TIME / 2 } else { Millis(0) };
            if !held {
                return Ok(());
            }
        }
        let idle = if for_idle { store::idle(db, now, BATCH).await? } else { Vec::new() };
        let idle = idle.into_iter().map(|record| (record, Due::Idle, Keep::Memory));
        let over = lifetime::over(db, now, BATCH).await?;
        let over = over.into_iter().map(|listed| (listed.record.clone(), Due::End, listed.keep()));
        for (record, due, keep) in idle.chain(over) {
            if let Some(listed) = self.list(&record) {
                let sandboxes = self.sandboxes.clone();
                self.tasks.spawn(async move {
                    sandboxes.act(record, due, keep).await;
                    drop(listed);
                });
            }
        }
        Ok(())
    }

    /// Nothing when it is being ended already, or its host has enough to do.
    fn list(&self, record: &SandboxRecord) -> Option<Listed> {
        let mut acting = self.acting.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, host) = (record.id.0.clone(), record.host().cloned());
        if acting.contains_key(&id) || acting.values().filter(|other| **other == host).count() >= AT_ONCE {
            return None;
        }
        acting.insert(id.clone(), host);
        Some(Listed { acting: Arc::clone(&self.acting), id })
    }

    /// Waits for all that has begun.
    #[cfg(test)]
    pub(super) async fn settle(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}
