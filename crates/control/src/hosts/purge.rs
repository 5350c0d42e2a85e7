//! Removing what time has made worthless: expired and long-revoked tokens. Run now and then by whoever leads.

use std::time::Duration;

use crate::db::{Db, DbError, During, Millis, on};

/// Revoked refresh tokens are kept this long, so that their reuse is recognised as theft and not just refused.
const REVOKED_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Used and expired registration tokens are kept this long, for people who look.
const REGISTRATION_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Rows that one statement removes: nobody else has to wait for long.
const AT_ONCE: i64 = 1000;

/// Removes all of them, some at a time; how many.
pub async fn run(db: &Db, now: Millis) -> Result<u64, DbError> {
    let mut removed = 0;
    loop {
        let some = refresh_tokens(db, now).await? + registration_tokens(db, now).await?;
        if some == 0 {
            return Ok(removed);
        }
        removed += some;
    }
}

async fn refresh_tokens(db: &Db, now: Millis) -> Result<u64, DbError> {
    on!(write db, |c| sqlx::query(
        "DELETE FROM host_refresh_tokens WHERE id IN (
             SELECT id FROM host_refresh_tokens WHERE expires_at < $1 OR revoked_at < $2 LIMIT $3)"
    )
    .bind(now)
    .bind(now - REVOKED_KEPT)
    .bind(AT_ONCE)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))
    .during("remove old refresh tokens")
}

async fn registration_tokens(db: &Db, now: Millis) -> Result<u64, DbError> {
    on!(write db, |c| sqlx::query(
        "DELETE FROM host_registration_tokens WHERE token_hash IN (
             SELECT token_hash FROM host_registration_tokens WHERE expires_at < $1 LIMIT $2)"
    )
    .bind(now - REGISTRATION_KEPT)
    .bind(AT_ONCE)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))
    .during("remove old registration tokens")
}
