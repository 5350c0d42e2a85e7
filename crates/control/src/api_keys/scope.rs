//! What a key may be used for, decided by method and path alone, before a handler looks at anything.

use atoll_model::api::auth::KeyScope;
use axum::http::Method;

/// POSTs of a sandbox that change nothing: their paths are in the body.
const READS: [&str; 3] = ["/files/read", "/files/list", "/files/stream/read"];
/// WebSockets and others that come as GET and do more than look.
const NO_READS: [&str; 2] = ["/exec/stream", "/pty"];

/// Whether `path` is about sandboxes, in our dialect or E2B's.
fn of_sandboxes(path: &str) -> bool {
    let path = path.trim_start_matches("/v1").trim_start_matches("/v2").trim_start_matches("/v3");
    path == "/sandboxes" || path.starts_with("/sandboxes/")
}

/// Whether the answer to a GET of `path` bears what opens more than it shows, in E2B's dialect: the access token of a
/// sandbox, of a volume, an address that takes an upload.
fn hands_out_a_secret(path: &str) -> bool {
    let path = path.strip_prefix("/v2").or_else(|| path.strip_prefix("/v3")).unwrap_or(path);
    match path.split('/').collect::<Vec<_>>()[..] {
        ["", "sandboxes", id] => id != "metrics",
        ["", "templates", _, "files", _] | ["", "volumes", _] => true,
        _ => false,
    }
}

/// Whether `path` says what sandboxes can be made of.
fn of_templates(path: &str) -> bool {
    ["/v1/templates", "/v2/templates", "/templates"].into_iter().any(|start| path.starts_with(start))
}

/// Whether a key with this scope may ask for this.
#[must_use]
pub fn allows(scope: KeyScope, method: &Method, path: &str) -> bool {
    let reads = match *method {
        Method::GET | Method::HEAD => !NO_READS.iter().any(|end| path.ends_with(end)) && !hands_out_a_secret(path),
        Method::POST => of_sandboxes(path) && READS.iter().any(|end| path.ends_with(end)),
        _ => false,
    };
    match scope {
        KeyScope::All => true,
        // Whoever makes sandboxes has to see what they can be made of.
        KeyScope::Sandboxes => of_sandboxes(path) || (reads && of_templates(path)),
        KeyScope::Read => reads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_lets_through_what_its_name_says() {
        let cases = [
            (Method::GET, "/v1/sandboxes", [true, true, true]),
            (Method::POST, "/v1/sandboxes", [true, true, false]),
            (Method::DELETE, "/v1/sandboxes/sb-x", [true, true, false]),
            (Method::POST, "/v1/sandboxes/sb-x/files/read", [true, true, true]),
            (Method::POST, "/v1/sandboxes/sb-x/files/write", [true, true, false]),
            (Method::GET, "/v1/sandboxes/sb-x/pty", [true, true, false]),
            (Method::GET, "/v1/sandboxes/sb-x/exec/stream", [true, true, false]),
            (Method::GET, "/v1/sandboxes/sb-x/files/watch", [true, true, true]),
            (Method::POST, "/v2/sandboxes", [true, true, false]),
            (Method::GET, "/v1/templates", [true, true, true]),
            (Method::POST, "/v1/templates", [true, false, false]),
            (Method::GET, "/v1/usage", [true, false, true]),
            (Method::DELETE, "/v1/snapshots/x", [true, false, false]),
            (Method::GET, "/v1/sandboxesque", [true, false, true]),
            (Method::GET, "/v1/sandboxes/sb-x", [true, true, true]),
            // E2B's dialect answers these with an access token, or with where to upload.
            (Method::GET, "/sandboxes/ix", [true, true, false]),
            (Method::HEAD, "/sandboxes/ix", [true, true, false]),
            (Method::GET, "/sandboxes/metrics", [true, true, true]),
            (Method::GET, "/sandboxes/metr%69cs", [true, true, false]),
            (Method::GET, "/sandboxes/ix/metrics", [true, true, true]),
            (Method::GET, "/v2/sandboxes", [true, true, true]),
            (Method::GET, "/volumes/vol-x", [true, false, false]),
            (Method::GET, "/templates/t/files/00", [true, false, false]),
            (Method::GET, "/templates/t", [true, true, true]),
            (Method::POST, "/v3/templates", [true, false, false]),
        ];
        for (method, path, expected) in cases {
            let scopes = [KeyScope::All, KeyScope::Sandboxes, KeyScope::Read];
            assert_eq!(scopes.map(|scope| allows(scope, &method, path)), expected, "{method} {path}");
        }
    }
}
