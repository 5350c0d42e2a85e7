//! Sandboxes: create, look, fork. What they may reach, programs and files in them, and what they used are in files of
//! their own.

mod files;
mod insight;
mod network;
mod programs;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use files::{
    FileChange, FileEntry, FileList, FileType, ListFilesRequest, MoveFileRequest, PathRequest, WatchOutput, WrittenFile,
};
pub use insight::{LogLine, Metrics, MetricsPoint, SandboxEvent};
pub use network::{
    AddedHeader, BANDWIDTH, EgressProxy, EgressProxyTls, Link, LinkRequest, NetworkPolicy, SetNetworkRequest,
};
pub use programs::{BackgroundExecResponse, Encoding, ExecRequest, ExecResponse, Process, StreamInput, StreamOutput};

use crate::sandbox::OnReboot;
use crate::{HostId, OnTimeout, SandboxId, SandboxStatus, VolumeId};

/// Everything is optional: `{}` makes a sandbox from `base`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateSandboxRequest {
    /// Template name or id; `base` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// 1 to 64; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 64))]
    pub vcpus: Option<u32>,
    /// 32 to 1,048,576; 512 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 32, maximum = 1_048_576))]
    pub memory_mb: Option<u64>,
    /// Quota of the sandbox's own writes, thinly provisioned. 16 to 16,777,216; 5120 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 16, maximum = 16_777_216))]
    pub disk_mb: Option<u64>,
    /// Idle time after which `on_timeout` acts; 0 (when absent) for never. At most 31,536,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 31_536_000))]
    pub timeout_sec: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_timeout: Option<OnTimeout>,
    /// A request to the paused sandbox wakes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_resume: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_reboot: Option<OnReboot>,
    /// `container`, `vm` or `auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(pattern = "^(container|vm|auto)$"))]
    pub driver: Option<String>,
    /// What it begins with, of a snapshot of a virtual machine: `memory` or `files`. When absent, with its memory if that
    /// was kept and the size is the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(pattern = "^(memory|files)$"))]
    pub start_from: Option<String>,
    /// Environment of every process in it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Secrets of the team that become part of the environment: the variable's name, and the secret's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// Identities of its own, 5 at most: the names that added headers call them (`${identity.NAME}`), and for whom their tokens
    /// are (`aud`). A token is a JWT (a JWT-SVID of SPIFFE, ES256) that anybody can check by this server's
    /// `/.well-known/openid-configuration`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub identities: BTreeMap<String, String>,
    /// Volumes of the team, 8 at most. The sandbox runs on the host that has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 8))]
    pub volumes: Vec<VolumeMount>,
    /// Free labels; lists can be filtered by them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// False closes all ways out of the sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internet: Option<bool>,
    /// True lets anybody send requests to its ports; otherwise they take a signed link or an API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public: Option<bool>,
    /// What it may reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkPolicy>,
}

/// A volume in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeMount {
    /// Its name or id.
    pub volume: String,
    /// Where its files are inside: absolute, made where the template lacks it.
    pub path: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// A volume that a sandbox was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Mount {
    pub volume_id: VolumeId,
    /// Its name.
    pub volume: String,
    /// Where its files are inside.
    pub path: String,
    pub read_only: bool,
}

/// Children that start from the files that a sandbox has now.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ForkRequest {
    /// 1 (when absent) to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 100))]
    pub count: Option<u32>,
    /// The children's idle timeout; the sandbox's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(maximum = 31_536_000))]
    pub timeout_sec: Option<u64>,
    /// Their labels; the sandbox's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// One child: a sandbox that runs and answers, or why there is none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Forked {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sandbox: Option<Sandbox>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<ForkError>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ForkError {
    pub code: crate::ErrorCode,
    pub message: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ForkResponse {
    /// What was kept for the children: `memory` or `files`; each says what it goes on with.
    pub kept: String,
    pub items: Vec<Forked>,
}

const fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Sandbox {
    pub id: SandboxId,
    pub status: SandboxStatus,
    pub driver: String,
    /// Why it is in this status.
    pub reason: Option<String>,
    pub template: String,
    pub vcpus: u32,
    pub memory_mb: u64,
    pub disk_mb: u64,
    pub timeout_sec: u64,
    pub on_timeout: OnTimeout,
    pub auto_resume: bool,
    /// Anybody may send requests to its ports.
    #[serde(default)]
    pub public: bool,
    /// False: all ways out of it are closed.
    #[serde(default = "yes")]
    pub internet: bool,
    /// The audiences of its identities, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub identities: BTreeMap<String, String>,
    /// What it may reach, where that was said.
    #[serde(default, skip_serializing_if = "NetworkPolicy::is_empty")]
    pub network: NetworkPolicy,
    pub host_id: Option<HostId>,
    /// The team's volumes that it was given, by path.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = true))]
    pub mounts: Vec<Mount>,
    pub metadata: BTreeMap<String, String>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub last_active_at: DateTime<Utc>,
    pub status_changed_at: DateTime<Utc>,
    /// In answers to pause and resume: what was kept, `memory` or `files`. In those to a create from a snapshot that has memory,
    /// and to a fork of a machine: what it goes on with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kept: Option<String>,
    /// In answers to pause: how much of its memory went to swap.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub freed_bytes: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TimeoutRequest {
    /// Idle seconds; 0 for never.
    #[cfg_attr(feature = "openapi", schema(maximum = 31_536_000))]
    pub timeout_sec: u64,
    #[serde(default)]
    pub on_timeout: Option<OnTimeout>,
}
