//! New passwords for people who have lost theirs, by a link that is good for an hour and for once. It goes out by mail,
//! or an admin makes it and hands it on.
//!
//! Asking for one says nothing about whether there is an account: the answer is the same, and what there is to do is
//! done behind it.

use std::time::Duration;

use atoll_model::UserId;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::reset_store::{self as store, NewReset};
use super::signup::SignupError;
use super::store::NewUser;
use super::{Accounts, LoginError, PasswordError, ending, link, password, rate, store as people};
use crate::audit::{self, Actor, Entry, Origin};
use crate::db::{DbError, Millis};
use crate::mail::MailError;

const TTL: Duration = Duration::from_secs(3600);
/// Of a link that an admin hands on.
const HANDED_TTL: Duration = Duration::from_secs(3 * 24 * 3600);

#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    #[error("this link is no longer good; ask for a new one")]
    Gone,
    #[error("there is no such user")]
    NoUser,
    #[error(transparent)]
    Password(#[from] PasswordError),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Signup(#[from] SignupError),
    #[error(transparent)]
    Db(#[from] DbError),
}

/// A link that somebody hands on.
pub struct Handed {
    pub user: UserId,
    pub email: String,
    pub secret: SecretString,
    pub expires_at: Millis,
}

impl Accounts {
    /// Counts the wish for a new password. What there is to do is then done by [`Accounts::mail_reset`].
    pub async fn ask_for_reset(&self, email: &str, origin: &Origin) -> Result<(), LoginError> {
        let limits = rate::both(rate::RESET_ADDRESS, origin, rate::RESET_ACCOUNT, &email.trim().to_lowercase());
        self.take_attempts(&limits).await
    }

    /// Mails a link, if there is such an account and there is mail.
    pub async fn mail_reset(&self, email: &str, origin: &Origin, base: &str) -> Result<(), MailResetError> {
        if !self.mailer.is_on() {
            return Ok(());
        }
        let user = people::user_for_login(&self.db, &email.trim().to_lowercase()).await?;
        let Some(user) = user.filter(|user| user.is_active) else { return Ok(()) };
        let (now, secret) = (self.clock.now(), link::secret());
        let mut tx = self.db.begin().await?;
        let hash = link::hash(secret.expose_secret());
        let new =
            NewReset { token_hash: &hash, user: &user.id, created_by: None, created_at: now, expires_at: now + TTL };
        store::replace(&mut tx, &new).await?;
        let entry = Entry {
            team: None,
            actor: &Actor::System,
            origin,
            action: "user.password_reset_request",
            target_kind: "user",
            target_id: Some(user.id.as_str()),
            result: "ok",
            details: json!({}),
        };
        audit::record(&mut tx, now, &entry).await?;
        tx.commit().await?;
        let body = format!(
            "Somebody, hopefully you, asked for a new password for {}.\n\n\
             Set it within an hour here:\n\n    {base}/reset#{}\n\n\
             If it was not you, there is nothing to do: your password stays what it is.\n",
            user.email,
            secret.expose_secret(),
        );
        self.mailer.send(&user.email, "Your new password", body).await?;
        Ok(())
    }

    /// A link that sets somebody's password, for an admin to hand on.
    pub async fn reset_link(&self, admin: &UserId, user: &UserId, origin: &Origin) -> Result<Handed, ResetError> {
        let email = people::email_of(&self.db, user).await?.ok_or(ResetError::NoUser)?;
        let (now, secret) = (self.clock.now(), link::secret());
        let hash = link::hash(secret.expose_secret());
        let expires_at = now + HANDED_TTL;
        let mut tx = self.db.begin().await?;
        let new = NewReset { token_hash: &hash, user, created_by: Some(admin), created_at: now, expires_at };
        store::replace(&mut tx, &new).await?;
        let entry = Entry {
            team: None,
            actor: &Actor::User(admin.clone()),
            origin,
            action: "user.password_reset_link",
            target_kind: "user",
            target_id: Some(user.as_str()),
            result: "ok",
            details: json!({}),
        };
        audit::record(&mut tx, now, &entry).await?;
        tx.commit().await?;
        Ok(Handed { user: user.clone(), email, secret, expires_at })
    }

    /// An account that an admin makes for somebody, who sets its password by the link in the answer.
    pub async fn create_user(
        &self,
        admin: &UserId,
        email: &str,
        name: &str,
        origin: &Origin,
    ) -> Result<Handed, ResetError> {
        let (id, now, secret) = (UserId::new(), self.clock.now(), link::secret());
        let (email, name, expires_at) = (email.trim().to_lowercase(), name.trim(), now + HANDED_TTL);
        let mut tx = self.db.begin().await?;
        let user = NewUser { id: &id, email: &email, name, password_hash: None, verified: true };
        people::insert_user(&mut tx, &user, now)
            .await
            .map_err(|error| if error.is_unique_violation() { SignupError::EmailTaken } else { error.into() })?;
        let actor = Actor::User(admin.clone());
        let team = self.own_team(&mut tx, &id, name, (&actor, origin), now).await?;
        let hash = link::hash(secret.expose_secret());
        let new = NewReset { token_hash: &hash, user: &id, created_by: Some(admin), created_at: now, expires_at };
        store::replace(&mut tx, &new).await?;
        let entry = Entry {
            team: Some(&team),
            actor: &actor,
            origin,
            action: "user.create",
            target_kind: "user",
            target_id: Some(id.as_str()),
            result: "ok",
            details: json!({ "after": { "email": email, "name": name } }),
        };
        audit::record(&mut tx, now, &entry).await?;
        tx.commit().await?;
        Ok(Handed { user: id, email, secret, expires_at })
    }

    /// Sets a password by a link. All sessions of its owner end.
    pub async fn reset_password(&self, token: &str, new: SecretString, origin: &Origin) -> Result<(), ResetError> {
        if !password::fits(&new) {
            return Err(PasswordError::Length.into());
        }
        let bound = origin.address.as_deref().map(|address| rate::LINK_ADDRESS.of_address(address));
        if let Some(wait) = bound.as_ref().and_then(|bound| self.rates.blocked(bound, self.clock.now())) {
            return Err(LoginError::TooMany(wait).into());
        }
        let (token_hash, now) = (link::hash(token), self.clock.now());
        if !store::is_good(&self.db, &token_hash, now).await? {
            self.take_attempts(bound.as_slice()).await?;
            return Err(ResetError::Gone);
        }
        let hash = self.hasher.hash(new).await.map_err(PasswordError::from)?;
        let mut tx = self.db.begin().await?;
        let user = store::take(&mut tx, &token_hash, now).await?.ok_or(ResetError::Gone)?;
        store::set_password(&mut tx, &user, &hash, now).await?;
        let ended = ending::end_access(&mut tx, &user, None, now).await?;
        let entry = Entry {
            team: None,
            actor: &Actor::User(user.clone()),
            origin,
            action: "user.password_reset",
            target_kind: "user",
            target_id: Some(user.as_str()),
            result: "ok",
            details: json!({ "sessions_ended": ended }),
        };
        audit::record(&mut tx, now, &entry).await?;
        tx.commit().await?;
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum MailResetError {
    #[error(transparent)]
    Mail(#[from] MailError),
    #[error(transparent)]
    Db(#[from] DbError),
}
