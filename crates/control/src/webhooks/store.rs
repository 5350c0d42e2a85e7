//! SQL of webhooks and deliveries.

use atoll_model::api::webhooks::{Delivery, DeliveryStatus, Webhook};
use atoll_model::{DeliveryId, TeamId, UserId, WebhookId};

use super::Attempt;
use crate::db::{Db, DbError, During, Millis, Text, Tx, on};

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct WebhookRow {
    pub id: Text<WebhookId>,
    pub team_id: Text<TeamId>,
    pub url: String,
    pub events: String,
    /// Encrypted (`sealed`), as the next is.
    pub secret: String,
    /// Deliveries are signed with this one too, for a while.
    pub former_secret: Option<String>,
    pub former_secret_until: Option<Millis>,
    pub enabled: bool,
    pub disabled_reason: Option<String>,
    pub failing_since: Option<Millis>,
    pub after_event: i64,
    pub created_by: Option<Text<UserId>>,
    pub created_at: Millis,
    pub updated_at: Millis,
}

macro_rules! hooks {
    ($rest:literal) => {
        concat!(
            "SELECT id, team_id, url, events, secret, former_secret, former_secret_until, enabled, disabled_reason,
             failing_since, after_event, created_by, created_at, updated_at FROM webhooks WHERE ",
            $rest
        )
    };
}

impl WebhookRow {
    /// What a delivery of now is signed with, encrypted.
    #[must_use]
    pub fn secrets(&self, now: Millis) -> Vec<&str> {
        let former =
            self.former_secret.as_deref().filter(|_| self.former_secret_until.is_some_and(|until| until > now));
        std::iter::once(&*self.secret).chain(former).collect()
    }

    /// The answer's shape, without the secret.
    #[must_use]
    pub fn into_api(self) -> Webhook {
        Webhook {
            id: self.id.0,
            url: self.url,
            events: self.events.split(',').filter(|name| !name.is_empty() && *name != "*").map(str::to_owned).collect(),
            enabled: self.enabled,
            disabled_reason: self.disabled_reason,
            failing_since: self.failing_since.map(Millis::to_utc),
            created_by: self.created_by.map(|user| user.0),
            created_at: self.created_at.to_utc(),
            updated_at: self.updated_at.to_utc(),
            secret: None,
        }
    }
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DeliveryRow {
    pub id: Text<DeliveryId>,
    pub webhook_id: Text<WebhookId>,
    pub event_id: Option<i64>,
    #[sqlx(rename = "type")]
    pub kind: String,
    pub body: String,
    pub status: Text<DeliveryStatus>,
    pub attempts: i64,
    pub next_at: Millis,
    pub response_status: Option<i64>,
    pub error: Option<String>,
    pub duration_ms: Option<i64>,
    pub created_at: Millis,
    pub finished_at: Option<Millis>,
}

macro_rules! deliveries {
    ($rest:literal) => {
        concat!(
            "SELECT id, webhook_id, event_id, type, body, status, attempts, next_at, response_status, error, duration_ms,
             created_at, finished_at FROM webhook_deliveries WHERE ",
            $rest
        )
    };
}

impl DeliveryRow {
    /// The answer's shape.
    #[must_use]
    pub fn into_api(self) -> Delivery {
        let pending = self.status.0 == DeliveryStatus::Pending;
        Delivery {
            id: self.id.0,
            event_id: self.event_id,
            kind: self.kind,
            status: self.status.0,
            attempts: u32::try_from(self.attempts).unwrap_or(0),
            next_attempt_at: pending.then(|| self.next_at.to_utc()),
            response_status: self.response_status.and_then(|status| u16::try_from(status).ok()),
            error: self.error,
            duration_ms: self.duration_ms.and_then(|time| u64::try_from(time).ok()),
            created_at: self.created_at.to_utc(),
            finished_at: self.finished_at.map(Millis::to_utc),
        }
    }
}

pub async fn insert(tx: &mut Tx, new: &WebhookRow) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO webhooks (id, team_id, url, events, secret, enabled, after_event, created_by, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)"
    )
    .bind(new.id.as_str())
    .bind(new.team_id.as_str())
    .bind(&new.url)
    .bind(&new.events)
    .bind(&new.secret)
    .bind(new.enabled)
    .bind(new.after_event)
    .bind(new.created_by.as_ref().map(|user| user.as_str()))
    .bind(new.created_at)
    .execute(c)
    .await
    .map(|_| ()))
    .during("insert a webhook")
}

pub async fn count(tx: &mut Tx, team: &TeamId) -> Result<i64, DbError> {
    let row: (i64,) = on!(tx tx, |c| sqlx::query_as("SELECT COUNT(*) FROM webhooks WHERE team_id = $1")
        .bind(team.as_str())
        .fetch_one(c)
        .await)
    .during("count a team's webhooks")?;
    Ok(row.0)
}

