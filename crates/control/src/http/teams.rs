//! The caller's teams.

use atoll_model::api::Page;
use atoll_model::api::auth::Team;
use axum::extract::State;

use super::caller::User;
use super::error::ApiResult;
use super::extract::Query;
use super::page::{Cursor, PageQuery, page};
use crate::app::App;
use crate::db::Millis;
use crate::teams::{self, TeamRow};

/// Lists the teams that one is a member of, with one's role in each.
#[utoipa::path(get, path = "/v1/teams", tag = "teams", params(PageQuery),
    responses((status = 200, body = Page<Team>)), security(("bearer" = [])))]
pub async fn list(
    State(app): State<App>,
    user: User,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<Team>>> {
    let limit = query.limit()?;
    let after = query.cursor()?.map(|cursor| cursor.id).unwrap_or_default();
    let rows = teams::of_user(&app.db, &user.id, &after, limit as i64 + 1).await?;
    let cursor = |row: &TeamRow| Cursor { at: Millis(0), id: row.id.to_string() };
    Ok(axum::Json(page(rows, limit, cursor, TeamRow::into_api)))
}
