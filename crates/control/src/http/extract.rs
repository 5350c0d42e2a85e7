//! What handlers take out of requests: JSON bodies, query strings and ids in paths. Each says which field was wrong.

use std::borrow::Cow;
use std::str::FromStr;

use atoll_model::{ErrorCode, IdError};
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::{ApiError, ApiResult};
use super::strict;

/// A JSON body. An empty one counts as `{}`.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        if let Some(kind) = request.headers().get(CONTENT_TYPE) {
            let essence = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
            if !essence.eq_ignore_ascii_case("application/json") && !essence.ends_with("+json") {
                let message = format!("the body must be application/json, not {essence}");
                return Err(ApiError::new(ErrorCode::UnsupportedMediaType, message));
            }
        }
        let body = body(request, state).await?;
        let body: &[u8] = if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { &body };
        parse_json(body).map(Self)
    }
}

/// The whole body, within the route's limit.
async fn body<S: Send + Sync>(request: Request, state: &S) -> ApiResult<Bytes> {
    Bytes::from_request(request, state).await.map_err(|rejection| {
        if rejection.status().as_u16() == ErrorCode::TooLarge.status() {
            ApiError::new(ErrorCode::TooLarge, "the request's body is larger than this route takes")
        } else {
            ApiError::invalid("body", "the request's body could not be read to its end").with_source(rejection)
        }
    })
}

fn parse_json<T: DeserializeOwned>(body: &[u8]) -> ApiResult<T> {
    let value = strict::from_slice(body).map_err(|error| {
        let field = field_of(&error.path().to_string(), &error.inner().to_string());
        ApiError::invalid(field, format!("the body is not valid: {}", error.inner()))
    })?;
    match with_nul(body) {
        Some(field) => Err(nul(field)),
        None => Ok(value),
    }
}

/// No text of a request has a NUL byte: PostgreSQL keeps none, and neither a path nor a variable of Linux has one.
fn nul(field: String) -> ApiError {
    ApiError::invalid(field, "must not contain a NUL byte")
}

/// The place of a text with a NUL byte in a JSON body, as in `network.allow_out[0]`.
fn with_nul(body: &[u8]) -> Option<String> {
    /// How every one of them is written: as it is, it isn't JSON.
    const ESCAPED: &[u8] = br"\u0000";
    if !body.windows(ESCAPED.len()).any(|part| part == ESCAPED) {
        return None;
    }
    // What can't be looked through is refused: `T` may have skipped it.
    serde_json::from_slice(body).map_or_else(|_| Some("body".to_owned()), |value| nul_in(&value, ""))
}

fn nul_in(value: &Value, path: &str) -> Option<String> {
    let here = || if path.is_empty() { "body".to_owned() } else { path.to_owned() };
    match value {
        Value::String(text) => text.contains('\0').then(here),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| nul_in(item, &format!("{path}[{index}]")))
        }
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            if name.contains('\0') {
                return Some(here());
            }
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            nul_in(value, &path)
        }),
        _ => None,
    }
}

/// The field that a parse error is about. For unknown and missing fields serde knows the name only in its message;
/// this is for show alone, nothing is decided by it.
fn field_of(path: &str, message: &str) -> String {
    let named = ["missing field `", "unknown field `", "duplicate field `"].into_iter().find_map(|before| {
        let rest = message.strip_prefix(before)?;
        rest.split_once('`').map(|(name, _)| name.to_owned())
    });
    match (path, named) {
        ("." | "?", Some(name)) => name,
        ("." | "?", None) => "body".to_owned(),
        // The path of an unknown field already ends with it.
        (path, Some(name)) if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        (path, Some(name)) => format!("{path}.{name}"),
        (path, None) => path.to_owned(),
    }
}

/// A query string.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        pairs(parts)?;
        let pairs = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let deserializer = serde_urlencoded::Deserializer::new(pairs);
        serde_path_to_error::deserialize(deserializer).map(Self).map_err(|error| {
            let field = field_of(&error.path().to_string(), &error.inner().to_string());
            ApiError::invalid(field, format!("the query string is not valid: {}", error.inner()))
        })
    }
}

/// All pairs of the query string, for parameters that may stand several times.
pub struct Pairs(pub Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Pairs {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        Ok(Self(pairs(parts)?.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()))
    }
}

type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

fn pairs(parts: &Parts) -> ApiResult<Vec<Pair<'_>>> {
    let pairs: Vec<_> = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).collect();
    match pairs.iter().find(|(name, value)| name.contains('\0') || value.contains('\0')) {
        Some((name, _)) => Err(nul(name.replace('\0', "\u{fffd}"))),
        None => Ok(pairs),
    }
}

