//! What E2B's SDKs are told beside a status and a text: a word that programs match on, and whether to try again.

use atoll_model::ErrorCode;
use atoll_model::api::ErrorDetail;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::Response;

use crate::http::error::ApiError;
use crate::http::idempotent::{HEADER, MISMATCH, PROBLEM, UNDER_WAY};

const SHOULD_RETRY: HeaderName = HeaderName::from_static("should-retry");

/// E2B's own word for what has happened, if it has one.
pub fn code_of(error: &ErrorDetail) -> Option<&'static str> {
    match error.details.get(PROBLEM).and_then(|problem| problem.as_str()) {
        Some(MISMATCH) => return Some("idempotency_request_mismatch"),
        Some(UNDER_WAY) => return Some("idempotency_in_progress"),
        _ => {}
    }
    match error.code {
        ErrorCode::NoHostsAvailable => Some("sandbox_capacity_unavailable"),
        ErrorCode::Internal => Some("internal_server_error"),
        _ => None,
    }
}

/// A key that was used for something else is what the request holds wrong, not a conflict.
pub fn of_a_key(error: ApiError) -> ApiError {
    let is_mismatch = error.details.get(PROBLEM).is_some_and(|problem| problem == MISMATCH);
    if is_mismatch { ApiError { status: Some(StatusCode::UNPROCESSABLE_ENTITY), ..error } } else { error }
}

/// Whether a request does the same when it comes twice.
pub fn may_be_repeated(request: &Request) -> bool {
    request.method() != Method::POST || request.headers().contains_key(HEADER)
}

/// SDKs send again what was answered with 502 or 504 unless they are told not to. Of what may have been done all the same,
/// there would be two then.
pub fn say_whether_to_retry(response: &mut Response, may_be_repeated: bool) {
    let is_uncertain = matches!(response.status(), StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT);
    if is_uncertain && !may_be_repeated {
        response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;

    fn asked(method: Method, key: bool) -> bool {
        let request = axum::http::Request::builder().method(method);
        let request = if key { request.header(HEADER, "k") } else { request };
        may_be_repeated(&request.body(axum::body::Body::empty()).unwrap())
    }

    #[test]
    fn what_may_have_been_done_is_not_tried_again() {
        assert!(asked(Method::GET, false) && asked(Method::DELETE, false) && asked(Method::POST, true));
        assert!(!asked(Method::POST, false));
        for (code, told) in [(ErrorCode::Timeout, true), (ErrorCode::AgentError, true), (ErrorCode::Overloaded, false)]
        {
            for may_be_repeated in [true, false] {
                let mut response = ApiError::new(code, "x").into_response();
                say_whether_to_retry(&mut response, may_be_repeated);
                let expected = (told && !may_be_repeated).then_some("false");
                assert_eq!(
                    response.headers().get(SHOULD_RETRY).map(|value| value.to_str().unwrap()),
                    expected,
                    "{code}"
                );
            }
        }
    }
}
