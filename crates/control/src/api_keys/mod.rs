//! API keys: `atl_` and 32 random hex characters. Only the SHA-256 is kept; the key itself is shown once.
//!
//! E2B's SDKs look for `e2b_` before the same characters: a key is accepted in both forms, and is one key.
//!
//! A key acts for its team, within its scope (see `scope`), until it expires, and while its maker's account isn't switched
//! off: they know it. SHA-256 (not a password hash) is right here: the key has 128 random bits, so there is nothing to
//! guess, and every request pays for it.

mod scope;
mod store;
#[cfg(test)]
mod tests;

use atoll_model::api::auth::KeyScope;
use atoll_model::{ApiKeyId, TeamId, UserId};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::audit::{self, Actor, Entry, Origin};
use crate::db::{Db, DbError, Millis, Tx};

pub use scope::allows;
pub use store::{KeyRow, LiveKey, get, list, mark_used};

const PREFIX: &str = "atl_";
const E2B_PREFIX: &str = "e2b_";
/// Keys of one team.
pub const MAX_KEYS: i64 = 1000;
const RANDOM_HEX: usize = 32;
/// What is shown of a key in lists.
const SHOWN: usize = 10;

/// A key that is to be made.
pub struct NewKey<'a> {
    pub team: &'a TeamId,
    pub name: &'a str,
    pub created_by: Option<&'a UserId>,
    pub scope: KeyScope,
    pub expires_at: Option<Millis>,
}

impl<'a> NewKey<'a> {
    /// A key for everything, for ever.
    #[must_use]
    pub const fn unlimited(team: &'a TeamId, name: &'a str, created_by: Option<&'a UserId>) -> Self {
        Self { team, name, created_by, scope: KeyScope::All, expires_at: None }
    }
}

/// A key that was just made: the only moment at which its secret is known.
pub struct Made {
    pub id: ApiKeyId,
    pub prefix: String,
    pub secret: SecretString,
}

/// The random part of a text that has the form of a key. Looked at before anything is hashed or read.
fn material(text: &str) -> Option<&str> {
    let rest = text.strip_prefix(PREFIX).or_else(|| text.strip_prefix(E2B_PREFIX))?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (rest.len() == RANDOM_HEX && rest.bytes().all(is_hex)).then_some(rest)
}

/// The form of a key that E2B's SDKs take.
#[must_use]
pub fn e2b_form(key: &SecretString) -> Option<String> {
    material(key.expose_secret()).map(|rest| format!("{E2B_PREFIX}{rest}"))
}

/// Whether the team has as many keys as it may have.
pub async fn is_full(tx: &mut Tx, team: &TeamId) -> Result<bool, DbError> {
    Ok(store::count(tx, team).await? >= MAX_KEYS)
}

fn hash(key: &str) -> String {
    hex::encode(Sha256::digest(key))
}

/// Makes a key in `tx`, with its audit entry.
pub async fn insert(
    tx: &mut Tx,
    new: &NewKey<'_>,
    actor: &Actor,
    origin: &Origin,
    now: Millis,
) -> Result<Made, DbError> {
    let secret: SecretString = format!("{PREFIX}{}", hex::encode(rand::random::<[u8; RANDOM_HEX / 2]>())).into();
    let id = ApiKeyId::new();
    let prefix = secret.expose_secret()[..SHOWN].to_owned();
    store::insert(tx, &id, new, &hash(secret.expose_secret()), &prefix, now).await?;
    let entry = Entry {
        team: Some(new.team),
        actor,
        origin,
        action: "api_key.create",
        target_kind: "api_key",
        target_id: Some(id.as_str()),
        result: "ok",
        details: json!({ "after": {
            "name": new.name,
            "key_prefix": prefix,
            "scope": new.scope,
            "expires_at": new.expires_at.map(Millis::to_utc),
        } }),
    };
    audit::record(tx, now, &entry).await?;
    Ok(Made { id, prefix, secret })
}

/// What came of the wish to delete a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    Yes,
    /// The team has no such key.
    NoKey,
    /// Somebody else made it.
    NotTheirs,
}

/// Deletes a team's key: it is worth nothing from the next request on. With `made_by`, only if that person made it.
pub async fn delete(
    db: &Db,
    team: &TeamId,
    id: &ApiKeyId,
    made_by: Option<&UserId>,
    actor: &Actor,
    origin: &Origin,
    now: Millis,
) -> Result<Deleted, DbError> {
    let mut tx = db.begin().await?;
    let Some(before) = store::delete(&mut tx, team, id).await? else { return Ok(Deleted::NoKey) };
    if made_by.is_some_and(|person| before.created_by.as_deref() != Some(person)) {
        // Not committed: it stays.
        return Ok(Deleted::NotTheirs);
    }
    let entry = Entry {
        team: Some(team),
        actor,
        origin,
        action: "api_key.delete",
        target_kind: "api_key",
        target_id: Some(id.as_str()),
        result: "ok",
        details: json!({ "before": {
            "name": before.name,
            "key_prefix": before.key_prefix,
            "scope": before.scope.0,
            "created_by": before.created_by.as_deref(),
            "expires_at": before.expires_at.map(Millis::to_utc),
        } }),
    };
    audit::record(&mut tx, now, &entry).await?;
    tx.commit().await?;
    Ok(Deleted::Yes)
}

/// Gives a team's key another name. Answers whether there was one.
pub async fn rename(
    db: &Db,
    team: &TeamId,
    id: &ApiKeyId,
    name: &str,
    made_by: Option<&UserId>,
    (actor, origin): (&Actor, &Origin),
    now: Millis,
) -> Result<bool, DbError> {
    let mut tx = db.begin().await?;
    let Some(before) = store::rename(&mut tx, team, id, name, made_by).await? else { return Ok(false) };
    let entry = Entry {
        team: Some(team),
        actor,
        origin,
        action: "api_key.rename",
        target_kind: "api_key",
        target_id: Some(id.as_str()),
        result: "ok",
        details: json!({ "before": { "name": before }, "after": { "name": name } }),
    };
    audit::record(&mut tx, now, &entry).await?;
    tx.commit().await?;
    Ok(true)
}

/// The SHA-256 of a text that has the form of a key, in either spelling of it.
#[must_use]
pub fn digest(text: &str) -> Option<[u8; 32]> {
    material(text).map(|material| Sha256::new().chain_update(PREFIX).chain_update(material).finalize().into())
}

/// What the key with this digest may act on, if there is one that has not expired.
pub async fn by_digest(db: &Db, digest: &[u8; 32], now: Millis) -> Result<Option<LiveKey>, DbError> {
    store::by_hash(db, &hex::encode(digest), now).await
}
