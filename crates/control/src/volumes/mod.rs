//! Volumes: files that outlive sandboxes, mounted into them by name.
//!
//! A volume lies on one host, in its pool, with a quota of its own: on the host of the sandbox that first mounted it.
//! From then on the sandboxes that mount it are placed there ([`hosts_of`] tells the scheduler). Where it lies and who has
//! it mounted is written in the transaction of the sandbox's row ([`attach`]), and a trigger takes a mount away when its
//! sandbox ends, so a volume is never deleted under a sandbox, nor mounted on two hosts. A create that failed gives the
//! choice of the host back ([`give_back`]).

pub mod store;
#[cfg(test)]
mod tests;
pub mod token;

use atoll_model::api::sandboxes;
use atoll_model::api::volumes::{Volume, VolumeMode};
use atoll_model::{HostId, SandboxId, TeamId, VolumeId};
use atoll_rpc::atoll::host::v1 as wire;
use serde_json::json;

use crate::audit::{self, Entry, Owner};
use crate::clock::Clock;
use crate::db::{Db, DbError, Text, Tx};
use crate::layers;
use crate::quotas::{self, Ask, Limits, QuotaError};
use store::VolumeRow;

/// Of one team.
pub const MAX_VOLUMES: i64 = 1000;
const MIB: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("there is no volume `{0}`")]
    NotFound(String),
    #[error("there is a volume `{0}` already")]
    NameTaken(String),
    #[error("the team has {MAX_VOLUMES} volumes already")]
    TooMany,
    #[error("sandboxes have the volume `{name}` mounted; destroy them first")]
    InUse { name: String, sandboxes: Vec<SandboxId> },
    /// Of an exclusive one.
    #[error("the volume `{name}` is exclusive, and a sandbox has it mounted")]
    Exclusive { name: String, sandboxes: Vec<SandboxId> },
    #[error("the volume `{0}` is named twice")]
    Twice(String),
    /// One sandbox can't be on two hosts.
    #[error("the volumes `{one}` and `{other}` lie on different hosts: no sandbox can have both")]
    Apart { one: String, other: String },
    #[error("the host of the volume `{0}` was deleted, and its files with it")]
    Lost(String),
    /// Another sandbox has just taken it to another host, or it was deleted.
    #[error("the volume `{0}` changed while the sandbox was being made; try again")]
    Changed(String),
    #[error(transparent)]
    Quota(#[from] QuotaError),
    #[error(transparent)]
    Db(#[from] DbError),
}

/// A volume that a sandbox is to have.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Its name or id.
    pub volume: String,
    pub path: String,
    pub read_only: bool,
}

/// The same, found.
#[derive(Debug, Clone)]
pub struct Mount {
    pub volume: VolumeRow,
    pub path: String,
    pub read_only: bool,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Volumes {
    db: Db,
    clock: Clock,
    quotas: Limits,
}

impl Volumes {
    #[must_use]
    pub fn new(db: Db, clock: Clock, quotas: Limits) -> Self {
        Self { db, clock, quotas }
    }

    /// Makes a volume. It takes room on no host until it is mounted; of the team's disk quota it takes its size.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub async fn create(
        &self,
        owner: &Owner,
        name: &str,
        size_mb: u64,
        mode: VolumeMode,
    ) -> Result<Volume, VolumeError> {
        let now = self.clock.now();
        let row = VolumeRow {
            id: Text(VolumeId::new()),
            team_id: Text(owner.team.clone()),
            name: name.to_owned(),
            mode: Text(mode),
            size_mb: i64::try_from(size_mb).unwrap_or(i64::MAX),
            host_id: None,
            created_by: owner.actor.id().map(str::to_owned),
            created_at: now,
            lost: false,
            tentative: false,
        };
        let mut tx = self.db.begin().await?;
        let ask = Ask { sandboxes: 0, vcpus: 0, memory_mb: 0, disk_mb: row.size_mb };
        quotas::reserve(&mut tx, &owner.team, &self.quotas, ask).await?;
        if store::count(&mut tx, &owner.team).await? >= MAX_VOLUMES {
            return Err(VolumeError::TooMany);
        }
        if !store::insert(&mut tx, &row).await? {
            return Err(VolumeError::NameTaken(name.to_owned()));
        }
        let details = json!({ "name": name, "size_mb": size_mb, "mode": mode.as_str() });
        audit::record(&mut tx, now, &entry(owner, "volume.create", &row, details)).await?;
        tx.commit().await?;
        Ok(row.to_api(Vec::new()))
    }

