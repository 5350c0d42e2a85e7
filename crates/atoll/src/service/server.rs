//! `atoll server`: the control plane alone.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use atoll_control::Control;
use secrecy::ExposeSecret;
use serde_json::json;

use super::lock::DataDirLock;
use super::{bootstrap, settings, shutdown};
use crate::cli::Global;
use crate::cli::settings::{ServerArgs, loopback_url};
use crate::output;

const TRY_AGAIN: Duration = Duration::from_secs(60);

pub fn main(args: ServerArgs, global: &Global) -> anyhow::Result<u8> {
    let data_dir = super::prepare(&args.place, "info")?;
    let _lock = DataDirLock::take(&data_dir, "server")?;
    super::block_on(serve(args, data_dir, global.json))
}

async fn serve(args: ServerArgs, data_dir: std::path::PathBuf, json: bool) -> anyhow::Result<u8> {
    let shutdown = shutdown::on_signal()?;
    let config = settings::control(data_dir.clone(), args.place.cache_dir.clone(), &args.control, &args.heartbeat)?;
    let control = Control::start(config, shutdown.clone()).await.context("starting the control plane")?;
    let url = loopback_url(control.local_addr());
    bootstrap::write_credentials(&data_dir, &url, None)?;
    // Nobody has an account yet: whoever reads this output makes the first one. It never goes to the log.
    let setup = control.setup_token().await.context("making the setup token")?;
    let setup = setup.as_ref().map(ExposeSecret::expose_secret);
    if json {
        let line = json!({ "url": url, "data_dir": data_dir, "pid": std::process::id(), "setup_token": setup });
        output::print(&format!("{line}\n"))?;
    } else if let Some(token) = setup {
        output::print(&format!("make the first admin at {url}/setup with the token {token}\n"))?;
    }
    tracing::info!(%url, data_dir = %data_dir.display(), "the control plane is up");
    // It answers meanwhile; /readyz says that the template is not there yet.
    tokio::select! {
        () = base_template(&control, &args.place.cache_dir) => {}
        () = shutdown.cancelled() => {}
    }
    control.wait().await.context("the control plane ended")?;
    tracing::info!("the control plane has ended in order");
    Ok(0)
}

/// Gets the base template, and tries again as long as that fails: what is missing can be put right meanwhile.
async fn base_template(control: &Control, cache_dir: &Path) {
    let say = |step: &str| tracing::info!(step, "base template");
    while let Err(error) = bootstrap::base_template(control, cache_dir, &say).await {
        tracing::error!(error = format!("{error:#}"), "there is no base template; trying again in a minute");
        tokio::time::sleep(TRY_AGAIN).await;
    }
}
