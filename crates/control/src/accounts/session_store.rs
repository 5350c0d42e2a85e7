//! SQL of sessions.

use atoll_model::api::auth::SessionKind;
use atoll_model::{SessionId, TeamId, UserId};

use sqlx::types::Json;

use super::store::RoleName;
use crate::db::{Db, DbError, During, Millis, Text, Tx, on};
use crate::sandboxes::Network;

/// Who a session belongs to, and what they may do now.
#[derive(Clone, sqlx::FromRow)]
pub struct LiveSession {
    pub id: Text<SessionId>,
    pub kind: Text<SessionKind>,
    pub expires_at: Millis,
    pub last_seen_at: Option<Millis>,
    pub user_id: Text<UserId>,
    pub email: String,
    pub name: String,
    pub is_admin: bool,
    pub has_password: bool,
    pub team_id: Text<TeamId>,
    pub team_is_byoc: bool,
    pub team_network: Option<Json<Network>>,
    pub role: Text<RoleName>,
}

macro_rules! live {
    ($where:literal) => {
        concat!(
            "SELECT s.id, s.kind, s.expires_at, s.last_seen_at, u.id AS user_id, u.email, u.name, u.is_admin,
                    (u.password_hash IS NOT NULL) AS has_password, t.id AS team_id, t.is_byoc AS team_is_byoc,
                    t.network AS team_network, m.role
             FROM sessions s
             JOIN users u ON u.id = s.user_id
             JOIN teams t ON t.id = s.team_id
             JOIN team_members m ON m.team_id = s.team_id AND m.user_id = s.user_id
             WHERE s.revoked_at IS NULL AND s.expires_at > $2 AND u.is_active = TRUE AND ",
            $where
        )
    };
}

/// A token's session, if session, account and membership are all still good.
pub async fn by_id(db: &Db, session: &SessionId, now: Millis) -> Result<Option<LiveSession>, DbError> {
    on!(read db, |c| sqlx::query_as(live!("s.id = $1 AND s.kind = 'token'"))
        .bind(session.as_str())
        .bind(now)
        .fetch_optional(c)
        .await)
    .during("read a session")
}

/// The same for a cookie's.
pub async fn by_secret(db: &Db, secret_hash: &str, now: Millis) -> Result<Option<LiveSession>, DbError> {
    on!(read db, |c| sqlx::query_as(live!("s.secret_hash = $1 AND s.kind = 'browser'"))
        .bind(secret_hash)
        .bind(now)
        .fetch_optional(c)
        .await)
    .during("read a browser's session")
}

pub struct NewSession<'a> {
    pub id: &'a SessionId,
    pub kind: SessionKind,
    pub secret_hash: Option<&'a str>,
    pub user: &'a UserId,
    pub team: &'a TeamId,
    pub created_at: Millis,
    pub expires_at: Millis,
    pub address: Option<&'a str>,
    pub user_agent: Option<&'a str>,
}

pub async fn insert(tx: &mut Tx, session: &NewSession<'_>) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO sessions
             (id, kind, secret_hash, user_id, team_id, created_at, expires_at, address, user_agent, last_seen_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $6)",
    )
    .bind(session.id.as_str())
    .bind(session.kind.as_str())
    .bind(session.secret_hash)
    .bind(session.user.as_str())
    .bind(session.team.as_str())
    .bind(session.created_at)
    .bind(session.expires_at)
    .bind(session.address)
    .bind(session.user_agent)
    .execute(c)
    .await
    .map(|_| ()))
    .during("open a session")
}

/// Ends a session of `user`. Answers it, if there was one to end.
pub async fn revoke(
    tx: &mut Tx,
    user: &UserId,
    session: &SessionId,
    now: Millis,
) -> Result<Option<SessionRow>, DbError> {
    on!(tx tx, |c| sqlx::query_as(
        "UPDATE sessions SET revoked_at = $3
         WHERE id = $1 AND user_id = $2 AND revoked_at IS NULL AND expires_at > $3
         RETURNING id, kind, team_id, address, user_agent, created_at, last_seen_at, expires_at",
    )
    .bind(session.as_str())
    .bind(user.as_str())
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("end a session")
}

/// Ends all sessions of `user` but `kept`. Answers how many.
pub async fn revoke_others(tx: &mut Tx, user: &UserId, kept: Option<&SessionId>, now: Millis) -> Result<u64, DbError> {
    on!(tx tx, |c| sqlx::query(
        "UPDATE sessions SET revoked_at = $3
         WHERE user_id = $1 AND id <> $2 AND revoked_at IS NULL AND expires_at > $3",
    )
    .bind(user.as_str())
    .bind(kept.map_or("", SessionId::as_str))
    .bind(now)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))
    .during("end a user's sessions")
}

/// Makes a browser's session act in another team.
pub async fn switch_team(tx: &mut Tx, session: &SessionId, team: &TeamId) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("UPDATE sessions SET team_id = $2 WHERE id = $1")
        .bind(session.as_str())
        .bind(team.as_str())
        .execute(c)
        .await
        .map(|_| ()))
    .during("switch a session's team")
}

/// Notes that a session was used; callers do it at most once a minute per session.
pub async fn mark_seen(db: &Db, session: &SessionId, now: Millis) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query("UPDATE sessions SET last_seen_at = $2 WHERE id = $1")
        .bind(session.as_str())
        .bind(now)
        .execute(c)
        .await
        .map(|_| ()))
    .during("note the use of a session")
}

#[derive(sqlx::FromRow)]
pub struct SessionRow {
    pub id: Text<SessionId>,
    pub kind: Text<SessionKind>,
    pub team_id: Text<TeamId>,
    pub address: Option<String>,
    pub user_agent: Option<String>,
    pub created_at: Millis,
    pub last_seen_at: Option<Millis>,
    pub expires_at: Millis,
}

/// A page of a person's sessions that are neither over nor ended, newest first, after (`at`, `id`).
pub async fn list(
    db: &Db,
    user: &UserId,
    after: (Millis, &str),
    limit: i64,
    now: Millis,
) -> Result<Vec<SessionRow>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT id, kind, team_id, address, user_agent, created_at, last_seen_at, expires_at FROM sessions
         WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > $5
             AND (created_at < $2 OR (created_at = $2 AND id < $3))
         ORDER BY created_at DESC, id DESC LIMIT $4",
    )
    .bind(user.as_str())
    .bind(after.0)
    .bind(after.1)
    .bind(limit)
    .bind(now)
    .fetch_all(c)
    .await)
    .during("list sessions")
}

/// Removes sessions that ended before `before`, a bounded number at a time. Answers how many.
pub async fn prune(db: &Db, before: Millis) -> Result<u64, DbError> {
    on!(write db, |c| sqlx::query(
        "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < $1 LIMIT 1000)"
    )
    .bind(before)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))
    .during("remove old sessions")
}
