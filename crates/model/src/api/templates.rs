//! Templates: what sandboxes begin as.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{BuildId, TemplateId};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Template {
    pub id: TemplateId,
    /// Unique within its team, and among the platform's.
    pub name: String,
    /// The platform's: every team has it, none can change it.
    pub platform: bool,
    /// Its team has published it: every team may make sandboxes from it.
    pub public: bool,
    /// SHA-256 of its image, hex.
    pub digest: String,
    pub size_bytes: u64,
    /// Who its sandboxes' programs run as unless a request says otherwise.
    pub default_user: String,
    pub default_workdir: String,
    /// What its sandboxes run in: `container`, `vm`, or `auto` for what their create or their host says.
    pub driver: String,
    pub created_at: DateTime<Utc>,
    /// When its image last changed, or who may use it.
    pub updated_at: DateTime<Utc>,
}

/// A build of a template: from a recipe, or from an image of a registry. The template is made when there is none of the
/// name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateTemplateRequest {
    /// Lower-case letters, digits and hyphens, 64 at most; maybe with `:tag`.
    pub name: String,
    /// What the build is called within its template; `default` when absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(max_items = 15))]
    pub tags: Vec<String>,
    /// In the manner of a Dockerfile: FROM, RUN, COPY, ENV, WORKDIR, USER, CMD, READY.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
    /// In place of a recipe: an image by reference, such as `debian:12`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The hash under which the files that COPY takes from were uploaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// For the image's registry; kept nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<RegistryLogin>,
    /// Run at each start of a sandbox; wins over the recipe's CMD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_cmd: Option<String>,
    /// Asked until it succeeds; wins over the recipe's READY.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_cmd: Option<String>,
    /// What its sandboxes run in: `container`, `vm`, or `auto` for what their create or their host says; as what it is built
    /// from when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// With `driver` `vm`: a machine is started at the end of the build, and sandboxes go on with what it has in memory when
    /// it is ready, its start command's programs among that.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_memory: bool,
    /// Sizes of its sandboxes unless they ask for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 64))]
    pub vcpus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 32, maximum = 1_048_576))]
    pub memory_mb: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 16, maximum = 16_777_216))]
    pub disk_mb: Option<u64>,
    /// Build every step anew.
    pub force: bool,
}

/// What is to be another way of a template. What isn't named stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UpdateTemplateRequest {
    /// Whether every team may make sandboxes from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public: Option<bool>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegistryLogin {
    pub username: String,
    pub password: String,
}

/// Without the password.
impl std::fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryLogin").field("username", &self.username).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum BuildStatus {
    Waiting,
    Building,
    Ready,
    Error,
    Cancelled,
}

impl BuildStatus {
    /// Nothing more will happen.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Ready | Self::Error | Self::Cancelled)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Build {
    pub id: BuildId,
    pub template_id: TemplateId,
    pub status: BuildStatus,
    /// Why there is no product.
    pub reason: Option<String>,
    /// Where it failed: `base`, a step's number from 1, or `finalize`.
    pub step: Option<String>,
    pub created_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StartedBuild {
    pub template: Template,
    pub build: Build,
}

/// One line of a build's log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BuildLogLine {
    /// Counts from 0.
    pub seq: i64,
    pub timestamp: DateTime<Utc>,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    pub step: Option<String>,
    pub message: String,
}

/// What a template's sandboxes are beside its image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TemplateTags {
    /// Build by tag.
    pub tags: BTreeMap<String, BuildId>,
}