    /// Deletes a volume, by name or id, with its files; refused while a sandbox has it mounted. Answers its id, which
    /// hosts have yet to be told.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub async fn delete(&self, owner: &Owner, name_or_id: &str) -> Result<VolumeId, VolumeError> {
        let missing = || VolumeError::NotFound(name_or_id.to_owned());
        let row = store::find(&self.db, &owner.team, name_or_id).await?.ok_or_else(missing)?;
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        store::lock(&mut tx, &row.id).await?;
        let sandboxes = store::users_of(&mut tx, &row.id).await?;
        if !sandboxes.is_empty() {
            return Err(VolumeError::InUse { name: row.name, sandboxes });
        }
        if !store::delete(&mut tx, &row.id).await? {
            return Err(missing());
        }
        layers::store::note_everywhere(&mut tx, row.id.as_str(), now).await?;
        let details = json!({ "name": row.name });
        audit::record(&mut tx, now, &entry(owner, "volume.delete", &row, details)).await?;
        tx.commit().await?;
        Ok(row.id.0)
    }

    /// A team's volume with who has it mounted.
    ///
    /// # Errors
    /// The database's.
    pub async fn shown(&self, rows: Vec<VolumeRow>, team: &TeamId) -> Result<Vec<Volume>, DbError> {
        let users = store::users(&self.db, team).await?;
        let of = |row: &VolumeRow| {
            let users = users.iter().filter(|(volume, _)| volume.0 == row.id.0);
            users.map(|(_, sandbox)| sandbox.0.clone()).collect()
        };
        Ok(rows.iter().map(|row| row.to_api(of(row))).collect())
    }
}

/// What is wished, found among the team's volumes.
///
/// # Errors
/// [`VolumeError`].
pub async fn find_all(db: &Db, team: &TeamId, wishes: &[Wish]) -> Result<Vec<Mount>, VolumeError> {
    let mut mounts: Vec<Mount> = Vec::with_capacity(wishes.len());
    for wish in wishes {
        let found = store::find(db, team, &wish.volume).await?;
        let volume = found.ok_or_else(|| VolumeError::NotFound(wish.volume.clone()))?;
        if volume.lost {
            return Err(VolumeError::Lost(volume.name));
        }
        if mounts.iter().any(|other| other.volume.id.0 == volume.id.0) {
            return Err(VolumeError::Twice(volume.name));
        }
        mounts.push(Mount { volume, path: wish.path.clone(), read_only: wish.read_only });
    }
    Ok(mounts)
}

/// What a sandbox has mounted.
///
/// # Errors
/// The database's.
pub async fn of_sandbox(db: &Db, sandbox: &SandboxId) -> Result<Vec<Mount>, DbError> {
    let rows = store::mounts(db, sandbox).await?;
    let mount = |row: store::MountRow| Mount { volume: row.volume, path: row.path, read_only: row.read_only };
    Ok(rows.into_iter().map(mount).collect())
}

/// The one host that has all of these; none when they lie nowhere yet.
///
/// # Errors
/// When they lie on two.
pub fn hosts_of(mounts: &[Mount]) -> Result<Option<HostId>, VolumeError> {
    let mut first: Option<(&Mount, &HostId)> = None;
    for (mount, host) in mounts.iter().filter_map(|mount| Some((mount, &mount.volume.host_id.as_ref()?.0))) {
        match first {
            Some((other, its)) if its != host => {
                let (one, other) = (other.volume.name.clone(), mount.volume.name.clone());
                return Err(VolumeError::Apart { one, other });
            }
            _ => first = Some((mount, host)),
        }
    }
    Ok(first.map(|(_, host)| host.clone()))
}

