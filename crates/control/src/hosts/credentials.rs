//! A host's access JWT. It names the family of refresh tokens that it belongs to: when the family is revoked, so is the
//! JWT, at the host's next call. Replicas prove themselves to each other with a token of their own kind, signed by the
//! same keys. See `signing`.
//!
//! A host shows the same token for days, with every heartbeat. What was verified once is remembered under the hash of
//! the whole token, for as long as the key that signed it is accepted: a signature costs more than all the rest of a
//! heartbeat.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_model::HostId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::db::{Db, Millis};
use crate::signing::{self, JwtKeys, SigningError, Verified};

const RELAY_TYPE: &str = "relay";
/// Tokens that are remembered; beyond that all of them are verified anew.
const MAX_REMEMBERED: usize = 200_000;

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
pub struct HostTokens {
    keys: JwtKeys,
    verified: Mutex<HashMap<[u8; 32], Arc<Verified<HostClaims>>>>,
}

impl HostTokens {
    pub async fn load(db: &Db, now: Millis) -> Result<Self, SigningError> {
        let keys = JwtKeys::load(db, signing::HOSTS, None, now).await?;
        Ok(Self { keys, verified: Mutex::default() })
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
        self.keys.sign(claims, now, ttl)
    }

    /// The claims of a token that we signed, and whether it is still in its time. An expired one is worth nothing but
    /// to be told that the host was deleted.
    pub async fn verify(&self, token: &str, now: Millis) -> Result<Option<(HostClaims, InTime)>, SigningError> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let known = self.remembered().get(&hash).cloned().filter(|known| self.keys.accepts(&known.kid, now));
        let verified = match known {
            Some(known) => known,
            None => {
                let Some(verified) = self.keys.verify(token, now).await? else { return Ok(None) };
                self.remember(hash, verified, now)
            }
        };
        let in_time = if verified.expires_at > now { InTime::Yes } else { InTime::Expired };
        Ok(Some((verified.claims.clone(), in_time)))
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Arc<Verified<HostClaims>>>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, hash: [u8; 32], verified: Verified<HostClaims>, now: Millis) -> Arc<Verified<HostClaims>> {
        let verified = Arc::new(verified);
        let mut remembered = self.remembered();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, known| known.expires_at > now);
            if remembered.len() >= MAX_REMEMBERED {
                remembered.clear();
            }
        }
        remembered.insert(hash, Arc::clone(&verified));
        verified
    }

    /// A token with which one replica asks another for a stream to a host: good for a moment, and for that host.
    pub fn sign_relay(&self, host: &HostId, now: Millis, ttl: Duration) -> Result<String, SigningError> {
        self.keys.sign_as(RELAY_TYPE, RelayClaims { sub: host.clone() }, now, ttl)
    }

    /// Whether a replica has signed `token` for `host` just now.
    pub async fn verify_relay(&self, token: &str, host: &HostId, now: Millis) -> Result<bool, SigningError> {
        let verified = self.keys.verify_as::<RelayClaims>(RELAY_TYPE, token, now).await?;
        Ok(verified.is_some_and(|verified| verified.claims.sub == *host && verified.expires_at > now))
    }

    pub async fn refresh(&self, now: Millis) -> Result<(), SigningError> {
        self.keys.refresh(now).await
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InTime {
    Yes,
    Expired,
}
