//! What is in volumes, in E2B's words: the methods of its SDKs' `Volume`. Who asks is proven by the volume's token, and by
//! nothing else; the volume's host does the work, and bodies stream through to it and back.

use std::sync::atomic::Ordering;

use atoll_model::api::hosts::VOLUME_FILES_HEADER;
use atoll_model::{ErrorCode, HostId};
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::header::{AUTHORIZATION, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use form_urlencoded::Serializer;
use futures::StreamExt;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use serde::Deserialize;

use crate::app::App;
use crate::fleet::BoxError;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, Query, path_parameter};
use crate::http::transfer;
use crate::teams;
use crate::volumes::store::{self, VolumeRow};
use crate::volumes::token;

/// The text of a host's refusal.
const MAX_REFUSAL: usize = 64 << 10;
const MIB: i64 = 1 << 20;

/// A volume that its token was shown for, and where its files are.
pub struct Files {
    volume: VolumeRow,
    host: HostId,
}

impl FromRequestParts<App> for Files {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> ApiResult<Self> {
        let shown = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (scheme, shown) = shown.and_then(|value| value.split_once(' ')).ok_or_else(ApiError::unauthorized)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(ApiError::unauthorized());
        }
        let claims = token::verify(app.accounts.tokens().keys(), shown.trim(), app.clock.now()).await;
        let claims = claims.map_err(ApiError::internal)?.ok_or_else(ApiError::unauthorized)?;
        let asked_for = path_parameter(parts, app, "id").await?;
        let volume = store::find(&app.db, &claims.team, claims.sub.as_str()).await?;
        let own = |volume: &VolumeRow| asked_for == volume.id.as_str() || asked_for == volume.name;
        let volume = volume.filter(own).ok_or_else(|| ApiError::not_found("volume"))?;
        let missing = || ApiError::not_found("volume");
        let is_byoc = teams::store::is_byoc(&app.db, &claims.team).await?.ok_or_else(missing)?;
        let host = app.sandboxes.host_of_volume(&volume, is_byoc).await?;
        Ok(Self { volume, host })
    }
}

/// What requests say of a path.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    path: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
    force: Option<bool>,
    depth: Option<u32>,
}

/// What a change of owner and rights says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Metadata {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
}

/// What is there.
pub async fn stat(State(app): State<App>, files: Files, Query(asked): Query<Asked>) -> ApiResult<Response> {
    files.ask(&app, Method::GET, "path", &asked).await
}

/// Changes whose something is, and its rights.
pub async fn update(
    State(app): State<App>,
    files: Files,
    Query(asked): Query<Asked>,
    Json(Metadata { uid, gid, mode }): Json<Metadata>,
) -> ApiResult<Response> {
    files.ask(&app, Method::PATCH, "path", &Asked { uid, gid, mode, ..asked }).await
}

/// Takes a file away, or a directory with all that is in it.
pub async fn remove(State(app): State<App>, files: Files, Query(asked): Query<Asked>) -> ApiResult<Response> {
    files.ask(&app, Method::DELETE, "path", &asked).await
}

/// What a directory holds, one level of it or more.
pub async fn list(State(app): State<App>, files: Files, Query(asked): Query<Asked>) -> ApiResult<Response> {
    files.ask(&app, Method::GET, "dir", &asked).await
}

/// Makes a directory; with `force`, those on the way too.
pub async fn make_dir(State(app): State<App>, files: Files, Query(asked): Query<Asked>) -> ApiResult<Response> {
    files.ask(&app, Method::POST, "dir", &asked).await
}

/// A file's contents.
pub async fn read(State(app): State<App>, files: Files, Query(asked): Query<Asked>) -> ApiResult<Response> {
    let mut response = files.ask(&app, Method::GET, "file", &asked).await?;
    // What a tenant's file holds is never believed by a browser that shows our pages.
    let headers = response.headers_mut();
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    Ok(response)
}

