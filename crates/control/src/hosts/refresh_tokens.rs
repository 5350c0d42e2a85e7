//! The rows of refresh tokens: what `rotation` decides is written here, and what their uses mean for one another.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use atoll_model::HostId;
use sqlx::types::Json;

use super::secret;
use crate::db::{Db, DbError, During, Millis, Text, Tx, on};

/// How long a token that has been replaced still works, for requests that are under way.
pub const GRACE: Duration = Duration::from_secs(60);
/// Unused successors that one token may have at a time; the oldest go first. A host whose answers are always lost
/// must not fill the table.
const MAX_UNUSED: i64 = 16;

/// A refresh token about to be issued.
pub struct NewToken {
    pub id: String,
    pub family: String,
    pub parent: Option<String>,
    pub token: String,
    pub created_at: Millis,
    pub expires_at: Millis,
}

impl NewToken {
    /// The first of a new family.
    pub fn first(now: Millis, ttl: Duration) -> Self {
        Self::of(secret::row_id(), None, now, ttl)
    }

    pub fn of(family: String, parent: Option<String>, now: Millis, ttl: Duration) -> Self {
        let (id, token) = (secret::row_id(), secret::refresh_token());
        Self { id, family, parent, token, created_at: now, expires_at: now + ttl }
    }
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct TokenRow {
    pub id: String,
    pub host_id: Text<HostId>,
    pub family_id: String,
    pub expires_at: Millis,
    pub used_at: Option<Millis>,
    /// In the future: revoked from then on.
    pub revoked_at: Option<Millis>,
    pub parent_id: Option<String>,
}

/// Access tokens that were issued with these refresh tokens are in use, each by its host. Answers the ids of those that
/// are no longer good, so that their access tokens aren't either.
pub async fn access_tokens_used(
    tx: &mut Tx,
    used: &[(&HostId, &str)],
    now: Millis,
) -> Result<HashSet<String>, DbError> {
    if used.is_empty() {
        return Ok(HashSet::new());
    }
    let ids: Vec<&str> = used.iter().map(|(_, id)| *id).collect();
    let rows: Vec<TokenRow> = of_ids(tx, &ids).await?;
    let rows: HashMap<&str, &TokenRow> = rows.iter().map(|row| (row.id.as_str(), row)).collect();
    let mut refused = HashSet::new();
    let mut first_uses = Vec::new();
    for (host, id) in used {
        // Purged long ago: the access token has its own expiry, and the family was checked.
        let Some(row) = rows.get(id) else { continue };
        if row.host_id.0 != **host || (row.used_at.is_none() && row.revoked_at.is_some_and(|at| at <= now)) {
            refused.insert((*id).to_owned());
        } else if row.used_at.is_none() {
            first_uses.push(*row);
        }
    }
    mark_used(tx, &first_uses, now).await?;
    Ok(refused)
}

/// Whether the access token that was issued with this refresh token is not good any more: by the rule of
/// [`access_tokens_used`], noting nothing.
pub async fn refuses_access(db: &Db, host: &HostId, id: &str, now: Millis) -> Result<bool, DbError> {
    let refused: Option<(String,)> = on!(read db, |c| sqlx::query_as(
        "SELECT id FROM host_refresh_tokens
         WHERE id = $1 AND (host_id <> $2 OR (used_at IS NULL AND revoked_at <= $3))"
    )
    .bind(id)
    .bind(host.as_str())
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("read a refresh token")?;
    Ok(refused.is_some())
}

async fn of_ids(tx: &mut Tx, ids: &[&str]) -> Result<Vec<TokenRow>, DbError> {
    const SQLITE: &str = "SELECT id, host_id, family_id, expires_at, used_at, revoked_at, parent_id
        FROM host_refresh_tokens WHERE id IN (SELECT value FROM json_each($1))";
    const POSTGRES: &str = "SELECT id, host_id, family_id, expires_at, used_at, revoked_at, parent_id
        FROM host_refresh_tokens WHERE id = ANY($1)";
    match tx {
        Tx::Sqlite(c) => sqlx::query_as(SQLITE).bind(Json(ids)).fetch_all(&mut **c).await,
        Tx::Postgres(c) => sqlx::query_as(POSTGRES).bind(ids).fetch_all(&mut **c).await,
    }
    .during("read refresh tokens")
}

/// The first use of tokens: their parents and their unused siblings go, after the grace.
pub async fn mark_used(tx: &mut Tx, tokens: &[&TokenRow], now: Millis) -> Result<(), DbError> {
    const SQLITE: [&str; 2] = [
        "UPDATE host_refresh_tokens SET used_at = $2, revoked_at = NULL
         WHERE id IN (SELECT value FROM json_each($1))",
        "UPDATE host_refresh_tokens SET revoked_at = $2
         WHERE revoked_at IS NULL AND (id IN (SELECT value FROM json_each($1))
             OR (parent_id IN (SELECT value FROM json_each($1)) AND used_at IS NULL))",
    ];
    const POSTGRES: [&str; 2] = [
        "UPDATE host_refresh_tokens SET used_at = $2, revoked_at = NULL WHERE id = ANY($1)",
        "UPDATE host_refresh_tokens SET revoked_at = $2
         WHERE revoked_at IS NULL AND (id = ANY($1) OR (parent_id = ANY($1) AND used_at IS NULL))",
    ];
    let fresh = || tokens.iter().filter(|token| token.used_at.is_none());
    let ids: Vec<&str> = fresh().map(|token| token.id.as_str()).collect();
    let parents: Vec<&str> = fresh().filter_map(|token| token.parent_id.as_deref()).collect();
    for (step, (ids, at)) in [(ids, now), (parents, now + GRACE)].into_iter().enumerate() {
        if ids.is_empty() {
            continue;
        }
        match tx {
            Tx::Sqlite(c) => sqlx::query(SQLITE[step]).bind(Json(ids)).bind(at).execute(&mut **c).await.map(|_| ()),
            Tx::Postgres(c) => sqlx::query(POSTGRES[step]).bind(ids).bind(at).execute(&mut **c).await.map(|_| ()),
        }
        .during("note the first use of refresh tokens")?;
    }
    Ok(())
}

pub async fn insert(tx: &mut Tx, host: &HostId, token: &NewToken) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO host_refresh_tokens (id, host_id, family_id, token_hash, created_at, expires_at, parent_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7)"
    )
    .bind(&token.id)
    .bind(host.as_str())
    .bind(&token.family)
    .bind(secret::hash(&token.token))
    .bind(token.created_at)
    .bind(token.expires_at)
    .bind(token.parent.as_deref())
    .execute(c)
    .await
    .map(|_| ()))
    .during("insert a refresh token")
}

