//! Snapshots: take, list, get, delete.

use atoll_model::ErrorCode;
use atoll_model::api::Page;
use atoll_model::api::snapshots::{CreateSnapshotRequest, Snapshot};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::Key;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Query};
use super::idempotent;
use super::page::{Cursor, PageQuery, page};
use crate::app::App;
use crate::snapshots::{KIND, SnapshotError};
use crate::templates::is_template_name;
use crate::templates::store::{self, Template};

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get, delete))
}

impl From<SnapshotError> for ApiError {
    fn from(error: SnapshotError) -> Self {
        let message = error.to_string();
        match error {
            SnapshotError::NotFound => Self::not_found("snapshot"),
            SnapshotError::Platform(_) => Self::forbidden(message),
            SnapshotError::NameTaken(_) => Self::new(ErrorCode::NameTaken, message).with_field("name"),
            SnapshotError::NoMemory => Self::invalid("memory", message),
            SnapshotError::Sandbox(error) => error.into(),
            SnapshotError::Db(error) => error.into(),
            SnapshotError::Interrupted => Self::internal(error),
        }
    }
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Overwrite {
    /// Take the place of the one of the same name.
    #[serde(default)]
    pub overwrite: bool,
}

/// A name that a team may give.
pub fn name(field: &'static str, name: &str) -> ApiResult<()> {
    if is_template_name(name) {
        return Ok(());
    }
    let message = "must have 1 to 128 lower-case letters, digits, `-` and `_`, and not begin with `-`";
    Err(ApiError::invalid(field, message))
}

/// Keeps the files of a running or paused sandbox under a name. Nothing is copied while it waits. With `memory`, which
/// virtual machines have, sandboxes that are made from it go on with its very processes.
#[utoipa::path(post, path = "/v1/snapshots", tag = "snapshots", request_body = CreateSnapshotRequest,
    params(Overwrite, ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Snapshot), (status = 400), (status = 404), (status = 409), (status = 502)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn create(
    State(app): State<App>,
    Key(owner): Key,
    Query(query): Query<Overwrite>,
    headers: HeaderMap,
    Json(request): Json<CreateSnapshotRequest>,
) -> ApiResult<Response> {
    if let Some(wanted) = &request.name {
        name("name", wanted)?;
    }
    let key = idempotent::key(&headers, owner.team.as_str(), "snapshots", &request)?;
    let service = app.snapshots.clone();
    let work = async move {
        let memory = Some(request.memory.unwrap_or(false));
        Ok(service.create(&owner, &request.sandbox_id, request.name, query.overwrite, memory).await?)
    };
    idempotent::once(&app, key, StatusCode::CREATED, work, Snapshot::clone).await
}

/// Lists the team's snapshots, oldest first.
#[utoipa::path(get, path = "/v1/snapshots", tag = "snapshots", params(PageQuery),
    responses((status = 200, body = Page<Snapshot>)), security(("api_key" = []), ("bearer" = [])))]
pub async fn list(
    State(app): State<App>,
    Key(owner): Key,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<Snapshot>>> {
    let (limit, after) = (query.limit()?, query.cursor()?);
    let after = after.as_ref().map(|cursor| (cursor.at, cursor.id.as_str()));
    let rows = store::list(&app.db, KIND, &owner.team, after, limit + 1).await?;
    let cursor = |row: &Template| Cursor { at: row.created_at, id: row.id.to_string() };
    let page = page(rows, limit, cursor, |row| row);
    let mut items = Vec::with_capacity(page.items.len());
    for row in &page.items {
        items.push(app.snapshots.shown(row).await?);
    }
    Ok(axum::Json(Page { items, next_cursor: page.next_cursor }))
}

/// One snapshot, by its name or its id.
#[utoipa::path(get, path = "/v1/snapshots/{name}", tag = "snapshots",
    params(("name" = String, Path, description = "A name or an id")),
    responses((status = 200, body = Snapshot), (status = 404)), security(("api_key" = []), ("bearer" = [])))]
pub async fn get(State(app): State<App>, Key(owner): Key, Path(name): Path<String>) -> ApiResult<axum::Json<Snapshot>> {
    let found = store::find(&app.db, &name, &owner.team).await?.filter(|row| row.kind == KIND);
    let row = found.ok_or_else(|| ApiError::not_found("snapshot"))?;
    Ok(axum::Json(app.snapshots.shown(&row).await?))
}

/// Deletes a snapshot. Sandboxes that were made from it live on; its files go when nobody stands on them any more.
#[utoipa::path(delete, path = "/v1/snapshots/{name}", tag = "snapshots",
    params(("name" = String, Path, description = "A name or an id")), responses((status = 204), (status = 404)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn delete(State(app): State<App>, Key(owner): Key, Path(name): Path<String>) -> ApiResult<StatusCode> {
    app.snapshots.delete(&owner, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
