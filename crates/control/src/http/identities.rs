//! Identities of sandboxes: what services elsewhere check tokens by, and how hosts get them.

use atoll_model::api::ErrorBody;
use atoll_model::api::hosts::{HOST_TOKEN_HEADER, IdentityToken, IdentityTokenRequest};
use atoll_model::{HostId, SandboxId};
use axum::extract::{Path, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult};
use super::extract::Json;
use crate::app::App;
use crate::identities::{IdentityError, LIFETIME};

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(discovery)).routes(routes!(keys)).routes(routes!(token))
}

impl From<IdentityError> for ApiError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::NoSandbox => Self::not_found("sandbox"),
            IdentityError::NoIdentity => Self::not_found("identity").with_field("name"),
            IdentityError::Db(error) => error.into(),
            error @ IdentityError::Token(_) => Self::internal(error),
        }
    }
}

/// Kept for a while by whoever checks tokens.
fn public(value: Value) -> Response {
    let mut response = axum::Json(value).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=60"));
    response
}

/// Who signs the tokens of sandboxes' identities, and where the keys are (OpenID Connect Discovery 1.0).
#[utoipa::path(get, path = "/.well-known/openid-configuration", tag = "identities",
    responses((status = 200, body = Value)))]
pub async fn discovery(State(app): State<App>) -> Response {
    public(app.identities.discovery())
}

/// The public keys of these tokens (RFC 7517).
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "identities", responses((status = 200, body = Value)))]
pub async fn keys(State(app): State<App>) -> ApiResult<Response> {
    Ok(public(app.identities.keys().await.map_err(ApiError::internal)?))
}

/// A token of an identity of a sandbox that lives on the host, which adds it to the sandbox's requests.
#[utoipa::path(post, path = "/v1/hosts/{id}/sandboxes/{sandbox_id}/identity-token", tag = "hosts",
    params(("id" = HostId, Path), ("sandbox_id" = SandboxId, Path), ("X-Host-Token" = String, Header)),
    request_body = IdentityTokenRequest,
    responses((status = 200, body = IdentityToken), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 410, body = ErrorBody)))]
pub async fn token(
    State(app): State<App>,
    Path((id, sandbox)): Path<(String, String)>,
    headers: HeaderMap,
    request: ApiResult<Json<IdentityTokenRequest>>,
) -> ApiResult<Response> {
    let id: HostId = id.parse()?;
    let token = headers.get(HOST_TOKEN_HEADER).and_then(|value| value.to_str().ok());
    let host = app.hosts.authenticate(&id, token).await?;
    let Json(request) = request?;
    let sandbox: SandboxId = sandbox.parse()?;
    let token = app.identities.token(&host.id.0, &sandbox, &request.name).await?;
    let answer =
        IdentityToken { token: secrecy::ExposeSecret::expose_secret(&token).to_owned(), ttl_sec: LIFETIME.as_secs() };
    let mut response = axum::Json(answer).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
