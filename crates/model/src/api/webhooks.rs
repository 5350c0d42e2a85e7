//! Webhooks: where a team's events are sent to.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{DeliveryId, UserId, WebhookId};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateWebhookRequest {
    /// `https://` or `http://`, without user name, to an address that is not private.
    #[cfg_attr(feature = "openapi", schema(min_length = 8, max_length = 2000))]
    pub url: String,
    /// What is sent: kinds (`sandbox`) and types (`host.deleted`). Everything when absent or empty.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(max_items = 32))]
    pub events: Vec<String>,
}

/// Changes what is given. Enabling one again forgets that it failed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UpdateWebhookRequest {
    #[cfg_attr(feature = "openapi", schema(min_length = 8, max_length = 2000))]
    pub url: Option<String>,
    #[cfg_attr(feature = "openapi", schema(max_items = 32))]
    pub events: Option<Vec<String>>,
    pub enabled: Option<bool>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Webhook {
    pub id: WebhookId,
    pub url: String,
    /// Empty: everything.
    pub events: Vec<String>,
    pub enabled: bool,
    /// Why it was disabled, when nobody did it on purpose.
    pub disabled_reason: Option<String>,
    /// Since when nothing reached it.
    pub failing_since: Option<DateTime<Utc>>,
    pub created_by: Option<UserId>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// What deliveries are signed with; only in the answer that creates it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secret: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DeliveryStatus {
    /// It will be tried (again).
    Pending,
    Delivered,
    /// Given up.
    Failed,
}

impl std::str::FromStr for DeliveryStatus {
    type Err = crate::sandbox::UnknownName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pending" => Ok(Self::Pending),
            "delivered" => Ok(Self::Delivered),
            "failed" => Ok(Self::Failed),
            _ => Err(crate::sandbox::UnknownName { kind: "delivery status", text: text.to_owned() }),
        }
    }
}

/// One event on its way to one webhook.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Delivery {
    pub id: DeliveryId,
    /// None: a test.
    pub event_id: Option<i64>,
    #[serde(rename = "type")]
    pub kind: String,
    pub status: DeliveryStatus,
    pub attempts: u32,
    /// When it is tried again, while it is pending.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Of the last attempt.
    pub response_status: Option<u16>,
    pub error: Option<String>,
    pub duration_ms: Option<u64>,
    pub created_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}
