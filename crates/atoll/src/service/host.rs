//! `atoll host`: this machine's agent, what the machine can run, and the jail that the agent starts.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use atoll_host::NotEnrolled;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::lock::DataDirLock;
use super::{private_file, settings, shutdown};
use crate::cli::Global;
use crate::cli::settings::HostArgs;
use crate::output::{self, with_hint};

/// The exit code of a host that is not enrolled, as `sysexits.h` has it for a configuration that is wrong: nobody need
/// try again before somebody has enrolled it.
pub const NOT_ENROLLED: u8 = 78;

/// What is remembered of the first start, so that later ones need no options.
#[derive(Serialize, Deserialize)]
struct Remembered {
    server: String,
}

pub fn main(args: HostArgs, global: &Global) -> anyhow::Result<u8> {
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
    config.limits.memory_overcommit = args.memory_overcommit;
    if args.tunnel {
        config.tunnel = true;
        // Nobody comes from outside.
        config.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    }
    remember(&data_dir, server)?;
    super::block_on(async {
        let shutdown = shutdown::on_signal()?;
        match atoll_host::run(config, shutdown).await {
            Err(error) if error.is::<NotEnrolled>() => {
                output::failure(&error, global.json);
                Ok(NOT_ENROLLED)
            }
            ended => ended.context("the host agent ended").map(|()| 0),
        }
    })
}

pub fn check(data_dir: &Path, cache_dir: &Path, global: &Global) -> anyhow::Result<u8> {
    let checks = atoll_host::check(data_dir, cache_dir);
    let good = checks.iter().all(|check| check.ok);
    if global.json {
        output::print_json(&json!({ "ok": good, "checks": checks }))?;
        return Ok(u8::from(!good));
    }
    let (red, green, reset) =
        if output::colours(&std::io::stdout()) { ("\x1b[31m", "\x1b[32m", "\x1b[0m") } else { ("", "", "") };
    let mut text = String::new();
    for check in &checks {
        let mark = if check.ok { format!("{green}ok {reset}") } else { format!("{red}no {reset}") };
        text.push_str(&format!("{mark} {:<12} {}\n", check.name, output::plain(&check.detail)));
        if !check.ok {
            text.push_str(&format!("                 to do: {}\n", check.remedy));
        }
    }
    text.push_str(if good {
        "\nThis machine can run sandboxes.\n"
    } else {
        "\nThis machine can't run sandboxes yet.\n"
    });
    output::print(&text)?;
    Ok(u8::from(!good))
}

/// The word for [`vm_jail`].
pub const VM_JAIL: &str = atoll_host::driver::vm::JAIL;

/// What `atoll vm-jail` does: it becomes QEMU, in a jail.
pub fn vm_jail() -> ! {
    atoll_host::driver::vm::jail_main()
}

/// The word for [`image_holder`].
pub const IMAGE_HOLDER: &str = atoll_host::images::HOLDER;

/// What `atoll image-holder` does: while images are not whole it holds the kernel's questions about them.
pub fn image_holder() -> ! {
    atoll_host::images::holder_main()
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
