//! What people change about themselves: their name and their password.

use atoll_model::{SessionId, UserId};
use secrecy::SecretString;
use serde_json::json;

use super::password::{self, HashError};
use super::{Accounts, LoginError, ending, rate, store};
use crate::audit::{self, Actor, Entry, Origin};
use crate::db::DbError;

#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("the current password is not right")]
    Wrong,
    #[error("a password must have {} to {} characters", password::MIN_LENGTH, password::MAX_LENGTH)]
    Length,
    #[error("the password was changed meanwhile")]
    Changed,
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Accounts {
    pub async fn rename(&self, user: &UserId, before: &str, name: &str, origin: &Origin) -> Result<(), DbError> {
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        store::rename(&mut tx, user, name, now).await?;
        let entry = Entry {
            team: None,
            actor: &Actor::User(user.clone()),
            origin,
            action: "user.update",
            target_kind: "user",
            target_id: Some(user.as_str()),
            result: "ok",
            details: json!({ "before": { "name": before }, "after": { "name": name } }),
        };
        audit::record(&mut tx, now, &entry).await?;
        tx.commit().await
    }

    /// Changes a password and ends all sessions but the one that asks, with what else the account has opened.
    pub async fn change_password(
        &self,
        user: &UserId,
        session: &SessionId,
        current: Option<SecretString>,
        new: SecretString,
        origin: &Origin,
    ) -> Result<(), PasswordError> {
        if !password::fits(&new) {
            return Err(PasswordError::Length);
        }
        let actor = Actor::User(user.clone());
        // Somebody who holds a session must not be able to try passwords without end.
        let limits = [rate::PASSWORD.of(user.as_str())];
        self.take_attempts(&limits).await?;
        let stored = store::password_hash(&self.db, user).await?;
        if stored.is_some() {
            let right = match current {
                Some(current) => self.hasher.verify(current, stored.clone()).await?,
                None => false,
            };
            if !right {
                let entry = Entry {
                    result: "invalid_request",
                    ..entry(&actor, user, origin, json!({ "field": "current_password" }))
                };
                audit::record_alone(&self.db, self.clock.now(), &entry).await?;
                return Err(PasswordError::Wrong);
            }
        }
        let hash = self.hasher.hash(new).await?;
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        if !store::set_password(&mut tx, user, stored.as_deref(), &hash, now).await? {
            return Err(PasswordError::Changed);
        }
        let ended = ending::end_access(&mut tx, user, Some(session), now).await?;
        let entry = entry(&actor, user, origin, json!({ "sessions_ended": ended }));
        audit::record(&mut tx, now, &entry).await?;
        tx.commit().await?;
        self.give_attempts_back(&limits).await?;
        Ok(())
    }
}

/// About a change of a password, one that was made or that was refused.
fn entry<'a>(actor: &'a Actor, user: &'a UserId, origin: &'a Origin, details: serde_json::Value) -> Entry<'a> {
    Entry {
        team: None,
        actor,
        origin,
        action: "user.password_change",
        target_kind: "user",
        target_id: Some(user.as_str()),
        result: "ok",
        details,
    }
}
