//! The dashboard's files: whatever is no route of the API. Paths of its pages lead to `index.html`, so that deep links
//! work on reload; files whose name changes with their content are cached for ever.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use crate::app::App;
use crate::config::DashboardFile;

const PAGE: &str = "index.html";
/// Nothing inline, nothing from elsewhere; text becomes markup only through the application's own policies. The page says
/// the same of itself in a meta element (dashboard/src/app.html), which can't forbid being framed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
    font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'; \
    trusted-types svelte-trusted-html sveltekit-trusted-url";

pub async fn serve(State(app): State<App>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let path = uri.path().trim_start_matches('/');
    let ours = path == "v1" || path.starts_with("v1/");
    if ours || !matches!(method, Method::GET | Method::HEAD) {
        return ApiError::not_found("route").into_response();
    }
    let lookup = app.config.dashboard;
    let file = if path.is_empty() { None } else { lookup(path) };
    // A page of the application has no extension; a missing file is missing.
    let is_page = !path.rsplit('/').next().unwrap_or_default().contains('.');
    match file.or_else(|| if is_page { lookup(PAGE) } else { None }) {
        Some(file) => respond(file, &headers),
        None => ApiError::not_found("page").into_response(),
    }
}

fn respond(file: DashboardFile, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", file.hash);
    let cache = if file.immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let unchanged = known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag));
    let gzip = file.gzip.filter(|_| accepts_gzip(headers));
    let mut response = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Response::new(Body::from(gzip.unwrap_or(file.bytes)))
    };
    let out = response.headers_mut();
    out.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    out.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        out.insert(ETAG, tag);
    }
    if !unchanged {
        out.insert(CONTENT_TYPE, HeaderValue::from_static(file.mime));
        if gzip.is_some() {
            out.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
    }
    if file.mime.starts_with("text/html") {
        out.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    }
    response
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|one| {
            let mut parts = one.split(';');
            let name = parts.next().unwrap_or_default().trim();
            let refused = parts.any(|part| matches!(part.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
            name.eq_ignore_ascii_case("gzip") && !refused
        })
    })
}
