//! Responses of the plain HTTP endpoints, in one shape.

use std::io;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde::Serialize;

pub type Body = UnsyncBoxBody<Bytes, io::Error>;

const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

pub fn full(data: impl Into<Bytes>) -> Body {
    Full::new(data.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn no_content() -> Response<Body> {
    status(StatusCode::NO_CONTENT)
}

pub fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

pub fn json(value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(text) => {
            let mut response = Response::new(full(text));
            response.headers_mut().insert(CONTENT_TYPE, JSON);
            response
        }
        Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, &format!("the answer can't be written: {failure}")),
    }
}

/// `{"code":404,"message":"..."}` with the same code as its status.
pub fn error(status: StatusCode, message: &str) -> Response<Body> {
    let body = serde_json::json!({ "code": status.as_u16(), "message": message }).to_string();
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

pub fn is_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key("access-control-request-method")
}

/// A browser's question before a request from another origin: yes to whatever it asks for.
pub fn preflight(asked: &HeaderMap) -> Response<Body> {
    let mut response = no_content();
    let headers = response.headers_mut();
    for (question, answer) in [
        ("access-control-request-method", "access-control-allow-methods"),
        ("access-control-request-headers", "access-control-allow-headers"),
    ] {
        if let Some(value) = asked.get(question) {
            headers.insert(HeaderName::from_static(answer), value.clone());
        }
    }
    headers.insert("access-control-max-age", HeaderValue::from_static("7200"));
    response
}

/// Every origin may call: what protects is the access token, not the origin.
pub fn allow_any_origin(headers: &mut HeaderMap) {
    headers.insert("access-control-allow-origin", HeaderValue::from_static("*"));
    headers.insert(
        "access-control-expose-headers",
        HeaderValue::from_static(
            "Location, Cache-Control, X-Content-Type-Options, Content-Encoding, Connect-Content-Encoding, \
             Connect-Accept-Encoding, Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin",
        ),
    );
}