pub async fn list(db: &Db, team: &TeamId, after: (Millis, &str), limit: i64) -> Result<Vec<WebhookRow>, DbError> {
    on!(read db, |c| sqlx::query_as(hooks!(
        "team_id = $1 AND (created_at > $2 OR (created_at = $2 AND id > $3)) ORDER BY created_at, id LIMIT $4"
    ))
    .bind(team.as_str())
    .bind(after.0)
    .bind(after.1)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("list webhooks")
}

/// A team's webhook.
pub async fn get(db: &Db, team: &TeamId, id: &WebhookId) -> Result<Option<WebhookRow>, DbError> {
    on!(read db, |c| sqlx::query_as(hooks!("id = $1 AND team_id = $2"))
        .bind(id.as_str())
        .bind(team.as_str())
        .fetch_optional(c)
        .await)
    .during("read a webhook")
}

/// Any team's.
pub async fn get_any(db: &Db, id: &str) -> Result<Option<WebhookRow>, DbError> {
    on!(read db, |c| sqlx::query_as(hooks!("id = $1")).bind(id).fetch_optional(c).await).during("read a webhook")
}

/// All that are enabled.
pub async fn enabled(db: &Db) -> Result<Vec<WebhookRow>, DbError> {
    on!(read db, |c| sqlx::query_as(hooks!("enabled = TRUE ORDER BY id")).fetch_all(c).await)
        .during("list the webhooks that are enabled")
}

pub async fn update(tx: &mut Tx, row: &WebhookRow, now: Millis) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query(
        "UPDATE webhooks SET url = $3, events = $4, enabled = $5, disabled_reason = $6, failing_since = $7,
             after_event = $8, updated_at = $9 WHERE id = $1 AND team_id = $2"
    )
    .bind(row.id.as_str())
    .bind(row.team_id.as_str())
    .bind(&row.url)
    .bind(&row.events)
    .bind(row.enabled)
    .bind(&row.disabled_reason)
    .bind(row.failing_since)
    .bind(row.after_event)
    .bind(now)
    .execute(c)
    .await
    .map(|done| done.rows_affected() > 0))
    .during("change a webhook")
}

/// Some of those whose secrets are not encrypted.
pub async fn plain(db: &Db) -> Result<Vec<WebhookRow>, DbError> {
    on!(read db, |c| sqlx::query_as(hooks!(
        "secret NOT LIKE 'sealed:%' OR former_secret NOT LIKE 'sealed:%' ORDER BY id LIMIT 100"
    ))
    .fetch_all(c)
    .await)
    .during("look for webhooks' secrets that are not encrypted")
}

/// Puts encrypted secrets in the place of those that `row` has, if it still has them.
pub async fn replace_plain(db: &Db, row: &WebhookRow, secret: &str, former: Option<&str>) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query("UPDATE webhooks SET secret = $3, former_secret = $4 WHERE id = $1 AND secret = $2")
        .bind(row.id.as_str())
        .bind(&row.secret)
        .bind(secret)
        .bind(former)
        .execute(c)
        .await
        .map(|_| ()))
    .during("encrypt a webhook's secret")
}

/// SQLite leaves what was replaced in its files until the place is needed. Switches that off, and on again when all is
/// replaced, once nothing of it is left in the log. (PostgreSQL's vacuum sees to it.)
pub async fn erase_what_is_replaced(db: &Db, begin: bool) -> Result<(), DbError> {
    let Db::Sqlite { writer, .. } = db else { return Ok(()) };
    let steps: &[&'static str] = if begin {
        &["PRAGMA secure_delete = ON"]
    } else {
        &["PRAGMA secure_delete = OFF", "PRAGMA wal_checkpoint(TRUNCATE)"]
    };
    for step in steps {
        sqlx::query(*step).fetch_all(writer).await.during("erase what was replaced")?;
    }
    Ok(())
}

/// Gives a webhook another secret; the one before is good until `until`.
pub async fn set_secret(
    tx: &mut Tx,
    team: &TeamId,
    id: &WebhookId,
    sealed: &str,
    until: Millis,
    now: Millis,
) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query(
        "UPDATE webhooks SET former_secret = secret, former_secret_until = $4, secret = $3, updated_at = $5
         WHERE id = $1 AND team_id = $2"
    )
    .bind(id.as_str())
    .bind(team.as_str())
    .bind(sealed)
    .bind(until)
    .bind(now)
    .execute(c)
    .await
    .map(|done| done.rows_affected() > 0))
    .during("change a webhook's secret")
}

pub async fn delete(tx: &mut Tx, team: &TeamId, id: &WebhookId) -> Result<Option<String>, DbError> {
    let row: Option<(String,)> =
        on!(tx tx, |c| sqlx::query_as("DELETE FROM webhooks WHERE id = $1 AND team_id = $2 RETURNING url")
            .bind(id.as_str())
            .bind(team.as_str())
            .fetch_optional(c)
            .await)
        .during("delete a webhook")?;
    Ok(row.map(|row| row.0))
}

