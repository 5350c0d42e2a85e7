//! Teams and their API keys in E2B's words, for a signed-in person: what E2B's own dashboard and command line ask for. Of
//! accounts' access tokens, which E2B has given up for API keys, only that there are none.

use atoll_model::{ApiKeyId, ErrorCode};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api_keys::{self, KeyRow, NewKey};
use crate::app::App;
use crate::db::Millis;
use crate::http::caller::User;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Id, Json};
use crate::http::{api_keys as routes, validate};
use crate::teams;

/// Teams or keys in one answer: there are no pages.
const MOST: i64 = 1000;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Named {
    name: String,
}

/// The person's teams. Keys are shown once, when they are made: there is none to be told here.
pub async fn teams(State(app): State<App>, user: User) -> ApiResult<axum::Json<Vec<Value>>> {
    let teams = teams::of_user(&app.db, &user.id, "", MOST).await?;
    let shown = |team: teams::TeamRow| {
        let is_default = team.id.0 == user.team;
        json!({ "teamID": team.id.as_str(), "name": team.name, "apiKey": "", "isDefault": is_default })
    };
    Ok(axum::Json(teams.into_iter().map(shown).collect()))
}

/// What of a key may be shown: its beginning, which is the same in both forms but for the first four characters.
fn mask(prefix: &str) -> Value {
    let shown = prefix.split_once('_').map_or(prefix, |(_, shown)| shown);
    json!({ "prefix": "e2b_", "valueLength": 32, "maskedValuePrefix": shown, "maskedValueSuffix": "" })
}

fn shown(key: &KeyRow) -> Value {
    json!({
        "id": key.id.as_str(),
        "name": key.name,
        "mask": mask(&key.key_prefix),
        "createdAt": key.created_at.to_utc(),
        "lastUsed": key.last_used_at.map(Millis::to_utc),
        "createdBy": Value::Null,
    })
}

/// The team's keys, oldest first, without their secrets.
pub async fn list(State(app): State<App>, user: User) -> ApiResult<axum::Json<Vec<Value>>> {
    let keys = api_keys::list(&app.db, &user.team, (Millis(i64::MIN), ""), MOST).await?;
    Ok(axum::Json(keys.iter().map(shown).collect()))
}

/// Makes a key. It is in this answer and never again.
pub async fn create(
    State(app): State<App>,
    user: User,
    Json(request): Json<Named>,
) -> ApiResult<(StatusCode, axum::Json<Value>)> {
    validate::line("name", &request.name, 100)?;
    let now = app.clock.now();
    let mut tx = app.db.begin().await?;
    if api_keys::is_full(&mut tx, &user.team).await? {
        return Err(routes::too_many());
    }
    let new = NewKey::unlimited(&user.team, &request.name, Some(&user.id));
    let made = api_keys::insert(&mut tx, &new, &user.actor(), &user.origin, now).await?;
    tx.commit().await?;
    let key = api_keys::e2b_form(&made.secret).unwrap_or_else(|| made.secret.expose_secret().to_owned());
    let answer = json!({
        "id": made.id.as_str(),
        "name": request.name,
        "key": key,
        "mask": mask(&made.prefix),
        "createdAt": now.to_utc(),
        "lastUsed": Value::Null,
        "createdBy": Value::Null,
    });
    Ok((StatusCode::CREATED, axum::Json(answer)))
}

/// Gives a key another name: members the keys that they made, admins of the team all.
pub async fn rename(
    State(app): State<App>,
    user: User,
    Path(id): Path<String>,
    Json(request): Json<Named>,
) -> ApiResult<StatusCode> {
    validate::line("name", &request.name, 100)?;
    let id: ApiKeyId = id.parse()?;
    let now = app.clock.now();
    let (actor, made_by) = (user.actor(), routes::only_made_by(&user));
    if api_keys::rename(&app.db, &user.team, &id, &request.name, made_by, (&actor, &user.origin), now).await? {
        Ok(StatusCode::OK)
    } else {
        Err(ApiError::not_found("API key"))
    }
}

/// Deletes a key, by the same rules as `DELETE /v1/api-keys/{id}`.
pub async fn delete(state: State<App>, user: User, Path(id): Path<String>) -> ApiResult<StatusCode> {
    routes::delete(state, user, Id(id.parse()?)).await
}

/// Says what there is in the place of access tokens, to whoever is signed in.
pub async fn no_access_tokens(_: User) -> ApiError {
    let message = "there are no access tokens here: make an API key instead (POST /api-keys, or `atoll key create`)";
    ApiError { status: Some(StatusCode::GONE), ..ApiError::new(ErrorCode::NotFound, message) }
}
