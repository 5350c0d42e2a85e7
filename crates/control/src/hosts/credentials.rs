//! A host's access JWT. It names the family of refresh tokens that it belongs to: when the family is revoked, so is the
//! JWT, at the host's next call. Replicas prove themselves to each other with a token of their own kind, signed by the
//! same keys. See `signing`.

use std::time::Duration;

use atoll_model::HostId;
use serde::{Deserialize, Serialize};

use crate::db::{Db, Millis};
use crate::signing::{self, JwtKeys, SigningError};

const RELAY_TYPE: &str = "relay";

/// What a host's JWT says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostClaims {
    pub sub: HostId,
    /// The family of refresh tokens.
    pub fam: String,
    /// The refresh token that was issued with it.
    pub rid: String,
}

/// What a replica's JWT for another replica says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RelayClaims {
    sub: HostId,
}

/// Signs and checks host JWTs.
pub struct HostTokens(JwtKeys);

impl HostTokens {
    pub async fn load(db: &Db, now: Millis) -> Result<Self, SigningError> {
        JwtKeys::load(db, signing::HOSTS, None, now).await.map(Self)
    }

    pub fn sign(
        &self,
        host: &HostId,
        family: &str,
        refresh_id: &str,
        now: Millis,
        ttl: Duration,
    ) -> Result<String, SigningError> {
        let claims = HostClaims { sub: host.clone(), fam: family.to_owned(), rid: refresh_id.to_owned() };
        self.0.sign(claims, now, ttl)
    }

    /// The claims of a token that we signed, and whether it is still in its time. An expired one is worth nothing but
    /// to be told that the host was deleted.
    pub async fn verify(&self, token: &str, now: Millis) -> Result<Option<(HostClaims, InTime)>, SigningError> {
        let verified = self.0.verify(token, now).await?;
        Ok(verified.map(|verified| {
            let in_time = if verified.expires_at > now { InTime::Yes } else { InTime::Expired };
            (verified.claims, in_time)
        }))
    }

    /// A token with which one replica asks another for a stream to a host: good for a moment, and for that host.
    pub fn sign_relay(&self, host: &HostId, now: Millis, ttl: Duration) -> Result<String, SigningError> {
        self.0.sign_as(RELAY_TYPE, RelayClaims { sub: host.clone() }, now, ttl)
    }

    /// Whether a replica has signed `token` for `host` just now.
    pub async fn verify_relay(&self, token: &str, host: &HostId, now: Millis) -> Result<bool, SigningError> {
        let verified = self.0.verify_as::<RelayClaims>(RELAY_TYPE, token, now).await?;
        Ok(verified.is_some_and(|verified| verified.claims.sub == *host && verified.expires_at > now))
    }

    pub async fn refresh(&self, now: Millis) -> Result<(), SigningError> {
        self.0.refresh(now).await
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InTime {
    Yes,
    Expired,
}
