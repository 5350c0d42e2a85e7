//! `atoll sandbox`: create, look, pause, resume, destroy, logs.

use std::time::Duration;

use anyhow::anyhow;
use atoll_client::model::SandboxId;
use atoll_client::model::api::sandboxes::{CreateSandboxRequest, ForkRequest, LinkRequest, Sandbox};
use atoll_client::{Client, ListSandboxes};
use futures::StreamExt;

use super::{exec, shape};
use crate::cli::sandboxes::{ListArgs, RmArgs};
use crate::cli::{Global, SandboxCommand};
use crate::output::{self, Table, age, plain};

const PAGE: u32 = 1000;
/// Sandboxes that are destroyed at the same time.
const PARALLEL: usize = 16;
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

pub async fn main(command: SandboxCommand, global: &Global) -> anyhow::Result<u8> {
    match command {
        SandboxCommand::Create { shape, timeout, on_timeout, auto_resume } => {
            let request = CreateSandboxRequest {
                timeout_sec: timeout,
                on_timeout,
                auto_resume: auto_resume.then_some(true),
                ..shape::request(&shape)?
            };
            let sandbox = super::client(global)?.create_sandbox(&request).await?;
            if global.json {
                output::print_json(&sandbox)?;
            } else {
                output::print(&format!("{}\n", sandbox.id))?;
            }
        }
        SandboxCommand::List(args) => return list(&args, global).await,
        SandboxCommand::Get { sandbox } => show(&super::client(global)?.get_sandbox(&sandbox).await?, global)?,
        SandboxCommand::Exec(args) => return exec::main(args, global).await,
        SandboxCommand::Pause { sandbox } => show(&super::client(global)?.pause_sandbox(&sandbox).await?, global)?,
        SandboxCommand::Resume { sandbox } => show(&super::client(global)?.resume_sandbox(&sandbox).await?, global)?,
        SandboxCommand::Fork { sandbox, count } => return fork(&sandbox, count, global).await,
        SandboxCommand::Network { sandbox, allow, deny, header, egress_proxy, bandwidth, no_internet } => {
            let request = shape::network(no_internet, allow, deny, &header, egress_proxy.as_deref(), bandwidth)?;
            show(&super::client(global)?.set_network(&sandbox, &request).await?, global)?;
        }
        SandboxCommand::Rm(args) => return remove(&args, global).await,
        SandboxCommand::Logs { sandbox, follow } => logs(&super::client(global)?, &sandbox, follow, global).await?,
        SandboxCommand::Top { sandbox } => {
            let processes = super::client(global)?.list_processes(&sandbox).await?;
            if global.json {
                output::print_json(&processes)?;
                return Ok(0);
            }
            let mut table = Table::new(&["PID", "TAG", "COMMAND"]);
            for process in processes.items {
                let line = std::iter::once(process.cmd).chain(process.args).collect::<Vec<_>>().join(" ");
                table.row([process.pid.to_string(), process.tag.unwrap_or_default(), line]);
            }
            table.print()?;
        }
        SandboxCommand::Link { sandbox, port, ttl } => {
            let request = LinkRequest { port, ttl_sec: ttl };
            let link = super::client(global)?.link(&sandbox, &request).await?;
            if global.json {
                output::print_json(&link)?;
            } else {
                output::print(&format!("{}\n", link.url))?;
            }
        }
    }
    Ok(0)
}

/// Prints the children's ids, and why there are fewer than wanted.
async fn fork(id: &SandboxId, count: u32, global: &Global) -> anyhow::Result<u8> {
    let request = ForkRequest { count: Some(count), ..ForkRequest::default() };
    let forked = super::client(global)?.fork_sandbox(id, &request).await?;
    let failed = forked.items.iter().any(|child| child.error.is_some());
    if global.json {
        output::print_json(&forked)?;
        return Ok(u8::from(failed));
    }
    for child in forked.items {
        match (child.sandbox, child.error) {
            (Some(sandbox), _) => output::print(&format!("{}\n", sandbox.id))?,
            (None, Some(error)) => output::failure(&anyhow!("{}", error.message).context("forking"), false),
            (None, None) => {}
        }
    }
    Ok(u8::from(failed))
}

pub async fn list(args: &ListArgs, global: &Global) -> anyhow::Result<u8> {
    let client = super::client(global)?;
    let what = ListSandboxes {
        status: args.status.clone(),
        metadata: shape::pairs(&args.label)?,
        limit: Some(PAGE),
        cursor: None,
    };
    let sandboxes = all(&client, what).await?;
    if global.json {
        output::print_json(&sandboxes)?;
    } else if args.quiet {
        let ids: String = sandboxes.iter().map(|sandbox| format!("{}\n", sandbox.id)).collect();
        output::print(&ids)?;
    } else {
        let mut table = Table::new(&["ID", "STATUS", "TEMPLATE", "VCPUS", "MEMORY", "AGE", "IDLE", "REASON"]);
        for sandbox in sandboxes {
            table.row([
                sandbox.id.to_string(),
                sandbox.status.to_string(),
                sandbox.template,
                sandbox.vcpus.to_string(),
                format!("{} MB", sandbox.memory_mb),
                age(sandbox.created_at),
                age(sandbox.last_active_at),
                sandbox.reason.unwrap_or_default(),
            ]);
        }
        table.print()?;
    }
    Ok(0)
}

