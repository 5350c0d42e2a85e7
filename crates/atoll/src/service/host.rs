//! `atoll host`: this machine's agent, what the machine can run, and the zygote that the agent starts.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::lock::DataDirLock;
use super::{private_file, settings, shutdown};
use crate::cli::Global;
use crate::cli::settings::{CheckArgs, HostArgs};
use crate::output::with_hint;

/// What is remembered of the first start, so that later ones need no options.
#[derive(Serialize, Deserialize)]
struct Remembered {
    server: String,
}

pub fn main(args: HostArgs, _: &Global) -> anyhow::Result<u8> {
    super::require_root("atoll host")?;
    let data_dir = super::prepare(&args.place, "info")?;
    let _lock = DataDirLock::take(&data_dir, "host")?;
    let server = server(&args, &data_dir)?;
    let token = registration_token(&args)?;
    let mut config = settings::host(
        data_dir.clone(),
        args.place.cache_dir.clone(),
        server.clone(),
        args.listen,
        &args.agent,
        &args.heartbeat,
    );
    config.register_token = token.map(Into::into);
    remember(&data_dir, server)?;
    super::block_on(async {
        let shutdown = shutdown::on_signal()?;
        atoll_host::run(config, shutdown).await.context("the host agent ended")?;
        Ok(0)
    })
}

pub fn check(_: &CheckArgs, global: &Global) -> anyhow::Result<u8> {
    let report = super::block_on(async { Ok(atoll_host::check().await) })?;
    super::super::output::print_json(&report)?;
    let _ = global;
    Ok(0)
}

/// What `atoll zygote` does: it never comes back to the rest of this program.
pub fn zygote() -> ExitCode {
    atoll_host::zygote::zygote_main()
}

/// From the command line, the environment or a file.
pub fn registration_token(args: &HostArgs) -> anyhow::Result<Option<String>> {
    let token = match (&args.register, &args.register_file) {
        (Some(token), _) => token.clone(),
        (None, Some(file)) => std::fs::read_to_string(file)
            .with_context(|| format!("reading the registration token from {}", file.display()))?,
        (None, None) => return Ok(None),
    };
    let token = token.trim();
    if token.is_empty() {
        bail!("the registration token is empty");
    }
    Ok(Some(token.to_owned()))
}

fn memory(data_dir: &Path) -> PathBuf {
    data_dir.join("host-settings.json")
}

fn server(args: &HostArgs, data_dir: &Path) -> anyhow::Result<String> {
    if let Some(server) = &args.server {
        return Ok(server.clone());
    }
    let path = memory(data_dir);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let remembered: Remembered =
                serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
            Ok(remembered.server)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(with_hint(
            "which control plane is this host for?",
            "the first time: ATOLL_REGISTER=TOKEN atoll host --server URL --address HOST:PORT",
        )),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

fn remember(data_dir: &Path, server: String) -> anyhow::Result<()> {
    let path = memory(data_dir);
    let text = serde_json::to_string_pretty(&Remembered { server })?;
    private_file::write(&path, text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}
