//! Identities of sandboxes, for services elsewhere that shall know who asks, without a secret that could leak.
//!
//! A token of one is a JWT as SPIFFE has it (JWT-SVID), signed by keys that all replicas share ([`WORKLOADS`]) and good for
//! minutes. Who gets one checks it as an OpenID Connect client does: this server is its issuer and serves the public keys.
//! Tokens are made for the host that has the sandbox, when its egress proxy adds one to a request; the sandbox never sees
//! them, and no host gets one for a sandbox of another's.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::{HostId, SandboxId, TeamId};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::types::Json;

use crate::clock::Clock;
use crate::db::{Db, DbError, During, Text, on};
use crate::sandboxes::Network;
use crate::signing::{JwtKeys, SigningError, WORKLOADS};

/// How long a token is good for.
pub const LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Other replicas' and an operator's new keys are found within this.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
pub const KEYS_PATH: &str = "/.well-known/jwks.json";

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("there is no such sandbox on this host")]
    NoSandbox,
    #[error("the sandbox has no such identity")]
    NoIdentity,
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Token(#[from] SigningError),
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: String,
    aud: &'a str,
    iat: i64,
    exp: i64,
    jti: String,
    team_id: &'a TeamId,
    sandbox_id: &'a SandboxId,
    template: &'a str,
}

#[derive(sqlx::FromRow)]
struct Bearer {
    team_id: Text<TeamId>,
    template: String,
    network: Json<Network>,
}

/// Makes tokens of sandboxes' identities. Cheap to clone.
#[derive(Clone)]
pub struct Identities {
    db: Db,
    clock: Clock,
    keys: Arc<JwtKeys>,
    /// This server's address, without a slash at its end.
    issuer: Arc<str>,
}

impl Identities {
    /// `issuer`: the address under which this server is known.
    ///
    /// # Errors
    /// When the keys can't be read or made.
    pub async fn load(db: &Db, clock: &Clock, issuer: &str) -> Result<Self, SigningError> {
        let keys = JwtKeys::load(db, WORKLOADS, None, clock.now()).await?;
        let issuer = issuer.trim_end_matches('/').into();
        Ok(Self { db: db.clone(), clock: clock.clone(), keys: Arc::new(keys), issuer })
    }

    /// What OpenID Connect Discovery 1.0 says of an issuer that only signs.
    #[must_use]
    pub fn discovery(&self) -> Value {
        json!({
            "issuer": &*self.issuer,
            "jwks_uri": format!("{}{KEYS_PATH}", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "claims_supported": ["iss", "sub", "aud", "iat", "exp", "jti", "team_id", "sandbox_id", "template"],
        })
    }

    /// The public keys that tokens are to be checked by (RFC 7517).
    ///
    /// # Errors
    /// The database's.
    pub async fn keys(&self) -> Result<Value, SigningError> {
        self.keys.key_set(self.clock.now()).await
    }

    /// A token of a sandbox that lives on this host.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub async fn token(&self, host: &HostId, sandbox: &SandboxId, name: &str) -> Result<SecretString, IdentityError> {
        let found: Option<Bearer> = on!(read & self.db, |c| sqlx::query_as(
            "SELECT team_id, template, network FROM sandboxes WHERE id = $1 AND host_id = $2
             AND status IN ('starting', 'running', 'pausing', 'resuming', 'missing')"
        )
        .bind(sandbox.as_str())
        .bind(host.as_str())
        .fetch_optional(c)
        .await)
        .during("look up whose identity a host asks for")?;
        let found = found.ok_or(IdentityError::NoSandbox)?;
        let audience = found.network.identities.get(name).ok_or(IdentityError::NoIdentity)?;
        let now = self.clock.now();
        self.keys.refresh_after(LOOK_AGAIN, now).await?;
        let seconds = now.0 / 1000;
        let team = &found.team_id.0;
        let claims = Claims {
            iss: &self.issuer,
            sub: format!("spiffe://{}/team/{team}/sandbox/{sandbox}", trust_domain(&self.issuer)),
            aud: audience,
            iat: seconds,
            exp: (now + LIFETIME).0 / 1000,
            jti: hex::encode(rand::random::<[u8; 16]>()),
            team_id: team,
            sandbox_id: sandbox,
            template: &found.template,
        };
        Ok(self.keys.sign_claims(&claims)?.into())
    }
}

/// The issuer's host: letters, digits, dots, hyphens and underscores are all that a trust domain may have.
fn trust_domain(issuer: &str) -> String {
    let authority = issuer.split_once("://").map_or(issuer, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(literal) => literal.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let fits = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c.to_ascii_lowercase() } else { '-' };
    host.chars().map(fits).collect()
}

#[cfg(test)]
mod tests;
