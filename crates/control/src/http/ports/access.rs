//! Who may send a request into a sandbox's port. Private is the rule; what opens it, looked at in this order:
//!
//! 1. the sandbox is public, or the port is the guest agent's own, which has its own check;
//! 2. the sandbox's traffic token, in `E2b-Traffic-Access-Token`;
//! 3. a signed link: its token in the address (then the browser is sent on with a cookie) or in that cookie;
//! 4. an API key that may use sandboxes (its scope isn't `read`) or a person's token, of the sandbox's team.
//!
//! A caller who proves to be of another team is told that there is no such sandbox.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, LOCATION, SEC_WEBSOCKET_PROTOCOL, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;

use super::refusal::Refusal;
use super::target::Target;
use super::{GUEST_PORT, link};
use crate::app::App;
use crate::http::caller::Key;
use crate::http::error::ApiError;
use crate::sandboxes::SandboxRecord;

pub const TRAFFIC_TOKEN: &str = "e2b-traffic-access-token";

/// How a request that may pass goes on.
pub enum Admission {
    Granted,
    /// It came by a link, and is sent to the same address without the token.
    Welcome(Box<Response>),
}

pub async fn judge(
    app: &App,
    parts: &mut Parts,
    target: &Target,
    record: &SandboxRecord,
) -> Result<Admission, Refusal> {
    if target.port == GUEST_PORT {
        return if is_for_control_alone(parts.uri.path()) { Err(Refusal::Internal) } else { Ok(Admission::Granted) };
    }
    if record.network.public {
        return Ok(Admission::Granted);
    }
    if text(&parts.headers, TRAFFIC_TOKEN).is_some_and(|token| link::is_traffic_token(record, token)) {
        return Ok(Admission::Granted);
    }
    let now = app.clock.now();
    if let Some((token, without)) = token_in_address(&parts.uri) {
        if let Some(left) = link::opens(record, target.port, &token, now) {
            if target.name.is_some() && matches!(parts.method, Method::GET | Method::HEAD) && !is_upgrade(parts) {
                return Ok(Admission::Welcome(Box::new(welcome(&token, &without, left))));
            }
            if let Ok(uri) = without.parse::<Uri>() {
                parts.uri = uri;
            }
            return Ok(Admission::Granted);
        }
        return Err(Refusal::Forbidden);
    }
    let opened = |token: &str| link::opens(record, target.port, token, now).is_some();
    if cookies(&parts.headers).any(|(name, value)| name == link::COOKIE && opened(value)) {
        return Ok(Admission::Granted);
    }
    if !has_credentials(&parts.headers) {
        return Err(Refusal::Forbidden);
    }
    match Key::at_a_port(parts, app).await {
        Ok(Key(owner)) if owner.team == record.team_id.0 => Ok(Admission::Granted),
        Ok(_) => Err(Refusal::NotFound),
        Err(error) => Err(refused(&error)),
    }
}

/// Routes of the guest agent that only control may use, by any door.
fn is_for_control_alone(path: &str) -> bool {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    matches!(first, "init" | "freeze" | "unfreeze" | "collapse" | "fsfreeze" | "fsthaw" | "upgrade")
        || first.starts_with("atoll.")
}

fn refused(error: &ApiError) -> Refusal {
    if error.status().is_server_error() { Refusal::internal(error) } else { Refusal::Forbidden }
}

fn has_credentials(headers: &HeaderMap) -> bool {
    ["x-api-key", AUTHORIZATION.as_str(), SEC_WEBSOCKET_PROTOCOL.as_str()]
        .iter()
        .any(|name| headers.contains_key(*name))
}

fn is_upgrade(parts: &Parts) -> bool {
    atoll_rpc::hop::upgrade_of(&parts.headers).is_some()
}

/// The link's token, and the address without it.
fn token_in_address(uri: &Uri) -> Option<(String, String)> {
    let query = uri.query()?;
    let is_ours = |pair: &&str| pair.strip_prefix(link::PARAMETER).is_some_and(|rest| rest.starts_with('='));
    let token = query.split('&').find(is_ours)?.split_once('=')?.1.to_owned();
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_ours(pair)).collect();
    // An address that begins with two slashes would lead to another host.
    let path = format!("/{}", uri.path().trim_start_matches('/'));
    let without = if rest.is_empty() { path } else { format!("{path}?{}", rest.join("&")) };
    Some((token, without))
}

fn welcome(token: &str, to: &str, left: Duration) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::FOUND;
    let headers = response.headers_mut();
    let cookie = format!("{}={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age={}", link::COOKIE, left.as_secs());
    for (name, value) in [(LOCATION, to), (SET_COOKIE, &cookie), (CACHE_CONTROL, "no-store")] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    response
}

/// The cookies of a request, as name and value.
pub fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
