//! Invitations, new passwords and logins of programs: what people are given a link or a code for.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::auth::Role;
use crate::{InvitationId, TeamId, UserId};

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InviteRequest {
    pub email: String,
    /// `member` when absent.
    #[serde(default)]
    pub role: Option<Role>,
}

#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Invitation {
    pub id: InvitationId,
    pub email: String,
    pub role: Role,
    pub invited_by: Option<UserId>,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    /// Whether it went out by mail; only in the answer that makes it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mailed: Option<bool>,
    /// To be handed to the person, when it could not be mailed; only in the answer that makes it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub url: Option<String>,
}

/// What the holder of an invitation may know.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InvitationDetail {
    pub team_id: TeamId,
    pub team_name: String,
    pub email: String,
    pub role: Role,
    pub expires_at: DateTime<Utc>,
    /// There is an account with this address: sign in, then accept.
    pub has_account: bool,
}

/// Empty for somebody who is signed in; a new person says who they are.
#[derive(Default, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AcceptInvitationRequest {
    #[serde(default)]
    pub name: Option<String>,
    /// 8 to 1,024 characters.
    #[serde(default)]
    pub password: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InvitationAccepted {
    pub team_id: TeamId,
    pub role: Role,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResetRequest {
    pub email: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResetConfirmRequest {
    /// From the link.
    pub token: String,
    /// 8 to 1,024 characters.
    pub password: String,
}

/// A link with which somebody sets a password, once.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ResetLink {
    pub user_id: UserId,
    pub email: String,
    /// Shown once: absent from the answer to a repeated request with the same `Idempotency-Key`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub url: Option<String>,
    pub expires_at: DateTime<Utc>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateUserRequest {
    pub email: String,
    pub name: String,
}

#[derive(Default, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceRequest {
    /// What the person is told about who asks, such as the machine's name.
    #[serde(default)]
    pub client_name: Option<String>,
}

/// As RFC 8628 has it.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceLogin {
    /// For the program alone.
    pub device_code: String,
    /// For the person.
    pub user_code: String,
    /// Where the person goes.
    pub verification_uri: String,
    pub verification_uri_complete: String,
    /// Seconds.
    pub expires_in: u64,
    /// Seconds between two questions whether it is approved.
    pub interval: u64,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceTokenRequest {
    pub device_code: String,
}

/// A program that waits to be let in.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceLoginDetail {
    pub user_code: String,
    pub client_name: String,
    /// Where it asked from.
    pub address: Option<String>,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceDecisionRequest {
    pub user_code: String,
    /// Whether the program may act in one's name, in one's current team.
    pub approve: bool,
}
