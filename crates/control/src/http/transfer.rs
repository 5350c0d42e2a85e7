//! Contents of files: uploads and downloads, streamed end to end with flat memory, any size.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use atoll_model::api::sandboxes::{PathRequest, WrittenFile};
use atoll_model::{ErrorCode, SandboxId};
use axum::body::Body;
use axum::extract::multipart::{Field, Multipart};
use axum::extract::{FromRequest, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED, RANGE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use form_urlencoded::Serializer;
use futures::{Stream, StreamExt};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Limited, StreamBody};
use hyper::body::Incoming;
use serde::Deserialize;

use super::caller::Key;
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Json, Query};
use super::guest::Guest;
use super::multipart::{Progress, bounded};
use super::validate;
use crate::app::App;
use crate::fleet::{BoxError, said};
use crate::sandboxes::{SandboxError, store};

const OCTETS: &str = "application/octet-stream";
/// The text of `path` and `user` in a multipart body.
const MAX_TEXT_FIELD: usize = 4096;
/// The guest's answer to an upload, or the text of its error.
const MAX_ANSWER: usize = 64 << 10;

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FileQuery {
    /// Absolute, or relative to the user's home.
    #[param(required = true)]
    path: Option<String>,
    /// Whose rights apply, and who owns what is written; the template's user when absent.
    user: Option<String>,
}

/// What a multipart body has; for the document.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the body is read piece by piece")]
pub struct WriteFileForm {
    path: Option<String>,
    user: Option<String>,
    #[schema(format = Binary)]
    file: String,
}

