//! The distribution protocol of container registries, as much of it as `docker push` and `docker pull` take, under
//! `/v2/`: the images that teams push for their builds (`registry`). A team sees its own repositories, whatever they are
//! called. Who asks says so by HTTP's Basic scheme, with an API key as the password.
//!
//! `own` knows by which names an image's reference means this server. Uploads stream; nothing but manifests is held in memory.

mod own;
#[cfg(test)]
mod tests;

use std::io;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LINK, LOCATION, RANGE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::TryStreamExt;
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::json;

use atoll_model::ErrorCode;

pub use self::own::OwnNames;
use super::caller::Key;
use super::edge::Dialect;
use super::error::{ApiError, ApiResult};
use super::extract::Pairs;
use crate::app::App;
use crate::oci::is_digest;
use crate::registry::manifest::Manifest;
use crate::registry::names::{Named, What};
use crate::registry::{MAX_MANIFEST, RegistryError, Upload};
use crate::sandboxes::Owner;

/// In an error's details: what it is called in this protocol.
pub const CODE: &str = "oci";
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD: HeaderName = HeaderName::from_static("docker-upload-uuid");
const VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// All routes of this file.
pub fn router() -> Router<App> {
    Router::new()
        .route("/v2", get(knock))
        .route("/v2/", get(knock))
        .route("/v2/{*path}", get(read).head(look).post(begin).patch(go_on).put(put).delete(delete))
        // Bounded by themselves, and never held in memory.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn(in_its_dialect))
}

async fn in_its_dialect(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(VERSION, HeaderValue::from_static("registry/2.0"));
    response.extensions_mut().insert(Dialect::Registry);
    response
}

/// What a request names, and for whom.
struct Asked {
    owner: Owner,
    repository: String,
    what: What,
}

impl FromRequestParts<App> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> ApiResult<Self> {
        let Key(owner) = Key::of_images(parts, app).await?;
        let path = Path::<String>::from_request_parts(parts, app).await;
        let Path(path) = path.map_err(|_| said(ErrorCode::NotFound, "NAME_INVALID", "there is no such path"))?;
        let named = Named::parse(&path).ok_or_else(|| {
            let message = "there is no such path: a repository's name has small letters, digits and `.`, `_`, `-`, `/` between them";
            said(ErrorCode::NotFound, "NAME_INVALID", message)
        })?;
        Ok(Self { owner, repository: named.repository, what: named.what })
    }
}

impl Asked {
    fn path(&self, rest: &str) -> ApiResult<HeaderValue> {
        HeaderValue::from_str(&format!("/v2/{}/{rest}", self.repository)).map_err(ApiError::internal)
    }

    /// Where the upload stands, by its headers.
    fn stands(&self, status: StatusCode, upload: &Upload) -> ApiResult<Response> {
        let last = upload.size_bytes.saturating_sub(1).max(0);
        let headers = [
            (LOCATION, self.path(&format!("blobs/uploads/{}", upload.id))?),
            (RANGE, HeaderValue::from_str(&format!("0-{last}")).map_err(ApiError::internal)?),
            (UPLOAD, HeaderValue::from_str(&upload.id).map_err(ApiError::internal)?),
        ];
        Ok((status, headers).into_response())
    }

    /// Those after `last`, `n` of them, with the address of the next ones.
    fn page_of_tags(&self, mut tags: Vec<String>, pairs: &[(String, String)]) -> ApiResult<Response> {
        if let Some(last) = of(pairs, "last") {
            tags.retain(|tag| tag.as_str() > last);
        }
        let mut headers = HeaderMap::new();
        if let Some(n) = of(pairs, "n") {
            let wrong = |_| said(ErrorCode::InvalidRequest, "PAGINATION_NUMBER_INVALID", "`n` must be a number");
            let n: usize = n.parse().map_err(wrong)?;
            if tags.len() > n {
                tags.truncate(n);
                // A tag has no character that an address doesn't.
                if let Some(last) = tags.last() {
                    let next = format!("</v2/{}/tags/list?n={n}&last={last}>; rel=\"next\"", self.repository);
                    headers.insert(LINK, HeaderValue::from_str(&next).map_err(ApiError::internal)?);
                }
            }
        }
        Ok((headers, axum::Json(json!({ "name": self.repository, "tags": tags }))).into_response())
    }

