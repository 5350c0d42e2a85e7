//! A team's API keys.

use atoll_model::api::Page;
use atoll_model::api::auth::{ApiKey, CreateApiKeyRequest, Role};
use atoll_model::{ApiKeyId, ErrorCode, UserId};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use secrecy::ExposeSecret;

use super::caller::User;
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Json, Query};
use super::page::{Cursor, PageQuery, page};
use super::{idempotent, validate};
use crate::api_keys::{self, Deleted, NewKey};
use crate::app::App;
use crate::db::Millis;

/// Makes a key. The key itself is in this answer and never again (not even in the answer to a repeated request with
/// the same `Idempotency-Key`).
#[utoipa::path(post, path = "/v1/api-keys", tag = "api keys", request_body = CreateApiKeyRequest,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = ApiKey), (status = 409), (status = 429)), security(("bearer" = [])))]
pub async fn create(
    State(app): State<App>,
    user: User,
    headers: HeaderMap,
    Json(request): Json<CreateApiKeyRequest>,
) -> ApiResult<Response> {
    validate::line("name", &request.name, 100)?;
    let expires_at = request.expires_at.map(Millis::from);
    if expires_at.is_some_and(|at| at <= app.clock.now()) {
        return Err(ApiError::invalid("expires_at", "must be in the future"));
    }
    let key = idempotent::key(&headers, &user.keys_owner(), "api-keys", &request)?;
    let worker = app.clone();
    let work = async move {
        let (now, actor) = (worker.clock.now(), user.actor());
        let mut tx = worker.db.begin().await?;
        if api_keys::is_full(&mut tx, &user.team).await? {
            return Err(too_many());
        }
        let scope = request.scope.unwrap_or_default();
        let new = NewKey { scope, expires_at, ..NewKey::unlimited(&user.team, &request.name, Some(&user.id)) };
        let made = api_keys::insert(&mut tx, &new, &actor, &user.origin, now).await?;
        tx.commit().await?;
        Ok(ApiKey {
            id: made.id,
            name: request.name,
            key_prefix: made.prefix,
            created_by: Some(user.id),
            created_at: now.to_utc(),
            last_used_at: None,
            scope,
            expires_at: expires_at.map(Millis::to_utc),
            e2b_key: api_keys::e2b_form(&made.secret),
            key: Some(made.secret.expose_secret().to_owned()),
        })
    };
    idempotent::once(&app, key, StatusCode::CREATED, work, |made| ApiKey { key: None, e2b_key: None, ..made.clone() })
        .await
}

/// The team may have no more keys.
pub fn too_many() -> ApiError {
    ApiError::new(ErrorCode::QuotaExceeded, "the team has too many API keys; delete some")
        .with_detail("quota", "api_keys")
        .with_detail("used", api_keys::MAX_KEYS)
        .with_detail("limit", api_keys::MAX_KEYS)
        .with_retry_after(std::time::Duration::from_secs(60))
}

/// Lists the team's keys, oldest first, without their secrets.
#[utoipa::path(get, path = "/v1/api-keys", tag = "api keys", params(PageQuery),
    responses((status = 200, body = Page<ApiKey>)), security(("bearer" = [])))]
pub async fn list(
    State(app): State<App>,
    user: User,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<ApiKey>>> {
    let limit = query.limit()?;
    let after = query.cursor()?.unwrap_or(Cursor { at: Millis(i64::MIN), id: String::new() });
    let rows = api_keys::list(&app.db, &user.team, (after.at, &after.id), limit as i64 + 1).await?;
    let cursor = |row: &api_keys::KeyRow| Cursor { at: row.created_at, id: row.id.to_string() };
    Ok(axum::Json(page(rows, limit, cursor, api_keys::KeyRow::into_api)))
}

/// Whose keys a person may change: a member's own, or, `None`, all of the team.
pub fn only_made_by(user: &User) -> Option<&UserId> {
    (user.role < Role::Admin && !user.is_admin).then_some(&user.id)
}

/// Deletes a key: it is refused from the next request on. Members delete the keys that they made, admins of the team all.
#[utoipa::path(delete, path = "/v1/api-keys/{id}", tag = "api keys", params(("id" = ApiKeyId, Path)),
    responses((status = 204)), security(("bearer" = [])))]
pub async fn delete(State(app): State<App>, user: User, Id(id): Id<ApiKeyId>) -> ApiResult<StatusCode> {
    let now = app.clock.now();
    let made_by = only_made_by(&user);
    match api_keys::delete(&app.db, &user.team, &id, made_by, &user.actor(), &user.origin, now).await? {
        Deleted::Yes => Ok(StatusCode::NO_CONTENT),
        Deleted::NoKey => Err(ApiError::not_found("API key")),
        Deleted::NotTheirs => {
            Err(ApiError::forbidden("somebody else made this key: it takes the role admin in the team"))
        }
    }
}
