//! Sandboxes: create, list, get, delete, pause, resume, ping, timeout, events.

use std::collections::BTreeMap;

use atoll_model::api::Page;
use atoll_model::api::sandboxes::{
    CreateSandboxRequest, ForkError, ForkRequest, ForkResponse, Forked, Sandbox, SandboxEvent, SetNetworkRequest,
    TimeoutRequest,
};
use atoll_model::{SandboxId, SandboxStatus};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::caller::Key;
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Json, Pairs, Query};
use super::page::{Cursor, PageQuery, page};
use super::{idempotent, validate};
use crate::app::App;
use crate::db::Millis;
use crate::sandboxes::store::{self, EventRow, Filter};
use crate::sandboxes::{Child, Paused, Resumed, SandboxError, StepTimes};

/// Creates a sandbox. The answer comes when it runs and answers; its `Server-Timing` header tells where the time went.
#[utoipa::path(post, path = "/v1/sandboxes", tag = "sandboxes", request_body = CreateSandboxRequest,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Sandbox), (status = 404), (status = 409), (status = 429), (status = 502),
        (status = 504)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn create(
    State(app): State<App>,
    Key(owner): Key,
    headers: HeaderMap,
    Json(request): Json<CreateSandboxRequest>,
) -> ApiResult<Response> {
    let key = idempotent::key(&headers, owner.team.as_str(), "sandboxes", &request)?;
    let new =
        validate::new_sandbox(&app.secrets.sealer(&owner.team), request, owner.team_network.as_ref(), key.is_some())?;
    let (service, times) = (app.sandboxes.clone(), new.times.clone());
    let work = async move { Ok(service.create(&owner, new).await?.to_api()) };
    Ok(timed(&times, idempotent::once(&app, key, StatusCode::CREATED, work, Sandbox::clone).await?))
}

/// With where the time went.
fn timed(times: &StepTimes, answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    if let Ok(value) = HeaderValue::from_str(&times.header())
        && !value.is_empty()
    {
        response.headers_mut().insert("server-timing", value);
    }
    response
}

/// Lists the team's sandboxes, newest first; stopped ones only when asked for.
#[utoipa::path(get, path = "/v1/sandboxes", tag = "sandboxes",
    params(PageQuery,
        ("status" = Option<String>, Query,
            pattern = "^(pending|starting|running|pausing|paused|resuming|stopped|missing|error)(,(pending|starting|running|pausing|paused|resuming|stopped|missing|error))*$",
            description = "One or more, separated by commas: `running,paused`"),
        ("metadata" = Option<String>, Query, description = "Labels that must all match, as a query string: `a=1&b=2`")),
    responses((status = 200, body = Page<Sandbox>)), security(("api_key" = []), ("bearer" = [])))]
pub async fn list(
    State(app): State<App>,
    Key(owner): Key,
    Pairs(pairs): Pairs,
) -> ApiResult<axum::Json<Page<Sandbox>>> {
    let (query, filter) = filter(pairs)?;
    let (limit, after) = (query.limit()?, query.cursor()?);
    let after = after.as_ref().map(|cursor| (cursor.at, cursor.id.as_str()));
    let rows = store::list(&app.db, &owner.team, &filter, after, limit as i64 + 1).await?;
    let cursor = |row: &crate::sandboxes::SandboxRecord| Cursor { at: row.created_at, id: row.id.to_string() };
    Ok(axum::Json(page(rows, limit, cursor, |row| row.to_api())))
}

