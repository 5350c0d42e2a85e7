//! The audit trail: who did what to which thing, from where, with what result. Append-only.
//!
//! Entries of a change are written in the change's own transaction, so that neither can be without the other.
//! Nothing secret goes into `details`; what a change replaced and what it became are its members `before` and `after`.
//! The database itself refuses to change or remove an entry. `store` reads them.

pub mod store;
#[cfg(test)]
mod tests;

use atoll_model::{ApiKeyId, AuditId, HostId, TeamId, UserId};
use serde_json::Value;
use sqlx::types::Json;

use crate::db::{Db, DbError, During, Millis, Tx, on};
use crate::sandboxes::Network;

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    User(UserId),
    ApiKey(ApiKeyId),
    Host(HostId),
    /// Control itself: the reaper, the monitor, setup.
    System,
}

impl Actor {
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::ApiKey(_) => "api_key",
            Self::Host(_) => "host",
            Self::System => "system",
        }
    }

    #[must_use]
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::User(id) => Some(id.as_str()),
            Self::ApiKey(id) => Some(id.as_str()),
            Self::Host(id) => Some(id.as_str()),
            Self::System => None,
        }
    }
}

/// Where a request came from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    pub address: Option<String>,
    pub request_id: Option<String>,
    pub user_agent: Option<String>,
}

/// For whom something is done, for rights and for the audit trail.
#[derive(Debug, Clone)]
pub struct Owner {
    pub team: TeamId,
    pub team_is_byoc: bool,
    /// What its new sandboxes may reach when nobody says.
    pub team_network: Option<Network>,
    pub actor: Actor,
    pub origin: Origin,
}

/// One entry. `action` reads `subject.verb`: `sandbox.create`, `api_key.delete`.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    pub team: Option<&'a TeamId>,
    pub actor: &'a Actor,
    pub origin: &'a Origin,
    pub action: &'static str,
    pub target_kind: &'static str,
    pub target_id: Option<&'a str>,
    /// `ok`, or an error code.
    pub result: &'static str,
    pub details: Value,
}

const INSERT: &str = "INSERT INTO audit_logs
    (id, at, team_id, actor_kind, actor_id, action, target_kind, target_id, result, address, request_id, details,
     user_agent)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";

/// Writes an entry in the transaction of what it is about.
pub async fn record(tx: &mut Tx, at: Millis, entry: &Entry<'_>) -> Result<(), DbError> {
    on!(tx tx, |c| bind(sqlx::query(INSERT), at, entry).execute(c).await.map(|_| ())).during("write an audit entry")
}

/// Writes an entry about something that changed no row (a refused login, for example).
pub async fn record_alone(db: &Db, at: Millis, entry: &Entry<'_>) -> Result<(), DbError> {
    on!(write db, |c| bind(sqlx::query(INSERT), at, entry).execute(c).await.map(|_| ())).during("write an audit entry")
}

type Query<'q, DB> = sqlx::query::Query<'q, DB, <DB as sqlx::Database>::Arguments>;

fn bind<'q, DB>(query: Query<'q, DB>, at: Millis, entry: &Entry<'q>) -> Query<'q, DB>
where
    DB: sqlx::Database,
    String: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    &'q str: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    Option<&'q str>: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    Millis: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
    Json<Value>: sqlx::Encode<'q, DB> + sqlx::Type<DB>,
{
    query
        .bind(AuditId::new().to_string())
        .bind(at)
        .bind(entry.team.map(TeamId::as_str))
        .bind(entry.actor.kind())
        .bind(entry.actor.id())
        .bind(entry.action)
        .bind(entry.target_kind)
        .bind(entry.target_id)
        .bind(entry.result)
        .bind(entry.origin.address.as_deref())
        .bind(entry.origin.request_id.as_deref())
        .bind(Json(entry.details.clone()))
        .bind(entry.origin.user_agent.as_deref())
}
