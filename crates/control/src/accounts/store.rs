//! SQL of users and memberships. That of sessions is in `session_store`.

use atoll_model::api::auth::Role;
use atoll_model::{TeamId, UserId};

use crate::db::{Db, DbError, During, Millis, Text, Tx, on};

/// What a login needs: the account, and the team that it was first a member of.
#[derive(sqlx::FromRow)]
pub struct LoginRow {
    pub id: Text<UserId>,
    pub email: String,
    pub name: String,
    pub password_hash: Option<String>,
    pub is_admin: bool,
    pub is_active: bool,
    pub team_id: Option<Text<TeamId>>,
    pub role: Option<Text<RoleName>>,
}

/// A role as the database writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleName(pub Role);

impl RoleName {
    pub const fn as_str(self) -> &'static str {
        self.0.as_str()
    }
}

impl std::str::FromStr for RoleName {
    type Err = atoll_model::sandbox::UnknownName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// The account of a known person, as they are in `team`.
pub async fn user_in_team(db: &Db, user: &UserId, team: &TeamId) -> Result<Option<LoginRow>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT u.id, u.email, u.name, u.password_hash, u.is_admin, u.is_active, m.team_id, m.role
         FROM users u JOIN team_members m ON m.user_id = u.id WHERE u.id = $1 AND m.team_id = $2",
    )
    .bind(user.as_str())
    .bind(team.as_str())
    .fetch_optional(c)
    .await)
    .during("read a member")
}

pub async fn user_for_login(db: &Db, email: &str) -> Result<Option<LoginRow>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT u.id, u.email, u.name, u.password_hash, u.is_admin, u.is_active, m.team_id, m.role
         FROM users u LEFT JOIN team_members m ON m.user_id = u.id
         WHERE u.email = $1 ORDER BY m.created_at, m.team_id LIMIT 1",
    )
    .bind(email)
    .fetch_optional(c)
    .await)
    .during("read a user by email")
}

pub async fn anybody(db: &Db) -> Result<bool, DbError> {
    let row: Option<(String,)> =
        on!(read db, |c| sqlx::query_as("SELECT id FROM users LIMIT 1").fetch_optional(c).await)
            .during("look for any user")?;
    Ok(row.is_some())
}

/// Removes links, codes and sign-ins that are over.
pub async fn prune_links(db: &Db, now: Millis) -> Result<(), DbError> {
    for statement in [
        "DELETE FROM invitations WHERE expires_at < $1",
        "DELETE FROM password_resets WHERE expires_at < $1",
        "DELETE FROM device_logins WHERE expires_at < $1",
        "DELETE FROM sign_ins WHERE expires_at < $1",
    ] {
        on!(write db, |c| sqlx::query(statement).bind(now).execute(c).await.map(|_| ()))
            .during("remove links and codes that are over")?;
    }
    Ok(())
}

pub struct NewUser<'a> {
    pub id: &'a UserId,
    pub email: &'a str,
    pub name: &'a str,
    pub password_hash: Option<&'a str>,
    /// The address was proven to be theirs.
    pub verified: bool,
}

/// Inserts a person without rights; a unique violation when the address is taken.
pub async fn insert_user(tx: &mut Tx, user: &NewUser<'_>, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO users (id, email, name, password_hash, email_verified, is_admin, is_active, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $6, FALSE, TRUE, $5, $5)",
    )
    .bind(user.id.as_str())
    .bind(user.email)
    .bind(user.name)
    .bind(user.password_hash)
    .bind(now)
    .bind(user.verified)
    .execute(c)
    .await
    .map(|_| ()))
    .during("insert a user")
}

pub async fn rename(tx: &mut Tx, user: &UserId, name: &str, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("UPDATE users SET name = $2, updated_at = $3 WHERE id = $1")
        .bind(user.as_str())
        .bind(name)
        .bind(now)
        .execute(c)
        .await
        .map(|_| ()))
    .during("rename a user")
}

pub async fn email_of(db: &Db, user: &UserId) -> Result<Option<String>, DbError> {
    let row: Option<(String,)> =
        on!(read db, |c| sqlx::query_as("SELECT email FROM users WHERE id = $1").bind(user.as_str()).fetch_optional(c).await)
            .during("read a user's address")?;
    Ok(row.map(|row| row.0))
}

pub async fn password_hash(db: &Db, user: &UserId) -> Result<Option<String>, DbError> {
    let row: Option<(Option<String>,)> =
        on!(read db, |c| sqlx::query_as("SELECT password_hash FROM users WHERE id = $1")
        .bind(user.as_str())
        .fetch_optional(c)
        .await)
        .during("read a password's hash")?;
    Ok(row.and_then(|row| row.0))
}

/// Sets a password, if the one before is still `old`.
pub async fn set_password(
    tx: &mut Tx,
    user: &UserId,
    old: Option<&str>,
    new: &str,
    now: Millis,
) -> Result<bool, DbError> {
    let changed = on!(tx tx, |c| sqlx::query(
        "UPDATE users SET password_hash = $3, updated_at = $4
         WHERE id = $1 AND (password_hash = $2 OR (password_hash IS NULL AND $2 IS NULL))",
    )
    .bind(user.as_str())
    .bind(old)
    .bind(new)
    .bind(now)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))
    .during("set a password")?;
    Ok(changed == 1)
}

/// Inserts an admin if the table is empty. Answers whether it did.
pub async fn insert_first_user(
    tx: &mut Tx,
    id: &UserId,
    email: &str,
    name: &str,
    password_hash: &str,
    now: Millis,
) -> Result<bool, DbError> {
    let insert = "INSERT INTO users (id, email, name, password_hash, is_admin, is_active, created_at, updated_at)
         SELECT $1, $2, $3, $4, TRUE, TRUE, $5, $5 WHERE NOT EXISTS (SELECT 1 FROM users)";
    if let Tx::Postgres(transaction) = &mut *tx {
        // Readers go on; another first admin waits and then finds this one.
        sqlx::query("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE")
            .execute(&mut **transaction)
            .await
            .during("lock the users")?;
    }
    let inserted = on!(tx tx, |c| sqlx::query(insert)
        .bind(id.as_str())
        .bind(email)
        .bind(name)
        .bind(password_hash)
        .bind(now)
        .execute(c)
        .await
        .map(|done| done.rows_affected()))
    .during("insert the first user")?;
    Ok(inserted == 1)
}

/// A new team with its owner.
pub async fn insert_team(
    tx: &mut Tx,
    id: &TeamId,
    name: &str,
    slug: &str,
    owner: &UserId,
    now: Millis,
) -> Result<(), DbError> {
    on!(tx &mut *tx, |c| sqlx::query(
        "INSERT INTO teams (id, name, slug, is_byoc, created_by, created_at, updated_at)
         VALUES ($1, $2, $3, FALSE, $4, $5, $5)",
    )
    .bind(id.as_str())
    .bind(name)
    .bind(slug)
    .bind(owner.as_str())
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("insert a team")?;
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO team_members (team_id, user_id, role, created_at) VALUES ($1, $2, 'owner', $3)"
    )
    .bind(id.as_str())
    .bind(owner.as_str())
    .bind(now)
    .execute(c)
    .await
    .map(|_| ()))
    .during("insert a team's owner")
}
