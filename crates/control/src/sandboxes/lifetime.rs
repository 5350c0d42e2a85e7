//! An end that comes whatever a sandbox does: the lifetime of E2B's sandboxes, beside the idle timeout of our own.
//!
//! Only a running sandbox comes to its end. A resumed one lives for its whole lifetime again, so a sandbox that woke up
//! by itself after its end isn't put to sleep at once; and one that wakes by itself lives at least for [`FLOOR`].

use std::time::Duration;

use atoll_model::{SandboxId, TeamId};
use serde_json::json;
use sqlx::FromRow;

use super::asked::note;
use super::{Keep, Owner, SandboxError, SandboxRecord, Sandboxes, store};
use crate::db::{Db, DbError, During, Millis, Sql, Tx, on};

/// What a sandbox that wakes up by itself lives for at least: who was waited for must come to use it.
pub const FLOOR: Duration = Duration::from_secs(300);

/// How long a sandbox lives.
#[derive(Debug, Clone, Copy, FromRow)]
pub struct Lifetime {
    pub lifetime_sec: i64,
    pub ends_at: Millis,
}

impl Lifetime {
    /// When the sandbox's end comes, as far as is known now.
    #[must_use]
    pub fn end_of(&self, record: &SandboxRecord) -> Millis {
        self.ends_at.max(Millis(record.status_changed_at.0.saturating_add(self.lifetime_sec.saturating_mul(1000))))
    }
}

/// A sandbox with its lifetime, if it has one.
#[derive(Debug, Clone, FromRow)]
pub struct Listed {
    #[sqlx(flatten)]
    pub record: SandboxRecord,
    pub lifetime_sec: Option<i64>,
    pub ends_at: Option<Millis>,
    /// Whether a pause at its end keeps its memory.
    pub keep_memory: Option<bool>,
}

impl Listed {
    #[must_use]
    pub fn lifetime(&self) -> Option<Lifetime> {
        let (lifetime_sec, ends_at) = (self.lifetime_sec?, self.ends_at?);
        Some(Lifetime { lifetime_sec, ends_at })
    }

    /// What a pause at its end keeps.
    #[must_use]
    pub fn keep(&self) -> Keep {
        if self.keep_memory == Some(false) { Keep::Files } else { Keep::Memory }
    }
}

/// Sets a sandbox's lifetime, in seconds from `now`.
pub(super) async fn set(tx: &mut Tx, id: &SandboxId, seconds: i64, now: Millis) -> Result<(), DbError> {
    let ends_at = Millis(now.0.saturating_add(seconds.saturating_mul(1000)));
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO sandbox_lifetimes (sandbox_id, lifetime_sec, ends_at) VALUES ($1, $2, $3) \
         ON CONFLICT (sandbox_id) DO UPDATE SET lifetime_sec = excluded.lifetime_sec, ends_at = excluded.ends_at"
    )
    .bind(id.as_str())
    .bind(seconds)
    .bind(ends_at)
    .execute(c)
    .await
    .map(|_| ()))
    .during("set a sandbox's lifetime")
}

/// What a pause at the end of a sandbox with a lifetime keeps.
pub(super) async fn set_keep(tx: &mut Tx, id: &SandboxId, keep: Keep) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("UPDATE sandbox_lifetimes SET keep_memory = $2 WHERE sandbox_id = $1")
        .bind(id.as_str())
        .bind(keep == Keep::Memory)
        .execute(c)
        .await
        .map(|_| ()))
    .during("set what a pause keeps")
}

/// Gives a sandbox that is about to wake by itself a lifetime worth waking for. One without a lifetime has no end anyway.
pub(super) async fn raise_to_floor(db: &Db, id: &SandboxId) -> Result<(), DbError> {
    let floor = i64::try_from(FLOOR.as_secs()).unwrap_or(i64::MAX);
    on!(write db, |c| sqlx::query(
        "UPDATE sandbox_lifetimes SET lifetime_sec = $2 WHERE sandbox_id = $1 AND lifetime_sec < $2"
    )
    .bind(id.as_str())
    .bind(floor)
    .execute(c)
    .await
    .map(|_| ()))
    .during("give a sandbox time to live")
}

