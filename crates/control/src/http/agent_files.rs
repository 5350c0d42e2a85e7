//! Images for hosts: a host fetches what it lacks from control, streamed, with its access token.
//!
//! A host gets the platform's images; a byoc host also its team's; and any host the images of sandboxes that were
//! placed on it, or move there. To all else the answer is 404, whether the image exists or not. Hosts that say so get it packed
//! (`Accept-Encoding: zstd`), and may ask for parts of that (`Range`) by the image's index, so that a sandbox starts
//! before all of its image is there.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use atoll_image::packed;
use atoll_model::api::ErrorBody;
use atoll_model::api::hosts::HOST_TOKEN_HEADER;
use atoll_model::{HostId, HostType};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE, VARY,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use tokio::fs::File;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult};
use crate::app::App;
use crate::db::{During, on};
use crate::hosts::HostRow;
use crate::objects::{Content, Form};

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(image)).routes(routes!(index))
}

/// An image, by the SHA-256 of its bytes. Of a packed one (`Accept-Encoding: zstd`), one part when `Range: bytes=A-B` says so.
#[utoipa::path(get, path = "/v1/hosts/{id}/images/{digest}", tag = "hosts",
    params(("id" = HostId, Path), ("digest" = String, Path), ("X-Host-Token" = String, Header)),
    responses((status = 200, content_type = "application/octet-stream"),
        (status = 206, content_type = "application/octet-stream"), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 410, body = ErrorBody)))]
pub async fn image(
    State(app): State<App>,
    Path((id, digest)): Path<(String, String)>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    admit(&app, &id, &digest, &headers).await?;
    let packed = takes_packed(&headers);
    let mut part = None;
    if let Some(asked) = part_asked_for(&headers).filter(|_| packed) {
        let first = asked.start;
        let found = app.layers.objects().part_of_image(&digest, asked).await.map_err(ApiError::internal)?;
        // Whoever asks for a part of what lies here in another form, or for one behind its end, gets it whole.
        part = found.map(|(content, total)| (content, first, total));
    }
    let (content, range) = match part {
        Some((content, first, total)) => {
            let last = (first + content.bytes.unwrap_or(0)).saturating_sub(1);
            (content, Some(format!("bytes {first}-{last}/{total}")))
        }
        None => (open(&app, &digest, packed).await?, None),
    };
    let mut response = Response::new(Body::from_stream(content.stream));
    if let Some(Ok(range)) = range.map(HeaderValue::try_from) {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        response.headers_mut().insert(CONTENT_RANGE, range);
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(length) = content.bytes {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let mut tag = digest;
    if content.form == Form::Packed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(packed::ENCODING));
        tag = format!("{tag}-{}", packed::ENCODING);
    }
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{tag}\"")) {
        headers.insert(ETAG, etag);
    }
    Ok(response)
}

/// What an image consists of when it is packed, as `atoll_image::packed::Index` has it. 404 when that is not known, or not yet:
/// the image can be had whole then.
#[utoipa::path(get, path = "/v1/hosts/{id}/images/{digest}/index", tag = "hosts",
    params(("id" = HostId, Path), ("digest" = String, Path), ("X-Host-Token" = String, Header)),
    responses((status = 200, content_type = "application/octet-stream"), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 410, body = ErrorBody)))]
pub async fn index(
    State(app): State<App>,
    Path((id, digest)): Path<(String, String)>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    admit(&app, &id, &digest, &headers).await?;
    let objects = app.layers.objects();
    let Some(index) = objects.index(&digest).await.map_err(ApiError::internal)? else {
        let objects = objects.clone();
        tokio::spawn(async move {
            if let Err(error) = objects.make_index(&digest).await {
                tracing::warn!(digest, %error, "the index of an image can't be made");
            }
        });
        return Err(ApiError::not_found("index of the image"));
    };
    let mut response = Response::new(Body::from(index));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

/// Who may have the image goes on.
async fn admit(app: &App, id: &str, digest: &str, headers: &HeaderMap) -> ApiResult<()> {
    let id: HostId = id.parse()?;
    let token = headers.get(HOST_TOKEN_HEADER).and_then(|value| value.to_str().ok());
    let host = app.hosts.authenticate(&id, token).await?;
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_digest || !may_have(app, &host, digest).await? {
        return Err(ApiError::not_found("image"));
    }
    Ok(())
}

/// Of a `Range` that names one part by its first and last byte; any other counts for nothing, as it may.
fn part_asked_for(headers: &HeaderMap) -> Option<Range<u64>> {
    let (first, last) = headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last && last < u64::MAX).then(|| first..last + 1)
}

fn takes_packed(headers: &HeaderMap) -> bool {
    let said = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    said.flat_map(|value| value.split(',')).any(|coding| coding.trim() == packed::ENCODING)
}

async fn may_have(app: &App, host: &HostRow, digest: &str) -> ApiResult<bool> {
    let own_team = match host.kind.0 {
        HostType::Byoc => host.team_id.as_ref().map(|team| team.0.to_string()),
        HostType::Regular => None,
    };
    let found: Option<(i64,)> = on!(read & app.db, |c| sqlx::query_as(
        "SELECT CAST(1 AS BIGINT) WHERE
             EXISTS (SELECT 1 FROM templates WHERE digest = $1 AND (team_id IS NULL OR team_id = $2))
             OR EXISTS (SELECT 1 FROM sandboxes WHERE host_id = $3 AND digest = $1 AND status <> 'stopped')
             OR EXISTS (SELECT 1 FROM template_builds WHERE digest = $1 AND team_id = $2 AND status = 'ready')
             OR EXISTS (SELECT 1 FROM layers l JOIN layer_refs r ON r.layer_id = l.id
                JOIN sandboxes s ON s.id = r.holder WHERE l.digest = $1 AND s.host_id = $3 AND s.status <> 'stopped'
                AND (NOT l.byoc OR l.team_id = $2))
             OR EXISTS (SELECT 1 FROM sandbox_moves m JOIN sandboxes s ON s.id = m.sandbox_id WHERE m.to_host = $3
                AND (s.digest = $1 OR EXISTS (SELECT 1 FROM layers l JOIN layer_refs r ON r.layer_id = l.id
                    WHERE r.holder = 'mov-' || m.id AND l.digest = $1 AND (NOT l.byoc OR l.team_id = $2))))"
    )
    .bind(digest)
    .bind(own_team.as_deref())
    .bind(host.id.as_str())
    .fetch_optional(c)
    .await)
    .during("look up an image for a host")?;
    Ok(found.is_some())
}

/// The image: in the object store, in the data directory, or in the machine's cache.
async fn open(app: &App, digest: &str, packed: bool) -> ApiResult<Content> {
    if let Some(content) = app.layers.objects().read(digest).await.map_err(ApiError::internal)? {
        return if packed { Ok(content) } else { content.raw().map_err(ApiError::internal) };
    }
    let places: [PathBuf; 2] = [app.config.data_dir.join("images"), app.config.cache_dir.join("images")];
    for place in places {
        match File::open(place.join(format!("{digest}.erofs"))).await {
            Ok(file) if packed => return Content::packing(file.into_std().await).map_err(ApiError::internal),
            Ok(file) => return Content::of_file(file, Form::Raw).await.map_err(ApiError::internal),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(ApiError::internal(error)),
        }
    }
    tracing::error!(digest, "a template's image is in neither the object store, the data directory nor the cache");
    Err(ApiError::not_found("image"))
}
