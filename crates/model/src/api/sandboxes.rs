//! Sandboxes: create, look, run programs, files.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

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

/// What a sandbox may reach: IPv4 networks (`10.1.0.0/16`, or an address) and names (`example.com`, or `*.example.com`
/// for all below it). What is allowed wins over what is denied; what is named by neither is open. With `0.0.0.0/0`
/// denied, only what is allowed can be reached, and only allowed names are resolved. Networks that the platform keeps
/// closed to all sandboxes stay closed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NetworkPolicy {
    /// At most 128.
    #[cfg_attr(feature = "openapi", schema(max_items = 128))]
    pub allow_out: Vec<String>,
    /// At most 128.
    #[cfg_attr(feature = "openapi", schema(max_items = 128))]
    pub deny_out: Vec<String>,
    /// What requests get on their way out, the last word for each name; at most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 64))]
    pub headers: Vec<AddedHeader>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_proxy: Option<EgressProxy>,
}

/// A SOCKS5 proxy of one's own, through which the host leads all TCP connections of a sandbox that the rest of its policy
/// lets out. Nothing inside sees it, and nothing of TCP goes past it: when it can't be reached, or refuses, connections fail.
/// It must have an IPv4 address that sandboxes may reach. Names are resolved by the host, and UDP goes out directly.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EgressProxy {
    /// `proxy.example.com:1080`.
    pub address: String,
    /// `{{sandboxID}}` in it, and in the password, stands for the sandbox's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Never shown. `${secrets.NAME}` in it stands for the team's secret of that name. Left out when everything else of the
    /// proxy stays as it is, it stays too; empty, there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Speaks TLS with it, and asks who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<EgressProxyTls>,
}

/// Without the password.
impl std::fmt::Debug for EgressProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EgressProxy")
            .field("address", &self.address)
            .field("username", &self.username)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// How a proxy shows who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EgressProxyTls {
    /// The name in its certificate; that of its address when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Who vouches for it, in PEM, of at most 64 KiB; whom the host's machine trusts when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<String>,
}

/// A header that the host adds to requests that a sandbox sends over HTTPS (port 443) to a name, in place of what the
/// sandbox has sent under the same header's name. `${secrets.NAME}` in the value stands for the team's secret of that name,
/// `${identity.NAME}` for a token of the sandbox's identity of that name; it sees neither. It opens nothing: the name must be one that the sandbox may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AddedHeader {
    /// `api.example.com`, or `*.example.com` for all names below it.
    pub domain: String,
    /// `Authorization`.
    pub name: String,
    /// `Bearer ${secrets.example}`.
    pub value: String,
}

impl NetworkPolicy {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The whole of what a sandbox may reach from now on; what is left out is cleared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SetNetworkRequest {
    /// False closes all ways out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internet: Option<bool>,
    #[cfg_attr(feature = "openapi", schema(max_items = 128))]
    pub allow_out: Vec<String>,
    #[cfg_attr(feature = "openapi", schema(max_items = 128))]
    pub deny_out: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 64))]
    pub headers: Vec<AddedHeader>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_proxy: Option<EgressProxy>,
}

impl SetNetworkRequest {
    /// The policy in it, apart from whether there is any network.
    #[must_use]
    pub fn into_policy(self) -> (Option<bool>, NetworkPolicy) {
        let Self { internet, allow_out, deny_out, headers, egress_proxy } = self;
        (internet, NetworkPolicy { allow_out, deny_out, headers, egress_proxy })
    }
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
    /// What the children begin with: `memory` or `files`.
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
    /// In answers to pause and resume: what was kept, `memory` or `files`.
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

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecRequest {
    pub cmd: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// 30 when absent, at most 3,600; then the program and its group are killed and the answer is 504.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 3600))]
    pub timeout_sec: Option<u64>,
    /// Answer at once with the pid.
    #[serde(default)]
    pub background: bool,
    /// A name to find the process by later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// Which port a signed link opens, and for how long.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LinkRequest {
    /// A port that a program in the sandbox listens on.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 65535))]
    pub port: u16,
    /// 1 to 2,592,000 (30 days); 3,600 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 2_592_000))]
    pub ttl_sec: Option<u64>,
}

/// Where a port of a sandbox is reached from outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Link {
    pub port: u16,
    /// Opens the port to whoever has it, until it expires. Of a public sandbox it is the plain address.
    pub url: String,
    /// The host name alone, to which programs can send an API key.
    pub host: String,
    /// Nothing for a public sandbox: its address doesn't expire.
    pub expires_at: Option<DateTime<Utc>>,
}

