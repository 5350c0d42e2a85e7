//! The HTTP floor: routes, who asks, the shape of errors, the OpenAPI, the dashboard's files.
//!
//! One thin file per subject. A handler unwraps the request, calls a service, and converts the answer. `caller` says
//! who asks, `extract` and `validate` what was asked, `error`, `convert` and `edge` what is said when it fails,
//! `listener` how connections come in.

#[cfg(test)]
mod account_tests;
mod admin;
mod agent_files;
mod agents;
mod api_keys;
mod audit;
mod auth;
#[cfg(test)]
mod bandwidth_tests;
mod browser;
pub mod caller;
pub mod convert;
mod dashboard;
#[cfg(test)]
mod dashboard_tests;
mod device;
mod e2b;
mod edge;
mod egress_proxy;
mod elsewhere;
pub mod error;
mod events;
mod exec;
pub mod extract;
mod files;
mod forms;
mod guest;
mod health;
mod host_rights;
#[cfg(test)]
mod host_tests;
mod hosts;
#[cfg(test)]
mod idempotency_tests;
pub mod idempotent;
mod identities;
mod insight;
mod invitations;
#[cfg(test)]
mod link_tests;
mod links;
pub mod listener;
#[cfg(test)]
mod lying_tests;
#[cfg(test)]
mod matrix_bodies;
#[cfg(test)]
mod matrix_rows;
#[cfg(test)]
mod matrix_tests;
mod me;
mod members;
pub mod metrics;
mod multipart;
mod openapi;
pub mod page;
mod passwords;
mod patience;
pub mod places;
mod ports;
mod processes;
mod program;
mod registry;
mod sandboxes;
mod secrets;
#[cfg(test)]
mod sign_in_tests;
mod signals;
pub mod site;
mod snapshots;
mod streams;
mod strict;
mod team_network;
mod teams;
mod templates;
#[cfg(test)]
mod tests;
mod transfer;
mod tunnels;
mod usage;
pub mod validate;
mod volumes;
mod watch;
mod webhooks;

pub use events::Listeners;
pub use ports::Lookup;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::app::App;

/// Largest JSON body of most routes.
const JSON_BODY: usize = 1 << 20;
/// Of an exec: a command line that is too long for Linux is told so by name, not by its size.
const EXEC_BODY: usize = 12 << 20;

/// Routes that answer soon.
fn quick() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(api_keys::create, api_keys::list))
        .routes(routes!(api_keys::delete))
        .merge(templates::routes())
        .routes(routes!(sandboxes::get, sandboxes::delete))
        .routes(routes!(sandboxes::create, sandboxes::list))
        .routes(routes!(sandboxes::pause))
        .routes(routes!(sandboxes::resume))
        .routes(routes!(sandboxes::ping))
        .routes(routes!(sandboxes::timeout))
        .routes(routes!(sandboxes::events))
        .routes(routes!(links::create))
        .routes(routes!(sandboxes::network))
        .routes(routes!(insight::metrics))
        .routes(routes!(insight::logs))
        .routes(routes!(processes::list))
        .routes(routes!(processes::kill))
        .routes(routes!(files::list))
        .routes(routes!(files::mkdir))
        .routes(routes!(files::remove))
        .routes(routes!(files::rename))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(metrics::metrics))
        .merge(auth::routes())
        .merge(me::routes())
        .merge(snapshots::routes())
        .merge(secrets::routes())
        .merge(volumes::routes())
        .merge(device::routes())
        .merge(elsewhere::routes())
        .merge(invitations::routes())
        .merge(passwords::routes())
        .merge(hosts::routes())
        .merge(agents::routes())
        .merge(identities::routes())
        .merge(teams::routes())
        .merge(team_network::routes())
        .merge(members::routes())
        .merge(admin::routes())
        .merge(audit::routes())
        .merge(usage::routes())
        .merge(webhooks::routes())
}

/// Routes that take as long as their program, stream or file does.
fn long() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(sandboxes::fork))
        .routes(routes!(streams::exec_stream))
        .routes(routes!(streams::pty))
        .routes(routes!(watch::watch))
        .routes(routes!(events::events))
        .routes(routes!(transfer::read))
        .routes(routes!(transfer::read_stream, transfer::read_query))
        .merge(templates::streams())
        .merge(agent_files::routes())
        .merge(tunnels::routes())
}

fn uploads() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(transfer::write_multipart)).routes(routes!(transfer::write_stream))
}

/// All routes with their documentation.
fn documented(app: &App) -> OpenApiRouter<App> {
    let quick = quick().layer(from_fn_with_state(app.clone(), edge::deadline)).layer(DefaultBodyLimit::max(JSON_BODY));
    let long = long().layer(DefaultBodyLimit::max(JSON_BODY));
    let exec = OpenApiRouter::new().routes(routes!(exec::exec)).layer(DefaultBodyLimit::max(EXEC_BODY));
    // Bounded by the largest file, and never held in memory.
    let uploads = uploads().merge(templates::uploads()).layer(DefaultBodyLimit::disable());
    OpenApiRouter::with_openapi(openapi::base(app.config.version)).merge(quick).merge(long).merge(exec).merge(uploads)
}

/// The whole HTTP service.
pub fn router(app: App) -> Router {
    let (router, api) = documented(&app).split_for_parts();
    let api = openapi::complete(api);
    let e2b = e2b::router(&app);
    let e2b_host = e2b.clone().with_state(app.clone());
    let own = router
        .nest("/e2b", e2b)
        .merge(registry::router())
        .merge(SwaggerUi::new("/docs").url("/openapi.json", api))
        .fallback(dashboard::serve)
        .with_state(app.clone());
    // Around our own routes and not a layer of them: what such a route takes from a path would count as the dialect's.
    Router::new()
        .fallback_service(own)
        .layer(from_fn_with_state((app.clone(), e2b_host), e2b::by_host))
        .layer(from_fn_with_state(app.clone(), edge::edge))
        .layer(from_fn_with_state(app, ports::route))
}
