//! SQL of hosts: reading them, and the changes that belong to no other subject.

use atoll_model::api::hosts::{Host, SandboxCounts};
use atoll_model::{HostId, HostStatus, HostType, TeamId, UserId};
use sqlx::types::Json;

use crate::db::{Db, DbError, During, Millis, Text, Tx, on};

/// A host's row.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct HostRow {
    pub id: Text<HostId>,
    pub name: String,
    #[sqlx(rename = "type")]
    pub kind: Text<HostType>,
    pub team_id: Option<Text<TeamId>>,
    pub provider: Option<String>,
    pub availability_zone: Option<String>,
    pub status: Text<HostStatus>,
    pub status_changed_at: Millis,
    pub draining: bool,
    pub arch: Option<String>,
    pub cpu_cores: Option<i64>,
    pub memory_mb: Option<i64>,
    pub disk_gb: Option<i64>,
    pub address: Option<String>,
    pub agent_version: Option<String>,
    pub vm_version: Option<String>,
    /// Sorted, no two the same.
    pub tags: Json<Vec<String>>,
    /// Hex of the SPKI that it registered.
    pub public_key: Option<String>,
    pub certificate_fingerprint: Option<String>,
    pub credential_family: Option<String>,
    pub sandboxes_running: i64,
    pub sandboxes_paused: i64,
    pub sandboxes_other: i64,
    pub last_heartbeat_at: Option<Millis>,
    /// Set: it is being deleted.
    pub deletion_id: Option<String>,
    pub deletion_requested_by: Option<Text<UserId>>,
    pub created_by: Option<Text<UserId>>,
    pub created_at: Millis,
    pub updated_at: Millis,
}

macro_rules! columns {
    () => {
        "id, name, type, team_id, provider, availability_zone, status, status_changed_at, draining, arch, cpu_cores, memory_mb, disk_gb, \
         address, agent_version, vm_version, tags, public_key, certificate_fingerprint, credential_family, sandboxes_running, \
         sandboxes_paused, sandboxes_other, last_heartbeat_at, deletion_id, deletion_requested_by, created_by, created_at, updated_at"
    };
}

/// All hosts with their teams' names, to be followed by conditions (`AND ...`).
pub const ALL_WITH_TEAM: &str = concat!(
    "SELECT ",
    columns!(),
    ", (SELECT t.name FROM teams t WHERE t.id = h.team_id) AS team_name FROM hosts h WHERE 1 = 1"
);

/// What a new host is made of.
#[derive(Debug, Clone)]
pub struct NewHost {
    pub id: HostId,
    pub name: String,
    pub kind: HostType,
    pub team: Option<TeamId>,
    pub provider: Option<String>,
    pub availability_zone: Option<String>,
    pub created_by: Option<UserId>,
}

impl HostRow {
    /// As the API shows it, but for the team's name.
    #[must_use]
    pub fn to_api(&self) -> Host {
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        let count = |value: i64| u32::try_from(value).unwrap_or(0);
        Host {
            id: self.id.0.clone(),
            name: self.name.clone(),
            draining: self.draining,
            drained: false,
            kind: self.kind.0,
            team_id: self.team_id.as_ref().map(|team| team.0.clone()),
            team_name: None,
            provider: self.provider.clone(),
            availability_zone: self.availability_zone.clone(),
            arch: self.arch.clone(),
            cpu_cores: self.cpu_cores.map(count),
            memory_mb: self.memory_mb.map(number),
            disk_gb: self.disk_gb.map(number),
            address: self.address.clone(),
            status: self.status.0,
            agent_version: self.agent_version.clone(),
            vm_version: self.vm_version.clone(),
            tags: self.tags.0.clone(),
            sandbox_counts: SandboxCounts {
                running: count(self.sandboxes_running),
                paused: count(self.sandboxes_paused),
                other: count(self.sandboxes_other),
            },
            last_heartbeat_at: self.last_heartbeat_at.map(Millis::to_utc),
            created_by: self.created_by.as_ref().map(|user| user.0.clone()),
            created_at: self.created_at.to_utc(),
            updated_at: self.updated_at.to_utc(),
        }
    }
}

pub async fn get(db: &Db, host: &HostId) -> Result<Option<HostRow>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!("SELECT ", columns!(), " FROM hosts WHERE id = $1"))
        .bind(host.as_str())
        .fetch_optional(c)
        .await)
    .during("read a host")
}

