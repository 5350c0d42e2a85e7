//! `atoll up`: control plane and one host agent in one process, joined as any other pair would be: the agent is
//! registered over the REST API, enrols by itself, and is called over mutual TLS.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use atoll_client::{Auth, Client, Credentials, Endpoint};
use atoll_control::Control;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::bootstrap::{self, FirstAdmin, LocalHost};
use super::halves::Halves;
use super::lock::DataDirLock;
use super::progress::Progress;
use super::{settings, shutdown};
use crate::cli::Global;
use crate::cli::settings::{UpArgs, loopback_url};
use crate::output::{self, with_hint};

/// A host whose credentials still count is ready well before this; then it is asked whether they do.
const ENROL_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// From the start of both halves to the first create that would succeed.
const READY_WITHIN: Duration = Duration::from_secs(90);

pub fn main(args: UpArgs, global: &Global) -> anyhow::Result<u8> {
    super::require_root("atoll up")?;
    let data_dir = super::prepare(&args.place, "warn")?;
    let _lock = DataDirLock::take(&data_dir, "up")?;
    super::block_on(up(args, data_dir, global.json))
}

async fn up(args: UpArgs, data_dir: PathBuf, json: bool) -> anyhow::Result<u8> {
    let asked_to_end = shutdown::on_signal()?;
    let mut halves = Halves::new();
    let result = tokio::select! {
        result = serve(&args, &data_dir, json, &mut halves) => result,
        () = asked_to_end.cancelled() => Ok(()),
    };
    if let Err(error) = &result {
        tracing::error!(error = format!("{error:#}"), "ending");
    }
    halves.end().await;
    tracing::info!("ended; sandboxes run on");
    result.map(|()| 0)
}

/// Starts everything and goes on until something fails.
async fn serve(args: &UpArgs, data_dir: &Path, json: bool, halves: &mut Halves) -> anyhow::Result<()> {
    let progress = Progress::new(json);
    let started = start(args, data_dir, &progress, halves).await?;
    let took = progress.finish();
    drop(progress);
    announce(&started, data_dir, took, json)?;
    Err(halves.failure().await)
}

struct Started {
    /// How this machine reaches it.
    url: String,
    /// How others do.
    public_url: String,
    first: Option<FirstAdmin>,
    credentials: Option<Credentials>,
}

async fn start(args: &UpArgs, data_dir: &Path, progress: &Progress, halves: &mut Halves) -> anyhow::Result<Started> {
    progress.doing("starting the control plane");
    let cache_dir = args.place.cache_dir.clone();
    let config = settings::control(data_dir.to_owned(), cache_dir.clone(), &args.control, &args.heartbeat)?;
    let prepare = async |control: &Control| {
        let url = loopback_url(control.local_addr());
        // Written before they are anybody's: a start that is cut in between finds nobody, and makes the admin anew.
        let keep = |made: &atoll_control::FirstAdmin| -> Result<(), atoll_control::Unkept> {
            bootstrap::write_credentials(data_dir, &url, Some(&FirstAdmin::of(made))).map(drop).map_err(Into::into)
        };
        let first = control.first_admin_kept(&args.admin_email, keep).await.context("making the first admin")?;
        let first = first.as_ref().map(FirstAdmin::of);
        let credentials = bootstrap::write_credentials(data_dir, &url, first.as_ref())?;
        progress.doing("looking for the base template");
        bootstrap::base_template(control, &cache_dir, &|step| progress.doing(&format!("base template: {step}")))
            .await?;
        let public_url = args.control.public_url.clone().unwrap_or_else(|| url.clone());
        Ok(Started { url, public_url, first, credentials })
    };
    let started = halves.start_control(config, prepare).await?;

    progress.doing("starting this machine's host");
    let local = LocalHost::new(&started.url, data_dir, started.credentials.as_ref());
    let token = local.token_if_needed(&machine_name()).await?;
    let enrolled_before = token.is_none();
    let agent = |token: Option<SecretString>| {
        let data_dir = data_dir.to_owned();
        let server = started.url.clone();
        let mut config =
            settings::host(data_dir, cache_dir.clone(), server, args.agent_listen, &args.agent, &args.heartbeat);
        config.register_token = token;
        // What control promises of this machine's memory the agent must be willing to give.
        config.limits.memory_overcommit = args.control.memory_overcommit;
        config
    };
    halves.start_agent(agent(token)).await?;

    progress.doing("waiting for this machine's host");
    let api_key = started.credentials.as_ref().and_then(|credentials| credentials.api_key.clone());
    let client = Client::to(Endpoint::parse(&started.url)?, api_key.map_or(Auth::Nobody, Auth::ApiKey))?;
    let mut patience = READY_WITHIN;
    if enrolled_before {
        patience -= ENROL_AGAIN_AFTER;
        if until_ready(halves, &client, ENROL_AGAIN_AFTER).await?.is_err()
            && let Some(token) = local.token_if_refused().await
        {
            progress.doing("enrolling this machine's host again");
            halves.start_agent(agent(Some(token))).await?;
        }
    }
    if let Err(reason) = until_ready(halves, &client, patience).await? {
        return Err(with_hint(
            format!("this machine's host did not get ready within {} s: {reason}", READY_WITHIN.as_secs()),
            format!("`atoll host check` says what is missing; the log is {}", super::log_file(data_dir).display()),
        ));
    }
    Ok(started)
}

/// Waits until a create would succeed; a half that ends meanwhile is an error.
async fn until_ready(halves: &mut Halves, client: &Client, patience: Duration) -> anyhow::Result<Result<(), String>> {
    let mut problem = halves.problem();
    let ready = async {
        let deadline = tokio::time::Instant::now() + patience;
        // The agent's own word comes first: asking control before it is of no use.
        if tokio::time::timeout_at(deadline, problem.wait_for(Option::is_none)).await.is_err() {
            return Err(problem.borrow().clone().unwrap_or_default());
        }
        bootstrap::wait_until_ready(client, deadline).await
    };
    let result = tokio::select! {
        ready = ready => Ok(ready),
        error = halves.failure() => Err(error),
    };
    anyhow::ensure!(halves.has_agent() || result.is_err(), "this machine's host agent ended while it started");
    result
}

fn machine_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    if name.is_empty() { "local".to_owned() } else { name }
}

fn announce(started: &Started, data_dir: &Path, took: Duration, json: bool) -> anyhow::Result<()> {
    let file = bootstrap::credentials_path(data_dir);
    let log = super::log_file(data_dir);
    let url = &started.public_url;
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
