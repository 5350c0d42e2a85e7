//! SQL of API keys.

use atoll_model::api::auth::{ApiKey, KeyScope};
use atoll_model::{ApiKeyId, TeamId, UserId};

use sqlx::types::Json;

use super::NewKey;
use crate::db::{Db, DbError, During, Millis, Text, Tx, on};
use crate::sandboxes::Network;

/// What a request with this key may act on.
#[derive(Clone, sqlx::FromRow)]
pub struct LiveKey {
    pub id: Text<ApiKeyId>,
    pub team_id: Text<TeamId>,
    pub team_is_byoc: bool,
    pub team_network: Option<Json<Network>>,
    pub last_used_at: Option<Millis>,
    pub scope: Text<KeyScope>,
    pub expires_at: Option<Millis>,
}

impl LiveKey {
    /// Whether it has not expired.
    #[must_use]
    pub fn is_live(&self, now: Millis) -> bool {
        self.expires_at.is_none_or(|at| at > now)
    }
}

#[derive(sqlx::FromRow)]
pub struct KeyRow {
    pub id: Text<ApiKeyId>,
    pub name: String,
    pub key_prefix: String,
    pub created_by: Option<Text<UserId>>,
    pub created_at: Millis,
    pub last_used_at: Option<Millis>,
    pub scope: Text<KeyScope>,
    pub expires_at: Option<Millis>,
}

macro_rules! columns {
    () => {
        "id, name, key_prefix, created_by, created_at, last_used_at, scope, expires_at"
    };
}

impl KeyRow {
    /// The answer's shape, without the secret.
    #[must_use]
    pub fn into_api(self) -> ApiKey {
        ApiKey {
            id: self.id.0,
            name: self.name,
            key_prefix: self.key_prefix,
            created_by: self.created_by.map(|id| id.0),
            created_at: self.created_at.to_utc(),
            last_used_at: self.last_used_at.map(Millis::to_utc),
            scope: self.scope.0,
            expires_at: self.expires_at.map(Millis::to_utc),
            key: None,
            e2b_key: None,
        }
    }
}

pub(super) async fn insert(
    tx: &mut Tx,
    id: &ApiKeyId,
    new: &NewKey<'_>,
    hash: &str,
    prefix: &str,
    now: Millis,
) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO api_keys (id, team_id, name, key_hash, key_prefix, created_by, created_at, scope, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(id.as_str())
    .bind(new.team.as_str())
    .bind(new.name)
    .bind(hash)
    .bind(prefix)
    .bind(new.created_by.map(UserId::as_str))
    .bind(now)
    .bind(new.scope.as_str())
    .bind(new.expires_at)
    .execute(c)
    .await
    .map(|_| ()))
    .during("insert an API key")
}

/// Deletes a team's key and answers it, if there was one.
pub(super) async fn delete(tx: &mut Tx, team: &TeamId, id: &ApiKeyId) -> Result<Option<KeyRow>, DbError> {
    on!(tx tx, |c| sqlx::query_as(concat!("DELETE FROM api_keys WHERE id = $1 AND team_id = $2 RETURNING ", columns!()))
        .bind(id.as_str())
        .bind(team.as_str())
        .fetch_optional(c)
        .await)
    .during("delete an API key")
}

/// Gives a key another name, and answers the one before.
pub(super) async fn rename(
    tx: &mut Tx,
    team: &TeamId,
    id: &ApiKeyId,
    name: &str,
    made_by: Option<&UserId>,
) -> Result<Option<String>, DbError> {
    let before: Option<(String,)> = on!(tx &mut *tx, |c| sqlx::query_as(
        "SELECT name FROM api_keys WHERE id = $1 AND team_id = $2 AND (CAST($3 AS TEXT) IS NULL OR created_by = $3)"
    )
    .bind(id.as_str())
    .bind(team.as_str())
    .bind(made_by.map(UserId::as_str))
    .fetch_optional(c)
    .await)
    .during("read an API key's name")?;
    let Some((before,)) = before else { return Ok(None) };
    let renamed = on!(tx tx, |c| sqlx::query("UPDATE api_keys SET name = $3 WHERE id = $1 AND team_id = $2")
        .bind(id.as_str())
        .bind(team.as_str())
        .bind(name)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))
    .during("rename an API key")?;
    Ok((renamed > 0).then_some(before))
}

pub(super) async fn count(tx: &mut Tx, team: &TeamId) -> Result<i64, DbError> {
    let row: (i64,) = on!(tx tx, |c| sqlx::query_as("SELECT COUNT(*) FROM api_keys WHERE team_id = $1")
        .bind(team.as_str())
        .fetch_one(c)
        .await)
    .during("count a team's API keys")?;
    Ok(row.0)
}

/// A key that has not expired, and whose maker has not been switched off.
pub(super) async fn by_hash(db: &Db, hash: &str, now: Millis) -> Result<Option<LiveKey>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT k.id, k.team_id, t.is_byoc AS team_is_byoc, t.network AS team_network, k.last_used_at, k.scope, k.expires_at
         FROM api_keys k JOIN teams t ON t.id = k.team_id LEFT JOIN users u ON u.id = k.created_by
         WHERE k.key_hash = $1 AND (k.expires_at IS NULL OR k.expires_at > $2) AND COALESCE(u.is_active, TRUE) = TRUE",
    )
    .bind(hash)
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("look an API key up")
}

/// A page of a team's keys, oldest first, after (`at`, `id`).
pub async fn list(db: &Db, team: &TeamId, after: (Millis, &str), limit: i64) -> Result<Vec<KeyRow>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM api_keys WHERE team_id = $1 AND (created_at > $2 OR (created_at = $2 AND id > $3)) \
         ORDER BY created_at, id LIMIT $4",
    ))
    .bind(team.as_str())
    .bind(after.0)
    .bind(after.1)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("list API keys")
}

/// One key.
pub async fn get(db: &Db, id: &ApiKeyId) -> Result<Option<KeyRow>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!("SELECT ", columns!(), " FROM api_keys WHERE id = $1"))
        .bind(id.as_str())
        .fetch_optional(c)
        .await)
    .during("read an API key")
}

/// Notes that a key was used; callers do it at most once a minute per key.
pub async fn mark_used(db: &Db, id: &ApiKeyId, now: Millis) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query("UPDATE api_keys SET last_used_at = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(now)
        .execute(c)
        .await
        .map(|_| ()))
    .during("note the use of an API key")
}
