//! SQL of volumes and of who has them mounted.

use atoll_model::api::volumes::{Volume, VolumeMode};
use atoll_model::{HostId, SandboxId, TeamId, VolumeId};

use crate::db::{Db, DbError, During, Millis, Text, Tx, on};

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct VolumeRow {
    pub id: Text<VolumeId>,
    pub team_id: Text<TeamId>,
    pub name: String,
    pub mode: Text<VolumeMode>,
    pub size_mb: i64,
    pub host_id: Option<Text<HostId>>,
    pub created_by: Option<String>,
    pub created_at: Millis,
    /// Its host was deleted.
    pub lost: bool,
    /// It lies on its host for the sake of one sandbox, and no longer should that never come to life.
    pub tentative: bool,
}

impl VolumeRow {
    #[must_use]
    pub fn to_api(&self, sandboxes: Vec<SandboxId>) -> Volume {
        Volume {
            id: self.id.0.clone(),
            name: self.name.clone(),
            size_mb: u64::try_from(self.size_mb).unwrap_or(0),
            mode: self.mode.0,
            host_id: self.host_id.as_ref().map(|host| host.0.clone()),
            lost: self.lost,
            sandboxes,
            created_at: self.created_at.to_utc(),
        }
    }
}

macro_rules! columns {
    () => {
        "v.id, v.team_id, v.name, v.mode, v.size_mb, v.host_id, v.created_by, v.created_at, \
         (v.host_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM hosts h WHERE h.id = v.host_id)) AS lost, \
         (v.bound_by IS NOT NULL) AS tentative"
    };
}

/// Inserts a team's volume; nothing when it has one of that name.
pub(super) async fn insert(tx: &mut Tx, new: &VolumeRow) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO volumes (id, team_id, name, mode, size_mb, created_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (team_id, name) DO NOTHING"
    )
    .bind(new.id.as_str())
    .bind(new.team_id.as_str())
    .bind(&new.name)
    .bind(new.mode.0.as_str())
    .bind(new.size_mb)
    .bind(&new.created_by)
    .bind(new.created_at)
    .execute(c)
    .await
    .map(|done| done.rows_affected() > 0))
    .during("insert a volume")
}

pub(super) async fn count(tx: &mut Tx, team: &TeamId) -> Result<i64, DbError> {
    let row: (i64,) = on!(tx tx, |c| sqlx::query_as("SELECT COUNT(*) FROM volumes WHERE team_id = $1")
        .bind(team.as_str())
        .fetch_one(c)
        .await)
    .during("count a team's volumes")?;
    Ok(row.0)
}

/// A team's volume by name or id.
pub async fn find(db: &Db, team: &TeamId, name_or_id: &str) -> Result<Option<VolumeRow>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM volumes v WHERE v.team_id = $1 AND (v.name = $2 OR v.id = $2) \
         ORDER BY CASE WHEN v.id = $2 THEN 0 ELSE 1 END LIMIT 1"
    ))
    .bind(team.as_str())
    .bind(name_or_id)
    .fetch_optional(c)
    .await)
    .during("find a volume")
}

/// A page of a team's volumes, oldest first, after (`at`, `id`).
pub async fn list(db: &Db, team: &TeamId, after: (Millis, &str), limit: i64) -> Result<Vec<VolumeRow>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM volumes v WHERE v.team_id = $1 AND (v.created_at, v.id) > ($2, $3) ORDER BY v.created_at, v.id LIMIT $4"
    ))
    .bind(team.as_str())
    .bind(after.0)
    .bind(after.1)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("list volumes")
}

/// Sandboxes that have a team's volumes mounted.
pub async fn users(db: &Db, team: &TeamId) -> Result<Vec<(Text<VolumeId>, Text<SandboxId>)>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT m.volume_id, m.sandbox_id FROM volume_mounts m JOIN volumes v ON v.id = m.volume_id
         WHERE v.team_id = $1 ORDER BY m.sandbox_id"
    )
    .bind(team.as_str())
    .fetch_all(c)
    .await)
    .during("list who has volumes mounted")
}

