//! `POST /init`: the host hands a running guest its environment, token and defaults.
//!
//! Everything that is given replaces what was. Reached over the control socket only, where the host agent lets nothing
//! through that comes from outside; even so a guest with a token wants it, unless the call is the control plane's own.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;

use super::answers::{self, Body};
use crate::auth;
use crate::guest::Guest;

const MAX_BODY_BYTES: usize = 1024 * 1024;

/// The version of the guest protocol that is spoken here.
const VERSION: &str = "0.6.13";

/// Other members of the protocol (certificates, volumes, lifecycle) are not this guest's business and are passed over.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Init {
    env_vars: Option<BTreeMap<String, String>>,
    access_token: Option<String>,
    timestamp: Option<String>,
    default_user: Option<String>,
    default_workdir: Option<String>,
}

pub async fn answer(guest: &Arc<Guest>, trusted: bool, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return answers::error(StatusCode::BAD_REQUEST, &format!("the body can't be read: {error}")),
    };
    let init: Init = if body.is_empty() {
        Init::default()
    } else {
        match serde_json::from_slice(&body) {
            Ok(init) => init,
            Err(error) => return answers::error(StatusCode::BAD_REQUEST, &format!("the body isn't valid: {error}")),
        }
    };
    let mut settings = guest.settings();
    if let Some(current) = settings.access_token() {
        let given = [init.access_token.as_deref(), auth::given_token(&head.headers)];
        if !trusted && !given.iter().flatten().any(|token| auth::same_secret(token, current)) {
            return answers::error(StatusCode::UNAUTHORIZED, auth::UNAUTHORIZED);
        }
    }
    let timestamp = match init.timestamp.as_deref().map(parse_timestamp) {
        Some(None) => return answers::error(StatusCode::BAD_REQUEST, "timestamp isn't a time in RFC 3339"),
        Some(given) => given,
        None => None,
    };
    // An init that was overtaken by a later one is answered and changes nothing.
    let outdated = timestamp.zip(settings.initialised_at).is_some_and(|(given, newest)| given < newest);
    if !outdated {
        settings.initialised_at = timestamp.or(settings.initialised_at);
        settings.set_access_token(init.access_token);
        if let Some(env) = init.env_vars {
            settings.replace_env(&guest.config(), env);
        }
        if let Some(user) = init.default_user.filter(|user| !user.is_empty()) {
            settings.default_user = user;
        }
        if let Some(workdir) = init.default_workdir.filter(|workdir| !workdir.is_empty()) {
            settings.default_workdir = workdir;
        }
    }
    drop(settings);
    let mut response = answers::no_content();
    response.headers_mut().insert("x-envd-version", HeaderValue::from_static(VERSION));
    response
}

/// Seconds and nanoseconds since 1970 of a time in RFC 3339.
fn parse_timestamp(text: &str) -> Option<(i64, u32)> {
    let time: atoll_rpc::buffa_types::google::protobuf::Timestamp =
        serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()?;
    Some((time.seconds, u32::try_from(time.nanos).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_compared_to_the_nanosecond() {
        let early = parse_timestamp("2026-11-24T23:00:00.000000001Z").expect("valid");
        let late = parse_timestamp("2026-11-25T00:00:00.000000002+01:00").expect("valid");
        assert!(early < late);
        assert_eq!(parse_timestamp("yesterday"), None);
    }
}
