//! The API that E2B's SDKs speak to a platform, as an adapter over the same services as `/v1`: under the path `/e2b`, and
//! under the host name `api.{domain}`.
//!
//! `wire` has the shapes, `reference` what a path may call a sandbox, `sandboxes` their lives, `lists` the lists, `insight`
//! metrics and logs, `snapshots` snapshots and forks. Errors are the ones of `/v1` with the same statuses, written in
//! E2B's shape by the edge. It decides nothing by itself and never talks to a host or a guest. What goes into a sandbox
//! (files, programs, ports) doesn't come through here but through `ports`.

mod insight;
mod lists;
mod reference;
mod sandboxes;
mod snapshots;
#[cfg(test)]
mod tests;
mod wire;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::http::header::HOST;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use tower::ServiceExt;

use super::edge::{self, Dialect};
use super::error::ApiError;
use super::ports::target::without_port;
use crate::app::App;

/// Largest body; what is larger goes into sandboxes directly.
const BODY: usize = 1 << 20;

/// The routes, without the `/e2b` before them.
pub fn router(app: &App) -> Router<App> {
    Router::new()
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
        .route("/templates/{id}", delete(snapshots::delete))
        .fallback(|| async { ApiError::not_found("route") })
        .layer(from_fn_with_state(app.clone(), edge::deadline))
        .layer(DefaultBodyLimit::max(BODY))
        .layer(from_fn(in_its_dialect))
}

/// Marks every answer, so that the edge writes errors as E2B's SDKs expect them.
async fn in_its_dialect(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.extensions_mut().insert(Dialect::E2b);
    response
}

/// Takes requests for `api.{domain}`, and leaves all others to the routes of our own.
pub async fn by_host(State((app, routes)): State<(App, Router)>, request: Request, next: Next) -> Response {
    match domain_of(&request) {
        Some(domain) if without_port(&domain).eq_ignore_ascii_case(without_port(&app.config.domain)) => {
            routes.oneshot(request).await.unwrap_or_else(|never| match never {})
        }
        _ => next.run(request).await,
    }
}

/// What follows `api.` in the host name of the request, with its port if it names one.
fn domain_of<B>(request: &axum::http::Request<B>) -> Option<String> {
    let named = request.uri().authority().map(|authority| authority.as_str());
    let host = named.or_else(|| request.headers().get(HOST).and_then(|value| value.to_str().ok()))?;
    let (first, rest) = host.split_at_checked(4)?;
    first.eq_ignore_ascii_case("api.").then(|| rest.to_owned())
}
