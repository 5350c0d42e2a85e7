//! Secrets: set, list, delete. No route reads a value.

use atoll_model::ErrorCode;
use atoll_model::api::Page;
use atoll_model::api::secrets::{CreateSecretRequest, Secret};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::json;
use std::time::Duration;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::caller::Key;
use super::error::{ApiError, ApiResult};
use super::extract::{Json, Query};
use super::page::{Cursor, PageQuery, page};
use super::snapshots::Overwrite;
use super::{idempotent, validate};
use crate::app::App;
use crate::db::Millis;
use crate::secrets::{MAX_SECRETS, SecretError, store};

pub(super) const MAX_VALUE: usize = 65_536;

/// All routes of this file.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(delete))
}

impl From<SecretError> for ApiError {
    fn from(error: SecretError) -> Self {
        let message = error.to_string();
        match error {
            SecretError::NotFound(_) => Self::new(ErrorCode::NotFound, message),
            SecretError::NoIdentity(_) => Self::invalid("network.headers", message),
            SecretError::NotForHeader(_) => Self::new(ErrorCode::NotFound, message).with_field("network.headers"),
            SecretError::NameTaken(_) => Self::new(ErrorCode::NameTaken, message).with_field("name"),
            SecretError::TooMany => Self::new(ErrorCode::QuotaExceeded, message)
                .with_detail("quota", "secrets")
                .with_detail("used", MAX_SECRETS)
                .with_detail("limit", MAX_SECRETS)
                .with_retry_after(Duration::from_secs(60)),
            SecretError::Unfit { .. } => Self::invalid("network.headers", message),
            SecretError::NotForProxy(_) => {
                Self::new(ErrorCode::NotFound, message).with_field("network.egress_proxy.password")
            }
            SecretError::UnfitForProxy => Self::invalid("network.egress_proxy.password", message),
            SecretError::Db(error) => error.into(),
            error @ (SecretError::Seal { .. } | SecretError::Open { .. }) => Self::internal(error),
        }
    }
}

/// Keeps a value under a name. Sandboxes get it when `secrets` at their creation names it; it is never read back.
#[utoipa::path(post, path = "/v1/secrets", tag = "secrets", request_body = CreateSecretRequest,
    params(Overwrite, ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Secret), (status = 409), (status = 429)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn create(
    State(app): State<App>,
    Key(owner): Key,
    Query(query): Query<Overwrite>,
    headers: HeaderMap,
    Json(request): Json<CreateSecretRequest>,
) -> ApiResult<Response> {
    validate::secret_name("name", &request.name)?;
    validate::text("value", &request.value, MAX_VALUE)?;
    // What is remembered of the request must not let anybody guess the value.
    let shown = json!({ "name": request.name, "value": app.secrets.cipher().fingerprint(&request.value) });
    let key = idempotent::key(&headers, owner.team.as_str(), "secrets", &shown)?;
    let service = app.secrets.clone();
    let work = async move {
        let value = request.value.into();
        Ok(service.set(&owner, &request.name, &value, None, query.overwrite).await?.into_api())
    };
    idempotent::once(&app, key, StatusCode::CREATED, work, Secret::clone).await
}

/// Lists the team's secrets, oldest first, without their values.
#[utoipa::path(get, path = "/v1/secrets", tag = "secrets", params(PageQuery),
    responses((status = 200, body = Page<Secret>)), security(("api_key" = []), ("bearer" = [])))]
pub async fn list(
    State(app): State<App>,
    Key(owner): Key,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<Secret>>> {
    let limit = query.limit()?;
    let after = query.cursor()?.unwrap_or(Cursor { at: Millis(i64::MIN), id: String::new() });
    let rows = store::list(&app.db, &owner.team, (after.at, &after.id), limit as i64 + 1).await?;
    let cursor = |row: &store::SecretRow| Cursor { at: row.created_at, id: row.id.to_string() };
    Ok(axum::Json(page(rows, limit, cursor, store::SecretRow::into_api)))
}

/// Deletes a secret. Sandboxes that have it keep it.
#[utoipa::path(delete, path = "/v1/secrets/{name}", tag = "secrets",
    params(("name" = String, Path, description = "A name or an id")), responses((status = 204), (status = 404)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn delete(State(app): State<App>, Key(owner): Key, Path(name): Path<String>) -> ApiResult<StatusCode> {
    if name.contains('\0') {
        return Err(ApiError::not_found("secret"));
    }
    app.secrets.delete(&owner, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
