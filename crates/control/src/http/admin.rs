//! What platform admins see and switch. Whether the caller is one is asked of the database at each call.

use atoll_model::api::CountedPage;
use atoll_model::api::admin::{AdminSandbox, AdminTeam, AdminUser, SwitchRequest};
use atoll_model::api::hosts::Host;
use atoll_model::{HostId, HostStatus, HostType, SandboxId, SandboxStatus, TeamId, UserId};
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::Admin;
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Json, Query};
use super::page::{Cursor, PageQuery, counted};
use super::validate;
use crate::admin::{self, AdminError};
use crate::app::App;
use crate::db::Millis;
use crate::hosts;

const MAX_SEARCH: usize = 100;

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(set_byoc))
        .routes(routes!(set_active))
        .routes(routes!(set_admin))
        .routes(routes!(hosts))
        .routes(routes!(teams))
        .routes(routes!(users))
        .routes(routes!(user))
        .routes(routes!(sandboxes))
}

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::NoUser => Self::not_found("user"),
            AdminError::LastAdmin => Self::conflict(error.to_string()),
            AdminError::Team(error) => error.into(),
            AdminError::Db(error) => error.into(),
        }
    }
}

/// The pages of a list (`limit`, `cursor`), as one reads them beside filters.
macro_rules! paged {
    ($query:expr) => {
        PageQuery { limit: $query.limit, cursor: $query.cursor.take() }
    };
}

fn search(q: Option<&str>) -> ApiResult<()> {
    q.map_or(Ok(()), |q| validate::line("q", q, MAX_SEARCH))
}

/// Lets a team bring its own hosts, or not. Setting what is set already changes nothing. Turning it off is refused
/// while the team has byoc hosts.
#[utoipa::path(put, path = "/v1/admin/teams/{id}/byoc", tag = "admin", params(("id" = TeamId, Path)),
    request_body = SwitchRequest, responses((status = 204), (status = 409)), security(("bearer" = [])))]
pub async fn set_byoc(
    State(app): State<App>,
    Admin(user): Admin,
    Id(id): Id<TeamId>,
    Json(request): Json<SwitchRequest>,
) -> ApiResult<StatusCode> {
    admin::set_byoc(&app.db, &user.asker(), &id, request.enabled, app.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Switches an account on or off. Off, its sessions end at once. The last active admin stays one.
#[utoipa::path(put, path = "/v1/admin/users/{id}/active", tag = "admin", params(("id" = UserId, Path)),
    request_body = SwitchRequest, responses((status = 204), (status = 409)), security(("bearer" = [])))]
pub async fn set_active(
    State(app): State<App>,
    Admin(user): Admin,
    Id(id): Id<UserId>,
    Json(request): Json<SwitchRequest>,
) -> ApiResult<StatusCode> {
    admin::set_active(&app.db, &user.asker(), &id, request.enabled, app.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a person a platform admin, or no more: from the next request on. The last active admin stays one.
#[utoipa::path(put, path = "/v1/admin/users/{id}/admin", tag = "admin", params(("id" = UserId, Path)),
    request_body = SwitchRequest, responses((status = 204), (status = 409)), security(("bearer" = [])))]
pub async fn set_admin(
    State(app): State<App>,
    Admin(user): Admin,
    Id(id): Id<UserId>,
    Json(request): Json<SwitchRequest>,
) -> ApiResult<StatusCode> {
    admin::set_admin(&app.db, &user.asker(), &id, request.enabled, app.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct HostsQuery {
    /// At most so many items. 1 to 1,000; 100 when absent.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Part of the name, or the id.
    #[param(min_length = 1, max_length = 100)]
    pub q: Option<String>,
    pub status: Option<HostStatus>,
    #[serde(rename = "type")]
    pub kind: Option<HostType>,
    pub team_id: Option<TeamId>,
}

/// Lists every host, byoc ones with their team's name.
#[utoipa::path(get, path = "/v1/admin/hosts", tag = "admin", params(HostsQuery),
    responses((status = 200, body = CountedPage<Host>)), security(("bearer" = [])))]
pub async fn hosts(
    State(app): State<App>,
    _: Admin,
    Query(mut query): Query<HostsQuery>,
) -> ApiResult<axum::Json<CountedPage<Host>>> {
    let pages = paged!(query);
    let (limit, after) = (pages.limit()?, pages.cursor()?.map(|cursor| cursor.id).unwrap_or_default());
    search(query.q.as_deref())?;
    let filter = admin::HostFilter { q: query.q, status: query.status, kind: query.kind, team: query.team_id };
    let rows = admin::hosts(&app.db, &filter, &after, limit as i64 + 1).await?;
    let cursor = |row: &admin::NamedHost| Cursor { at: Millis(0), id: row.host.id.to_string() };
    let mut page = counted(rows, limit, cursor, admin::NamedHost::into_api);
    hosts::holdings::mark_drained(&app.db, &mut page.items).await?;
    Ok(axum::Json(page))
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TeamsQuery {
    /// At most so many items. 1 to 1,000; 100 when absent.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Part of the name or the slug, or the id.
    #[param(min_length = 1, max_length = 100)]
    pub q: Option<String>,
    pub byoc: Option<bool>,
}

/// Lists every team, oldest first.
#[utoipa::path(get, path = "/v1/admin/teams", tag = "admin", params(TeamsQuery),
    responses((status = 200, body = CountedPage<AdminTeam>)), security(("bearer" = [])))]
