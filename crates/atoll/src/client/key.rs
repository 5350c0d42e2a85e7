//! `atoll key`: API keys.

use super::person;
use crate::cli::{Global, KeyCommand};
use crate::output::{self, Table, age};

pub async fn main(command: KeyCommand, global: &Global) -> anyhow::Result<u8> {
    match command {
        KeyCommand::Create { name, person } => {
            let key = person::client(&person, global).await?.create_api_key(&name).await?;
            if global.json {
                output::print_json(&key)?;
            } else {
                output::print(&format!("{}\n", key.key.clone().unwrap_or_default()))?;
                eprintln!("atoll: made {} ({name}); the key is not shown again", key.id);
            }
        }
        KeyCommand::List { person } => {
            let keys = person::client(&person, global).await?.list_api_keys().await?;
            if global.json {
                output::print_json(&keys)?;
                return Ok(0);
            }
            let mut table = Table::new(&["ID", "NAME", "KEY", "AGE", "LAST USED"]);
            for key in keys.items {
                let used = key.last_used_at.map_or_else(|| "never".to_owned(), |then| format!("{} ago", age(then)));
                table.row([key.id.to_string(), key.name, format!("{}…", key.key_prefix), age(key.created_at), used]);
            }
            table.print()?;
        }
        KeyCommand::Rm { keys, person } => {
            let client = person::client(&person, global).await?;
            for id in &keys {
                client.delete_api_key(id).await?;
                if !global.json {
                    output::print(&format!("{id}\n"))?;
                }
            }
            if global.json {
                output::print_json(&serde_json::json!({ "deleted": keys }))?;
            }
        }
    }
    Ok(0)
}
