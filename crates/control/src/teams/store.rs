//! SQL of teams and memberships.

use atoll_model::api::auth::{Role, Team};
use atoll_model::api::teams::Member;
use atoll_model::{TeamId, UserId};
use sqlx::types::Json;

use super::Asker;
use crate::accounts::store::RoleName;
use crate::db::{Db, DbError, During, Millis, Text, Tx, on};
use crate::sandboxes::Network;

/// A team as one person sees it.
#[derive(Clone, sqlx::FromRow)]
pub struct TeamRow {
    pub id: Text<TeamId>,
    pub name: String,
    pub slug: String,
    pub is_byoc: bool,
    pub created_at: Millis,
    /// None: the person is not in it.
    pub role: Option<Text<RoleName>>,
}

impl TeamRow {
    /// The answer's shape. Who is not in the team sees it as a platform admin, and acts like an owner.
    #[must_use]
    pub fn into_api(self) -> Team {
        Team {
            id: self.id.0,
            name: self.name,
            slug: self.slug,
            is_byoc: self.is_byoc,
            created_at: self.created_at.to_utc(),
            role: self.role.map_or(Role::Owner, |role| role.0.0),
        }
    }
}

/// A page of the teams that `user` is a member of, by id, after `after`.
pub async fn of_user(db: &Db, user: &UserId, after: &str, limit: i64) -> Result<Vec<TeamRow>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT t.id, t.name, t.slug, t.is_byoc, t.created_at, m.role
         FROM team_members m JOIN teams t ON t.id = m.team_id
         WHERE m.user_id = $1 AND t.id > $2 ORDER BY t.id LIMIT $3",
    )
    .bind(user.as_str())
    .bind(after)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("list a user's teams")
}

/// A team, with the role of `user` in it.
pub async fn get(db: &Db, team: &TeamId, user: Option<&UserId>) -> Result<Option<TeamRow>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT t.id, t.name, t.slug, t.is_byoc, t.created_at, m.role
         FROM teams t LEFT JOIN team_members m ON m.team_id = t.id AND m.user_id = $2 WHERE t.id = $1",
    )
    .bind(team.as_str())
    .bind(user.map(UserId::as_str))
    .fetch_optional(c)
    .await)
    .during("read a team")
}

/// Whether the team uses its own hosts; none when it is gone.
pub async fn is_byoc(db: &Db, team: &TeamId) -> Result<Option<bool>, DbError> {
    let row: Option<(bool,)> = on!(read db, |c| sqlx::query_as("SELECT is_byoc FROM teams WHERE id = $1")
        .bind(team.as_str())
        .fetch_optional(c)
        .await)
    .during("look whose hosts a team uses")?;
    Ok(row.map(|row| row.0))
}

/// What a locked team is.
#[derive(sqlx::FromRow)]
pub struct Locked {
    pub name: String,
    pub slug: String,
    pub is_byoc: bool,
}

/// Reads the team and keeps everybody else from changing it, or adding to it, until the end of the transaction.
pub async fn lock(tx: &mut Tx, team: &TeamId) -> Result<Option<Locked>, DbError> {
    // SQLite has one writer at a time, so a transaction is its own lock.
    match tx {
        Tx::Sqlite(c) => {
            sqlx::query_as("SELECT name, slug, is_byoc FROM teams WHERE id = $1")
                .bind(team.as_str())
                .fetch_optional(&mut **c)
                .await
        }
        Tx::Postgres(c) => {
            sqlx::query_as("SELECT name, slug, is_byoc FROM teams WHERE id = $1 FOR UPDATE")
                .bind(team.as_str())
                .fetch_optional(&mut **c)
                .await
        }
    }
    .during("lock a team")
}

/// The asker's role in the team.
pub async fn role_in(tx: &mut Tx, team: &TeamId, asker: &Asker) -> Result<Option<Role>, DbError> {
    if asker.is_admin {
        return Ok(Some(Role::Owner));
    }
    Ok(member(tx, team, &asker.id).await?.map(|member| member.role.0.0))
}

