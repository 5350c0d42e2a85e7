//! SQL of the export: which sandboxes run where. Those of builds are nobody's to look at, here as in lists.

use atoll_model::{HostId, SandboxId, TeamId};

use crate::db::{Db, DbError, During, Millis, Text, on};

/// What is told of a running sandbox beside what it uses.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Running {
    pub id: Text<SandboxId>,
    pub team_id: Text<TeamId>,
    pub template: String,
    pub driver: String,
    pub started_at: Option<Millis>,
}

/// Hosts that can be asked and have something to tell.
pub async fn hosts(db: &Db) -> Result<Vec<Text<HostId>>, DbError> {
    let rows: Vec<(Text<HostId>,)> = on!(read db, |c| sqlx::query_as(
        "SELECT h.id FROM hosts h WHERE h.status = 'online' AND EXISTS
         (SELECT 1 FROM sandboxes s WHERE s.host_id = h.id AND s.status = 'running' AND s.purpose = '') ORDER BY h.id"
    )
    .fetch_all(c)
    .await)
    .during("list hosts with running sandboxes")?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// A page of a host's running sandboxes: those whose ids come after `after`.
pub async fn running(db: &Db, host: &HostId, after: &str, limit: usize) -> Result<Vec<Running>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT id, team_id, template, driver, started_at FROM sandboxes
         WHERE host_id = $1 AND status = 'running' AND purpose = '' AND id > $2 ORDER BY id LIMIT $3"
    )
    .bind(host.as_str())
    .bind(after)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(c)
    .await)
    .during("list a host's running sandboxes")
}
