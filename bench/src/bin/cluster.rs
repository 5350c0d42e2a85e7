//! How long a real cluster takes to notice that a host has died, to be right again when one returns with 500 sandboxes,
//! and until sandboxes can be used after their agent was killed and started again; and what an agent takes while a thousand do nothing: control on a PostgreSQL, an agent with real sandboxes in a network namespace of its own.
//!
//!     ATOLL_BIN=target/release/atoll cluster

#[allow(dead_code, reason = "the main program uses more of it")]
#[path = "../machine.rs"]
mod machine;
#[path = "../rows.rs"]
mod rows;
#[allow(dead_code, reason = "the main program uses more of it")]
#[path = "../stats.rs"]
mod stats;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use atoll_client::{Client, ListSandboxes, command};
use atoll_model::{HostStatus, SandboxId, SandboxStatus};
use atoll_tests::cluster::{Cluster, MONITOR_INTERVAL, Reach, STALE_AFTER, tiny};
use clap::Parser;
use futures::StreamExt;

use stats::Samples;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 500)]
    sandboxes: usize,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// For what an agent takes while they do nothing
    #[arg(long, default_value_t = 1000)]
    idle: usize,
    /// Adds Markdown rows to this file
    #[arg(long)]
    rows: Option<PathBuf>,
}

/// How long an agent is watched while its sandboxes do nothing, and what is over before: memory is squeezed, first samples taken.
const WATCH: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(15);
/// So many of them run a program after their agent was killed and started again.
const USED: usize = 50;
const NONE_TOO_MANY: [(&str, &str); 3] =
    [("ATOLL_CPU_OVERCOMMIT", "1000"), ("ATOLL_MEMORY_OVERCOMMIT", "100"), ("ATOLL_DISK_OVERCOMMIT", "1000")];

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut cluster = Cluster::start_with(1, 0, &NONE_TOO_MANY).await;
    let most = (args.sandboxes.max(args.idle) + 10).to_string();
    let agent = [("ATOLL_POOL_SIZE", "8G"), ("ATOLL_MAX_SANDBOXES", most.as_str()), ("ATOLL_MEMORY_OVERCOMMIT", "100")];
    let host = cluster.add_host_with(Reach::Address, &agent).await;
    cluster.wait_host(host, HostStatus::Online).await;
    cluster.wait_ready().await;
    let made = make(&cluster.client, args.sandboxes).await?;
    let used = &made[..made.len().min(USED)];
    if args.idle > 0 {
        idle(&cluster, host, made.len(), &args).await?;
    }

    let (mut deaths, mut returns, mut restarts) = (Samples::default(), Samples::default(), Samples::default());
    let mut uses = Samples::default();
    for _ in 0..args.rounds {
        // Cut off until its agent has noticed and paused everything, then back.
        let paused = cluster.hosts[host].node.times_said(PAUSED);
        cluster.cut(host);
        all(&cluster, SandboxStatus::Missing).await?;
        while cluster.hosts[host].node.times_said(PAUSED) == paused {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cluster.heal(host);
        cluster.wait_host(host, HostStatus::Online).await;
        let back = Instant::now();
        all(&cluster, SandboxStatus::Running).await?;
        returns.push(back.elapsed());

        let died = Instant::now();
        cluster.hosts[host].node.kill_9();
        all(&cluster, SandboxStatus::Missing).await?;
        deaths.push(died.elapsed());
        cluster.hosts[host].node.run(&[]);
        cluster.wait_host(host, HostStatus::Online).await;
        let back = Instant::now();
        all(&cluster, SandboxStatus::Running).await?;
        restarts.push(back.elapsed());

        // Before anybody has noticed.
        cluster.hosts[host].node.kill_9();
        let started = Instant::now();
        cluster.hosts[host].node.run(&[]);
        let answers = futures::future::join_all(used.iter().map(|id| runs_a_program(&cluster.client, id)));
        answers.await.into_iter().collect::<Result<Vec<()>>>()?;
        uses.push(started.elapsed());
    }
    let many = args.sandboxes;
    let limit = (STALE_AFTER + MONITOR_INTERVAL).as_secs_f64() * 1e3;
    let say = |samples: &Samples| {
        format!("{:.0} ms p50, {:.0} ms at most (n = {})", samples.median(), samples.quantile(1.0), samples.len())
    };
    let row = |what: &str, goal: &str, samples: &Samples, most: f64| {
        rows::row(args.rows.as_deref(), what, goal, &say(samples), Some(samples.quantile(1.0) <= most))
    };
    row(
        &format!(
            "a host dies: all its {many} sandboxes are missing (stale after {STALE_AFTER:?}, monitor every {MONITOR_INTERVAL:?})"
        ),
        "3000 ms (their sum)",
        &deaths,
        limit,
    )?;
    row(&format!("a host is back after a partition: all its {many} sandboxes run again"), "2000 ms", &returns, 2000.0)?;
    row(&format!("a host is back after its agent was killed: all its {many} run again"), "2000 ms", &restarts, 2000.0)?;
    let used = used.len();
    row(
        &format!("an agent is killed and started again: {used} of its {many} sandboxes have each answered an exec"),
        "2000 ms",
        &uses,
        2000.0,
    )
}

