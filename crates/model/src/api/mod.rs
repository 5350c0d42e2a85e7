//! The shapes of the REST API's requests and answers, shared by the server, the client and the tests, so that
//! none of them can drift from the others. Times are RFC 3339 with zone; sizes carry their unit in the name.

pub mod admin;
pub mod audit;
pub mod auth;
pub mod events;
pub mod hosts;
pub mod sandboxes;
pub mod secrets;
pub mod sign_in;
pub mod snapshots;
pub mod teams;
pub mod templates;
pub mod volumes;
pub mod webhooks;

use serde::{Deserialize, Serialize};

use crate::ErrorCode;

/// The body of every error answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorDetail {
    pub code: ErrorCode,
    /// For a person: what went wrong and what to do.
    pub message: String,
    pub request_id: String,
    /// The field of the request that was wrong, when one was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub field: Option<String>,
    /// Further details, by code.
    #[serde(flatten)]
    pub details: serde_json::Map<String, serde_json::Value>,
}

/// A page of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Pass as `cursor` to get the next page; absent on the last one.
    pub next_cursor: Option<String>,
}

/// A page of a list that also says how long the list is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CountedPage<T> {
    pub items: Vec<T>,
    /// Pass as `cursor` to get the next page; absent on the last one.
    pub next_cursor: Option<String>,
    /// How many items the filters match, over all pages.
    pub total: u64,
}
