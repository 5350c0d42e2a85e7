//! Error codes of the REST API: one per failing thing, never derived from a message's text.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ErrorCode {
    InvalidRequest,
    Unauthorized,
    Forbidden,
    /// A cookie's request that does not come from the dashboard's own pages.
    OriginMismatch,
    /// A cookie's request without the session's `X-CSRF-Token`.
    CsrfTokenInvalid,
    SignupClosed,
    /// Of a program's login (RFC 8628): nobody has decided yet.
    AuthorizationPending,
    /// It asks too often: 5 seconds more between two questions from now on.
    SlowDown,
    AccessDenied,
    ExpiredToken,
    NotFound,
    MethodNotAllowed,
    Conflict,
    InvalidState,
    HostHasSandboxes,
    SnapshotInUse,
    EmailTaken,
    NameTaken,
    HostDeleted,
    TooLarge,
    UnsupportedMediaType,
    RateLimited,
    QuotaExceeded,
    Internal,
    AgentError,
    /// Of a sign-in provider.
    ProviderError,
    NoHostsAvailable,
    HostUnavailable,
    Overloaded,
    NotReady,
    InsufficientStorage,
    Timeout,
}

impl ErrorCode {
    /// The HTTP status that goes with the code.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest
            | Self::AuthorizationPending
            | Self::SlowDown
            | Self::AccessDenied
            | Self::ExpiredToken => 400,
            Self::Unauthorized => 401,
            Self::Forbidden | Self::OriginMismatch | Self::CsrfTokenInvalid | Self::SignupClosed => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict
            | Self::InvalidState
            | Self::HostHasSandboxes
            | Self::SnapshotInUse
            | Self::EmailTaken
            | Self::NameTaken => 409,
            Self::HostDeleted => 410,
            Self::TooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RateLimited | Self::QuotaExceeded => 429,
            Self::Internal => 500,
            Self::AgentError | Self::ProviderError => 502,
            Self::NoHostsAvailable | Self::HostUnavailable | Self::Overloaded | Self::NotReady => 503,
            Self::Timeout => 504,
            Self::InsufficientStorage => 507,
        }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::OriginMismatch => "origin_mismatch",
            Self::CsrfTokenInvalid => "csrf_token_invalid",
            Self::SignupClosed => "signup_closed",
            Self::AuthorizationPending => "authorization_pending",
            Self::SlowDown => "slow_down",
            Self::AccessDenied => "access_denied",
            Self::ExpiredToken => "expired_token",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Conflict => "conflict",
            Self::InvalidState => "invalid_state",
            Self::HostHasSandboxes => "host_has_sandboxes",
            Self::SnapshotInUse => "snapshot_in_use",
            Self::EmailTaken => "email_taken",
            Self::NameTaken => "name_taken",
            Self::HostDeleted => "host_deleted",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::RateLimited => "rate_limited",
            Self::QuotaExceeded => "quota_exceeded",
            Self::Internal => "internal",
            Self::AgentError => "agent_error",
            Self::ProviderError => "provider_error",
            Self::NoHostsAvailable => "no_hosts_available",
            Self::HostUnavailable => "host_unavailable",
            Self::Overloaded => "overloaded",
            Self::NotReady => "not_ready",
            Self::InsufficientStorage => "insufficient_storage",
            Self::Timeout => "timeout",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
