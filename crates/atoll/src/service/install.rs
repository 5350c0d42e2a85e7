//! `atoll host install`: a systemd unit that runs this machine as a host.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;

use super::private_file;
use crate::cli::Global;
use crate::cli::settings::InstallArgs;
use crate::output::{self, with_hint};

pub fn main(args: &InstallArgs, global: &Global) -> anyhow::Result<u8> {
    let program = std::env::current_exe().context("finding this program's own path")?;
    let unit = unit(&program, &args.env_file);
    if args.print {
        output::print(&unit)?;
        return Ok(0);
    }
    super::require_root("atoll host install")?;
    let server = args.host.server.as_deref().ok_or_else(|| with_hint("which server?", "name it with --server URL"))?;
    let token = super::host::registration_token(&args.host)?;
    let environment = environment(args, server, token.as_deref());
    private_file::write(&args.env_file, environment.trim_end().as_bytes())
        .with_context(|| format!("writing {}", args.env_file.display()))?;
    if let Some(folder) = args.unit.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    std::fs::write(&args.unit, unit).with_context(|| format!("writing {}", args.unit.display()))?;
    if global.json {
        output::print_json(&json!({ "unit": args.unit, "env_file": args.env_file }))?;
        return Ok(0);
    }
    let name = args.unit.file_name().unwrap_or_default().to_string_lossy().into_owned();
    output::print(&format!(
        "Wrote {} and {}.\nStart it with:\n  systemctl daemon-reload\n  systemctl enable --now {name}\n",
        args.unit.display(),
        args.env_file.display()
    ))?;
    if token.is_none() {
        eprintln!("atoll: no registration token was given; put ATOLL_REGISTER=TOKEN into {}", args.env_file.display());
    }
    Ok(0)
}

fn unit(program: &Path, env_file: &Path) -> String {
    // A host that was deleted ends well, and one that is not enrolled stays so until somebody enrols it.
    // KillMode=process: sandboxes outlive a restart or an upgrade of the agent. Delegate: it makes cgroups of its own.
    format!(
        "\
[Unit]
Description=Atoll host agent
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
EnvironmentFile={}
ExecStart={} host
Restart=on-failure
RestartSec=2
RestartPreventExitStatus={}
KillMode=process
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
",
        specifiers(&quote(&env_file.display().to_string())),
        specifiers(&quote(&program.display().to_string())),
        super::host::NOT_ENROLLED
    )
}

fn environment(args: &InstallArgs, server: &str, token: Option<&str>) -> String {
    let host = &args.host;
    let mut lines = vec![
        format!("ATOLL_SERVER={}", quote(server)),
        format!("ATOLL_DATA_DIR={}", quote(&host.place.data_dir.display().to_string())),
        format!("ATOLL_CACHE_DIR={}", quote(&host.place.cache_dir.display().to_string())),
        format!("ATOLL_LISTEN={}", host.listen),
    ];
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("{name}={}", quote(&value)));
        }
    };
    set("ATOLL_ADDRESS", host.agent.address.clone());
    set("ATOLL_TUNNEL", host.tunnel.then(|| "true".to_owned()));
    set("ATOLL_DRIVER", Some(host.agent.driver.as_str().to_owned()));
    set("ATOLL_MEMORY_OVERCOMMIT", Some(host.memory_overcommit.to_string()));
    set("ATOLL_ON_DISCONNECT", Some(host.agent.on_disconnect.as_str().to_owned()));
    set("ATOLL_DISCONNECT_AFTER", host.agent.disconnect_after.map(in_milliseconds));
    set("ATOLL_HEARTBEAT_INTERVAL", host.heartbeat.heartbeat_interval.map(in_milliseconds));
    set("ATOLL_CA_FILE", std::env::var("ATOLL_CA_FILE").ok());
    set("ATOLL_EGRESS_ALLOW", Some(host.agent.egress_allow.join(",")).filter(|list| !list.is_empty()));
    set("ATOLL_SANDBOX_BANDWIDTH", host.agent.sandbox_bandwidth.map(|bytes| bytes.to_string()));
    set("ATOLL_SANDBOX_NETWORK", Some(host.agent.sandbox_network.to_string()));
    set("ATOLL_POOL_SIZE", host.agent.pool_size.map(|bytes| bytes.to_string()));
    set("ATOLL_IMAGE_CACHE_SIZE", host.agent.image_cache_size.map(|bytes| bytes.to_string()));
    set("ATOLL_SPARE_MACHINES", Some(host.agent.spare_machines.to_string()));
    set("ATOLL_MAX_SANDBOXES", host.agent.max_sandboxes.map(|most| most.to_string()));
    set("ATOLL_LOG", host.place.log.clone());
    set("ATOLL_REGISTER", token.map(str::to_owned));
    lines.join("\n")
}