fn filter(pairs: Vec<(String, String)>) -> ApiResult<(PageQuery, Filter)> {
    let (mut query, mut filter) = (PageQuery::default(), Filter::default());
    for (name, value) in pairs {
        match name.as_str() {
            "limit" => {
                let limit = value.parse().map_err(|_| ApiError::invalid("limit", "must be a number"))?;
                query.limit = Some(limit);
            }
            "cursor" => query.cursor = Some(value),
            "status" => {
                for status in value.split(',').filter(|status| !status.is_empty()) {
                    let status = status.parse().map_err(|_| {
                        let known: Vec<_> = SandboxStatus::ALL.iter().map(|status| status.as_str()).collect();
                        ApiError::invalid("status", format!("must be among {}", known.join(", ")))
                    })?;
                    filter.statuses.push(status);
                }
            }
            "metadata" => {
                let labels: BTreeMap<_, _> = form_urlencoded::parse(value.as_bytes()).into_owned().collect();
                if labels.iter().any(|(name, value)| name.contains('\0') || value.contains('\0')) {
                    return Err(ApiError::invalid("metadata", "must not contain a NUL byte"));
                }
                filter.metadata.extend(labels);
            }
            _ => return Err(ApiError::invalid(name, "there is no such parameter")),
        }
    }
    Ok((query, filter))
}

/// One sandbox. A destroyed one stays readable as `stopped`.
#[utoipa::path(get, path = "/v1/sandboxes/{id}", tag = "sandboxes", params(("id" = SandboxId, Path)),
    responses((status = 200, body = Sandbox)), security(("api_key" = []), ("bearer" = [])))]
pub async fn get(State(app): State<App>, Key(owner): Key, Id(id): Id<SandboxId>) -> ApiResult<axum::Json<Sandbox>> {
    let record = store::get(&app.db, &owner.team, &id).await?.ok_or(SandboxError::NotFound)?;
    Ok(axum::Json(record.to_api()))
}

/// Destroys a sandbox. Of one that is stopped already nothing is left to do: 204 as well.
#[utoipa::path(delete, path = "/v1/sandboxes/{id}", tag = "sandboxes", params(("id" = SandboxId, Path)),
    responses((status = 204), (status = 409)), security(("api_key" = []), ("bearer" = [])))]
