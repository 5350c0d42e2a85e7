//! What a sandbox did and used.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::SandboxStatus;

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