#[derive(sqlx::FromRow)]
pub struct MemberRow {
    pub user_id: Text<UserId>,
    pub email: String,
    pub name: String,
    pub role: Text<RoleName>,
    pub is_active: bool,
    pub created_at: Millis,
}

impl MemberRow {
    /// The answer's shape.
    #[must_use]
    pub fn into_api(self) -> Member {
        Member {
            user_id: self.user_id.0,
            email: self.email,
            name: self.name,
            role: self.role.0.0,
            is_active: self.is_active,
            created_at: self.created_at.to_utc(),
        }
    }
}

macro_rules! members {
    ($rest:literal) => {
        concat!(
            "SELECT m.user_id, u.email, u.name, m.role, u.is_active, m.created_at
             FROM team_members m JOIN users u ON u.id = m.user_id WHERE m.team_id = $1 AND ",
            $rest
        )
    };
}

/// A page of a team's members, oldest membership first, after (`at`, `id`).
pub async fn members(db: &Db, team: &TeamId, after: (Millis, &str), limit: i64) -> Result<Vec<MemberRow>, DbError> {
    on!(read db, |c| sqlx::query_as(members!(
        "(m.created_at > $2 OR (m.created_at = $2 AND m.user_id > $3)) ORDER BY m.created_at, m.user_id LIMIT $4"
    ))
    .bind(team.as_str())
    .bind(after.0)
    .bind(after.1)
    .bind(limit)
    .fetch_all(c)
    .await)
    .during("list a team's members")
}

pub async fn member(tx: &mut Tx, team: &TeamId, user: &UserId) -> Result<Option<MemberRow>, DbError> {
    on!(tx tx, |c| sqlx::query_as(members!("m.user_id = $2"))
        .bind(team.as_str())
        .bind(user.as_str())
        .fetch_optional(c)
        .await)
    .during("read a membership")
}

/// The same outside of a transaction, for showing it.
pub async fn member_now(db: &Db, team: &TeamId, user: &UserId) -> Result<Option<MemberRow>, DbError> {
    on!(read db, |c| sqlx::query_as(members!("m.user_id = $2"))
        .bind(team.as_str())
        .bind(user.as_str())
        .fetch_optional(c)
        .await)
    .during("read a membership")
}

pub async fn member_ids(tx: &mut Tx, team: &TeamId) -> Result<Vec<UserId>, DbError> {
    let rows: Vec<(Text<UserId>,)> =
        on!(tx tx, |c| sqlx::query_as("SELECT user_id FROM team_members WHERE team_id = $1 ORDER BY user_id")
            .bind(team.as_str())
            .fetch_all(c)
            .await)
        .during("list a team's people")?;
    Ok(rows.into_iter().map(|row| row.0.0).collect())
}

async fn count(tx: &mut Tx, sql: &'static str, id: &str, operation: &'static str) -> Result<i64, DbError> {
    let row: (i64,) = on!(tx tx, |c| sqlx::query_as(sql).bind(id).fetch_one(c).await).during(operation)?;
    Ok(row.0)
}

pub async fn count_of_user(tx: &mut Tx, user: &UserId) -> Result<i64, DbError> {
    const SQL: &str = "SELECT COUNT(*) FROM team_members WHERE user_id = $1";
    count(tx, SQL, user.as_str(), "count a user's teams").await
}

pub async fn count_members(tx: &mut Tx, team: &TeamId) -> Result<i64, DbError> {
    const SQL: &str = "SELECT COUNT(*) FROM team_members WHERE team_id = $1";
    count(tx, SQL, team.as_str(), "count a team's members").await
}

