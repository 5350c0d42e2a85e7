//! Snapshots and forks in E2B's words.

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::reference::{self, Sandbox as Named};
use super::sandboxes::{Domain, shown, without_tag};
use super::{names, wire};
use crate::app::App;
use crate::builds::DEFAULT_TAG;
use crate::http::caller::Key;
use crate::http::error::{ApiError, ApiResult};
use crate::http::extract::{Json, Pairs};
use crate::http::page::{Cursor, page};
use crate::sandboxes::{Fork, MAX_CHILDREN};
use crate::templates::store::{self, Template, WantedSnapshots};

/// Seconds that a fork lives when the client doesn't say.
const FORK_LIFETIME: i64 = 300;
const LIMIT: usize = 100;
const NEXT: HeaderName = HeaderName::from_static("x-next-token");

/// Forks a sandbox: a result for each child.
pub async fn fork(
    State(app): State<App>,
    named: Named,
    domain: Domain,
    Json(options): Json<wire::Options>,
) -> ApiResult<(StatusCode, axum::Json<Vec<Value>>)> {
    let count = options.count.unwrap_or(1);
    if !(1..=MAX_CHILDREN).contains(&count) {
        return Err(ApiError::invalid("count", format!("must be between 1 and {MAX_CHILDREN}")));
    }
    let seconds = options.timeout.unwrap_or(FORK_LIFETIME).clamp(1, 31_536_000).unsigned_abs();
    named.find(&app).await?;
    let fork = Fork { count, timeout_sec: Some(0), lifetime_sec: Some(seconds), metadata: None };
    let mut results = Vec::new();
    for child in app.sandboxes.fork(&named.owner, &named.id, fork).await?.each {
        results.push(match child {
            Ok(record) => json!({ "sandbox": shown(&record, &domain) }),
            Err(error) => {
                let error = ApiError::from(error);
                json!({ "error": { "code": error.status().as_u16(), "message": error.message } })
            }
        });
    }
    Ok((StatusCode::CREATED, axum::Json(results)))
}

fn info(name: &str) -> wire::SnapshotInfo {
    wire::SnapshotInfo { snapshot_id: format!("{name}:default"), names: vec![name.to_owned()] }
}

/// Keeps the files of a sandbox.
pub async fn create(State(app): State<App>, named: Named, Json(options): Json<wire::Options>) -> ApiResult<Response> {
    named.find(&app).await?;
    let name = match &options.name {
        Some(name) => {
            let target = names::target(&app, &named.owner, "name", name).await?;
            let target = target.ok_or_else(|| ApiError::forbidden("this namespace is not your team's"))?;
            if target.tag() != DEFAULT_TAG {
                return Err(ApiError::invalid("name", format!("a snapshot has no other tag than `{DEFAULT_TAG}`")));
            }
            Some(target.name)
        }
        None => None,
    };
    // What can't keep memory is kept without, unless it is not wanted anyway.
    let memory = options.memory.filter(|wanted| !wanted);
    let made = app.snapshots.create(&named.owner, &named.id, name, true, memory).await?;
    Ok((StatusCode::CREATED, axum::Json(info(&made.name))).into_response())
}

/// A page of the team's snapshots, newest first.
pub async fn list(State(app): State<App>, Key(owner): Key, Pairs(pairs): Pairs) -> ApiResult<Response> {
    let (mut limit, mut after, mut sandbox, mut name) = (LIMIT, None, None, None);
    for (key, value) in pairs {
        match key.as_str() {
            "limit" => {
                let parsed = value.parse().ok().filter(|limit| (1..=LIMIT).contains(limit));
                limit = parsed.ok_or_else(|| ApiError::invalid("limit", format!("must be between 1 and {LIMIT}")))?;
            }
            "nextToken" if !value.is_empty() => after = Some(Cursor::decode(&value)?),
            "sandboxID" if !value.is_empty() => match reference::parse(&value)? {
                Some(id) => sandbox = Some(id),
                None => return Ok(axum::Json([(); 0]).into_response()),
            },
            "name" if !value.is_empty() => {
                let wanted = names::without_namespace(&app, &owner, &value).await?;
                name = Some(wanted.map_or(value, |name| without_tag(&name).to_owned()));
            }
            _ => {}
        }
    }
    let after = after.map(|cursor: Cursor| (cursor.at, cursor.id));
    let wanted = WantedSnapshots { sandbox, name, after };
    let rows = store::snapshots(&app.db, &owner.team, &wanted, limit + 1).await?;
    let found = page(rows, limit, |row: &Template| Cursor { at: row.created_at, id: row.id.to_string() }, |row| row);
    let items: Vec<_> = found.items.iter().map(|row| info(&row.name)).collect();
    let mut response = axum::Json(items).into_response();
    if let Some(next) = found.next_cursor.and_then(|next| HeaderValue::from_str(&next).ok()) {
        response.headers_mut().insert(NEXT, next);
    }
    Ok(response)
}
