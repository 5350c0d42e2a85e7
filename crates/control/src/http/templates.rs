//! Templates that the caller's team can use.

use atoll_model::api::Page;
use atoll_model::api::templates::Template;
use axum::extract::{Path, State};

use super::caller::Key;
use super::error::{ApiError, ApiResult};
use super::extract::Query;
use super::page::{Cursor, PageQuery, page};
use crate::app::App;
use crate::templates::store;

/// Lists the platform's templates and the team's own, oldest first.
#[utoipa::path(get, path = "/v1/templates", tag = "templates", params(PageQuery),
    responses((status = 200, body = Page<Template>)), security(("api_key" = []), ("bearer" = [])))]
pub async fn list(
    State(app): State<App>,
    Key(owner): Key,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<Template>>> {
    let (limit, after) = (query.limit()?, query.cursor()?);
    let after = after.as_ref().map(|cursor| (cursor.at, cursor.id.as_str()));
    let rows = store::list(&app.db, "template", &owner.team, after, limit + 1).await?;
    let cursor = |row: &store::Template| Cursor { at: row.created_at, id: row.id.to_string() };
    Ok(axum::Json(page(rows, limit, cursor, |row| row.to_api())))
}

/// One template, by its name or its id.
#[utoipa::path(get, path = "/v1/templates/{name}", tag = "templates",
    params(("name" = String, Path, description = "A name or an id")),
    responses((status = 200, body = Template), (status = 404)), security(("api_key" = []), ("bearer" = [])))]
pub async fn get(State(app): State<App>, Key(owner): Key, Path(name): Path<String>) -> ApiResult<axum::Json<Template>> {
    let found = store::find(&app.db, &name, &owner.team).await?;
    found.map(|template| axum::Json(template.to_api())).ok_or_else(|| ApiError::not_found("template"))
}
