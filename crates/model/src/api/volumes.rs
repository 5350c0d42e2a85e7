//! Volumes: files that outlive sandboxes, mounted into them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{HostId, SandboxId, VolumeId};

/// How many sandboxes may have a volume mounted at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum VolumeMode {
    /// Any number.
    #[default]
    Shared,
    /// One.
    Exclusive,
}

impl VolumeMode {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
        }
    }
}

impl std::str::FromStr for VolumeMode {
    type Err = crate::sandbox::UnknownName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "shared" => Ok(Self::Shared),
            "exclusive" => Ok(Self::Exclusive),
            _ => Err(crate::sandbox::UnknownName { kind: "volume mode", text: text.to_owned() }),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateVolumeRequest {
    /// 1 to 64 lower-case letters, digits and hyphens, not beginning with a hyphen.
    pub name: String,
    /// What it may hold. 16 to 16,777,216; 1024 when absent.
    #[cfg_attr(feature = "openapi", schema(minimum = 16, maximum = 16_777_216))]
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size_mb: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mode: Option<VolumeMode>,
}

/// It lies on one host, on which the sandboxes that mount it run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Volume {
    pub id: VolumeId,
    /// Unique in the team.
    pub name: String,
    pub size_mb: u64,
    pub mode: VolumeMode,
    /// Where it lies; nowhere until it is first mounted.
    pub host_id: Option<HostId>,
    /// Its host was deleted, and its files with it: all that is left to do is to delete it.
    pub lost: bool,
    /// Sandboxes that have it mounted and are not stopped. While there are any it can't be deleted.
    pub sandboxes: Vec<SandboxId>,
    pub created_at: DateTime<Utc>,
}
