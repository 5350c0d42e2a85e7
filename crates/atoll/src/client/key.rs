//! `atoll key`: API keys.

use atoll_client::model::api::auth::CreateApiKeyRequest;

use super::person;
use crate::cli::{Global, KeyCommand};
use crate::output::{self, Table, age};

pub async fn main(command: KeyCommand, global: &Global) -> anyhow::Result<u8> {
    match command {
        KeyCommand::Create { name, scope, expires, e2b, person } => {
            let expires_at = expires.map(|time| chrono::Utc::now() + time);
            let request = CreateApiKeyRequest { name: name.clone(), scope: Some(scope), expires_at };
            let key = person::client(&person, global).await?.make_api_key(&request).await?;
            if global.json {
                output::print_json(&key)?;
            } else {
                let shown = if e2b { &key.e2b_key } else { &key.key };
                output::print(&format!("{}\n", shown.clone().unwrap_or_default()))?;
                eprintln!("atoll: made {} ({name}); the key is not shown again", key.id);
            }
        }
        KeyCommand::List { person } => {
            let keys = person::client(&person, global).await?.list_api_keys().await?;
            if global.json {
                output::print_json(&keys)?;
                return Ok(0);
            }
            let mut table = Table::new(&["ID", "NAME", "KEY", "SCOPE", "AGE", "LAST USED", "EXPIRES"]);
            for key in keys.items {
                let used = key.last_used_at.map_or_else(|| "never".to_owned(), |then| format!("{} ago", age(then)));
                let expires = key.expires_at.map_or_else(|| "never".to_owned(), |at| at.format("%Y-%m-%d").to_string());
                table.row([
                    key.id.to_string(),
                    key.name,
                    format!("{}…", key.key_prefix),
                    key.scope.as_str().to_owned(),
                    age(key.created_at),
                    used,
                    expires,
                ]);
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
