//! `atoll volume`: make, look, delete.

use atoll_client::Client;
use atoll_client::model::api::volumes::{CreateVolumeRequest, Volume, VolumeMode};

use crate::cli::{Global, VolumeCommand};
use crate::output::{self, Table, age};

pub async fn main(command: VolumeCommand, global: &Global) -> anyhow::Result<u8> {
    let client = super::client(global)?;
    match command {
        VolumeCommand::Create { name, size, exclusive } => {
            let mode = exclusive.then_some(VolumeMode::Exclusive);
            let volume = client.create_volume(&CreateVolumeRequest { name, size_mb: size, mode }).await?;
            if global.json {
                output::print_json(&volume)?;
            } else {
                output::print(&format!("{}\n", volume.name))?;
            }
        }
        VolumeCommand::List => table(&all(&client).await?, global)?,
        VolumeCommand::Get { name } => table(&[client.get_volume(&name).await?], global)?,
        VolumeCommand::Rm { names } => {
            for name in &names {
                client.delete_volume(name).await?;
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

async fn all(client: &Client) -> anyhow::Result<Vec<Volume>> {
    let (mut volumes, mut cursor) = (Vec::new(), None);
    loop {
        let page = client.list_volumes(cursor.as_deref()).await?;
        volumes.extend(page.items);
        match page.next_cursor {
            Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
            _ => return Ok(volumes),
        }
    }
}

fn table(volumes: &[Volume], global: &Global) -> anyhow::Result<()> {
    if global.json {
        return output::print_json(&volumes);
    }
    let mut table = Table::new(&["NAME", "SIZE", "MODE", "HOST", "SANDBOXES", "AGE"]);
    for volume in volumes {
        let host = match &volume.host_id {
            Some(host) if volume.lost => format!("{host} (deleted)"),
            Some(host) => host.to_string(),
            None => "none yet".to_owned(),
        };
        table.row([
            volume.name.clone(),
            format!("{} MB", volume.size_mb),
            volume.mode.as_str().to_owned(),
            host,
            volume.sandboxes.len().to_string(),
            age(volume.created_at),
        ]);
    }
    table.print()?;
    Ok(())
}
