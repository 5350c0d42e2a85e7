//! Moving paused sandboxes away from hosts that are drained.
//!
//! 1. The move is written down ([`store`], `sandbox_moves`), with the sandbox's generation: it ends when that changes, or
//!    when the sandbox is paused no more (a trigger), whoever did it.
//! 2. Its files, and the memory of a virtual machine, become a layer on its host, as for a snapshot, held for the move; that
//!    and all that it stands on goes into the object store.
//! 3. A host is picked, and written down with a new generation. It is asked to make the sandbox *at rest*: record, volume
//!    and environment, no process. From then on `reconcile` takes what is there for no orphan.
//! 4. In one transaction: the row goes to that host, the sandbox stands on those layers, audit entry and event.
//! 5. The former host is told to destroy its copy. If that gets lost, `reconcile` finds a sandbox whose row is elsewhere.
//!
//! Before 4 the sandbox is where it was, and whatever was made elsewhere is destroyed as an orphan; after it, it is at its new
//! place, and the former copy is the orphan. So a crash anywhere leaves one sandbox. Its id, tokens, policy and names stay;
//! what a
//! container had in memory does not come along (`kept: files`), that of a virtual machine does, to a host whose machines run
//! on the same (`kept: memory`). The environment, secrets among it, passes through control and
//! is written down nowhere on the way.
//!
//! What can't move says why, in `GET /v1/hosts/{id}/drain`: sandboxes whose volumes lie on the host, and machines that could
//! go on nowhere else.

pub mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_model::{HostId, HostType, SandboxStatus};
use atoll_rpc::atoll::host::v1::{CreateSandboxRequest, ReadEnvironmentRequest, SandboxState};
use atoll_rpc::connectrpc::client::CallOptions;
use futures::{FutureExt, StreamExt};
use serde_json::json;

use self::store::Move;
use super::ground::{Ground, spec};
use super::store as rows;
use super::{HOST_DEADLINE, Owner, SandboxError, SandboxRecord, Sandboxes};
use crate::audit::{self, Actor, Entry, Origin};
use crate::db::{DbError, Text};
use crate::fleet::{Demand, FleetError};
use crate::layers::{self, LayerError, LayerRow, Wanted};
use crate::{hosts, teams, volumes};

/// Moved at once: each has a host pack, and another fetch.
const AT_ONCE: usize = 4;
/// Looked at in one round.
const BATCH: i64 = 16;
/// After the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LAST_PAUSE: Duration = Duration::from_secs(300);
const HOPELESS_PAUSE: Duration = Duration::from_secs(3600);
/// Of those for which there is no host: another may come at any time.
const NO_HOST_PAUSE: Duration = Duration::from_secs(15);
const READ_DEADLINE: Duration = Duration::from_secs(20);

