//! SQL of steps that were built before.

use atoll_model::TeamId;

use crate::db::{Db, DbError, During, Millis, Tx, on};

/// Whether this step was built before for the team.
pub async fn cached(db: &Db, key: &str, team: &TeamId, now: Millis) -> Result<bool, DbError> {
    on!(write db, |c| sqlx::query("UPDATE build_cache SET used_at = $3 WHERE key = $1 AND team_id = $2")
        .bind(key)
        .bind(team.as_str())
        .bind(now)
        .execute(c)
        .await
        .map(|done| done.rows_affected() > 0))
    .during("look for a built step")
}

pub async fn remember(tx: &mut Tx, key: &str, team: &TeamId, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO build_cache (key, team_id, used_at) VALUES ($1, $2, $3)
         ON CONFLICT (key) DO UPDATE SET used_at = excluded.used_at"
    )
    .bind(key)
    .bind(team.as_str())
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("remember a built step")
}

/// Forgets steps that were not used since `before`, and lets go of their layers.
pub async fn forget(db: &Db, before: Millis) -> Result<(), DbError> {
    let mut tx = db.begin().await?;
    for sql in [
        "DELETE FROM layer_refs WHERE holder IN (SELECT key FROM build_cache WHERE used_at < $1)",
        "DELETE FROM build_cache WHERE used_at < $1",
    ] {
        on!(tx &mut tx, |c| sqlx::query(sql).bind(before).execute(c).await.map(|_| ())).during("forget built steps")?;
    }
    tx.commit().await
}
