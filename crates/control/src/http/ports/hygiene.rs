//! Headers that stay behind at the border between the platform and what runs in a sandbox.
//!
//! On the way in: everything that could act for a person or a team at the platform. On the way out: everything by
//! which a sandbox could reach beyond its own host name in a browser (cookies for other names, clearing of a site's
//! data, a wider scope of service workers, other addresses for the same name).

use atoll_rpc::hop;
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, HeaderName, SEC_WEBSOCKET_PROTOCOL, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};

use super::access::{TRAFFIC_TOKEN, cookies};
use super::target::Target;
use super::{GUEST_PORT, link, peer_of};
use crate::accounts::UserTokens;
use crate::http::site::OverTls;
use crate::sandboxes::Inbound;

/// Prefixes of API keys: ours, and the form that older E2B SDKs insist on.
const KEY_PREFIXES: [&str; 2] = ["atl_", "e2b_"];
/// Names of cookies that are the platform's, whatever comes after.
const COOKIE_PREFIXES: [&str; 4] = ["__Host-atoll", "__Secure-atoll", "atoll-", "atoll_"];
const WEBSOCKET_BEARER: &str = "atoll.bearer.";
const OUT: [&str; 4] = ["clear-site-data", "service-worker-allowed", "alt-svc", "x-atoll-proxy-error"];

/// Makes the request one for the sandbox; answers with the host name that its cookies may be for.
pub fn way_in(parts: &mut Parts, target: &Target, inbound: &Inbound, tokens: &UserTokens) -> Option<String> {
    let peer = peer_of(parts);
    let scheme = if parts.extensions.get::<OverTls>().is_some() { "https" } else { "http" };
    let authority = parts.uri.authority().cloned();
    let headers = &mut parts.headers;
    hop::carry_host(headers, authority.as_ref());
    hop::strip_hop_by_hop(headers);
    if text(headers, "x-api-key").is_some_and(is_key) {
        headers.remove("x-api-key");
    }
    if let Some((scheme, token)) = text(headers, AUTHORIZATION.as_str()).and_then(|value| value.split_once(' '))
        && scheme.eq_ignore_ascii_case("bearer")
        && (is_key(token.trim()) || tokens.are_ours(token.trim()))
    {
        headers.remove(AUTHORIZATION);
    }
    for name in ["x-host-token", "x-csrf-token", TRAFFIC_TOKEN, "e2b-sandbox-id", "e2b-sandbox-port", "x-atoll-trusted"]
    {
        headers.remove(name);
    }
    keep_cookies(headers);
    keep_protocols(headers);
    forwarded(headers, peer.as_deref(), scheme, target.port != GUEST_PORT);
    if let Some(host) = inbound.host_of(target.port).filter(|_| target.port != GUEST_PORT) {
        insert(headers, HOST, &host);
    }
    target.name.clone()
}

fn is_key(text: &str) -> bool {
    KEY_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
}

fn is_platform_cookie(name: &str) -> bool {
    name == link::COOKIE || COOKIE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn keep_cookies(headers: &mut HeaderMap) {
    if !headers.contains_key(COOKIE) || !cookies(headers).any(|(name, _)| is_platform_cookie(name)) {
        return;
    }
    let kept = cookies(headers).filter(|(name, _)| !is_platform_cookie(name));
    let kept = kept.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ");
    headers.remove(COOKIE);
    insert(headers, COOKIE, &kept);
}

/// A page's WebSocket brings the person's token as one of the protocols that it offers.
fn keep_protocols(headers: &mut HeaderMap) {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<String> = offered.flat_map(|line| line.split(',')).map(|one| one.trim().to_owned()).collect();
    if !offered.iter().any(|one| one.starts_with(WEBSOCKET_BEARER)) {
        return;
    }
    let kept = offered.into_iter().filter(|one| !one.starts_with(WEBSOCKET_BEARER)).collect::<Vec<_>>().join(", ");
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    insert(headers, SEC_WEBSOCKET_PROTOCOL, &kept);
}

/// Says how the request came, as proxies do.
fn forwarded(headers: &mut HeaderMap, peer: Option<&str>, scheme: &str, wanted: bool) {
    if !wanted {
        return;
    }
    if let Some(peer) = peer {
        let before = text(headers, "x-forwarded-for").map(|list| format!("{list}, ")).unwrap_or_default();
        insert(headers, HeaderName::from_static("x-forwarded-for"), &format!("{before}{peer}"));
    }
    if !headers.contains_key("x-forwarded-proto") {
        insert(headers, HeaderName::from_static("x-forwarded-proto"), scheme);
    }
    if !headers.contains_key("x-forwarded-host")
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert("x-forwarded-host", host);
    }
}

