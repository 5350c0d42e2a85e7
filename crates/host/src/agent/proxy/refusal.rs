//! The proxy's own answers: JSON as the E2B SDKs expect it, and a header that tells them from the sandbox's.

use atoll_model::api::hosts::{PROXY_ERROR_HEADER, PROXY_LIMIT_HEADER};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};

/// Why a request did not reach the sandbox, or its answer did not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    BadSandboxId,
    BadPort,
    /// There is none of this id, or it has ended.
    NotFound,
    Starting,
    Paused,
    PortClosed(u16),
    TooManyStreams {
        limit: usize,
    },
    /// The connection broke before an answer came.
    Broken,
    /// The sandbox was destroyed while the request was under way.
    Destroyed,
}

impl Refusal {
    const fn status(self) -> StatusCode {
        match self {
            Self::BadSandboxId | Self::BadPort => StatusCode::BAD_REQUEST,
            Self::NotFound | Self::PortClosed(_) | Self::Broken | Self::Destroyed => StatusCode::BAD_GATEWAY,
            Self::Starting | Self::Paused => StatusCode::CONFLICT,
            Self::TooManyStreams { .. } => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// The value of [`PROXY_ERROR_HEADER`].
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::BadSandboxId => "bad_sandbox_id",
            Self::BadPort => "bad_port",
            Self::NotFound => "not_found",
            Self::Starting => "starting",
            Self::Paused => "paused",
            Self::PortClosed(_) => "port_closed",
            Self::TooManyStreams { .. } => "too_many_connections",
            Self::Broken => "broken",
            Self::Destroyed => "reset",
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::BadSandboxId => "Invalid sandbox ID",
            Self::BadPort => "Invalid sandbox port",
            Self::NotFound | Self::Destroyed => "The sandbox was not found",
            Self::Starting => "The sandbox is still starting",
            Self::Paused => "The sandbox is paused",
            Self::PortClosed(_) => "The sandbox is running but port is not open",
            Self::TooManyStreams { .. } => "The sandbox has too many connections",
            Self::Broken => "The connection to the sandbox broke before it answered",
        }
    }

    /// The answer. `sandbox` is the id as it was asked for.
    #[must_use]
    pub fn answer(self, sandbox: &str) -> Response {
        let status = self.status();
        let mut answer = if status == StatusCode::BAD_REQUEST {
            (status, self.message()).into_response()
        } else {
            let mut body = serde_json::json!({
                "sandboxId": sandbox, "message": self.message(), "code": status.as_u16(),
            });
            match self {
                Self::PortClosed(port) => body["port"] = port.into(),
                Self::TooManyStreams { limit } => body["connectionLimit"] = limit.into(),
                _ => {}
            }
            let mut answer = Response::new(Body::from(body.to_string()));
            *answer.status_mut() = status;
            let json = HeaderValue::from_static("application/json; charset=utf-8");
            answer.headers_mut().insert(CONTENT_TYPE, json);
            answer
        };
        answer.headers_mut().insert(PROXY_ERROR_HEADER, HeaderValue::from_static(self.code()));
        if let Self::TooManyStreams { limit } = self {
            answer.headers_mut().insert(PROXY_LIMIT_HEADER, HeaderValue::from(limit));
        }
        answer
    }
}
