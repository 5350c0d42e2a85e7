//! What the proxy itself answers when a request does not reach its sandbox. The words are the ones that E2B's SDKs look
//! for; a browser that shows a page gets them as one.

use atoll_model::api::hosts::{PROXY_ERROR_HEADER, PROXY_LIMIT_HEADER};
use axum::body::Body;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::db::DbError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    BadSandboxId,
    BadPort,
    /// One of the two routing headers came without the other.
    MissingHeader(&'static str),
    /// It is private, and the request brought nothing that opens it.
    Forbidden,
    /// There is none, it has ended, it is paused or about to be, or it is somebody else's.
    NotFound,
    /// It is starting or resuming.
    Transitioning,
    PortClosed(u16),
    /// Of the sandbox's, with how many it may have where its host said; or of the team's.
    TooManyConnections(Option<u32>),
    /// Too many addresses with signatures that fit nothing.
    TooManyTries,
    /// Something listened, and the connection broke before an answer came.
    Broken,
    HostUnreachable,
    TimedOut,
    /// A route of the guest agent that is control's alone.
    Internal,
    Overloaded,
    Failed,
}

impl Refusal {
    /// What the agent's proxy says by its headers. None when it has passed on what the sandbox said.
    pub fn of_agent(headers: &HeaderMap, port: u16) -> Option<Self> {
        let limit = || headers.get(PROXY_LIMIT_HEADER)?.to_str().ok()?.parse().ok();
        Some(match headers.get(PROXY_ERROR_HEADER)?.as_bytes() {
            b"port_closed" => Self::PortClosed(port),
            b"starting" => Self::Transitioning,
            b"too_many_connections" => Self::TooManyConnections(limit()),
            b"broken" => Self::Broken,
            b"bad_port" => Self::BadPort,
            b"bad_sandbox_id" => Self::BadSandboxId,
            _ => Self::NotFound,
        })
    }

    /// Our own fault: the log has the cause.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "a request into a sandbox failed");
        Self::Failed
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::BadSandboxId | Self::BadPort | Self::MissingHeader(_) => StatusCode::BAD_REQUEST,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound | Self::PortClosed(_) | Self::Broken | Self::HostUnreachable => StatusCode::BAD_GATEWAY,
            Self::Transitioning => StatusCode::CONFLICT,
            Self::TooManyConnections(_) | Self::TooManyTries => StatusCode::TOO_MANY_REQUESTS,
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => StatusCode::NOT_FOUND,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::BadSandboxId => "Invalid sandbox ID",
            Self::BadPort => "Invalid sandbox port",
            Self::MissingHeader(_) => "Missing header",
            Self::Forbidden => {
                "The sandbox's ports are private: open a signed link, or send an API key or a traffic access token"
            }
            Self::NotFound => "The sandbox was not found",
            Self::Transitioning => "The sandbox is on its way to another state; try again in a moment",
            Self::PortClosed(_) => "The sandbox is running but port is not open",
            Self::TooManyConnections(_) => "The sandbox has too many connections",
            Self::TooManyTries => "Too many signatures that fit no sandbox; try again in a minute",
            Self::Broken => "The connection to the sandbox broke before it answered",
            Self::HostUnreachable => "The sandbox's host can't be reached at the moment",
            Self::TimedOut => "The sandbox's host did not answer in time",
            Self::Internal => "There is no such route",
            Self::Overloaded => "Too many requests are under way; try again in a moment",
            Self::Failed => "Something went wrong on our side",
        }
    }

    /// The answer. `sandbox` is the id as it was asked for; `html` for a browser that shows a page.
    pub fn answer(self, sandbox: &str, html: bool) -> Response {
        let status = self.status();
        let mut answer = match self {
            Self::MissingHeader(name) => (status, format!("{}: {name}", self.message())).into_response(),
            Self::BadSandboxId | Self::BadPort => (status, self.message()).into_response(),
            _ if html => self.page(status),
            _ => self.json(status, sandbox),
        };
        let headers = answer.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        if self == Self::TooManyTries {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("60"));
        }
        if matches!(self, Self::Transitioning | Self::TooManyConnections(_) | Self::Overloaded) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }

    fn json(self, status: StatusCode, sandbox: &str) -> Response {
        let mut body = serde_json::json!({ "sandboxId": sandbox, "message": self.message(), "code": status.as_u16() });
        match self {
            Self::PortClosed(port) => body["port"] = port.into(),
            Self::TooManyConnections(Some(limit)) => body["connectionLimit"] = limit.into(),
            _ => {}
        }
        let mut answer = (status, body.to_string()).into_response();
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        answer
    }

    /// Nothing of the request is in it.
    fn page(self, status: StatusCode) -> Response {
        let port = if let Self::PortClosed(port) = self { format!(" (port {port})") } else { String::new() };
        let text = format!(
            "<!doctype html><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
             <title>{title}</title><h1>{reason}</h1><p>{message}{port}.</p>",
            title = match self {
                // The words that E2B's page has.
                Self::PortClosed(_) => "Closed Port Error".to_owned(),
                _ => format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or("Error")),
            },
            reason = status.canonical_reason().unwrap_or("Error"),
            message = self.message(),
        );
        let mut answer = Response::new(Body::from(text));
        *answer.status_mut() = status;
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        answer.headers_mut().insert("content-security-policy", HeaderValue::from_static("default-src 'none'"));
        answer
    }
}

