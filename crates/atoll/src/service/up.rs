//! `atoll up`: control plane and one host agent in one process, joined as any other pair would be: the agent is
//! registered over the REST API, enrols by itself, and is called over mutual TLS.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use atoll_client::{Auth, Client, Credentials, Endpoint};
use atoll_control::Control;
use atoll_control::templates::{Recipe, ensure_base};
use atoll_host::HostConfig;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::bootstrap::{self, FirstAdmin, LocalHost};
use super::lock::DataDirLock;
use super::progress::Progress;
use super::{settings, shutdown};
use crate::cli::Global;
use crate::cli::settings::{UpArgs, loopback_url};
use crate::output::{self, with_hint};

/// A host whose credentials still count is online well before this; then it is asked whether they do.
const ENROL_AGAIN_AFTER: Duration = Duration::from_secs(8);
/// From the start of both halves to the first create that would succeed.
const READY_WITHIN: Duration = Duration::from_secs(90);
const AGENT_ENDS_WITHIN: Duration = Duration::from_secs(20);
const CONTROL_ENDS_WITHIN: Duration = Duration::from_secs(15);

pub fn main(args: UpArgs, global: &Global) -> anyhow::Result<u8> {
    super::require_root("atoll up")?;
    let data_dir = super::prepare(&args.place, "warn")?;
    let _lock = DataDirLock::take(&data_dir, "up")?;
    super::block_on(up(args, data_dir, global.json))
}

async fn up(args: UpArgs, data_dir: PathBuf, json: bool) -> anyhow::Result<u8> {
    let asked_to_end = shutdown::on_signal()?;
    let progress = Progress::new(json);
    let started = tokio::select! {
        started = start(&args, &data_dir, &progress) => started?,
        () = asked_to_end.cancelled() => return Ok(0),
    };
    let took = progress.finish();
    drop(progress);
    announce(&started, &data_dir, took, json)?;
    let Started { control, agent, agent_shutdown, control_shutdown, .. } = started;
    let mut control = tokio::spawn(control.wait());
    let mut agent = agent;

    let failed = tokio::select! {
        () = asked_to_end.cancelled() => None,
        ended = &mut control => Some(match ended {
            Ok(Ok(())) => anyhow!("the control plane ended by itself"),
            Ok(Err(error)) => error.context("the control plane failed"),
            Err(panic) => anyhow!(panic).context("the control plane failed"),
        }),
        ended = &mut agent => match ended {
            Ok(Ok(())) => {
                // Its host was deleted by an admin: control goes on for the other hosts.
                tracing::warn!("this machine's host was deleted; the control plane goes on");
                tokio::select! {
                    () = asked_to_end.cancelled() => None,
                    _ = &mut control => Some(anyhow!("the control plane ended by itself")),
                }
            }
            Ok(Err(error)) => Some(error.context("this machine's host agent failed")),
            Err(panic) => Some(anyhow!(panic).context("this machine's host agent failed")),
        },
    };
    agent_shutdown.cancel();
    if !agent.is_finished() && tokio::time::timeout(AGENT_ENDS_WITHIN, &mut agent).await.is_err() {
        tracing::warn!("the host agent did not end in time");
    }
    control_shutdown.cancel();
    if !control.is_finished() && tokio::time::timeout(CONTROL_ENDS_WITHIN, &mut control).await.is_err() {
        tracing::warn!("the control plane did not end in time");
    }
    match failed {
        Some(error) => Err(error),
        None => {
            tracing::info!("ended in order; sandboxes run on");
            Ok(0)
        }
    }
}

struct Started {
    control: Control,
    control_shutdown: CancellationToken,
    agent: JoinHandle<anyhow::Result<()>>,
    agent_shutdown: CancellationToken,
    url: String,
    first: Option<FirstAdmin>,
    credentials: Option<Credentials>,
}