/// The id in the path (`{id}`). What isn't one names nothing: 404.
pub struct Id<T>(pub T);

impl<T, S> FromRequestParts<S> for Id<T>
where
    T: FromStr<Err = IdError>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        path_parameter(parts, state, "id").await?.parse().map(Self).map_err(ApiError::from)
    }
}

/// A path parameter as text.
pub async fn path_parameter<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> ApiResult<String> {
    let parameters = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|rejection| ApiError::not_found("route").with_source(rejection))?;
    let found = parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    found.ok_or_else(|| ApiError::not_found("route"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use atoll_model::api::sandboxes::{CreateSandboxRequest, ExecRequest};

    fn field<T: DeserializeOwned>(body: &str) -> Option<String> {
        parse_json::<T>(body.as_bytes()).err().and_then(|error| error.field.map(|field| field.into_owned()))
    }

    #[test]
    fn a_rejected_body_names_the_field() {
        assert_eq!(field::<CreateSandboxRequest>(r#"{"vcpus": "two"}"#).as_deref(), Some("vcpus"));
        assert_eq!(field::<CreateSandboxRequest>(r#"{"vcpus": -1}"#).as_deref(), Some("vcpus"));
        assert_eq!(field::<CreateSandboxRequest>(r#"{"metadata": {"a": 1}}"#).as_deref(), Some("metadata.a"));
        assert_eq!(field::<CreateSandboxRequest>(r#"{"memory": 1}"#).as_deref(), Some("memory"));
        assert_eq!(field::<ExecRequest>("{}").as_deref(), Some("cmd"));
        assert_eq!(field::<ExecRequest>(r#"{"cmd": "a", "args": [1]}"#).as_deref(), Some("args[0]"));
        assert_eq!(field::<ExecRequest>("[").as_deref(), Some("body"));
        assert_eq!(field::<ExecRequest>(r#"{"cmd": "a"} x"#).as_deref(), Some("body"));
        assert_eq!(field::<CreateSandboxRequest>("{}"), None);
        assert_eq!(field::<CreateSandboxRequest>(r#"{"vcpus": 1.5}"#).as_deref(), Some("vcpus"));
        assert_eq!(field::<CreateSandboxRequest>(r#"{"vcpus": -1.0}"#).as_deref(), Some("vcpus"));
        assert_eq!(field::<CreateSandboxRequest>(r#"{"vcpus": 1e300}"#).as_deref(), Some("vcpus"));
    }

    #[test]
    fn no_text_has_a_nul_byte() {
        let create = field::<CreateSandboxRequest>;
        assert_eq!(create(r#"{"metadata": {"a": "b\u0000"}}"#).as_deref(), Some("metadata.a"));
        assert_eq!(create(r#"{"metadata": {"a\u0000": "b"}}"#).as_deref(), Some("metadata"));
        assert_eq!(create(r#"{"network": {"allow_out": ["a", "\u0000"]}}"#).as_deref(), Some("network.allow_out[1]"));
        // One that hides behind what no value can be.
        let hidden = format!(r#"{{"x": {}"\u0000"{}}}"#, "[".repeat(200), "]".repeat(200));
        assert_eq!(field::<BTreeMap<String, serde::de::IgnoredAny>>(&hidden).as_deref(), Some("body"));
        // A backslash before the letters is no NUL.
        assert_eq!(create(r#"{"metadata": {"a": "\\u0000"}}"#), None);
    }

    #[tokio::test]
    async fn no_parameter_of_a_query_has_a_nul_byte() {
        for (query, wrong) in [("a=1&b=%00", Some("b")), ("a%00=1", Some("a\u{fffd}")), ("a=1&b=0", None)] {
            let (mut parts, ()) = axum::http::Request::get(format!("/?{query}")).body(()).unwrap().into_parts();
            let named = |error: ApiError| error.field.map(|field| field.into_owned());
            let pairs = Pairs::from_request_parts(&mut parts, &()).await.err().and_then(named);
            assert_eq!(pairs.as_deref(), wrong, "{query}");
            let all = Query::<BTreeMap<String, String>>::from_request_parts(&mut parts, &()).await.err();
            assert_eq!(all.and_then(named).as_deref(), wrong, "{query}");
        }
    }

    #[test]
    fn a_whole_number_may_be_written_as_a_fraction() {
        let request: CreateSandboxRequest = parse_json(br#"{"vcpus": 2.0, "timeout_sec": 3e2}"#).unwrap();
        assert_eq!((request.vcpus, request.timeout_sec), (Some(2), Some(300)));
    }
}
