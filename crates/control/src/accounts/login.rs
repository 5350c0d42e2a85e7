//! Signing in and out. The answer never says whether the address or the password was wrong, and takes as long either
//! way.

use std::time::Duration;

use atoll_model::{SessionId, TeamId, UserId};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::password::{self, HashError};
use super::token::Subject;
use super::{Accounts, SignedIn, TokenError, rate, store};
use crate::audit::{self, Actor, Entry, Origin};
use crate::db::DbError;

/// Attempts in a minute, per account and per address. Those that succeed don't count.
const PER_ACCOUNT: i64 = 10;
const PER_ADDRESS: i64 = 60;

#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("wrong email or password")]
    Refused,
    #[error("too many attempts; try again in {} s", .0.as_secs())]
    TooMany(Duration),
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Accounts {
    pub async fn login(
        &self,
        email: &str,
        password: SecretString,
        origin: &Origin,
        user_agent: Option<&str>,
    ) -> Result<SignedIn, LoginError> {
        let email = email.trim().to_lowercase();
        let now = self.clock.now();
        let mut keys = vec![(rate::key("login account", &email), PER_ACCOUNT)];
        if let Some(address) = &origin.address {
            keys.push((rate::key("login address", address), PER_ADDRESS));
        }
        for (key, limit) in &keys {
            if let Some(wait) = rate::take(&self.db, key, *limit, now).await? {
                return Err(LoginError::TooMany(wait));
            }
        }
        let user = if password.expose_secret().len() > password::MAX_LENGTH {
            None
        } else {
            store::user_for_login(&self.db, &email).await?
        };
        let stored = user.as_ref().and_then(|user| user.password_hash.clone());
        let matches = password::verify(&self.hashing, password, stored).await?;
        let Some(user) = user.filter(|user| matches && user.is_active) else {
            return Err(LoginError::Refused);
        };
        for (key, _) in &keys {
            rate::give_back(&self.db, key).await?;
        }
        self.open_session(user, origin, user_agent).await
    }

    async fn open_session(
        &self,
        user: store::LoginRow,
        origin: &Origin,
        user_agent: Option<&str>,
    ) -> Result<SignedIn, LoginError> {
        let now = self.clock.now();
        let (Some(team), Some(role)) = (user.team_id, user.role) else {
            // Nobody is without a team: a person's own is made with the account.
            return Err(LoginError::Refused);
        };
        let (user_id, team_id): (UserId, TeamId) = (user.id.0, team.0);
        let session_id = SessionId::new();
        let token = self.tokens.sign(
            &Subject {
                user: &user_id,
                session: &session_id,
                team: &team_id,
                role: role.as_str(),
                email: &user.email,
                name: &user.name,
                is_admin: user.is_admin,
            },
            now,
            self.session_ttl,
        )?;
        let session = store::NewSession {
            id: &session_id,
            user: &user_id,
            team: &team_id,
            created_at: now,
            expires_at: now + self.session_ttl,
            address: origin.address.as_deref(),
            user_agent,
        };
        let mut tx = self.db.begin().await?;
        store::insert_session(&mut tx, &session).await?;
        let actor = Actor::User(user_id.clone());
        let entry = Entry {
            team: Some(&team_id),
            actor: &actor,
            origin,
            action: "user.login",
            target_kind: "session",
            target_id: Some(session_id.as_str()),
            result: "ok",
            details: json!({}),
        };
        audit::record(&mut tx, now, &entry).await?;
        tx.commit().await?;
        Ok(SignedIn { token, user_id, team_id, email: user.email, name: user.name })
    }

    /// Ends a session: its token is worth nothing from now on.
    pub async fn logout(&self, session: &SessionId) -> Result<(), DbError> {
        store::revoke_session(&self.db, session, self.clock.now()).await
    }
}
