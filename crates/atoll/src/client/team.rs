//! `atoll team`: teams, their people, what they use.

use atoll_client::model::api::sandboxes::SetNetworkRequest;
use atoll_client::model::api::teams::{Allowance, Member, Quotas, UpdateTeamRequest};
use serde_json::json;

use super::person;
use super::shape;
use crate::cli::Global;
use crate::cli::teams::TeamCommand;
use crate::output::{self, Table, age, with_hint};

pub async fn main(command: TeamCommand, global: &Global) -> anyhow::Result<u8> {
    match command {
        TeamCommand::List { person } => {
            let teams = person::client(&person, global).await?.list_teams().await?;
            if global.json {
                output::print_json(&teams)?;
                return Ok(0);
            }
            let mut table = Table::new(&["ID", "NAME", "SLUG", "ROLE", "OWN HOSTS", "AGE"]);
            for team in teams.items {
                let byoc = if team.is_byoc { "yes" } else { "no" };
                let role = team.role.as_str().to_owned();
                table.row([team.id.to_string(), team.name, team.slug, role, byoc.to_owned(), age(team.created_at)]);
            }
            table.print()?;
        }
        TeamCommand::Create { name, person } => {
            let team = person::client(&person, global).await?.create_team(&name).await?;
            print_id(global, &team, &team.id)?;
        }
        TeamCommand::Get { team, person } => {
            let detail = person::client(&person, global).await?.get_team(&team).await?;
            if global.json {
                output::print_json(&detail)?;
                return Ok(0);
            }
            output::print(&format!("{}  {}  ({})\n", detail.team.id, detail.team.name, detail.team.slug))?;
            let mut table = Table::new(&["USER", "EMAIL", "NAME", "ROLE", "SINCE"]);
            for member in detail.members {
                table.row(row(member));
            }
            table.print()?;
        }
        TeamCommand::Rename { team, name, person } => {
            let change = UpdateTeamRequest { name: Some(name), slug: None };
            let team = person::client(&person, global).await?.update_team(&team, &change).await?;
            print_id(global, &team, &team.id)?;
        }
        TeamCommand::Network { team, allow, deny, header, egress_proxy, bandwidth, no_internet, clear, person } => {
            let client = person::client(&person, global).await?;
            let request = shape::network(no_internet, allow, deny, &header, egress_proxy.as_deref(), bandwidth)?;
            let network = if clear || request != SetNetworkRequest::default() {
                client.set_team_network(&team, &request).await?
            } else {
                client.team_network(&team).await?
            };
            if global.json {
                output::print_json(&network)?;
                return Ok(0);
            }
            let listed = |rules: &[String]| if rules.is_empty() { "-".to_owned() } else { rules.join(", ") };
            let internet = if network.internet == Some(false) { "no" } else { "yes" };
            let (allow, deny) = (listed(&network.allow_out), listed(&network.deny_out));
            let headers: Vec<_> = network.headers.iter().map(|it| format!("{}: {}", it.domain, it.name)).collect();
            let headers = listed(&headers);
            let proxy = network.egress_proxy.map_or_else(|| "-".to_owned(), |proxy| proxy.address);
            let bandwidth = network.bandwidth_bytes_per_second;
            let bandwidth = bandwidth.map_or_else(|| "-".to_owned(), |rate| format!("{rate} bytes a second"));
            output::print(&format!(
                "internet  {internet}\nallow     {allow}\ndeny      {deny}\nheaders   {headers}\nproxy     {proxy}\nbandwidth {bandwidth}\n"
            ))?;
        }
        TeamCommand::Rm { team, person } => {
            let client = person::client(&person, global).await?;
            client.delete_team(&team).await.map_err(|error| match error.status() {
                Some(409) => with_hint(
                    error.to_string(),
                    "`atoll rm --all` destroys its sandboxes, `atoll hosts delete` its hosts",
                ),
                _ => error.into(),
            })?;
            print_id(global, &json!({ "deleted": team }), &team)?;
        }
        TeamCommand::Add { team, email, role, person } => {
            let client = person::client(&person, global).await?;
            let member = client.add_member(&team, &email, role).await.map_err(|error| match error.status() {
                Some(404) => with_hint(error.to_string(), "only people who have an account can be added"),
                _ => error.into(),
            })?;
            print_id(global, &member, &member.user_id)?;
        }
        TeamCommand::Role { team, user, role, person } => {
            let member = person::client(&person, global).await?.set_role(&team, &user, role).await?;
            print_id(global, &member, &member.user_id)?;
        }
        TeamCommand::Remove { team, user, person } => {
            person::client(&person, global).await?.remove_member(&team, &user).await?;
            print_id(global, &json!({ "removed": user }), &user)?;
        }
        TeamCommand::Leave { team, person } => {
            let client = person::client(&person, global).await?;
            client.leave_team(&team).await.map_err(|error| match error.status() {
                Some(409) => with_hint(error.to_string(), format!("`atoll team role {team} USER owner` makes one")),
                _ => error.into(),
            })?;
            print_id(global, &json!({ "left": team }), &team)?;
        }
        TeamCommand::Usage { person } => {
            let usage = person::client(&person, global).await?.usage().await?;
            if global.json {
                output::print_json(&usage)?;
                return Ok(0);
            }
            let mut table = Table::new(&["DAY", "SANDBOXES", "RUNNING (H)", "VCPU H", "MEMORY GB H", "DISK GB H"]);
            let hours = |seconds: f64| format!("{:.2}", seconds / 3600.0);
            for day in usage.days.into_iter().filter(|day| day.sandboxes > 0) {
                table.row([
                    day.date,
                    day.sandboxes.to_string(),
                    hours(day.sandbox_seconds),
                    hours(day.vcpu_seconds),
                    hours(day.memory_mb_seconds / 1024.0),
                    hours(day.disk_mb_seconds / 1024.0),
                ]);
            }
            table.print()?;
            print_quotas(&usage.quotas)?;
        }
    }
    Ok(0)
}

pub(super) fn print_quotas(quotas: &Quotas) -> std::io::Result<()> {
    let mut table = Table::new(&["QUOTA", "USED", "LIMIT"]);
    let mut row = |name: &str, allowance: &Allowance| {
        let limit = allowance.limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
        table.row([name.to_owned(), allowance.used.to_string(), limit]);
    };
    row("sandboxes", &quotas.sandboxes);
    row("vcpus", &quotas.vcpus);
    row("memory_mb", &quotas.memory_mb);
    row("disk_mb", &quotas.disk_mb);
    table.print()
}

/// With `--json` the whole answer, else the id alone.
pub(super) fn print_id(
    global: &Global,
    answer: &impl serde::Serialize,
    id: &impl std::fmt::Display,
) -> anyhow::Result<()> {
    if global.json { output::print_json(answer) } else { Ok(output::print(&format!("{id}\n"))?) }
}

fn row(member: Member) -> [String; 5] {
    let role = member.role.as_str().to_owned();
    [member.user_id.to_string(), member.email, member.name, role, age(member.created_at)]
}
