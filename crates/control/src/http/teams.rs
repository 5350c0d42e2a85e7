//! Teams: the caller's, and one by one. Who may do what is decided in `crate::teams`; a platform admin counts as an
//! owner of every team.

use std::sync::Arc;

use atoll_model::api::Page;
use atoll_model::api::auth::Team;
use atoll_model::api::teams::{CreateTeamRequest, TeamDetail, UpdateTeamRequest};
use atoll_model::{ErrorCode, TeamId};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::User;
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Json, Query};
use super::page::{Cursor, MAX_LIMIT, PageQuery, page};
use super::{idempotent, validate};
use crate::app::App;
use crate::db::Millis;
use crate::teams::{self, Asker, MemberRow, TeamError, TeamRow, store};

/// Members that are shown with their team.
const SHOWN_MEMBERS: i64 = 1000;
const MAX_NAME: usize = 100;
const MAX_SLUG: usize = 40;

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, update, delete))
}

impl From<TeamError> for ApiError {
    fn from(error: TeamError) -> Self {
        let message = error.to_string();
        match error {
            TeamError::NotFound => Self::not_found("team"),
            TeamError::NoMember => Self::not_found("member"),
            TeamError::NoAccount => Self::new(ErrorCode::NotFound, message).with_field("email"),
            TeamError::Role(_) | TeamError::OwnersOnly => Self::forbidden(message),
            TeamError::LastOwner | TeamError::AlreadyMember => Self::conflict(message),
            TeamError::SlugTaken => Self::new(ErrorCode::NameTaken, message).with_field("slug"),
            TeamError::Occupied(has) => Self::conflict(message)
                .with_detail("sandboxes", has.sandboxes)
                .with_detail("hosts", has.hosts)
                .with_detail("templates", has.templates)
                .with_detail("volumes", has.volumes),
            TeamError::HasHosts { hosts } => Self::conflict(message).with_detail("hosts", hosts),
            TeamError::TooManyTeams(limit) => quota("teams", limit, message),
            TeamError::TooManyMembers(limit) => quota("members", limit, message),
            TeamError::Db(error) => error.into(),
        }
    }
}

fn quota(name: &'static str, limit: i64, message: String) -> ApiError {
    ApiError::new(ErrorCode::QuotaExceeded, message)
        .with_detail("quota", name)
        .with_detail("used", limit)
        .with_detail("limit", limit)
        .with_retry_after(std::time::Duration::from_secs(60))
}

impl User {
    /// As the one who asks for a change of a team.
    #[must_use]
    pub fn asker(&self) -> Asker {
        Asker { id: self.id.clone(), is_admin: self.is_admin, origin: self.origin.clone() }
    }
}

/// A team that the caller may look at: members their own, platform admins any.
pub(super) async fn visible(app: &App, user: &User, team: &TeamId) -> ApiResult<TeamRow> {
    let row = store::get(&app.db, team, Some(&user.id)).await?;
    row.filter(|row| row.role.is_some() || user.is_admin).ok_or_else(|| ApiError::not_found("team"))
}

/// Lists the teams that one is a member of, with one's role in each.
#[utoipa::path(get, path = "/v1/teams", tag = "teams", params(PageQuery),
    responses((status = 200, body = Page<Team>)), security(("bearer" = [])))]
