//! SQL of links that set a password.

use atoll_model::UserId;

use crate::db::{Db, DbError, During, Millis, Text, Tx, on};

pub struct NewReset<'a> {
    pub token_hash: &'a str,
    pub user: &'a UserId,
    pub created_by: Option<&'a UserId>,
    pub created_at: Millis,
    pub expires_at: Millis,
}

/// Keeps a new link, in place of those that the person had before.
pub async fn replace(tx: &mut Tx, new: &NewReset<'_>) -> Result<(), DbError> {
    on!(tx &mut *tx, |c| sqlx::query("DELETE FROM password_resets WHERE user_id = $1")
        .bind(new.user.as_str())
        .execute(c)
        .await
        .map(|_| ()))
    .during("take older links back")?;
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO password_resets (token_hash, user_id, created_by, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(new.token_hash)
    .bind(new.user.as_str())
    .bind(new.created_by.map(UserId::as_str))
    .bind(new.created_at)
    .bind(new.expires_at)
    .execute(c)
    .await
    .map(|_| ()))
    .during("keep a link")
}

/// Whether a link is good.
pub async fn is_good(db: &Db, token_hash: &str, now: Millis) -> Result<bool, DbError> {
    let row: Option<(String,)> = on!(read db, |c| sqlx::query_as(
        "SELECT user_id FROM password_resets WHERE token_hash = $1 AND expires_at > $2"
    )
    .bind(token_hash)
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("read a link")?;
    Ok(row.is_some())
}

/// Uses a link up. Answers whose it was, if it was good.
pub async fn take(tx: &mut Tx, token_hash: &str, now: Millis) -> Result<Option<UserId>, DbError> {
    let row: Option<(Text<UserId>,)> = on!(tx tx, |c| sqlx::query_as(
        "DELETE FROM password_resets WHERE token_hash = $1 AND expires_at > $2 RETURNING user_id"
    )
    .bind(token_hash)
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("use a link")?;
    Ok(row.map(|row| row.0.0))
}

/// Sets a password, whatever it was before.
pub async fn set_password(tx: &mut Tx, user: &UserId, hash: &str, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("UPDATE users SET password_hash = $2, updated_at = $3 WHERE id = $1")
        .bind(user.as_str())
        .bind(hash)
        .bind(now)
        .execute(c)
        .await
        .map(|_| ()))
    .during("set a password anew")
}
