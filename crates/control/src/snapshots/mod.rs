//! Snapshots: the files of a sandbox at one moment, under a name. Sandboxes are created from one as from a template.
//!
//! A snapshot's row is a template's, of another kind: it names the image below and, by reference, the layers above.
//! Taking one copies nothing while the sandbox waits; its layers are stored behind everybody's back (`layers`).
//! Deleting one takes the name away; its files go when nobody stands on them any more.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use atoll_model::api::snapshots::Snapshot;
use atoll_model::{SandboxId, TemplateId};
use serde_json::json;
use sqlx::types::Json;

use crate::audit::{self, Entry};
use crate::clock::Clock;
use crate::db::{Db, DbError, Text, Tx};
use crate::layers::{self, LayerRow, Layers, Wanted};
use crate::sandboxes::{MadeOf, Owner, SandboxError, SandboxRecord, Sandboxes, store as sandboxes};
use crate::templates::store::{self as templates, Template};

pub const KIND: &str = "snapshot";

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("there is no such snapshot")]
    NotFound,
    #[error("`{0}` is the platform's: only its operator can change it")]
    Platform(String),
    #[error("the sandbox is a container, of which files alone can be kept")]
    NoMemory,
    #[error("there is a snapshot or template `{0}` already")]
    NameTaken(String),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("the work on the snapshot ended without an answer")]
    Interrupted,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Snapshots {
    db: Db,
    clock: Clock,
    sandboxes: Sandboxes,
    layers: Layers,
}

impl Snapshots {
    #[must_use]
    pub fn new(db: Db, clock: Clock, sandboxes: Sandboxes, layers: Layers) -> Self {
        Self { db, clock, sandboxes, layers }
    }

    /// Takes a snapshot of a running or paused sandbox. `overwrite` lets it take the place of one of that name. Memory is
    /// kept too if that is wanted, or, when nothing is said, if it can be.
    pub async fn create(
        &self,
        owner: &Owner,
        sandbox: &SandboxId,
        name: Option<String>,
        overwrite: bool,
        memory: Option<bool>,
    ) -> Result<Snapshot, SnapshotError> {
        let record = sandboxes::get(&self.db, &owner.team, sandbox).await?.ok_or(SandboxError::NotFound)?;
        let can = record.can_keep_memory();
        if memory == Some(true) && !can {
            return Err(SnapshotError::NoMemory);
        }
        let (service, owner, memory) = (self.clone(), owner.clone(), memory.unwrap_or(can));
        let taking = async move { service.take(&owner, record, name, overwrite, memory).await };
        let task = self.sandboxes.tasks().spawn(taking);
        task.await.map_err(|_| SnapshotError::Interrupted)?
    }

    async fn take(
        &self,
        owner: &Owner,
        record: SandboxRecord,
        name: Option<String>,
        overwrite: bool,
        memory: bool,
    ) -> Result<Snapshot, SnapshotError> {
        let id = TemplateId::new();
        let name = name.unwrap_or_else(|| format!("snapshot-{}", &id.tail()[..8]));
        // Asked before the sandbox's host is, and again in the transaction.
        self.may_take(&name, owner, overwrite).await?;
        let wanted = Wanted { memory, ..Wanted::default() };
        let (made, _) = self.sandboxes.keep(owner, &record, "take a snapshot of", wanted).await?;
        let size_bytes = made.layer.size_bytes;
        let chain = self.sandboxes.layers().over(&record.id, made).await.map_err(SandboxError::from)?;
        let made_of = match sandboxes::made_of(&self.db, &record.id).await? {
            Some(made_of) => Some(made_of),
            None => {
                let origin = templates::find(&self.db, record.template_id.as_str(), &owner.team).await?;
                origin.as_ref().map(MadeOf::of)
            }
        };
        let made_of = made_of.unwrap_or_else(|| MadeOf {
            user: "root".to_owned(),
            workdir: "/".to_owned(),
            env: BTreeMap::new(),
            start_cmd: None,
            ready_cmd: None,
        });
        let now = self.clock.now();
        let row = Template {
            id: Text(id),
            team_id: Some(Text(owner.team.clone())),
            name,
            digest: record.digest.clone(),
            size_bytes,
            driver: record.driver.clone(),
            vcpus: Some(record.vcpus),
            memory_mb: Some(record.memory_mb),
            disk_mb: Some(record.disk_mb),
            default_user: made_of.user,
            default_workdir: made_of.workdir,
            env: Json(made_of.env),
            start_cmd: made_of.start_cmd,
            ready_cmd: made_of.ready_cmd,
            kind: KIND.to_owned(),
            public: false,
            created_at: now,
            updated_at: now,
        };
        let mut tx = self.db.begin().await?;
        if let Some(old) = templates::own(&mut tx, &row.name, &owner.team).await? {
            if !overwrite || old.kind != KIND {
                return Err(SnapshotError::NameTaken(row.name));
            }
            remove(&mut tx, &old).await?;
        }
        if !templates::insert(&mut tx, &row, owner.actor.id(), Some(record.id.as_str())).await? {
            return Err(SnapshotError::NameTaken(row.name));
        }
        layers::stand(&mut tx, row.id.as_str(), &chain).await.map_err(SandboxError::from)?;
        let details = json!({ "name": row.name, "sandbox": record.id.as_str() });
        audit::record(&mut tx, now, &entry(owner, "snapshot.create", row.id.as_str(), details)).await?;
        tx.commit().await?;
        crate::failpoint!("control::snapshot::after_row");
        self.layers.nudge();
        Ok(to_api(&row, &chain))
    }