    fn has_blob(&self, digest: &str) -> ApiResult<Response> {
        let named = HeaderValue::from_str(digest).map_err(ApiError::internal)?;
        let headers = [(LOCATION, self.path(&format!("blobs/{digest}"))?), (DIGEST, named)];
        Ok((StatusCode::CREATED, headers).into_response())
    }
}

fn said(code: ErrorCode, name: &str, message: impl Into<std::borrow::Cow<'static, str>>) -> ApiError {
    ApiError::new(code, message).with_detail(CODE, name)
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        let message = error.to_string();
        let (code, name) = match error {
            RegistryError::NoBlob => (ErrorCode::NotFound, "BLOB_UNKNOWN"),
            RegistryError::NoUpload => (ErrorCode::NotFound, "BLOB_UPLOAD_UNKNOWN"),
            RegistryError::NoManifest => (ErrorCode::NotFound, "MANIFEST_UNKNOWN"),
            RegistryError::Unpushed(_) => (ErrorCode::NotFound, "MANIFEST_BLOB_UNKNOWN"),
            RegistryError::OnAList => (ErrorCode::MethodNotAllowed, "UNSUPPORTED"),
            RegistryError::BadManifest(_) => (ErrorCode::InvalidRequest, "MANIFEST_INVALID"),
            RegistryError::LargeManifest => (ErrorCode::TooLarge, "MANIFEST_INVALID"),
            RegistryError::WrongDigest { .. } | RegistryError::BadDigest(_) => {
                (ErrorCode::InvalidRequest, "DIGEST_INVALID")
            }
            RegistryError::BrokeOff(_) | RegistryError::OutOfOrder { .. } => {
                (ErrorCode::InvalidRequest, "BLOB_UPLOAD_INVALID")
            }
            RegistryError::TooLarge => (ErrorCode::TooLarge, "SIZE_INVALID"),
            RegistryError::TeamIsFull => (ErrorCode::Forbidden, "DENIED"),
            RegistryError::TooMany { .. } | RegistryError::Busy => (ErrorCode::RateLimited, "TOOMANYREQUESTS"),
            RegistryError::NoRoom => (ErrorCode::InsufficientStorage, "DENIED"),
            RegistryError::Db(error) => return error.into(),
            RegistryError::Object(_) | RegistryError::Io(_) => return Self::internal(error),
        };
        said(code, name, message)
    }
}

/// Whether there is a registry, and whether it knows who asks.
async fn knock(State(app): State<App>, mut parts: Parts) -> ApiResult<Response> {
    Key::of_images(&mut parts, &app).await?;
    Ok(axum::Json(json!({})).into_response())
}

fn unsupported() -> ApiError {
    said(ErrorCode::MethodNotAllowed, "UNSUPPORTED", "this can't be done here")
}

/// A blob's or manifest's headers.
fn headed(digest: &str, kind: &str, length: i64) -> ApiResult<HeaderMap> {
    let text = |text: &str| HeaderValue::from_str(text).map_err(ApiError::internal);
    let headers = [
        (CONTENT_TYPE, text(kind)?),
        (CONTENT_LENGTH, HeaderValue::from(length)),
        (DIGEST, text(digest)?),
        (ETAG, text(&format!("\"{digest}\""))?),
    ];
    Ok(headers.into_iter().collect())
}

const BYTES: &str = "application/octet-stream";

