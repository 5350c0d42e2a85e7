//! SQL of users, memberships and sessions.

use atoll_model::api::auth::Role;
use atoll_model::{SessionId, TeamId, UserId};

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

/// Who a session belongs to, and what they may do now.
#[derive(sqlx::FromRow)]
pub struct SessionRow {
    pub user_id: Text<UserId>,
    pub email: String,
    pub name: String,
    pub is_admin: bool,
    pub team_id: Text<TeamId>,
    pub team_is_byoc: bool,
    pub role: Text<RoleName>,
}

/// The session's person, if session, account and membership are all still good.
pub async fn live_session(db: &Db, session: &SessionId, now: Millis) -> Result<Option<SessionRow>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT u.id AS user_id, u.email, u.name, u.is_admin, t.id AS team_id, t.is_byoc AS team_is_byoc, m.role
         FROM sessions s
         JOIN users u ON u.id = s.user_id
         JOIN teams t ON t.id = s.team_id
         JOIN team_members m ON m.team_id = s.team_id AND m.user_id = s.user_id
         WHERE s.id = $1 AND s.revoked_at IS NULL AND s.expires_at > $2 AND u.is_active = TRUE",
    )
    .bind(session.as_str())
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("read a session")
}

pub struct NewSession<'a> {
    pub id: &'a SessionId,
    pub user: &'a UserId,
    pub team: &'a TeamId,
    pub created_at: Millis,
    pub expires_at: Millis,
    pub address: Option<&'a str>,
    pub user_agent: Option<&'a str>,
}

pub async fn insert_session(tx: &mut Tx, session: &NewSession<'_>) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query(
        "INSERT INTO sessions (id, user_id, team_id, created_at, expires_at, address, user_agent)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(session.id.as_str())
    .bind(session.user.as_str())
    .bind(session.team.as_str())
    .bind(session.created_at)
    .bind(session.expires_at)
    .bind(session.address)
    .bind(session.user_agent)
    .execute(c)
    .await
    .map(|_| ()))
    .during("open a session")
}

pub async fn revoke_session(db: &Db, session: &SessionId, now: Millis) -> Result<(), DbError> {
    on!(write db, |c| sqlx::query("UPDATE sessions SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL")
        .bind(session.as_str())
        .bind(now)
        .execute(c)
        .await
        .map(|_| ()))
    .during("end a session")
}

pub async fn anybody(db: &Db) -> Result<bool, DbError> {
    let row: Option<(String,)> =
        on!(read db, |c| sqlx::query_as("SELECT id FROM users LIMIT 1").fetch_optional(c).await)
            .during("look for any user")?;
    Ok(row.is_some())
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