/// Whether a person is to see the answer: HTML is asked for by name, which no SDK does, or a browser asks and not for JSON.
pub fn wants_html(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let accepts = |wanted: &str| {
        text(ACCEPT).split(',').any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == wanted))
    };
    accepts("text/html") || (text(USER_AGENT).starts_with("Mozilla/") && !accepts("application/json"))
}

impl From<DbError> for Refusal {
    fn from(error: DbError) -> Self {
        if error.is_overload() || error.is_away() { Self::Overloaded } else { Self::internal(&error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;
    use axum::http::HeaderName;

    #[test]
    fn a_browser_gets_a_page_unless_it_asks_for_json_and_a_program_only_when_it_asks_for_one() {
        const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36";
        for (agent, accept, page) in [
            (BROWSER, Some("*/*"), true),
            (BROWSER, None, true),
            (BROWSER, Some("application/json, */*"), false),
            ("e2b-python-sdk/2.63.0", Some("*/*"), false),
            ("curl/8", Some("text/html;q=0.9,*/*"), true),
            ("", None, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(USER_AGENT, HeaderValue::from_static(agent));
            headers.extend(accept.map(|accept| (ACCEPT, HeaderValue::from_static(accept))));
            assert_eq!(wants_html(&headers), page, "{agent} {accept:?}");
        }
    }

    #[tokio::test]
    async fn who_opens_too_many_connections_is_told_how_many_there_may_be() {
        for (limit, expected) in [(Some("4"), Some(4)), (None, None), (Some("x"), None)] {
            let mut headers = HeaderMap::new();
            headers.insert(PROXY_ERROR_HEADER, HeaderValue::from_static("too_many_connections"));
            headers.extend(
                limit.map(|limit| (HeaderName::from_static(PROXY_LIMIT_HEADER), HeaderValue::from_static(limit))),
            );
            let refusal = Refusal::of_agent(&headers, 80).unwrap();
            assert_eq!(refusal, Refusal::TooManyConnections(expected));
            let answer = refusal.answer("i0", false);
            assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
            let body: serde_json::Value =
                serde_json::from_slice(&to_bytes(answer.into_body(), 999).await.unwrap()).unwrap();
            assert_eq!(body.get("connectionLimit").and_then(|limit| limit.as_u64()), expected.map(u64::from));
            assert_eq!((&body["code"], &body["sandboxId"]), (&429.into(), &"i0".into()));
        }
        assert_eq!(Refusal::of_agent(&HeaderMap::new(), 80), None);
    }
}
