//! `atoll server`: the control plane alone.

use anyhow::Context;
use atoll_control::Control;
use serde_json::json;

use super::lock::DataDirLock;
use super::{bootstrap, settings, shutdown};
use crate::cli::Global;
use crate::cli::settings::{ServerArgs, loopback_url};
use crate::output;

pub fn main(args: ServerArgs, global: &Global) -> anyhow::Result<u8> {
    let data_dir = super::prepare(&args.place, "info")?;
    let _lock = DataDirLock::take(&data_dir, "server")?;
    super::block_on(serve(args, data_dir, global.json))
}

async fn serve(args: ServerArgs, data_dir: std::path::PathBuf, json: bool) -> anyhow::Result<u8> {
    let shutdown = shutdown::on_signal()?;
    let config = settings::control(data_dir.clone(), args.place.cache_dir.clone(), &args.control, &args.heartbeat);
    let control = Control::start(config, shutdown.clone()).await.context("starting the control plane")?;
    let url = loopback_url(control.local_addr());
    bootstrap::write_credentials(&data_dir, &url, None)?;
    if json {
        output::print(&format!("{}\n", json!({ "url": url, "data_dir": data_dir, "pid": std::process::id() })))?;
    }
    tracing::info!(%url, data_dir = %data_dir.display(), "the control plane is up");
    control.wait().await.context("the control plane ended")?;
    tracing::info!("the control plane has ended in order");
    Ok(0)
}
