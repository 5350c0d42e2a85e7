//! What ends when an account changes hands or its password: everything that was opened by how it was proven before.

use atoll_model::{ApiKeyId, SessionId, TeamId, UserId};

use super::session_store;
use crate::db::{DbError, During, Millis, Text, Tx, on};

/// Ends what a person has opened: all sessions but `kept`, programs that they have let in and that have not come for
/// their session yet, and links that set a password. Answers how many sessions.
pub async fn end_access(tx: &mut Tx, user: &UserId, kept: Option<&SessionId>, now: Millis) -> Result<u64, DbError> {
    let ended = session_store::revoke_others(tx, user, kept, now).await?;
    for statement in ["DELETE FROM device_logins WHERE user_id = $1", "DELETE FROM password_resets WHERE user_id = $1"]
    {
        delete(tx, statement, user).await?;
    }
    Ok(ended)
}

/// A key that was taken away.
#[derive(Debug, sqlx::FromRow)]
pub struct EndedKey {
    pub id: Text<ApiKeyId>,
    pub team_id: Text<TeamId>,
    pub name: String,
}

/// What somebody had made in an account's name.
#[derive(Debug)]
pub struct Made {
    pub api_keys: Vec<EndedKey>,
    pub invitations: u64,
    pub webhooks: u64,
}

/// Takes away what lets whoever had the account before go on acting or listening in its name: API keys, invitations that
/// they sent, webhooks.
pub async fn end_makings(tx: &mut Tx, user: &UserId) -> Result<Made, DbError> {
    let api_keys = on!(tx &mut *tx, |c| sqlx::query_as(
        "DELETE FROM api_keys WHERE created_by = $1 RETURNING id, team_id, name"
    )
    .bind(user.as_str())
    .fetch_all(c)
    .await)
    .during("delete the keys that an account has made")?;
    Ok(Made {
        api_keys,
        invitations: delete(tx, "DELETE FROM invitations WHERE invited_by = $1", user).await?,
        webhooks: delete(tx, "DELETE FROM webhooks WHERE created_by = $1", user).await?,
    })
}

async fn delete(tx: &mut Tx, statement: &'static str, user: &UserId) -> Result<u64, DbError> {
    on!(tx tx, |c| sqlx::query(statement).bind(user.as_str()).execute(c).await.map(|done| done.rows_affected()))
        .during("end what an account has opened")
}