/// Running sandboxes whose end has come, the longest overdue first.
pub(super) async fn over(db: &Db, now: Millis, limit: i64) -> Result<Vec<Listed>, DbError> {
    let mut sql = listing();
    sql.push(" WHERE status = 'running'");
    sql.with(" AND ends_at <= ?", now).with(" AND status_changed_at + lifetime_sec * 1000 <= ?", now);
    sql.with(" ORDER BY ends_at LIMIT ?", limit);
    sql.fetch_all(db, "look for sandboxes at their end").await
}

/// What of a team's sandboxes is wanted, and in which order.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Names of statuses, of which there is at least one.
    pub statuses: Vec<&'static str>,
    /// Started at this time or later.
    pub started_after: Option<Millis>,
    /// A template's name or id.
    pub template: Option<String>,
    pub oldest_first: bool,
    /// The place in the order after which the page begins.
    pub after: Option<(Millis, String)>,
}

impl Sandboxes {
    /// Sets how long a team's sandbox lives from now on, in seconds; with `only_longer`, never brings its end nearer. What
    /// changes nothing leaves no entry in the audit trail.
    pub async fn set_lifetime(
        &self,
        owner: &Owner,
        id: &SandboxId,
        seconds: i64,
        only_longer: bool,
    ) -> Result<(), SandboxError> {
        let listed = self.listed(&owner.team, id).await?.ok_or(SandboxError::NotFound)?;
        let now = self.clock.now();
        let wanted = Millis(now.0.saturating_add(seconds.saturating_mul(1000)));
        if only_longer && listed.lifetime().is_some_and(|lifetime| lifetime.end_of(&listed.record) >= wanted) {
            return Ok(());
        }
        let mut tx = self.db.begin().await?;
        set(&mut tx, id, seconds, now).await?;
        let before = listed.lifetime().map(|lifetime| lifetime.end_of(&listed.record).to_utc());
        let details = json!({ "before": { "ends_at": before }, "after": { "ends_at": wanted.to_utc() } });
        note(&mut tx, owner, id, "sandbox.lifetime", details, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// From now on, a pause at the end of a sandbox with a lifetime keeps its files alone.
    pub async fn pause_without_memory(&self, id: &SandboxId) -> Result<(), SandboxError> {
        let mut tx = self.db.begin().await?;
        set_keep(&mut tx, id, Keep::Files).await?;
        tx.commit().await?;
        Ok(())
    }

    /// A team's sandbox with its lifetime.
    pub async fn listed(&self, team: &TeamId, id: &SandboxId) -> Result<Option<Listed>, SandboxError> {
        let mut sql = listing();
        sql.with(" WHERE team_id = ?", team.as_str()).with(" AND id = ?", id.as_str());
        Ok(sql.fetch_all(&self.db, "read a sandbox and its lifetime").await?.pop())
    }

    /// A team's sandboxes in order of their start.
    pub async fn list_by_start(&self, team: &TeamId, wanted: &Wanted, limit: i64) -> Result<Vec<Listed>, SandboxError> {
        let mut sql = listing();
        sql.with(" WHERE purpose = '' AND team_id = ?", team.as_str()).push(" AND status IN (''");
        for status in &wanted.statuses {
            sql.with(", ?", *status);
        }
        sql.push(")").with_some(" AND COALESCE(started_at, created_at) >= ?", wanted.started_after);
        if let Some(template) = wanted.template.as_deref() {
            sql.with(" AND (template = ?", template).with(" OR template_id = ?)", template);
        }
        let (past, order) = if wanted.oldest_first {
            (" AND (COALESCE(started_at, created_at) > ?", " ORDER BY COALESCE(started_at, created_at), id")
        } else {
            (" AND (COALESCE(started_at, created_at) < ?", " ORDER BY COALESCE(started_at, created_at) DESC, id")
        };
        if let Some((at, id)) = &wanted.after {
            sql.with(past, *at)
                .with(" OR (COALESCE(started_at, created_at) = ?", *at)
                .with(" AND id > ?))", id.as_str());
        }
        sql.push(order).with(" LIMIT ?", limit);
        Ok(sql.fetch_all(&self.db, "list sandboxes by their start").await?)
    }
}

fn listing() -> Sql {
    let mut sql = Sql::new("SELECT ");
    sql.push(store::COLUMNS);
    sql.push(", lifetime_sec, ends_at, keep_memory FROM sandboxes LEFT JOIN sandbox_lifetimes ON sandbox_id = id");
    sql
}
