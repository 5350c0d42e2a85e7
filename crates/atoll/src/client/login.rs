//! `atoll login`: remembers a server for this user, and what proves who asks: the session that a person let this program
//! have (`device`), or an API key.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use atoll_client::{Auth, Client, Endpoint, ListSandboxes};
use secrecy::ExposeSecret;
use serde_json::json;

use super::{person, terminal};
use crate::cli::{Global, LoginArgs};
use crate::output::{self, with_hint};
use crate::service::private_file;

pub async fn main(args: LoginArgs, global: &Global) -> anyhow::Result<u8> {
    let url = match &global.url {
        Some(url) => url.clone(),
        None => {
            let found = person::current(global).map(|credentials| credentials.url);
            found.ok_or_else(|| with_hint("which server?", "name it with --url"))?
        }
    };
    let endpoint = Endpoint::parse(&url)?;
    let client = Client::to(endpoint.clone(), Auth::Nobody)?;
    if args.email.is_none() && args.key_file.is_none() && !args.key {
        let token = super::device::login(&client, global).await?;
        let me = client.with_auth(Auth::Bearer(token.clone())).me().await.context("trying the session")?;
        let path = target()?;
        let text = json!({ "url": endpoint.to_string(), "token": token.expose_secret() });
        remember(&path, &text)?;
        if global.json {
            output::print_json(&json!({ "url": endpoint.to_string(), "stored_in": path, "email": me.email }))?;
        } else {
            eprintln!("atoll: signed in to {endpoint} as {}", me.email);
        }
        return Ok(0);
    }
    let key = match (&args.email, &args.key_file) {
        (Some(email), _) => {
            let password = person::password(email)?.into();
            let signed_in =
                client.signed_in(email, &password).await.with_context(|| format!("signing in as {email}"))?;
            let name = format!("atoll on {}", person::machine_name());
            signed_in.create_api_key(&name).await?.key.context("the server made a key but did not show it")?
        }
        (None, Some(file)) => read_key(file)?,
        (None, None) => terminal::ask_secret("API key: ")
            .map_err(|error| with_hint(format!("reading the key: {error}"), "use --key-file, or --email to sign in"))?,
    };
    let key = key.trim().to_owned();
    if key.is_empty() {
        bail!("the key is empty");
    }
    let check = ListSandboxes { limit: Some(1), ..ListSandboxes::default() };
    client
        .with_auth(Auth::ApiKey(key.clone().into()))
        .list_sandboxes(&check)
        .await
        .with_context(|| format!("trying the key at {endpoint}"))?;
    let path = target()?;
    remember(&path, &json!({ "url": endpoint.to_string(), "api_key": key }))?;
    if global.json {
        output::print_json(&json!({ "url": endpoint.to_string(), "stored_in": path }))?;
    } else {
        eprintln!("atoll: {endpoint} is remembered in {}", path.display());
    }
    Ok(0)
}

fn read_key(file: &Path) -> anyhow::Result<String> {
    const LIMIT: u64 = 4096;
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().take(LIMIT).read_to_string(&mut text).context("reading the key from stdin")?;
    } else {
        let open = std::fs::File::open(file).with_context(|| format!("opening {}", file.display()))?;
        open.take(LIMIT).read_to_string(&mut text).with_context(|| format!("reading {}", file.display()))?;
    }
    Ok(text)
}

fn remember(path: &Path, credentials: &serde_json::Value) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(credentials)?;
    private_file::write(path, text.as_bytes()).with_context(|| format!("storing it in {}", path.display()))
}

/// Where this user's server is remembered.
pub fn target() -> anyhow::Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
    Ok(config.context("neither XDG_CONFIG_HOME nor HOME is set")?.join("atoll/credentials.json"))
}
