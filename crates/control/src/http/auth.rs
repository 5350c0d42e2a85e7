//! Signing in and out, and who one is.

use atoll_model::api::auth::{AuthResponse, LoginRequest, Me, SetupRequest};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::USER_AGENT;
use axum::http::request::Parts;
use secrecy::ExposeSecret;

use super::caller::{self, User};
use super::error::{ApiError, ApiResult};
use super::extract::Json;
use super::validate;
use crate::accounts::SignedIn;
use crate::app::App;

/// What is kept of a client's name in its session.
const MAX_USER_AGENT: usize = 200;

/// Signs in.
#[utoipa::path(post, path = "/v1/auth/login", tag = "accounts", request_body = LoginRequest,
    responses((status = 200, body = AuthResponse), (status = 401), (status = 429)))]
pub async fn login(
    State(app): State<App>,
    parts: Parts,
    Json(request): Json<LoginRequest>,
) -> ApiResult<axum::Json<AuthResponse>> {
    let agent = parts.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
    let agent = agent.map(|agent| &agent[..agent.len().min(MAX_USER_AGENT)]);
    let password = request.password.into();
    let signed_in = app.accounts.login(&request.email, password, &caller::origin(&parts), agent).await?;
    Ok(axum::Json(answer(signed_in)))
}

fn answer(signed_in: SignedIn) -> AuthResponse {
    AuthResponse {
        token: signed_in.token.expose_secret().to_owned(),
        user_id: signed_in.user_id,
        team_id: signed_in.team_id,
        email: signed_in.email,
        name: signed_in.name,
    }
}

/// Makes the first admin of a fresh installation, for whoever holds the setup token that the server printed.
#[utoipa::path(post, path = "/v1/auth/setup", tag = "accounts", request_body = SetupRequest,
    responses((status = 201, body = AuthResponse), (status = 401), (status = 429)))]
pub async fn setup(
    State(app): State<App>,
    parts: Parts,
    Json(request): Json<SetupRequest>,
) -> ApiResult<(StatusCode, axum::Json<AuthResponse>)> {
    validate::line("email", &request.email, 254)?;
    if !request.email.contains('@') {
        return Err(ApiError::invalid("email", "must be an address with an @"));
    }
    let (token, password) = (request.token.into(), request.password.into());
    let signed_in = app.accounts.setup(&token, &request.email, password, &caller::origin(&parts)).await?;
    Ok((StatusCode::CREATED, axum::Json(answer(signed_in))))
}

/// Ends the session that the token belongs to.
#[utoipa::path(post, path = "/v1/auth/logout", tag = "accounts", responses((status = 204)),
    security(("bearer" = [])))]
pub async fn logout(State(app): State<App>, user: User) -> ApiResult<StatusCode> {
    app.accounts.logout(&user.session).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Who one is.
#[utoipa::path(get, path = "/v1/me", tag = "accounts", responses((status = 200, body = Me)),
    security(("bearer" = [])))]
pub async fn me(user: User) -> axum::Json<Me> {
    axum::Json(Me {
        user_id: user.id,
        email: user.email,
        name: user.name,
        is_admin: user.is_admin,
        team_id: user.team,
        role: user.role,
    })
}
