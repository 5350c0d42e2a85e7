//! Teams, members, quotas, the audit trail, and what platform admins do.

use atoll_model::api::admin::{AdminTeam, AdminUser, SwitchRequest};
use atoll_model::api::audit::AuditEntry;
use atoll_model::api::auth::{Role, Team};
use atoll_model::api::sandboxes::SetNetworkRequest;
use atoll_model::api::sign_in::{CreateUserRequest, ResetLink};
use atoll_model::api::teams::{
    AddMemberRequest, CreateTeamRequest, Member, Quotas, SetQuotasRequest, TeamDetail, UpdateMemberRequest,
    UpdateTeamRequest, Usage,
};
use atoll_model::api::{CountedPage, Page};
use atoll_model::{TeamId, UserId};
use http::Method;

use crate::transport::{DEADLINE, query};
use crate::{Client, Error};

/// Which audit entries are wanted.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub actor: Option<String>,
    pub action: Option<String>,
    pub resource: Option<String>,
    /// `ok`, `failed` or an error code.
    pub result: Option<String>,
    /// Part of an action, an id, an address or a name.
    pub search: Option<String>,
    pub since: Option<String>,
    pub limit: Option<u32>,
    /// Of every team; for platform admins.
    pub all: bool,
}

impl Client {
    pub async fn create_team(&self, name: &str) -> Result<Team, Error> {
        self.post("/v1/teams", &CreateTeamRequest { name: name.to_owned() }).await
    }

    pub async fn get_team(&self, id: &TeamId) -> Result<TeamDetail, Error> {
        self.get(&format!("/v1/teams/{id}")).await
    }

    pub async fn update_team(&self, id: &TeamId, change: &UpdateTeamRequest) -> Result<Team, Error> {
        self.json(Method::PATCH, &format!("/v1/teams/{id}"), Some(change), DEADLINE).await
    }

    /// What new sandboxes of the team may reach when their request doesn't say.
    pub async fn team_network(&self, id: &TeamId) -> Result<SetNetworkRequest, Error> {
        self.get(&format!("/v1/teams/{id}/network")).await
    }

    pub async fn set_team_network(&self, id: &TeamId, wish: &SetNetworkRequest) -> Result<SetNetworkRequest, Error> {
        self.json(Method::PUT, &format!("/v1/teams/{id}/network"), Some(wish), DEADLINE).await
    }

    pub async fn delete_team(&self, id: &TeamId) -> Result<(), Error> {
        self.json(Method::DELETE, &format!("/v1/teams/{id}"), None::<&()>, DEADLINE).await
    }

    pub async fn list_members(&self, id: &TeamId) -> Result<Page<Member>, Error> {
        self.get(&format!("/v1/teams/{id}/members?limit=1000")).await
    }

    pub async fn add_member(&self, id: &TeamId, email: &str, role: Role) -> Result<Member, Error> {
        let request = AddMemberRequest { email: email.to_owned(), role: Some(role) };
        self.post(&format!("/v1/teams/{id}/members"), &request).await
    }

    pub async fn set_role(&self, id: &TeamId, user: &UserId, role: Role) -> Result<Member, Error> {
        let request = UpdateMemberRequest { role };
        self.json(Method::PATCH, &format!("/v1/teams/{id}/members/{user}"), Some(&request), DEADLINE).await
    }

    pub async fn remove_member(&self, id: &TeamId, user: &UserId) -> Result<(), Error> {
        self.json(Method::DELETE, &format!("/v1/teams/{id}/members/{user}"), None::<&()>, DEADLINE).await
    }

    pub async fn leave_team(&self, id: &TeamId) -> Result<(), Error> {
        self.json(Method::POST, &format!("/v1/teams/{id}/leave"), None::<&()>, DEADLINE).await
    }

    /// What the caller's team used, and what it has and may have.
    pub async fn usage(&self) -> Result<Usage, Error> {
        self.get("/v1/usage").await
    }

    pub async fn audit_log(&self, filter: &AuditFilter) -> Result<Page<AuditEntry>, Error> {
        let query = query(&[
            ("actor", filter.actor.clone()),
            ("action", filter.action.clone()),
            ("resource", filter.resource.clone()),
            ("result", filter.result.clone()),
            ("q", filter.search.clone()),
            ("since", filter.since.clone()),
            ("limit", filter.limit.map(|limit| limit.to_string())),
        ]);
        let path = if filter.all { "/v1/admin/audit-logs" } else { "/v1/audit-logs" };
        self.get(&format!("{path}{query}")).await
    }

    /// Every team. For platform admins, as all that follows.
    pub async fn admin_teams(&self, search: Option<&str>) -> Result<CountedPage<AdminTeam>, Error> {
        let query = query(&[("limit", Some("1000".to_owned())), ("q", search.map(str::to_owned))]);
        self.get(&format!("/v1/admin/teams{query}")).await
    }

    pub async fn admin_users(&self, search: Option<&str>) -> Result<CountedPage<AdminUser>, Error> {
        let query = query(&[("limit", Some("1000".to_owned())), ("q", search.map(str::to_owned))]);
        self.get(&format!("/v1/admin/users{query}")).await
    }

    /// Lets a team bring its own hosts, or not.
    pub async fn set_byoc(&self, team: &TeamId, enabled: bool) -> Result<(), Error> {
        let path = format!("/v1/admin/teams/{team}/byoc");
        self.json(Method::PUT, &path, Some(&SwitchRequest { enabled }), DEADLINE).await
    }

    pub async fn set_user_active(&self, user: &UserId, enabled: bool) -> Result<(), Error> {
        let path = format!("/v1/admin/users/{user}/active");
        self.json(Method::PUT, &path, Some(&SwitchRequest { enabled }), DEADLINE).await
    }

    pub async fn set_user_admin(&self, user: &UserId, enabled: bool) -> Result<(), Error> {
        let path = format!("/v1/admin/users/{user}/admin");
        self.json(Method::PUT, &path, Some(&SwitchRequest { enabled }), DEADLINE).await
    }

    /// Makes an account. The link sets its password.
    pub async fn create_user(&self, email: &str, name: &str) -> Result<ResetLink, Error> {
        let request = CreateUserRequest { email: email.to_owned(), name: name.to_owned() };
        self.post("/v1/admin/users", &request).await
    }

    /// A link with which that person sets a new password.
    pub async fn reset_link(&self, user: &UserId) -> Result<ResetLink, Error> {
        self.json(Method::POST, &format!("/v1/admin/users/{user}/password-reset"), None::<&()>, DEADLINE).await
    }

    pub async fn quotas(&self, team: &TeamId) -> Result<Quotas, Error> {
        self.get(&format!("/v1/admin/teams/{team}/quotas")).await
    }

    /// Sets all of a team's limits.
    pub async fn set_quotas(&self, team: &TeamId, quotas: &SetQuotasRequest) -> Result<Quotas, Error> {
        self.json(Method::PUT, &format!("/v1/admin/teams/{team}/quotas"), Some(quotas), DEADLINE).await
    }
}
