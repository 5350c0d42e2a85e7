//! SQL of the lists that platform admins see: everything there is, with filters and totals.

use atoll_model::api::admin::{AdminSandbox, AdminTeam, AdminUser};
use atoll_model::api::hosts::Host;
use atoll_model::{HostId, HostStatus, HostType, SandboxStatus, TeamId, UserId};

use crate::db::{Db, DbError, Millis, Sql, Text, containing};
use crate::hosts::{HostRow, store as host_store};
use crate::sandboxes::SandboxRecord;
use crate::sandboxes::store as sandbox_store;

fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[derive(sqlx::FromRow)]
pub struct TeamRow {
    pub id: Text<TeamId>,
    pub name: String,
    pub slug: String,
    pub is_byoc: bool,
    pub created_at: Millis,
    pub members: i64,
    pub sandboxes: i64,
    pub hosts: i64,
}

impl TeamRow {
    /// The answer's shape.
    #[must_use]
    pub fn into_api(self) -> AdminTeam {
        AdminTeam {
            id: self.id.0,
            name: self.name,
            slug: self.slug,
            is_byoc: self.is_byoc,
            created_at: self.created_at.to_utc(),
            members: number(self.members),
            sandboxes: number(self.sandboxes),
            hosts: number(self.hosts),
        }
    }
}

#[derive(Debug, Default)]
pub struct TeamFilter {
    /// Part of the name or the slug, or the id.
    pub q: Option<String>,
    pub byoc: Option<bool>,
}

impl TeamFilter {
    fn apply(&self, sql: &mut Sql) {
        if let Some(q) = &self.q {
            sql.with(" AND (LOWER(t.name) LIKE ? ESCAPE '\\' OR t.slug LIKE ? ESCAPE '\\'", containing(q).as_str());
            sql.with(" OR t.id = ?)", q.as_str());
        }
        sql.with_some(" AND t.is_byoc = ?", self.byoc);
    }
}

/// A page of all teams, oldest first, and how many the filter matches.
pub async fn teams(
    db: &Db,
    filter: &TeamFilter,
    after: (Millis, &str),
    limit: i64,
) -> Result<(Vec<TeamRow>, u64), DbError> {
    let mut total = Sql::new("SELECT COUNT(*) FROM teams t WHERE 1 = 1");
    filter.apply(&mut total);
    let mut page = Sql::new(
        "SELECT t.id, t.name, t.slug, t.is_byoc, t.created_at,
             (SELECT COUNT(*) FROM team_members m WHERE m.team_id = t.id) AS members,
             (SELECT COUNT(*) FROM sandboxes s WHERE s.team_id = t.id AND s.status <> 'stopped') AS sandboxes,
             (SELECT COUNT(*) FROM hosts h WHERE h.team_id = t.id) AS hosts
         FROM teams t WHERE 1 = 1",
    );
    filter.apply(&mut page);
    page.with(" AND (t.created_at > ? OR (t.created_at = ?", after.0).with(" AND t.id > ?))", after.1);
    page.with(" ORDER BY t.created_at, t.id LIMIT ?", limit);
    Ok((page.fetch_all(db, "list all teams").await?, total.count(db, "count all teams").await?))
}

#[derive(sqlx::FromRow)]
pub struct UserRow {
    pub id: Text<UserId>,
    pub email: String,
    pub name: String,
    pub is_admin: bool,
    pub is_active: bool,
    pub created_at: Millis,
    pub teams: i64,
    pub last_login_at: Option<Millis>,
}

impl UserRow {
    /// The answer's shape.
    #[must_use]
    pub fn into_api(self) -> AdminUser {
        AdminUser {
            id: self.id.0,
            email: self.email,
            name: self.name,
            is_admin: self.is_admin,
            is_active: self.is_active,
            created_at: self.created_at.to_utc(),
            teams: number(self.teams),
            last_login_at: self.last_login_at.map(Millis::to_utc),
        }
    }
}

#[derive(Debug, Default)]
pub struct UserFilter {
    /// Part of the address or the name, or the id.
    pub q: Option<String>,
    pub active: Option<bool>,
    pub admin: Option<bool>,
    pub team: Option<TeamId>,
}

impl UserFilter {
    fn apply(&self, sql: &mut Sql) {
        if let Some(q) = &self.q {
            sql.with(" AND (u.email LIKE ? ESCAPE '\\' OR LOWER(u.name) LIKE ? ESCAPE '\\'", containing(q).as_str());
            sql.with(" OR u.id = ?)", q.as_str());
        }
        sql.with_some(" AND u.is_active = ?", self.active).with_some(" AND u.is_admin = ?", self.admin);
        let team = self.team.as_ref().map(TeamId::as_str);
        sql.with_some(" AND u.id IN (SELECT m.user_id FROM team_members m WHERE m.team_id = ?)", team);
    }
}

const USERS: &str = "SELECT u.id, u.email, u.name, u.is_admin, u.is_active, u.created_at,
         (SELECT COUNT(*) FROM team_members m WHERE m.user_id = u.id) AS teams,
         (SELECT MAX(s.created_at) FROM sessions s WHERE s.user_id = u.id) AS last_login_at
     FROM users u WHERE 1 = 1";

