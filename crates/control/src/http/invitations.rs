//! Invitations into a team: made, listed and taken back by its admins, accepted by whoever holds the link.

use std::sync::Arc;

use atoll_model::api::Page;
use atoll_model::api::auth::{AuthResponse, Role};
use atoll_model::api::sign_in::{
    AcceptInvitationRequest, Invitation, InvitationAccepted, InvitationDetail, InviteRequest,
};
use atoll_model::{InvitationId, TeamId};
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, COOKIE};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Arrival;
use super::caller::{self, User};
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Json, Query, path_parameter};
use super::page::{Cursor, PageQuery, page};
use super::site::Site;
use super::teams::visible;
use super::{idempotent, validate};
use crate::accounts::{InvitationRow, LoginError, link, rate};
use crate::app::App;
use crate::db::Millis;
use crate::teams::TeamRow;

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(delete))
        .routes(routes!(get))
        .routes(routes!(accept))
}

fn answer(row: InvitationRow) -> Invitation {
    Invitation {
        id: row.id.0,
        email: row.email,
        role: row.role.0.0,
        invited_by: row.invited_by.map(|id| id.0),
        created_at: row.created_at.to_utc(),
        expires_at: row.expires_at.to_utc(),
        mailed: None,
        url: None,
    }
}

/// Lists a team's open invitations, oldest first. Takes the role admin.
#[utoipa::path(get, path = "/v1/teams/{id}/invitations", tag = "teams", params(("id" = TeamId, Path), PageQuery),
    responses((status = 200, body = Page<Invitation>)), security(("bearer" = [])))]
pub async fn list(
    State(app): State<App>,
    user: User,
    Id(id): Id<TeamId>,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<Invitation>>> {
    let limit = query.limit()?;
    let after = query.cursor()?.unwrap_or(Cursor { at: Millis(i64::MIN), id: String::new() });
    let rows = app.accounts.invitations(&user.asker(), &id, (after.at, &after.id), limit as i64 + 1).await?;
    let cursor = |row: &InvitationRow| Cursor { at: row.created_at, id: row.id.to_string() };
    Ok(axum::Json(page(rows, limit, cursor, answer)))
}

/// Invites somebody, in place of an earlier invitation of theirs. It goes out by mail; where there is none, `url` is to
/// be handed on. It is good for 7 days. Takes the role admin, and owner to invite an owner.
#[utoipa::path(post, path = "/v1/teams/{id}/invitations", tag = "teams",
    params(("id" = TeamId, Path), ("Idempotency-Key" = Option<String>, Header)), request_body = InviteRequest,
    responses((status = 201, body = Invitation), (status = 409), (status = 429)), security(("bearer" = [])))]
pub async fn create(
    State(app): State<App>,
    parts: Parts,
    user: User,
    Id(id): Id<TeamId>,
    Json(request): Json<InviteRequest>,
) -> ApiResult<Response> {
    validate::email("email", &request.email)?;
    let team = visible(&app, &user, &id).await?;
    let route = format!("teams/{id}/invitations");
    let key = idempotent::key(&parts.headers, &user.keys_owner(), &route, &request)?;
    let base = Site::of(&parts, &app.config).base_url(&app.config);
    let worker = app.clone();
    let work = async move { invite(&worker, &user, &team, &request, &base).await };
    // The link is shown once.
    let remembered = |made: &Invitation| Invitation { url: None, ..made.clone() };
    idempotent::once(&app, key, StatusCode::CREATED, work, remembered).await
}

async fn invite(app: &App, user: &User, team: &TeamRow, request: &InviteRequest, base: &str) -> ApiResult<Invitation> {
    let role = request.role.unwrap_or(Role::Member);
    let (row, token) = app.accounts.invite(&user.asker(), &team.id.0, &request.email, role).await?;
    let url = format!("{base}/invite#{}", token.expose_secret());
    let body = format!(
        "{} invites you into the team {} on Atoll.\n\nJoin within a week here:\n\n    {url}\n\n\
         If you don't know them, there is nothing to do.\n",
        user.name, team.name,
    );
    let mailed = app.accounts.mailer().send(&row.email, &format!("Join {} on Atoll", team.name), body).await;
    let mailed = mailed.unwrap_or_else(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, invitation = %row.id.0, "could not mail an invitation");
        false
    });
    Ok(Invitation { mailed: Some(mailed), url: (!mailed).then_some(url), ..answer(row) })
}

/// Takes an invitation back: its link is worth nothing from then on. Takes the role admin.
#[utoipa::path(delete, path = "/v1/teams/{id}/invitations/{invitation}", tag = "teams",
    params(("id" = TeamId, Path), ("invitation" = InvitationId, Path)),
    responses((status = 204)), security(("bearer" = [])))]
