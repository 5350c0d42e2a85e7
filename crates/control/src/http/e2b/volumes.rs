//! Volumes in E2B's words: make, list, get, delete. What is in one is [`super::volume_files`]' business.

use atoll_model::VolumeId;
use atoll_model::api::volumes::VolumeMode;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};

use super::sandboxes::Domain;
use crate::app::App;
use crate::audit::Owner;
use crate::db::Millis;
use crate::http::caller::Key;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::Json;
use crate::http::volumes;
use crate::volumes::store::{self, VolumeRow};
use crate::volumes::token::{self, Claims};

/// More than a team can have: there are no pages.
const MOST: i64 = 10_000;
const MAX_NAME: usize = 64;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Named {
    name: String,
}

/// The team's volumes, oldest first.
pub async fn list(State(app): State<App>, Key(owner): Key) -> ApiResult<axum::Json<Vec<Value>>> {
    let rows = store::list(&app.db, &owner.team, (Millis(i64::MIN), ""), MOST).await?;
    Ok(axum::Json(rows.iter().map(|row| json!({ "volumeID": row.id.as_str(), "name": row.name })).collect()))
}

/// Makes a volume of the usual size, that many sandboxes can mount.
pub async fn create(
    State(app): State<App>,
    Key(owner): Key,
    domain: Domain,
    Json(request): Json<Named>,
) -> ApiResult<(StatusCode, axum::Json<Value>)> {
    let name = request.name;
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(known) {
        return Err(ApiError::invalid("name", format!("must have 1 to {MAX_NAME} letters, digits, `-` and `_`")));
    }
    let made = app.volumes.create(&owner, &name, volumes::DEFAULT_SIZE_MB, VolumeMode::Shared).await?;
    Ok((StatusCode::CREATED, axum::Json(shown(&app, owner, &domain, made.id, &made.name)?)))
}

/// One volume, by id or name.
pub async fn get(
    State(app): State<App>,
    Key(owner): Key,
    domain: Domain,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<Value>> {
    let row = find(&app, &owner, &id).await?;
    Ok(axum::Json(shown(&app, owner, &domain, row.id.0, &row.name)?))
}

/// Deletes a volume with its files, unless a sandbox has it mounted.
pub async fn delete(State(app): State<App>, Key(owner): Key, Path(id): Path<String>) -> ApiResult<StatusCode> {
    let row = find(&app, &owner, &id).await?;
    volumes::remove(&app, &owner, row.id.as_str()).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn find(app: &App, owner: &Owner, id: &str) -> ApiResult<VolumeRow> {
    let found = if id.contains('\0') { None } else { store::find(&app.db, &owner.team, id).await? };
    found.ok_or_else(|| ApiError::not_found("volume"))
}

/// A volume with the token for its files, which are asked for below the domain that the client has called.
fn shown(app: &App, owner: Owner, domain: &Domain, id: VolumeId, name: &str) -> ApiResult<Value> {
    let claims = Claims { sub: id, team: owner.team };
    let token = token::issue(app.accounts.tokens().keys(), &claims, app.clock.now()).map_err(ApiError::internal)?;
    Ok(json!({
        "volumeID": claims.sub.as_str(),
        "name": name,
        "token": token.expose_secret(),
        "domain": domain.name(),
    }))
}
