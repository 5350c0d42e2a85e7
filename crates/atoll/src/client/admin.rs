//! `atoll admin`: what platform admins see and switch.

use atoll_client::model::api::sign_in::ResetLink;
use atoll_client::model::api::teams::SetQuotasRequest;
use serde_json::json;

use super::person;
use super::team::{print_id, print_quotas};
use crate::cli::Global;
use crate::cli::teams::AdminCommand;
use crate::output::{self, Table, age};

pub async fn main(command: AdminCommand, global: &Global) -> anyhow::Result<u8> {
    match command {
        AdminCommand::Teams { search, person } => {
            let teams = person::client(&person, global).await?.admin_teams(search.as_deref()).await?;
            if global.json {
                output::print_json(&teams)?;
                return Ok(0);
            }
            let mut table = Table::new(&["ID", "NAME", "MEMBERS", "SANDBOXES", "HOSTS", "OWN HOSTS", "AGE"]);
            for team in teams.items {
                table.row([
                    team.id.to_string(),
                    team.name,
                    team.members.to_string(),
                    team.sandboxes.to_string(),
                    team.hosts.to_string(),
                    if team.is_byoc { "yes" } else { "no" }.to_owned(),
                    age(team.created_at),
                ]);
            }
            table.print()?;
        }
        AdminCommand::Users { search, person } => {
            let users = person::client(&person, global).await?.admin_users(search.as_deref()).await?;
            if global.json {
                output::print_json(&users)?;
                return Ok(0);
            }
            let mut table = Table::new(&["ID", "EMAIL", "NAME", "TEAMS", "ADMIN", "ACTIVE", "LAST LOGIN"]);
            for user in users.items {
                let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
                let login = user.last_login_at.map_or_else(|| "never".to_owned(), |at| format!("{} ago", age(at)));
                table.row([
                    user.id.to_string(),
                    user.email,
                    user.name,
                    user.teams.to_string(),
                    yes(user.is_admin),
                    yes(user.is_active),
                    login,
                ]);
            }
            table.print()?;
        }
        AdminCommand::AddUser { email, name, person } => {
            print_link(global, &person::client(&person, global).await?.create_user(&email, &name).await?)?;
        }
        AdminCommand::ResetLink { user, person } => {
            print_link(global, &person::client(&person, global).await?.reset_link(&user).await?)?;
        }
        AdminCommand::Byoc { team, state, person } => {
            person::client(&person, global).await?.set_byoc(&team, state).await?;
            print_id(global, &json!({ "id": team, "is_byoc": state }), &team)?;
        }
        AdminCommand::Quota { team, limits, person } => {
            let client = person::client(&person, global).await?;
            let request = SetQuotasRequest {
                sandboxes: limits.sandboxes,
                vcpus: limits.vcpus,
                memory_mb: limits.memory_mb,
                disk_mb: limits.disk_mb,
            };
            let given = [limits.sandboxes, limits.vcpus, limits.memory_mb, limits.disk_mb];
            let sets = limits.defaults || given.iter().any(Option::is_some);
            let quotas = if sets { client.set_quotas(&team, &request).await? } else { client.quotas(&team).await? };
            if global.json {
                output::print_json(&quotas)?;
            } else {
                print_quotas(&quotas)?;
            }
        }
        AdminCommand::Active { user, state, person } => {
            person::client(&person, global).await?.set_user_active(&user, state).await?;
            print_id(global, &json!({ "id": user, "is_active": state }), &user)?;
        }
        AdminCommand::Admin { user, state, person } => {
            person::client(&person, global).await?.set_user_admin(&user, state).await?;
            print_id(global, &json!({ "id": user, "is_admin": state }), &user)?;
        }
    }
    Ok(0)
}

/// The link alone on stdout, whom it is for beside it.
fn print_link(global: &Global, link: &ResetLink) -> anyhow::Result<()> {
    if global.json {
        return output::print_json(link);
    }
    output::print(&format!("{}\n", link.url.as_deref().unwrap_or_default()))?;
    let until = link.expires_at.format("%Y-%m-%d %H:%M");
    eprintln!("atoll: for {} ({}); it is good for once, until {until} UTC", link.email, link.user_id);
    Ok(())
}