/// Something that is to be sent. An event that a webhook has already is left alone.
pub async fn insert_delivery(tx: &mut Tx, new: &DeliveryRow) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO webhook_deliveries (id, webhook_id, event_id, type, body, status, attempts, next_at, created_at)
         VALUES ($1, $2, $3, $4, $5, 'pending', 0, $6, $7) ON CONFLICT (webhook_id, event_id) DO NOTHING"
    )
    .bind(new.id.as_str())
    .bind(new.webhook_id.as_str())
    .bind(new.event_id)
    .bind(&new.kind)
    .bind(&new.body)
    .bind(new.next_at)
    .bind(new.created_at)
    .execute(c)
    .await
    .map(|_| ()))
    .during("insert a webhook's delivery")
}

pub async fn delivery(db: &Db, id: &DeliveryId) -> Result<Option<DeliveryRow>, DbError> {
    on!(read db, |c| sqlx::query_as(deliveries!("id = $1")).bind(id.as_str()).fetch_optional(c).await)
        .during("read a webhook's delivery")
}

/// A page of a webhook's deliveries, newest first.
pub async fn deliveries(
    db: &Db,
    hook: &WebhookId,
    before: (Millis, &str),
    limit: i64,
) -> Result<Vec<DeliveryRow>, DbError> {
    on!(read db, |c| sqlx::query_as(deliveries!(
        "webhook_id = $1 AND (created_at < $2 OR (created_at = $2 AND id > $3)) ORDER BY created_at DESC, id LIMIT $4"
    ))
    .bind(hook.as_str())
    .bind(before.0)
    .bind(before.1)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("list a webhook's deliveries")
}

/// Claims deliveries that are due, of webhooks that are enabled: until `until` nobody else tries them.
pub async fn claim(db: &Db, now: Millis, until: Millis, limit: i64) -> Result<Vec<DeliveryRow>, DbError> {
    on!(write db, |c| sqlx::query_as(
        "UPDATE webhook_deliveries SET next_at = $2 WHERE id IN (
             SELECT d.id FROM webhook_deliveries d JOIN webhooks w ON w.id = d.webhook_id
             WHERE d.status = 'pending' AND d.next_at <= $1 AND w.enabled = TRUE ORDER BY d.next_at LIMIT $3)
         RETURNING id, webhook_id, event_id, type, body, status, attempts, next_at, response_status, error, duration_ms,
             created_at, finished_at"
    )
    .bind(now)
    .bind(until)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("claim webhook deliveries")
}

/// What came of an attempt: delivered, to be tried again at `next`, or given up.
pub async fn note(
    tx: &mut Tx,
    delivery: &DeliveryRow,
    attempt: &Attempt,
    next: Option<Millis>,
    now: Millis,
) -> Result<(), DbError> {
    let status = match (&attempt.error, next) {
        (None, _) => "delivered",
        (Some(_), Some(_)) => "pending",
        (Some(_), None) => "failed",
    };
    on!(tx &mut *tx, |c| sqlx::query(
        "UPDATE webhook_deliveries SET status = $2, attempts = attempts + 1, next_at = $3, response_status = $4,
             error = $5, duration_ms = $6, finished_at = $7 WHERE id = $1"
    )
    .bind(delivery.id.as_str())
    .bind(status)
    .bind(next.unwrap_or(now))
    .bind(attempt.response_status)
    .bind(&attempt.error)
    .bind(attempt.duration_ms)
    .bind((status != "pending").then_some(now))
    .execute(c)
    .await
    .map(|_| ()))
    .during("note an attempt to deliver")?;
    let failing = attempt.error.is_some();
    on!(tx tx, |c| sqlx::query(
        "UPDATE webhooks SET failing_since = CASE WHEN $2 THEN COALESCE(failing_since, $3) END WHERE id = $1"
    )
    .bind(delivery.webhook_id.as_str())
    .bind(failing)
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("note how a webhook does")
}

/// Webhooks to which nothing got through since `since`.
pub async fn long_failing(db: &Db, since: Millis) -> Result<Vec<WebhookRow>, DbError> {
    on!(read db, |c| sqlx::query_as(hooks!("enabled = TRUE AND failing_since < $1 ORDER BY id"))
        .bind(since)
        .fetch_all(c)
        .await)
    .during("look for webhooks that fail")
}

/// Removes deliveries that were finished before `before`, a bounded number at a time.
pub async fn prune(db: &Db, before: Millis) -> Result<u64, DbError> {
    on!(write db, |c| sqlx::query(
        "DELETE FROM webhook_deliveries WHERE id IN (
             SELECT id FROM webhook_deliveries WHERE finished_at IS NOT NULL AND finished_at < $1 LIMIT 1000)"
    )
    .bind(before)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))
    .during("remove old webhook deliveries")
}
