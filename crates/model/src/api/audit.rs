//! The audit trail.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AuditId, TeamId};

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ActorKind {
    User,
    ApiKey,
    Host,
    System,
}

impl ActorKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ApiKey => "api_key",
            Self::Host => "host",
            Self::System => "system",
        }
    }
}

impl std::str::FromStr for ActorKind {
    type Err = crate::sandbox::UnknownName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "user" => Ok(Self::User),
            "api_key" => Ok(Self::ApiKey),
            "host" => Ok(Self::Host),
            "system" => Ok(Self::System),
            _ => Err(crate::sandbox::UnknownName { kind: "actor", text: text.to_owned() }),
        }
    }
}

/// Who did what to which thing, from where, with what result.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    pub id: AuditId,
    pub at: DateTime<Utc>,
    pub team_id: Option<TeamId>,
    pub actor_kind: ActorKind,
    pub actor_id: Option<String>,
    /// The person's address, or the key's name, while there is one.
    pub actor_name: Option<String>,
    /// Reads `thing.verb`: `sandbox.create`, `member.remove`.
    pub action: String,
    pub resource_kind: String,
    pub resource_id: Option<String>,
    /// `ok`, or an error code.
    pub result: String,
    /// Where the request came from.
    pub address: Option<String>,
    pub user_agent: Option<String>,
    pub request_id: Option<String>,
    /// What the change replaced, where there was something, without secrets.
    pub before: Option<Value>,
    /// What it became.
    pub after: Option<Value>,
    pub details: Map<String, Value>,
}