/// Notes in the transaction of a new sandbox's row what it has mounted, and that the volumes lie on its host.
///
/// # Errors
/// [`VolumeError`].
pub async fn attach(tx: &mut Tx, sandbox: &SandboxId, host: &HostId, mounts: &[Mount]) -> Result<(), VolumeError> {
    for mount in mounts {
        let volume = &mount.volume;
        store::lock(tx, &volume.id).await?;
        if !store::bind(tx, &volume.id, host, sandbox).await? {
            return Err(VolumeError::Changed(volume.name.clone()));
        }
        if volume.mode.0 == VolumeMode::Exclusive {
            let sandboxes = store::users_of(tx, &volume.id).await?;
            if !sandboxes.is_empty() {
                return Err(VolumeError::Exclusive { name: volume.name.clone(), sandboxes });
            }
        }
        store::mount(tx, &volume.id, sandbox, &mount.path, mount.read_only).await?;
    }
    Ok(())
}

/// A sandbox could not be made on the host that it was placed on, and is tried on another one: what lay nowhere before
/// it goes along. False when something had to stay.
///
/// # Errors
/// The database's.
pub async fn move_along(db: &Db, sandbox: &SandboxId, host: &HostId, mounts: &[Mount]) -> Result<bool, DbError> {
    let mut tx = db.begin().await?;
    store::unbind(&mut tx, sandbox).await?;
    for mount in mounts {
        if !store::bind(&mut tx, &mount.volume.id, host, sandbox).await? {
            return Ok(false);
        }
    }
    tx.commit().await?;
    Ok(true)
}

/// Files are put into a volume without a sandbox: it stays on its host, whatever becomes of the sandbox that it came there
/// for, and lies here from now on when it lay nowhere. Answers its host; none when the volume is gone.
///
/// # Errors
/// The database's.
pub async fn settle(db: &Db, volume: &VolumeId, here: &HostId) -> Result<Option<HostId>, DbError> {
    let mut tx = db.begin().await?;
    store::lock(&mut tx, volume).await?;
    let host = store::settle(&mut tx, volume, here).await?;
    tx.commit().await?;
    Ok(host)
}

/// A sandbox never came to life: what lay nowhere before it lies nowhere again.
///
/// # Errors
/// The database's.
pub async fn give_back(db: &Db, sandbox: &SandboxId) -> Result<(), DbError> {
    let mut tx = db.begin().await?;
    store::unbind(&mut tx, sandbox).await?;
    tx.commit().await
}

/// As a sandbox shows them, by path.
#[must_use]
pub fn shown_in(mounts: &[Mount]) -> Vec<sandboxes::Mount> {
    let one = |mount: &Mount| sandboxes::Mount {
        volume_id: mount.volume.id.0.clone(),
        volume: mount.volume.name.clone(),
        path: mount.path.clone(),
        read_only: mount.read_only,
    };
    let mut shown: Vec<_> = mounts.iter().map(one).collect();
    shown.sort_by(|one, other| one.path.cmp(&other.path));
    shown
}

/// As hosts are told.
#[must_use]
pub fn to_wire(mounts: &[Mount]) -> Vec<wire::VolumeMount> {
    let one = |mount: &Mount| wire::VolumeMount {
        id: mount.volume.id.to_string(),
        path: mount.path.clone(),
        size_bytes: u64::try_from(mount.volume.size_mb).unwrap_or(0).saturating_mul(MIB),
        read_only: mount.read_only,
        exclusive: mount.volume.mode.0 == VolumeMode::Exclusive,
        ..Default::default()
    };
    mounts.iter().map(one).collect()
}

fn entry<'a>(owner: &'a Owner, action: &'static str, row: &'a VolumeRow, details: serde_json::Value) -> Entry<'a> {
    Entry {
        team: Some(&owner.team),
        actor: &owner.actor,
        origin: &owner.origin,
        action,
        target_kind: "volume",
        target_id: Some(row.id.as_str()),
        result: "ok",
        details,
    }
}