pub async fn list(
    State(app): State<App>,
    user: User,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<Team>>> {
    let limit = query.limit()?;
    let cursor = |row: &TeamRow| Cursor { at: Millis(0), id: row.id.to_string() };
    let Some(after) = query.cursor()? else {
        let rows = first_page(&app, &user).await?;
        // One more than the page, if there is one: that says that there are more.
        let rows = rows.iter().take(limit + 1).cloned().collect();
        return Ok(axum::Json(page(rows, limit, cursor, TeamRow::into_api)));
    };
    let rows = teams::of_user(&app.db, &user.id, &after.id, limit as i64 + 1).await?;
    Ok(axum::Json(page(rows, limit, cursor, TeamRow::into_api)))
}

/// Makes a team, of which the caller becomes the owner.
#[utoipa::path(post, path = "/v1/teams", tag = "teams", request_body = CreateTeamRequest,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Team), (status = 409), (status = 429)), security(("bearer" = [])))]
pub async fn create(
    State(app): State<App>,
    user: User,
    headers: HeaderMap,
    Json(request): Json<CreateTeamRequest>,
) -> ApiResult<Response> {
    validate::line("name", &request.name, MAX_NAME)?;
    let key = idempotent::key(&headers, &user.keys_owner(), "teams", &request)?;
    let worker = app.clone();
    let work = async move {
        let made = teams::create(&worker.db, &user.asker(), &request.name, worker.clock.now()).await?;
        Ok(made.into_api())
    };
    idempotent::once(&app, key, StatusCode::CREATED, work, Team::clone).await
}

/// A team and its people.
#[utoipa::path(get, path = "/v1/teams/{id}", tag = "teams", params(("id" = TeamId, Path)),
    responses((status = 200, body = TeamDetail)), security(("bearer" = [])))]
pub async fn get(State(app): State<App>, user: User, Id(id): Id<TeamId>) -> ApiResult<axum::Json<TeamDetail>> {
    let team = visible(&app, &user, &id).await?;
    let members = store::members(&app.db, &id, (Millis(i64::MIN), ""), SHOWN_MEMBERS).await?;
    let members = members.into_iter().map(MemberRow::into_api).collect();
    let members_total = store::members_total(&app.db, &id).await?;
    Ok(axum::Json(TeamDetail { team: team.into_api(), members, members_total }))
}

/// Renames a team, or gives it another slug. Takes the role admin.
#[utoipa::path(patch, path = "/v1/teams/{id}", tag = "teams", params(("id" = TeamId, Path)),
    request_body = UpdateTeamRequest, responses((status = 200, body = Team), (status = 409)),
    security(("bearer" = [])))]
pub async fn update(
    State(app): State<App>,
    user: User,
    Id(id): Id<TeamId>,
    Json(request): Json<UpdateTeamRequest>,
) -> ApiResult<axum::Json<Team>> {
    request.name.as_deref().map_or(Ok(()), |name| validate::line("name", name, MAX_NAME))?;
    request.slug.as_deref().map_or(Ok(()), slug)?;
    let (name, slug) = (request.name.as_deref(), request.slug.as_deref());
    teams::update(&app.db, &user.asker(), &id, name, slug, app.clock.now()).await?;
    Ok(axum::Json(visible(&app, &user, &id).await?.into_api()))
}

fn slug(slug: &str) -> ApiResult<()> {
    let fit = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if slug.len() <= MAX_SLUG && slug.split('-').all(fit) {
        return Ok(());
    }
    let message = format!("must be lower-case letters, digits and single hyphens, at most {MAX_SLUG}");
    Err(ApiError::invalid("slug", message))
}

/// Deletes a team with its keys and memberships. Takes the role owner; refused while it has sandboxes that are not
/// stopped, hosts, templates, snapshots or volumes.
#[utoipa::path(delete, path = "/v1/teams/{id}", tag = "teams", params(("id" = TeamId, Path)),
    responses((status = 204), (status = 409)), security(("bearer" = [])))]
pub async fn delete(State(app): State<App>, user: User, Id(id): Id<TeamId>) -> ApiResult<StatusCode> {
    teams::delete(&app.db, &user.asker(), &id, app.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The first teams of a person, as many as a page can hold and one more; remembered while nobody's rights change.
async fn first_page(app: &App, user: &User) -> ApiResult<Arc<[TeamRow]>> {
    let rights = app.accounts.rights();
    if let Some(rows) = rights.teams(user.rights_version, &user.id) {
        return Ok(rows);
    }
    let rows: Arc<[TeamRow]> = teams::of_user(&app.db, &user.id, "", i64::from(MAX_LIMIT) + 1).await?.into();
    rights.remember_teams(user.rights_version, &user.id, &rows);
    Ok(rows)
}
