//! Snapshots: the files of a sandbox at one moment, under a name.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{SandboxId, TemplateId};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateSnapshotRequest {
    pub sandbox_id: SandboxId,
    /// Lower-case letters, digits and hyphens, 64 at most; made up when absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// Keep its processes too: for virtual machines. Sandboxes of the same size that are made from it go on with them, on
    /// the host that has it; others start from its files.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory: Option<bool>,
}

/// Sandboxes are created from it by its name or id, as from a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Snapshot {
    pub id: TemplateId,
    /// Unique among the team's snapshots and templates.
    pub name: String,
    /// What it kept: `memory` or `files`.
    pub kind: String,
    /// What its sandboxes get unless they ask for something else.
    pub vcpus: u32,
    pub memory_mb: u64,
    pub disk_mb: u64,
    /// What had been written over the template.
    pub size_bytes: u64,
    /// It is in the object store: every host can have it. Until then its sandboxes start on the host that made it.
    pub stored: bool,
    /// It was not in the object store, and the host that had it was deleted: no sandbox can be made from it any more.
    pub lost: bool,
    /// Why it is not in the object store, when that failed. It is tried again, later and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    pub created_at: DateTime<Utc>,
    /// The platform's: no team can delete it.
    pub platform: bool,
}
