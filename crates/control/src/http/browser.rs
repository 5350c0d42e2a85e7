//! Sessions of browsers: the cookie, and what a request with it must bring along.
//!
//! A page of another site can make a browser send requests here, cookie and all. So whatever a cookie's request changes
//! needs the session's `X-CSRF-Token`, which other sites can't read, and an `Origin` that is ours; a WebSocket, whose
//! headers no page can set, needs the `Origin`. None of this concerns requests that bring their own token.
//!
//! Over TLS and on loopback, which browsers trust like TLS, the cookie is `__Host-atoll`: `Secure`, this host's alone,
//! set by nobody else. On plain HTTP elsewhere browsers refuse that, and it is `atoll`. Browsers keep one set of cookies
//! for all ports of a host, so a port of its own is part of the name.

use std::time::Duration;

use atoll_model::ErrorCode;
use atoll_model::api::auth::SessionKind;
use axum::http::header::{COOKIE, ORIGIN, UPGRADE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error::{ApiError, ApiResult};
use super::site::Site;
use crate::config::ControlConfig;

pub const SESSION_HEADER: &str = "x-session";
pub const CSRF_HEADER: &str = "x-csrf-token";
const NAME: &str = "atoll";

/// How somebody who signs in wants to be known: `X-Session: cookie`, or by a token.
pub fn wanted(parts: &Parts, config: &ControlConfig) -> ApiResult<SessionKind> {
    match parts.headers.get(SESSION_HEADER).map(|value| value.as_bytes()) {
        None | Some(b"token") => Ok(SessionKind::Token),
        Some(b"cookie") => {
            // Nobody is to be signed in by another site's page, into whose account ever.
            if parts.headers.contains_key(ORIGIN) {
                same_origin(parts, config)?;
            }
            Ok(SessionKind::Browser)
        }
        Some(_) => Err(ApiError::invalid("X-Session", "must be cookie or token")),
    }
}

fn name(site: &Site) -> String {
    let prefix = if site.https || site.is_loopback() { "__Host-" } else { "" };
    match site.port() {
        Some(port) => format!("{prefix}{NAME}-{port}"),
        None => format!("{prefix}{NAME}"),
    }
}

/// The value of one cookie.
pub fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let pairs =
        headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    pairs.filter_map(|pair| pair.trim().split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The secret of the session whose cookie came with the request.
pub fn secret<'a>(parts: &'a Parts, config: &ControlConfig) -> Option<&'a str> {
    parts.headers.get(COOKIE)?;
    value(&parts.headers, &name(&Site::of(parts, config))).filter(|value| !value.is_empty())
}

/// The `Set-Cookie` that begins a session.
pub fn set(site: &Site, secret: &str, ttl: Duration) -> String {
    with(site, &name(site), secret, ttl, "Strict")
}

/// The `Set-Cookie` that ends it.
pub fn clear(site: &Site) -> String {
    set(site, "", Duration::ZERO)
}

fn with(site: &Site, name: &str, value: &str, ttl: Duration, same_site: &str) -> String {
    let secure = if site.https || site.is_loopback() { "; Secure" } else { "" };
    format!("{name}={value}; Path=/; Max-Age={}; HttpOnly; SameSite={same_site}{secure}", ttl.as_secs())
}

fn state_name(site: &Site) -> String {
    format!("{}-sign-in", name(site))
}

/// The `Set-Cookie` of a browser that goes to sign in elsewhere. `Lax`: it comes back from another site.
pub fn set_state(site: &Site, state: &str, ttl: Duration) -> String {
    with(site, &state_name(site), state, ttl, "Lax")
}

pub fn clear_state(site: &Site) -> String {
    set_state(site, "", Duration::ZERO)
}

/// What that browser brings back.
pub fn state<'a>(parts: &'a Parts, site: &Site) -> Option<&'a str> {
    value(&parts.headers, &state_name(site))
}

/// What a page must send along with whatever the session changes. It follows from the cookie's secret, so nothing is
/// kept of it, and says nothing about it.
#[must_use]
pub fn csrf_token(secret: &str) -> String {
    hex::encode(Sha256::new().chain_update("atoll csrf\0").chain_update(secret).finalize())
}

/// Refuses a cookie's request that may have been made by another site's page.
pub fn guard(parts: &Parts, config: &ControlConfig, secret: &str) -> ApiResult<()> {
    let socket = parts.headers.contains_key(UPGRADE) || parts.method == Method::CONNECT;
    let reads = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
    if reads && !socket {
        return Ok(());
    }
    same_origin(parts, config)?;
    if socket {
        return Ok(());
    }
    let shown = parts.headers.get(CSRF_HEADER).map(|value| value.as_bytes()).unwrap_or_default();
    if bool::from(shown.ct_eq(csrf_token(secret).as_bytes())) {
        return Ok(());
    }
    let message = "a cookie session sends the `csrf_token` of its sign-in or of GET /v1/me as X-CSRF-Token";
    Err(ApiError::new(ErrorCode::CsrfTokenInvalid, message))
}

fn same_origin(parts: &Parts, config: &ControlConfig) -> ApiResult<()> {
    let origin = parts.headers.get(ORIGIN).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let site = Site::of(parts, config);
    if site.is_origin(origin, config) {
        return Ok(());
    }
    let message = format!(
        "this request comes from a page of another site (Origin {}); behind a reverse proxy, set --public-url",
        if origin.is_empty() { "missing".to_owned() } else { format!("`{}`", origin.escape_default()) }
    );
    Err(ApiError::new(ErrorCode::OriginMismatch, message))
}
