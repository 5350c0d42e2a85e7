//! One host's active phase: read control's view, ask the agent for its list, judge, act.
//!
//! The order matters: rows first, then the question. Whatever changes in between makes its compare-and-set fail, and is
//! looked at again in the next pass. So running this twice at once, or stopping it anywhere, does no harm.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_model::{HostId, SandboxId, SandboxStatus};
use futures::FutureExt;

use super::bounded;
use super::judge::{DISCONNECTED, RECONNECTED, Row, Rules, Seen, State, Verdict, judge, judge_stray, lacks_policy};
use super::views::{Agents, Records, RowChange};
use crate::clock::Clock;
use crate::db::{DbError, Millis};
use crate::fleet::FleetError;

/// Orders to one host under way at once.
const PARALLEL: usize = 32;
/// What one look at a host may take in all.
const LOOK: Duration = Duration::from_secs(40);

/// What the passes share.
pub struct HostPass {
    pub records: Arc<dyn Records>,
    pub agents: Arc<dyn Agents>,
    pub clock: Clock,
    pub transition_limit: Duration,
    pub orphan_grace: Duration,
    pub resume_on_reconnect: bool,
    /// See [`Rules::alone_since`].
    pub alone_since: Option<Millis>,
    /// Since when hosts have had things that control doesn't know. Lost with a restart: the grace begins anew.
    strays: Mutex<HashMap<(HostId, SandboxId), Millis>>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The host had found all its sandboxes; if not, more may change soon.
    pub complete: bool,
    pub changed: usize,
    pub destroyed: usize,
    pub resumed: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum PassError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error("it took longer than {} s; the next pass goes on", LOOK.as_secs())]
    Late,
}

impl HostPass {
    pub fn new(
        records: Arc<dyn Records>,
        agents: Arc<dyn Agents>,
        clock: Clock,
        transition_limit: Duration,
        resume_on_reconnect: bool,
    ) -> Self {
        let orphan_grace = transition_limit;
        let strays = Mutex::default();
        Self { records, agents, clock, transition_limit, orphan_grace, resume_on_reconnect, alone_since: None, strays }
    }