/// The same outside of a transaction, for showing it.
pub async fn members_total(db: &Db, team: &TeamId) -> Result<i64, DbError> {
    let row: (i64,) = on!(read db, |c| sqlx::query_as("SELECT COUNT(*) FROM team_members WHERE team_id = $1")
            .bind(team.as_str())
            .fetch_one(c)
            .await)
    .during("count a team's members")?;
    Ok(row.0)
}

pub async fn count_owners(tx: &mut Tx, team: &TeamId) -> Result<i64, DbError> {
    const SQL: &str = "SELECT COUNT(*) FROM team_members WHERE team_id = $1 AND role = 'owner'";
    count(tx, SQL, team.as_str(), "count a team's owners").await
}

/// What a team still has.
#[derive(Debug, Clone, Copy)]
pub struct Possessions {
    pub sandboxes: i64,
    pub hosts: i64,
    pub templates: i64,
    pub volumes: i64,
}

pub async fn possessions(tx: &mut Tx, team: &TeamId) -> Result<Possessions, DbError> {
    const SANDBOXES: &str = "SELECT COUNT(*) FROM sandboxes WHERE team_id = $1 AND status <> 'stopped'";
    const HOSTS: &str = "SELECT COUNT(*) FROM hosts WHERE team_id = $1";
    const TEMPLATES: &str = "SELECT COUNT(*) FROM templates WHERE team_id = $1";
    const VOLUMES: &str = "SELECT COUNT(*) FROM volumes WHERE team_id = $1";
    Ok(Possessions {
        sandboxes: count(tx, SANDBOXES, team.as_str(), "count a team's sandboxes").await?,
        hosts: count(tx, HOSTS, team.as_str(), "count a team's hosts").await?,
        templates: count(tx, TEMPLATES, team.as_str(), "count a team's templates").await?,
        volumes: count(tx, VOLUMES, team.as_str(), "count a team's volumes").await?,
    })
}

pub async fn user_by_email(tx: &mut Tx, email: &str) -> Result<Option<UserId>, DbError> {
    let row: Option<(Text<UserId>,)> =
        on!(tx tx, |c| sqlx::query_as("SELECT id FROM users WHERE email = $1").bind(email).fetch_optional(c).await)
            .during("look a user up by address")?;
    Ok(row.map(|row| row.0.0))
}

pub async fn user_name(tx: &mut Tx, user: &UserId) -> Result<Option<String>, DbError> {
    let row: Option<(String,)> = on!(tx tx, |c| sqlx::query_as("SELECT name FROM users WHERE id = $1")
        .bind(user.as_str())
        .fetch_optional(c)
        .await)
    .during("read a user's name")?;
    Ok(row.map(|row| row.0))
}

pub async fn slug_taken(tx: &mut Tx, slug: &str) -> Result<bool, DbError> {
    const SQL: &str = "SELECT COUNT(*) FROM teams WHERE slug = $1";
    Ok(count(tx, SQL, slug, "look a slug up").await? > 0)
}

/// What new sandboxes may reach when nobody says.
pub async fn network(db: &Db, team: &TeamId) -> Result<Option<Network>, DbError> {
    let row: Option<(Option<Json<Network>>,)> =
        on!(read db, |c| sqlx::query_as("SELECT network FROM teams WHERE id = $1")
            .bind(team.as_str())
            .fetch_optional(c)
            .await)
        .during("read a team's network")?;
    Ok(row.and_then(|row| row.0).map(|network| network.0))
}

/// Answers with what it was before.
pub async fn set_network(
    tx: &mut Tx,
    team: &TeamId,
    network: Option<&Network>,
    now: Millis,
) -> Result<Option<Network>, DbError> {
    let before: (Option<Json<Network>>,) = on!(tx tx, |c| sqlx::query_as("SELECT network FROM teams WHERE id = $1")
            .bind(team.as_str())
            .fetch_one(c)
            .await)
    .during("read a team's network")?;
    on!(tx tx, |c| sqlx::query("UPDATE teams SET network = $2, updated_at = $3 WHERE id = $1")
        .bind(team.as_str())
        .bind(network.map(Json))
        .bind(now)
        .execute(c)
        .await
        .map(|_| ()))
    .during("set a team's network")?;
    Ok(before.0.map(|network| network.0))
}