/// Whoever else would mount or delete it waits. (SQLite has one writer at a time.)
pub(super) async fn lock(tx: &mut Tx, id: &VolumeId) -> Result<(), DbError> {
    let Tx::Postgres(c) = tx else { return Ok(()) };
    sqlx::query("SELECT id FROM volumes WHERE id = $1 FOR UPDATE")
        .bind(id.as_str())
        .execute(&mut **c)
        .await
        .map(|_| ())
        .during("lock a volume")
}

/// Sandboxes that have it mounted.
pub(super) async fn users_of(tx: &mut Tx, id: &VolumeId) -> Result<Vec<SandboxId>, DbError> {
    let rows: Vec<(Text<SandboxId>,)> =
        on!(tx tx, |c| sqlx::query_as("SELECT sandbox_id FROM volume_mounts WHERE volume_id = $1 ORDER BY sandbox_id")
            .bind(id.as_str())
            .fetch_all(c)
            .await)
        .during("look who has a volume mounted")?;
    Ok(rows.into_iter().map(|row| row.0.0).collect())
}

pub(super) async fn delete(tx: &mut Tx, id: &VolumeId) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query("DELETE FROM volumes WHERE id = $1")
        .bind(id.as_str())
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0))
    .during("delete a volume")
}

/// The volume lies on this host from now on, chosen by this sandbox if it lay nowhere. False when it lies on another,
/// or is gone.
pub(super) async fn bind(tx: &mut Tx, id: &VolumeId, host: &HostId, by: &SandboxId) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query(
        "UPDATE volumes SET bound_by = CASE WHEN host_id IS NULL THEN $3 ELSE NULL END, host_id = $2
         WHERE id = $1 AND (host_id IS NULL OR host_id = $2)"
    )
    .bind(id.as_str())
    .bind(host.as_str())
    .bind(by.as_str())
    .execute(c)
    .await
    .map(|done| done.rows_affected() > 0))
    .during("bind a volume to a host")
}

/// The volume lies where it is for good, and here when it lay nowhere. Answers its host; none when it is gone.
pub(super) async fn settle(tx: &mut Tx, id: &VolumeId, here: &HostId) -> Result<Option<HostId>, DbError> {
    let row: Option<(Text<HostId>,)> = on!(tx tx, |c| sqlx::query_as(
        "UPDATE volumes SET host_id = COALESCE(host_id, $2), bound_by = NULL WHERE id = $1 RETURNING host_id"
    )
    .bind(id.as_str())
    .bind(here.as_str())
    .fetch_optional(c)
    .await)
    .during("settle a volume on a host")?;
    Ok(row.map(|row| row.0.0))
}

/// What lies on a host for this sandbox alone, which never came to life there, lies nowhere again.
pub(super) async fn unbind(tx: &mut Tx, by: &SandboxId) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("UPDATE volumes SET host_id = NULL, bound_by = NULL WHERE bound_by = $1")
        .bind(by.as_str())
        .execute(c)
        .await
        .map(|_| ()))
    .during("unbind volumes from a host")
}

pub(super) async fn mount(
    tx: &mut Tx,
    id: &VolumeId,
    sandbox: &SandboxId,
    path: &str,
    read_only: bool,
) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO volume_mounts (sandbox_id, path, volume_id, read_only) VALUES ($1, $2, $3, $4)"
    )
    .bind(sandbox.as_str())
    .bind(path)
    .bind(id.as_str())
    .bind(read_only)
    .execute(c)
    .await
    .map(|_| ()))
    .during("note a mounted volume")
}

/// A sandbox's volume, where it is mounted and how.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct MountRow {
    #[sqlx(flatten)]
    pub volume: VolumeRow,
    pub path: String,
    pub read_only: bool,
}

pub(super) async fn mounts(db: &Db, sandbox: &SandboxId) -> Result<Vec<MountRow>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        ", m.path, m.read_only FROM volume_mounts m JOIN volumes v ON v.id = m.volume_id \
         WHERE m.sandbox_id = $1 ORDER BY m.path"
    ))
    .bind(sandbox.as_str())
    .fetch_all(c)
    .await)
    .during("read a sandbox's volumes")
}
