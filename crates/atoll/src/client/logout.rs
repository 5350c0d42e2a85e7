//! `atoll logout`: ends the session of `atoll login` on the server, and forgets it here. An API key that was stored stays
//! good: it is the team's, and deleted with `atoll key rm`.

use std::io;

use anyhow::Context;
use atoll_client::{Auth, Client, Credentials, CredentialsError, Endpoint};
use serde_json::json;

use super::login;
use crate::cli::Global;
use crate::output;

pub async fn main(global: &Global) -> anyhow::Result<u8> {
    let path = login::target()?;
    let credentials = match Credentials::read(&path) {
        Ok(credentials) => Some(credentials),
        Err(CredentialsError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let mut ended = false;
    if let Some(token) = credentials.as_ref().and_then(|credentials| credentials.token.clone()) {
        let url = credentials.as_ref().map_or("", |credentials| credentials.url.as_str());
        let client = Client::to(Endpoint::parse(url)?, Auth::Bearer(token))?;
        match client.logout().await {
            Ok(()) => ended = true,
            // It was over already.
            Err(error) if error.status() == Some(401) => {}
            Err(error) => return Err(error).context("ending the session; nothing was forgotten"),
        }
    }
    if credentials.is_some() {
        std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    if global.json {
        output::print_json(&json!({ "signed_out": ended, "forgotten": credentials.is_some() }))?;
    } else if credentials.is_none() {
        eprintln!("atoll: nobody was signed in");
    } else if ended {
        eprintln!("atoll: signed out");
    } else {
        eprintln!("atoll: forgotten; a stored API key stays good until `atoll key rm`");
    }
    Ok(0)
}