/// Revokes every refresh token of the host, at once.
pub async fn revoke_all(tx: &mut Tx, host: &HostId, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "UPDATE host_refresh_tokens SET revoked_at = $2
         WHERE host_id = $1 AND (revoked_at IS NULL OR revoked_at > $2)"
    )
    .bind(host.as_str())
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("revoke refresh tokens")
}

/// Refresh tokens of the host that nobody has used yet are good until then, unless they are used before.
pub async fn revoke_unused(tx: &mut Tx, host: &HostId, at: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "UPDATE host_refresh_tokens SET revoked_at = $2
         WHERE host_id = $1 AND used_at IS NULL AND revoked_at IS NULL"
    )
    .bind(host.as_str())
    .bind(at)
    .execute(c)
    .await
    .map(|_| ()))
    .during("revoke unused refresh tokens")
}

pub async fn host_of(tx: &mut Tx, hash: &str) -> Result<Option<HostId>, DbError> {
    let row: Option<(Text<HostId>,)> =
        on!(tx tx, |c| sqlx::query_as("SELECT host_id FROM host_refresh_tokens WHERE token_hash = $1")
            .bind(hash)
            .fetch_optional(c)
            .await)
        .during("look up a refresh token")?;
    Ok(row.map(|row| row.0.0))
}

pub async fn by_hash(tx: &mut Tx, hash: &str) -> Result<Option<TokenRow>, DbError> {
    on!(tx tx, |c| sqlx::query_as(
        "SELECT id, host_id, family_id, expires_at, used_at, revoked_at, parent_id FROM host_refresh_tokens
         WHERE token_hash = $1"
    )
    .bind(hash)
    .fetch_optional(c)
    .await)
    .during("read a refresh token")
}

/// Forgets all but the newest unused successors of a token.
pub async fn forget_surplus(tx: &mut Tx, parent: &str) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "DELETE FROM host_refresh_tokens WHERE parent_id = $1 AND used_at IS NULL AND id NOT IN (
             SELECT id FROM host_refresh_tokens WHERE parent_id = $1 AND used_at IS NULL
             ORDER BY created_at DESC, id LIMIT $2)"
    )
    .bind(parent)
    .bind(MAX_UNUSED)
    .execute(c)
    .await
    .map(|_| ()))
    .during("forget surplus refresh tokens")
}
