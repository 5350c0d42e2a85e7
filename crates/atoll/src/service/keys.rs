//! `atoll server keys`: the keys that sign tokens, changed beside a server that may be running.

use anyhow::Context;
use serde_json::json;

use crate::cli::Global;
use crate::cli::settings::RotateArgs;
use crate::output::{self, with_hint};

pub fn rotate(args: &RotateArgs, global: &Global) -> anyhow::Result<u8> {
    let data_dir = &args.place.data_dir;
    if args.database_url.is_none() && !data_dir.join("control.db").is_file() {
        return Err(with_hint(
            format!("there is no server's database in {}", data_dir.display()),
            "name its data directory with --data-dir, or its database with --database-url",
        ));
    }
    let made = super::block_on(async {
        atoll_control::rotate_keys(args.database_url.as_deref(), data_dir, args.at_once).await
    })
    .context("making new signing keys")?;
    if global.json {
        output::print_json(&json!({ "keys": made, "older_keys_refused": args.at_once }))?;
    } else {
        eprintln!(
            "atoll: new keys {}; servers use them within a minute, for identities of sandboxes after two",
            made.join(" and ")
        );
    }
    Ok(0)
}