/// Makes the answer one that a browser may be given. `own_name` is the sandbox's host name; without one, the answer
/// comes under a name that is the platform's too, and then no cookie passes.
pub fn way_out(headers: &mut HeaderMap, own_name: Option<&str>) {
    for name in OUT {
        headers.remove(name);
    }
    if !headers.contains_key(SET_COOKIE) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(SET_COOKIE)
        .iter()
        .filter(|value| own_name.is_some_and(|own| value.to_str().is_ok_and(|cookie| is_its_own(cookie, own))))
        .cloned()
        .collect();
    headers.remove(SET_COOKIE);
    for value in kept {
        headers.append(SET_COOKIE, value);
    }
}

/// Whether a cookie is for this very host name, and not named like one of the platform's.
fn is_its_own(cookie: &str, own_name: &str) -> bool {
    let mut pieces = cookie.split(';');
    let name = pieces.next().and_then(|pair| pair.split_once('=')).map_or("", |(name, _)| name.trim());
    if name.is_empty() || is_platform_cookie(name) {
        return false;
    }
    pieces.filter_map(|piece| piece.split_once('=').or(Some((piece, "")))).all(|(attribute, value)| {
        let domain = value.trim().trim_start_matches('.').trim_end_matches('.');
        !attribute.trim().eq_ignore_ascii_case("domain") || domain.is_empty() || domain.eq_ignore_ascii_case(own_name)
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if value.is_empty() {
        return;
    }
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "8080-iabc.sbx.test";

    #[test]
    fn a_sandbox_sets_cookies_for_its_own_name_alone() {
        for good in
            ["a=b", "a=b; Path=/; HttpOnly", "a=b; Domain=8080-iabc.sbx.test", "a=b; domain=.8080-IABC.sbx.test"]
        {
            assert!(is_its_own(good, OWN), "{good}");
        }
        for bad in [
            "a=b; Domain=sbx.test",
            "a=b; DOMAIN = .sbx.test ; Path=/",
            "a=b; Domain=8080-iabc.sbx.test; Domain=sbx.test",
            "__Host-atoll_session=x",
            "atoll_link=1.0.x",
            "nothing",
            "=x",
        ] {
            assert!(!is_its_own(bad, OWN), "{bad}");
        }
    }

    #[test]
    fn under_a_name_that_is_the_platforms_too_no_cookie_passes() {
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, HeaderValue::from_static("a=b"));
        way_out(&mut headers, None);
        assert!(headers.is_empty());
    }

    #[test]
    fn what_reaches_beyond_the_sandbox_in_a_browser_stays_behind() {
        let mut headers = HeaderMap::new();
        for name in OUT {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        headers.append(SET_COOKIE, HeaderValue::from_static("a=b"));
        headers.append(SET_COOKIE, HeaderValue::from_static("c=d; Domain=sbx.test"));
        headers.append(SET_COOKIE, HeaderValue::from_static("e=f"));
        way_out(&mut headers, Some(OWN));
        let left: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(left, [("set-cookie", "a=b"), ("set-cookie", "e=f")]);
    }

    #[test]
    fn the_platforms_cookies_do_not_travel_into_a_sandbox_and_others_do() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=b; __Host-atoll_session=s; atoll_link=t"));
        headers.append(COOKIE, HeaderValue::from_static("c=d=e"));
        keep_cookies(&mut headers);
        assert_eq!(headers[COOKIE], "a=b; c=d=e");
    }

    #[test]
    fn a_persons_token_is_taken_out_of_the_protocols_of_a_websocket() {
        let mut headers = HeaderMap::new();
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("chat, atoll.bearer.x.y, v2"));
        keep_protocols(&mut headers);
        assert_eq!(headers[SEC_WEBSOCKET_PROTOCOL], "chat, v2");
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("atoll.bearer.x.y"));
        keep_protocols(&mut headers);
        assert!(!headers.contains_key(SEC_WEBSOCKET_PROTOCOL));
    }
}
