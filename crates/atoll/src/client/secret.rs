//! `atoll secret`: set, list, delete. A value comes from a file, a pipe or the keyboard, never from the command line,
//! which others can see.

use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::Context;
use atoll_client::Client;
use atoll_client::model::api::secrets::{CreateSecretRequest, Secret};

use super::terminal;
use crate::cli::{Global, SecretCommand};
use crate::output::{self, Table, age};

/// The server takes no more; one byte above it, so that it can say so.
const MOST: u64 = 65_537;

pub async fn main(command: SecretCommand, global: &Global) -> anyhow::Result<u8> {
    let client = super::client(global)?;
    match command {
        SecretCommand::Set { name, file, overwrite } => {
            let value = value(&name, file.as_deref())?;
            let secret = client.set_secret(&CreateSecretRequest { name, value }, overwrite).await?;
            if global.json {
                output::print_json(&secret)?;
            } else {
                output::print(&format!("{}\n", secret.name))?;
            }
        }
        SecretCommand::List => {
            let secrets = all(&client).await?;
            if global.json {
                output::print_json(&secrets)?;
                return Ok(0);
            }
            let mut table = Table::new(&["NAME", "SET", "AGE", "BY"]);
            for secret in secrets {
                let set = format!("{} ago", age(secret.updated_at));
                table.row([secret.name, set, age(secret.created_at), secret.created_by.unwrap_or_default()]);
            }
            table.print()?;
        }
        SecretCommand::Rm { names } => {
            for name in &names {
                client.delete_secret(name).await?;
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

/// What is in the file, on stdin, or typed. The newline at the end of a line is not part of a value.
fn value(name: &str, file: Option<&Path>) -> anyhow::Result<String> {
    let mut text = String::new();
    match file {
        None if std::io::stdin().is_terminal() => {
            text = terminal::ask_secret(&format!("Value of {name}: ")).context("reading the value")?;
        }
        Some(path) if path != Path::new("-") => {
            let open = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
            open.take(MOST).read_to_string(&mut text).with_context(|| format!("reading {}", path.display()))?;
        }
        _ => {
            std::io::stdin().take(MOST).read_to_string(&mut text).context("reading the value from stdin")?;
        }
    }
    if let Some(line) = text.strip_suffix('\n')
        && !line.contains('\n')
    {
        text.truncate(line.trim_end_matches('\r').len());
    }
    Ok(text)
}

async fn all(client: &Client) -> anyhow::Result<Vec<Secret>> {
    let (mut secrets, mut cursor) = (Vec::new(), None);
    loop {
        let page = client.list_secrets(cursor.as_deref()).await?;
        secrets.extend(page.items);
        match page.next_cursor {
            Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
            _ => return Ok(secrets),
        }
    }
}
