//! A valid request for each route of the caller matrix: what is refused is refused for who asks, not for what was sent.

use serde_json::{Value, json};

use crate::hosts::tests::beat;

/// What bodies name.
pub struct Names {
    /// A team of the caller.
    pub team: String,
    /// A sandbox of T.
    pub sandbox: String,
    /// The code of a program that waits.
    pub code: String,
    /// Somebody who is in no team of the callers.
    pub email: String,
}

/// The SHA-256 of nothing.
pub const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const BOUNDARY: &str = "boundary";

/// What a route's query string must have.
pub fn query(route: &str, names: &Names) -> String {
    match route {
        "delete /v1/hosts/{id}/tags" => "?tag=a".to_owned(),
        "get /v1/auth/device" => format!("?code={}", names.code),
        "get /v1/sandboxes/{id}/files/stream/read"
        | "post /v1/sandboxes/{id}/files/stream/write"
        | "get /v1/sandboxes/{id}/files/watch" => "?path=/tmp/x".to_owned(),
        "get /e2b/sandboxes/metrics" => format!("?sandbox_ids={}", names.sandbox),
        "get /e2b/teams/{id}/metrics/max" => "?metric=concurrent_sandboxes".to_owned(),
        "get /e2b/templates/{id}/tags/exists" => "?tag=v1".to_owned(),
        "put /v2/{*path}" => format!("?digest=sha256:{}", "0".repeat(64)),
        _ => String::new(),
    }
}

/// The content type and the body of a route's request.
pub fn body(route: &str, names: &Names) -> (String, String) {
    match route {
        "post /v1/sandboxes/{id}/files/write" => {
            let part = |name: &str, text: &str| {
                format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
            };
            let form = format!("{}{}--{BOUNDARY}--\r\n", part("path", "/tmp/x"), part("file", "x"));
            (format!("multipart/form-data; boundary={BOUNDARY}"), form)
        }
        "post /v1/sandboxes/{id}/files/stream/write" | "put /v1/templates/files/{hash}" => {
            ("application/octet-stream".to_owned(), String::new())
        }
        _ => ("application/json".to_owned(), json_body(route, names).to_string()),
    }
}

fn json_body(route: &str, names: &Names) -> Value {
    match route {
        "put /v1/admin/teams/{id}/byoc" | "put /v1/admin/users/{id}/active" => json!({ "enabled": true }),
        "put /v1/admin/users/{id}/admin" => json!({ "enabled": false }),
        "post /v1/admin/users" => json!({ "email": "made@example.test", "name": "Made" }),
        "post /v1/api-keys" | "post /e2b/api-keys" | "patch /e2b/api-keys/{id}" => json!({ "name": "k" }),
        "post /v1/auth/device/decision" => json!({ "user_code": names.code, "approve": true }),
        "post /v1/auth/device/token" => json!({ "device_code": "none" }),
        "post /v1/auth/login" => json!({ "email": "nobody@example.test", "password": "not this one" }),
        "post /v1/auth/signup" => json!({ "email": "n@example.test", "password": "long enough", "name": "N" }),
        "post /v1/auth/setup" => json!({ "token": "none", "email": "n@example.test", "password": "long enough" }),
        "post /v1/auth/password/reset" => json!({ "email": "nobody@example.test" }),
        "post /v1/auth/password/reset/confirm" => json!({ "token": "none", "password": "long enough" }),
        "post /v1/invitations/{token}/accept" => json!({ "name": "N", "password": "long enough" }),
        "post /v1/auth/switch-team" => json!({ "team_id": names.team }),
        "patch /v1/hosts/{id}" => json!({ "name": "reef" }),
        "post /v1/hosts/{id}/heartbeat" => serde_json::to_value(beat()).unwrap(),
        "post /v1/hosts/{id}/sandboxes/{sandbox_id}/identity-token" => json!({ "name": "aws" }),
        "post /v1/hosts/{id}/tags" => json!({ "tags": ["a"] }),
        "post /v1/hosts/register" => json!({ "token": "none" }),
        "post /v1/hosts/auth/refresh" => json!({ "refresh_token": "none", "csr": "none", "timestamp_ms": 1 }),
        "patch /v1/me" => json!({ "name": "Name" }),
        "post /v1/me/password" => json!({ "new_password": "long enough" }),
        "post /v1/sandboxes/{id}/exec" => json!({ "cmd": "true" }),
        "post /v1/sandboxes/{id}/files/move" => json!({ "source": "/tmp/x", "destination": "/tmp/y" }),
        "post /v1/sandboxes/{id}/files/list"
        | "post /v1/sandboxes/{id}/files/mkdir"
        | "post /v1/sandboxes/{id}/files/read"
        | "post /v1/sandboxes/{id}/files/remove"
        | "post /v1/sandboxes/{id}/files/stream/read" => json!({ "path": "/tmp/x" }),
        "post /v1/sandboxes/{id}/links" => json!({ "port": 8080 }),
        "post /v1/sandboxes/{id}/timeout" => json!({ "timeout_sec": 60 }),
        "post /v1/secrets" | "post /e2b/secrets" | "post /e2b/secrets/{id}" => json!({ "name": "TOKEN", "value": "x" }),
        "post /v1/snapshots" => json!({ "sandbox_id": names.sandbox, "name": "kept" }),
        "post /v1/teams" | "patch /v1/teams/{id}" => json!({ "name": "Team" }),
        "put /v1/teams/{id}/network" => json!({ "deny_out": ["192.0.2.0/24"] }),
        "post /v1/teams/{id}/invitations" => json!({ "email": "guest@example.test" }),
        "post /v1/teams/{id}/members" => json!({ "email": names.email }),
        "patch /v1/teams/{id}/members/{user_id}" => json!({ "role": "member" }),
        // A registry that is refused before anybody is asked.
        "post /v1/templates" => json!({ "name": "made", "image": "127.0.0.1:9/x" }),
        "post /v1/volumes" | "post /e2b/volumes" => json!({ "name": "data" }),
        "post /v1/webhooks" => json!({ "url": "http://localhost:9/" }),
        "patch /v1/webhooks/{id}" => json!({ "enabled": true }),
        "post /e2b/sandboxes/{id}/timeout"
        | "post /e2b/sandboxes/{id}/connect"
        | "post /e2b/v2/sandboxes/{id}/connect" => {
            json!({ "timeout": 60 })
        }
        "post /e2b/sandboxes" | "post /e2b/v2/sandboxes" => json!({ "templateID": "base" }),
        "post /e2b/templates/tags" => json!({ "target": "none:default", "tags": ["v1"] }),
        "delete /e2b/templates/tags" => json!({ "name": "none", "tags": ["v1"] }),
        "post /e2b/v2/templates" | "post /e2b/v3/templates" => json!({ "name": "made" }),
        "post /e2b/v2/templates/{id}/builds/{build}" => json!({ "fromTemplate": "base" }),
        _ => json!({}),
    }
}