/// Writes a file, in place of the one that is there unless `force` is said to be false. It is there when all of it has come;
/// with `force`, the directories on the way too.
pub async fn write(
    State(app): State<App>,
    files: Files,
    Query(asked): Query<Asked>,
    body: Body,
) -> ApiResult<Response> {
    let limit = app.config.http.max_upload_bytes;
    let body = body.into_data_stream().map(|chunk| chunk.map_err(|error| Box::new(error) as BoxError));
    let (body, passed) = transfer::counted(body, limit);
    let request = http::Request::builder().method(Method::PUT).uri(files.address("file", &asked)?);
    let request = request.body(body).map_err(ApiError::internal)?;
    let answer = app.sandboxes.fleet().host_http(&files.host, request).await;
    if passed.load(Ordering::Relaxed) > limit {
        return Err(transfer::too_large(limit));
    }
    told(answer?).await
}

impl Files {
    /// The host's own address of a path in the volume.
    fn address(&self, kind: &str, asked: &Asked) -> ApiResult<String> {
        let path = asked.path.as_deref().ok_or_else(|| ApiError::invalid("path", "say which path, as ?path="))?;
        let mut query = Serializer::new(String::new());
        query.append_pair("path", path);
        query.append_pair("size_bytes", &self.volume.size_mb.saturating_mul(MIB).to_string());
        let numbers = [("uid", asked.uid), ("gid", asked.gid), ("mode", asked.mode), ("depth", asked.depth)];
        for (name, number) in numbers {
            if let Some(number) = number {
                query.append_pair(name, &number.to_string());
            }
        }
        match asked.force {
            Some(true) => _ = query.append_pair("parents", "true"),
            Some(false) => _ = query.append_pair("fresh", "true"),
            None => {}
        }
        Ok(format!("/volumes/{}/{kind}?{}", self.volume.id.0, query.finish()))
    }

    async fn ask(&self, app: &App, method: Method, kind: &str, asked: &Asked) -> ApiResult<Response> {
        let request = http::Request::builder().method(method).uri(self.address(kind, asked)?);
        let request = request.body(Empty::<Bytes>::new()).map_err(ApiError::internal)?;
        let answer = app.sandboxes.fleet().host_http(&self.host, request);
        let answer = tokio::time::timeout(app.config.http.request_timeout, answer).await;
        let late = |_| ApiError::new(ErrorCode::Timeout, "the volume's host did not answer in time");
        told(answer.map_err(late)??).await
    }
}

/// The host's answer, with nothing of its own but what it is about.
async fn told(answer: http::Response<Incoming>) -> ApiResult<Response> {
    if !answer.headers().contains_key(VOLUME_FILES_HEADER) {
        let message = "the volume's host knows nothing of volumes' files: its agent is older than this server";
        return Err(ApiError::new(ErrorCode::AgentError, message));
    }
    if !answer.status().is_success() {
        return Err(refusal(answer).await);
    }
    let (parts, body) = answer.into_parts();
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = parts.status;
    for name in [CONTENT_LENGTH, CONTENT_TYPE] {
        if let Some(value) = parts.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    Ok(response)
}

async fn refusal(answer: http::Response<Incoming>) -> ApiError {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_REFUSAL).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let message = serde_json::from_slice::<Refusal>(&body).map(|refusal| refusal.message).unwrap_or_default();
    let code = match status {
        StatusCode::BAD_REQUEST => ErrorCode::InvalidRequest,
        StatusCode::NOT_FOUND => ErrorCode::NotFound,
        StatusCode::CONFLICT => ErrorCode::Conflict,
        StatusCode::TOO_MANY_REQUESTS => ErrorCode::RateLimited,
        StatusCode::INSUFFICIENT_STORAGE => ErrorCode::InsufficientStorage,
        StatusCode::REQUEST_TIMEOUT => ErrorCode::Timeout,
        _ => return ApiError::new(ErrorCode::AgentError, "the volume's host failed").with_source(message),
    };
    ApiError::new(code, message)
}