pub async fn teams(
    State(app): State<App>,
    _: Admin,
    Query(mut query): Query<TeamsQuery>,
) -> ApiResult<axum::Json<CountedPage<AdminTeam>>> {
    let pages = paged!(query);
    let (limit, after) = (pages.limit()?, pages.cursor()?.unwrap_or(FIRST));
    search(query.q.as_deref())?;
    let filter = admin::TeamFilter { q: query.q, byoc: query.byoc };
    let rows = admin::teams(&app.db, &filter, (after.at, &after.id), limit as i64 + 1).await?;
    let cursor = |row: &admin::TeamRow| Cursor { at: row.created_at, id: row.id.to_string() };
    Ok(axum::Json(counted(rows, limit, cursor, admin::TeamRow::into_api)))
}

/// Before everything, in a list that is ordered by time.
const FIRST: Cursor = Cursor { at: Millis(i64::MIN), id: String::new() };
/// Before everything, in a list that begins with the newest.
const NEWEST: Cursor = Cursor { at: Millis(i64::MAX), id: String::new() };

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UsersQuery {
    /// At most so many items. 1 to 1,000; 100 when absent.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Part of the address or the name, or the id.
    #[param(min_length = 1, max_length = 100)]
    pub q: Option<String>,
    pub active: Option<bool>,
    pub admin: Option<bool>,
    /// Members of this team.
    pub team_id: Option<TeamId>,
}

/// Lists every person, oldest account first.
#[utoipa::path(get, path = "/v1/admin/users", tag = "admin", params(UsersQuery),
    responses((status = 200, body = CountedPage<AdminUser>)), security(("bearer" = [])))]
pub async fn users(
    State(app): State<App>,
    _: Admin,
    Query(mut query): Query<UsersQuery>,
) -> ApiResult<axum::Json<CountedPage<AdminUser>>> {
    let pages = paged!(query);
    let (limit, after) = (pages.limit()?, pages.cursor()?.unwrap_or(FIRST));
    search(query.q.as_deref())?;
    let filter = admin::UserFilter { q: query.q, active: query.active, admin: query.admin, team: query.team_id };
    let rows = admin::users(&app.db, &filter, (after.at, &after.id), limit as i64 + 1).await?;
    let cursor = |row: &admin::UserRow| Cursor { at: row.created_at, id: row.id.to_string() };
    Ok(axum::Json(counted(rows, limit, cursor, admin::UserRow::into_api)))
}

/// One person.
#[utoipa::path(get, path = "/v1/admin/users/{id}", tag = "admin", params(("id" = UserId, Path)),
    responses((status = 200, body = AdminUser)), security(("bearer" = [])))]
pub async fn user(State(app): State<App>, _: Admin, Id(id): Id<UserId>) -> ApiResult<axum::Json<AdminUser>> {
    let row = admin::user(&app.db, &id).await?.ok_or(AdminError::NoUser)?;
    Ok(axum::Json(row.into_api()))
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SandboxesQuery {
    /// At most so many items. 1 to 1,000; 100 when absent.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// All but stopped ones when absent.
    pub status: Option<SandboxStatus>,
    /// Part of the id, of the template's name or of the team's name, or a host's id.
    #[param(min_length = 1, max_length = 100)]
    pub q: Option<String>,
    pub team_id: Option<TeamId>,
    pub host_id: Option<HostId>,
    /// The template's name.
    #[param(min_length = 1, max_length = 128)]
    pub template: Option<String>,
}

/// Lists every team's sandboxes, newest first.
#[utoipa::path(get, path = "/v1/admin/sandboxes", tag = "admin", params(SandboxesQuery),
    responses((status = 200, body = CountedPage<AdminSandbox>)), security(("bearer" = [])))]
pub async fn sandboxes(
    State(app): State<App>,
    _: Admin,
    Query(mut query): Query<SandboxesQuery>,
) -> ApiResult<axum::Json<CountedPage<AdminSandbox>>> {
    let pages = paged!(query);
    let (limit, before) = (pages.limit()?, pages.cursor()?.unwrap_or(NEWEST));
    query.template.as_deref().map_or(Ok(()), |name| validate::line("template", name, 128))?;
    search(query.q.as_deref())?;
    // Its other form (`i...`) names it too.
    let q = query.q.map(|q| q.parse::<SandboxId>().map_or(q, |id| id.to_string()));
    let filter = admin::SandboxFilter {
        q,
        status: query.status,
        team: query.team_id,
        host: query.host_id,
        template: query.template,
    };
    let rows = admin::sandboxes(&app.db, &filter, (before.at, &before.id), limit as i64 + 1).await?;
    let cursor = |row: &admin::SandboxRow| Cursor { at: row.record.created_at, id: row.record.id.to_string() };
    Ok(axum::Json(counted(rows, limit, cursor, admin::SandboxRow::into_api)))
}
