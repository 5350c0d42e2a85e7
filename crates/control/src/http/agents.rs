//! What host agents ask of control: to register, to refresh their credentials, to be heard.
//!
//! Credentials are judged before anything else of a request: without good ones every answer is 401, whatever the rest
//! looks like. A deleted host gets its signed tombstone (410) instead.

use atoll_model::api::ErrorBody;
use atoll_model::api::hosts::{
    HOST_SIGNATURE_HEADER, HOST_TOKEN_HEADER, HeartbeatRequest, HostCredentials, RefreshHostRequest,
    RegisterHostRequest,
};
use atoll_model::{ErrorCode, HostId};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::origin;
use super::error::{ApiError, ApiResult};
use super::extract::Id;
use super::strict;
use crate::accounts::{LoginError, rate};
use crate::app::App;
use crate::audit;
use crate::hosts::HostError;

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(register)).routes(routes!(refresh)).routes(routes!(heartbeat))
}

impl From<HostError> for ApiError {
    fn from(error: HostError) -> Self {
        match error {
            HostError::Unauthorized => Self::unauthorized(),
            HostError::Forbidden => Self::forbidden("a host may act for itself alone"),
            HostError::NotFound => Self::not_found("host"),
            HostError::Deleted(tombstone) => match serde_json::to_value(&tombstone) {
                Ok(tombstone) => {
                    Self::new(ErrorCode::HostDeleted, "this host was deleted").with_detail("tombstone", tombstone)
                }
                Err(error) => Self::internal(error),
            },
            HostError::Invalid { field, message } => Self::invalid(field, message),
            HostError::InvalidState(what) => Self::new(ErrorCode::InvalidState, what),
            HostError::HasSandboxes(has) => {
                let message = format!(
                    "{} would be lost with this host; delete them first, or force the deletion",
                    has.in_words()
                );
                let sandboxes: Vec<String> = has.sandboxes.iter().map(ToString::to_string).collect();
                let volumes: Vec<String> = has.volumes.iter().map(ToString::to_string).collect();
                Self::new(ErrorCode::HostHasSandboxes, message)
                    .with_detail("sandbox_ids", sandboxes)
                    .with_detail("volume_ids", volumes)
                    .with_detail("image_ids", has.images)
            }
            HostError::Overloaded => Self::overloaded("too many heartbeats at once; try again in a moment"),
            HostError::Db(error) => error.into(),
            HostError::Pki(error) => Self::internal(error),
            HostError::Token(error) => error.into(),
        }
    }
}

/// Where the request came from, for the audit trail.
pub struct Source(pub audit::Origin);

impl<S: Send + Sync> FromRequestParts<S> for Source {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(origin(parts)))
    }
}

/// Counts wrong tokens, by the address that they came from, and answers 429 for more when there were too many. Good ones
/// are never held up: hosts behind one address share it with whoever guesses there.
async fn counted<T>(app: &App, origin: &audit::Origin, result: Result<T, HostError>) -> ApiResult<T> {
    if matches!(result, Err(HostError::Unauthorized))
        && let Some(address) = &origin.address
        && let Some(wait) = app.accounts.rates().take(&rate::HOST_ADDRESS.of_address(address), app.clock.now()).await?
    {
        return Err(LoginError::TooMany(wait).into());
    }
    Ok(result?)
}

/// Counts the uses of one token, wherever they come from.
async fn not_too_often(app: &App, token: &str) -> ApiResult<()> {
    match app.accounts.rates().take(&rate::HOST_TOKEN.of(token), app.clock.now()).await? {
        Some(wait) => Err(LoginError::TooMany(wait).into()),
        None => Ok(()),
    }
}

type Body = Result<Bytes, BytesRejection>;

fn whole(body: Body) -> ApiResult<Bytes> {
    body.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            ApiError::new(ErrorCode::TooLarge, "the request's body is larger than this route takes")
        } else {
            ApiError::invalid("body", "the request's body could not be read to its end").with_source(rejection)
        }
    })
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> ApiResult<T> {
    strict::from_slice(body).map_err(|error| {
        let field = error.path().to_string();
        let field = if field == "." { "body".to_owned() } else { field };
        ApiError::invalid(field, format!("the body is not valid: {}", error.inner()))
    })
}

/// Enrols a host with its one-time registration token.
#[utoipa::path(post, path = "/v1/hosts/register", tag = "hosts", request_body = RegisterHostRequest,
    responses((status = 200, body = HostCredentials), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 429, body = ErrorBody)))]
pub async fn register(
    State(app): State<App>,
    Source(origin): Source,
    body: Body,
) -> ApiResult<axum::Json<HostCredentials>> {
    #[derive(Deserialize)]
    struct TokenOnly {
        token: String,
    }
    let body = whole(body)?;
    let Ok(TokenOnly { token }) = strict::from_slice(&body) else { return Err(ApiError::unauthorized()) };
    not_too_often(&app, &token).await?;
    counted(&app, &origin, app.hosts.check_registration_token(&token).await).await?;
    let request: RegisterHostRequest = parse(&body)?;
    let registered = app.hosts.register(&request, &origin).await;
    Ok(axum::Json(counted(&app, &origin, registered).await?))
}

/// Exchanges a refresh token for new credentials. `X-Host-Signature` is the base64 of an ECDSA P-256 signature over the
/// exact body, made with the key that the host registered.
#[utoipa::path(post, path = "/v1/hosts/auth/refresh", tag = "hosts", request_body = RefreshHostRequest,
    params(("X-Host-Signature" = String, Header)),
    responses((status = 200, body = HostCredentials), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 410, body = ErrorBody), (status = 429, body = ErrorBody)))]
pub async fn refresh(
    State(app): State<App>,
    Source(origin): Source,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<axum::Json<HostCredentials>> {
    let body = whole(body)?;
    // Whatever is not a request has no credentials: 401, never 400.
    let Ok(request) = strict::from_slice::<RefreshHostRequest>(&body) else {
        return Err(ApiError::unauthorized());
    };
    not_too_often(&app, &request.refresh_token).await?;
    let signature = header(&headers, HOST_SIGNATURE_HEADER);
    let refreshed = app.hosts.refresh(&request, &body, signature, &origin).await;
    Ok(axum::Json(counted(&app, &origin, refreshed).await?))
}

/// A host says that it is there, and how it is.
#[utoipa::path(post, path = "/v1/hosts/{id}/heartbeat", tag = "hosts", request_body = HeartbeatRequest,
    params(("id" = HostId, Path), ("X-Host-Token" = String, Header)),
    responses((status = 204), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 410, body = ErrorBody)))]
pub async fn heartbeat(
    State(app): State<App>,
    Id(id): Id<HostId>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<StatusCode> {
    let token = header(&headers, HOST_TOKEN_HEADER);
    let heartbeat = whole(body).and_then(|body| parse::<HeartbeatRequest>(&body));
    let heartbeat = match heartbeat {
        Ok(heartbeat) => heartbeat,
        Err(error) => {
            app.hosts.authenticate(&id, token).await?;
            return Err(error);
        }
    };
    app.hosts.heartbeat(&id, token, heartbeat).await?;
    Ok(StatusCode::NO_CONTENT)
}