    /// The same, cut off when it takes too long: one host must not keep its place for ever. The next look goes on.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn look(&self, host: &HostId) -> Result<Outcome, PassError> {
        tokio::time::timeout(LOOK, self.run(host)).await.unwrap_or(Err(PassError::Late))
    }

    /// Runs the active phase for one host.
    ///
    /// # Errors
    /// When control's records or the host's list can't be had. Single orders that fail are logged and tried again in
    /// the next pass.
    pub async fn run(&self, host: &HostId) -> Result<Outcome, PassError> {
        let rows = self.records.on_host(host).await?;
        let rules = Rules {
            now: self.clock.now(),
            inventory_complete: false,
            transition_limit: self.transition_limit,
            alone_since: self.alone_since,
            orphan_grace: self.orphan_grace,
            resume_on_reconnect: self.resume_on_reconnect,
        };
        let inventory = self.agents.list(host).await?;
        let rules = Rules { inventory_complete: inventory.complete, ..rules };
        let seen: HashMap<&SandboxId, &Seen> = inventory.sandboxes.iter().map(|seen| (&seen.id, seen)).collect();
        let known: HashSet<&SandboxId> = rows.iter().map(|row| &row.id).collect();

        let mut outcome = Outcome { complete: inventory.complete, ..Outcome::default() };
        let mut acknowledged = Vec::new();
        let mut resumes = Vec::new();
        let mut untold = Vec::new();
        for row in &rows {
            let seen = seen.get(&row.id).copied();
            untold.extend(seen.filter(|seen| lacks_policy(row, seen)).map(|seen| seen.id.clone()));
            match judge(row, seen, &rules) {
                Verdict::Leave | Verdict::Destroy { .. } => {}
                Verdict::Become { status, reason } => {
                    let change = RowChange { row, to: status, reason: reason.as_deref(), decided: false };
                    if self.records.change(&change).await?.is_some() {
                        tracing::info!(
                            sandbox = %row.id, %host, before = %row.status, now = %status, reason = reason.as_deref(),
                            "a sandbox is what its host says"
                        );
                        outcome.changed += 1;
                        // Of an error the host keeps what it has until somebody has decided.
                        let told = seen.filter(|_| status != SandboxStatus::Error);
                        acknowledged.extend(told.map(|seen| (seen.id.clone(), seen.generation, seen.state)));
                    }
                }
                Verdict::Resume => {
                    let paused = if row.status == SandboxStatus::Paused {
                        Some(row.clone())
                    } else {
                        let to = SandboxStatus::Paused;
                        let change = RowChange { row, to, reason: Some(DISCONNECTED), decided: false };
                        self.records.change(&change).await?
                    };
                    resumes.extend(paused);
                }
            }
        }
        // Before anything goes on that may not reach what it reached.
        let policies = untold.iter().map(|id| async move { (id, self.set_network(host, id).await) }.boxed()).collect();
        let told = bounded(PARALLEL, policies).await;
        let still_open: HashSet<&SandboxId> = told.into_iter().filter(|(_, told)| !told).map(|(id, _)| id).collect();
        resumes.retain(|row| !still_open.contains(&row.id));
        outcome.resumed = self.resume(host, resumes).await;
        let strays: Vec<&Seen> = inventory.sandboxes.iter().filter(|seen| !known.contains(&seen.id)).collect();
        outcome.destroyed = self.judge_strays(host, &strays, &rules).await?;
        if !acknowledged.is_empty()
            && let Err(error) = self.agents.acknowledge(host, acknowledged).await
        {
            tracing::debug!(%host, %error, "an acknowledgement was lost; the host reports again");
        }
        self.delete_images(host).await?;
        Ok(outcome)
    }

    /// Tells a host what a sandbox may reach, which it has missed. Whether that is in force now.
    async fn set_network(&self, host: &HostId, id: &SandboxId) -> bool {
        let told = match self.records.network(id).await {
            Ok(Some((network, generation))) => self.agents.set_network(host, id, generation, network).await,
            Ok(None) => return false,
            Err(error) => {
                tracing::warn!(sandbox = %id, %host, %error, "what a sandbox may reach can't be read");
                return false;
            }
        };
        match &told {
            Ok(()) => tracing::info!(sandbox = %id, %host, "its host has heard what a sandbox may reach"),
            Err(error) => tracing::warn!(sandbox = %id, %host, %error, "what a sandbox may reach is not in force yet"),
        }
        told.is_ok()
    }

    /// Orders the resume of sandboxes that were paused for loss of contact; how many run.
    async fn resume(&self, host: &HostId, rows: Vec<Row>) -> usize {
        let resumes = rows.iter().map(|row| self.resume_one(host, row).boxed()).collect();
        bounded(PARALLEL, resumes).await.into_iter().filter(|running| *running).count()
    }

    async fn resume_one(&self, host: &HostId, paused: &Row) -> bool {
        self.order_resume(host, paused).await.unwrap_or_else(|error| {
            tracing::warn!(sandbox = %paused.id, %host, %error, "could not resume a sandbox after contact came back");
            false
        })
    }

    async fn order_resume(&self, host: &HostId, paused: &Row) -> Result<bool, PassError> {
        let order = RowChange { row: paused, to: SandboxStatus::Resuming, reason: Some(RECONNECTED), decided: true };
        // Somebody decided something else meanwhile (a delete, a pause): that wins.
        let Some(resuming) = self.records.change(&order).await? else { return Ok(false) };
        match self.agents.resume(host, &resuming.id, resuming.generation).await {
            Ok(()) => {
                let running = RowChange { row: &resuming, to: SandboxStatus::Running, reason: None, decided: false };
                Ok(self.records.change(&running).await?.is_some())
            }
            Err(error) => {
                // The host said no: it is still paused. After anything else nobody knows, and the next passes find out.
                if matches!(error, FleetError::Agent { .. }) {
                    let (to, reason) = (SandboxStatus::Paused, Some(DISCONNECTED));
                    self.records.change(&RowChange { row: &resuming, to, reason, decided: false }).await?;
                }
                Err(error.into())
            }
        }
    }

    /// Destroys what nobody wants on this host; how many.
    async fn judge_strays(&self, host: &HostId, strays: &[&Seen], rules: &Rules) -> Result<usize, DbError> {
        let ids: Vec<SandboxId> = strays.iter().map(|seen| seen.id.clone()).collect();
        let rows = if ids.is_empty() { Vec::new() } else { self.records.by_id(&ids).await? };
        let rows: HashMap<&SandboxId, &Row> = rows.iter().map(|row| (&row.id, row)).collect();
        let mut unwanted = Vec::new();
        {
            let mut since = self.strays.lock().unwrap_or_else(PoisonError::into_inner);
            since.retain(|(of, id), _| of != host || ids.contains(id));
            for seen in strays {
                let row = rows.get(&seen.id).copied();
                let first_seen = match row {
                    Some(_) => rules.now,
                    None => *since.entry((host.clone(), seen.id.clone())).or_insert(rules.now),
                };
                if let Verdict::Destroy { known } = judge_stray(row, host, first_seen, rules) {
                    unwanted.push((*seen, row, known));
                }
            }
        }
        let destroys =
            unwanted.into_iter().map(|(seen, row, known)| self.destroy(host, seen, row, known).boxed()).collect();
        Ok(bounded(PARALLEL, destroys).await.into_iter().filter(|destroyed| *destroyed).count())
    }

    async fn destroy(&self, host: &HostId, seen: &Seen, row: Option<&Row>, known: bool) -> bool {
        // Newer than all that the agent has seen, but the very order that was given before when there was one.
        let generation = row.map_or(0, |row| row.generation).max(seen.generation + 1);
        let ordered = row.filter(|row| row.generation == generation).and_then(|row| row.reason.as_deref());
        let reason = ordered.unwrap_or("orphan");
        if let Err(error) = self.agents.destroy(host, &seen.id, generation, reason).await {
            tracing::warn!(sandbox = %seen.id, %host, %error, "could not destroy an orphan");
            return false;
        }
        if seen.state != State::Exited {
            tracing::warn!(sandbox = %seen.id, %host, known, "destroyed an orphan");
            if let Err(error) = self.records.note_orphan(host, seen, known).await {
                tracing::error!(sandbox = %seen.id, %host, %error, "could not note a destroyed orphan");
            }
        }
        true
    }

    /// Deletes the images that were to be deleted while the host could not be reached.
    async fn delete_images(&self, host: &HostId) -> Result<(), DbError> {
        for digest in self.records.pending_deletions(host).await? {
            match self.agents.delete_image(host, &digest).await {
                Ok(()) => self.records.deletion_done(host, &digest).await?,
                // This one is in use there; the others may not be.
                Err(error @ FleetError::Agent { .. }) => {
                    tracing::debug!(%host, digest, %error, "a pending deletion has to wait");
                }
                Err(error) => {
                    tracing::debug!(%host, digest, %error, "pending deletions have to wait");
                    break;
                }
            }
        }
        Ok(())
    }
}
