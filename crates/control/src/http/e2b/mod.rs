//! The API that E2B's SDKs speak to a platform, as an adapter over the same services as `/v1`: under the path `/e2b`, and
//! under the host name `api.{domain}`.
//!
//! `wire` has the shapes, `reference` what a path may call a sandbox, `sandboxes` their lives, `lists` the lists, `insight`
//! metrics and logs, `activity` how busy a team was, `snapshots` snapshots and forks, `templates` and `builds` what sandboxes
//! are made of (`pushed` builds of images that clients push, `template_wire` their shapes, `names` what they are called, `tag_history` what their tags were given to),
//! `volumes` what they mount and `volume_files` what is in that, `secrets` what
//! is in their environments, `keys` teams and API keys. Errors are the ones of `/v1` with the same statuses, written in
//! E2B's shape by the edge, with the words of `errors`. It decides nothing by itself. What goes into a sandbox (files, programs, ports) doesn't come
//! through here but through `ports`.

mod activity;
mod builds;
pub(super) mod errors;
mod insight;
#[cfg(test)]
mod keeping_tests;
mod keys;
mod lists;
mod names;
mod pushed;
mod reference;
mod sandboxes;
mod secrets;
mod snapshots;
mod tag_history;
#[cfg(test)]
mod template_tests;
mod template_wire;
mod templates;
#[cfg(test)]
mod tests;
mod volume_files;
mod volumes;
mod wire;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::HOST;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{delete, get, patch, post, put};
use tower::ServiceExt;

use self::volume_files as inside;
use super::edge::{self, Dialect};
use super::error::ApiError;
use super::ports::target::without_port;
use crate::app::App;

/// Largest body; what is larger goes into sandboxes directly.
const BODY: usize = 1 << 20;

/// The routes, without the `/e2b` before them.
pub fn router(app: &App) -> Router<App> {
    let quick = Router::new()
        .route("/health", get(|| async { StatusCode::NO_CONTENT }))
        .route("/sandboxes", post(sandboxes::create).get(lists::running))
        .route("/v2/sandboxes", post(sandboxes::create).get(lists::page))
        .route("/sandboxes/metrics", get(insight::metrics_of_many))
        .route("/sandboxes/{id}", get(sandboxes::get).delete(sandboxes::kill))
        .route("/sandboxes/{id}/timeout", post(sandboxes::timeout))
        .route("/sandboxes/{id}/refreshes", post(sandboxes::refresh))
        .route("/sandboxes/{id}/pause", post(sandboxes::pause))
        .route("/sandboxes/{id}/resume", post(sandboxes::resume))
        .route("/sandboxes/{id}/connect", post(sandboxes::connect))
        .route("/v2/sandboxes/{id}/connect", post(sandboxes::connect))
        .route("/sandboxes/{id}/network", put(sandboxes::network))
        .route("/sandboxes/{id}/metrics", get(insight::metrics))
        .route("/sandboxes/{id}/logs", get(insight::logs))
        .route("/v2/sandboxes/{id}/logs", get(insight::log_entries))
        .route("/sandboxes/{id}/fork", post(snapshots::fork))
        .route("/sandboxes/{id}/snapshots", post(snapshots::create))
        .route("/snapshots", get(snapshots::list))
        .route("/volumes", get(volumes::list).post(volumes::create))
        .route("/volumes/{id}", get(volumes::get).delete(volumes::delete))
        .route("/secrets", get(secrets::list).post(secrets::create))
        .route("/secrets/{id}", get(secrets::get).post(secrets::update).delete(secrets::delete))
        .route("/teams", get(keys::teams))
        .route("/teams/{id}/metrics", get(activity::over_time))
        .route("/teams/{id}/metrics/max", get(activity::most))
        .route("/api-keys", get(keys::list).post(keys::create))
        .route("/api-keys/{id}", patch(keys::rename).delete(keys::delete))
        .route("/access-tokens", post(keys::no_access_tokens))
        .route("/access-tokens/{id}", delete(keys::no_access_tokens))
        .merge(of_templates())
        .fallback(|| async { ApiError::not_found("route") })
        .layer(from_fn_with_state(app.clone(), edge::deadline))
        .layer(DefaultBodyLimit::max(BODY));
    // Bounded by itself, and never held in memory.
    let uploads = Router::new().route("/uploads/{ticket}", put(builds::upload));
    let files = of_volumes().layer(from_fn(in_the_dialect_of_volumes));
    quick.merge(uploads).layer(from_fn(in_its_dialect)).merge(files)
}

