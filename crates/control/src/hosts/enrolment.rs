//! Enrolment: making a host's row, its one-time registration tokens, and the registration itself.
//!
//! A registration is one transaction: the token is consumed, the host comes online with its key and specs, every
//! older credential of it is revoked, and its first refresh token exists; or nothing of that. Of two agents that race
//! with one token exactly one gets past the update that consumes it.
//!
//! An agent whose answer was lost, or that died before it had stored it, comes again with the same token and the same
//! key: as long as nothing has used the credentials that were issued, it gets others. Nobody else has that key.
//!
//! Re-enrolment is the same with a host that exists: same id, sandboxes kept, credentials new.

use atoll_model::api::hosts::{HostCredentials, RegisterHostRequest};
use atoll_model::{HostId, HostStatus};
use serde_json::json;
use sqlx::types::Json;

use super::refresh_tokens::{self, NewToken};
use super::store::{self, HostRow, NewHost};
use super::{HostChange, HostError, Hosts, address, secret};
use crate::audit::{self, Actor, Entry, Origin};
use crate::db::{DbError, During, Millis, Text, Tx, on};
use crate::events;
use crate::pki::CertificateRequest;

/// A registration token, shown once.
pub struct RegistrationToken {
    pub token: String,
    pub expires_at: Millis,
}

const MAX_NAME: usize = 100;
const MAX_DRIVERS: usize = 8;

impl Hosts {
    /// Makes a host's row, `pending`, with its first registration token. The caller has judged who may.
    pub async fn create(
        &self,
        host: &NewHost,
        actor: &Actor,
        origin: &Origin,
    ) -> Result<(HostRow, RegistrationToken), HostError> {
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        store::insert(&mut tx, host, now).await?;
        let token = self.new_token(&mut tx, &host.id, host.created_by.as_ref().map(AsRef::as_ref), now).await?;
        let details = json!({ "name": host.name, "type": host.kind.as_str() });
        let entry = Entry {
            team: host.team.as_ref(),
            actor,
            origin,
            action: "host.create",
            target_kind: "host",
            target_id: Some(host.id.as_str()),
            result: "ok",
            details,
        };
        audit::record(&mut tx, now, &entry).await?;
        let row = store::lock(&mut tx, &host.id).await?.ok_or(HostError::NotFound)?;
        tx.commit().await?;
        Ok((row, token))
    }

    /// A new registration token; older ones are worth nothing from now on. For a host that never registered, or that
    /// has lost its credentials: a healthy one would only be locked out.
    pub async fn renew_registration(
        &self,
        host: &HostId,
        actor: &Actor,
        origin: &Origin,
    ) -> Result<RegistrationToken, HostError> {
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        let row = store::lock(&mut tx, host).await?.ok_or(HostError::NotFound)?;
        if row.deletion_id.is_some() {
            return Err(HostError::InvalidState("the host is being deleted"));
        }
        if row.status.0 == HostStatus::Online && row.credential_family.is_some() {
            return Err(HostError::InvalidState(
                "the host is online with valid credentials; a new registration token would only lock it out",
            ));
        }
        let created_by = match actor {
            Actor::User(user) => Some(user.as_str()),
            _ => None,
        };
        let token = self.new_token(&mut tx, host, created_by, now).await?;
        let entry = Entry {
            team: row.team_id.as_ref().map(|team| &team.0),
            actor,
            origin,
            action: "host.renew_registration",
            target_kind: "host",
            target_id: Some(host.as_str()),
            result: "ok",
            details: json!({}),
        };
        audit::record(&mut tx, now, &entry).await?;
        tx.commit().await?;
        Ok(token)
    }

    async fn new_token(
        &self,
        tx: &mut Tx,
        host: &HostId,
        created_by: Option<&str>,
        now: Millis,
    ) -> Result<RegistrationToken, DbError> {
        revoke_tokens(tx, host, now).await?;
        let token = secret::registration_token(&self.authority.fingerprint());
        let expires_at = now + self.times.registration_token_ttl;
        on!(tx tx, |c| sqlx::query(
            "INSERT INTO host_registration_tokens (token_hash, host_id, created_by, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5)"
        )
        .bind(secret::hash(&token))
        .bind(host.as_str())
        .bind(created_by)
        .bind(now)
        .bind(expires_at)
        .execute(c)
        .await
        .map(|_| ()))
        .during("insert a registration token")?;
        Ok(RegistrationToken { token, expires_at })
    }

