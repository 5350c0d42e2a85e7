//! Secrets in E2B's words: make, list, get, set anew, delete; and the placeholder that a sandbox's environment may hold in
//! the place of a value. No answer has a value.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::db::Millis;
use crate::http::caller::Key;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, Pairs};
use crate::http::page::{Cursor, page};
use crate::http::secrets::MAX_VALUE;
use crate::http::validate;
use crate::secrets::store::{self, SecretRow};

const LIMIT: usize = 100;
const NEXT: HeaderName = HeaderName::from_static("x-next-token");
/// What SDKs write around a secret's name.
pub const BEFORE: &str = "${e2b.secrets.";
const AFTER: &str = "}";

/// Never printed: it has a value.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Request {
    name: String,
    value: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
}

impl Request {
    fn value(&self) -> ApiResult<&str> {
        let value = self.value.as_deref().ok_or_else(|| ApiError::invalid("value", "is missing"))?;
        validate::text("value", value, MAX_VALUE)?;
        if let Some(metadata) = &self.metadata {
            validate::metadata(metadata)?;
        }
        Ok(value)
    }
}

fn shown(row: &SecretRow) -> Value {
    json!({
        "secretID": row.id.as_str(),
        "name": row.name,
        "currentVersion": row.version,
        "metadata": row.metadata.0,
        "createdAt": row.created_at.to_utc(),
        "updatedAt": row.updated_at.to_utc(),
    })
}

/// Keeps a value under a name that is new.
pub async fn create(
    State(app): State<App>,
    Key(owner): Key,
    Json(request): Json<Request>,
) -> ApiResult<(StatusCode, axum::Json<Value>)> {
    validate::secret_name("name", &request.name)?;
    let value = request.value()?.to_owned().into();
    let made = app.secrets.set(&owner, &request.name, &value, request.metadata, false).await?;
    Ok((StatusCode::CREATED, axum::Json(shown(&made))))
}

/// A page of the team's secrets, oldest first.
pub async fn list(State(app): State<App>, Key(owner): Key, Pairs(pairs): Pairs) -> ApiResult<Response> {
    let (mut limit, mut after) = (LIMIT, Cursor { at: Millis(i64::MIN), id: String::new() });
    for (key, value) in pairs {
        match key.as_str() {
            "limit" => {
                let parsed = value.parse().ok().filter(|limit| (1..=LIMIT).contains(limit));
                limit = parsed.ok_or_else(|| ApiError::invalid("limit", format!("must be between 1 and {LIMIT}")))?;
            }
            "nextToken" if !value.is_empty() => after = Cursor::decode(&value)?,
            _ => {}
        }
    }
    let rows = store::list(&app.db, &owner.team, (after.at, &after.id), limit as i64 + 1).await?;
    let cursor = |row: &SecretRow| Cursor { at: row.created_at, id: row.id.to_string() };
    let found = page(rows, limit, cursor, |row| shown(&row));
    let mut response = axum::Json(found.items).into_response();
    if let Some(next) = found.next_cursor.and_then(|next| HeaderValue::from_str(&next).ok()) {
        response.headers_mut().insert(NEXT, next);
    }
    Ok(response)
}

/// One secret, by name or id.
pub async fn get(State(app): State<App>, Key(owner): Key, Path(id): Path<String>) -> ApiResult<axum::Json<Value>> {
    let found = if id.contains('\0') { None } else { store::find(&app.db, &owner.team, &id).await? };
    found.map(|row| axum::Json(shown(&row))).ok_or_else(|| ApiError::not_found("secret"))
}

/// Sets the value anew. Sandboxes that have the former one keep it.
pub async fn update(
    State(app): State<App>,
    Key(owner): Key,
    Path(id): Path<String>,
    Json(request): Json<Request>,
) -> ApiResult<axum::Json<Value>> {
    let value = request.value()?.to_owned().into();
    if id.contains('\0') {
        return Err(ApiError::not_found("secret"));
    }
    let set = app.secrets.update(&owner, &id, &value, request.metadata).await?;
    Ok(axum::Json(shown(&set)))
}

/// Deletes a secret. Sandboxes that have it keep it.
pub async fn delete(State(app): State<App>, Key(owner): Key, Path(id): Path<String>) -> ApiResult<StatusCode> {
    if id.contains('\0') {
        return Err(ApiError::not_found("secret"));
    }
    app.secrets.delete(&owner, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An environment, and the variables of it that are to get their values from secrets: those that are a placeholder.
pub fn in_environment(
    variables: BTreeMap<String, String>,
) -> ApiResult<(BTreeMap<String, String>, BTreeMap<String, String>)> {
    let (mut plain, mut secret) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in variables {
        match value.strip_prefix(BEFORE).and_then(|rest| rest.strip_suffix(AFTER)) {
            Some(of) if !of.contains(['$', '{', '}']) => {
                secret.insert(name, of.to_owned());
            }
            _ if value.contains(BEFORE) => {
                let message = "a secret must be the whole value of a variable";
                return Err(ApiError::invalid(format!("envVars.{name}"), message));
            }
            _ => {
                plain.insert(name, value);
            }
        }
    }
    Ok((plain, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_is_a_secret_when_it_is_all_that_there_is() {
        let of = |value: &str| in_environment(BTreeMap::from([("A".to_owned(), value.to_owned())]));
        let (plain, secret) = of("${e2b.secrets.openai-key}").unwrap();
        assert!(plain.is_empty() && secret["A"] == "openai-key");
        for value in ["", "x", "$HOME", "${e2b.other}", "${e2b.secrets"] {
            assert_eq!(of(value).unwrap().0["A"], value);
        }
        for value in ["Bearer ${e2b.secrets.a}", "${e2b.secrets.a}${e2b.secrets.b}", "${e2b.secrets.a"] {
            assert!(of(value).is_err(), "{value}");
        }
    }
}