/// How `stdout` and `stderr` are written: as they are, or base64 when they are not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Encoding {
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "base64")]
    Base64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExecResponse {
    pub sandbox_id: SandboxId,
    pub cmd: String,
    pub stdout: String,
    pub stderr: String,
    /// 128 + signal when killed by one.
    pub exit_code: i32,
    pub duration_ms: f64,
    pub encoding: Encoding,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BackgroundExecResponse {
    pub pid: u32,
    pub tag: Option<String>,
}

/// Text frames that a client sends on `exec/stream`, and as control frames on `pty`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum StreamInput {
    Start {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cmd: Option<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<String>,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        env: BTreeMap<String, String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
        /// Without it the program's stdin is empty.
        #[serde(default)]
        stdin: bool,
        /// Terminals: columns and rows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cols: Option<u16>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rows: Option<u16>,
    },
    Stdin {
        data: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        encoding: Option<Encoding>,
    },
    /// No more input.
    CloseStdin,
    /// Any signal, by name (`SIGINT`) or number, to the program's group.
    Signal {
        signal: String,
    },
    Resize {
        cols: u16,
        rows: u16,
    },
    /// Ends the program: SIGTERM, then SIGKILL after a moment.
    Stop,
}

/// Text frames that the server sends on `exec/stream`, and as control frames on `pty`.
/// On `exec/stream`, output may also come as binary frames: one byte (1 stdout, 2 stderr), then the bytes;
/// ask for them with `?binary=true`. Input may always come as binary frames (stdin bytes).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum StreamOutput {
    Start {
        pid: u32,
    },
    Stdout {
        data: String,
        encoding: Encoding,
    },
    Stderr {
        data: String,
        encoding: Encoding,
    },
    Exit {
        exit_code: i32,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        signal: Option<String>,
    },
    Error {
        code: String,
        message: String,
        /// The field of the start frame that was wrong.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        field: Option<String>,
        /// What is wrong with it: `not_found` or `not_executable`.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reason: Option<String>,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Process {
    pub pid: u32,
    pub tag: Option<String>,
    pub cmd: String,
    pub args: Vec<String>,
    pub cwd: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PathRequest {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListFilesRequest {
    pub path: String,
    /// 1 (the directory's own entries) to 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 32))]
    pub depth: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MoveFileRequest {
    pub source: String,
    pub destination: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum FileType {
    File,
    Directory,
    Symlink,
    Other,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileEntry {
    pub name: String,
    pub path: String,
    #[serde(rename = "type")]
    pub kind: FileType,
    pub size_bytes: u64,
    /// Permission bits.
    pub mode: u32,
    pub owner: String,
    pub group: String,
    pub modified_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub symlink_target: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileList {
    pub items: Vec<FileEntry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WrittenFile {
    pub path: String,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogLine {
    pub timestamp: DateTime<Utc>,
    pub level: String,
    pub message: String,
    /// The program that wrote it; absent of the guest agent's own lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// `stdout` or `stderr`, where that program wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SandboxEvent {
    pub at: DateTime<Utc>,
    pub status: SandboxStatus,
    pub reason: Option<String>,
}

/// One point of a sandbox's metrics: of the `step_sec` seconds that begin at its time, or of this moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MetricsPoint {
    pub timestamp_unix: i64,
    /// Of one core, the mean: 200 is two cores.
    pub cpu_pct: f64,
    /// The highest that was seen.
    pub mem_bytes: u64,
    pub disk_bytes: u64,
    /// Since the sandbox's processes began: rates are differences.
    pub net_rx_bytes: u64,
    pub net_tx_bytes: u64,
    pub processes: u32,
}

/// Oldest first. Times in which the sandbox did not run have no points.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Metrics {
    pub points: Vec<MetricsPoint>,
    /// Seconds that each point stands for: 5, 60 or 900. The last one of a running sandbox is of this moment.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub step_sec: Option<u32>,
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum FileChange {
    Create,
    Write,
    Remove,
    Rename,
    Chmod,
}

/// Text frames that the server sends on `files/watch`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum WatchOutput {
    /// From now on nothing is missed.
    Start,
    Change {
        /// Relative to the watched directory.
        name: String,
        change: FileChange,
    },
    Error {
        code: String,
        message: String,
    },
}
