//! What is left of a deleted host: enough to tell it so when it comes back, with whatever credentials it still has.
//!
//! The notice is signed with the CA's key, because it is the one order that makes an agent destroy its sandboxes: no
//! proxy, and nobody who can merely answer for control, can give it.

use atoll_model::api::hosts::HostTombstone;
use atoll_model::{HostId, HostType, TeamId, UserId};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::HostError;
use crate::db::{Db, DbError, During, Millis, Text, Tx, on};
use crate::pki::Authority;

/// A tombstone's row.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Tombstone {
    pub host_id: Text<HostId>,
    pub deletion_id: String,
    pub deleted_at: Millis,
}

impl Tombstone {
    /// The signed notice.
    ///
    /// # Errors
    /// When it can't be signed.
    pub fn notice(&self, authority: &Authority) -> Result<HostTombstone, HostError> {
        let text = HostTombstone::signed_text(&self.host_id, &self.deletion_id, self.deleted_at.0);
        Ok(HostTombstone {
            host_id: self.host_id.0.clone(),
            deletion_id: self.deletion_id.clone(),
            deleted_at_ms: self.deleted_at.0,
            signature: STANDARD.encode(authority.sign(text.as_bytes())?),
        })
    }

    /// The answer for a host that was deleted.
    pub fn answer(&self, authority: &Authority) -> HostError {
        match self.notice(authority) {
            Ok(notice) => HostError::Deleted(Box::new(notice)),
            Err(error) => error,
        }
    }
}

/// The tombstone of a host.
pub async fn of_host(db: &Db, host: &HostId) -> Result<Option<Tombstone>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT host_id, deletion_id, deleted_at FROM host_tombstones WHERE host_id = $1"
    )
    .bind(host.as_str())
    .fetch_optional(c)
    .await)
    .during("read a tombstone")
}

/// The tombstone of the host that a refresh token belonged to.
pub async fn of_token(db: &Db, token_hash: &str) -> Result<Option<Tombstone>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT t.host_id, t.deletion_id, t.deleted_at FROM host_tombstone_tokens k
         JOIN host_tombstones t ON t.host_id = k.host_id WHERE k.token_hash = $1"
    )
    .bind(token_hash)
    .fetch_optional(c)
    .await)
    .during("read a token's tombstone")
}

/// Who was deleted, and by whom.
pub struct Deceased<'a> {
    pub host: &'a HostId,
    pub kind: HostType,
    pub team: Option<&'a TeamId>,
    pub deletion_id: &'a str,
    pub deleted_by: Option<&'a UserId>,
}

/// Writes the tombstone with all of the host's refresh tokens, and deletes the host's row, in the caller's
/// transaction. Deleting the row takes the tokens, tags and registration tokens with it.
pub async fn bury(tx: &mut Tx, deceased: &Deceased<'_>, now: Millis) -> Result<(), DbError> {
    let host = deceased.host.as_str();
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO host_tombstones (host_id, deletion_id, type, team_id, deleted_by, deleted_at)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (host_id) DO NOTHING"
    )
    .bind(host)
    .bind(deceased.deletion_id)
    .bind(deceased.kind.as_str())
    .bind(deceased.team.map(TeamId::as_str))
    .bind(deceased.deleted_by.map(UserId::as_str))
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("write a tombstone")?;
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO host_tombstone_tokens (token_hash, host_id)
         SELECT token_hash, host_id FROM host_refresh_tokens WHERE host_id = $1"
    )
    .bind(host)
    .execute(c)
    .await
    .map(|_| ()))
    .during("keep a deleted host's tokens")?;
    on!(tx tx, |c| sqlx::query("DELETE FROM pending_deletions WHERE host_id = $1").bind(host).execute(c).await.map(|_| ()))
        .during("forget a deleted host's pending deletions")?;
    crate::layers::store::lose_host(tx, deceased.host).await?;
    on!(tx tx, |c| sqlx::query("DELETE FROM hosts WHERE id = $1").bind(host).execute(c).await.map(|_| ()))
        .during("delete a host")
}
