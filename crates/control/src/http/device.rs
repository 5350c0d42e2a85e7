//! Logins of programs (RFC 8628): `atoll login` begins one, shows a code, and asks until a person has decided.

use atoll_model::api::auth::AuthResponse;
use atoll_model::api::sign_in::{
    DeviceDecisionRequest, DeviceLogin, DeviceLoginDetail, DeviceRequest, DeviceTokenRequest,
};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use secrecy::ExposeSecret;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Arrival;
use super::caller::User;
use super::error::ApiResult;
use super::extract::{Json, Query};
use super::validate;
use crate::accounts::Visit;
use crate::app::App;

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(begin, waiting)).routes(routes!(token)).routes(routes!(decide))
}

/// Begins the login of a program. The person goes to `verification_uri`, where the dashboard asks for the code.
#[utoipa::path(post, path = "/v1/auth/device", tag = "accounts", request_body = DeviceRequest,
    responses((status = 200, body = DeviceLogin), (status = 429)))]
pub async fn begin(
    State(app): State<App>,
    parts: Parts,
    Json(request): Json<DeviceRequest>,
) -> ApiResult<axum::Json<DeviceLogin>> {
    let name = request.client_name.unwrap_or_else(|| "a program".to_owned());
    validate::line("client_name", &name, 100)?;
    let arrival = Arrival::of_program(&parts, &app);
    let begun = app.accounts.begin_device(&name, &arrival.origin).await?;
    let base = arrival.site.base_url(&app.config);
    Ok(axum::Json(DeviceLogin {
        device_code: begun.device_code.expose_secret().to_owned(),
        verification_uri: format!("{base}/device"),
        verification_uri_complete: format!("{base}/device?code={}", begun.user_code),
        user_code: begun.user_code,
        expires_in: begun.expires_in.as_secs(),
        interval: begun.interval.as_secs(),
    }))
}

/// What the program asks every `interval` seconds. Until there is a session for it, 400 with `authorization_pending`,
/// `slow_down`, `access_denied` or `expired_token`. The session lasts 30 days.
#[utoipa::path(post, path = "/v1/auth/device/token", tag = "accounts", request_body = DeviceTokenRequest,
    responses((status = 200, body = AuthResponse), (status = 429)))]
pub async fn token(
    State(app): State<App>,
    parts: Parts,
    Json(request): Json<DeviceTokenRequest>,
) -> ApiResult<Response> {
    let arrival = Arrival::of_program(&parts, &app);
    let visit = Visit { long: true, ..arrival.visit() };
    let signed_in = app.accounts.device_token(&request.device_code, visit).await?;
    arrival.answer(StatusCode::OK, signed_in)
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CodeQuery {
    /// As the program shows it.
    code: String,
}

/// The program that waits with this code, for the person who is to decide.
#[utoipa::path(get, path = "/v1/auth/device", tag = "accounts", params(CodeQuery),
    responses((status = 200, body = DeviceLoginDetail), (status = 404), (status = 429)), security(("bearer" = [])))]
pub async fn waiting(
    State(app): State<App>,
    user: User,
    Query(query): Query<CodeQuery>,
) -> ApiResult<axum::Json<DeviceLoginDetail>> {
    let row = app.accounts.waiting_device(&user.id, &query.code).await?;
    Ok(axum::Json(DeviceLoginDetail {
        user_code: row.user_code,
        client_name: row.client_name,
        address: row.address,
        created_at: row.created_at.to_utc(),
        expires_at: row.expires_at.to_utc(),
    }))
}

/// Lets the program in, to act in one's name in one's current team, or sends it away.
#[utoipa::path(post, path = "/v1/auth/device/decision", tag = "accounts", request_body = DeviceDecisionRequest,
    responses((status = 204), (status = 404), (status = 429)), security(("bearer" = [])))]
pub async fn decide(
    State(app): State<App>,
    user: User,
    Json(request): Json<DeviceDecisionRequest>,
) -> ApiResult<StatusCode> {
    app.accounts.decide_device(&user.id, &user.team, &request.user_code, request.approve, &user.origin).await?;
    Ok(StatusCode::NO_CONTENT)
}