    async fn may_take(&self, name: &str, owner: &Owner, overwrite: bool) -> Result<(), SnapshotError> {
        match templates::find(&self.db, name, &owner.team).await? {
            Some(found) if found.team_id.is_some() && !(overwrite && found.kind == KIND) => {
                Err(SnapshotError::NameTaken(name.to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Deletes a team's snapshot, by name or id. Sandboxes that were made from it live on.
    pub async fn delete(&self, owner: &Owner, name_or_id: &str) -> Result<(), SnapshotError> {
        let mut tx = self.db.begin().await?;
        let Some(row) = templates::own(&mut tx, name_or_id, &owner.team).await?.filter(|row| row.kind == KIND) else {
            drop(tx);
            return match templates::find(&self.db, name_or_id, &owner.team).await? {
                Some(platform) if platform.team_id.is_none() => Err(SnapshotError::Platform(platform.name)),
                _ => Err(SnapshotError::NotFound),
            };
        };
        remove(&mut tx, &row).await?;
        let details = json!({ "name": row.name });
        audit::record(&mut tx, self.clock.now(), &entry(owner, "snapshot.delete", row.id.as_str(), details)).await?;
        tx.commit().await?;
        self.layers.nudge();
        Ok(())
    }

    /// A snapshot with what it stands on, for the answer.
    pub async fn shown(&self, row: &Template) -> Result<Snapshot, DbError> {
        Ok(to_api(row, &self.layers.chain(row.id.as_str()).await?))
    }
}

/// The row and what it stands on.
async fn remove(tx: &mut Tx, row: &Template) -> Result<(), DbError> {
    layers::store::release(tx, row.id.as_str()).await?;
    templates::delete(tx, &row.id.0).await
}

fn entry<'a>(owner: &'a Owner, action: &'static str, target: &'a str, details: serde_json::Value) -> Entry<'a> {
    Entry {
        team: Some(&owner.team),
        actor: &owner.actor,
        origin: &owner.origin,
        action,
        target_kind: "snapshot",
        target_id: Some(target),
        result: "ok",
        details,
    }
}

fn to_api(row: &Template, chain: &[LayerRow]) -> Snapshot {
    let size = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0);
    Snapshot {
        id: row.id.0.clone(),
        name: row.name.clone(),
        kind: if chain.first().is_some_and(|top| top.memory) { "memory" } else { "files" }.to_owned(),
        vcpus: u32::try_from(size(row.vcpus)).unwrap_or(0),
        memory_mb: size(row.memory_mb),
        disk_mb: size(row.disk_mb),
        size_bytes: size(Some(row.size_bytes)),
        stored: chain.iter().all(|layer| layer.stored),
        lost: chain.iter().any(|layer| layer.lost),
        problem: chain.iter().filter(|layer| !layer.stored).find_map(|layer| layer.problem.clone()),
        created_at: row.created_at.to_utc(),
        platform: row.team_id.is_none(),
    }
}
