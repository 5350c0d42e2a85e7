//! Who may see and manage which host: the table of docs/hosts.md, section 10, in one place.
//!
//! Another team's host is not there (404); a regular host may not be managed by people who are no platform admins (403).

use atoll_model::api::auth::Role;
use atoll_model::{HostId, HostType, TeamId};

use super::caller::User;
use super::error::{ApiError, ApiResult};
use crate::app::App;
use crate::hosts::{HostRow, store};

fn is_own(user: &User, host: &HostRow) -> bool {
    host.kind.0 == HostType::Byoc && host.team_id.as_ref().is_some_and(|team| team.0 == user.team)
}

/// A host that the caller may look at: an admin any, others their team's own.
pub async fn visible(app: &App, user: &User, host: &HostId) -> ApiResult<HostRow> {
    let row = store::get(&app.db, host).await?.ok_or_else(|| ApiError::not_found("host"))?;
    if user.is_admin || is_own(user, &row) { Ok(row) } else { Err(ApiError::not_found("host")) }
}

/// A host that the caller may rename, drain, re-token and delete.
pub async fn manageable(app: &App, user: &User, host: &HostId) -> ApiResult<HostRow> {
    let row = store::get(&app.db, host).await?.ok_or_else(|| ApiError::not_found("host"))?;
    match row.kind.0 {
        _ if user.is_admin => {}
        HostType::Regular => return Err(ApiError::forbidden("the platform's hosts are for platform admins")),
        HostType::Byoc if is_own(user, &row) => user.at_least(Role::Admin)?,
        HostType::Byoc => return Err(ApiError::not_found("host")),
    }
    Ok(row)
}

/// Whether the caller may make a host of this type, and for which team.
pub async fn may_create(app: &App, user: &User, kind: HostType, team: Option<&TeamId>) -> ApiResult<Option<TeamId>> {
    match kind {
        HostType::Regular => {
            if !user.is_admin {
                return Err(ApiError::forbidden("the platform's hosts are for platform admins"));
            }
            if team.is_some() {
                return Err(ApiError::invalid("team_id", "a regular host belongs to no team"));
            }
            Ok(None)
        }
        HostType::Byoc => {
            let team = team.unwrap_or(&user.team);
            if !user.is_admin {
                if *team != user.team {
                    return Err(ApiError::not_found("team"));
                }
                user.at_least(Role::Admin)?;
            }
            match store::team_is_byoc(&app.db, team).await? {
                Some(true) => Ok(Some(team.clone())),
                Some(false) => Err(ApiError::forbidden("this team does not bring its own hosts")),
                None => Err(ApiError::not_found("team")),
            }
        }
    }
}