/// What is in volumes. Files' contents are bounded by themselves, and never held in memory.
fn of_volumes() -> Router<App> {
    Router::new()
        .route("/volumecontent/{id}/path", get(inside::stat).patch(inside::update).delete(inside::remove))
        .route("/volumecontent/{id}/dir", get(inside::list).post(inside::make_dir))
        .route("/volumecontent/{id}/file", get(inside::read).put(inside::write))
        .layer(DefaultBodyLimit::disable())
}

fn of_templates() -> Router<App> {
    Router::new()
        .route("/v3/templates", post(templates::create))
        .route("/v2/templates", post(templates::create_by_alias).get(templates::list))
        .route("/templates", get(templates::list).post(pushed::create))
        .route("/default-templates", get(templates::defaults))
        .route("/templates/aliases/{alias}", get(templates::by_alias))
        .route("/templates/tags", post(templates::assign).delete(templates::remove))
        .route("/templates/{id}", get(templates::get).patch(templates::update).delete(templates::delete))
        .route("/templates/{id}", post(pushed::again))
        .route("/v2/templates/{id}", patch(templates::update))
        .route("/templates/{id}/tags", get(templates::list_tags))
        .route("/templates/{id}/tags/count", get(templates::count_tags))
        .route("/templates/{id}/tags/exists", get(templates::has_tag))
        .route("/templates/{id}/tags/groups", get(tag_history::groups))
        .route("/templates/{id}/tags/{tag}/assignments", get(tag_history::of_tag))
        .route("/templates/{id}/files/{hash}", get(builds::files))
        .route("/v2/templates/{id}/builds/{build}", post(builds::start))
        .route("/templates/{id}/builds/{build}", post(pushed::start))
        .route("/templates/{id}/builds/{build}/status", get(builds::status))
        .route("/templates/{id}/builds/{build}/logs", get(builds::logs))
}

/// Marks every answer, so that the edge writes errors as E2B's SDKs expect them.
async fn in_its_dialect(request: Request, next: Next) -> Response {
    let may_be_repeated = errors::may_be_repeated(&request);
    let mut response = next.run(request).await;
    errors::say_whether_to_retry(&mut response, may_be_repeated);
    response.extensions_mut().insert(Dialect::E2b);
    response
}

async fn in_the_dialect_of_volumes(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.extensions_mut().insert(Dialect::E2bVolume);
    response
}

/// Takes requests for `api.{domain}`, and leaves all others to the routes of our own.
pub async fn by_host(State((app, routes)): State<(App, Router)>, request: Request, next: Next) -> Response {
    if is_by_host(&app, request.uri(), request.headers()) {
        return routes.oneshot(request).await.unwrap_or_else(|never| match never {});
    }
    next.run(request).await
}

/// Whether a request is for `api.{domain}`.
fn is_by_host(app: &App, uri: &Uri, headers: &HeaderMap) -> bool {
    let domain = domain_of(uri, headers);
    domain.is_some_and(|domain| without_port(&domain).eq_ignore_ascii_case(without_port(&app.config.domain)))
}

/// What follows `api.` in the host name of the request, with its port if it names one.
fn domain_of(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let named = uri.authority().map(|authority| authority.as_str());
    let host = named.or_else(|| headers.get(HOST).and_then(|value| value.to_str().ok()))?;
    let (first, rest) = host.split_at_checked(4)?;
    first.eq_ignore_ascii_case("api.").then(|| rest.to_owned())
}
