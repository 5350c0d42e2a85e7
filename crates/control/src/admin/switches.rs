//! The switches: a team's own hosts, an account, an admin's rights. Each is idempotent: setting what is set already
//! changes nothing and writes nothing.

use atoll_model::{TeamId, UserId};
use serde_json::json;

use crate::accounts::ending;
use crate::audit::{self, Entry};
use crate::db::{Db, DbError, During, Millis, Tx, on};
use crate::teams::{Asker, TeamError, store};

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("there is no such user")]
    NoUser,
    /// Nobody could undo it.
    #[error("the installation needs an active admin: make somebody else one first")]
    LastAdmin,
    #[error(transparent)]
    Team(#[from] TeamError),
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Lets a team bring its own hosts, or not. Not while it has some.
pub async fn set_byoc(db: &Db, asker: &Asker, team: &TeamId, enabled: bool, now: Millis) -> Result<(), AdminError> {
    let mut tx = db.begin().await?;
    let before = store::lock(&mut tx, team).await?.ok_or(TeamError::NotFound)?;
    if before.is_byoc == enabled {
        return Ok(());
    }
    if !enabled {
        let hosts = store::possessions(&mut tx, team).await?.hosts;
        if hosts > 0 {
            return Err(TeamError::HasHosts { hosts }.into());
        }
    }
    store::set_byoc(&mut tx, team, enabled, now).await?;
    let details = json!({ "before": { "is_byoc": before.is_byoc }, "after": { "is_byoc": enabled } });
    let actor = asker.actor();
    let entry = Entry {
        team: Some(team),
        actor: &actor,
        origin: &asker.origin,
        action: "team.byoc",
        target_kind: "team",
        target_id: Some(team.as_str()),
        result: "ok",
        details,
    };
    audit::record(&mut tx, now, &entry).await?;
    tx.commit().await?;
    Ok(())
}

/// Switches an account on or off. Off: its sessions end at once, it can't sign in, and the API keys that it made are
/// refused until it is on again.
pub async fn set_active(db: &Db, asker: &Asker, user: &UserId, active: bool, now: Millis) -> Result<(), AdminError> {
    let mut tx = db.begin().await?;
    let before = lock(&mut tx, user).await?.ok_or(AdminError::NoUser)?;
    if before.is_active == active {
        return Ok(());
    }
    if !active && before.is_admin && other_admins(&mut tx, user).await? == 0 {
        return Err(AdminError::LastAdmin);
    }
    set(&mut tx, "UPDATE users SET is_active = $2, updated_at = $3 WHERE id = $1", user, active, now).await?;
    if !active {
        ending::end_access(&mut tx, user, None, now).await?;
    }
    record(&mut tx, asker, "user.active", user, ("is_active", before.is_active, active), now).await?;
    tx.commit().await?;
    Ok(())
}

/// Makes a person a platform admin, or no more.
pub async fn set_admin(db: &Db, asker: &Asker, user: &UserId, admin: bool, now: Millis) -> Result<(), AdminError> {
    let mut tx = db.begin().await?;
    let before = lock(&mut tx, user).await?.ok_or(AdminError::NoUser)?;
    if before.is_admin == admin {
        return Ok(());
    }
    if !admin && other_admins(&mut tx, user).await? == 0 {
        return Err(AdminError::LastAdmin);
    }
    set(&mut tx, "UPDATE users SET is_admin = $2, updated_at = $3 WHERE id = $1", user, admin, now).await?;
    record(&mut tx, asker, "user.admin", user, ("is_admin", before.is_admin, admin), now).await?;
    tx.commit().await?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Flags {
    is_admin: bool,
    is_active: bool,
}

/// Locks all admins too, so that two who switch each other off at once don't leave none.
async fn lock(tx: &mut Tx, user: &UserId) -> Result<Option<Flags>, DbError> {
    if let Tx::Postgres(c) = &mut *tx {
        sqlx::query("SELECT id FROM users WHERE is_admin = TRUE OR id = $1 ORDER BY id FOR UPDATE")
            .bind(user.as_str())
            .execute(&mut **c)
            .await
            .during("lock the admins")?;
    }
    on!(tx tx, |c| sqlx::query_as("SELECT is_admin, is_active FROM users WHERE id = $1")
        .bind(user.as_str())
        .fetch_optional(c)
        .await)
    .during("read a user's flags")
}

async fn other_admins(tx: &mut Tx, user: &UserId) -> Result<i64, DbError> {
    let row: (i64,) = on!(tx tx, |c| sqlx::query_as(
        "SELECT COUNT(*) FROM users WHERE is_admin = TRUE AND is_active = TRUE AND id <> $1"
    )
    .bind(user.as_str())
    .fetch_one(c)
    .await)
    .during("count the other admins")?;
    Ok(row.0)
}

async fn set(tx: &mut Tx, sql: &'static str, user: &UserId, value: bool, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(sql).bind(user.as_str()).bind(value).bind(now).execute(c).await.map(|_| ()))
        .during("switch a user's flag")
}

async fn record(
    tx: &mut Tx,
    asker: &Asker,
    action: &'static str,
    user: &UserId,
    (name, before, after): (&str, bool, bool),
    now: Millis,
) -> Result<(), DbError> {
    let actor = asker.actor();
    let entry = Entry {
        team: None,
        actor: &actor,
        origin: &asker.origin,
        action,
        target_kind: "user",
        target_id: Some(user.as_str()),
        result: "ok",
        details: json!({ "before": { name: before }, "after": { name: after } }),
    };
    audit::record(tx, now, &entry).await
}
