//! The audit trail: a team's for its members, everything for platform admins.

use atoll_model::TeamId;
use atoll_model::api::Page;
use atoll_model::api::audit::{ActorKind, AuditEntry};
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::{Admin, User};
use super::error::ApiResult;
use super::extract::Query;
use super::page::{Cursor, PageQuery, page};
use super::validate;
use crate::app::App;
use crate::audit::store::{self, Filter, Outcome, Row};
use crate::db::Millis;

const MAX_TEXT: usize = 100;

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(admin_list))
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// At most so many items. 1 to 1,000; 100 when absent.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    pub actor_kind: Option<ActorKind>,
    /// Id of a person, a key or a host.
    #[param(min_length = 1, max_length = 100)]
    pub actor: Option<String>,
    /// `sandbox.create`, for example.
    #[param(min_length = 1, max_length = 100)]
    pub action: Option<String>,
    /// `sandbox`, for example.
    #[param(min_length = 1, max_length = 100)]
    pub resource_kind: Option<String>,
    /// Id of the thing.
    #[param(min_length = 1, max_length = 100)]
    pub resource: Option<String>,
    /// `ok`, `failed` (whatever is not `ok`), or an error code.
    #[param(min_length = 1, max_length = 100)]
    pub result: Option<String>,
    /// Part of the action, of an id (of the thing, the actor or the request), of the actor's address or name, or of
    /// where it came from. One page looks through 10,000 entries at most, so it may hold few items or none although
    /// there are more: `next_cursor` says so.
    #[param(min_length = 1, max_length = 100)]
    pub q: Option<String>,
    /// From this moment on (RFC 3339).
    pub since: Option<DateTime<Utc>>,
    /// Before this moment (RFC 3339).
    pub until: Option<DateTime<Utc>>,
}

/// What the current team's people, keys and hosts did, newest first.
#[utoipa::path(get, path = "/v1/audit-logs", tag = "audit", params(AuditQuery),
    responses((status = 200, body = Page<AuditEntry>)), security(("bearer" = [])))]
pub async fn list(
    State(app): State<App>,
    user: User,
    Query(query): Query<AuditQuery>,
) -> ApiResult<axum::Json<Page<AuditEntry>>> {
    answer(&app, Some(user.team), query).await
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TeamQuery {
    /// One team's entries alone.
    pub team_id: Option<TeamId>,
}

/// What everybody did, newest first.
#[utoipa::path(get, path = "/v1/admin/audit-logs", tag = "admin", params(AuditQuery, TeamQuery),
    responses((status = 200, body = Page<AuditEntry>)), security(("bearer" = [])))]
pub async fn admin_list(
    State(app): State<App>,
    _: Admin,
    Query(team): Query<TeamQuery>,
    Query(query): Query<AuditQuery>,
) -> ApiResult<axum::Json<Page<AuditEntry>>> {
    answer(&app, team.team_id, query).await
}

async fn answer(app: &App, team: Option<TeamId>, query: AuditQuery) -> ApiResult<axum::Json<Page<AuditEntry>>> {
    let texts = [
        ("actor", &query.actor),
        ("action", &query.action),
        ("resource_kind", &query.resource_kind),
        ("resource", &query.resource),
        ("result", &query.result),
        ("q", &query.q),
    ];
    for (field, text) in texts {
        text.as_deref().map_or(Ok(()), |text| validate::line(field, text, MAX_TEXT))?;
    }
    let pages = PageQuery { limit: query.limit, cursor: query.cursor };
    let (limit, before) = (pages.limit()?, pages.cursor()?);
    let filter = Filter {
        team,
        actor_kind: query.actor_kind,
        actor: query.actor,
        action: query.action,
        resource_kind: query.resource_kind,
        resource: query.resource,
        result: query.result.map(|result| match result.as_str() {
            "failed" => Outcome::Failed,
            _ => Outcome::Is(result),
        }),
        text: query.q,
        since: query.since.map(Millis::from),
        until: query.until.map(Millis::from),
    };
    let before = before.as_ref().map(|cursor| (cursor.at, cursor.id.as_str()));
    let (rows, stopped) = store::list(&app.db, &filter, before, limit as i64 + 1).await?;
    let cursor = |row: &Row| Cursor { at: row.at, id: row.id.to_string() };
    let mut found = page(rows, limit, cursor, Row::into_api);
    if let (None, Some((at, id))) = (&found.next_cursor, stopped) {
        found.next_cursor = Some(Cursor { at, id: id.to_string() }.encode());
    }
    Ok(axum::Json(found))
}