    /// Whether a registration token would be taken now. Asked before anything else of a request is judged, so that
    /// nobody without one learns what a valid request looks like.
    pub async fn check_registration_token(&self, token: &str) -> Result<(), HostError> {
        let valid: Option<(i64,)> = on!(read & self.db, |c| sqlx::query_as(
            "SELECT CAST(1 AS BIGINT) FROM host_registration_tokens t
             WHERE token_hash = $1 AND revoked_at IS NULL AND expires_at > $2 AND (used_at IS NULL
                 OR EXISTS (SELECT 1 FROM hosts h WHERE h.id = t.host_id AND h.registered_at = t.used_at))"
        )
        .bind(secret::hash(token))
        .bind(self.clock.now())
        .fetch_optional(c)
        .await)
        .during("look up a registration token")?;
        valid.map(|_| ()).ok_or(HostError::Unauthorized)
    }

    /// Registers a host: the token's last use, and its host's first credentials.
    pub async fn register(&self, request: &RegisterHostRequest, origin: &Origin) -> Result<HostCredentials, HostError> {
        self.check_registration_token(&request.token).await?;
        address::check(&request.address, self.loopback)?;
        check_specs(request)?;
        let key = CertificateRequest::from_pem(&request.csr)?.key;
        let now = self.clock.now();

        let mut tx = self.db.begin().await?;
        let hash = secret::hash(&request.token);
        let (host, again) = match consume(&mut tx, &hash, now).await? {
            Some(host) => (host, false),
            None => (asked_again(&mut tx, &hash, &key.to_hex(), now).await?.ok_or(HostError::Unauthorized)?, true),
        };
        crate::failpoint!("hosts::register::consumed");
        let before = store::lock(&mut tx, &host).await?.ok_or(HostError::Unauthorized)?;
        let status = before.status.0;
        if before.deletion_id.is_some() || !(status == HostStatus::Online || status.can_become(HostStatus::Online)) {
            return Err(HostError::Unauthorized);
        }
        revoke_tokens(&mut tx, &host, now).await?;
        let ttl = self.times.refresh_token_ttl;
        let token = match before.credential_family.clone().filter(|_| again) {
            Some(family) => {
                refresh_tokens::revoke_unused(&mut tx, &host, now + refresh_tokens::GRACE).await?;
                NewToken::of(family, None, now, ttl)
            }
            None => {
                refresh_tokens::revoke_all(&mut tx, &host, now).await?;
                NewToken::first(now, ttl)
            }
        };
        refresh_tokens::insert(&mut tx, &host, &token).await?;
        let certificate = self.authority.issue_host(&host, &key, self.certificate_lifetime())?;
        let specs = &request.specs;
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        on!(tx &mut tx, |c| sqlx::query(
            "UPDATE hosts SET status = 'online', status_changed_at = $2, arch = $3, cpu_cores = $4, memory_mb = $5,
                 disk_gb = $6, drivers = $7, address = $8, agent_version = $9, public_key = $10,
                 certificate_fingerprint = $11, credential_family = $12, confirmed_token_id = NULL,
                 capacity_cpu_millis = $13, capacity_memory_mb = $5, capacity_disk_mb = $14,
                 inventory_complete = $15, ready = $15, last_heartbeat_at = $2, registered_at = $2, updated_at = $2
             WHERE id = $1"
        )
        .bind(host.as_str())
        .bind(now)
        .bind(&specs.arch)
        .bind(i64::from(specs.cpu_cores))
        .bind(number(specs.memory_mb))
        .bind(number(specs.disk_gb))
        .bind(Json(&specs.drivers))
        .bind(&request.address)
        .bind(&specs.agent_version)
        .bind(key.to_hex())
        .bind(&certificate.fingerprint)
        .bind(&token.family)
        .bind(i64::from(specs.cpu_cores) * 1000)
        .bind(number(specs.disk_gb.saturating_mul(1024)))
        .bind(false)
        .execute(c)
        .await
        .map(|_| ()))
        .during("register a host")?;
        let team = before.team_id.as_ref().map(|team| &team.0);
        let entry = Entry {
            team,
            actor: &Actor::Host(host.clone()),
            origin,
            action: if again || before.status.0 == HostStatus::Pending { "host.register" } else { "host.reenrol" },
            target_kind: "host",
            target_id: Some(host.as_str()),
            result: "ok",
            details: json!({ "address": request.address, "agent_version": specs.agent_version, "again": again }),
        };
        audit::record(&mut tx, now, &entry).await?;
        if before.status.0 != HostStatus::Online {
            events::publish(&mut tx, now, team, "host.online", host.as_str(), json!({})).await?;
        }
        let credentials = self.credentials(&host, &before.name, &token, &certificate, now)?;
        crate::failpoint!("hosts::register::before_commit");
        tx.commit().await?;
        crate::failpoint!("hosts::register::after_commit");
        self.directory.forget(&host);
        self.announce(HostChange::Returned(host));
        Ok(credentials)
    }
}