fn in_milliseconds(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// As systemd reads it: in double quotes when there is anything but plain characters.
fn quote(text: &str) -> String {
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/:@,%+".contains(&byte)) {
        return text.to_owned();
    }
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
    format!("\"{escaped}\"")
}

/// In a unit (not in a file of variables) a percent sign has a meaning of its own.
fn specifiers(text: &str) -> String {
    text.replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_lets_sandboxes_outlive_the_agent() {
        let unit = unit(Path::new("/opt/my tools/atoll"), Path::new("/etc/atoll/host.env"));
        assert!(unit.contains("ExecStart=\"/opt/my tools/atoll\" host\n"), "{unit}");
        assert!(unit.contains("KillMode=process\n"), "{unit}");
        assert!(unit.contains("Restart=on-failure\n") && unit.contains("RestartPreventExitStatus=78\n"), "{unit}");
        assert!(!unit.contains("ATOLL_REGISTER"), "a token in a unit can be read by everyone");
    }

    #[test]
    fn every_setting_that_is_given_is_one_of_the_unit_too() {
        #[derive(clap::Parser)]
        struct Program {
            #[command(flatten)]
            install: InstallArgs,
        }
        let given = [
            ("--address", "ATOLL_ADDRESS", "10.0.0.7:7421"),
            ("--driver", "ATOLL_DRIVER", "vm"),
            ("--memory-overcommit", "ATOLL_MEMORY_OVERCOMMIT", "9"),
            ("--on-disconnect", "ATOLL_ON_DISCONNECT", "keep-running"),
            ("--disconnect-after", "ATOLL_DISCONNECT_AFTER", "120000ms"),
            ("--heartbeat-interval", "ATOLL_HEARTBEAT_INTERVAL", "7000ms"),
            ("--egress-allow", "ATOLL_EGRESS_ALLOW", "10.1.0.0/16"),
            ("--sandbox-bandwidth", "ATOLL_SANDBOX_BANDWIDTH", "1000000"),
            ("--sandbox-network", "ATOLL_SANDBOX_NETWORK", "198.19.0.0/16"),
            ("--pool-size", "ATOLL_POOL_SIZE", "1073741824"),
            ("--image-cache-size", "ATOLL_IMAGE_CACHE_SIZE", "2147483648"),
            ("--spare-machines", "ATOLL_SPARE_MACHINES", "3"),
            ("--max-sandboxes", "ATOLL_MAX_SANDBOXES", "12"),
            ("--data-dir", "ATOLL_DATA_DIR", "/srv/atoll"),
            ("--cache-dir", "ATOLL_CACHE_DIR", "/srv/cache"),
            ("--listen", "ATOLL_LISTEN", "0.0.0.0:7999"),
            ("--log", "ATOLL_LOG", "debug"),
        ];
        let arguments = given.iter().flat_map(|(flag, _, value)| [*flag, *value]);
        let program = <Program as clap::Parser>::parse_from(std::iter::once("atoll").chain(arguments));
        let environment = environment(&program.install, "https://atoll.example", None);
        for (flag, name, value) in given {
            assert!(environment.lines().any(|line| line == format!("{name}={value}")), "{flag}: {environment}");
        }
    }

    #[test]
    fn nothing_breaks_out_of_a_line() {
        assert_eq!(quote("a\nExecStart=x"), "\"a ExecStart=x\"");
        assert_eq!(specifiers(&quote("/opt/50%/atoll")), "/opt/50%%/atoll");
    }
}
