//! Measures a running Atoll through its REST API, beside the peers that run on the same machine, and writes a
//! Markdown report. Started by `scripts/bench.sh`; never used in tests, which assert no times.

mod atoll;
mod lifecycle;
mod machine;
mod machines;
mod peers;
mod report;
mod stats;
mod timing;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use crate::report::Report;

/// A rest between two rounds, of Atoll's and of peers', in so many ticks: what is torn down behind an answer takes some 25 ms
/// of one processor of two, and is not measured with the next. It ticks to keep the machine awake, as one in use is: a virtual
/// one that has slept for 60 ms takes up to twice as long for anything, a plain `true` included.
const TICKS: u32 = 60;
const TICK: Duration = Duration::from_millis(1);

pub fn rest() {
    for _ in 0..TICKS {
        std::thread::sleep(TICK);
    }
}

#[derive(Parser)]
struct Args {
    /// Data directory of the Atoll under test (its credentials.json is read, its pool is watched).
    #[arg(long)]
    data_dir: PathBuf,
    /// Process id of `atoll up`, for its memory.
    #[arg(long)]
    pid: u32,
    /// The base image, as a root file system for the peers.
    #[arg(long)]
    image: PathBuf,
    /// The program built from bench/libcontainer, if it could be built.
    #[arg(long)]
    libcontainer: Option<PathBuf>,
    /// Where this machine's kernels are, and the machines that wait with them.
    #[arg(long, env = "ATOLL_CACHE_DIR", default_value = "/var/cache/atoll")]
    cache_dir: PathBuf,
    /// What `atoll up` has logged, with `atoll_host::driver::vm=debug`.
    #[arg(long)]
    log: Option<PathBuf>,
    /// Where to write the report.
    #[arg(long, default_value = "bench/RESULTS.md")]
    out: PathBuf,
    /// Rows about hosts that `heartbeats`, `reconcile` and `cluster` have measured.
    #[arg(long)]
    hosts: Option<PathBuf>,
    /// Rows about virtual machines that were measured on a Debian 13.
    #[arg(long)]
    newer: Option<PathBuf>,
    /// Fewer rounds, for a quick look.
    #[arg(long)]
    quick: bool,
    /// Only Atoll, no peers.
    #[arg(long)]
    no_peers: bool,
    /// Only these of its measurements, for a comparison; nothing is written.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
}

/// What is measured of Atoll, in this order.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Create,
    Exec,
    Many,
    Destroy,
    Pause,
    Fork,
    Vm,
    Memory,
    Idle,
    Files,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let scale = if args.quick { 5 } else { 1 };
    let mut report = Report::new(machine::describe()?);
    let parts = if args.only.is_empty() { Part::value_variants() } else { &args.only };
    runtime.block_on(async {
        let mut bench = atoll::Bench::connect(&args.data_dir, args.pid)?;
        for part in parts {
            measure(&mut bench, &mut report, *part, &args).await?;
        }
        anyhow::Ok(())
    })?;
    if !args.only.is_empty() {
        print!("{}", report.markdown());
        return Ok(());
    }
    let sections = [
        ("Virtual machines on a Debian 13, whose QEMU is 10.0 (above: Debian 12's, 7.2)", &args.newer),
        ("Hosts", &args.hosts),
    ];
    for (title, path) in sections {
        let Some(path) = path else { continue };
        let rows = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        report.section(title, rows);
    }
    if !args.no_peers {
        run_peers(&args, &mut report, scale);
    }
    std::fs::write(&args.out, report.markdown()).with_context(|| format!("writing {}", args.out.display()))?;
    print!("{}", report.markdown());
    Ok(())
}

async fn measure(bench: &mut atoll::Bench, report: &mut Report, part: Part, args: &Args) -> Result<()> {
    let scale = if args.quick { 5 } else { 1 };
    let few = if args.quick { 2 } else { 6 };
    match part {
        Part::Create => bench.create_to_first_output(report, 200 / scale).await.context("create to first exec output"),
        Part::Exec => bench.exec_true(report, 1000 / scale).await.context("exec of true"),
        Part::Many => bench.create_many(report, 100, few).await.context("100 creates at once"),
        Part::Destroy => bench.destroy(report, 60 / scale).await.context("destroy"),
        Part::Pause => bench.pause_resume(report, 200 / scale).await.context("pause and resume"),
        Part::Fork => bench.fork(report, 100, few).await.context("fork into 100"),
        Part::Vm => {
            let rounds = if args.quick { 2 } else { 9 };
            bench.machines(report, rounds, &args.cache_dir, args.log.as_deref()).await.context("virtual machines")
        }
        Part::Memory => bench.memory(report, 200 / scale).await.context("memory per idle sandbox"),
        Part::Idle => bench.idle(report, 1000 / scale).await.context("many idle sandboxes"),
        Part::Files => bench.files(report, if args.quick { 512 } else { 2048 }).await.context("files"),
    }
}

/// A peer that can't run here is reported as such, with the reason; it never fails the bench.
fn run_peers(args: &Args, report: &mut Report, scale: usize) {
    report.peer("fork_exec", "plain fork + exec of `true`", peers::fork_exec(300 / scale));
    let bundle = match peers::Bundle::new(&args.image) {
        Ok(bundle) => bundle,
        Err(error) => return report.note(format!("No bundle for the peers: {error:#}")),
    };
    report.peer("bwrap", "bubblewrap, all namespaces, `true`", peers::bubblewrap(&bundle, 100 / scale));
    report.peer("crun_run", "crun run of `true`, no network set up, no API", peers::crun_run(&bundle, 60 / scale));
    match peers::crun_exec(&bundle, 100 / scale) {
        Ok((exec, delete)) => {
            report.peer("crun_exec", "crun exec of `true`", Ok(exec));
            report.peer("crun_delete", "crun delete --force", Ok(delete));
        }
        Err(error) => report.peer("crun_exec", "crun exec of `true`", Err(error)),
    }
    report.peer("crun_many", "100 `crun run --detach` at once, no network, no exec", peers::crun_many(&bundle, 100));
    if let Some(program) = &args.libcontainer {
        match peers::libcontainer(&bundle, program, 40 / scale) {
            Ok((create, delete)) => {
                report.peer("libcontainer", "libcontainer create + start", Ok(create));
                report.peer("libcontainer_delete", "libcontainer delete", Ok(delete));
            }
            Err(error) => report.peer("libcontainer", "libcontainer create + start", Err(error)),
        }
    }
}
