//! What platform admins see and set.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::sandboxes::Sandbox;
use crate::{TeamId, UserId};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SwitchRequest {
    pub enabled: bool,
}

/// A team as a platform admin sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AdminTeam {
    pub id: TeamId,
    pub name: String,
    pub slug: String,
    pub is_byoc: bool,
    pub created_at: DateTime<Utc>,
    pub members: u64,
    /// Those that are not stopped.
    pub sandboxes: u64,
    /// Its own machines.
    pub hosts: u64,
}

/// A person as a platform admin sees them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AdminUser {
    pub id: UserId,
    pub email: String,
    pub name: String,
    pub is_admin: bool,
    /// False: can't sign in, and every session is refused.
    pub is_active: bool,
    pub created_at: DateTime<Utc>,
    pub teams: u64,
    /// When a session was last opened.
    pub last_login_at: Option<DateTime<Utc>>,
}

/// A sandbox with its team.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AdminSandbox {
    #[serde(flatten)]
    pub sandbox: Sandbox,
    pub team_id: TeamId,
    pub team_name: String,
}
