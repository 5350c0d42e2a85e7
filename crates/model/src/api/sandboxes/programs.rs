//! Programs in a sandbox: those that are waited for, streams, terminals.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::SandboxId;

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
