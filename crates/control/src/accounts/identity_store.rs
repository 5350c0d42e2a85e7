//! SQL of sign-ins elsewhere: those under way, and who somebody is there.

use atoll_model::UserId;

use super::invitation_store::InvitationRow;
use super::store::LoginRow;
use crate::db::{Db, DbError, During, Millis, Tx, on};

/// A sign-in under way.
#[derive(sqlx::FromRow)]
pub struct SignInRow {
    pub provider: String,
    pub verifier: String,
    pub nonce: String,
    pub return_to: String,
}

pub struct NewSignIn<'a> {
    pub state_hash: &'a str,
    pub provider: &'a str,
    pub verifier: &'a str,
    pub nonce: &'a str,
    pub return_to: &'a str,
    pub created_at: Millis,
    pub expires_at: Millis,
}

pub async fn insert(db: &Db, new: &NewSignIn<'_>) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query(
        "INSERT INTO sign_ins (state_hash, provider, verifier, nonce, return_to, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(new.state_hash)
    .bind(new.provider)
    .bind(new.verifier)
    .bind(new.nonce)
    .bind(new.return_to)
    .bind(new.created_at)
    .bind(new.expires_at)
    .execute(c)
    .await
    .map(|_| ()))
    .during("keep a sign-in")
}

/// Takes a sign-in that is not over out of the table: it comes back once.
pub async fn take(db: &Db, state_hash: &str, now: Millis) -> Result<Option<SignInRow>, DbError> {
    on!(write db, |c| sqlx::query_as(
        "DELETE FROM sign_ins WHERE state_hash = $1 AND expires_at > $2
         RETURNING provider, verifier, nonce, return_to",
    )
    .bind(state_hash)
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("take a sign-in")
}

/// The account of whoever this is there.
pub async fn person(db: &Db, provider: &str, subject: &str) -> Result<Option<LoginRow>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT u.id, u.email, u.name, u.password_hash, u.is_admin, u.is_active, m.team_id, m.role
         FROM identities i JOIN users u ON u.id = i.user_id LEFT JOIN team_members m ON m.user_id = u.id
         WHERE i.provider = $1 AND i.subject = $2 ORDER BY m.created_at, m.team_id LIMIT 1",
    )
    .bind(provider)
    .bind(subject)
    .fetch_optional(c)
    .await)
    .during("read a person by who they are elsewhere")
}

/// From now on this is who the account's owner is there.
pub async fn link(
    tx: &mut Tx,
    provider: &str,
    subject: &str,
    user: &UserId,
    email: &str,
    now: Millis,
) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO identities (provider, subject, user_id, email, created_at) VALUES ($1, $2, $3, $4, $5)"
    )
    .bind(provider)
    .bind(subject)
    .bind(user.as_str())
    .bind(email)
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("link an account")
}

/// Whether the address of an account was proven to be its owner's.
pub async fn is_verified(db: &Db, user: &UserId) -> Result<bool, DbError> {
    let row: Option<(bool,)> = on!(read db, |c| sqlx::query_as("SELECT email_verified FROM users WHERE id = $1")
        .bind(user.as_str())
        .fetch_optional(c)
        .await)
    .during("read whether an address is proven")?;
    Ok(row.is_some_and(|row| row.0))
}

/// The address is proven. What somebody else may have set up under it before counts no longer.
pub async fn take_over(tx: &mut Tx, user: &UserId, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "UPDATE users SET email_verified = TRUE, password_hash = NULL, updated_at = $2 WHERE id = $1"
    )
    .bind(user.as_str())
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("hand an account to the owner of its address")
}

/// The open invitations of an address.
pub async fn invitations(db: &Db, email: &str, now: Millis) -> Result<Vec<InvitationRow>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT id, team_id, email, role, invited_by, created_at, expires_at FROM invitations
         WHERE email = $1 AND expires_at > $2 ORDER BY created_at, id LIMIT 20",
    )
    .bind(email)
    .bind(now)
    .fetch_all(c)
    .await)
    .during("read an address's invitations")
}