/// Why a sandbox did not move.
#[derive(Debug, thiserror::Error)]
enum Stays {
    #[error("its volumes lie on this host")]
    Volumes,
    #[error("it was made on a team's own machine, and may not be loaded on others")]
    NotElsewhere,
    /// Resumed, deleted or changed meanwhile.
    #[error("it changed while it was on its way")]
    Changed,
    #[error(transparent)]
    Layers(#[from] LayerError),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The host that it is to leave did not do its part.
    #[error("the host that it is on did not do its part: {0}")]
    Former(#[source] FleetError),
    /// The host that it was to go to.
    #[error("its new place could not be made: {0}")]
    New(#[source] FleetError),
    /// An agent of an older version, which makes nothing that stands still.
    #[error("the agent of {0} can't take a sandbox that stands still: update it")]
    TooOld(HostId),
    #[error(transparent)]
    Db(#[from] DbError),
}

fn cause(error: &FleetError) -> String {
    match error {
        FleetError::Agent { message, .. } => message.clone(),
        FleetError::Unavailable { cause, .. } => cause.to_string(),
        other => other.to_string(),
    }
}

impl Stays {
    /// For whoever drains the host: no more than a line.
    fn problem(&self) -> String {
        let text = match self {
            Self::Layers(LayerError::Host(error)) | Self::Former(error) => {
                format!("the host that it is on did not do its part: {}", cause(error))
            }
            Self::New(error) => format!("its new place could not be made: {}", cause(error)),
            other => other.to_string(),
        };
        text.chars().filter(|letter| !letter.is_control()).take(300).collect()
    }

    fn pause(&self, attempts: i64) -> Duration {
        match self {
            Self::Volumes | Self::NotElsewhere => LAST_PAUSE,
            // What can't be packed now can't be packed in five minutes.
            Self::Layers(error) if layers::never_will(error) => HOPELESS_PAUSE,
            Self::Sandbox(SandboxError::NoHost(_)) => NO_HOST_PAUSE,
            _ => {
                let doubled = u32::try_from(attempts.clamp(0, 16)).unwrap_or(16);
                FIRST_PAUSE.saturating_mul(1 << doubled).min(LAST_PAUSE)
            }
        }
    }
}

impl Sandboxes {
    /// Something paused may have to leave its host.
    pub fn nudge_moves(&self) {
        self.moves.notify_one();
    }

    /// Waits until something paused may have to leave its host.
    pub async fn moves_due(&self) {
        self.moves.notified().await;
    }

    /// Moves what is paused on hosts that are drained, once around. How many moved. What its host has paused for loss of
    /// contact is not for it where that is resumed on reconnect.
    ///
    /// # Errors
    /// The database's. What can't move is noted with its reason.
    pub async fn move_due(&self, resumes_on_reconnect: bool) -> Result<usize, DbError> {
        if store::any(&self.db).await? {
            store::end_needless(&self.db).await?;
        }
        let due = store::due(&self.db, self.clock.now(), resumes_on_reconnect, BATCH).await?;
        let moves = due.into_iter().map(|id| async move { self.move_one(&id.0).await }.boxed());
        let moves: Vec<_> = futures::stream::iter(moves).buffer_unordered(AT_ONCE).collect().await;
        let mut moved = 0;
        for one in moves {
            moved += usize::from(one?);
        }
        Ok(moved)
    }

    /// How long it is until one that could not move is tried again; none when none waits.
    ///
    /// # Errors
    /// The database's.
    pub async fn next_move(&self) -> Result<Option<Duration>, DbError> {
        let now = self.clock.now();
        Ok(store::next(&self.db, now).await?.map(|at| at.since(now)))
    }

    /// Whether it moved.
    async fn move_one(&self, id: &atoll_model::SandboxId) -> Result<bool, DbError> {
        let Some(record) = rows::get_any(&self.db, id).await? else { return Ok(false) };
        if record.status() != SandboxStatus::Paused {
            return Ok(false);
        }
        let found = match store::find(&self.db, &record).await? {
            Some(found) => Some(found),
            None => store::begin(&self.db, &record, self.clock.now()).await?,
        };
        let Some(mut it) = found else { return Ok(false) };
        match self.carry(&mut it, record).await {
            Ok(()) => Ok(true),
            Err(Stays::Db(error)) => Err(error),
            Err(stays) => {
                tracing::info!(sandbox = %id, reason = %stays, "a paused sandbox has not left its host yet");
                let again = self.clock.now() + stays.pause(it.attempts);
                store::set_problem(&self.db, &it, &stays.problem(), again).await?;
                Ok(false)
            }
        }
    }

    async fn carry(&self, it: &mut Move, record: SandboxRecord) -> Result<(), Stays> {
        let from = record.host().cloned().ok_or(Stays::Changed)?;
        if !volumes::of_sandbox(&self.db, &record.id).await?.is_empty() {
            return Err(Stays::Volumes);
        }
        let owner = self.owner_of(&record).await?;
        let mut demand = demand(&owner, &record, &from);
        // Before anything is packed for nothing.
        self.placer.place(&demand).await?;
        let chain = self.files_of(it, &record, &from, &owner).await?;
        let allowed = layers::allowed(&chain, &owner.team, owner.team_is_byoc);
        let pinned = allowed.and_then(|()| layers::pinned(&chain));
        if pinned.map_err(|_| Stays::NotElsewhere)?.is_some() {
            return Err(Stays::Layers(LayerError::Elsewhere));
        }
        let env = self.environment_of(&record, &from).await.map_err(Stays::Former)?;
        let template = self.template_of(&record, &owner).await?;
        let filling = record.network.what_can_be_filled(&self.secrets, &owner.team).await;
        let filling = filling.map_err(SandboxError::from)?;
        let ground = Ground { template: &template, layers: &chain, mounts: &[], filling: &filling };
        let memory = chain.first().filter(|top| top.memory);
        demand.vm_version = memory.and_then(|top| top.vm_version.clone());
        let kept = if memory.is_some() { "memory" } else { "files" };
        let to = self.placer.place(&demand).await?;
        crate::failpoint!("control::move::before_aim");
        let mut tx = self.db.begin().await?;
        let (aimed, record) = store::aim(&mut tx, it, &to).await?.ok_or(Stays::Changed)?;
        tx.commit().await?;
        *it = aimed;
        crate::failpoint!("control::move::before_host");
        if let Err(error) = self.make_at_rest(&record, &to, env, &ground).await {
            self.placer.failed(&to);
            self.take_back(&record, &to).await;
            return Err(error);
        }
        crate::failpoint!("control::move::after_host");
        match self.arrive(it, &record, (&from, &to), &chain, kept).await {
            Ok(moved) => {
                crate::failpoint!("control::move::after_row");
                tracing::info!(sandbox = %moved.id.0, %from, %to, kept, "a paused sandbox has moved");
                self.tell_host_to_destroy(&from, &moved, "moved").await;
                self.layers.nudge();
                Ok(())
            }
            // Whether that was written down is not known, so nothing is destroyed: the next round, or `reconcile`, sees
            // which of the two is the orphan.
            Err(error @ Stays::Db(_)) => Err(error),
            Err(error) => {
                self.take_back(&record, &to).await;
                Err(error)
            }
        }
    }

    /// On whose behalf it is control's own to move it.
    async fn owner_of(&self, record: &SandboxRecord) -> Result<Owner, DbError> {
        let team_is_byoc = teams::store::is_byoc(&self.db, &record.team_id).await?.unwrap_or(false);
        let (team, actor, origin) = (record.team_id.0.clone(), Actor::System, Origin::default());
        Ok(Owner { team, team_is_byoc, team_network: None, actor, origin })
    }

    /// The layers that its files are, all of them stored, topmost first. Made once for a move.
    async fn files_of(
        &self,
        it: &Move,
        record: &SandboxRecord,
        from: &HostId,
        owner: &Owner,
    ) -> Result<Vec<LayerRow>, Stays> {
        let holder = it.holder();
        let mut chain = self.layers.chain(&holder).await?;
        if chain.is_empty() {
            let host = hosts::store::get(&self.db, from).await?.ok_or(Stays::Changed)?;
            let byoc = host.kind.0 == HostType::Byoc;
            let wanted = Wanted { memory: record.can_keep_memory(), children: 0 };
            let made = self.layers.make(&owner.team, byoc, &record.id, from, wanted).await?;
            chain = self.layers.over(&record.id, made).await?;
            let mut tx = self.db.begin().await?;
            if !store::hold(&mut tx, it).await? {
                return Err(Stays::Changed);
            }
            layers::stand(&mut tx, &holder, &chain).await?;
            tx.commit().await?;
        }
        crate::failpoint!("control::move::before_store");
        for layer in chain.iter().filter(|layer| !layer.stored) {
            self.layers.store(layer).await?;
        }
        Ok(self.layers.chain(&holder).await?)
    }

    /// What its programs get, as its host alone knows it.
    async fn environment_of(
        &self,
        record: &SandboxRecord,
        from: &HostId,
    ) -> Result<BTreeMap<String, String>, FleetError> {
        let request = ReadEnvironmentRequest { id: record.id.to_string(), ..Default::default() };
        let options = CallOptions::default().with_timeout(READ_DEADLINE);
        let answer = self.fleet.host_client(from).read_environment_with_options(request, options).await;
        let answer = answer.map_err(|error| FleetError::from_rpc(from, "read a sandbox's environment", error))?;
        Ok(answer.into_owned().env.into_iter().collect())
    }

    async fn make_at_rest(
        &self,
        record: &SandboxRecord,
        to: &HostId,
        env: BTreeMap<String, String>,
        ground: &Ground<'_>,
    ) -> Result<(), Stays> {
        let mut spec = spec(record, BTreeMap::new(), ground);
        // Its host has said all of it, the template's too.
        spec.env = env.into_iter().collect();
        let request = CreateSandboxRequest {
            id: record.id.to_string(),
            generation: record.host_generation(),
            spec: spec.into(),
            at_rest: record.reason.clone().filter(|reason| !reason.is_empty()).unwrap_or_else(|| "user".to_owned()),
            ..Default::default()
        };
        let options = CallOptions::default().with_timeout(HOST_DEADLINE);
        let answer = self.fleet.host_client(to).create_sandbox_with_options(request, options).await;
        let answer = answer.map_err(|error| FleetError::from_rpc(to, "make a sandbox that moves there", error));
        let made = answer.map_err(Stays::New)?.into_owned().sandbox.into_option().unwrap_or_default();
        if made.state.as_known() != Some(SandboxState::SANDBOX_STATE_PAUSED) {
            return Err(Stays::TooOld(to.clone()));
        }
        Ok(())
    }

    /// What a host may have made of an attempt that came to nothing. What it doesn't hear of is an orphan there.
    async fn take_back(&self, record: &SandboxRecord, to: &HostId) {
        let newer = SandboxRecord { generation: record.generation + 1, ..record.clone() };
        self.tell_host_to_destroy(to, &newer, "move_failed").await;
    }

    /// The row, and all that goes with it, to the new host.
    async fn arrive(
        &self,
        it: &Move,
        record: &SandboxRecord,
        (from, to): (&HostId, &HostId),
        chain: &[LayerRow],
        kept: &str,
    ) -> Result<SandboxRecord, Stays> {
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        if !store::hold(&mut tx, it).await? || !rows::takes_something_new(&mut tx, to).await? {
            return Err(Stays::Changed);
        }
        let moved = store::arrive(&mut tx, it, record, to).await?.ok_or(Stays::Changed)?;
        layers::store::release(&mut tx, record.id.as_str()).await?;
        layers::stand(&mut tx, record.id.as_str(), chain).await?;
        store::end(&mut tx, it).await?;
        if let Some(top) = chain.first().filter(|top| top.host_id.as_ref().map(|host| &host.0) == Some(from)) {
            store::take_along(&mut tx, top, to).await?;
            for what in [Some(top.id.as_str()), top.digest.as_deref()].into_iter().flatten() {
                layers::store::note_deletion(&mut tx, from, what, now).await?;
            }
        }
        let entry = Entry {
            team: Some(&record.team_id),
            actor: &Actor::System,
            origin: &Origin::default(),
            action: "sandbox.move",
            target_kind: "sandbox",
            target_id: Some(record.id.as_str()),
            result: "ok",
            details: json!({ "from": from, "to": to, "kept": kept, "because": "its host is drained" }),
        };
        audit::record(&mut tx, now, &entry).await?;
        store::tell(&mut tx, &moved, (from, kept), now).await?;
        crate::failpoint!("control::move::before_commit", Err(lost_connection()));
        tx.commit().await?;
        crate::failpoint!("control::move::unanswered", Err(lost_connection()));
        Ok(moved)
    }
}

/// What a commit says whose connection broke before the answer.
#[cfg(feature = "failpoints")]
fn lost_connection() -> Stays {
    Stays::Db(DbError::Statement { operation: "commit a transaction", source: sqlx::Error::WorkerCrashed })
}

fn demand(owner: &Owner, record: &SandboxRecord, from: &HostId) -> Demand {
    let size = |value: i64| u64::try_from(value).unwrap_or(0);
    Demand {
        team: owner.team.clone(),
        team_is_byoc: owner.team_is_byoc,
        driver: record.driver.clone(),
        vcpus: u32::try_from(record.vcpus).unwrap_or(1),
        memory_mb: size(record.memory_mb),
        disk_mb: size(record.disk_mb),
        image: Some(record.digest.clone()),
        vm_version: None,
        only: None,
        volumes_on: None,
        tried: vec![from.clone()],
    }
}

/// What whoever drains a host is told of one of its sandboxes.
#[must_use]
pub fn waits_for(staying: &store::Staying) -> String {
    match (staying.status.0, &staying.problem, &staying.to_host) {
        (SandboxStatus::Paused, _, Some(Text(host))) => format!("it is moving to {host}"),
        (SandboxStatus::Paused, Some(problem), None) => problem.clone(),
        (SandboxStatus::Paused, None, None) if staying.reason.as_deref() == Some("host_disconnected") => {
            "its host paused it for loss of contact; it goes on when that is back".to_owned()
        }
        (SandboxStatus::Paused, None, None) => "it waits for its turn to move".to_owned(),
        (SandboxStatus::Error, ..) => "it is in error: delete it".to_owned(),
        (SandboxStatus::Missing, ..) => "its host can't be seen".to_owned(),
        (status, ..) if status.is_transitional() => format!("it is {status}"),
        _ => "it runs; it moves when it is paused".to_owned(),
    }
}
