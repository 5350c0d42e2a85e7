//! Accounts, sessions, teams and API keys.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{ApiKeyId, SessionId, TeamId, UserId};

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LoginRequest {
    pub email: String,
    pub password: String,
}

/// Makes the first admin of a fresh installation.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SetupRequest {
    /// What the server printed at its start.
    pub token: String,
    pub email: String,
    /// 8 to 1,024 characters.
    pub password: String,
}

/// Makes an account, with a team of the person's own.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignupRequest {
    pub email: String,
    /// 8 to 1,024 characters.
    pub password: String,
    pub name: String,
    /// The token of an invitation; needed where signing up is by invitation only. Its team is joined at once.
    #[serde(default)]
    pub invitation: Option<String>,
}

#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuthResponse {
    /// A user JWT for `Authorization: Bearer`, valid for 6 hours. Absent from an answer that sets a cookie.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub token: Option<String>,
    /// To be sent as `X-CSRF-Token` with whatever a cookie session changes; only in an answer that sets the cookie.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub csrf_token: Option<String>,
    pub user_id: UserId,
    pub team_id: TeamId,
    pub email: String,
    pub name: String,
    /// When the session ends by itself.
    pub expires_at: DateTime<Utc>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SwitchTeamRequest {
    pub team_id: TeamId,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UpdateMeRequest {
    pub name: String,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChangePasswordRequest {
    /// Absent only for people who have no password yet, since they sign in elsewhere.
    #[serde(default)]
    pub current_password: Option<String>,
    /// 8 to 1,024 characters.
    pub new_password: String,
}

/// How a session proves itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum SessionKind {
    /// By a token in `Authorization`.
    Token,
    /// By a cookie.
    Browser,
}

impl SessionKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Browser => "browser",
        }
    }
}

impl std::fmt::Display for SessionKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for SessionKind {
    type Err = crate::sandbox::UnknownName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "token" => Ok(Self::Token),
            "browser" => Ok(Self::Browser),
            _ => Err(crate::sandbox::UnknownName { kind: "session kind", text: text.to_owned() }),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Session {
    pub id: SessionId,
    pub kind: SessionKind,
    /// The team that it acts in.
    pub team_id: TeamId,
    /// Where it was opened from.
    pub address: Option<String>,
    pub user_agent: Option<String>,
    pub created_at: DateTime<Utc>,
    /// To the minute.
    pub last_seen_at: Option<DateTime<Utc>>,
    pub expires_at: DateTime<Utc>,
    /// The one that asks.
    pub current: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EndedSessions {
    /// How many.
    pub ended: u64,
}

/// Who may make an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Signup {
    Open,
    Invite,
    Closed,
}

/// A place elsewhere where people can sign in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SignInProvider {
    /// As in `/v1/auth/oidc/{provider}`.
    pub id: String,
    /// For people.
    pub name: String,
}

/// What a page for signing in needs to know. Public.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuthConfig {
    pub signup: Signup,
    /// Nobody has an account: the first admin is made with the setup token that the server printed.
    pub setup_needed: bool,
    pub providers: Vec<SignInProvider>,
    /// Whether the server sends mail. Without it an admin hands out the links that set a new password.
    pub smtp: bool,
    /// Below which name sandboxes are reached by host name, where the server was given one: `E2B_DOMAIN` for the SDKs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

/// A person's role in a team. Ordered: a greater one may do all that a lesser one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Role {
    Member,
    Admin,
    Owner,
}

impl Role {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = crate::sandbox::UnknownName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "member" => Ok(Self::Member),
            "admin" => Ok(Self::Admin),
            "owner" => Ok(Self::Owner),
            _ => Err(crate::sandbox::UnknownName { kind: "role", text: text.to_owned() }),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Team {
    pub id: TeamId,
    pub name: String,
    pub slug: String,
    pub is_byoc: bool,
    pub created_at: DateTime<Utc>,
    /// The caller's role in it.
    pub role: Role,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Me {
    pub user_id: UserId,
    pub email: String,
    pub name: String,
    pub is_admin: bool,
    pub team_id: TeamId,
    pub role: Role,
    /// Whether there is a password to change; people who sign in elsewhere may have none.
    pub has_password: bool,
    /// To be sent as `X-CSRF-Token` with whatever a cookie session changes; absent for tokens.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub csrf_token: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateApiKeyRequest {
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 100))]
    pub name: String,
    /// `all` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<KeyScope>,
    /// Refused from then on; never when absent. In the future.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum KeyScope {
    /// Everything that keys may.
    #[default]
    All,
    /// Sandboxes and what is in them; templates are read.
    Sandboxes,
    /// Looking, and reading files; changing nothing.
    Read,
}

impl KeyScope {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Sandboxes => "sandboxes",
            Self::Read => "read",
        }
    }
}

impl std::str::FromStr for KeyScope {
    type Err = crate::sandbox::UnknownName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            "sandboxes" => Ok(Self::Sandboxes),
            "read" => Ok(Self::Read),
            _ => Err(crate::sandbox::UnknownName { kind: "scope", text: text.to_owned() }),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ApiKey {
    pub id: ApiKeyId,
    pub name: String,
    /// The first 10 characters of the key.
    pub key_prefix: String,
    pub created_by: Option<UserId>,
    pub created_at: DateTime<Utc>,
    /// To the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    pub scope: KeyScope,
    pub expires_at: Option<DateTime<Utc>>,
    /// The key itself; only in the answer that creates it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<String>,
    /// The same key in the form that E2B's SDKs check for (`e2b_...`); both open the same.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub e2b_key: Option<String>,
}