pub async fn delete(
    State(app): State<App>,
    user: User,
    Id(id): Id<TeamId>,
    Segment(invitation): Segment,
) -> ApiResult<StatusCode> {
    app.accounts.uninvite(&user.asker(), &id, &invitation.parse()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `{invitation}` in the path.
pub struct Segment(String);

impl FromRequestParts<App> for Segment {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> ApiResult<Self> {
        path_parameter(parts, app, "invitation").await.map(Self)
    }
}

/// `{token}` in the path.
pub struct Token(String);

impl FromRequestParts<App> for Token {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> ApiResult<Self> {
        path_parameter(parts, app, "token").await.map(Self)
    }
}

/// The invitation that this is the token of; wrong ones are counted.
pub(super) async fn look(app: &App, parts: &Parts, token: &str) -> ApiResult<(InvitationRow, bool)> {
    let bound = caller::origin(parts).address.map(|address| rate::LINK_ADDRESS.of_address(&address));
    if let Some(wait) = bound.as_ref().and_then(|bound| app.accounts.rates().blocked(bound, app.clock.now())) {
        return Err(LoginError::TooMany(wait).into());
    }
    let found = app.accounts.invitation(token).await;
    if found.is_err()
        && let Some(bound) = &bound
        && let Some(wait) = app.accounts.rates().take(bound, app.clock.now()).await?
    {
        return Err(LoginError::TooMany(wait).into());
    }
    Ok(found?)
}

/// What the holder of an invitation may know of it.
#[utoipa::path(get, path = "/v1/invitations/{token}", tag = "accounts", params(("token" = String, Path)),
    responses((status = 200, body = InvitationDetail), (status = 429)))]
pub async fn get(State(app): State<App>, parts: Parts, Token(token): Token) -> ApiResult<axum::Json<InvitationDetail>> {
    let (row, has_account) = look(&app, &parts, &token).await?;
    let team = crate::teams::store::get(&app.db, &row.team_id, None).await?;
    let team = team.ok_or_else(|| ApiError::not_found("team"))?;
    Ok(axum::Json(InvitationDetail {
        team_id: row.team_id.0,
        team_name: team.name,
        email: row.email,
        role: row.role.0.0,
        expires_at: row.expires_at.to_utc(),
        has_account,
    }))
}

/// Joins the team: somebody who is signed in with the account that they have, a new person with `name` and `password`,
/// who gets an account with the invited address and is signed in (201).
#[utoipa::path(post, path = "/v1/invitations/{token}/accept", tag = "accounts", params(("token" = String, Path),
    ("X-Session" = Option<String>, Header, description = "`cookie` or `token` (the default), for a new person"),
    ("Idempotency-Key" = Option<String>, Header, description = "Sent again, it signs a new person in")),
    request_body = AcceptInvitationRequest,
    responses((status = 200, body = InvitationAccepted), (status = 201, body = AuthResponse), (status = 401),
        (status = 403), (status = 409), (status = 429)))]
pub async fn accept(
    State(app): State<App>,
    mut parts: Parts,
    Token(token): Token,
    Json(request): Json<AcceptInvitationRequest>,
) -> ApiResult<Response> {
    let new = request.name.is_some() || request.password.is_some();
    if !new && (parts.headers.contains_key(AUTHORIZATION) || parts.headers.contains_key(COOKIE)) {
        let user = match User::from_request_parts(&mut parts, &app).await {
            Ok(user) => user,
            // A link that is worth nothing is said to be so first.
            Err(error) => return Err(look(&app, &parts, &token).await.err().unwrap_or(error)),
        };
        let owner = format!("accept {} {}", user.id, link::hash(&token));
        let key = idempotent::key(&parts.headers, &owner, "accept", &json!({}))?;
        let worker = app.clone();
        let make = async move {
            look(&worker, &parts, &token).await?;
            let row = worker.accounts.accept_as(&token, &user.id, &user.origin).await?;
            Ok(InvitationAccepted { team_id: row.team_id.0, role: row.role.0.0 })
        };
        let kept = |made: &InvitationAccepted| serde_json::to_string(made).unwrap_or_default();
        let again = async |kept: String| serde_json::from_str(&kept).map_err(ApiError::internal);
        let accepted = idempotent::by_nature(&app, key, make, kept, again).await?;
        return Ok(axum::Json(accepted).into_response());
    }
    let owner = format!("accept {}", link::hash(&token));
    let key = idempotent::key(&parts.headers, &owner, "accept", &json!({ "name": request.name }))?;
    // A link that is worth nothing is said to be so before anything else is judged.
    if key.is_none() || request.name.is_none() || request.password.is_none() {
        look(&app, &parts, &token).await?;
    }
    let name =
        request.name.ok_or_else(|| ApiError::invalid("name", "a new person says their name; or sign in first"))?;
    validate::line("name", &name, 100)?;
    let password = request.password.ok_or_else(|| ApiError::invalid("password", "a new person needs a password"))?;
    let (arrival, password) = (Arc::new(Arrival::of(&parts, &app)?), SecretString::from(password));
    let (worker, visitor, secret) = (app.clone(), Arc::clone(&arrival), password.clone());
    let make = async move {
        look(&worker, &parts, &token).await?;
        Ok(worker.accounts.accept_anew(&token, &name, secret, visitor.visit()).await?)
    };
    let again = async |email: String| Ok(app.accounts.login(&email, password, arrival.visit()).await?);
    let signed_in = idempotent::by_nature(&app, key, make, |made| made.email.clone(), again).await?;
    arrival.answer(StatusCode::CREATED, signed_in)
}
