//! SQL of reading the audit trail: pages, newest first, that cost the same however long it is. A search for a text can't
//! enter an index, so it looks through a bounded stretch per page and says where the next one begins.

use atoll_model::api::audit::{ActorKind, AuditEntry};
use atoll_model::{AuditId, TeamId};
use serde_json::{Map, Value};
use sqlx::types::Json;

use crate::db::{Db, DbError, Millis, Sql, Text, containing};

/// Entries that one page of a search looks through at most.
pub const STRETCH: i64 = 10_000;

#[derive(sqlx::FromRow)]
pub struct Row {
    pub id: Text<AuditId>,
    pub at: Millis,
    pub team_id: Option<Text<TeamId>>,
    pub actor_kind: Text<ActorKind>,
    pub actor_id: Option<String>,
    pub actor_name: Option<String>,
    pub action: String,
    pub target_kind: String,
    pub target_id: Option<String>,
    pub result: String,
    pub address: Option<String>,
    pub user_agent: Option<String>,
    pub request_id: Option<String>,
    pub details: Json<Value>,
}

impl Row {
    /// The answer's shape.
    #[must_use]
    pub fn into_api(self) -> AuditEntry {
        let mut details = match self.details.0 {
            Value::Object(details) => details,
            _ => Map::new(),
        };
        AuditEntry {
            id: self.id.0,
            at: self.at.to_utc(),
            team_id: self.team_id.map(|id| id.0),
            actor_kind: self.actor_kind.0,
            actor_id: self.actor_id,
            actor_name: self.actor_name,
            action: self.action,
            resource_kind: self.target_kind,
            resource_id: self.target_id,
            result: self.result,
            address: self.address,
            user_agent: self.user_agent,
            request_id: self.request_id,
            before: details.remove("before"),
            after: details.remove("after"),
            details,
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// `ok`, or this error code.
    Is(String),
    /// Anything but `ok`.
    Failed,
}

/// Which entries are wanted.
#[derive(Debug, Default, Clone)]
pub struct Filter {
    /// None: of every team, and of none.
    pub team: Option<TeamId>,
    pub actor_kind: Option<ActorKind>,
    /// An id.
    pub actor: Option<String>,
    /// A whole name (`sandbox.create`).
    pub action: Option<String>,
    pub resource_kind: Option<String>,
    /// An id.
    pub resource: Option<String>,
    pub result: Option<Outcome>,
    /// Part of an action, an id, an address, or of an actor's name.
    pub text: Option<String>,
    /// From this moment on.
    pub since: Option<Millis>,
    /// Before this moment.
    pub until: Option<Millis>,
}

/// A place in the trail.
pub type Place = (Millis, Text<AuditId>);

/// A page, newest first, after the place `before`; and, of a search that ended before it had looked at everything, where
/// it stopped.
pub async fn list(
    db: &Db,
    filter: &Filter,
    before: Option<(Millis, &str)>,
    limit: i64,
) -> Result<(Vec<Row>, Option<Place>), DbError> {
    let last = match filter.text {
        Some(_) => {
            last_of_stretch(filter, before, STRETCH).fetch_all(db, "bound a search of the audit trail").await?.pop()
        }
        None => None,
    };
    let rows = query(filter, before, last.as_ref(), limit).fetch_all(db, "list audit entries").await?;
    Ok((rows, last))
}

/// The last entry that a page of a search looks at; none when there are fewer.
fn last_of_stretch(filter: &Filter, before: Option<(Millis, &str)>, stretch: i64) -> Sql {
    let mut sql = Sql::new("SELECT a.at, a.id FROM audit_logs a WHERE 1 = 1");
    narrow(&mut sql, filter, before);
    sql.with(" ORDER BY a.at DESC, a.id DESC LIMIT 1 OFFSET ?", stretch - 1);
    sql
}

pub(super) fn query(filter: &Filter, before: Option<(Millis, &str)>, last: Option<&Place>, limit: i64) -> Sql {
    let mut sql = Sql::new(
        "SELECT a.id, a.at, a.team_id, a.actor_kind, a.actor_id, a.action, a.target_kind, a.target_id, a.result,
             a.address, a.user_agent, a.request_id, a.details,
             CASE a.actor_kind WHEN 'user' THEN (SELECT u.email FROM users u WHERE u.id = a.actor_id)
                 WHEN 'api_key' THEN (SELECT k.name FROM api_keys k WHERE k.id = a.actor_id)
                 WHEN 'host' THEN (SELECT h.name FROM hosts h WHERE h.id = a.actor_id) END AS actor_name
         FROM audit_logs a WHERE 1 = 1",
    );
    narrow(&mut sql, filter, before);
    if let Some((at, id)) = last {
        sql.with(" AND (a.at, a.id) >= (?", *at).with(", ?)", id.0.as_str());
    }
    if let Some(text) = &filter.text {
        let pattern = containing(text);
        sql.with(
            " AND (a.action LIKE ? ESCAPE '\\' OR a.target_id LIKE ? ESCAPE '\\' OR a.actor_id LIKE ? ESCAPE '\\'
                 OR a.address LIKE ? ESCAPE '\\' OR a.result LIKE ? ESCAPE '\\' OR a.request_id LIKE ? ESCAPE '\\'
                 OR a.actor_id IN (SELECT u.id FROM users u WHERE u.email LIKE ? ESCAPE '\\'
                     OR LOWER(u.name) LIKE ? ESCAPE '\\')
                 OR a.actor_id IN (SELECT k.id FROM api_keys k WHERE LOWER(k.name) LIKE ? ESCAPE '\\')
                 OR a.actor_id IN (SELECT h.id FROM hosts h WHERE LOWER(h.name) LIKE ? ESCAPE '\\'))",
            pattern.as_str(),
        );
    }
    sql.with(" ORDER BY a.at DESC, a.id DESC LIMIT ?", limit);
    sql
}

/// The conditions that an index knows, and where the page begins.
fn narrow(sql: &mut Sql, filter: &Filter, before: Option<(Millis, &str)>) {
    sql.with_some(" AND a.team_id = ?", filter.team.as_ref().map(TeamId::as_str));
    sql.with_some(" AND a.actor_kind = ?", filter.actor_kind.map(ActorKind::as_str));
    sql.with_some(" AND a.actor_id = ?", filter.actor.as_deref());
    sql.with_some(" AND a.action = ?", filter.action.as_deref());
    sql.with_some(" AND a.target_kind = ?", filter.resource_kind.as_deref());
    sql.with_some(" AND a.target_id = ?", filter.resource.as_deref());
    match &filter.result {
        Some(Outcome::Is(result)) => sql.with(" AND a.result = ?", result.as_str()),
        Some(Outcome::Failed) => sql.push(" AND a.result <> 'ok'"),
        None => sql,
    };
    sql.with_some(" AND a.at >= ?", filter.since);
    sql.with_some(" AND a.at < ?", filter.until);
    if let Some((at, id)) = before {
        // A comparison of rows, so that the index is entered at the cursor.
        sql.with(" AND (a.at, a.id) < (?", at).with(", ?)", id);
    }
}
