//! SQL of invitations.

use atoll_model::{InvitationId, TeamId, UserId};

use super::store::RoleName;
use crate::db::{Db, DbError, During, Millis, Text, Tx, on};

#[derive(Clone, sqlx::FromRow)]
pub struct InvitationRow {
    pub id: Text<InvitationId>,
    pub team_id: Text<TeamId>,
    pub email: String,
    pub role: Text<RoleName>,
    pub invited_by: Option<Text<UserId>>,
    pub created_at: Millis,
    pub expires_at: Millis,
}

/// One that is still good, by the hash of its token.
pub async fn by_token(db: &Db, token_hash: &str, now: Millis) -> Result<Option<InvitationRow>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT id, team_id, email, role, invited_by, created_at, expires_at FROM invitations
         WHERE token_hash = $1 AND expires_at > $2",
    )
    .bind(token_hash)
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("read an invitation")
}

/// A team's that are still good, oldest first, after (`at`, `id`).
pub async fn list(
    db: &Db,
    team: &TeamId,
    after: (Millis, &str),
    limit: i64,
    now: Millis,
) -> Result<Vec<InvitationRow>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT id, team_id, email, role, invited_by, created_at, expires_at FROM invitations
         WHERE team_id = $1 AND expires_at > $5 AND (created_at > $2 OR (created_at = $2 AND id > $3))
         ORDER BY created_at, id LIMIT $4",
    )
    .bind(team.as_str())
    .bind(after.0)
    .bind(after.1)
    .bind(limit)
    .bind(now)
    .fetch_all(c)
    .await)
    .during("list invitations")
}

pub async fn insert(tx: &mut Tx, row: &InvitationRow, token_hash: &str) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO invitations (id, team_id, email, role, token_hash, invited_by, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(row.id.as_str())
    .bind(row.team_id.as_str())
    .bind(&row.email)
    .bind(row.role.0.as_str())
    .bind(token_hash)
    .bind(row.invited_by.as_ref().map(|id| id.as_str()))
    .bind(row.created_at)
    .bind(row.expires_at)
    .execute(c)
    .await
    .map(|_| ()))
    .during("insert an invitation")
}

/// Takes back what that address was invited with before.
pub async fn delete_for(tx: &mut Tx, team: &TeamId, email: &str) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("DELETE FROM invitations WHERE team_id = $1 AND email = $2")
        .bind(team.as_str())
        .bind(email)
        .execute(c)
        .await
        .map(|_| ()))
    .during("take an older invitation back")
}

/// Takes an invitation out of the table: to accept it, or to take it back. Answers it, if it was there.
pub async fn delete(tx: &mut Tx, team: &TeamId, id: &InvitationId) -> Result<Option<InvitationRow>, DbError> {
    on!(tx tx, |c| sqlx::query_as(
        "DELETE FROM invitations WHERE id = $1 AND team_id = $2
         RETURNING id, team_id, email, role, invited_by, created_at, expires_at"
    )
    .bind(id.as_str())
    .bind(team.as_str())
    .fetch_optional(c)
    .await)
    .during("take an invitation")
}

pub async fn count(tx: &mut Tx, team: &TeamId, now: Millis) -> Result<i64, DbError> {
    let row: (i64,) = on!(tx tx, |c| sqlx::query_as(
        "SELECT COUNT(*) FROM invitations WHERE team_id = $1 AND expires_at > $2"
    )
    .bind(team.as_str())
    .bind(now)
    .fetch_one(c)
    .await)
    .during("count invitations")?;
    Ok(row.0)
}
