//! Where a port of a sandbox is reached from outside: its host name, and a signed link that opens it.

use std::time::Duration;

use atoll_model::SandboxId;
use atoll_model::api::sandboxes::{Link, LinkRequest};
use axum::extract::State;
use axum::http::request::Parts;
use serde_json::json;

use super::caller::Key;
use super::error::{ApiError, ApiResult};
use super::extract::{Id, Json};
use super::ports::link;
use super::site::Site;
use crate::app::App;
use crate::audit::{self, Entry};
use crate::sandboxes::{SandboxError, store};

const DEFAULT_TTL: u64 = 3600;
const MAX_TTL: u64 = 30 * 24 * 3600;

/// Makes a link that opens one port of the sandbox until it expires, to whoever has it. Ends with the sandbox.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/links", tag = "sandboxes", params(("id" = SandboxId, Path)),
    request_body = LinkRequest, responses((status = 200, body = Link), (status = 409)),
    security(("api_key" = []), ("bearer" = [])))]
pub async fn create(
    State(app): State<App>,
    Key(owner): Key,
    Id(id): Id<SandboxId>,
    parts: Parts,
    Json(request): Json<LinkRequest>,
) -> ApiResult<axum::Json<Link>> {
    let record = store::get(&app.db, &owner.team, &id).await?.ok_or(SandboxError::NotFound)?;
    if record.status().is_final() {
        return Err(SandboxError::InvalidState { attempted: "make a link to", status: record.status() }.into());
    }
    if request.port == 0 {
        return Err(ApiError::invalid("port", "must be 1 to 65535"));
    }
    let ttl = request.ttl_sec.unwrap_or(DEFAULT_TTL);
    if !(1..=MAX_TTL).contains(&ttl) {
        return Err(ApiError::invalid("ttl_sec", format!("must be 1 to {MAX_TTL}")));
    }
    let (scheme, port) = outside(&app, &parts);
    let host = format!("{}-{}.{}", request.port, id.dns_label(), app.config.domain);
    let has_port = app.config.domain.contains(':');
    let base =
        format!("{scheme}://{host}{}/", port.filter(|_| !has_port).map(|it| format!(":{it}")).unwrap_or_default());
    if record.network.public {
        return Ok(axum::Json(Link { port: request.port, url: base, host, expires_at: None }));
    }
    let now = app.clock.now();
    let expires = now + Duration::from_secs(ttl);
    let entry = Entry {
        team: Some(&owner.team),
        actor: &owner.actor,
        origin: &owner.origin,
        action: "sandbox.link",
        target_kind: "sandbox",
        target_id: Some(id.as_str()),
        result: "ok",
        details: json!({ "after": { "port": request.port, "expires_at": expires.to_utc() } }),
    };
    // Before the link is out: there is no row that the entry could be written with.
    audit::record_alone(&app.db, now, &entry).await?;
    let token = link::token(&record, request.port, expires);
    let url = format!("{base}?{}={token}", link::PARAMETER);
    Ok(axum::Json(Link { port: request.port, url, host, expires_at: Some(expires.to_utc()) }))
}

/// The scheme and port under which people reach control: of the public URL if there is one, else of this request.
fn outside(app: &App, parts: &Parts) -> (String, Option<u16>) {
    if let Some(url) = app.config.public_url.as_deref().and_then(|url| url.parse::<axum::http::Uri>().ok()) {
        return (url.scheme_str().unwrap_or("https").to_owned(), url.port_u16());
    }
    let site = Site::of(parts, &app.config);
    let scheme = if site.https { "https" } else { "http" };
    (scheme.to_owned(), site.port())
}
