//! What can go wrong with a request: the server's answer, or no answer.

use std::fmt;

use atoll_model::ErrorCode;
use atoll_model::api::ErrorBody;
use http::StatusCode;
use serde_json::{Map, Value};

/// Every error says what was attempted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server answered with an error.
    #[error("{0}")]
    Api(Box<ApiError>),
    /// Nothing answers at the server's address.
    #[error("cannot reach Atoll at {url}: {source}")]
    Unreachable { url: String, source: std::io::Error },
    /// The connection broke before the answer was complete. What was asked may or may not have happened.
    #[error("the connection to {url} broke during {what}: {cause}")]
    Broken { url: String, what: String, cause: String },
    /// No answer in time. What was asked may or may not have happened.
    #[error("no answer to {what} within {seconds} s")]
    TimedOut { what: String, seconds: u64 },
    /// Something answers, but it does not speak Atoll's API.
    #[error("the answer to {what} is not one of Atoll's API: {cause}")]
    NotAtoll { what: String, cause: String },
    #[error("`{url}` is not a usable address: {reason}")]
    BadUrl { url: String, reason: &'static str },
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The program in the sandbox could not be started, or its stream ended without an exit.
    #[error("{message}")]
    Stream {
        code: String,
        message: String,
        /// The field of the start that was wrong, as the REST API names it.
        field: Option<String>,
        /// What is wrong with it: `not_found` or `not_executable`.
        reason: Option<String>,
    },
}

impl Error {
    /// A stream that ended without the program's exit.
    pub(crate) fn disconnected(message: String) -> Self {
        Self::Stream { code: "disconnected".to_owned(), message, field: None, reason: None }
    }
}

impl Error {
    /// The code of the server's answer, when it is one this build knows.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Api(error) => error.known_code(),
            _ => None,
        }
    }

    /// The HTTP status of the server's answer.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api(error) => Some(error.status),
            _ => None,
        }
    }

    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }
}

/// An error answer of the server.
#[derive(Debug, Clone)]
pub struct ApiError {
    pub status: u16,
    /// `snake_case`; a newer server may send one that [`ErrorCode`] does not know.
    pub code: String,
    pub message: String,
    /// Finds the cause in the server's log.
    pub request_id: Option<String>,
    /// The field of the request that was wrong.
    pub field: Option<String>,
    /// Seconds after which to try again.
    pub retry_after: Option<u64>,
    pub details: Map<String, Value>,
}

impl ApiError {
    #[must_use]
    pub fn known_code(&self) -> Option<ErrorCode> {
        serde_json::from_value(Value::String(self.code.clone())).ok()
    }

    /// Reads an error answer; anything may have been sent by what stands between.
    pub(crate) fn read(status: StatusCode, headers: &http::HeaderMap, body: &[u8]) -> Self {
        let retry_after =
            headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        if let Ok(ErrorBody { error }) = serde_json::from_slice::<ErrorBody>(body) {
            return Self {
                status: status.as_u16(),
                code: error.code.as_str().to_owned(),
                message: error.message,
                request_id: Some(error.request_id).filter(|id| !id.is_empty()),
                field: error.field,
                retry_after,
                details: error.details,
            };
        }
        let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let text = |name: &str| value["error"][name].as_str().map(str::to_owned);
        let fallback = || {
            let body: String = String::from_utf8_lossy(body).chars().take(200).collect();
            format!("HTTP {status}: {}", body.trim())
        };
        Self {
            status: status.as_u16(),
            code: text("code").unwrap_or_else(|| "unknown".to_owned()),
            message: text("message").unwrap_or_else(fallback),
            request_id: text("request_id"),
            field: text("field"),
            retry_after,
            details: Map::new(),
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(field) = self.field.as_ref().filter(|field| !self.message.contains(field.as_str())) {
            write!(f, " (field `{field}`)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &str) -> ApiError {
        let status = StatusCode::from_u16(status).unwrap();
        ApiError::read(status, &http::HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn an_error_of_the_api_keeps_all_it_says() {
        let error = read(
            409,
            r#"{"error":{"code":"host_has_sandboxes","message":"2 sandboxes","request_id":"r1","sandbox_ids":["a"]}}"#,
        );
        assert_eq!(error.known_code(), Some(ErrorCode::HostHasSandboxes));
        assert_eq!(error.request_id.as_deref(), Some("r1"));
        assert_eq!(error.details["sandbox_ids"][0], "a");
    }

    #[test]
    fn a_code_of_a_newer_server_is_kept_as_text() {
        let error = read(418, r#"{"error":{"code":"new_thing","message":"m","request_id":"r"}}"#);
        assert_eq!((error.code.as_str(), error.known_code()), ("new_thing", None));
    }

    #[test]
    fn an_answer_of_something_else_is_shown_as_it_is() {
        assert_eq!(read(502, "<h1>Bad gateway</h1>").message, "HTTP 502 Bad Gateway: <h1>Bad gateway</h1>");
    }
}