pub async fn delete(State(app): State<App>, Key(owner): Key, Id(id): Id<SandboxId>) -> ApiResult<StatusCode> {
    app.sandboxes.destroy(&owner, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pauses a running sandbox. Its `Server-Timing` header tells where the time went.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/pause", tag = "sandboxes", params(("id" = SandboxId, Path)),
    responses((status = 200, body = Sandbox), (status = 409), (status = 502)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn pause(State(app): State<App>, Key(owner): Key, Id(id): Id<SandboxId>) -> ApiResult<Response> {
    let Paused { record, kept, freed_bytes, times } = app.sandboxes.pause(&owner, &id).await?;
    let kept = Some(kept).filter(|kept| !kept.is_empty());
    Ok(timed(&times, axum::Json(Sandbox { kept, freed_bytes: Some(freed_bytes), ..record.to_api() })))
}

/// Resumes a paused sandbox. Its `Server-Timing` header tells where the time went.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/resume", tag = "sandboxes", params(("id" = SandboxId, Path)),
    responses((status = 200, body = Sandbox), (status = 409), (status = 502)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn resume(State(app): State<App>, Key(owner): Key, Id(id): Id<SandboxId>) -> ApiResult<Response> {
    let Resumed { record, kept, times } = app.sandboxes.resume(&owner, &id).await?;
    let kept = Some(kept).filter(|kept| !kept.is_empty());
    Ok(timed(&times, axum::Json(Sandbox { kept, ..record.to_api() })))
}

/// Makes children that start from the files that the sandbox has now, each with a result of its own.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/fork", tag = "sandboxes",
    params(("id" = SandboxId, Path), ("Idempotency-Key" = Option<String>, Header)), request_body = ForkRequest,
    responses((status = 201, body = ForkResponse), (status = 409), (status = 429), (status = 502)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn fork(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    headers: HeaderMap,
    Json(request): Json<ForkRequest>,
) -> ApiResult<Response> {
    let route = format!("sandboxes/{id}/fork");
    let key = idempotent::key(&headers, owner.team.as_str(), &route, &request)?;
    let fork = validate::fork(request)?;
    let service = app.sandboxes.clone();
    let work = async move {
        let children = service.fork(&owner, &id, fork).await?;
        let kept = if children.memory { "memory" } else { "files" };
        Ok(ForkResponse { kept: kept.to_owned(), items: children.each.into_iter().map(forked).collect() })
    };
    idempotent::once(&app, key, StatusCode::CREATED, work, ForkResponse::clone).await
}

fn forked(child: Child) -> Forked {
    match child {
        Ok(record) => Forked { sandbox: Some(record.to_api()), error: None },
        Err(error) => {
            let error = ApiError::from(error);
            if let Some(source) = &error.source {
                tracing::warn!(error = &**source as &dyn std::error::Error, "a child could not be made");
            }
            Forked { sandbox: None, error: Some(ForkError { code: error.code, message: error.message.into_owned() }) }
        }
    }
}

/// Replaces what the sandbox may reach, from now on. What is left out is cleared.
#[utoipa::path(put, path = "/v1/sandboxes/{id}/network", tag = "sandboxes", params(("id" = SandboxId, Path)),
    request_body = SetNetworkRequest, responses((status = 200, body = Sandbox), (status = 409), (status = 502)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn network(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    Json(request): Json<SetNetworkRequest>,
) -> ApiResult<axum::Json<Sandbox>> {
    let (internet, policy) = request.into_policy();
    let former = store::get(&app.db, &owner.team, &id).await?.ok_or(SandboxError::NotFound)?.network;
    let network = validate::network(&app.secrets.sealer(&owner.team), internet, policy, Some(&former))?;
    Ok(axum::Json(app.sandboxes.set_network(&owner, &id, network).await?.to_api()))
}

/// Restarts the idle clock.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/ping", tag = "sandboxes", params(("id" = SandboxId, Path)),
    responses((status = 204), (status = 409)), security(("api_key" = []), ("bearer" = [])))]
pub async fn ping(State(app): State<App>, Key(owner): Key, Id(id): Id<SandboxId>) -> ApiResult<StatusCode> {
    let record = store::get(&app.db, &owner.team, &id).await?.ok_or(SandboxError::NotFound)?;
    if record.status().is_final() {
        return Err(SandboxError::InvalidState { attempted: "ping", status: record.status() }.into());
    }
    store::touch(&app.db, &[(id, app.clock.now())]).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sets the idle timeout, and restarts the idle clock.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/timeout", tag = "sandboxes", params(("id" = SandboxId, Path)),
    request_body = TimeoutRequest, responses((status = 200, body = Sandbox), (status = 409)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn timeout(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    Json(request): Json<TimeoutRequest>,
) -> ApiResult<axum::Json<Sandbox>> {
    let seconds = i64::try_from(validate::timeout_sec(request.timeout_sec)?).unwrap_or(i64::MAX);
    Ok(axum::Json(app.sandboxes.set_timeout(&owner, &id, seconds, request.on_timeout).await?.to_api()))
}

/// The sandbox's life so far, oldest first.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/events", tag = "sandboxes", params(("id" = SandboxId, Path), PageQuery),
    responses((status = 200, body = Page<SandboxEvent>)), security(("api_key" = []), ("bearer" = [])))]
pub async fn events(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    Query(query): Query<PageQuery>,
) -> ApiResult<axum::Json<Page<SandboxEvent>>> {
    let (limit, after) = (query.limit()?, query.cursor()?.map_or(0, |cursor| cursor.at.0));
    store::get(&app.db, &owner.team, &id).await?.ok_or(SandboxError::NotFound)?;
    let rows = store::events(&app.db, &id, after, limit as i64 + 1).await?;
    let cursor = |row: &EventRow| Cursor { at: Millis(row.id), id: String::new() };
    Ok(axum::Json(page(rows, limit, cursor, |row| SandboxEvent {
        at: row.at.to_utc(),
        status: row.status.0,
        reason: row.reason,
    })))
}
