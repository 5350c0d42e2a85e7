//! User JWTs: who a person is and which session proves it. See `signing` for the keys.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use atoll_model::{SessionId, TeamId, UserId};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::db::{Db, Millis};
use crate::signing::{self, JwtKeys, SigningError, Verified};

/// What a user JWT says. Only `sub` and `sid` are believed; the rest is for the user interface, and rights are read
/// from the database at every call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UserClaims {
    pub sub: UserId,
    pub sid: SessionId,
    pub team_id: TeamId,
    pub role: String,
    pub email: String,
    pub name: String,
    pub is_admin: bool,
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

/// Signs and checks user JWTs.
pub struct UserTokens {
    keys: JwtKeys,
    /// The version of everybody's rights under which the keys were last looked for.
    version: AtomicI64,
}

impl UserTokens {
    /// `own`: the operator's key file, if there is one.
    pub async fn load(db: &Db, own: Option<&Path>, now: Millis) -> Result<Self, SigningError> {
        let keys = JwtKeys::load(db, signing::USERS, own, now).await?;
        Ok(Self { keys, version: AtomicI64::new(0) })
    }

    pub fn sign(&self, subject: &Subject<'_>, now: Millis, ttl: Duration) -> Result<SecretString, SigningError> {
        let claims = UserClaims {
            sub: subject.user.clone(),
            sid: subject.session.clone(),
            team_id: subject.team.clone(),
            role: subject.role.to_owned(),
            email: subject.email.to_owned(),
            name: subject.name.to_owned(),
            is_admin: subject.is_admin,
        };
        self.keys.sign(claims, now, ttl).map(Into::into)
    }

    /// The keys themselves, for tokens of other kinds.
    #[must_use]
    pub fn keys(&self) -> &JwtKeys {
        &self.keys
    }

    /// Whether a text is a user token of this installation, whatever it is still worth.
    #[must_use]
    pub fn are_ours(&self, token: &str) -> bool {
        self.keys.made(token)
    }

    /// The claims of a token that we signed and that has not expired; nothing for any other text.
    pub async fn verify(&self, token: &str, now: Millis) -> Result<Option<Verified<UserClaims>>, SigningError> {
        Ok(self.keys.verify(token, now).await?.filter(|verified: &Verified<UserClaims>| verified.expires_at > now))
    }

    pub async fn refresh(&self, now: Millis) -> Result<(), SigningError> {
        self.keys.refresh(now).await
    }

    /// Looks for keys that were made or retired, if anything has changed since: a key that is refused at once is, by every
    /// replica.
    pub async fn refresh_for(&self, version: i64, now: Millis) -> Result<(), SigningError> {
        if self.version.swap(version, Ordering::AcqRel) == version {
            return Ok(());
        }
        self.keys.refresh(now).await
    }
}