/// Writes a file from a multipart body: the fields `path`, optionally `user`, then `file`.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/write", tag = "files",
    params(("id" = SandboxId, Path), FileQuery),
    request_body(content = WriteFileForm, content_type = "multipart/form-data", description = "Fields: path, user (optional), file. `path` and \
        `user` come before `file`, or stand in the query string."),
    responses((status = 200, body = WrittenFile), (status = 409), (status = 413), (status = 502), (status = 507)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn write_multipart(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    Query(query): Query<FileQuery>,
    request: Request,
) -> ApiResult<axum::Json<WrittenFile>> {
    let (request, progress) = bounded(request);
    let mut form = Multipart::from_request(request, &app).await.map_err(|rejection| {
        ApiError::new(ErrorCode::UnsupportedMediaType, "the body must be multipart/form-data").with_source(rejection)
    })?;
    // Whether there is such a sandbox is said before the form is judged: of another team's nothing can be learnt by it.
    store::get(&app.db, &owner.team, &id).await?.ok_or(SandboxError::NotFound)?;
    let FileQuery { mut path, mut user } = query;
    let mut given = (false, false);
    while let Some(mut field) = form.next_field().await.map_err(bad_form)? {
        progress.made();
        match field.name() {
            Some(name @ "path") if !given.0 => {
                given.0 = true;
                let name = name.to_owned();
                path = Some(short_text(&mut field, &name).await?);
            }
            Some(name @ "user") if !given.1 => {
                given.1 = true;
                let name = name.to_owned();
                user = Some(short_text(&mut field, &name).await?);
            }
            // Each further one would let more of the body into memory.
            Some(name @ ("path" | "user")) => return Err(ApiError::invalid(name.to_owned(), "is given twice")),
            Some("file") => {
                let path = path.ok_or_else(|| {
                    ApiError::invalid("path", "the field `path` must come before `file`, or stand in the query string")
                })?;
                let guest = target(&app, &owner, id, &path, user.as_deref()).await?;
                // The field borrows the form: a channel of one chunk takes its bytes across.
                return upload_field(&app, &guest, &path, user.as_deref(), field, progress).await.map(axum::Json);
            }
            Some(other) => {
                let name: String = other.chars().filter(|c| !c.is_control()).take(100).collect();
                return Err(ApiError::invalid(name, "there is no such field: `path`, `user` and `file` are known"));
            }
            None => return Err(ApiError::invalid("body", "a part of the multipart body has no name")),
        }
    }
    Err(ApiError::invalid("file", "the body has no field `file`"))
}

fn bad_form(error: axum::extract::multipart::MultipartError) -> ApiError {
    ApiError::invalid("body", "the multipart body is not valid").with_source(error)
}

async fn short_text(field: &mut Field<'_>, name: &str) -> ApiResult<String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(bad_form)? {
        if bytes.len() + chunk.len() > MAX_TEXT_FIELD {
            return Err(ApiError::invalid(name.to_owned(), format!("must have at most {MAX_TEXT_FIELD} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| ApiError::invalid(name.to_owned(), "must be UTF-8"))
}

async fn upload_field(
    app: &App,
    guest: &Guest,
    path: &str,
    user: Option<&str>,
    mut field: Field<'_>,
    progress: Progress,
) -> ApiResult<WrittenFile> {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, BoxError>>(1);
    let feed = async move {
        loop {
            let chunk = match field.chunk().await {
                Ok(Some(chunk)) => {
                    progress.made();
                    Ok(chunk)
                }
                Ok(None) => return Ok(()),
                Err(error) => Err(error),
            };
            let failed = chunk.is_err();
            let chunk = chunk.map_err(|error| Box::new(error) as BoxError);
            // The guest may answer early (no space): then nobody takes the rest.
            if sender.send(chunk).await.is_err() || failed {
                return Err(());
            }
        }
    };
    let body = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let (written, _) = tokio::join!(upload(app, guest, path, user, body), feed);
    written
}

/// Writes a file: the body is its content.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/stream/write", tag = "files",
    params(("id" = SandboxId, Path), FileQuery), request_body(content_type = "application/octet-stream"),
    responses((status = 200, body = WrittenFile), (status = 409), (status = 413), (status = 502), (status = 507)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn write_stream(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    Query(query): Query<FileQuery>,
    body: Body,
) -> ApiResult<axum::Json<WrittenFile>> {
    let path = query.path.ok_or_else(|| ApiError::invalid("path", "say which file, as ?path="))?;
    let guest = target(&app, &owner, id, &path, query.user.as_deref()).await?;
    let body = body.into_data_stream().map(|chunk| chunk.map_err(|error| Box::new(error) as BoxError));
    upload(&app, &guest, &path, query.user.as_deref(), body).await.map(axum::Json)
}

async fn target(
    app: &App,
    owner: &crate::sandboxes::Owner,
    id: SandboxId,
    path: &str,
    user: Option<&str>,
) -> ApiResult<Guest> {
    validate::path("path", path)?;
    validate::user(user)?;
    Guest::of(app, owner, id, "transfer a file of").await
}

/// The guest's own address of a file.
fn address(path: &str, user: Option<&str>) -> String {
    let mut query = Serializer::new(String::new());
    query.append_pair("path", path).append_pair("rights", "user");
    if let Some(user) = user {
        query.append_pair("username", user);
    }
    format!("/files?{}", query.finish())
}

/// Counts what passes, and ends with an error when it is more than allowed.
struct Counted<S> {
    inner: S,
    passed: Arc<AtomicU64>,
    limit: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("more than {0} bytes")]
struct TooMuch(u64);

impl<S: Stream<Item = Result<Bytes, BoxError>> + Unpin> Stream for Counted<S> {
    type Item = Result<Frame<Bytes>, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = futures::ready!(self.inner.poll_next_unpin(context));
        Poll::Ready(match next {
            Some(Ok(bytes)) => {
                let size = bytes.len() as u64;
                let passed = self.passed.fetch_add(size, Ordering::Relaxed) + size;
                if passed > self.limit { Some(Err(TooMuch(self.limit).into())) } else { Some(Ok(Frame::data(bytes))) }
            }
            Some(Err(error)) => Some(Err(error)),
            None => None,
        })
    }
}

/// A body on its way to a host, which breaks off beyond `limit`; and how much of it has passed.
pub(super) fn counted<S>(
    body: S,
    limit: u64,
) -> (impl http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static, Arc<AtomicU64>)
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send + Unpin + 'static,
{
    let passed = Arc::new(AtomicU64::new(0));
    (StreamBody::new(Counted { inner: body, passed: Arc::clone(&passed), limit }), passed)
}

async fn upload<S>(app: &App, guest: &Guest, path: &str, user: Option<&str>, body: S) -> ApiResult<WrittenFile>
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send + Unpin + 'static,
{
    let limit = app.config.http.max_upload_bytes;
    let (body, passed) = counted(body, limit);
    let request = http::Request::builder()
        .method(Method::POST)
        .uri(address(path, user))
        .header(CONTENT_TYPE, OCTETS)
        .body(body)
        .map_err(ApiError::internal)?;
    let too_large = || too_large(limit);
    let answer = match guest.fleet().guest_http(&guest.host, &guest.id, request).await {
        Ok(answer) => answer,
        Err(_) if passed.load(Ordering::Relaxed) > limit => return Err(too_large()),
        Err(error) => return Err(error.into()),
    };
    if passed.load(Ordering::Relaxed) > limit {
        return Err(too_large());
    }
    if !answer.status().is_success() {
        return Err(guest_refusal(answer).await);
    }
    let answer = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(ApiError::agent)?.to_bytes();
    #[derive(Deserialize)]
    struct Written {
        path: String,
    }
    let written: Vec<Written> = serde_json::from_slice(&answer).map_err(ApiError::agent)?;
    let path = written.into_iter().next().map_or_else(|| path.to_owned(), |file| file.path);
    Ok(WrittenFile { path, size_bytes: passed.load(Ordering::Relaxed) })
}

pub(super) fn too_large(limit: u64) -> ApiError {
    ApiError::new(ErrorCode::TooLarge, format!("a file may have at most {limit} bytes"))
        .with_detail("limit_bytes", limit)
}

/// What the guest (or the agent before it) said no with.
async fn guest_refusal(answer: http::Response<Incoming>) -> ApiError {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let message = serde_json::from_slice::<Refusal>(&body).map(|refusal| refusal.message).unwrap_or_default();
    let (code, field) = match status {
        StatusCode::BAD_REQUEST => (ErrorCode::InvalidRequest, Some("path")),
        StatusCode::UNAUTHORIZED => (ErrorCode::InvalidRequest, Some("user")),
        StatusCode::FORBIDDEN => (ErrorCode::Forbidden, Some("path")),
        StatusCode::NOT_FOUND => (ErrorCode::NotFound, Some("path")),
        StatusCode::CONFLICT => (ErrorCode::Conflict, Some("path")),
        StatusCode::PAYLOAD_TOO_LARGE => (ErrorCode::TooLarge, None),
        StatusCode::RANGE_NOT_SATISFIABLE => (ErrorCode::InvalidRequest, Some("Range")),
        StatusCode::INSUFFICIENT_STORAGE => (ErrorCode::InsufficientStorage, None),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => (ErrorCode::HostUnavailable, None),
        StatusCode::GATEWAY_TIMEOUT => (ErrorCode::Timeout, None),
        _ => (ErrorCode::AgentError, None),
    };
    let message = if message.is_empty() { format!("the sandbox answered {status}") } else { said(&message) };
    let mut error = ApiError::new(code, message);
    error.field = field.map(Into::into);
    error
}

/// Reads a file: the answer's body is its content.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/read", tag = "files", params(("id" = SandboxId, Path)),
    request_body = PathRequest,
    responses((status = 200, content_type = "application/octet-stream"), (status = 206), (status = 409), (status = 502)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn read(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    headers: HeaderMap,
    Json(request): Json<PathRequest>,
) -> ApiResult<Response> {
    let guest = target(&app, &owner, id, &request.path, request.user.as_deref()).await?;
    download(guest, &request.path, request.user.as_deref(), &headers).await
}

/// The same, with the path in the body.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/stream/read", tag = "files", params(("id" = SandboxId, Path)),
    request_body = PathRequest,
    responses((status = 200, content_type = "application/octet-stream"), (status = 206), (status = 409), (status = 502)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn read_stream(
    app: State<App>,
    key: Key,
    id: Id<SandboxId>,
    query: Query<FileQuery>,
    headers: HeaderMap,
    request: Request,
) -> ApiResult<Response> {
    if query.0.path.is_some() {
        return read_query(app, key, id, query, headers).await;
    }
    let body = Json::<PathRequest>::from_request(request, &()).await?;
    read(app, key, id, headers, body).await
}

/// Reads a file, with the path in the query string.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/stream/read", tag = "files",
    params(("id" = SandboxId, Path), FileQuery),
    responses((status = 200, content_type = "application/octet-stream"), (status = 206), (status = 409), (status = 502)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn read_query(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    Query(query): Query<FileQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let path = query.path.ok_or_else(|| ApiError::invalid("path", "say which file, as ?path="))?;
    let guest = target(&app, &owner, id, &path, query.user.as_deref()).await?;
    download(guest, &path, query.user.as_deref(), &headers).await
}

async fn download(guest: Guest, path: &str, user: Option<&str>, headers: &HeaderMap) -> ApiResult<Response> {
    let mut request = http::Request::builder().method(Method::GET).uri(address(path, user));
    if let Some(range) = headers.get(RANGE) {
        request = request.header(RANGE, range);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(ApiError::internal)?;
    let answer = guest.fleet().guest_http(&guest.host, &guest.id, request).await?;
    if !answer.status().is_success() {
        return Err(guest_refusal(answer).await);
    }
    let (parts, body) = answer.into_parts();
    let mut response = Response::new(Body::new(body.map_frame(move |frame| {
        // The sandbox stays active until the last byte is through.
        let _active = &guest;
        frame
    })));
    *response.status_mut() = parts.status;
    for name in [CONTENT_LENGTH, CONTENT_RANGE, LAST_MODIFIED, ETAG] {
        if let Some(value) = parts.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    // What a sandbox says of its files' types is never believed by a browser that shows our pages.
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OCTETS));
    response.headers_mut().insert("content-disposition", HeaderValue::from_static("attachment"));
    response.headers_mut().insert("content-security-policy", HeaderValue::from_static("sandbox"));
    Ok(response)
}