/// What is there, without sending it.
async fn look(State(app): State<App>, asked: Asked) -> ApiResult<Response> {
    let team = &asked.owner.team;
    let headers = match &asked.what {
        What::Blob(digest) => {
            let blob = app.registry.blob(team, digest).await?;
            headed(&blob.digest, BYTES, blob.size_bytes)?
        }
        What::Manifest(reference) => {
            let found = app.registry.manifest(team, &asked.repository, reference).await?;
            headed(&found.digest, &found.media_type, i64::try_from(found.content.len()).unwrap_or(i64::MAX))?
        }
        What::Uploads | What::Upload(_) | What::Tags => return Err(unsupported()),
    };
    Ok(headers.into_response())
}

/// A blob, a manifest, tags, or how far an upload is.
async fn read(State(app): State<App>, asked: Asked, Pairs(pairs): Pairs) -> ApiResult<Response> {
    let team = &asked.owner.team;
    match &asked.what {
        What::Blob(digest) => {
            let blob = app.registry.blob(team, digest).await?;
            let content = app.registry.read(&blob).map_err(io::Error::other);
            Ok((headed(&blob.digest, BYTES, blob.size_bytes)?, Body::from_stream(content)).into_response())
        }
        What::Manifest(reference) => {
            let found = app.registry.manifest(team, &asked.repository, reference).await?;
            let length = i64::try_from(found.content.len()).unwrap_or(i64::MAX);
            Ok((headed(&found.digest, &found.media_type, length)?, Body::from(found.content)).into_response())
        }
        What::Tags => {
            let unknown = |error: RegistryError| match error {
                RegistryError::NoManifest => said(ErrorCode::NotFound, "NAME_UNKNOWN", "there is no such repository"),
                error => error.into(),
            };
            let tags = app.registry.tags(team, &asked.repository).await.map_err(unknown)?;
            asked.page_of_tags(tags, &pairs)
        }
        What::Upload(id) => asked.stands(StatusCode::NO_CONTENT, &app.registry.upload(team, id).await?),
        What::Uploads => Err(unsupported()),
    }
}

fn of<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Before anything comes in under it.
fn checked(digest: &str) -> Result<&str, RegistryError> {
    if is_digest(digest) { Ok(digest) } else { Err(RegistryError::BadDigest(digest.to_owned())) }
}