async fn start(args: &UpArgs, data_dir: &Path, progress: &Progress) -> anyhow::Result<Started> {
    progress.doing("starting the control plane");
    let cache_dir = args.place.cache_dir.clone();
    let config = settings::control(data_dir.to_owned(), cache_dir.clone(), &args.control, &args.heartbeat);
    let tls = config.tls.is_some();
    let control_shutdown = CancellationToken::new();
    let control = Control::start(config, control_shutdown.clone()).await.context("starting the control plane")?;
    let url = loopback_url(control.local_addr(), tls);
    let first = control.first_admin(&args.admin_email, None).await.context("making the first admin")?;
    let first = first.map(|made| FirstAdmin { email: made.email, password: made.password, api_key: made.api_key });
    let credentials = bootstrap::write_credentials(data_dir, &url, first.as_ref())?;

    progress.doing("looking for the base template");
    let recipe = Recipe::new("base", atoll_assets::BASE_RECIPE.iter().copied())
        .context("reading the recipe of the base template")?;
    let say = |step: &str| progress.doing(&format!("base template: {step}"));
    let base = ensure_base(&cache_dir, &recipe, &say).await.context("getting the base template")?;
    control.register_base(&base).await.context("registering the base template")?;

    progress.doing("starting this machine's host");
    let local = LocalHost::new(&url, data_dir, credentials.as_ref());
    let token = local.token_if_needed(&machine_name()).await?;
    let make = |token: Option<SecretString>| {
        let mut config = settings::host(
            data_dir.to_owned(),
            cache_dir.clone(),
            url.clone(),
            args.agent_listen,
            &args.agent,
            &args.heartbeat,
        );
        config.register_token = token;
        config
    };
    let (mut agent, mut agent_shutdown) = spawn_agent(make(token.clone()));

    progress.doing("waiting for this machine's host");
    let api_key = credentials.as_ref().and_then(|credentials| credentials.api_key.clone());
    let client = Client::to(Endpoint::parse(&url)?, api_key.map_or(Auth::Nobody, Auth::ApiKey))?;
    let mut patience = READY_WITHIN;
    if token.is_none() {
        patience -= ENROL_AGAIN_AFTER;
        let ready = while_alive(&mut agent, bootstrap::wait_until_ready(&client, ENROL_AGAIN_AFTER)).await?;
        if ready.is_err()
            && let Some(token) = local.token_if_refused().await
        {
            progress.doing("enrolling this machine's host again");
            agent_shutdown.cancel();
            let _ = tokio::time::timeout(AGENT_ENDS_WITHIN, &mut agent).await;
            (agent, agent_shutdown) = spawn_agent(make(Some(token)));
        }
    }
    if let Err(reason) = while_alive(&mut agent, bootstrap::wait_until_ready(&client, patience)).await? {
        return Err(with_hint(
            format!("this machine's host did not get ready within {} s: {reason}", READY_WITHIN.as_secs()),
            format!("`atoll host check` says what is missing; the log is {}", super::log_file(data_dir).display()),
        ));
    }
    Ok(Started { control, control_shutdown, agent, agent_shutdown, url, first, credentials })
}

fn spawn_agent(config: HostConfig) -> (JoinHandle<anyhow::Result<()>>, CancellationToken) {
    let shutdown = CancellationToken::new();
    (tokio::spawn(atoll_host::run(config, shutdown.clone())), shutdown)
}

/// Waits for `what`, unless the agent ends first: then that is the error.
async fn while_alive<T>(
    agent: &mut JoinHandle<anyhow::Result<()>>,
    what: impl Future<Output = T>,
) -> anyhow::Result<T> {
    tokio::select! {
        result = what => Ok(result),
        ended = agent => Err(match ended {
            Ok(Ok(())) => anyhow!("this machine's host agent ended while it started"),
            Ok(Err(error)) => error.context("starting this machine's host agent"),
            Err(panic) => anyhow!(panic).context("starting this machine's host agent"),
        }),
    }
}

fn machine_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    if name.is_empty() { "local".to_owned() } else { name }
}

fn announce(started: &Started, data_dir: &Path, took: Duration, json: bool) -> anyhow::Result<()> {
    let file = bootstrap::credentials_path(data_dir);
    let log = super::log_file(data_dir);
    let url = &started.url;
    tracing::info!(%url, data_dir = %data_dir.display(), "atoll is ready");
    if json {
        let line = json!({
            "url": url, "credentials": file, "log": log, "data_dir": data_dir, "pid": std::process::id(),
        });
        output::print(&format!("{line}\n"))?;
        return Ok(());
    }
    let login = match (&started.first, &started.credentials) {
        // Shown once, and only to a person: a redirected output is a log.
        (Some(first), _) if std::io::stdout().is_terminal() => {
            format!("{}  password {}", first.email, first.password.expose_secret())
        }
        (_, Some(credentials)) => match &credentials.admin {
            Some((email, _)) => format!("{email}  password in {}", file.display()),
            None => "with your account".to_owned(),
        },
        _ => "with your account".to_owned(),
    };
    let (bold, dim, reset) =
        if output::colours(&std::io::stdout()) { ("\x1b[1m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    let data_dir = data_dir.display();
    let elsewhere =
        if data_dir.to_string() == "/var/lib/atoll" { String::new() } else { format!("ATOLL_DATA_DIR={data_dir} ") };
    output::print(&format!(
        "
{bold}Atoll is ready.{reset} {dim}({:.1} s){reset}

  address   {url}
  log in    {login}
  data      {data_dir}
  log       {}

{bold}Next{reset}
  {elsewhere}atoll run -- python3 -c 'print(6*7)'
  {elsewhere}atoll shell
  {elsewhere}atoll --help

{dim}Ctrl-C ends Atoll; sandboxes run on until the next start.{reset}
",
        took.as_secs_f64(),
        log.display(),
    ))?;
    Ok(())
}
