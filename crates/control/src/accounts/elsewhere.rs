//! Signing in elsewhere: the way there and back, and which account it opens.
//!
//! An account is found by who the person is there. The first time it is found by the address, and only by one that the
//! provider has verified. If nobody has proven here that the address is theirs (an open sign-up takes any), then whoever
//! made the account may be somebody else: its password, sessions, API keys, webhooks and invitations end as it is handed
//! over. Who has no account gets
//! one where that is allowed: by an open sign-up, or by an invitation for the address.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::identity_store::{self as store, NewSignIn};
use super::session::{SessionError, SignedIn, Visit};
use super::signup::SignupError;
use super::store::LoginRow;
use super::{Accounts, InvitationError, LoginError, ending, link, rate, store as people};
use crate::audit::{self, Actor, Entry, Origin};
use crate::config::SignupMode;
use crate::db::{DbError, Tx};
use crate::sign_in::{Begun, Proven, Provider, ProviderError};

/// From the way there to the way back.
pub const TTL: Duration = Duration::from_secs(600);

#[derive(Debug, thiserror::Error)]
pub enum ElsewhereError {
    /// The state is not one of ours, not this browser's, over, or was used.
    #[error("this sign-in was not begun here, or is over; begin again")]
    NotBegun,
    #[error("the sign-in provider has not verified an email address for this person")]
    NoAddress,
    #[error("this account is switched off")]
    SwitchedOff,
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Signup(#[from] SignupError),
    #[error(transparent)]
    Invitation(#[from] InvitationError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Where the browser goes, and what it keeps until it comes back.
pub struct WayThere {
    pub url: String,
    pub state: SecretString,
}

impl Accounts {
    pub async fn sign_in_there(
        &self,
        provider: &Provider<'_>,
        redirect: &str,
        return_to: &str,
        origin: &Origin,
    ) -> Result<WayThere, ElsewhereError> {
        let limits: Vec<_> =
            origin.address.as_deref().map(|address| rate::SIGN_IN_ADDRESS.of_address(address)).into_iter().collect();
        self.take_attempts(&limits).await?;
        let (state, now) = (link::secret(), self.clock.now());
        let begun = provider.begin(state.expose_secret(), redirect).await?;
        let new = NewSignIn {
            state_hash: &link::hash(state.expose_secret()),
            provider: provider.id(),
            verifier: &begun.verifier,
            nonce: &begun.nonce,
            return_to,
            created_at: now,
            expires_at: now + TTL,
        };
        store::insert(&self.db, &new).await?;
        Ok(WayThere { url: begun.url, state })
    }

    /// Signs in whoever comes back with `code` and `state`. Answers where they wanted to go, too.
    pub async fn sign_in_back(
        &self,
        provider: &Provider<'_>,
        code: &str,
        state: &str,
        redirect: &str,
        visit: Visit<'_>,
    ) -> Result<(SignedIn, String), ElsewhereError> {
        let row = store::take(&self.db, &link::hash(state), self.clock.now()).await?;
        let row = row.filter(|row| row.provider == provider.id()).ok_or(ElsewhereError::NotBegun)?;
        let begun = Begun { url: String::new(), verifier: row.verifier, nonce: row.nonce };
        let proven = provider.finish(code, &begun, redirect).await?;
        let signed_in = self.open_for(provider.id(), &proven, visit).await?;
        Ok((signed_in, row.return_to))
    }

    async fn open_for(
        &self,
        provider: &'static str,
        proven: &Proven,
        visit: Visit<'_>,
    ) -> Result<SignedIn, ElsewhereError> {
        let person = match store::person(&self.db, provider, &proven.subject).await? {
            Some(person) => {
                let person = active(person)?;
                let mut tx = self.db.begin().await?;
                let signed_in = self.open_session(&mut tx, person, visit, "user.login").await?;
                tx.commit().await?;
                return Ok(signed_in);
            }
            None => {
                let email = proven.email.as_deref().ok_or(ElsewhereError::NoAddress)?;
                people::user_for_login(&self.db, email).await?
            }
        };
        let email = proven.email.as_deref().ok_or(ElsewhereError::NoAddress)?;
        match person {
            Some(person) => self.link_known(provider, proven, email, active(person)?, visit).await,
            None => self.link_new(provider, proven, email, visit).await,
        }
    }

    async fn link_known(
        &self,
        provider: &'static str,
        proven: &Proven,
        email: &str,
        person: LoginRow,
        visit: Visit<'_>,
    ) -> Result<SignedIn, ElsewhereError> {
        let now = self.clock.now();
        let verified = store::is_verified(&self.db, &person.id).await?;
        let mut tx = self.db.begin().await?;
        if !verified {
            store::take_over(&mut tx, &person.id, now).await?;
            let sessions = ending::end_access(&mut tx, &person.id, None, now).await?;
            let made = ending::end_makings(&mut tx, &person.id).await?;
            let actor = Actor::User(person.id.0.clone());
            for key in &made.api_keys {
                let entry = Entry {
                    team: Some(&key.team_id),
                    actor: &actor,
                    origin: visit.origin,
                    action: "api_key.delete",
                    target_kind: "api_key",
                    target_id: Some(key.id.as_str()),
                    result: "ok",
                    details: json!({ "before": { "name": key.name }, "reason": "user.take_over" }),
                };
                audit::record(&mut tx, now, &entry).await?;
            }
            let entry = Entry {
                team: None,
                actor: &actor,
                origin: visit.origin,
                action: "user.take_over",
                target_kind: "user",
                target_id: Some(person.id.as_str()),
                result: "ok",
                details: json!({
                    "sessions_ended": sessions,
                    "api_keys_deleted": made.api_keys.len(),
                    "invitations_deleted": made.invitations,
                    "webhooks_deleted": made.webhooks,
                }),
            };
            audit::record(&mut tx, now, &entry).await?;
        }
        self.note_link(&mut tx, provider, proven, email, &person, visit.origin).await?;
        let signed_in = self.open_session(&mut tx, person, visit, "user.login").await?;
        tx.commit().await?;
        Ok(signed_in)
    }

    async fn link_new(
        &self,
        provider: &'static str,
        proven: &Proven,
        email: &str,
        visit: Visit<'_>,
    ) -> Result<SignedIn, ElsewhereError> {
        let invitations = match self.settings.signup {
            SignupMode::Closed => return Err(SignupError::Closed.into()),
            _ => store::invitations(&self.db, email, self.clock.now()).await?,
        };
        if invitations.is_empty() && self.settings.signup != SignupMode::Open {
            return Err(SignupError::InvitationNeeded.into());
        }
        let name = proven.name.as_deref().map(str::trim).filter(|name| !name.is_empty());
        let name: String = name.unwrap_or(email).chars().filter(|c| !c.is_control()).take(100).collect();
        let mut tx = self.db.begin().await?;
        let person = self.insert_person(&mut tx, email, &name, None, visit).await?;
        store::take_over(&mut tx, &person.id, self.clock.now()).await?;
        for invitation in &invitations {
            self.join(&mut tx, invitation, &person.id, visit.origin).await?;
        }
        self.note_link(&mut tx, provider, proven, email, &person, visit.origin).await?;
        let signed_in = self.open_session(&mut tx, person, visit, "user.login").await?;
        tx.commit().await?;
        Ok(signed_in)
    }

    async fn note_link(
        &self,
        tx: &mut Tx,
        provider: &'static str,
        proven: &Proven,
        email: &str,
        person: &LoginRow,
        origin: &Origin,
    ) -> Result<(), DbError> {
        let now = self.clock.now();
        store::link(tx, provider, &proven.subject, &person.id, email, now).await?;
        let entry = Entry {
            team: None,
            actor: &Actor::User(person.id.0.clone()),
            origin,
            action: "user.link",
            target_kind: "user",
            target_id: Some(person.id.as_str()),
            result: "ok",
            details: json!({ "provider": provider, "email": email }),
        };
        audit::record(tx, now, &entry).await
    }
}

fn active(person: LoginRow) -> Result<LoginRow, ElsewhereError> {
    if person.is_active { Ok(person) } else { Err(ElsewhereError::SwitchedOff) }
}
