//! The outer edge: what every request passes on its way in, and every answer on its way out.
//!
//! Gives the request its id, bounds how many are under way, catches panics, writes the body of every error in the one
//! shape (also of those that the framework made: unknown routes, wrong methods, bodies too large), logs internal
//! causes, counts, and sets the security headers.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use atoll_model::ErrorCode;
use atoll_model::api::{ErrorBody, ErrorDetail};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;

use super::caller::{Peer, RequestId};
use super::e2b;
use super::error::{ApiError, Unwritten};
use super::patience::patient;
use super::places::{Kept, Place};
use super::registry;
use super::site::{ClientAddress, client_address};
use crate::app::App;

/// The shape of error bodies, where it is not the one of `/v1`: whoever serves another API puts it into the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `{"code": 404, "message": "...", "error_code": "..."}`, as E2B's SDKs read it; the last one where they have a word.
    E2b,
    /// `{"code": "not_found", "message": "..."}`, as they read it of what is in volumes.
    E2bVolume,
    /// `{"errors": [{"code": "BLOB_UNKNOWN", "message": "..."}]}`, as clients of container registries read it.
    Registry,
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

fn new_request_id() -> RequestId {
    RequestId(format!("req-{}", hex::encode(rand::random::<[u8; 10]>())))
}

/// The outermost middleware.
pub async fn edge(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let id = new_request_id();
    request.extensions_mut().insert(id.clone());
    let place = Place::default();
    request.extensions_mut().insert(place.clone());
    if let Some(Peer(peer)) = request.extensions().get::<Peer>().copied() {
        let client = client_address(peer.ip(), request.headers(), &app.config.trusted_proxies);
        request.extensions_mut().insert(ClientAddress(client));
    }
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let started = Instant::now();
    let requests = if is_of_a_host(&path) { &app.host_requests } else { &app.requests };
    let response = match requests.try_acquire() {
        Ok(_permit) => AssertUnwindSafe(next.run(patient(request, app.config.http.body_timeout)))
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| {
                ApiError::internal(format!("a handler panicked: {}", panic_text(&*panic))).into_response()
            }),
        Err(_) => ApiError::overloaded("too many requests are under way; try again in a moment").into_response(),
    };
    drop(place);
    let response = finish(response, &id);
    let status = response.status();
    app.metrics.request(&method, status, started.elapsed());
    tracing::debug!(request_id = %id.0, %method, path, status = status.as_u16(), elapsed = ?started.elapsed());
    response
}

/// What agents ask for has places of its own: a crowd of clients must not make hosts seem dead.
fn is_of_a_host(path: &str) -> bool {
    let Some(rest) = path.strip_prefix("/v1/hosts/") else { return false };
    let mut pieces = rest.splitn(3, '/');
    match (pieces.next(), pieces.next()) {
        (Some("register"), None) | (Some("auth"), Some("refresh")) => true,
        (Some(_), Some(of_host)) => matches!(of_host, "heartbeat" | "images" | "sandboxes" | "tunnel"),
        _ => false,
    }
}

