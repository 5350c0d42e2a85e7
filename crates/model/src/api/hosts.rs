//! Hosts and their enrolment.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{HostId, HostStatus, HostType, SandboxId, SandboxStatus, TeamId, UserId, VolumeId};

/// The name for which control presents a certificate of its own CA, whatever its public name is.
pub const CONTROL_SERVER_NAME: &str = "control.atoll.internal";
/// URI name in the certificate with which control calls agents, and signs tombstones.
pub const CONTROL_URI: &str = "spiffe://atoll/control";
/// URI name in a host's certificate, before its id.
pub const HOST_URI_PREFIX: &str = "spiffe://atoll/host/";
/// Registration tokens: this, then base64url of 32 random bytes and the SHA-256 of the CA certificate (DER).
pub const REGISTRATION_TOKEN_PREFIX: &str = "atr_";
/// Set by the agent's proxy on answers of its own (not the sandbox's): `not_found`, `paused`, `starting`,
/// `port_closed`, `too_many_connections`, `reset`.
pub const PROXY_ERROR_HEADER: &str = "x-atoll-proxy-error";
/// Beside `too_many_connections`: how many a sandbox may have.
pub const PROXY_LIMIT_HEADER: &str = "x-atoll-proxy-limit";
/// Set by the agent on all its answers about what is in a volume: a 404 without it is an agent that knows no such request.
pub const VOLUME_FILES_HEADER: &str = "x-atoll-volume-files";

/// What a host advertises as its address that can't be reached from outside: it keeps a connection open to control, and
/// control calls it through that.
pub const TUNNEL_ADDRESS: &str = "tunnel";
/// What the connection of such a host becomes (`Upgrade`): HTTP/2 in which control is the client, and each `CONNECT`
/// is one connection to the agent's listener.
pub const TUNNEL_PROTOCOL: &str = "atoll-tunnel";

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateHostRequest {
    /// Made up when absent.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(rename = "type", default)]
    pub kind: HostType,
    #[serde(default)]
    pub team_id: Option<TeamId>,
    #[serde(default)]
    pub provider: Option<String>,
    #[serde(default)]
    pub availability_zone: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateHostResponse {
    pub host: Host,
    /// Single use, shown once. Give it to `atoll host --register`.
    pub registration_token: String,
    pub expires_at: DateTime<Utc>,
}

/// Changes what is given.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UpdateHostRequest {
    #[serde(default)]
    pub name: Option<String>,
}

/// A new registration token; the older ones are worth nothing.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegistrationTokenResponse {
    /// Single use, shown once.
    pub registration_token: String,
    pub expires_at: DateTime<Utc>,
}

/// What a forced deletion would destroy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostDeletePreview {
    pub host: Host,
    /// All that are not stopped; the first 1,000 of them.
    pub sandboxes: Vec<crate::api::sandboxes::Sandbox>,
    pub sandbox_count: u64,
    /// Volumes that lie on it.
    pub volumes: Vec<VolumeId>,
    /// Snapshots and templates with files that are stored nowhere else yet.
    pub images: Vec<String>,
}

/// How far a host that is drained has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostDrain {
    pub draining: bool,
    /// It drains, and nothing is left on it that would be lost with it: neither sandboxes nor volumes nor images.
    pub drained: bool,
    /// Sandboxes on it that are not stopped.
    pub sandbox_count: u64,
    /// The first 1,000 of them, those that have waited longest first.
    pub sandboxes: Vec<HostDrainSandbox>,
    /// Volumes that lie on it: they don't move.
    pub volume_ids: Vec<VolumeId>,
    /// Snapshots and templates that are stored nowhere else yet.
    pub image_ids: Vec<String>,
}

/// A sandbox that a drained host still has.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostDrainSandbox {
    pub id: SandboxId,
    pub status: SandboxStatus,
    /// Where it is being made now.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to_host_id: Option<HostId>,
    /// What it waits for, or why it can't leave.
    pub waits_for: String,
}

/// Free labels of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostTags {
    #[cfg_attr(feature = "openapi", schema(max_items = 64))]
    pub tags: Vec<String>,
}

/// Sandboxes on a host, by status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SandboxCounts {
    pub running: u32,
    pub paused: u32,
    pub other: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Host {
    pub id: HostId,
    pub name: String,
    pub draining: bool,
    /// It is draining, and nothing is left on it that would be lost with it.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = true))]
    pub drained: bool,
    #[serde(rename = "type")]
    pub kind: HostType,
    pub team_id: Option<TeamId>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub team_name: Option<String>,
    pub provider: Option<String>,
    pub availability_zone: Option<String>,
    pub arch: Option<String>,
    pub cpu_cores: Option<u32>,
    pub memory_mb: Option<u64>,
    pub disk_gb: Option<u64>,
    /// Where control reaches the agent: `host:port`, or `tunnel` for one that keeps a connection open to control.
    pub address: Option<String>,
    pub status: HostStatus,
    pub agent_version: Option<String>,
    /// What virtual machines run on there: memory of machines goes on where this is the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_version: Option<String>,
    /// Free labels, sorted.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = true))]
    pub tags: Vec<String>,
    pub sandbox_counts: SandboxCounts,
    pub last_heartbeat_at: Option<DateTime<Utc>>,
    pub created_by: Option<UserId>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// What a machine has and offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostSpecs {
    pub arch: String,
    pub cpu_cores: u32,
    pub memory_mb: u64,
    pub disk_gb: u64,
    /// Isolation drivers on offer: `container`, `vm`.
    pub drivers: Vec<String>,
    pub agent_version: String,
}

