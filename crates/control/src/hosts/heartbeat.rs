//! Heartbeats, and the check of a host's access token that they share with everything else a host may ask.

use atoll_model::HostId;
use atoll_model::api::hosts::HeartbeatRequest;

use super::beats::{Beat, BeatOutcome};
use super::credentials::{HostClaims, InTime};
use super::store::HostRow;
use super::{HostError, Hosts, address, refresh_tokens, store, tombstone};

const MAX_IMAGES: usize = 10_000;
const MAX_TEXT: usize = 256;
const MAX_DRIVERS: usize = 8;

impl Hosts {
    /// Takes a heartbeat of `host`. The answer comes when it has been written.
    pub async fn heartbeat(
        &self,
        host: &HostId,
        access_token: Option<&str>,
        body: HeartbeatRequest,
    ) -> Result<(), HostError> {
        let claims = self.claims(host, access_token).await?;
        if let Err(invalid) = check(&body).and_then(|()| address::check(&body.address, self.loopback)) {
            // Who may not speak, or was deleted, learns that first.
            self.authenticate(host, access_token).await?;
            return Err(invalid);
        }
        let beat = Beat { host: claims.sub, family: claims.fam, token_id: claims.rid, body };
        match self.beats.write(beat).await? {
            BeatOutcome::Written => Ok(()),
            BeatOutcome::Unauthorized => Err(HostError::Unauthorized),
            BeatOutcome::Gone => Err(self.gone(host).await?),
        }
    }

    /// The host that an access token belongs to, if the token is good and names `host`.
    pub async fn authenticate(&self, host: &HostId, access_token: Option<&str>) -> Result<HostRow, HostError> {
        let claims = self.claims(host, access_token).await?;
        let row = match store::get(&self.db, host).await? {
            Some(row) if row.credential_family.as_deref() == Some(&claims.fam) => row,
            Some(_) => return Err(HostError::Unauthorized),
            None => return Err(self.gone(host).await?),
        };
        if refresh_tokens::refuses_access(&self.db, host, &claims.rid, self.clock.now()).await? {
            return Err(HostError::Unauthorized);
        }
        Ok(row)
    }

    /// Checks signature, time and name of an access token. The tombstone comes before a 401: a deleted host learns of
    /// it even with a token that has expired, or whose key is long forgotten. It is no secret: the id is, by which it is
    /// asked for.
    async fn claims(&self, host: &HostId, access_token: Option<&str>) -> Result<HostClaims, HostError> {
        let token = access_token.ok_or(HostError::Unauthorized)?;
        let verified = self.tokens.verify(token, self.clock.now()).await?;
        let Some((claims, in_time)) = verified else { return Err(self.gone(host).await?) };
        if claims.sub != *host {
            return Err(HostError::Forbidden);
        }
        match in_time {
            InTime::Yes => Ok(claims),
            InTime::Expired => Err(self.gone(host).await?),
        }
    }

    /// What a host is told that can't be let in: that it was deleted, or just no.
    async fn gone(&self, host: &HostId) -> Result<HostError, HostError> {
        Ok(match tombstone::of_host(&self.db, host).await? {
            Some(tombstone) => tombstone.answer(&self.authority),
            None => HostError::Unauthorized,
        })
    }
}

fn check(body: &HeartbeatRequest) -> Result<(), HostError> {
    let invalid = |field, message: &str| Err(HostError::Invalid { field, message: message.to_owned() });
    for (field, text) in
        [("agent_version", &body.agent_version), ("boot_id", &body.boot_id), ("sandbox_digest", &body.sandbox_digest)]
    {
        if text.len() > MAX_TEXT || text.contains(char::is_control) {
            return invalid(field, "too long, or not plain text");
        }
    }
    if body.vm_version.as_ref().is_some_and(|text| text.len() > MAX_TEXT || text.contains(char::is_control)) {
        return invalid("vm_version", "too long, or not plain text");
    }
    if body.drivers.len() > MAX_DRIVERS || body.drivers.iter().any(|driver| driver.len() > MAX_TEXT) {
        return invalid("drivers", "`drivers` must be at most 8 names");
    }
    if body.cached_images.len() > MAX_IMAGES || body.cached_images.iter().any(|image| image.len() > MAX_TEXT) {
        return invalid("cached_images", "`cached_images` must be at most 10,000 digests");
    }
    Ok(())
}
