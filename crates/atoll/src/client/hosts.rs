//! `atoll hosts`: the machines that run sandboxes, from a person's side.

use atoll_client::model::HostStatus;
use atoll_client::model::api::hosts::{CreateHostRequest, Host};
use serde_json::json;

use super::person;
use crate::cli::{Global, HostsCommand};
use crate::output::{self, Table, age, with_hint};

pub async fn main(command: HostsCommand, global: &Global) -> anyhow::Result<u8> {
    match command {
        HostsCommand::List { person } => {
            let hosts = person::client(&person, global).await?.list_hosts().await?;
            if global.json {
                output::print_json(&hosts)?;
                return Ok(0);
            }
            let mut table = Table::new(&["ID", "NAME", "STATUS", "SANDBOXES", "CPU", "MEMORY", "ADDRESS", "HEARTBEAT"]);
            for host in hosts.items {
                table.row(row(&host));
            }
            table.print()?;
        }
        HostsCommand::Get { host, person } => {
            let found = person::client(&person, global).await?.get_host(&host).await?;
            output::print_json(&found)?;
        }
        HostsCommand::Create { name, kind, team, provider, zone, person } => {
            let request = CreateHostRequest { name, kind, team_id: team, provider, availability_zone: zone };
            let client = person::client(&person, global).await?;
            let made = client.create_host(&request).await?;
            if global.json {
                output::print_json(&made)?;
                return Ok(0);
            }
            output::print(&format!("{}\n", made.registration_token))?;
            eprintln!(
                "atoll: made {} ({}); on its machine, before {}:\n  ATOLL_REGISTER=TOKEN atoll host --server {} \
                 --address HOST:PORT",
                made.host.id,
                made.host.name,
                made.expires_at.format("%Y-%m-%d %H:%M UTC"),
                client.endpoint()
            );
        }
        HostsCommand::Token { host, person } => {
            let made = person::client(&person, global).await?.new_host_token(&host).await?;
            if global.json {
                output::print_json(&made)?;
            } else {
                output::print(&format!("{}\n", made.registration_token))?;
                eprintln!("atoll: for {host}, once, until {}", made.expires_at.format("%Y-%m-%d %H:%M UTC"));
            }
        }
        HostsCommand::Drain { host, person } => drain(true, &host, &person, global).await?,
        HostsCommand::Undrain { host, person } => drain(false, &host, &person, global).await?,
        HostsCommand::DrainStatus { host, person } => {
            let status = person::client(&person, global).await?.host_drain(&host).await?;
            if global.json {
                output::print_json(&status)?;
                return Ok(0);
            }
            let mut table = Table::new(&["SANDBOX", "STATUS", "WAITS FOR"]);
            for sandbox in &status.sandboxes {
                table.row([sandbox.id.to_string(), sandbox.status.to_string(), sandbox.waits_for.clone()]);
            }
            table.print()?;
            match (status.drained, status.draining) {
                (true, _) => eprintln!("atoll: {host} is drained: nothing is left on it"),
                (false, true) => eprintln!("atoll: {host} is draining: {} sandboxes are left", status.sandbox_count),
                (false, false) => eprintln!("atoll: {host} is not being drained"),
            }
        }
        HostsCommand::DeletePreview { host, person } => {
            let preview = person::client(&person, global).await?.host_delete_preview(&host).await?;
            if global.json {
                output::print_json(&preview)?;
                return Ok(0);
            }
            let mut table = Table::new(&["SANDBOX", "STATUS", "TEMPLATE", "AGE"]);
            for sandbox in &preview.sandboxes {
                table.row([
                    sandbox.id.to_string(),
                    sandbox.status.to_string(),
                    sandbox.template.clone(),
                    age(sandbox.created_at),
                ]);
            }
            table.print()?;
            for (what, ids) in [
                ("volumes", preview.volumes.iter().map(ToString::to_string).collect()),
                ("images that are stored nowhere else yet", preview.images),
            ] {
                let ids: Vec<String> = ids;
                if !ids.is_empty() {
                    eprintln!("atoll: {what} that would be lost: {}", ids.join(", "));
                }
            }
            eprintln!("atoll: deleting {} by force would destroy {} sandboxes", host, preview.sandbox_count);
        }
        HostsCommand::Delete { host, force, person } => {
            let client = person::client(&person, global).await?;
            client.delete_host(&host, force).await.map_err(|error| match error.status() {
                Some(409) if !force => with_hint(
                    error.to_string(),
                    format!("`atoll hosts delete-preview {host}` lists them; --force destroys them with the host"),
                ),
                _ => error.into(),
            })?;
            if global.json {
                output::print_json(&json!({ "deleted": host }))?;
            } else {
                output::print(&format!("{host}\n"))?;
            }
        }
    }
    Ok(0)
}

async fn drain(
    on: bool,
    host: &atoll_client::model::HostId,
    person: &crate::cli::accounts::PersonArgs,
    global: &Global,
) -> anyhow::Result<()> {
    person::client(person, global).await?.drain_host(host, on).await?;
    if global.json {
        output::print_json(&json!({ "id": host, "draining": on }))?;
    } else {
        output::print(&format!("{host}\n"))?;
    }
    Ok(())
}

fn row(host: &Host) -> [String; 8] {
    let counts = &host.sandbox_counts;
    let status = match (host.status, host.draining) {
        (HostStatus::Pending, _) => "pending".to_owned(),
        (status, false) => status.as_str().to_owned(),
        (status, true) if host.drained => format!("{} (drained)", status.as_str()),
        (status, true) => format!("{} (draining)", status.as_str()),
    };
    [
        host.id.to_string(),
        host.name.clone(),
        status,
        (u64::from(counts.running) + u64::from(counts.paused) + u64::from(counts.other)).to_string(),
        host.cpu_cores.map_or_else(String::new, |cores| cores.to_string()),
        host.memory_mb.map_or_else(String::new, |mb| format!("{mb} MB")),
        host.address.clone().unwrap_or_default(),
        host.last_heartbeat_at.map_or_else(|| "never".to_owned(), |at| format!("{} ago", age(at))),
    ]
}
