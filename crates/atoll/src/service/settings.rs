//! From the command line's settings to the configurations of control and host.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use atoll_control::ControlConfig;
use atoll_control::config::{
    BucketSettings, DashboardFile, GithubSettings, OidcSettings, OtlpSettings, Overcommit, Quotas, ShippedRecipes,
    TlsFiles,
};
use atoll_control::templates::Recipe;
use atoll_host::HostConfig;

use crate::cli::settings::{AgentArgs, ControlArgs, HeartbeatArgs, OnReconnect};
use crate::cli::templates::InterpreterArgs;

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The object store's bucket, if there is one.
fn bucket(args: &ControlArgs) -> anyhow::Result<Option<BucketSettings>> {
    let Some(bucket) = args.object_store.clone() else { return Ok(None) };
    let key = match (args.s3_access_key_id.clone(), args.s3_secret_access_key.clone()) {
        (Some(id), Some(secret)) => Some((id, secret.into())),
        (None, None) => None,
        _ => anyhow::bail!("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together; one of them is missing"),
    };
    let (endpoint, region) = (args.s3_endpoint.clone(), args.s3_region.clone());
    let session_token = args.s3_session_token.clone().map(Into::into);
    Ok(Some(BucketSettings { endpoint, region, key, session_token, ..bucket }))
}

/// Where metrics are exported to, if anywhere.
fn otlp(args: &ControlArgs) -> anyhow::Result<Option<OtlpSettings>> {
    let (endpoint, headers) = (args.otlp_endpoint.clone(), args.otlp_headers.clone());
    OtlpSettings::choose(endpoint, headers, args.otlp_interval, |name| std::env::var(name).ok())
        .map_err(anyhow::Error::msg)
        .context("the export of metrics (--otlp-endpoint, --otlp-headers, --otlp-interval)")
}

pub fn control(
    data_dir: PathBuf,
    cache_dir: PathBuf,
    args: &ControlArgs,
    heartbeat: &HeartbeatArgs,
) -> anyhow::Result<ControlConfig> {
    let mut config = ControlConfig::new(data_dir, cache_dir, args.listen);
    config.shipped = Some(shipped(&args.interpreter)?);
    config.build_ahead = args.build_ahead;
    config.database_url = args.database_url.clone().map(Into::into);
    config.public_url.clone_from(&args.public_url);
    config.domain.clone_from(&args.domain);
    config.advertise.clone_from(&args.advertise);
    config.tls =
        args.tls_cert.clone().zip(args.tls_key.clone()).map(|(certificate, key)| TlsFiles { certificate, key });
    config.dashboard = dashboard;
    config.version = VERSION;
    config.signup = args.signup;
    config.trusted_proxies.clone_from(&args.trusted_proxies);
    config.webhook_allow.clone_from(&args.webhook_allow);
    config.jwt_key.clone_from(&args.jwt_key);
    config.secrets_key.clone_from(&args.secrets_key);
    config.oidc = args.oidc_issuer.clone().zip(args.oidc_client_id.clone()).zip(args.oidc_client_secret.clone()).map(
        |((issuer, client_id), client_secret)| OidcSettings {
            name: args.oidc_name.clone(),
            issuer,
            client_id,
            client_secret: client_secret.into(),
        },
    );
    config.github =
        args.github_client_id.clone().zip(args.github_client_secret.clone()).map(|(client_id, client_secret)| {
            GithubSettings {
                client_id,
                client_secret: client_secret.into(),
                web_url: args.github_url.clone(),
                api_url: args.github_api_url.clone(),
            }
        });
    config.bucket = bucket(args)?;
    config.smtp_url = args.smtp_url.clone().map(Into::into);
    config.smtp_from.clone_from(&args.smtp_from);
    config.scheduler = args.scheduler;
    config.registry_allow.clone_from(&args.registry_allow);
    config.overcommit =
        Overcommit { cpu: args.cpu_overcommit, memory: args.memory_overcommit, disk: args.disk_overcommit };
    config.quotas = Quotas {
        sandboxes: args.quota_sandboxes,
        vcpus: args.quota_vcpus,
        memory_mb: args.quota_memory_mb,
        disk_mb: args.quota_disk_mb,
    };
    config.metrics_token = args.metrics_token.clone().map(Into::into);
    config.otlp = otlp(args)?;
    config.resume_on_reconnect = args.on_reconnect == OnReconnect::Resume;
    let times = &mut config.hosts;
    for (setting, given) in [
        (&mut times.heartbeat_interval, heartbeat.heartbeat_interval),
        (&mut times.stale_after, args.host_stale_after),
        (&mut times.monitor_interval, args.monitor_interval),
        (&mut times.transition_limit, args.transition_limit),
        (&mut times.registration_token_ttl, args.registration_token_ttl),
        (&mut times.access_token_ttl, args.access_token_ttl),
        (&mut times.refresh_token_ttl, args.refresh_token_ttl),
    ] {
        if let Some(given) = given {
            *setting = given;
        }
    }
    Ok(config)
}

/// The recipes that this binary carries.
pub fn shipped(interpreter: &InterpreterArgs) -> anyhow::Result<ShippedRecipes> {
    let read = |name: &str, files: &[(&'static str, &'static str)]| {
        Recipe::new(name, files.iter().copied()).with_context(|| format!("reading the recipe of the template {name}"))
    };
    let base = read("base", atoll_assets::BASE_RECIPE)?;
    let parts = interpreter.interpreter_with.iter().filter(|part| !part.is_empty() && *part != "none");
    let code_interpreter = read("code-interpreter", atoll_assets::CODE_INTERPRETER_RECIPE)?
        .on(&base)
        .with(&parts.cloned().collect::<Vec<_>>())
        .context("--interpreter-with")?;
    Ok(ShippedRecipes { base, code_interpreter })
}

pub fn host(
    data_dir: PathBuf,
    cache_dir: PathBuf,
    server_url: String,
    listen: SocketAddr,
    args: &AgentArgs,
    heartbeat: &HeartbeatArgs,
) -> HostConfig {
    let mut config = HostConfig::new(data_dir, cache_dir, server_url, atoll_assets::GUEST);
    config.listen = listen;
    config.address.clone_from(&args.address);
    config.driver = args.driver;
    config.egress_allow.clone_from(&args.egress_allow);
    config.max_bandwidth = args.sandbox_bandwidth;
    config.sandbox_network = args.sandbox_network;
    config.pool_bytes = args.pool_size;
    config.image_cache_bytes = args.image_cache_size;
    config.limits.spare_machines = args.spare_machines.into();
    config.on_disconnect = args.on_disconnect;
    config.heartbeat_interval = heartbeat.heartbeat_interval;
    if let Some(after) = args.disconnect_after {
        config.disconnect_after = after;
    }
    if let Some(most) = args.max_sandboxes {
        config.limits.sandboxes = most;
    }
    config.version = VERSION.to_owned();
    config
}

fn dashboard(path: &str) -> Option<DashboardFile> {
    atoll_assets::dashboard_file(path).map(|file| DashboardFile {
        bytes: file.bytes,
        gzip: file.gzip,
        mime: file.mime,
        immutable: file.immutable,
        hash: file.hash,
    })
}
