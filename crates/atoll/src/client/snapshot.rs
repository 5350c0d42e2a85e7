//! `atoll snapshot`: keep, look, delete.

use atoll_client::Client;
use atoll_client::model::api::snapshots::{CreateSnapshotRequest, Snapshot};

use crate::cli::{Global, SnapshotCommand};
use crate::output::{self, Table, age};

pub async fn main(command: SnapshotCommand, global: &Global) -> anyhow::Result<u8> {
    let client = super::client(global)?;
    match command {
        SnapshotCommand::Create { sandbox, name, overwrite, memory } => {
            let request = CreateSnapshotRequest { sandbox_id: sandbox, name, memory: memory.then_some(true) };
            let snapshot = client.create_snapshot(&request, overwrite).await?;
            if global.json {
                output::print_json(&snapshot)?;
            } else {
                output::print(&format!("{}\n", snapshot.name))?;
            }
        }
        SnapshotCommand::List => table(&all(&client).await?, global)?,
        SnapshotCommand::Get { name } => table(&[client.get_snapshot(&name).await?], global)?,
        SnapshotCommand::Rm { names } => {
            for name in &names {
                client.delete_snapshot(name).await?;
                if !global.json {
                    output::print(&format!("{name}\n"))?;
                }
            }
            if global.json {
                output::print_json(&serde_json::json!({ "deleted": names }))?;
            }
        }
    }
    Ok(0)
}

async fn all(client: &Client) -> anyhow::Result<Vec<Snapshot>> {
    let (mut snapshots, mut cursor) = (Vec::new(), None);
    loop {
        let page = client.list_snapshots(cursor.as_deref()).await?;
        snapshots.extend(page.items);
        match page.next_cursor {
            Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
            _ => return Ok(snapshots),
        }
    }
}

fn table(snapshots: &[Snapshot], global: &Global) -> anyhow::Result<()> {
    if global.json {
        return output::print_json(&snapshots);
    }
    let mut table = Table::new(&["NAME", "KIND", "VCPUS", "MEMORY", "SIZE", "STORED", "AGE"]);
    for snapshot in snapshots {
        table.row([
            snapshot.name.clone(),
            snapshot.kind.clone(),
            snapshot.vcpus.to_string(),
            format!("{} MB", snapshot.memory_mb),
            format!("{:.1} MB", snapshot.size_bytes as f64 / 1e6),
            match (snapshot.stored, snapshot.lost, &snapshot.problem) {
                (true, ..) => "yes".to_owned(),
                (_, true, _) => "lost".to_owned(),
                (.., Some(problem)) => format!("no: {problem}"),
                _ => "not yet".to_owned(),
            },
            age(snapshot.created_at),
        ]);
    }
    table.print()?;
    Ok(())
}
