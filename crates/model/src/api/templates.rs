//! Templates: what sandboxes begin as.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::TemplateId;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Template {
    pub id: TemplateId,
    /// Unique within its team, and among the platform's.
    pub name: String,
    /// The platform's: every team has it, none can change it.
    pub platform: bool,
    /// SHA-256 of its image, hex.
    pub digest: String,
    pub size_bytes: u64,
    /// Who its sandboxes' programs run as unless a request says otherwise.
    pub default_user: String,
    pub default_workdir: String,
    pub created_at: DateTime<Utc>,
    /// When its image last changed.
    pub updated_at: DateTime<Utc>,
}
