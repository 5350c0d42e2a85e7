//! A host's access JWT: EdDSA with a key of its own, `typ: host`, so that it is never taken for a user's, nor the
//! reverse. It names the family of refresh tokens that it belongs to: when the family is revoked, so is the JWT, at
//! the host's next call.

use std::time::Duration;

use atoll_model::HostId;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::db::keys::{self, StoredKey};
use crate::db::{Db, DbError, Millis};

const PURPOSE: &str = "host_jwt";
const ISSUER: &str = "atoll";
const TYPE: &str = "host";
const RELAY_TYPE: &str = "relay";
/// Longer texts are no token of ours.
const MAX_TOKEN: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("could not make a signing key for host tokens")]
    MakeKey(#[source] rcgen::Error),
    #[error("the signing key for host tokens in the database is not usable")]
    BadKey(#[source] jsonwebtoken::errors::Error),
    #[error("could not sign a host token")]
    Sign(#[source] jsonwebtoken::errors::Error),
    #[error(transparent)]
    Db(#[from] DbError),
}

/// What a host's JWT says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostClaims {
    pub iss: String,
    pub typ: String,
    pub sub: HostId,
    /// The family of refresh tokens.
    pub fam: String,
    /// The refresh token that was issued with it.
    pub rid: String,
    pub iat: i64,
    pub exp: i64,
}

/// What a replica's JWT for another replica says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RelayClaims {
    iss: String,
    typ: String,
    sub: HostId,
    exp: i64,
}

/// Signs and checks host JWTs.
pub struct HostTokens {
    kid: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

impl HostTokens {
    /// Takes the key from the database, or makes the first one.
    pub async fn load(db: &Db, now: Millis) -> Result<Self, TokenError> {
        let fresh = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(TokenError::MakeKey)?;
        let (private_pem, public_pem) = (fresh.serialize_pem(), fresh.public_key_pem());
        let fresh = StoredKey { kid: String::new(), private_pem, public_pem };
        let key = keys::current_or(db, PURPOSE, fresh, now).await?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        validation.leeway = 0;
        // Time comes from control's clock: see `verify`.
        validation.validate_exp = false;
        Ok(Self {
            kid: key.kid,
            encoding: EncodingKey::from_ed_pem(key.private_pem.as_bytes()).map_err(TokenError::BadKey)?,
            decoding: DecodingKey::from_ed_pem(key.public_pem.as_bytes()).map_err(TokenError::BadKey)?,
            validation,
        })
    }

    pub fn sign(
        &self,
        host: &HostId,
        family: &str,
        refresh_id: &str,
        now: Millis,
        ttl: Duration,
    ) -> Result<String, TokenError> {
        let claims = HostClaims {
            iss: ISSUER.to_owned(),
            typ: TYPE.to_owned(),
            sub: host.clone(),
            fam: family.to_owned(),
            rid: refresh_id.to_owned(),
            iat: now.0 / 1000,
            exp: (now + ttl).0 / 1000,
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, &claims, &self.encoding).map_err(TokenError::Sign)
    }

    /// A token with which one replica asks another for a stream to a host: good for a moment, and for that host.
    pub fn sign_relay(&self, host: &HostId, now: Millis, ttl: Duration) -> Result<String, TokenError> {
        let exp = (now + ttl).0 / 1000;
        let claims = RelayClaims { iss: ISSUER.to_owned(), typ: RELAY_TYPE.to_owned(), sub: host.clone(), exp };
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, &claims, &self.encoding).map_err(TokenError::Sign)
    }

    /// Whether a replica has signed `token` for `host` just now.
    #[must_use]
    pub fn verify_relay(&self, token: &str, host: &HostId, now: Millis) -> bool {
        let decoded = jsonwebtoken::decode::<RelayClaims>(token, &self.decoding, &self.validation);
        decoded.is_ok_and(|token| {
            token.claims.typ == RELAY_TYPE && token.claims.sub == *host && token.claims.exp > now.0 / 1000
        })
    }

    /// The claims of a token that we signed, and whether it is still in its time. An expired one is worth nothing but
    /// to be told that the host was deleted.
    #[must_use]
    pub fn verify(&self, token: &str, now: Millis) -> Option<(HostClaims, InTime)> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let claims = jsonwebtoken::decode::<HostClaims>(token, &self.decoding, &self.validation).ok()?.claims;
        let in_time = if claims.exp > now.0 / 1000 { InTime::Yes } else { InTime::Expired };
        (claims.typ == TYPE).then_some((claims, in_time))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InTime {
    Yes,
    Expired,
}
