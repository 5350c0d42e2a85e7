//! Secrets: named values of a team that become part of sandboxes' environments, and are never read back.
//!
//! In the database they lie encrypted ([`cipher`]); a value is in the clear only in the request that sets it, on its way
//! to a host (in the environment of a new sandbox or in a header, over mutual TLS), on the host, and in the sandbox whose
//! environment it is in. No answer, list, log or audit
//! entry has one. Who may use a name is who may make sandboxes for the team.

pub mod cipher;
pub mod egress_proxy;
pub mod headers;
pub mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_model::{SecretId, TeamId};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sqlx::types::Json;

use crate::audit::{self, Entry, Owner};
use crate::clock::Clock;
use crate::db::{Db, DbError, Text, Tx};
use cipher::{Cipher, OpenError, Place};
use store::SecretRow;

/// Of one team.
pub const MAX_SECRETS: i64 = 1000;
const REPLACED: &str = "secret.replace";

/// What a team notes beside a secret. Anybody who sees the secret's name sees it.
pub type Labels = BTreeMap<String, String>;

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("there is no secret `{0}`")]
    NotFound(String),
    #[error("the sandbox has no identity `{0}`")]
    NoIdentity(String),
    #[error("there is no secret `{0}`")]
    NotForHeader(String),
    #[error("there is a secret `{0}` already; `?overwrite=true` sets its value anew")]
    NameTaken(String),
    #[error("the team has {MAX_SECRETS} secrets already")]
    TooMany,
    #[error("the secret `{name}` could not be encrypted")]
    Seal { name: String },
    #[error("the secret `{name}` could not be read: {source}")]
    Open { name: String, source: OpenError },
    #[error("a secret in the header `{header}` has what no header may have: line breaks, for instance")]
    Unfit { header: String },
    #[error("there is no secret `{0}`")]
    NotForProxy(String),
    #[error("with its secrets filled in, the proxy's password has more than 255 bytes, or a line break")]
    UnfitForProxy,
    #[error(transparent)]
    Db(#[from] DbError),
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Secrets {
    db: Db,
    clock: Clock,
    cipher: Arc<Cipher>,
}

impl Secrets {
    #[must_use]
    pub fn new(db: Db, clock: Clock, cipher: Cipher) -> Self {
        Self { db, clock, cipher: Arc::new(cipher) }
    }

    #[must_use]
    pub const fn cipher(&self) -> &Arc<Cipher> {
        &self.cipher
    }

    /// Says so when there are secrets that this server's key doesn't open: it is not the other servers' key.
    ///
    /// # Errors
    /// The database's.
    pub async fn check_key(&self) -> Result<(), DbError> {
        for (key, count) in store::other_keys(&self.db, self.cipher.id()).await? {
            tracing::error!(
                key,
                count,
                own_key = self.cipher.id(),
                "some secrets are encrypted under another key than this server's: sandboxes that want them can't be \
                 made here; start with the key that the other servers have (--secrets-key)"
            );
        }
        Ok(())
    }

    /// Keeps a value under a name; with `overwrite`, in place of the one that is there.
    ///
    /// # Errors
    /// [`SecretError`].
    pub async fn set(
        &self,
        owner: &Owner,
        name: &str,
        value: &SecretString,
        metadata: Option<Labels>,
        overwrite: bool,
    ) -> Result<SecretRow, SecretError> {
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        let (row, action) = match store::own(&mut tx, &owner.team, name).await?.filter(|row| row.name == name) {
            Some(_) if !overwrite => return Err(SecretError::NameTaken(name.to_owned())),
            Some(row) => (self.replace(&mut tx, owner, row, value, metadata).await?, REPLACED),
            None => {
                if store::count(&mut tx, &owner.team).await? >= MAX_SECRETS {
                    return Err(SecretError::TooMany);
                }
                let id = SecretId::new();
                let row = SecretRow {
                    sealed: self.seal(owner, &id, name, value)?,
                    id: Text(id),
                    name: name.to_owned(),
                    key_id: self.cipher.id().to_owned(),
                    created_by: owner.actor.id().map(str::to_owned),
                    created_at: now,
                    updated_at: now,
                    version: 1,
                    metadata: Json(metadata.unwrap_or_default()),
                };
                // Somebody else may have been as quick.
                if !store::insert(&mut tx, &owner.team, &row).await? {
                    return Err(SecretError::NameTaken(name.to_owned()));
                }
                (row, "secret.create")
            }
        };
        audit::record(&mut tx, now, &entry(owner, action, &row)).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Sets the value anew of a secret that is there, by name or id, and its labels when there are any.
    ///
    /// # Errors
    /// [`SecretError`].
    pub async fn update(
        &self,
        owner: &Owner,
        name_or_id: &str,
        value: &SecretString,
        metadata: Option<Labels>,
    ) -> Result<SecretRow, SecretError> {
        let mut tx = self.db.begin().await?;
        let found = store::own(&mut tx, &owner.team, name_or_id).await?;
        let row = found.ok_or_else(|| SecretError::NotFound(name_or_id.to_owned()))?;
        let row = self.replace(&mut tx, owner, row, value, metadata).await?;
        audit::record(&mut tx, row.updated_at, &entry(owner, REPLACED, &row)).await?;
        tx.commit().await?;
        Ok(row)
    }

    async fn replace(
        &self,
        tx: &mut Tx,
        owner: &Owner,
        old: SecretRow,
        value: &SecretString,
        metadata: Option<Labels>,
    ) -> Result<SecretRow, SecretError> {
        let mut row = SecretRow {
            sealed: self.seal(owner, &old.id, &old.name, value)?,
            key_id: self.cipher.id().to_owned(),
            updated_at: self.clock.now(),
            metadata: metadata.map_or(old.metadata, Json),
            ..old
        };
        row.version = store::replace(tx, &row).await?;
        Ok(row)
    }

    fn seal(&self, owner: &Owner, id: &SecretId, name: &str, value: &SecretString) -> Result<String, SecretError> {
        let sealed = self.cipher.seal(Place::Secret(&owner.team, id), value.expose_secret());
        sealed.ok_or_else(|| SecretError::Seal { name: name.to_owned() })
    }

    /// Takes a secret away, by name or id. Sandboxes that have it keep it.
    ///
    /// # Errors
    /// [`SecretError`].
    pub async fn delete(&self, owner: &Owner, name_or_id: &str) -> Result<(), SecretError> {
        let mut tx = self.db.begin().await?;
        let found = store::own(&mut tx, &owner.team, name_or_id).await?;
        let row = found.ok_or_else(|| SecretError::NotFound(name_or_id.to_owned()))?;
        store::delete(&mut tx, &row.id).await?;
        audit::record(&mut tx, self.clock.now(), &entry(owner, "secret.delete", &row)).await?;
        Ok(tx.commit().await?)
    }

    /// The environment that is asked for: variables' names, and the secrets' that they get their values from.
    ///
    /// # Errors
    /// [`SecretError`].
    pub async fn environment(
        &self,
        team: &TeamId,
        wanted: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, SecretString>, SecretError> {
        let mut environment = BTreeMap::new();
        for (variable, name) in wanted {
            let found = store::by_name(&self.db, team, name).await?;
            let row = found.ok_or_else(|| SecretError::NotFound(name.clone()))?;
            let value = self.cipher.open(Place::Secret(team, &row.id), &row.key_id, &row.sealed);
            let value = value.map_err(|source| SecretError::Open { name: name.clone(), source })?;
            environment.insert(variable.clone(), value);
        }
        Ok(environment)
    }
}

fn entry<'a>(owner: &'a Owner, action: &'static str, row: &'a SecretRow) -> Entry<'a> {
    Entry {
        team: Some(&owner.team),
        actor: &owner.actor,
        origin: &owner.origin,
        action,
        target_kind: "secret",
        target_id: Some(row.id.as_str()),
        result: "ok",
        details: json!({ "name": row.name }),
    }
}
