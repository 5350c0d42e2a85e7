//! Signing in with a password. The answer never says whether the address or the password was wrong, and takes as long
//! either way.

use std::time::Duration;

use secrecy::SecretString;
use serde_json::json;

use super::Accounts;
use super::password::{self, HashError};
use super::rate::{self, Bound};
use super::session::{SessionError, SignedIn, Visit};
use super::store::{self, LoginRow};
use crate::audit::{self, Actor, Entry, Origin};
use crate::db::DbError;

#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("wrong email or password")]
    Refused,
    #[error("too many attempts; try again in {} s", .0.as_secs())]
    TooMany(Duration),
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Accounts {
    pub async fn login(&self, email: &str, password: SecretString, visit: Visit<'_>) -> Result<SignedIn, LoginError> {
        let email = email.trim().to_lowercase();
        let limits = rate::both(rate::LOGIN_ADDRESS, visit.origin, rate::LOGIN_ACCOUNT, &email);
        self.take_attempts(&limits).await?;
        let user = store::user_for_login(&self.db, &email).await?;
        let stored = user.as_ref().and_then(|user| user.password_hash.clone());
        let outdated = stored.as_deref().is_some_and(password::is_outdated);
        let matches = self.hasher.verify(password.clone(), stored).await?;
        let user = match user {
            Some(user) if matches && user.is_active => user,
            refused => {
                self.note_refusal(refused.as_ref(), matches, visit.origin).await?;
                return Err(LoginError::Refused);
            }
        };
        self.give_attempts_back(&limits).await?;
        let rehashed = if outdated { Some(self.hasher.hash(password).await?) } else { None };
        let mut tx = self.db.begin().await?;
        if let Some(hash) = rehashed {
            let old = user.password_hash.as_deref();
            store::set_password(&mut tx, &user.id, old, &hash, self.clock.now()).await?;
        }
        let signed_in = self.open_session(&mut tx, user, visit, "user.login").await?;
        tx.commit().await?;
        Ok(signed_in)
    }

    /// Writes down that somebody was refused: as often as the limits let them try. Not what they typed, which may be the
    /// password of another account, in the wrong field.
    async fn note_refusal(&self, user: Option<&LoginRow>, matches: bool, origin: &Origin) -> Result<(), DbError> {
        let reason = match user {
            None => "no_account",
            Some(_) if matches => "switched_off",
            Some(_) => "wrong_password",
        };
        let entry = Entry {
            team: None,
            actor: &Actor::System,
            origin,
            action: "user.login",
            target_kind: "user",
            target_id: user.map(|user| user.id.as_str()),
            result: "unauthorized",
            details: json!({ "reason": reason }),
        };
        audit::record_alone(&self.db, self.clock.now(), &entry).await
    }

    /// Counts an attempt under each of the limits. When this replica knows one of them to be exceeded, none is counted.
    pub(super) async fn take_attempts(&self, limits: &[Bound]) -> Result<(), LoginError> {
        let now = self.clock.now();
        if let Some(wait) = limits.iter().find_map(|limit| self.rates.blocked(limit, now)) {
            return Err(LoginError::TooMany(wait));
        }
        for limit in limits {
            if let Some(wait) = self.rates.take(limit, now).await? {
                return Err(LoginError::TooMany(wait));
            }
        }
        Ok(())
    }

    pub(super) async fn give_attempts_back(&self, limits: &[Bound]) -> Result<(), DbError> {
        for limit in limits {
            self.rates.give_back(limit).await?;
        }
        Ok(())
    }
}