async fn make(client: &Client, count: usize) -> Result<Vec<SandboxId>> {
    println!("making {count} sandboxes");
    let request = tiny();
    let made = futures::stream::iter(0..count).map(|_| client.create_sandbox(&request)).buffer_unordered(8);
    let made = made.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<_>, _>>();
    Ok(made.context("making the sandboxes")?.into_iter().map(|sandbox| sandbox.id).collect())
}

/// What an agent takes while its sandboxes do nothing, `there` of which are made already.
async fn idle(cluster: &Cluster, host: usize, there: usize, args: &Args) -> Result<()> {
    let more = make(&cluster.client, args.idle.saturating_sub(there)).await?;
    tokio::time::sleep(SETTLE).await;
    let pid = cluster.hosts[host].node.pid();
    let (before, begin) = (machine::cpu_time(pid)?, Instant::now());
    tokio::time::sleep(WATCH).await;
    let used = machine::cpu_time(pid)?.saturating_sub(before);
    let percent = used.as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0;
    let resident = machine::resident_kib(pid)?;
    let destroyed = futures::stream::iter(&more).map(|id| cluster.client.destroy_sandbox(id)).buffer_unordered(8);
    destroyed.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<_>, _>>().context("destroying sandboxes")?;
    let count = there + more.len();
    let what = |what: &str| format!("an agent with {count} idle sandboxes, metrics sampled: {what}");
    let measured = format!("{percent:.2} % of a core, over {} s", WATCH.as_secs());
    rows::row(args.rows.as_deref(), &what("processor"), "3 % of a core", &measured, Some(percent < 3.0))?;
    let measured = format!("{:.1} MB", resident as f64 * 1024.0 / 1e6);
    let met = resident * 1024 < 100_000_000;
    rows::row(args.rows.as_deref(), &what("resident memory"), "100 MB", &measured, Some(met))
}

/// Said by an agent when it has paused everything.
const PAUSED: &str = "sandboxes were paused until control orders otherwise";

/// Asks until it is done.
async fn runs_a_program(client: &Client, id: &SandboxId) -> Result<()> {
    let begin = Instant::now();
    loop {
        match client.exec(id, &command("/bin/true", [""; 0])).await {
            Ok(answer) if answer.exit_code == 0 => return Ok(()),
            Ok(answer) => anyhow::bail!("true in {id} ended with {}", answer.exit_code),
            Err(error) if begin.elapsed() > Duration::from_secs(120) => return Err(error).context("running a program"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Waits until every sandbox is in this status.
async fn all(cluster: &Cluster, status: SandboxStatus) -> Result<()> {
    let others = SandboxStatus::ALL.into_iter().filter(|other| *other != status).collect();
    let others = ListSandboxes { status: others, limit: Some(1), ..ListSandboxes::default() };
    let begin = Instant::now();
    loop {
        let left = cluster.client.list_sandboxes(&others).await.context("listing sandboxes")?;
        match left.items.first() {
            None => return Ok(()),
            Some(left) if begin.elapsed() > Duration::from_secs(120) => {
                anyhow::bail!("{} is {} and not {status}", left.id, left.status)
            }
            Some(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
