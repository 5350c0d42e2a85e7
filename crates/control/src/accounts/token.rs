//! User JWTs: EdDSA, `typ: user`, with the id of the key that signed them. A host's token has another key and another
//! `typ` and is never accepted here.

use std::time::Duration;

use atoll_model::{SessionId, TeamId, UserId};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::db::keys::{self, StoredKey};
use crate::db::{Db, DbError, Millis};

const PURPOSE: &str = "user_jwt";
const ISSUER: &str = "atoll";
const TYPE: &str = "user";

/// What a user JWT says. Only `sub` and `sid` are believed; the rest is for the user interface, and rights are read
/// from the database at every call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UserClaims {
    pub iss: String,
    pub typ: String,
    pub sub: UserId,
    pub sid: SessionId,
    pub team_id: TeamId,
    pub role: String,
    pub email: String,
    pub name: String,
    pub is_admin: bool,
    pub iat: i64,
    pub exp: i64,
}

/// Who a token is for.
pub struct Subject<'a> {
    pub user: &'a UserId,
    pub session: &'a SessionId,
    pub team: &'a TeamId,
    pub role: &'a str,
    pub email: &'a str,
    pub name: &'a str,
    pub is_admin: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("could not make a signing key for user tokens")]
    MakeKey(#[source] rcgen::Error),
    #[error("the signing key for user tokens in the database is not usable")]
    BadKey(#[source] jsonwebtoken::errors::Error),
    #[error("could not sign a user token")]
    Sign(#[source] jsonwebtoken::errors::Error),
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Signs and checks user JWTs.
pub struct UserTokens {
    kid: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

impl UserTokens {
    /// Takes the key from the database, or makes the first one.
    pub async fn load(db: &Db, now: Millis) -> Result<Self, TokenError> {
        let fresh = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(TokenError::MakeKey)?;
        let fresh =
            StoredKey { kid: String::new(), private_pem: fresh.serialize_pem(), public_pem: fresh.public_key_pem() };
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

    pub fn sign(&self, subject: &Subject<'_>, now: Millis, ttl: Duration) -> Result<SecretString, TokenError> {
        let claims = UserClaims {
            iss: ISSUER.to_owned(),
            typ: TYPE.to_owned(),
            sub: subject.user.clone(),
            sid: subject.session.clone(),
            team_id: subject.team.clone(),
            role: subject.role.to_owned(),
            email: subject.email.to_owned(),
            name: subject.name.to_owned(),
            is_admin: subject.is_admin,
            iat: now.0 / 1000,
            exp: (now + ttl).0 / 1000,
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        let token = jsonwebtoken::encode(&header, &claims, &self.encoding).map_err(TokenError::Sign)?;
        Ok(token.into())
    }

    /// Whether a text is a user token of this installation, whatever it is still worth.
    #[must_use]
    pub fn are_ours(&self, token: &str) -> bool {
        jsonwebtoken::decode_header(token).is_ok_and(|header| header.kid.as_deref() == Some(self.kid.as_str()))
    }

    /// The claims of a token that we signed and that has not expired; nothing for any other text.
    #[must_use]
    pub fn verify(&self, token: &str, now: Millis) -> Option<UserClaims> {
        let claims = jsonwebtoken::decode::<UserClaims>(token, &self.decoding, &self.validation).ok()?.claims;
        (claims.typ == TYPE && claims.exp > now.0 / 1000).then_some(claims)
    }
}
