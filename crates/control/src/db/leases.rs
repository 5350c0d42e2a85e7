//! Work that exactly one replica must do alone is leased: whoever holds the row's unexpired lease does it.

use std::time::Duration;

use super::{Db, DbError, During, Millis, on};

/// Takes or renews the lease `name` for `holder`. The answer is the epoch, which grows at every change of holder,
/// or nothing when somebody else has it.
pub async fn take(db: &Db, name: &str, holder: &str, now: Millis, duration: Duration) -> Result<Option<i64>, DbError> {
    let row: Option<(i64,)> = on!(write db, |c| sqlx::query_as(
        "INSERT INTO leases (name, holder, expires_at, epoch) VALUES ($1, $2, $3, 1)
         ON CONFLICT (name) DO UPDATE SET
             epoch = CASE WHEN leases.holder = excluded.holder THEN leases.epoch ELSE leases.epoch + 1 END,
             holder = excluded.holder, expires_at = excluded.expires_at
         WHERE leases.holder = excluded.holder OR leases.expires_at < $4
         RETURNING epoch",
    )
    .bind(name)
    .bind(holder)
    .bind(now + duration)
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("take a lease")?;
    Ok(row.map(|row| row.0))
}

/// Ends all leases: whoever held them is gone.
pub async fn end_all(db: &Db) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query("UPDATE leases SET expires_at = 0").execute(c).await.map(|_| ())).during("end leases")
}

/// Gives the lease up early, so that another replica needn't wait for it to expire.
pub async fn release(db: &Db, name: &str, holder: &str) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query("UPDATE leases SET expires_at = 0 WHERE name = $1 AND holder = $2")
        .bind(name)
        .bind(holder)
        .execute(c)
        .await
        .map(|_| ()))
    .during("release a lease")
}