/// Bounds the time to the answer's head, on routes that have nothing to wait for.
pub async fn deadline(State(app): State<App>, request: Request, next: Next) -> Response {
    let limit = app.config.http.request_timeout;
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(|_| {
        ApiError::new(ErrorCode::Timeout, format!("no answer within {} s", limit.as_secs())).into_response()
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

fn finish(mut response: Response, id: &RequestId) -> Response {
    let unwritten = response.extensions_mut().remove::<Unwritten>();
    let error = unwritten.and_then(|cell| cell.0.lock().ok().and_then(|mut error| error.take()));
    let error = error.or_else(|| unshaped(&response));
    let kept = response.extensions_mut().remove::<Kept>();
    let mut response = match error {
        Some(error) => write(error, response, id),
        None => response,
    };
    if let Some(kept) = kept {
        response = kept.until_read(response);
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("x-frame-options", HeaderValue::from_static("DENY"));
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// An error answer that the framework made: plain text or nothing, in no shape of ours.
fn unshaped(response: &Response) -> Option<ApiError> {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return None;
    }
    if response.headers().get(CONTENT_TYPE).is_some_and(|kind| !kind.as_bytes().starts_with(b"text/plain")) {
        return None;
    }
    Some(match status {
        StatusCode::NOT_FOUND => ApiError::not_found("route"),
        StatusCode::METHOD_NOT_ALLOWED => {
            ApiError::new(ErrorCode::MethodNotAllowed, "this route does not take this method")
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::new(ErrorCode::TooLarge, "the request's body is larger than this route takes")
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            ApiError::new(ErrorCode::UnsupportedMediaType, "this route does not take this content type")
        }
        StatusCode::UPGRADE_REQUIRED => {
            ApiError::invalid("upgrade", "this route is a WebSocket: send an Upgrade request")
        }
        status if status.is_client_error() => ApiError::new(ErrorCode::InvalidRequest, "the request is not valid"),
        status => ApiError::internal(format!("the framework answered {status}")),
    })
}

/// Writes down what is behind an answer, where that is not the client's doing.
pub fn log(error: &ApiError, request_id: &str) {
    if !error.status().is_server_error() {
        return;
    }
    let cause = error.source.as_deref().map(|cause| chain(cause)).unwrap_or_default();
    let (code, message) = (error.code, &error.message);
    match code {
        ErrorCode::Internal => tracing::error!(request_id, %code, cause, "a request failed"),
        ErrorCode::AgentError | ErrorCode::HostUnavailable => {
            tracing::warn!(request_id, %code, %message, cause, "a request failed");
        }
        // Answers to what clients ask for (a program's timeout, a full disk, a full house): not ours to mend, and
        // as many as clients like.
        _ => tracing::debug!(request_id, %code, %message, cause, "a request failed"),
    }
}

fn write(error: ApiError, mut old: Response, id: &RequestId) -> Response {
    let status = error.status();
    log(&error, &id.0);
    let mut details = error.details;
    let registry_code = details.remove(registry::CODE);
    for fixed in ["code", "message", "request_id", "field"] {
        details.remove(fixed);
    }
    let body = ErrorBody {
        error: ErrorDetail {
            code: error.code,
            message: error.message.into_owned(),
            request_id: id.0.clone(),
            field: error.field.map(std::borrow::Cow::into_owned),
            details,
        },
    };
    let text = match old.extensions().get() {
        Some(Dialect::E2b) => {
            let mut shape = serde_json::json!({ "code": status.as_u16(), "message": body.error.message });
            if let Some(code) = e2b::errors::code_of(&body.error) {
                shape["error_code"] = code.into();
            }
            serde_json::to_vec(&shape)
        }
        Some(Dialect::E2bVolume) => {
            serde_json::to_vec(&serde_json::json!({ "code": body.error.code, "message": body.error.message }))
        }
        Some(Dialect::Registry) => {
            let code = registry_code.unwrap_or_else(|| registry_code_of(status).into());
            serde_json::to_vec(&serde_json::json!({ "errors": [{ "code": code, "message": body.error.message }] }))
        }
        None => serde_json::to_vec(&body),
    };
    let challenge = match old.extensions().get() {
        Some(Dialect::Registry) => HeaderValue::from_static("Basic realm=\"Atoll: an API key is the password\""),
        _ => HeaderValue::from_static("Bearer"),
    };
    let text = text.unwrap_or_default();
    *old.status_mut() = status;
    let headers = old.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(after) = error.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    if status != StatusCode::METHOD_NOT_ALLOWED {
        headers.remove(ALLOW);
    }
    *old.body_mut() = Body::from(text);
    old
}

/// What has no word of its own in the protocol of registries.
fn registry_code_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
        StatusCode::FORBIDDEN => "DENIED",
        StatusCode::NOT_FOUND => "NAME_UNKNOWN",
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "TOOMANYREQUESTS",
        StatusCode::METHOD_NOT_ALLOWED => "UNSUPPORTED",
        _ => "UNKNOWN",
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
