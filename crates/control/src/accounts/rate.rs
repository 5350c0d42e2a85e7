//! A bound on guessing: so many attempts per key in a fixed window, counted in the database so that replicas share
//! it. An attempt that succeeds is given back.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::db::{Db, DbError, During, Millis, on};

pub const WINDOW: Duration = Duration::from_secs(60);

/// The key of a limit: hashed, so that the table holds neither addresses nor account names.
#[must_use]
pub fn key(kind: &str, what: &str) -> String {
    hex::encode(Sha256::digest(format!("{kind}\0{what}")))
}

/// Counts an attempt. Answers how long to wait when there were more than `limit` in this window.
pub async fn take(db: &Db, key: &str, limit: i64, now: Millis) -> Result<Option<Duration>, DbError> {
    let row: (Millis, i64) = on!(write db, |c| sqlx::query_as(
        "INSERT INTO rate_limits (key, window_start, count) VALUES ($1, $2, 1)
         ON CONFLICT (key) DO UPDATE SET
             count = CASE WHEN rate_limits.window_start <= $3 THEN 1 ELSE rate_limits.count + 1 END,
             window_start = CASE WHEN rate_limits.window_start <= $3 THEN $2 ELSE rate_limits.window_start END
         RETURNING window_start, count",
    )
    .bind(key)
    .bind(now)
    .bind(now - WINDOW)
    .fetch_one(c)
    .await)
    .during("count an attempt")?;
    let (start, count) = row;
    Ok((count > limit).then(|| (start + WINDOW).since(now).max(Duration::from_secs(1))))
}

pub async fn give_back(db: &Db, key: &str) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query("UPDATE rate_limits SET count = count - 1 WHERE key = $1 AND count > 0")
        .bind(key)
        .execute(c)
        .await
        .map(|_| ()))
    .during("give an attempt back")
}

/// Removes windows that are over.
pub async fn prune(db: &Db, now: Millis) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query("DELETE FROM rate_limits WHERE window_start < $1")
        .bind(now - WINDOW)
        .execute(c)
        .await
        .map(|_| ()))
    .during("remove old attempt counts")
}
