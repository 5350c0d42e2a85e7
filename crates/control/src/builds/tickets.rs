//! SQL of upload tickets: whoever has one may upload the files of one `COPY`, without a key. Only hashes are kept.

use atoll_model::TeamId;
use sha2::{Digest, Sha256};

use crate::db::{Db, DbError, During, Millis, Text, on};

pub fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret))
}

pub async fn insert(db: &Db, hash: &str, team: &TeamId, files: &str, until: Millis) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query(
        "INSERT INTO upload_tickets (hash, team_id, files, expires_at) VALUES ($1, $2, $3, $4)"
    )
    .bind(hash)
    .bind(team.as_str())
    .bind(files)
    .bind(until)
    .execute(c)
    .await
    .map(|_| ()))
    .during("insert an upload ticket")
}

/// Whose files, and which, a ticket is for.
pub async fn find(db: &Db, hash: &str, now: Millis) -> Result<Option<(TeamId, String)>, DbError> {
    let row: Option<(Text<TeamId>, String)> = on!(read db, |c| sqlx::query_as(
        "SELECT team_id, files FROM upload_tickets WHERE hash = $1 AND expires_at > $2"
    )
    .bind(hash)
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("look an upload ticket up")?;
    Ok(row.map(|(team, files)| (team.0, files)))
}

/// Removes those that are over.
pub async fn forget(db: &Db, now: Millis) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query("DELETE FROM upload_tickets WHERE expires_at <= $1")
        .bind(now)
        .execute(c)
        .await
        .map(|_| ()))
    .during("forget upload tickets")
}
