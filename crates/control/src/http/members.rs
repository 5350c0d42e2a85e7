//! The people in a team.

use atoll_model::api::Page;
use atoll_model::api::auth::Role;
use atoll_model::api::teams::{AddMemberRequest, Member, UpdateMemberRequest};
use atoll_model::{ErrorCode, TeamId, UserId};
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::User;
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Json, Query, path_parameter};
use super::page::{Cursor, PageQuery, page};
use super::teams::visible;
use super::{idempotent, validate};
use crate::accounts::rate;
use crate::app::App;
use crate::db::Millis;
use crate::teams::{self, MemberRow, store};

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, add)).routes(routes!(update, remove)).routes(routes!(leave))
}

/// The ids in `/v1/teams/{id}/members/{user_id}`.
pub struct Membership(TeamId, UserId);

impl<S: Send + Sync> FromRequestParts<S> for Membership {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let team = path_parameter(parts, state, "id").await?.parse()?;
        Ok(Self(team, path_parameter(parts, state, "user_id").await?.parse()?))
    }
}

/// Lists a team's members, oldest membership first.
#[utoipa::path(get, path = "/v1/teams/{id}/members", tag = "teams", params(("id" = TeamId, Path), PageQuery),
    responses((status = 200, body = Page<Member>)), security(("bearer" = [])))]
pub async fn list(
    State(app): State<App>,
    user: User,
    Id(id): Id<TeamId>,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<Member>>> {
    let limit = query.limit()?;
    let after = query.cursor()?.unwrap_or(Cursor { at: Millis(i64::MIN), id: String::new() });
    visible(&app, &user, &id).await?;
    let rows = store::members(&app.db, &id, (after.at, &after.id), limit as i64 + 1).await?;
    let cursor = |row: &MemberRow| Cursor { at: row.created_at, id: row.user_id.to_string() };
    Ok(axum::Json(page(rows, limit, cursor, MemberRow::into_api)))
}

/// Makes somebody who has an account a member. Takes the role admin; making an owner takes the role owner.
#[utoipa::path(post, path = "/v1/teams/{id}/members", tag = "teams", 
    params(("id" = TeamId, Path), ("Idempotency-Key" = Option<String>, Header)), request_body = AddMemberRequest,
    responses((status = 201, body = Member), (status = 409), (status = 429)), security(("bearer" = [])))]
pub async fn add(
    State(app): State<App>,
    user: User,
    Id(id): Id<TeamId>,
    headers: HeaderMap,
    Json(request): Json<AddMemberRequest>,
) -> ApiResult<Response> {
    validate::email("email", &request.email)?;
    visible(&app, &user, &id).await?;
    let route = format!("teams/{id}/members");
    let key = idempotent::key(&headers, &user.keys_owner(), &route, &request)?;
    let worker = app.clone();
    let work = async move {
        let (now, email) = (worker.clock.now(), request.email.trim().to_lowercase());
        if let Some(wait) = worker.accounts.rates().take(&rate::ADD_MEMBER.of(user.id.as_str()), now).await? {
            let error = ApiError::new(ErrorCode::RateLimited, "too many people were added in this minute");
            return Err(error.with_retry_after(wait));
        }
        let role = request.role.unwrap_or(Role::Member);
        Ok(teams::add(&worker.db, &user.asker(), &id, &email, role, now).await?.into_api())
    };
    idempotent::once(&app, key, StatusCode::CREATED, work, Member::clone).await
}

/// Gives a member another role. Takes the role admin, and owner where an owner is made or changed. The last owner
/// stays one (409).
#[utoipa::path(patch, path = "/v1/teams/{id}/members/{user_id}", tag = "teams",
    params(("id" = TeamId, Path), ("user_id" = UserId, Path)), request_body = UpdateMemberRequest,
    responses((status = 200, body = Member), (status = 409)), security(("bearer" = [])))]
pub async fn update(
    State(app): State<App>,
    user: User,
    Membership(team, member): Membership,
    Json(request): Json<UpdateMemberRequest>,
) -> ApiResult<axum::Json<Member>> {
    let now = app.clock.now();
    let row = teams::set_role(&app.db, &user.asker(), &team, &member, request.role, now).await?;
    Ok(axum::Json(row.into_api()))
}

/// Removes a member. Takes the role admin, and owner for an owner; oneself with any role.
#[utoipa::path(delete, path = "/v1/teams/{id}/members/{user_id}", tag = "teams",
    params(("id" = TeamId, Path), ("user_id" = UserId, Path)), responses((status = 204), (status = 409)),
    security(("bearer" = [])))]
pub async fn remove(State(app): State<App>, user: User, Membership(team, member): Membership) -> ApiResult<StatusCode> {
    teams::remove(&app.db, &user.asker(), &team, &member, app.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Leaves a team. The last owner can't (409).
#[utoipa::path(post, path = "/v1/teams/{id}/leave", tag = "teams", params(("id" = TeamId, Path)),
    responses((status = 204), (status = 409)), security(("bearer" = [])))]
pub async fn leave(State(app): State<App>, user: User, Id(id): Id<TeamId>) -> ApiResult<StatusCode> {
    let own = store::member_now(&app.db, &id, &user.id).await?;
    own.ok_or_else(|| ApiError::not_found("team"))?;
    teams::remove(&app.db, &user.asker(), &id, &user.id, app.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}
