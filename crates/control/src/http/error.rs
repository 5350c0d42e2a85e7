//! What a client is told when something fails: one type, one shape, for every answer.
//!
//! Handlers return `Result<_, ApiError>` and use `?`. Typed errors of the floors below turn into it by `From`, one
//! variant to one [`ErrorCode`], never by looking at a message's text. The answer's body is written at the outer
//! edge (`http/edge.rs`), where the request id is known; internal causes go to the log there and nowhere else.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::time::Duration;

use atoll_model::{ErrorCode, IdError};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use crate::db::DbError;
use crate::fleet::{FleetError, said};

/// An error answer. Made with [`ApiError::new`] or one of the shorthands, completed with the `with_` methods.
#[derive(Debug)]
pub struct ApiError {
    pub code: ErrorCode,
    /// For a person; never holds an internal cause.
    pub message: Cow<'static, str>,
    /// The field of the request that was wrong.
    pub field: Option<Cow<'static, str>>,
    /// Further members of the error object, by code.
    pub details: Map<String, Value>,
    pub retry_after: Option<Duration>,
    /// Another one than the code's, where another API has its own for this.
    pub status: Option<StatusCode>,
    /// For the log only.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of everything that answers a request.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            field: None,
            details: Map::new(),
            retry_after: None,
            status: None,
            source: None,
        }
    }

    /// 400, naming the field.
    #[must_use]
    pub fn invalid(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        let mut error = Self::new(ErrorCode::InvalidRequest, message);
        error.field = Some(field.into());
        error
    }

    /// 401. Always the same words, whatever was wrong.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(ErrorCode::Unauthorized, "missing or invalid credentials")
    }

    #[must_use]
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::Forbidden, message)
    }

    /// 404. The same for what doesn't exist and for what belongs to somebody else.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no such {what}"))
    }

    #[must_use]
    pub fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::Conflict, message)
    }

    /// Our own fault, 500: the client learns the request id, the log the cause. When what is behind it is a database that
    /// is too busy or not there, it is 503; when that can't keep a NUL byte, which no check has found before, 400.
    #[must_use]
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let cause = cause.into();
        let mut next: Option<&(dyn StdError + 'static)> = Some(&*cause);
        while let Some(error) = next {
            let message = match error.downcast_ref::<DbError>() {
                Some(error) if error.is_overload() => "the database is too busy; try again in a moment",
                Some(error) if error.is_nul() => {
                    let message = "a text of this request has a NUL byte, which can't be kept";
                    return Self::new(ErrorCode::InvalidRequest, message).with_source(cause);
                }
                Some(error) if error.is_away() => "the database can't be reached; try again in a moment",
                _ => {
                    next = error.source();
                    continue;
                }
            };
            return Self::overloaded(message).with_source(cause);
        }
        Self::new(ErrorCode::Internal, "something went wrong on our side; the log has it under this request id")
            .with_source(cause)
    }

    /// 502: a sandbox's guest agent said what it should not. It is the tenant's own; the log has what it was.
    #[must_use]
    pub fn agent(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let cause = said(&cause.into().to_string());
        Self::new(ErrorCode::AgentError, "the sandbox's guest agent gave an answer that makes no sense")
            .with_source(cause)
    }

    /// 503 with `Retry-After`.
    #[must_use]
    pub fn overloaded(message: impl Into<Cow<'static, str>>) -> Self {
        let mut error = Self::new(ErrorCode::Overloaded, message);
        error.retry_after = Some(Duration::from_secs(1));
        error
    }

    #[must_use]
    pub fn with_field(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Adds a member to the error object.
    #[must_use]
    pub fn with_detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    #[must_use]
    pub fn with_source(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(cause.into());
        self
    }

    #[must_use]
    pub fn status(&self) -> StatusCode {
        let usual = || StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        self.status.unwrap_or_else(usual)
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl StdError for ApiError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

/// Carries the error out to the edge, which writes the body.
#[derive(Clone)]
pub(super) struct Unwritten(pub std::sync::Arc<std::sync::Mutex<Option<ApiError>>>);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(Unwritten(std::sync::Arc::new(std::sync::Mutex::new(Some(self)))));
        response
    }
}

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        Self::internal(error)
    }
}

impl From<FleetError> for ApiError {
    fn from(error: FleetError) -> Self {
        let message: Cow<'static, str> = match &error {
            FleetError::Unknown { .. } => "the sandbox's host is not known or has not registered".into(),
            FleetError::Unavailable { .. } => "the sandbox's host can't be reached at the moment".into(),
            FleetError::Timeout { .. } => "the sandbox's host did not answer in time".into(),
            FleetError::Paused { .. } => "the sandbox is paused".into(),
            FleetError::Overloaded { .. } => "too many requests to the sandbox's host are under way".into(),
            FleetError::Agent { message, .. } => format!("the host answered: {message}").into(),
            FleetError::Internal { .. } => return Self::internal(error),
        };
        let mut answer = Self::new(error.code(), message).with_source(error);
        if matches!(answer.code, ErrorCode::Overloaded | ErrorCode::HostUnavailable) {
            answer.retry_after = Some(Duration::from_secs(1));
        }
        answer
    }
}

impl From<IdError> for ApiError {
    /// An id in the path that isn't one names nothing.
    fn from(error: IdError) -> Self {
        Self::not_found(error.kind)
    }
}
