//! Teams, their members and their limits.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::auth::{Role, Team};
use crate::UserId;

/// A team that is to be made; its maker becomes its owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateTeamRequest {
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 100))]
    pub name: String,
}

/// Changes what is given.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UpdateTeamRequest {
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 100))]
    pub name: Option<String>,
    /// In addresses: lower-case letters, digits and single hyphens.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(max_length = 40, pattern = "^[a-z0-9]+(-[a-z0-9]+)*$"))]
    pub slug: Option<String>,
}

/// A team with the people in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TeamDetail {
    pub team: Team,
    /// The first 1,000, oldest membership first; `GET /v1/teams/{id}/members` has all of them.
    pub members: Vec<Member>,
    /// How many there are.
    #[serde(default)]
    pub members_total: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Member {
    pub user_id: UserId,
    pub email: String,
    pub name: String,
    pub role: Role,
    /// False: the account is switched off by a platform admin.
    pub is_active: bool,
    /// When the membership began.
    pub created_at: DateTime<Utc>,
}

/// Makes somebody who has an account a member. (`POST /v1/teams/{id}/invitations` invites those who have none.)
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AddMemberRequest {
    #[cfg_attr(feature = "openapi", schema(min_length = 3, max_length = 254))]
    pub email: String,
    /// `member` when absent.
    #[serde(default)]
    pub role: Option<Role>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UpdateMemberRequest {
    pub role: Role,
}

/// How much of something a team has, and may have.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Allowance {
    pub used: u64,
    /// None: no limit.
    pub limit: Option<u64>,
    /// The limit that was set for this team alone. None: `limit` is the installation's default.
    #[serde(default)]
    pub own: Option<u64>,
}

/// What a team's sandboxes that are not stopped take, and may take.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Quotas {
    pub sandboxes: Allowance,
    pub vcpus: Allowance,
    pub memory_mb: Allowance,
    pub disk_mb: Allowance,
}

/// Sets all of a team's limits: what is absent or null is the installation's default.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SetQuotasRequest {
    #[cfg_attr(feature = "openapi", schema(maximum = 1_000_000_000_000_u64))]
    pub sandboxes: Option<u64>,
    #[cfg_attr(feature = "openapi", schema(maximum = 1_000_000_000_000_u64))]
    pub vcpus: Option<u64>,
    #[cfg_attr(feature = "openapi", schema(maximum = 1_000_000_000_000_u64))]
    pub memory_mb: Option<u64>,
    #[cfg_attr(feature = "openapi", schema(maximum = 1_000_000_000_000_u64))]
    pub disk_mb: Option<u64>,
}

/// What a team used on one day (UTC).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageDay {
    /// `2026-11-25`.
    pub date: String,
    /// Sandboxes that there were on that day.
    pub sandboxes: u64,
    /// Running.
    pub sandbox_seconds: f64,
    pub vcpu_seconds: f64,
    /// Running or paused.
    pub memory_mb_seconds: f64,
    /// From creation to the end.
    pub disk_mb_seconds: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Usage {
    /// Oldest first, days without any included.
    pub days: Vec<UsageDay>,
    pub quotas: Quotas,
}

/// What happened from `timestamp` until the next point.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ActivityPoint {
    pub timestamp: DateTime<Utc>,
    /// The most sandboxes that ran at once.
    pub concurrent: u64,
    /// Sandboxes that began to run: made, or waking from a pause.
    pub starts: u64,
}

/// How busy a team was.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Activity {
    /// Oldest first, without gaps.
    pub points: Vec<ActivityPoint>,
    /// Of a point.
    pub step_sec: u64,
}
