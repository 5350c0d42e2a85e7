//! SQL of secrets.

use std::collections::BTreeMap;

use atoll_model::api::secrets::Secret;
use atoll_model::{SecretId, TeamId};
use sqlx::types::Json;

use crate::db::{Db, DbError, During, Millis, Text, Tx, on};

/// A secret as it is kept.
#[derive(Clone, sqlx::FromRow)]
pub struct SecretRow {
    pub id: Text<SecretId>,
    pub name: String,
    pub key_id: String,
    pub sealed: String,
    pub created_by: Option<String>,
    pub created_at: Millis,
    pub updated_at: Millis,
    /// How many values it has had.
    pub version: i64,
    pub metadata: Json<BTreeMap<String, String>>,
}

impl SecretRow {
    /// The answer's shape, without the value.
    #[must_use]
    pub fn into_api(self) -> Secret {
        Secret {
            id: self.id.0,
            name: self.name,
            created_by: self.created_by,
            created_at: self.created_at.to_utc(),
            updated_at: self.updated_at.to_utc(),
        }
    }
}

macro_rules! columns {
    () => {
        "id, name, key_id, sealed, created_by, created_at, updated_at, version, metadata"
    };
}

/// Inserts a team's secret; nothing when it has one of that name.
pub(super) async fn insert(tx: &mut Tx, team: &TeamId, new: &SecretRow) -> Result<bool, DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO secrets (id, team_id, name, key_id, sealed, created_by, created_at, updated_at, version, metadata)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (team_id, name) DO NOTHING"
    )
    .bind(new.id.as_str())
    .bind(team.as_str())
    .bind(&new.name)
    .bind(&new.key_id)
    .bind(&new.sealed)
    .bind(&new.created_by)
    .bind(new.created_at)
    .bind(new.updated_at)
    .bind(new.version)
    .bind(&new.metadata)
    .execute(c)
    .await
    .map(|done| done.rows_affected() > 0))
    .during("insert a secret")
}

/// Sets the value and the labels of a secret that is there. Answers its version.
pub(super) async fn replace(tx: &mut Tx, row: &SecretRow) -> Result<i64, DbError> {
    let version: (i64,) = on!(tx tx, |c| sqlx::query_as(
        "UPDATE secrets SET key_id = $2, sealed = $3, updated_at = $4, metadata = $5, version = version + 1
         WHERE id = $1 RETURNING version"
    )
    .bind(row.id.as_str())
    .bind(&row.key_id)
    .bind(&row.sealed)
    .bind(row.updated_at)
    .bind(&row.metadata)
    .fetch_one(c)
    .await)
    .during("replace a secret's value")?;
    Ok(version.0)
}

/// A team's secret by name or id, for a change of it.
pub(super) async fn own(tx: &mut Tx, team: &TeamId, name_or_id: &str) -> Result<Option<SecretRow>, DbError> {
    on!(tx tx, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM secrets WHERE team_id = $1 AND (name = $2 OR id = $2) ORDER BY CASE WHEN id = $2 THEN 0 ELSE 1 END LIMIT 1"
    ))
    .bind(team.as_str())
    .bind(name_or_id)
    .fetch_optional(c)
    .await)
    .during("find a secret")
}

pub(super) async fn delete(tx: &mut Tx, id: &SecretId) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("DELETE FROM secrets WHERE id = $1").bind(id.as_str()).execute(c).await.map(|_| ()))
        .during("delete a secret")
}

pub(super) async fn count(tx: &mut Tx, team: &TeamId) -> Result<i64, DbError> {
    let row: (i64,) = on!(tx tx, |c| sqlx::query_as("SELECT COUNT(*) FROM secrets WHERE team_id = $1")
        .bind(team.as_str())
        .fetch_one(c)
        .await)
    .during("count a team's secrets")?;
    Ok(row.0)
}

/// A team's secret by name or id.
pub async fn find(db: &Db, team: &TeamId, name_or_id: &str) -> Result<Option<SecretRow>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM secrets WHERE team_id = $1 AND (name = $2 OR id = $2) ORDER BY CASE WHEN id = $2 THEN 0 ELSE 1 END LIMIT 1"
    ))
    .bind(team.as_str())
    .bind(name_or_id)
    .fetch_optional(c)
    .await)
    .during("look a secret up")
}

/// A team's secret by its name.
pub(super) async fn by_name(db: &Db, team: &TeamId, name: &str) -> Result<Option<SecretRow>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM secrets WHERE team_id = $1 AND name = $2"
    ))
    .bind(team.as_str())
    .bind(name)
    .fetch_optional(c)
    .await)
    .during("read a secret")
}

/// A page of a team's secrets, oldest first, after (`at`, `id`).
pub async fn list(db: &Db, team: &TeamId, after: (Millis, &str), limit: i64) -> Result<Vec<SecretRow>, DbError> {
    on!(read db, |c| sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM secrets WHERE team_id = $1 AND (created_at, id) > ($2, $3) ORDER BY created_at, id LIMIT $4"
    ))
    .bind(team.as_str())
    .bind(after.0)
    .bind(after.1)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("list secrets")
}

/// Keys other than this one under which something is encrypted.
pub(super) async fn other_keys(db: &Db, key: &str) -> Result<Vec<(String, i64)>, DbError> {
    on!(read db, |c| sqlx::query_as("SELECT key_id, COUNT(*) FROM secrets WHERE key_id <> $1 GROUP BY key_id")
        .bind(key)
        .fetch_all(c)
        .await)
    .during("look for secrets under other keys")
}