/// Uses a registration token up; the host that it is for.
async fn consume(tx: &mut Tx, hash: &str, now: Millis) -> Result<Option<HostId>, DbError> {
    let consumed: Option<(Text<HostId>,)> = on!(tx tx, |c| sqlx::query_as(
        "UPDATE host_registration_tokens SET used_at = $2
         WHERE token_hash = $1 AND used_at IS NULL AND revoked_at IS NULL AND expires_at > $2 RETURNING host_id"
    )
    .bind(hash)
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("consume a registration token")?;
    Ok(consumed.map(|row| row.0.0))
}

/// The host that was registered with this token and this key, if it never showed that it heard of it.
async fn asked_again(tx: &mut Tx, hash: &str, key: &str, now: Millis) -> Result<Option<HostId>, DbError> {
    let used: Option<(Text<HostId>,)> = on!(tx &mut *tx, |c| sqlx::query_as(
        "UPDATE host_registration_tokens SET used_at = used_at WHERE token_hash = $1 AND used_at IS NOT NULL
         RETURNING host_id"
    )
    .bind(hash)
    .fetch_optional(c)
    .await)
    .during("look up a used registration token")?;
    let Some((host,)) = used else { return Ok(None) };
    store::lock(&mut *tx, &host.0).await?;
    let again: Option<(Text<HostId>,)> = on!(tx tx, |c| sqlx::query_as(
        "UPDATE host_registration_tokens SET used_at = $2
         WHERE token_hash = $1 AND revoked_at IS NULL AND expires_at > $2
             AND EXISTS (SELECT 1 FROM hosts h WHERE h.id = host_id AND h.registered_at = used_at
                 AND h.public_key = $3 AND h.credential_family IS NOT NULL
                 AND NOT EXISTS (SELECT 1 FROM host_refresh_tokens r WHERE r.host_id = h.id
                     AND r.family_id = h.credential_family AND r.used_at IS NOT NULL))
         RETURNING host_id"
    )
    .bind(hash)
    .bind(now)
    .bind(key)
    .fetch_optional(c)
    .await)
    .during("use a registration token again")?;
    Ok(again.map(|row| row.0.0))
}

fn check_specs(request: &RegisterHostRequest) -> Result<(), HostError> {
    let invalid = |field, message: &str| Err(HostError::Invalid { field, message: message.to_owned() });
    let specs = &request.specs;
    let short = |text: &str| (1..=MAX_NAME).contains(&text.len()) && !text.contains(char::is_control);
    if !short(&specs.arch) {
        return invalid("specs.arch", "`specs.arch` must be 1 to 100 characters");
    }
    if !short(&specs.agent_version) {
        return invalid("specs.agent_version", "`specs.agent_version` must be 1 to 100 characters");
    }
    if specs.drivers.len() > MAX_DRIVERS || !specs.drivers.iter().all(|driver| short(driver)) {
        return invalid("specs.drivers", "`specs.drivers` must be at most 8 names");
    }
    if !(1..=4096).contains(&specs.cpu_cores) {
        return invalid("specs.cpu_cores", "`specs.cpu_cores` must be 1 to 4096");
    }
    if specs.memory_mb == 0 || specs.memory_mb > 1 << 30 || specs.disk_gb > 1 << 30 {
        return invalid("specs.memory_mb", "`specs.memory_mb` and `specs.disk_gb` must be plausible");
    }
    Ok(())
}

/// Ends all registration tokens of the host that are still good.
async fn revoke_tokens(tx: &mut Tx, host: &HostId, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "UPDATE host_registration_tokens SET revoked_at = $2
         WHERE host_id = $1 AND used_at IS NULL AND revoked_at IS NULL"
    )
    .bind(host.as_str())
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("revoke registration tokens")
}
