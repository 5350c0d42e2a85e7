//! SQL of quotas.

use atoll_model::TeamId;

use crate::db::{Db, DbError, During, Millis, Tx, on};

/// None: no limit, or (of a team) the installation's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, sqlx::FromRow)]
pub struct Limits {
    pub sandboxes: Option<i64>,
    pub vcpus: Option<i64>,
    pub memory_mb: Option<i64>,
    pub disk_mb: Option<i64>,
}

impl From<crate::config::Quotas> for Limits {
    fn from(quotas: crate::config::Quotas) -> Self {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Self {
            sandboxes: quotas.sandboxes.map(signed),
            vcpus: quotas.vcpus.map(signed),
            memory_mb: quotas.memory_mb.map(signed),
            disk_mb: quotas.disk_mb.map(signed),
        }
    }
}

impl Limits {
    /// These, and where there is none that of `defaults`.
    #[must_use]
    pub fn or(self, defaults: &Self) -> Self {
        Self {
            sandboxes: self.sandboxes.or(defaults.sandboxes),
            vcpus: self.vcpus.or(defaults.vcpus),
            memory_mb: self.memory_mb.or(defaults.memory_mb),
            disk_mb: self.disk_mb.or(defaults.disk_mb),
        }
    }
}

/// What a team's sandboxes and volumes were promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, sqlx::FromRow)]
pub struct Used {
    pub sandboxes: i64,
    pub vcpus: i64,
    pub memory_mb: i64,
    pub disk_mb: i64,
}

const LIMITS: &str = "SELECT quota_sandboxes AS sandboxes, quota_vcpus AS vcpus, quota_memory_mb AS memory_mb,
     quota_disk_mb AS disk_mb FROM teams WHERE id = $1";
const USED: &str = "SELECT COUNT(*) AS sandboxes, CAST(COALESCE(SUM(vcpus), 0) AS BIGINT) AS vcpus,
     CAST(COALESCE(SUM(memory_mb), 0) AS BIGINT) AS memory_mb, CAST(COALESCE(SUM(disk_mb), 0)
     + (SELECT COALESCE(SUM(v.size_mb), 0) FROM volumes v WHERE v.team_id = $1) AS BIGINT) AS disk_mb
     FROM sandboxes WHERE team_id = $1 AND status <> 'stopped'";

pub(super) async fn limits(tx: &mut Tx, team: &TeamId) -> Result<Option<Limits>, DbError> {
    on!(tx tx, |c| sqlx::query_as(LIMITS).bind(team.as_str()).fetch_optional(c).await).during("read a team's quotas")
}

pub(super) async fn limits_now(db: &Db, team: &TeamId) -> Result<Option<Limits>, DbError> {
    on!(read db, |c| sqlx::query_as(LIMITS).bind(team.as_str()).fetch_optional(c).await).during("read a team's quotas")
}

/// Whoever else wants to add to the team waits. (SQLite has one writer at a time.)
pub(super) async fn lock(tx: &mut Tx, team: &TeamId) -> Result<(), DbError> {
    let Tx::Postgres(c) = tx else { return Ok(()) };
    sqlx::query("SELECT id FROM teams WHERE id = $1 FOR NO KEY UPDATE")
        .bind(team.as_str())
        .execute(&mut **c)
        .await
        .map(|_| ())
        .during("lock a team's quotas")
}

pub(super) async fn used_in(tx: &mut Tx, team: &TeamId) -> Result<Used, DbError> {
    on!(tx tx, |c| sqlx::query_as(USED).bind(team.as_str()).fetch_one(c).await).during("add up what a team has")
}

pub(super) async fn used(db: &Db, team: &TeamId) -> Result<Used, DbError> {
    on!(read db, |c| sqlx::query_as(USED).bind(team.as_str()).fetch_one(c).await).during("add up what a team has")
}

/// Sets all of a team's limits, and answers what they were. None when there is no such team.
pub async fn set(tx: &mut Tx, team: &TeamId, limits: &Limits, now: Millis) -> Result<Option<Limits>, DbError> {
    lock(tx, team).await?;
    let Some(before) = self::limits(tx, team).await? else { return Ok(None) };
    on!(tx tx, |c| sqlx::query(
        "UPDATE teams SET quota_sandboxes = $2, quota_vcpus = $3, quota_memory_mb = $4, quota_disk_mb = $5,
             updated_at = $6 WHERE id = $1"
    )
    .bind(team.as_str())
    .bind(limits.sandboxes)
    .bind(limits.vcpus)
    .bind(limits.memory_mb)
    .bind(limits.disk_mb)
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("set a team's quotas")?;
    Ok(Some(before))
}
