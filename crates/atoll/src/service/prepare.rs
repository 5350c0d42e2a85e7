//! `atoll template prepare`: builds a template that ships into this machine's cache, ahead of its first use.

use anyhow::Context;
use atoll_control::templates::{Haste, ensure_base};
use serde_json::json;

use super::progress::Progress;
use super::settings;
use crate::cli::Global;
use crate::cli::templates::PrepareArgs;
use crate::output;

pub fn main(args: &PrepareArgs, global: &Global) -> anyhow::Result<u8> {
    super::require_root("atoll template prepare")?;
    super::block_on(prepare(args, global.json))
}

async fn prepare(args: &PrepareArgs, json: bool) -> anyhow::Result<u8> {
    let recipes = settings::shipped(&args.interpreter)?;
    let progress = Progress::new(json);
    let say = |step: &str| progress.doing(&format!("{}: {step}", args.name));
    let image = if args.name == "base" {
        ensure_base(&args.cache_dir, &recipes.base, &say).await
    } else {
        recipes.code_interpreter(&args.cache_dir, Haste::Waited, &say).await
    };
    let image = image.with_context(|| format!("preparing the template {}", args.name))?;
    drop(progress);
    if json {
        let line = json!({ "name": image.name, "digest": image.digest, "size_bytes": image.size_bytes });
        output::print(&format!("{line}\n"))?;
    } else {
        output::print(&format!(
            "{}: {} ({:.0} MB)\n",
            image.name,
            image.path.display(),
            image.size_bytes as f64 / 1e6
        ))?;
    }
    Ok(0)
}
