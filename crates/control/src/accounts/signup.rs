//! Making an account for oneself, where that is allowed.

use atoll_model::{TeamId, UserId};
use secrecy::SecretString;
use serde_json::json;

use super::password::{self, HashError};
use super::session::{SessionError, SignedIn, Visit};
use super::store::{self, LoginRow, NewUser, RoleName};
use super::{Accounts, LoginError, rate};
use crate::audit::{self, Actor, Entry, Origin};
use crate::config::SignupMode;
use crate::db::{DbError, Millis, Text, Tx};
use atoll_model::api::auth::Role;

/// Longest part of a team's short name that comes from its name.
const SLUG: usize = 40;

#[derive(Debug, thiserror::Error)]
pub enum SignupError {
    #[error("nobody can make an account here by themselves")]
    Closed,
    #[error("an account is made by invitation here")]
    InvitationNeeded,
    #[error("there is an account with this address already")]
    EmailTaken,
    #[error("a password must have {} to {} characters", password::MIN_LENGTH, password::MAX_LENGTH)]
    Password,
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Somebody who wants an account.
pub struct Newcomer<'a> {
    pub email: &'a str,
    pub name: &'a str,
    pub password: SecretString,
}

impl Accounts {
    /// Makes an account with a team of its own, and signs it in.
    pub async fn signup(&self, newcomer: Newcomer<'_>, visit: Visit<'_>) -> Result<SignedIn, SignupError> {
        match self.settings.signup {
            SignupMode::Open => {}
            SignupMode::Invite => return Err(SignupError::InvitationNeeded),
            SignupMode::Closed => return Err(SignupError::Closed),
        }
        if !password::fits(&newcomer.password) {
            return Err(SignupError::Password);
        }
        let email = newcomer.email.trim().to_lowercase();
        let limits = rate::both(rate::SIGNUP_ADDRESS, visit.origin, rate::SIGNUP_ACCOUNT, &email);
        self.take_attempts(&limits).await?;
        let hash = self.hasher.hash(newcomer.password).await?;
        let mut tx = self.db.begin().await?;
        let row = self.insert_person(&mut tx, &email, newcomer.name.trim(), Some(&hash), visit).await?;
        let signed_in = self.open_session(&mut tx, row, visit, "user.login").await?;
        tx.commit().await?;
        Ok(signed_in)
    }

    /// A new person with a team of their own, in `tx`.
    pub(super) async fn insert_person(
        &self,
        tx: &mut Tx,
        email: &str,
        name: &str,
        password_hash: Option<&str>,
        visit: Visit<'_>,
    ) -> Result<LoginRow, SignupError> {
        let (id, now) = (UserId::new(), self.clock.now());
        let user = NewUser { id: &id, email, name, password_hash, verified: false };
        store::insert_user(tx, &user, now)
            .await
            .map_err(|error| if error.is_unique_violation() { SignupError::EmailTaken } else { error.into() })?;
        let actor = Actor::User(id.clone());
        let team = self.own_team(tx, &id, name, (&actor, visit.origin), now).await?;
        let entry = Entry {
            team: Some(&team),
            actor: &actor,
            origin: visit.origin,
            action: "user.signup",
            target_kind: "user",
            target_id: Some(id.as_str()),
            result: "ok",
            details: json!({ "email": email }),
        };
        audit::record(tx, now, &entry).await?;
        Ok(LoginRow {
            id: Text(id),
            email: email.to_owned(),
            name: name.to_owned(),
            password_hash: password_hash.map(str::to_owned),
            is_admin: false,
            is_active: true,
            team_id: Some(Text(team)),
            role: Some(Text(RoleName(Role::Owner))),
        })
    }

    /// A team of the person's own, with its audit entry.
    pub(super) async fn own_team(
        &self,
        tx: &mut Tx,
        user: &UserId,
        name: &str,
        (actor, origin): (&Actor, &Origin),
        now: Millis,
    ) -> Result<TeamId, DbError> {
        let id = TeamId::new();
        let slug = slug(name, &id);
        store::insert_team(tx, &id, name, &slug, user, now).await?;
        note_team(tx, &id, (name, &slug, user), (actor, origin), now).await?;
        Ok(id)
    }
}

/// The audit entry of a new team: its name, its short name, its owner.
pub(super) async fn note_team(
    tx: &mut Tx,
    team: &TeamId,
    (name, slug, owner): (&str, &str, &UserId),
    (actor, origin): (&Actor, &Origin),
    now: Millis,
) -> Result<(), DbError> {
    let entry = Entry {
        team: Some(team),
        actor,
        origin,
        action: "team.create",
        target_kind: "team",
        target_id: Some(team.as_str()),
        result: "ok",
        details: json!({ "after": { "name": name, "slug": slug, "owner": owner } }),
    };
    audit::record(tx, now, &entry).await
}

/// A team's short name: what of its name is fit for one, and a piece of its id, which makes it unique.
pub(super) fn slug(name: &str, id: &TeamId) -> String {
    let mut slug = String::new();
    for c in name.to_lowercase().chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
        if slug.len() >= SLUG {
            break;
        }
    }
    let slug = slug.trim_end_matches('-');
    format!("{}-{}", if slug.is_empty() { "team" } else { slug }, &id.tail()[..6])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_holds_what_is_fit_of_the_name() {
        let id = TeamId::new();
        for (name, expected) in [("Ada Lovelace", "ada-lovelace"), ("  ", "team"), ("Ünal & Co.", "nal-co")] {
            assert_eq!(slug(name, &id).rsplit_once('-').unwrap().0, expected);
        }
        assert!(slug(&"x".repeat(300), &id).len() < 50);
    }
}
