//! Refresh tokens and their rotation.
//!
//! ```text
//! refresh with P            P stays valid, a successor S is issued (issue, then revoke)
//! first use of S            P and the unused siblings of S are revoked, 60 s later (requests under way)
//!   (S itself, or the access token issued with it)
//! P presented after that    theft: the family is revoked, the host must re-enrol
//! ```
//!
//! So a lost answer locks nobody out, however long it takes to ask again: P works until a successor has been used. Two
//! refreshes at once give two successors, and both work: a sibling that is used within the 60 s is no longer to be
//! revoked. Everything happens in one transaction per request, serialised per host.
//!
//! The request is signed with the key that the host registered, so a token alone is worth nothing; a wrong signature
//! is refused before the token is judged, and changes nothing. The request's timestamp is not compared with our
//! clock: a host with a wrong clock must not be locked out for it, and rotation itself bounds replays, for a recorded
//! request is worth nothing once its token's successor has been used.

use atoll_model::HostId;
use atoll_model::api::hosts::{HostCredentials, HostSettings, RefreshHostRequest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::refresh_tokens::{NewToken, TokenRow, by_hash, forget_surplus, host_of, insert, mark_used, revoke_all};
use super::{HostError, Hosts, secret, store, tombstone};
use crate::audit::{self, Actor, Entry, Origin};
use crate::db::{During, Millis, Tx, on};
use crate::pki::{CertificateRequest, HostKey, IssuedCertificate};

impl Hosts {
    /// Exchanges a refresh token for new credentials. `body` is the request's exact bytes, `signature` the base64 of
    /// the signature over them.
    pub async fn refresh(
        &self,
        request: &RefreshHostRequest,
        body: &[u8],
        signature: Option<&str>,
        origin: &Origin,
    ) -> Result<HostCredentials, HostError> {
        let hash = secret::hash(&request.refresh_token);
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        let Some(host) = host_of(&mut tx, &hash).await? else {
            drop(tx);
            return match tombstone::of_token(&self.db, &hash).await? {
                Some(tombstone) => Err(tombstone.answer(&self.authority)),
                None => Err(HostError::Unauthorized),
            };
        };
        // The host first, then its token: everyone locks in this order.
        let row = store::lock(&mut tx, &host).await?.ok_or(HostError::Unauthorized)?;
        let token = by_hash(&mut tx, &hash).await?.ok_or(HostError::Unauthorized)?;
        let key = HostKey::from_hex(row.public_key.as_deref().ok_or(HostError::Unauthorized)?)?;
        let signature = signature.and_then(|text| STANDARD.decode(text).ok()).ok_or(HostError::Unauthorized)?;
        if !key.verify(body, &signature) {
            return Err(HostError::Unauthorized);
        }
        if row.credential_family.as_deref() != Some(&token.family_id) || token.expires_at <= now {
            return Err(HostError::Unauthorized);
        }
        if token.revoked_at.is_some_and(|at| at <= now) {
            self.punish_theft(tx, &row, &token, origin, now).await?;
            return Err(HostError::Unauthorized);
        }
        if CertificateRequest::from_pem(&request.csr)?.key != key {
            let message = "`csr` must be for the key that the host registered".to_owned();
            return Err(HostError::Invalid { field: "csr", message });
        }

        mark_used(&mut tx, &[&token], now).await?;
        let successor =
            NewToken::of(token.family_id.clone(), Some(token.id.clone()), now, self.times.refresh_token_ttl);
        insert(&mut tx, &host, &successor).await?;
        crate::failpoint!("hosts::refresh::issued");
        on!(tx &mut tx, |c| sqlx::query("UPDATE host_refresh_tokens SET successor_id = $2 WHERE id = $1")
            .bind(&token.id)
            .bind(&successor.id)
            .execute(c)
            .await
            .map(|_| ()))
        .during("link a refresh token to its successor")?;
        forget_surplus(&mut tx, &token.id).await?;
        let certificate = self.authority.issue_host(&host, &key, self.certificate_lifetime())?;
        on!(tx &mut tx, |c| sqlx::query("UPDATE hosts SET certificate_fingerprint = $2, updated_at = $3 WHERE id = $1")
            .bind(host.as_str())
            .bind(&certificate.fingerprint)
            .bind(now)
            .execute(c)
            .await
            .map(|_| ()))
        .during("note a host's certificate")?;
        let credentials = self.credentials(&host, &row.name, &successor, &certificate, now)?;
        crate::failpoint!("hosts::refresh::before_commit");
        tx.commit().await?;
        crate::failpoint!("hosts::refresh::after_commit");
        self.directory.forget(&host);
        Ok(credentials)
    }

    /// A token came back after its successor had been used: somebody else has it. Nothing of the family works from
    /// now on, neither for them nor for the host.
    async fn punish_theft(
        &self,
        mut tx: Tx,
        row: &store::HostRow,
        token: &TokenRow,
        origin: &Origin,
        now: Millis,
    ) -> Result<(), HostError> {
        let host = &row.id.0;
        revoke_all(&mut tx, host, now).await?;
        on!(tx &mut tx, |c| sqlx::query("UPDATE hosts SET credential_family = NULL, updated_at = $2 WHERE id = $1")
            .bind(host.as_str())
            .bind(now)
            .execute(c)
            .await
            .map(|_| ()))
        .during("revoke a host's credentials")?;
        let entry = Entry {
            team: row.team_id.as_ref().map(|team| &team.0),
            actor: &Actor::Host(host.clone()),
            origin,
            action: "host.refresh_token_reused",
            target_kind: "host",
            target_id: Some(host.as_str()),
            result: "unauthorized",
            details: json!({ "token": token.id, "family": token.family_id, "effect": "the family was revoked" }),
        };
        audit::record(&mut tx, now, &entry).await?;
        tx.commit().await?;
        tracing::warn!(%host, "a replaced refresh token was used again: the host's credentials are revoked, it must re-enrol");
        Ok(())
    }

    /// The answer to a registration or refresh.
    pub(super) fn credentials(
        &self,
        host: &HostId,
        name: &str,
        token: &NewToken,
        certificate: &IssuedCertificate,
        now: Millis,
    ) -> Result<HostCredentials, HostError> {
        let ttl = self.times.access_token_ttl;
        let heartbeat = u64::try_from(self.times.heartbeat_interval.as_millis()).unwrap_or(u64::MAX);
        Ok(HostCredentials {
            host_id: host.clone(),
            name: name.to_owned(),
            access_token: self.tokens.sign(host, &token.family, &token.id, now, ttl)?,
            access_expires_at: (now + ttl).to_utc(),
            refresh_token: token.token.clone(),
            refresh_expires_at: token.expires_at.to_utc(),
            certificate: certificate.pem.clone(),
            certificate_expires_at: certificate.expires_at.to_utc(),
            ca: self.authority.pem().to_owned(),
            settings: HostSettings { heartbeat_interval_ms: heartbeat },
        })
    }
}
