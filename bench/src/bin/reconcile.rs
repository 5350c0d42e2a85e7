//! What control does with very many hosts: the scheduler's pick among 10,000, and a pass of the host monitor over 10,000
//! hosts with 1,000,000 sandboxes. The database is real, the hosts answer from memory (see `reconcile::scale`).
//!
//!     reconcile
//!     reconcile --database-url postgres://... (an empty database)

#[path = "../rows.rs"]
mod rows;
#[allow(dead_code, reason = "the main program uses more of it")]
#[path = "../stats.rs"]
mod stats;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use atoll_control::simulation::{
    Candidate, Demand, HostList, LeastLoaded, Limits, Millis, RoundRobin, Scale, Scheduler,
};
use atoll_model::api::hosts::Capacity;
use atoll_model::{HostId, HostStatus, HostType, TeamId};
use clap::Parser;

use stats::Samples;

#[derive(Parser)]
struct Args {
    /// postgres://… [default: SQLite in a temporary directory]
    #[arg(long)]
    database_url: Option<String>,
    #[arg(long, default_value_t = 10_000)]
    hosts: u32,
    /// Sandboxes on each of them
    #[arg(long, default_value_t = 100)]
    each: u32,
    /// Passes of the monitor
    #[arg(long, default_value_t = 5)]
    passes: u32,
    /// Adds Markdown rows to this file
    #[arg(long)]
    rows: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.database_url.is_none() {
        picks(&args)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(passes(&args))
}

const NOW: Millis = Millis(1_800_000_000_000);

/// `free` says which hosts have room.
fn list(hosts: u32, free: impl Fn(u32) -> bool) -> HostList {
    let capacity = Capacity { cpu_millis: 64_000, memory_mb: 262_144, disk_mb: 4_194_304 };
    let host = |number: u32| Candidate {
        id: HostId::new(),
        kind: HostType::Regular,
        team: None,
        status: HostStatus::Online,
        draining: false,
        ready: true,
        drivers: vec!["container".to_owned()],
        vm_version: None,
        capacity,
        committed: if free(number) { Capacity::default() } else { Capacity { memory_mb: 1 << 40, ..capacity } },
        last_heartbeat_at: Some(NOW),
        cached_images: (0..20).map(|image| format!("{image:064x}")).collect(),
        resting: false,
    };
    HostList::new((0..hosts).map(host).collect(), NOW, Limits::default())
}

fn picks(args: &Args) -> Result<()> {
    let demand = Demand {
        team: TeamId::new(),
        team_is_byoc: false,
        driver: "container".to_owned(),
        vm_version: None,
        vcpus: 2,
        memory_mb: 512,
        disk_mb: 1024,
        image: Some(format!("{:064x}", 7)),
        only: None,
        tried: Vec::new(),
        volumes_on: None,
    };
    let round_robin: fn() -> Box<dyn Scheduler> = || Box::new(RoundRobin::default());
    let least_loaded: fn() -> Box<dyn Scheduler> = || Box::new(LeastLoaded::default());
    for (name, scheduler) in [("round robin", round_robin), ("least loaded", least_loaded)] {
        for (which, share) in [("all with room", 1), ("one in 100 with room", 100)] {
            let mut list = list(args.hosts, |number| number % share == 0);
            let scheduler = scheduler();
            let mut took = Samples::default();
            for _ in 0..5_000 {
                let begin = Instant::now();
                let picked = scheduler.pick(&demand, &list)?;
                took.push_value(begin.elapsed().as_secs_f64() * 1e6);
                // As placement does: what was promised counts for the next one.
                let place = list.hosts.binary_search_by(|host| host.id.cmp(&picked)).unwrap_or_default();
                list.promise(place, &Capacity { cpu_millis: 2000, memory_mb: 512, disk_mb: 1024 });
            }
            let (p50, p99) = (took.median(), took.p99());
            rows::row(
                args.rows.as_deref(),
                &format!("scheduler pick among {} hosts, {name}, {which}", args.hosts),
                "50 µs",
                &format!("{p50:.1} µs p50, {p99:.1} µs p99 (n = {})", took.len()),
                Some(p50 <= 50.0),
            )?;
        }
    }
    Ok(())
}

async fn passes(args: &Args) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("atoll-bench-").tempdir_in("/var/tmp")?;
    let kind = if args.database_url.is_some() { "PostgreSQL" } else { "SQLite" };
    println!("{kind}: filling {} hosts with {} sandboxes each", args.hosts, args.each);
    let scale = Scale::fill(args.database_url.as_deref(), dir.path(), args.hosts, args.each).await?;
    let (mut took, mut lists) = (Samples::default(), Samples::default());
    let before = resident("VmRSS")?;
    for _ in 0..args.passes {
        scale.hear().await?;
        std::fs::write("/proc/self/clear_refs", "5").context("resetting the peak of this process' memory")?;
        let begin = Instant::now();
        scale.pass().await?;
        took.push(begin.elapsed());
        let begin = Instant::now();
        scale.candidates().await?;
        lists.push(begin.elapsed());
    }
    let grown = resident("VmHWM")?.saturating_sub(before) >> 10;
    ensure!(scale.changed().await? == 0, "a pass that had nothing to do has changed something");
    let sandboxes = u64::from(args.hosts) * u64::from(args.each);
    rows::row(
        args.rows.as_deref(),
        &format!("monitor pass over {} hosts and {sandboxes} sandboxes, {kind}", args.hosts),
        "5 s, flat memory",
        &format!(
            "{:.2} s p50, {:.2} s at most; memory grew by {grown} MiB at most (n = {})",
            took.median() / 1e3,
            took.quantile(1.0) / 1e3,
            took.len()
        ),
        Some(took.quantile(1.0) <= 5000.0 && grown <= 64),
    )?;
    rows::row(
        args.rows.as_deref(),
        &format!("the scheduler's list of {} hosts with what {sandboxes} sandboxes were promised, {kind}", args.hosts),
        "",
        &format!("{:.0} ms p50, at most once a second", lists.median()),
        None,
    )
}

/// Of this process, in KiB.
fn resident(what: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).context("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
