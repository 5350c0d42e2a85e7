//! Invitations into a team, by a link that is good for a week and for one person. It goes out by mail, or is handed on
//! by whoever invites. Whoever holds it joins: with the account that they are signed in to, or with a new one that has
//! the invited address.

use std::time::Duration;

use atoll_model::api::auth::Role;
use atoll_model::{InvitationId, TeamId, UserId};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::invitation_store::{self as store, InvitationRow};
use super::session::{SignedIn, Visit};
use super::store::{LoginRow, NewUser, RoleName};
use super::{Accounts, SignupError, link, password, rate, store as people};
use crate::audit::{self, Actor, Entry, Origin};
use crate::config::SignupMode;
use crate::db::{DbError, Millis, Text, Tx};
use crate::teams::{self, Asker, TeamError};

const TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Invitations of one team that are open at once.
pub const MOST: i64 = 1000;

#[derive(Debug, thiserror::Error)]
pub enum InvitationError {
    /// It is over, was taken back or used, or never was.
    #[error("this invitation is no longer good")]
    Gone,
    #[error("a team can have at most {MOST} open invitations")]
    TooMany,
    #[error(transparent)]
    Team(#[from] TeamError),
    #[error(transparent)]
    Signup(#[from] SignupError),
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Accounts {
    /// Invites an address, in place of what it was invited with before. Answers the row and the link's secret.
    pub async fn invite(
        &self,
        asker: &Asker,
        team: &TeamId,
        email: &str,
        role: Role,
    ) -> Result<(InvitationRow, SecretString), InvitationError> {
        let (now, token) = (self.clock.now(), link::secret());
        let email = email.trim().to_lowercase();
        let limits = [rate::INVITE.of(asker.id.as_str())];
        self.take_attempts(&limits).await.map_err(SignupError::from)?;
        let mut tx = self.db.begin().await?;
        teams::may_add(&mut tx, asker, team, &email, role).await?;
        store::delete_for(&mut tx, team, &email).await?;
        if store::count(&mut tx, team, now).await? >= MOST {
            return Err(InvitationError::TooMany);
        }
        let row = InvitationRow {
            id: Text(InvitationId::new()),
            team_id: Text(team.clone()),
            email,
            role: Text(RoleName(role)),
            invited_by: Some(Text(asker.id.clone())),
            created_at: now,
            expires_at: now + TTL,
        };
        store::insert(&mut tx, &row, &link::hash(token.expose_secret())).await?;
        let details = json!({ "after": { "email": row.email, "role": role } });
        note(&mut tx, &row, &asker.actor(), &asker.origin, "invitation.create", details, now).await?;
        tx.commit().await?;
        Ok((row, token))
    }

    /// A page of a team's open invitations. An admin of the team may see them.
    pub async fn invitations(
        &self,
        asker: &Asker,
        team: &TeamId,
        after: (Millis, &str),
        limit: i64,
    ) -> Result<Vec<InvitationRow>, InvitationError> {
        let mut tx = self.db.begin().await?;
        teams::must_be_admin(&mut tx, asker, team).await?;
        drop(tx);
        Ok(store::list(&self.db, team, after, limit, self.clock.now()).await?)
    }

    /// Takes an invitation back: its link is worth nothing from now on.
    pub async fn uninvite(&self, asker: &Asker, team: &TeamId, id: &InvitationId) -> Result<(), InvitationError> {
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        teams::must_be_admin(&mut tx, asker, team).await?;
        let before = store::delete(&mut tx, team, id).await?.ok_or(InvitationError::Gone)?;
        let entry = Entry {
            team: Some(team),
            actor: &asker.actor(),
            origin: &asker.origin,
            action: "invitation.delete",
            target_kind: "invitation",
            target_id: Some(id.as_str()),
            result: "ok",
            details: json!({ "before": { "email": before.email, "role": before.role.0.0 } }),
        };
        audit::record(&mut tx, now, &entry).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The invitation that this is the token of, and whether its address has an account.
    pub async fn invitation(&self, token: &str) -> Result<(InvitationRow, bool), InvitationError> {
        let row = store::by_token(&self.db, &link::hash(token), self.clock.now()).await?;
        let row = row.ok_or(InvitationError::Gone)?;
        let has_account = people::user_for_login(&self.db, &row.email).await?.is_some();
        Ok((row, has_account))
    }

    /// Joins the team with the account of `user`.
    pub async fn accept_as(
        &self,
        token: &str,
        user: &UserId,
        origin: &Origin,
    ) -> Result<InvitationRow, InvitationError> {
        let row = store::by_token(&self.db, &link::hash(token), self.clock.now()).await?;
        let row = row.ok_or(InvitationError::Gone)?;
        let mut tx = self.db.begin().await?;
        self.join(&mut tx, &row, user, origin).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Makes an account with the invited address, and joins the team with it.
    pub async fn accept_anew(
        &self,
        token: &str,
        name: &str,
        password: SecretString,
        visit: Visit<'_>,
    ) -> Result<SignedIn, InvitationError> {
        if self.settings.signup == SignupMode::Closed {
            return Err(SignupError::Closed.into());
        }
        if !password::fits(&password) {
            return Err(SignupError::Password.into());
        }
        let (row, has_account) = self.invitation(token).await?;
        if has_account {
            return Err(SignupError::EmailTaken.into());
        }
        let hash = self.hasher.hash(password).await.map_err(SignupError::from)?;
        let now = self.clock.now();
        let mut tx = self.db.begin().await?;
        let id = UserId::new();
        let new =
            NewUser { id: &id, email: &row.email, name: name.trim(), password_hash: Some(&hash), verified: false };
        people::insert_user(&mut tx, &new, now)
            .await
            .map_err(|error| if error.is_unique_violation() { SignupError::EmailTaken } else { error.into() })?;
        let entry = Entry {
            team: Some(&row.team_id),
            actor: &Actor::User(id.clone()),
            origin: visit.origin,
            action: "user.signup",
            target_kind: "user",
            target_id: Some(id.as_str()),
            result: "ok",
            details: json!({ "email": row.email, "invitation": row.id.as_str() }),
        };
        audit::record(&mut tx, now, &entry).await?;
        self.join(&mut tx, &row, &id, visit.origin).await?;
        let person = LoginRow {
            id: Text(id),
            email: row.email.clone(),
            name: name.trim().to_owned(),
            password_hash: Some(hash),
            is_admin: false,
            is_active: true,
            team_id: Some(row.team_id.clone()),
            role: Some(row.role.clone()),
        };
        let signed_in = self.open_session(&mut tx, person, visit, "user.login").await.map_err(SignupError::from)?;
        tx.commit().await?;
        Ok(signed_in)
    }

    /// Uses the invitation up. Somebody who is in the team already stays what they are.
    pub(super) async fn join(
        &self,
        tx: &mut Tx,
        row: &InvitationRow,
        user: &UserId,
        origin: &Origin,
    ) -> Result<(), InvitationError> {
        let now = self.clock.now();
        // Who comes second with the same link finds nothing.
        if store::delete(tx, &row.team_id, &row.id).await?.is_none() {
            return Err(InvitationError::Gone);
        }
        teams::join(tx, &row.team_id, user, row.role.0.0, now).await?;
        let details = json!({ "email": row.email, "role": row.role.0.0, "user_id": user.as_str() });
        note(tx, row, &Actor::User(user.clone()), origin, "invitation.accept", details, now).await?;
        Ok(())
    }
}

async fn note(
    tx: &mut Tx,
    row: &InvitationRow,
    actor: &Actor,
    origin: &Origin,
    action: &'static str,
    details: serde_json::Value,
    now: Millis,
) -> Result<(), DbError> {
    let entry = Entry {
        team: Some(&row.team_id),
        actor,
        origin,
        action,
        target_kind: "invitation",
        target_id: Some(row.id.as_str()),
        result: "ok",
        details,
    };
    audit::record(tx, now, &entry).await
}
