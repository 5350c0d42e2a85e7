//! API keys: `atl_` and 32 random hex characters. Only the SHA-256 is kept; the key itself is shown once.
//!
//! A key acts for its team. SHA-256 (not a password hash) is right here: the key has 128 random bits, so there is
//! nothing to guess, and every request pays for it.

mod store;
#[cfg(test)]
mod tests;

use atoll_model::{ApiKeyId, TeamId, UserId};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::audit::{self, Actor, Entry, Origin};
use crate::db::{Db, DbError, Millis, Tx};

pub use store::{KeyRow, LiveKey, get, list, mark_used};

const PREFIX: &str = "atl_";
const RANDOM_HEX: usize = 32;
/// What is shown of a key in lists.
const SHOWN: usize = 10;

/// A key that is to be made.
pub struct NewKey<'a> {
    pub team: &'a TeamId,
    pub name: &'a str,
    pub created_by: Option<&'a UserId>,
}

/// A key that was just made: the only moment at which its secret is known.
pub struct Made {
    pub id: ApiKeyId,
    pub prefix: String,
    pub secret: SecretString,
}

/// Whether a text has the form of a key at all. Looked at before anything is hashed or read.
#[must_use]
pub fn is_key(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|rest| {
        rest.len() == RANDOM_HEX && rest.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    })
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
        details: json!({ "name": new.name, "key_prefix": prefix }),
    };
    audit::record(tx, now, &entry).await?;
    Ok(Made { id, prefix, secret })
}

/// Deletes a team's key: it is worth nothing from the next request on. Answers whether there was one.
pub async fn delete(
    db: &Db,
    team: &TeamId,
    id: &ApiKeyId,
    actor: &Actor,
    origin: &Origin,
    now: Millis,
) -> Result<bool, DbError> {
    let mut tx = db.begin().await?;
    if !store::delete(&mut tx, team, id).await? {
        return Ok(false);
    }
    let entry = Entry {
        team: Some(team),
        actor,
        origin,
        action: "api_key.delete",
        target_kind: "api_key",
        target_id: Some(id.as_str()),
        result: "ok",
        details: json!({}),
    };
    audit::record(&mut tx, now, &entry).await?;
    tx.commit().await?;
    Ok(true)
}

/// The key's row, if `text` is a key that exists.
pub async fn authenticate(db: &Db, text: &str) -> Result<Option<LiveKey>, DbError> {
    if !is_key(text) {
        return Ok(None);
    }
    store::by_hash(db, &hash(text)).await
}
