//! What happened, as it is told to live views and webhooks.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::TeamId;

/// What an event is about.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Resource {
    /// `sandbox`, `host`, `template`, `snapshot`, `api_key`, `team`, `member` or `webhook`.
    pub kind: String,
    /// Of a member: the person's.
    pub id: String,
}

/// Something that happened. `data` of a server-sent event, and the body of a webhook.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// Its place in the order of all events. A webhook may bring one twice: this tells.
    pub id: i64,
    /// Kind and what happened: `sandbox.created`, `host.updated`, `api_key.deleted`.
    #[serde(rename = "type")]
    pub kind: String,
    /// None: it is the platform's.
    pub team_id: Option<TeamId>,
    pub created_at: DateTime<Utc>,
    pub resource: Resource,
    /// The thing as the API shows it now (which may be later than the event); null when it is gone.
    pub object: Option<Value>,
}
