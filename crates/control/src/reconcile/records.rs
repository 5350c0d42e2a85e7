//! Control's records in the database.

use async_trait::async_trait;
use atoll_model::{HostId, SandboxId, SandboxStatus};
use atoll_rpc::atoll::host::v1::NetworkPolicy;
use serde_json::json;
use sqlx::types::Json;

use super::judge::{Row, Seen};
use super::views::{Records, RowChange};
use crate::audit::{self, Actor, Entry, Origin};
use crate::clock::Clock;
use crate::db::{Db, DbError, During, Millis, Text, on};
use crate::sandboxes::{Filling, store};
use crate::secrets::{SecretError, Secrets};

pub struct SqlRecords {
    db: Db,
    clock: Clock,
    /// For what is in headers that a host adds; without them such policies wait.
    secrets: Option<Secrets>,
}

impl SqlRecords {
    #[must_use]
    pub fn new(db: Db, clock: Clock) -> Self {
        Self { db, clock, secrets: None }
    }

    /// The same with the secrets that policies may need.
    #[must_use]
    pub fn with_secrets(self, secrets: Secrets) -> Self {
        Self { secrets: Some(secrets), ..self }
    }
}

#[derive(sqlx::FromRow)]
struct Columns {
    id: Text<SandboxId>,
    host_id: Option<Text<HostId>>,
    status: Text<SandboxStatus>,
    former_status: Option<Text<SandboxStatus>>,
    reason: Option<String>,
    generation: i64,
    status_changed_at: Millis,
    moving_to: Option<Text<HostId>>,
    network_generation: i64,
}

impl From<Columns> for Row {
    fn from(columns: Columns) -> Self {
        Self {
            id: columns.id.0,
            host: columns.host_id.map(|host| host.0),
            status: columns.status.0,
            former: columns.former_status.map(|former| former.0),
            reason: columns.reason,
            generation: u64::try_from(columns.generation).unwrap_or(0),
            changed_at: columns.status_changed_at,
            moving_to: columns.moving_to.map(|host| host.0),
            network_generation: u64::try_from(columns.network_generation).unwrap_or(0),
        }
    }
}

macro_rules! by_id {
    ($those:literal) => {
        concat!(
            "SELECT s.id, s.host_id, s.status, s.former_status, s.reason, s.generation, s.status_changed_at, m.to_host AS moving_to, \
             s.network_generation FROM sandboxes s LEFT JOIN sandbox_moves m ON m.sandbox_id = s.id WHERE ",
            $those
        )
    };
}

impl SqlRecords {
    async fn is_being_deleted(&self, host: &HostId) -> Result<bool, DbError> {
        let row: Option<(i32,)> =
            on!(read & self.db, |c| sqlx::query_as("SELECT 1 FROM hosts WHERE id = $1 AND deletion_id IS NOT NULL")
                .bind(host.as_str())
                .fetch_optional(c)
                .await)
            .during("ask whether a host is being deleted")?;
        Ok(row.is_some())
    }
}

#[async_trait]
impl Records for SqlRecords {
    async fn on_host(&self, host: &HostId) -> Result<Vec<Row>, DbError> {
        let rows: Vec<Columns> = on!(read & self.db, |c| sqlx::query_as(
            "SELECT id, host_id, status, former_status, reason, generation, status_changed_at, CAST(NULL AS TEXT) AS moving_to,
             network_generation FROM sandboxes WHERE host_id = $1 AND status <> 'stopped'"
        )
        .bind(host.as_str())
        .fetch_all(c)
        .await)
        .during("list a host's sandboxes")?;
        Ok(rows.into_iter().map(Row::from).collect())
    }

    async fn by_id(&self, ids: &[SandboxId]) -> Result<Vec<Row>, DbError> {
        let ids: Vec<&str> = ids.iter().map(SandboxId::as_str).collect();
        let rows: Vec<Columns> = match &self.db {
            Db::Sqlite { readers, .. } => {
                sqlx::query_as(by_id!("s.id IN (SELECT value FROM json_each($1))"))
                    .bind(Json(ids))
                    .fetch_all(readers)
                    .await
            }
            Db::Postgres(pool) => sqlx::query_as(by_id!("s.id = ANY($1)")).bind(ids).fetch_all(pool).await,
        }
        .during("look up sandboxes")?;
        Ok(rows.into_iter().map(Row::from).collect())
    }

    async fn change(&self, change: &RowChange<'_>) -> Result<Option<Row>, DbError> {
        let row = change.row;
        // A deletion is written down before it destroys anything: what is gone by it isn't lost, and it says so itself.
        if change.to == SandboxStatus::Stopped
            && let Some(host) = &row.host
            && self.is_being_deleted(host).await?
        {
            return Ok(None);
        }
        let changed = store::change(
            &self.db,
            &store::Change {
                id: &row.id,
                from: row.status,
                generation: i64::try_from(row.generation).unwrap_or(i64::MAX),
                to: change.to,
                reason: change.reason,
                decided: change.decided,
                host: None,
                at: self.clock.now(),
            },
        )
        .await?;
        Ok(changed.map(|record| Row {
            id: record.id.0.clone(),
            host: record.host().cloned(),
            status: record.status(),
            former: record.former_status.as_ref().map(|former| former.0),
            reason: record.reason.clone(),
            generation: record.host_generation(),
            changed_at: record.status_changed_at,
            moving_to: None,
            network_generation: record.host_network_generation(),
        }))
    }

    async fn network(&self, id: &SandboxId) -> Result<Option<(NetworkPolicy, u64)>, DbError> {
        let Some(record) = store::get_any(&self.db, id).await? else { return Ok(None) };
        let filling = match &self.secrets {
            _ if !record.network.has_secrets() => Filling::default(),
            Some(secrets) => match record.network.what_can_be_filled(secrets, &record.team_id).await {
                Ok(filling) => filling,
                Err(SecretError::Db(error)) => return Err(error),
                Err(error) => {
                    tracing::warn!(sandbox = %id, %error, "a sandbox's policy goes without its secrets");
                    Filling::default()
                }
            },
            None => return Ok(None),
        };
        Ok(Some((record.network.to_wire(&filling, id), record.host_network_generation())))
    }

    async fn note_orphan(&self, host: &HostId, seen: &Seen, known: bool) -> Result<(), DbError> {
        let details = json!({ "host_id": host, "known_to_control": known, "state": format!("{:?}", seen.state) });
        let entry = Entry {
            team: None,
            actor: &Actor::System,
            origin: &Origin::default(),
            action: "sandbox.destroy_orphan",
            target_kind: "sandbox",
            target_id: Some(seen.id.as_str()),
            result: "ok",
            details,
        };
        audit::record_alone(&self.db, self.clock.now(), &entry).await
    }

    async fn pending_deletions(&self, host: &HostId) -> Result<Vec<String>, DbError> {
        let rows: Vec<(String,)> = on!(read & self.db, |c| sqlx::query_as(
            "SELECT digest FROM pending_deletions WHERE host_id = $1 ORDER BY digest LIMIT 1000"
        )
        .bind(host.as_str())
        .fetch_all(c)
        .await)
        .during("list a host's pending deletions")?;
        Ok(rows.into_iter().map(|row| row.0).collect())
    }

    async fn deletion_done(&self, host: &HostId, digest: &str) -> Result<(), DbError> {
        on!(write & self.db, |c| sqlx::query("DELETE FROM pending_deletions WHERE host_id = $1 AND digest = $2")
            .bind(host.as_str())
            .bind(digest)
            .execute(c)
            .await
            .map(|_| ()))
        .during("remove a pending deletion")
    }
}
