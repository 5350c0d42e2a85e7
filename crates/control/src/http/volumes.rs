//! Volumes: make, list, get, delete.

use std::time::Duration;

use atoll_model::ErrorCode;
use atoll_model::api::Page;
use atoll_model::api::volumes::{CreateVolumeRequest, Volume};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::Key;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Query};
use super::page::{Cursor, PageQuery, page};
use super::validate::{DISK_MB, within};
use super::{idempotent, snapshots};
use crate::app::App;
use crate::audit::Owner;
use crate::db::Millis;
use crate::volumes::{MAX_VOLUMES, VolumeError, store};

pub(super) const DEFAULT_SIZE_MB: u64 = 1024;

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get, delete))
}

impl From<VolumeError> for ApiError {
    fn from(error: VolumeError) -> Self {
        let message = error.to_string();
        match error {
            VolumeError::NotFound(_) => Self::new(ErrorCode::NotFound, message),
            VolumeError::NameTaken(_) => Self::new(ErrorCode::NameTaken, message).with_field("name"),
            VolumeError::TooMany => Self::new(ErrorCode::QuotaExceeded, message)
                .with_detail("quota", "volumes")
                .with_detail("used", MAX_VOLUMES)
                .with_detail("limit", MAX_VOLUMES)
                .with_retry_after(Duration::from_secs(60)),
            VolumeError::InUse { sandboxes, .. } | VolumeError::Exclusive { sandboxes, .. } => {
                Self::conflict(message).with_detail("sandbox_ids", json!(sandboxes))
            }
            VolumeError::Twice(_) => Self::invalid("volumes", message),
            VolumeError::Apart { .. } | VolumeError::Lost(_) | VolumeError::Changed(_) => Self::conflict(message),
            VolumeError::Quota(error) => error.into(),
            VolumeError::Db(error) => error.into(),
        }
    }
}

/// Makes a volume. It is empty, and lies nowhere until a sandbox first mounts it; from then on it lies on that sandbox's
/// host, and sandboxes that mount it run there.
#[utoipa::path(post, path = "/v1/volumes", tag = "volumes", request_body = CreateVolumeRequest,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Volume), (status = 409), (status = 429)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn create(
    State(app): State<App>,
    Key(owner): Key,
    headers: HeaderMap,
    Json(request): Json<CreateVolumeRequest>,
) -> ApiResult<Response> {
    snapshots::name("name", &request.name)?;
    let size_mb = within("size_mb", request.size_mb.unwrap_or(DEFAULT_SIZE_MB), DISK_MB)?;
    let key = idempotent::key(&headers, owner.team.as_str(), "volumes", &request)?;
    let service = app.volumes.clone();
    let mode = request.mode.unwrap_or_default();
    let work = async move { Ok(service.create(&owner, &request.name, size_mb, mode).await?) };
    idempotent::once(&app, key, StatusCode::CREATED, work, Volume::clone).await
}

/// Lists the team's volumes, oldest first.
#[utoipa::path(get, path = "/v1/volumes", tag = "volumes", params(PageQuery),
    responses((status = 200, body = Page<Volume>)), security(("api_key" = []), ("bearer" = [])))]
pub async fn list(
    State(app): State<App>,
    Key(owner): Key,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<Volume>>> {
    let limit = query.limit()?;
    let after = query.cursor()?.unwrap_or(Cursor { at: Millis(i64::MIN), id: String::new() });
    let rows = store::list(&app.db, &owner.team, (after.at, &after.id), limit as i64 + 1).await?;
    let cursor = |row: &store::VolumeRow| Cursor { at: row.created_at, id: row.id.to_string() };
    let page = page(rows, limit, cursor, |row| row);
    let items = app.volumes.shown(page.items, &owner.team).await?;
    Ok(axum::Json(Page { items, next_cursor: page.next_cursor }))
}

/// One volume, by its name or its id.
#[utoipa::path(get, path = "/v1/volumes/{name}", tag = "volumes",
    params(("name" = String, Path, description = "A name or an id")), responses((status = 200, body = Volume)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn get(State(app): State<App>, Key(owner): Key, Path(name): Path<String>) -> ApiResult<axum::Json<Volume>> {
    let row = match name.contains('\0') {
        true => None,
        false => store::find(&app.db, &owner.team, &name).await?,
    };
    let row = row.ok_or_else(|| ApiError::not_found("volume"))?;
    let shown = app.volumes.shown(vec![row], &owner.team).await?.pop();
    shown.map(axum::Json).ok_or_else(|| ApiError::not_found("volume"))
}

/// Deletes a volume with its files; refused (409, with `sandbox_ids`) while sandboxes have it mounted. A host that is away
/// deletes the files when it is back.
#[utoipa::path(delete, path = "/v1/volumes/{name}", tag = "volumes",
    params(("name" = String, Path, description = "A name or an id")), responses((status = 204), (status = 409)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn delete(State(app): State<App>, Key(owner): Key, Path(name): Path<String>) -> ApiResult<StatusCode> {
    if name.contains('\0') {
        return Err(ApiError::not_found("volume"));
    }
    remove(&app, &owner, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove(app: &App, owner: &Owner, name_or_id: &str) -> ApiResult<()> {
    let id = app.volumes.delete(owner, name_or_id).await?;
    // Noted in the database for every host: what is not told now is told later.
    let images = app.reconcile.images.clone();
    app.tasks.spawn(async move {
        if let Err(error) = images.broadcast(id.as_str()).await {
            tracing::warn!(volume = %id, error = &error as &dyn std::error::Error, "hosts will hear of it later");
        }
    });
    Ok(())
}