pub async fn rename(tx: &mut Tx, team: &TeamId, name: &str, slug: &str, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("UPDATE teams SET name = $2, slug = $3, updated_at = $4 WHERE id = $1")
        .bind(team.as_str())
        .bind(name)
        .bind(slug)
        .bind(now)
        .execute(c)
        .await
        .map(|_| ()))
    .during("rename a team")
}

pub async fn set_byoc(tx: &mut Tx, team: &TeamId, enabled: bool, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("UPDATE teams SET is_byoc = $2, updated_at = $3 WHERE id = $1")
        .bind(team.as_str())
        .bind(enabled)
        .bind(now)
        .execute(c)
        .await
        .map(|_| ()))
    .during("switch a team's own hosts on or off")
}

/// Deletes a team with what is left of its stopped sandboxes. The rest goes by the schema's cascades.
pub async fn delete(tx: &mut Tx, team: &TeamId) -> Result<(), DbError> {
    for sql in [
        "DELETE FROM sandbox_events WHERE sandbox_id IN (SELECT id FROM sandboxes WHERE team_id = $1)",
        "DELETE FROM sandboxes WHERE team_id = $1",
        "DELETE FROM teams WHERE id = $1",
    ] {
        on!(tx &mut *tx, |c| sqlx::query(sql).bind(team.as_str()).execute(c).await.map(|_| ()))
            .during("delete a team")?;
    }
    Ok(())
}

pub async fn insert_member(tx: &mut Tx, team: &TeamId, user: &UserId, role: Role, now: Millis) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("INSERT INTO team_members (team_id, user_id, role, created_at) VALUES ($1, $2, $3, $4)")
        .bind(team.as_str())
        .bind(user.as_str())
        .bind(role.as_str())
        .bind(now)
        .execute(c)
        .await
        .map(|_| ()))
    .during("add a member")
}

pub async fn set_role(tx: &mut Tx, team: &TeamId, user: &UserId, role: Role) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("UPDATE team_members SET role = $3 WHERE team_id = $1 AND user_id = $2")
        .bind(team.as_str())
        .bind(user.as_str())
        .bind(role.as_str())
        .execute(c)
        .await
        .map(|_| ()))
    .during("change a member's role")
}

pub async fn remove_member(tx: &mut Tx, team: &TeamId, user: &UserId) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("DELETE FROM team_members WHERE team_id = $1 AND user_id = $2")
        .bind(team.as_str())
        .bind(user.as_str())
        .execute(c)
        .await
        .map(|_| ()))
    .during("remove a member")
}

/// A team of the person other than `team`: the one that they have been in for longest.
pub async fn another_team(tx: &mut Tx, user: &UserId, team: &TeamId) -> Result<Option<TeamId>, DbError> {
    let row: Option<(Text<TeamId>,)> = on!(tx tx, |c| sqlx::query_as(
        "SELECT team_id FROM team_members WHERE user_id = $1 AND team_id <> $2 ORDER BY created_at, team_id LIMIT 1"
    )
    .bind(user.as_str())
    .bind(team.as_str())
    .fetch_optional(c)
    .await)
    .during("look for another team of a user")?;
    Ok(row.map(|row| row.0.0))
}

pub async fn move_sessions(tx: &mut Tx, user: &UserId, from: &TeamId, to: &TeamId) -> Result<(), DbError> {
    on!(tx tx, |c| sqlx::query("UPDATE sessions SET team_id = $3 WHERE user_id = $1 AND team_id = $2")
        .bind(user.as_str())
        .bind(from.as_str())
        .bind(to.as_str())
        .execute(c)
        .await
        .map(|_| ()))
    .during("move a user's sessions")
}
