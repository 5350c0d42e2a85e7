//! The shapes of E2B's API of templates, as its SDKs of both generations send and read them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A request for a build that is to come.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NewTemplate {
    /// `name[:tag]`.
    pub name: Option<String>,
    /// The same, as older clients call it.
    pub alias: Option<String>,
    pub tags: Option<Vec<String>>,
    pub cpu_count: Option<u32>,
    #[serde(rename = "memoryMB")]
    pub memory_mb: Option<u64>,
    /// Megabytes that sandboxes shall find free.
    pub min_free_disk_mb: Option<u64>,
    /// Whether all teams may use it.
    pub public: Option<bool>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Requested {
    #[serde(rename = "templateID")]
    pub template_id: String,
    #[serde(rename = "buildID")]
    pub build_id: String,
    pub public: bool,
    pub names: Vec<String>,
    pub tags: Vec<String>,
    pub aliases: Vec<String>,
}

/// A request for a build of an image that the client will push. Its Dockerfile is the client's own matter.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Old {
    /// The template's name, maybe with a tag.
    pub alias: Option<String>,
    pub start_cmd: Option<String>,
    pub ready_cmd: Option<String>,
    pub cpu_count: Option<u32>,
    #[serde(rename = "memoryMB")]
    pub memory_mb: Option<u64>,
    /// Whether all teams may use it.
    pub public: Option<bool>,
}

/// What is to be built.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Start {
    pub from_image: Option<String>,
    pub from_template: Option<String>,
    pub from_image_registry: Option<Registry>,
    pub force: Option<bool>,
    pub steps: Option<Vec<Step>>,
    pub start_cmd: Option<String>,
    pub ready_cmd: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Step {
    #[serde(rename = "type")]
    pub kind: String,
    pub args: Option<Vec<String>>,
    pub files_hash: Option<String>,
    pub force: Option<bool>,
}

/// How a registry is logged in to. Never written anywhere.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Registry {
    #[serde(rename = "registry")]
    Password {
        username: String,
        password: String,
    },
    Aws {},
    #[serde(rename_all = "camelCase")]
    Gcp {
        service_account_json: Value,
    },
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry(..)")
    }
}

/// Where the files of a `COPY` go, and whether they are there.
#[derive(Debug, Serialize)]
pub struct FileUpload {
    pub present: bool,
    pub url: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildInfo {
    #[serde(rename = "templateID")]
    pub template_id: String,
    #[serde(rename = "buildID")]
    pub build_id: String,
    pub status: &'static str,
    pub logs: Vec<String>,
    pub log_entries: Vec<LogEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

#[derive(Debug, Serialize)]
pub struct LogEntry {
    pub timestamp: DateTime<Utc>,
    pub message: String,
    pub level: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
}

/// Why a build has failed.
#[derive(Debug, Serialize)]
pub struct Reason {
    pub message: String,
    /// `base`, the number of a step from 1, or `finalize`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    #[serde(rename = "templateID")]
    pub template_id: String,
    #[serde(rename = "buildID")]
    pub build_id: String,
    pub cpu_count: i64,
    #[serde(rename = "memoryMB")]
    pub memory_mb: i64,
    #[serde(rename = "diskSizeMB")]
    pub disk_size_mb: i64,
    pub public: bool,
    pub aliases: Vec<String>,
    pub names: Vec<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub created_by: Option<Value>,
    pub last_spawned_at: Option<DateTime<Utc>>,
    pub spawn_count: i64,
    pub build_count: i64,
    pub envd_version: &'static str,
    pub build_status: &'static str,
    pub is_default: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builds: Option<Vec<Build>>,
}

/// A template, and the tags that a build of it will have.
#[derive(Debug, Serialize)]
pub struct RequestedTemplate {
    #[serde(flatten)]
    pub template: Template,
    pub tags: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Build {
    #[serde(rename = "buildID")]
    pub build_id: String,
    pub status: &'static str,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    pub cpu_count: i64,
    #[serde(rename = "memoryMB")]
    pub memory_mb: i64,
    #[serde(rename = "diskSizeMB")]
    pub disk_size_mb: i64,
    pub envd_version: &'static str,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Update {
    pub public: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NewTags {
    /// `name:tag`.
    pub target: String,
    pub tags: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct OldTags {
    pub name: String,
    pub tags: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Assigned {
    pub tags: Vec<String>,
    #[serde(rename = "buildID")]
    pub build_id: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tag {
    pub tag: String,
    #[serde(rename = "buildID")]
    pub build_id: String,
    pub created_at: DateTime<Utc>,
}

/// A tag was given to a build.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    pub assignment_id: String,
    pub build_id: String,
    pub assigned_at: DateTime<Utc>,
    pub build_created_at: DateTime<Utc>,
    pub build_finished_at: Option<DateTime<Utc>>,
}

/// What one tag was given to, the last first.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TagGroup {
    pub tag: String,
    pub assignments: Vec<Assignment>,
    pub has_more: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TagGroups {
    pub tags: Vec<TagGroup>,
    pub next_cursor: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignments {
    pub data: Vec<Assignment>,
    pub next_cursor: Option<String>,
}
