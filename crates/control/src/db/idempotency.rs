//! `Idempotency-Key`: a request that is sent again, because its answer was lost, gets the first answer.
//!
//! A row is made before the work begins and completed with the answer; failed requests leave none, so that they can
//! be tried again. Answers never hold secrets (callers leave them out).

use std::time::Duration;

use super::{Db, DbError, During, Millis, on};

/// How long an answer is remembered.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// A request that has been under way for longer died with its replica.
pub const ABANDONED: Duration = Duration::from_secs(300);

/// Whose key it is, and for which request.
#[derive(Debug, Clone)]
pub struct Key {
    /// Team or user.
    pub owner: String,
    pub key: String,
    /// Hash of route and body.
    pub request_hash: String,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Begun {
    /// Nobody has sent this before: do the work, then [`complete`] or [`forget`] it.
    Fresh,
    /// It was done: this was the answer.
    Done { status: u16, response: String },
    /// The first one is still under way.
    UnderWay,
    /// The key was used for another request.
    Mismatch,
}

#[derive(sqlx::FromRow)]
struct Row {
    request_hash: String,
    status: Option<i64>,
    response: Option<String>,
}

pub async fn begin(db: &Db, key: &Key, now: Millis) -> Result<Begun, DbError> {
    let fresh = on!(write db, |c| sqlx::query(
        "INSERT INTO idempotency_keys (owner, key, request_hash, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (owner, key) DO UPDATE SET
             request_hash = excluded.request_hash, created_at = excluded.created_at, status = NULL, response = NULL,
             expires_at = excluded.expires_at
         WHERE idempotency_keys.expires_at <= $4
            OR (idempotency_keys.status IS NULL AND idempotency_keys.created_at <= $6)",
    )
    .bind(&key.owner)
    .bind(&key.key)
    .bind(&key.request_hash)
    .bind(now)
    .bind(now + LIFETIME)
    .bind(now - ABANDONED)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))
    .during("begin an idempotent request")?;
    if fresh > 0 {
        return Ok(Begun::Fresh);
    }
    // None: forgotten a moment ago. Whoever asks again finds it free.
    Ok(look(db, key, now).await?.unwrap_or(Begun::UnderWay))
}

/// What there is of a request that was sent before.
pub async fn look(db: &Db, key: &Key, now: Millis) -> Result<Option<Begun>, DbError> {
    let row: Option<Row> = on!(read db, |c| sqlx::query_as(
        "SELECT request_hash, status, response FROM idempotency_keys WHERE owner = $1 AND key = $2 AND expires_at > $3"
    )
    .bind(&key.owner)
    .bind(&key.key)
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("look an idempotent request up")?;
    Ok(row.map(|row| match row {
        row if row.request_hash != key.request_hash => Begun::Mismatch,
        Row { status: Some(status), response: Some(response), .. } => {
            Begun::Done { status: u16::try_from(status).unwrap_or(200), response }
        }
        _ => Begun::UnderWay,
    }))
}

/// Notes the answer of a request that nothing was noted of at its beginning.
pub async fn keep(db: &Db, key: &Key, status: u16, response: &str, now: Millis) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query(
        "INSERT INTO idempotency_keys (owner, key, request_hash, created_at, expires_at, status, response)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (owner, key) DO UPDATE SET
             request_hash = excluded.request_hash, created_at = excluded.created_at, status = excluded.status,
             response = excluded.response, expires_at = excluded.expires_at
         WHERE idempotency_keys.expires_at <= $4",
    )
    .bind(&key.owner)
    .bind(&key.key)
    .bind(&key.request_hash)
    .bind(now)
    .bind(now + LIFETIME)
    .bind(i64::from(status))
    .bind(response)
    .execute(c)
    .await
    .map(|_| ()))
    .during("keep an idempotent request's answer")
}

pub async fn complete(db: &Db, key: &Key, status: u16, response: &str) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query(
        "UPDATE idempotency_keys SET status = $3, response = $4 WHERE owner = $1 AND key = $2"
    )
    .bind(&key.owner)
    .bind(&key.key)
    .bind(i64::from(status))
    .bind(response)
    .execute(c)
    .await
    .map(|_| ()))
    .during("complete an idempotent request")
}

pub async fn forget(db: &Db, key: &Key) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query("DELETE FROM idempotency_keys WHERE owner = $1 AND key = $2 AND status IS NULL")
        .bind(&key.owner)
        .bind(&key.key)
        .execute(c)
        .await
        .map(|_| ()))
    .during("forget an idempotent request")
}

/// Removes answers that have been remembered for long enough.
pub async fn prune(db: &Db, now: Millis) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query("DELETE FROM idempotency_keys WHERE expires_at <= $1")
        .bind(now)
        .execute(c)
        .await
        .map(|_| ()))
    .during("remove old idempotency keys")
}