/// The request that a new agent enrols with. A bad token is 401 before anything else is judged.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegisterHostRequest {
    pub token: String,
    /// Where control can reach the agent: `host:port`, or `tunnel` when it can't.
    pub address: String,
    pub specs: HostSpecs,
    /// A certificate signing request, PEM. Its subject is ignored; its key is certified.
    pub csr: String,
}

/// Credentials of a host, from registration and from every refresh.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostCredentials {
    pub host_id: HostId,
    pub name: String,
    /// JWT for `X-Host-Token`, valid for 7 days.
    pub access_token: String,
    pub access_expires_at: DateTime<Utc>,
    /// Opaque, single use (rotates), valid for 60 days.
    pub refresh_token: String,
    pub refresh_expires_at: DateTime<Utc>,
    /// Server-only certificate for the agent's listener, PEM.
    pub certificate: String,
    pub certificate_expires_at: DateTime<Utc>,
    /// Control's CA, PEM.
    pub ca: String,
    /// What control expects of the agent.
    pub settings: HostSettings,
}

/// Settings that control hands to its hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostSettings {
    pub heartbeat_interval_ms: u64,
}

/// The refresh token is in the body; the body is signed with the host's key (header `X-Host-Signature`,
/// base64 of the signature over the exact bytes of the body), so that a stolen token alone is worth nothing.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RefreshHostRequest {
    pub refresh_token: String,
    pub csr: String,
    /// Milliseconds since 1970, to bound replays of a recorded request.
    pub timestamp_ms: i64,
}

/// The header that carries a host's access JWT.
pub const HOST_TOKEN_HEADER: &str = "x-host-token";
/// The header that carries the signature of a refresh: base64 (standard, padded) of an ASN.1 ECDSA P-256 SHA-256
/// signature by the host's registered key over the exact bytes of the body.
pub const HOST_SIGNATURE_HEADER: &str = "x-host-signature";

/// Which of a sandbox's identities its host asks a token of.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IdentityTokenRequest {
    /// The identity's name.
    pub name: String,
}

/// A token of a sandbox's identity.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct IdentityToken {
    /// A JWT-SVID.
    pub token: String,
    /// Seconds that it is good for.
    pub ttl_sec: u64,
}

/// The proof that a host was deleted, in the 410 `host_deleted` answer as `error.tombstone`. The only order that
/// makes an agent destroy its sandboxes and forget its credentials, so it is signed by control's CA itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostTombstone {
    pub host_id: HostId,
    /// Names this one deletion.
    pub deletion_id: String,
    /// Milliseconds since 1970.
    pub deleted_at_ms: i64,
    /// Base64 (standard, padded) of an ASN.1 ECDSA P-256 SHA-256 signature over [`Self::signed_text`], made with
    /// the key of control's CA certificate.
    pub signature: String,
}

impl HostTombstone {
    /// The exact bytes that the signature covers.
    #[must_use]
    pub fn signed_text(host_id: &HostId, deletion_id: &str, deleted_at_ms: i64) -> String {
        format!("atoll host deletion v1\n{host_id}\n{deletion_id}\n{deleted_at_ms}\n")
    }
}

/// What a host says of itself every heartbeat.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HeartbeatRequest {
    pub agent_version: String,
    /// The kernel's boot id: tells a restart of the agent from a reboot of the machine.
    pub boot_id: String,
    pub address: String,
    pub capacity: Capacity,
    /// What its sandboxes have been promised (the sum of their sizes), not what they touch at the moment.
    pub used: Capacity,
    pub sandbox_counts: SandboxCounts,
    /// Hash over the set of (sandbox id, state, generation).
    pub sandbox_digest: String,
    /// False while the agent is still finding its sandboxes again.
    pub inventory_complete: bool,
    /// A create would succeed on this host.
    pub ready: bool,
    /// Set when the agent shuts down in order.
    #[serde(default)]
    pub going_offline: bool,
    #[serde(default)]
    pub cached_images: Vec<String>,
    /// Isolation drivers on offer, the preferred one first; empty from an agent that doesn't say.
    #[serde(default)]
    pub drivers: Vec<String>,
    /// What virtual machines run on here: memory of machines goes on where this is the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_version: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Capacity {
    /// Thousandths of a core.
    pub cpu_millis: u64,
    pub memory_mb: u64,
    pub disk_mb: u64,
}
