//! Lost passwords, and accounts that an admin makes: both end with a link that sets a password.

use atoll_model::UserId;
use atoll_model::api::sign_in::{CreateUserRequest, ResetConfirmRequest, ResetLink, ResetRequest};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use secrecy::ExposeSecret;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::{Admin, origin};
use super::error::ApiResult;
use super::extract::{Id, Json};
use super::site::Site;
use super::{idempotent, validate};
use crate::accounts::Handed;
use crate::app::App;

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(request))
        .routes(routes!(confirm))
        .routes(routes!(link))
        .routes(routes!(create_user))
}

/// Asks for a link that sets a new password. It goes out by mail, if there is such an account, which the answer doesn't
/// tell. Where the server sends no mail, an admin makes the link.
#[utoipa::path(post, path = "/v1/auth/password/reset", tag = "accounts", request_body = ResetRequest,
    responses((status = 202), (status = 429)))]
pub async fn request(State(app): State<App>, parts: Parts, Json(request): Json<ResetRequest>) -> ApiResult<StatusCode> {
    validate::email("email", &request.email)?;
    let origin = origin(&parts);
    app.accounts.ask_for_reset(&request.email, &origin).await?;
    // Behind the answer, so that its time tells nothing either.
    let worker = app.clone();
    app.tasks.spawn(async move {
        let base = worker.config.public_url.as_deref().unwrap_or_default().trim_end_matches('/');
        if let Err(error) = worker.accounts.mail_reset(&request.email, &origin, base).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not mail a link for a new password");
        }
    });
    Ok(StatusCode::ACCEPTED)
}

/// Sets a new password by the token of a link. All sessions of its owner end.
#[utoipa::path(post, path = "/v1/auth/password/reset/confirm", tag = "accounts", request_body = ResetConfirmRequest,
    responses((status = 204), (status = 404), (status = 429)))]
pub async fn confirm(
    State(app): State<App>,
    parts: Parts,
    Json(request): Json<ResetConfirmRequest>,
) -> ApiResult<StatusCode> {
    app.accounts.reset_password(&request.token, request.password.into(), &origin(&parts)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn answer(app: &App, parts: &Parts, handed: Handed) -> ResetLink {
    let base = Site::of(parts, &app.config).base_url(&app.config);
    ResetLink {
        user_id: handed.user,
        email: handed.email,
        url: Some(format!("{base}/reset#{}", handed.secret.expose_secret())),
        expires_at: handed.expires_at.to_utc(),
    }
}

/// Makes a link with which that person sets a new password, to be handed to them. It is good for 3 days, and once.
#[utoipa::path(post, path = "/v1/admin/users/{id}/password-reset", tag = "admin",
    params(("id" = UserId, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = ResetLink), (status = 409)), security(("bearer" = [])))]
pub async fn link(State(app): State<App>, parts: Parts, Admin(user): Admin, Id(id): Id<UserId>) -> ApiResult<Response> {
    let route = format!("users/{id}/password-reset");
    let key = idempotent::key(&parts.headers, &user.keys_owner(), &route, &())?;
    let worker = app.clone();
    let work = async move {
        let handed = worker.accounts.reset_link(&user.id, &id, &user.origin).await?;
        Ok(answer(&worker, &parts, handed))
    };
    idempotent::once(&app, key, StatusCode::CREATED, work, without_url).await
}

/// What a repeated request is told: the link is shown once.
fn without_url(link: &ResetLink) -> ResetLink {
    ResetLink { url: None, ..link.clone() }
}

/// Makes an account for somebody, with a team of its own. They set its password by the link in the answer.
#[utoipa::path(post, path = "/v1/admin/users", tag = "admin", request_body = CreateUserRequest,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = ResetLink), (status = 409)), security(("bearer" = [])))]
pub async fn create_user(
    State(app): State<App>,
    parts: Parts,
    Admin(user): Admin,
    Json(request): Json<CreateUserRequest>,
) -> ApiResult<Response> {
    validate::email("email", &request.email)?;
    validate::line("name", &request.name, 100)?;
    let key = idempotent::key(&parts.headers, &user.keys_owner(), "users", &request)?;
    let worker = app.clone();
    let work = async move {
        let handed = worker.accounts.create_user(&user.id, &request.email, &request.name, &user.origin).await?;
        Ok(answer(&worker, &parts, handed))
    };
    idempotent::once(&app, key, StatusCode::CREATED, work, without_url).await
}