/// Reads the host inside a transaction and keeps everybody else from changing it until the end.
pub async fn lock(tx: &mut Tx, host: &HostId) -> Result<Option<HostRow>, DbError> {
    const PLAIN: &str = concat!("SELECT ", columns!(), " FROM hosts WHERE id = $1");
    const LOCKING: &str = concat!("SELECT ", columns!(), " FROM hosts WHERE id = $1 FOR UPDATE");
    // SQLite has one writer at a time, so a transaction is its own lock.
    match tx {
        Tx::Sqlite(c) => sqlx::query_as(PLAIN).bind(host.as_str()).fetch_optional(&mut **c).await,
        Tx::Postgres(c) => sqlx::query_as(LOCKING).bind(host.as_str()).fetch_optional(&mut **c).await,
    }
    .during("lock a host")
}

/// Hosts by id, after `after`: all of them, or one team's. The team's name goes along.
pub async fn list(
    db: &Db,
    team: Option<&TeamId>,
    after: &str,
    limit: i64,
) -> Result<Vec<(HostRow, Option<String>)>, DbError> {
    #[derive(sqlx::FromRow)]
    struct Named {
        #[sqlx(flatten)]
        host: HostRow,
        team_name: Option<String>,
    }
    let rows: Vec<Named> = on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        ", (SELECT name FROM teams WHERE teams.id = hosts.team_id) AS team_name FROM hosts \
         WHERE id > $1 AND ($2 IS NULL OR team_id = $2) ORDER BY id LIMIT $3"
    ))
    .bind(after)
    .bind(team.map(TeamId::as_str))
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("list hosts")?;
    Ok(rows.into_iter().map(|row| (row.host, row.team_name)).collect())
}

pub async fn insert(tx: &mut Tx, host: &NewHost, now: Millis) -> Result<(), DbError> {
    let none = Json(Vec::<String>::new());
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO hosts (id, name, type, team_id, provider, availability_zone, status, status_changed_at, draining,
             drivers, capacity_cpu_millis, capacity_memory_mb, capacity_disk_mb, used_cpu_millis, used_memory_mb,
             used_disk_mb, sandboxes_running, sandboxes_paused, sandboxes_other, inventory_complete, ready,
             cached_images, created_by, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, 'pending', $7, $8, $9, 0, 0, 0, 0, 0, 0, 0, 0, 0, $8, $8, $9, $10, $7, $7)",
    )
    .bind(host.id.as_str())
    .bind(&host.name)
    .bind(host.kind.as_str())
    .bind(host.team.as_ref().map(TeamId::as_str))
    .bind(host.provider.as_deref())
    .bind(host.availability_zone.as_deref())
    .bind(now)
    .bind(false)
    .bind(&none)
    .bind(host.created_by.as_ref().map(UserId::as_str))
    .execute(c)
    .await
    .map(|_| ()))
    .during("insert a host")
}

/// Changes the name; whether there was such a host.
pub async fn rename(tx: &mut Tx, host: &HostId, name: &str, now: Millis) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query("UPDATE hosts SET name = $2, updated_at = $3 WHERE id = $1")
        .bind(host.as_str())
        .bind(name)
        .bind(now)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0))
    .during("rename a host")
}

/// Sets or clears the draining flag. It is never cleared while the host is being deleted.
pub async fn set_draining(tx: &mut Tx, host: &HostId, draining: bool, now: Millis) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query(
        "UPDATE hosts SET draining = $2, updated_at = $3 WHERE id = $1 AND ($4 OR deletion_id IS NULL)"
    )
    .bind(host.as_str())
    .bind(draining)
    .bind(now)
    .bind(draining)
    .execute(c)
    .await
    .map(|done| done.rows_affected() > 0))
    .during("drain a host")
}

/// Whether a team exists, and if so whether it brings its own hosts.
pub async fn team_is_byoc(db: &Db, team: &TeamId) -> Result<Option<bool>, DbError> {
    let row: Option<(bool,)> = on!(read db, |c| sqlx::query_as("SELECT is_byoc FROM teams WHERE id = $1")
        .bind(team.as_str())
        .fetch_optional(c)
        .await)
    .during("read a team")?;
    Ok(row.map(|row| row.0))
}

pub async fn team_name(db: &Db, team: &TeamId) -> Result<Option<String>, DbError> {
    let row: Option<(String,)> = on!(read db, |c| sqlx::query_as("SELECT name FROM teams WHERE id = $1")
        .bind(team.as_str())
        .fetch_optional(c)
        .await)
    .during("read a team's name")?;
    Ok(row.map(|row| row.0))
}

/// Sets the tags, all of them.
pub async fn set_tags(tx: &mut Tx, host: &HostId, tags: &[String], now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("UPDATE hosts SET tags = $2, updated_at = $3 WHERE id = $1")
        .bind(host.as_str())
        .bind(Json(tags))
        .bind(now)
        .execute(c)
        .await
        .map(|_| ()))
    .during("tag a host")
}
