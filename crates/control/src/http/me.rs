//! Who one is, and one's sessions.

use atoll_model::SessionId;
use atoll_model::api::Page;
use atoll_model::api::auth::{ChangePasswordRequest, EndedSessions, Me, Session, SessionKind, UpdateMeRequest};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::User;
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Json, Query};
use super::page::{Cursor, PageQuery, page};
use super::{browser, validate};
use crate::accounts::session_store::SessionRow;
use crate::app::App;
use crate::db::Millis;

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(me, update))
        .routes(routes!(change_password))
        .routes(routes!(sessions, end_other_sessions))
        .routes(routes!(end_session))
}

fn answer(app: &App, parts: &Parts, user: User) -> Me {
    let cookie = (user.kind == SessionKind::Browser).then(|| browser::secret(parts, &app.config)).flatten();
    Me {
        user_id: user.id,
        email: user.email,
        name: user.name,
        is_admin: user.is_admin,
        team_id: user.team,
        role: user.role,
        has_password: user.has_password,
        csrf_token: cookie.map(browser::csrf_token),
    }
}

/// Who one is.
#[utoipa::path(get, path = "/v1/me", tag = "accounts", responses((status = 200, body = Me)),
    security(("bearer" = [])))]
pub async fn me(State(app): State<App>, parts: Parts, user: User) -> axum::Json<Me> {
    axum::Json(answer(&app, &parts, user))
}

/// Changes one's name.
#[utoipa::path(patch, path = "/v1/me", tag = "accounts", request_body = UpdateMeRequest,
    responses((status = 200, body = Me)), security(("bearer" = [])))]
pub async fn update(
    State(app): State<App>,
    parts: Parts,
    mut user: User,
    Json(request): Json<UpdateMeRequest>,
) -> ApiResult<axum::Json<Me>> {
    validate::line("name", &request.name, 100)?;
    app.accounts.rename(&user.id, &user.name, &request.name, &user.origin).await?;
    user.name = request.name;
    Ok(axum::Json(answer(&app, &parts, user)))
}

/// Changes one's password. All other sessions end.
#[utoipa::path(post, path = "/v1/me/password", tag = "accounts", request_body = ChangePasswordRequest,
    responses((status = 204), (status = 409), (status = 429)), security(("bearer" = [])))]
pub async fn change_password(
    State(app): State<App>,
    user: User,
    Json(request): Json<ChangePasswordRequest>,
) -> ApiResult<StatusCode> {
    let (current, new) = (request.current_password.map(Into::into), request.new_password.into());
    app.accounts.change_password(&user.id, &user.session, current, new, &user.origin).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists one's sessions that are still good, newest first.
#[utoipa::path(get, path = "/v1/sessions", tag = "accounts", params(PageQuery),
    responses((status = 200, body = Page<Session>)), security(("bearer" = [])))]
pub async fn sessions(
    State(app): State<App>,
    user: User,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<Session>>> {
    let limit = query.limit()?;
    let after = query.cursor()?.unwrap_or(Cursor { at: Millis(i64::MAX), id: String::new() });
    let rows = app.accounts.sessions(&user.id, (after.at, &after.id), limit as i64 + 1).await?;
    let cursor = |row: &SessionRow| Cursor { at: row.created_at, id: row.id.to_string() };
    let convert = |row: SessionRow| Session {
        current: row.id.0 == user.session,
        id: row.id.0,
        kind: row.kind.0,
        team_id: row.team_id.0,
        address: row.address,
        user_agent: row.user_agent,
        created_at: row.created_at.to_utc(),
        last_seen_at: row.last_seen_at.map(Millis::to_utc),
        expires_at: row.expires_at.to_utc(),
    };
    Ok(axum::Json(page(rows, limit, cursor, convert)))
}

/// Ends all of one's sessions but the one that asks, with programs that were let in and have not come for theirs yet and
/// links that set a password. API keys stay.
#[utoipa::path(delete, path = "/v1/sessions", tag = "accounts", responses((status = 200, body = EndedSessions)),
    security(("bearer" = [])))]
pub async fn end_other_sessions(State(app): State<App>, user: User) -> ApiResult<axum::Json<EndedSessions>> {
    let ended = app.accounts.end_other_sessions(&user.id, &user.session, &user.origin).await?;
    Ok(axum::Json(EndedSessions { ended }))
}

/// Ends one of one's sessions: its token or cookie is refused from the next request on.
#[utoipa::path(delete, path = "/v1/sessions/{id}", tag = "accounts", params(("id" = SessionId, Path)),
    responses((status = 204)), security(("bearer" = [])))]
pub async fn end_session(State(app): State<App>, user: User, Id(id): Id<SessionId>) -> ApiResult<StatusCode> {
    if app.accounts.end_session(&user.id, &id, &user.origin, "session.revoke").await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(ApiError::not_found("session"))
}
