//! SQL of steps that were built before. They are a team's own, as what uploaded files are called is: the same hash may
//! mean other bytes to another team.

use atoll_model::TeamId;

use crate::db::{Db, DbError, During, Millis, Tx, on};
use crate::layers::store;

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
         ON CONFLICT (team_id, key) DO UPDATE SET used_at = excluded.used_at"
    )
    .bind(key)
    .bind(team.as_str())
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("remember a built step")
}

/// Forgets steps that were not used since `before` or stand on what is lost, and lets go of their layers.
pub async fn forget(db: &Db, before: Millis) -> Result<(), DbError> {
    let keys: Vec<(String,)> = on!(read db, |c| sqlx::query_as(
        "SELECT key FROM build_cache WHERE used_at < $1 UNION SELECT r.holder FROM layers l
         JOIN layer_refs r ON r.layer_id = l.id WHERE l.lost AND r.holder LIKE 'stp-%'"
    )
    .bind(before)
    .fetch_all(c)
    .await)
    .during("look for built steps to forget")?;
    for (key,) in keys {
        let mut tx = db.begin().await?;
        on!(tx &mut tx, |c| sqlx::query("DELETE FROM build_cache WHERE key = $1").bind(&key).execute(c).await.map(|_| ()))
            .during("forget a built step")?;
        store::release(&mut tx, &key).await?;
        tx.commit().await?;
    }
    Ok(())
}
