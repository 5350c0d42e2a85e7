//! Secrets: named values of a team, given to sandboxes and never read back.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::SecretId;

/// Shown without its value, so that it can't reach a log.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateSecretRequest {
    /// 1 to 128 letters, digits, `_`, `-` and `.`, not beginning with a dot.
    pub name: String,
    /// 1 to 65,536 bytes, without NUL.
    pub value: String,
}

impl fmt::Debug for CreateSecretRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateSecretRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Without its value: that is never read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Secret {
    pub id: SecretId,
    /// Unique in the team.
    pub name: String,
    /// A person or an API key.
    pub created_by: Option<String>,
    pub created_at: DateTime<Utc>,
    /// When its value was last set.
    pub updated_at: DateTime<Utc>,
}