/// Begins an upload; with `digest`, all of it is there. With `mount`, a blob that the team has is not sent again.
async fn begin(State(app): State<App>, asked: Asked, Pairs(pairs): Pairs, body: Body) -> ApiResult<Response> {
    if asked.what != What::Uploads {
        return Err(unsupported());
    }
    let team = &asked.owner.team;
    if let Some(digest) = of(&pairs, "mount") {
        match app.registry.blob(team, digest).await {
            Ok(blob) => return asked.has_blob(&blob.digest),
            Err(RegistryError::NoBlob) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let digest = of(&pairs, "digest").map(checked).transpose()?;
    let upload = app.registry.begin(team).await?;
    let Some(digest) = digest else { return asked.stands(StatusCode::ACCEPTED, &upload) };
    let upload = match app.registry.receive(upload.clone(), None, body.into_data_stream()).await {
        Ok(upload) => upload,
        Err(error) => {
            // Its client never heard of it.
            app.registry.cancel(&upload).await?;
            return Err(error.into());
        }
    };
    app.registry.finish(&upload, digest).await?;
    asked.has_blob(digest)
}

/// Where a part begins, by `Content-Range: 0-99`.
fn begins(headers: &HeaderMap) -> ApiResult<Option<u64>> {
    let Some(value) = headers.get(CONTENT_RANGE) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let text = text.strip_prefix("bytes ").unwrap_or(text);
    let begin = text.split_once('-').and_then(|(begin, _)| begin.parse().ok());
    let wrong =
        || said(ErrorCode::InvalidRequest, "BLOB_UPLOAD_INVALID", "Content-Range must be two numbers, such as 0-99");
    begin.map(Some).ok_or_else(wrong)
}

/// Takes what comes. The upload as it is then, or what to answer where it must go on from elsewhere.
async fn received(
    app: &App,
    asked: &Asked,
    id: &str,
    headers: &HeaderMap,
    body: Body,
) -> ApiResult<Result<Upload, Response>> {
    let upload = app.registry.upload(&asked.owner.team, id).await?;
    match app.registry.receive(upload.clone(), begins(headers)?, body.into_data_stream()).await {
        Ok(upload) => Ok(Ok(upload)),
        Err(error @ RegistryError::OutOfOrder { .. }) => {
            let now = app.registry.upload(&asked.owner.team, id).await?;
            let mut error: ApiError = error.into();
            error.status = Some(StatusCode::RANGE_NOT_SATISFIABLE);
            let mut response = error.into_response();
            response.headers_mut().extend(asked.stands(StatusCode::OK, &now)?.headers().clone());
            Ok(Err(response))
        }
        Err(error) => Err(error.into()),
    }
}

/// The next part of an upload.
async fn go_on(State(app): State<App>, asked: Asked, headers: HeaderMap, body: Body) -> ApiResult<Response> {
    let What::Upload(id) = &asked.what else { return Err(unsupported()) };
    match received(&app, &asked, id, &headers, body).await? {
        Ok(upload) => asked.stands(StatusCode::ACCEPTED, &upload),
        Err(response) => Ok(response),
    }
}

/// Finishes an upload, maybe with its last part; or keeps a manifest.
async fn put(
    State(app): State<App>,
    asked: Asked,
    Pairs(pairs): Pairs,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    match &asked.what {
        What::Upload(id) => {
            let missing =
                || said(ErrorCode::InvalidRequest, "DIGEST_INVALID", "the query must have the blob's `digest`");
            let digest = checked(of(&pairs, "digest").ok_or_else(missing)?)?;
            let team = &asked.owner.team;
            let upload = match app.registry.upload(team, id).await {
                // Nothing comes with it, as a rule.
                Ok(upload) if body.is_end_stream() => upload,
                Ok(_) => match received(&app, &asked, id, &headers, body).await? {
                    Ok(upload) => upload,
                    Err(response) => return Ok(response),
                },
                // Asked again, when the answer was lost.
                Err(error @ RegistryError::NoUpload) => {
                    let blob = app.registry.blob(team, digest).await.map_err(|_| error)?;
                    return asked.has_blob(&blob.digest);
                }
                Err(error) => return Err(error.into()),
            };
            app.registry.finish(&upload, digest).await?;
            asked.has_blob(digest)
        }
        What::Manifest(reference) => {
            let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let bytes = Limited::new(body, MAX_MANIFEST).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    return RegistryError::LargeManifest.into();
                }
                said(ErrorCode::InvalidRequest, "MANIFEST_INVALID", "the manifest broke off").with_source(error)
            })?;
            let manifest = Manifest::parse(kind, &bytes.to_bytes())?;
            let digest = app.registry.put_manifest(&asked.owner, &asked.repository, reference, &manifest).await?;
            let named = HeaderValue::from_str(&digest).map_err(ApiError::internal)?;
            let headers = [(LOCATION, asked.path(&format!("manifests/{digest}"))?), (DIGEST, named)];
            Ok((StatusCode::CREATED, headers).into_response())
        }
        What::Uploads | What::Blob(_) | What::Tags => Err(unsupported()),
    }
}

/// Ends an upload, or takes a tag or a manifest away. Blobs go by themselves.
async fn delete(State(app): State<App>, asked: Asked) -> ApiResult<StatusCode> {
    match &asked.what {
        What::Upload(id) => {
            let upload = app.registry.upload(&asked.owner.team, id).await?;
            app.registry.cancel(&upload).await?;
            Ok(StatusCode::NO_CONTENT)
        }
        What::Manifest(reference) => {
            app.registry.delete_manifest(&asked.owner, &asked.repository, reference).await?;
            Ok(StatusCode::ACCEPTED)
        }
        What::Uploads | What::Blob(_) | What::Tags => Err(unsupported()),
    }
}