async fn all(client: &Client, mut what: ListSandboxes) -> anyhow::Result<Vec<Sandbox>> {
    let mut sandboxes = Vec::new();
    loop {
        let page = client.list_sandboxes(&what).await?;
        sandboxes.extend(page.items);
        match page.next_cursor {
            Some(cursor) if what.cursor.as_ref() != Some(&cursor) => what.cursor = Some(cursor),
            _ => return Ok(sandboxes),
        }
    }
}

pub async fn remove(args: &RmArgs, global: &Global) -> anyhow::Result<u8> {
    let client = super::client(global)?;
    let ids = if args.all {
        let what = ListSandboxes { limit: Some(PAGE), ..ListSandboxes::default() };
        all(&client, what).await?.into_iter().map(|sandbox| sandbox.id).collect()
    } else {
        args.sandboxes.clone()
    };
    let destroy = |id: SandboxId| {
        let client = &client;
        async move { (client.destroy_sandbox(&id).await, id) }
    };
    let mut results = futures::stream::iter(ids).map(destroy).buffered(PARALLEL);
    let mut destroyed = Vec::new();
    let mut failed = 0;
    while let Some((result, id)) = results.next().await {
        match result {
            Ok(()) => {
                if !global.json {
                    output::print(&format!("{id}\n"))?;
                }
                destroyed.push(id);
            }
            Err(error) => {
                failed += 1;
                output::failure(&anyhow!(error).context(format!("destroying {id}")), global.json);
            }
        }
    }
    if global.json {
        output::print_json(&serde_json::json!({ "destroyed": destroyed }))?;
    }
    Ok(u8::from(failed > 0))
}

async fn logs(client: &Client, id: &SandboxId, follow: bool, global: &Global) -> anyhow::Result<()> {
    // Only full pages have a cursor: of the last page it is remembered how many lines were shown.
    let (mut cursor, mut shown) = (None, 0);
    loop {
        let page = client.sandbox_logs(id, cursor.as_deref()).await?;
        for line in page.items.iter().skip(shown) {
            if global.json {
                output::print(&format!("{}\n", serde_json::to_string(line)?))?;
            } else {
                let time = line.timestamp.format("%Y-%m-%d %H:%M:%S%.3f");
                output::print(&format!("{time} {:<5} {}\n", plain(&line.level), plain(&line.message)))?;
            }
        }
        shown = page.items.len();
        if page.next_cursor.is_some() && page.next_cursor != cursor {
            (cursor, shown) = (page.next_cursor, 0);
        } else if follow {
            tokio::time::sleep(FOLLOW_EVERY).await;
        } else {
            return Ok(());
        }
    }
}

fn show(sandbox: &Sandbox, global: &Global) -> anyhow::Result<()> {
    if global.json {
        return output::print_json(sandbox);
    }
    output::print(&described(sandbox))?;
    Ok(())
}

/// What people are shown of it, a line each.
fn described(sandbox: &Sandbox) -> String {
    let timeout = match sandbox.timeout_sec {
        0 => "none".to_owned(),
        seconds => format!("{seconds} s idle, then {}", sandbox.on_timeout.as_str()),
    };
    let labels: Vec<_> = sandbox.metadata.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let host = sandbox.host_id.as_ref().map(ToString::to_string);
    let freed = sandbox.freed_bytes.filter(|&bytes| bytes > 0).map(|bytes| format!("{} MB of memory", bytes >> 20));
    let rows = [
        ("id", sandbox.id.to_string()),
        ("status", sandbox.status.to_string()),
        ("reason", sandbox.reason.clone().unwrap_or_default()),
        ("kept", sandbox.kept.clone().unwrap_or_default()),
        ("freed", freed.unwrap_or_default()),
        ("template", sandbox.template.clone()),
        ("driver", sandbox.driver.clone()),
        ("host", host.unwrap_or_default()),
        ("size", format!("{} vcpus, {} MB memory, {} MB disk", sandbox.vcpus, sandbox.memory_mb, sandbox.disk_mb)),
        ("timeout", timeout),
        ("labels", labels.join(" ")),
        (
            "created",
            format!("{} ({} ago)", sandbox.created_at.format("%Y-%m-%d %H:%M:%S UTC"), age(sandbox.created_at)),
        ),
        ("last active", format!("{} ago", age(sandbox.last_active_at))),
    ];
    let mut text = String::new();
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("{name:<12} {}\n", plain(value)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pause_kept_and_freed_is_shown_and_what_is_unknown_is_not() {
        let sandbox = |freed: Option<u64>, kept: Option<&str>| {
            let sandbox = serde_json::from_value::<Sandbox>(serde_json::json!({
                "id": SandboxId::new(), "status": "paused", "driver": "container", "reason": null, "template": "base",
                "vcpus": 1, "memory_mb": 512, "disk_mb": 5120, "timeout_sec": 0, "on_timeout": "pause",
                "auto_resume": false, "host_id": null, "mounts": [], "metadata": {}, "created_at": "2026-01-01T00:00:00Z",
                "started_at": null, "last_active_at": "2026-01-01T00:00:00Z",
                "status_changed_at": "2026-01-01T00:00:00Z", "kept": kept, "freed_bytes": freed,
            }));
            described(&sandbox.expect("a sandbox"))
        };
        let paused = sandbox(Some(45 << 20), Some("memory"));
        assert!(paused.contains("\nkept         memory\nfreed        45 MB of memory\n"), "{paused}");
        for freed in [Some(0), None] {
            let shown = sandbox(freed, None);
            assert!(!shown.contains("freed") && !shown.contains("kept") && !shown.contains("host"), "{shown}");
        }
    }
}