/// A page of all people, oldest first, and how many the filter matches.
pub async fn users(
    db: &Db,
    filter: &UserFilter,
    after: (Millis, &str),
    limit: i64,
) -> Result<(Vec<UserRow>, u64), DbError> {
    let mut total = Sql::new("SELECT COUNT(*) FROM users u WHERE 1 = 1");
    filter.apply(&mut total);
    let mut page = Sql::new(USERS);
    filter.apply(&mut page);
    page.with(" AND (u.created_at > ? OR (u.created_at = ?", after.0).with(" AND u.id > ?))", after.1);
    page.with(" ORDER BY u.created_at, u.id LIMIT ?", limit);
    Ok((page.fetch_all(db, "list all users").await?, total.count(db, "count all users").await?))
}

/// One person.
pub async fn user(db: &Db, id: &UserId) -> Result<Option<UserRow>, DbError> {
    let mut one = Sql::new(USERS);
    one.with(" AND u.id = ?", id.as_str());
    Ok(one.fetch_all(db, "read a user").await?.into_iter().next())
}

#[derive(sqlx::FromRow)]
pub struct SandboxRow {
    #[sqlx(flatten)]
    pub record: SandboxRecord,
    pub team_name: String,
}

impl SandboxRow {
    /// The answer's shape.
    #[must_use]
    pub fn into_api(self) -> AdminSandbox {
        AdminSandbox { sandbox: self.record.to_api(), team_id: self.record.team_id.0, team_name: self.team_name }
    }
}

#[derive(Debug, Default)]
pub struct SandboxFilter {
    /// Part of the id, of the template's or the team's name, or a host's id.
    pub q: Option<String>,
    pub status: Option<SandboxStatus>,
    pub team: Option<TeamId>,
    pub host: Option<HostId>,
    pub template: Option<String>,
}

impl SandboxFilter {
    fn apply(&self, sql: &mut Sql) {
        match self.status {
            Some(status) => sql.with(" AND s.status = ?", status.as_str()),
            None => sql.push(" AND s.status <> 'stopped'"),
        };
        if let Some(q) = &self.q {
            sql.with(" AND (s.id LIKE ? ESCAPE '\\' OR LOWER(s.template) LIKE ? ESCAPE '\\'", containing(q).as_str());
            let team = " OR s.team_id IN (SELECT t.id FROM teams t WHERE LOWER(t.name) LIKE ? ESCAPE '\\')";
            sql.with(team, containing(q).as_str()).with(" OR s.host_id = ?)", q.as_str());
        }
        sql.with_some(" AND s.team_id = ?", self.team.as_ref().map(TeamId::as_str));
        sql.with_some(" AND s.host_id = ?", self.host.as_ref().map(HostId::as_str));
        sql.with_some(" AND s.template = ?", self.template.as_deref());
    }
}

/// A page of all teams' sandboxes, newest first (without stopped ones unless asked for), and how many there are.
pub async fn sandboxes(
    db: &Db,
    filter: &SandboxFilter,
    before: (Millis, &str),
    limit: i64,
) -> Result<(Vec<SandboxRow>, u64), DbError> {
    let mut total = Sql::new("SELECT COUNT(*) FROM sandboxes s WHERE 1 = 1");
    filter.apply(&mut total);
    let mut page = Sql::new(sandbox_store::ALL_WITH_TEAM);
    filter.apply(&mut page);
    page.with(" AND (s.created_at < ? OR (s.created_at = ?", before.0).with(" AND s.id > ?))", before.1);
    page.with(" ORDER BY s.created_at DESC, s.id LIMIT ?", limit);
    Ok((page.fetch_all(db, "list all sandboxes").await?, total.count(db, "count all sandboxes").await?))
}

#[derive(sqlx::FromRow)]
pub struct NamedHost {
    #[sqlx(flatten)]
    pub host: HostRow,
    pub team_name: Option<String>,
}

impl NamedHost {
    /// The answer's shape.
    #[must_use]
    pub fn into_api(self) -> Host {
        Host { team_name: self.team_name, ..self.host.to_api() }
    }
}

#[derive(Debug, Default)]
pub struct HostFilter {
    /// Part of the name, or the id.
    pub q: Option<String>,
    pub status: Option<HostStatus>,
    pub kind: Option<HostType>,
    pub team: Option<TeamId>,
}

impl HostFilter {
    fn apply(&self, sql: &mut Sql) {
        if let Some(q) = &self.q {
            sql.with(" AND (LOWER(h.name) LIKE ? ESCAPE '\\'", containing(q).as_str());
            sql.with(" OR h.id = ?)", q.as_str());
        }
        sql.with_some(" AND h.status = ?", self.status.map(HostStatus::as_str));
        sql.with_some(" AND h.type = ?", self.kind.map(HostType::as_str));
        sql.with_some(" AND h.team_id = ?", self.team.as_ref().map(TeamId::as_str));
    }
}

/// A page of all hosts by id, and how many the filter matches.
pub async fn hosts(db: &Db, filter: &HostFilter, after: &str, limit: i64) -> Result<(Vec<NamedHost>, u64), DbError> {
    let mut total = Sql::new("SELECT COUNT(*) FROM hosts h WHERE 1 = 1");
    filter.apply(&mut total);
    let mut page = Sql::new(host_store::ALL_WITH_TEAM);
    filter.apply(&mut page);
    page.with(" AND h.id > ?", after).with(" ORDER BY h.id LIMIT ?", limit);
    Ok((page.fetch_all(db, "list all hosts").await?, total.count(db, "count all hosts").await?))
}
