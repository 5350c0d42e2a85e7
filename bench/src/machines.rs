//! Virtual machines: boot, start as a copy, pause, fork with memory, and what a copy costs. Without hardware help all of it
//! is the emulator's time.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use atoll_model::SandboxId;
use atoll_model::api::sandboxes::{CreateSandboxRequest, ForkRequest};

use crate::atoll::Bench;
use crate::machine::meminfo;
use crate::report::Report;
use crate::stats::Samples;

/// What the agent logs when a machine has come to a stand.
const STOOD: &str = "a machine stands still and is written down";

/// The descriptor by which QEMU knows memory that it was lent.
const LENT: u32 = 900;

impl Bench {
    /// `cache` is where machines wait to be copied, `log` the agent's.
    pub async fn machines(
        &mut self,
        report: &mut Report,
        rounds: usize,
        cache: &Path,
        log: Option<&Path>,
    ) -> Result<()> {
        let what = "vm, 256 MiB: create (boot) to first exec output";
        let mut boot = Samples::default();
        for _ in 0..rounds.div_ceil(3) {
            forget_waiting(cache)?;
            let begin = Instant::now();
            match self.machine().await {
                Ok(id) => {
                    boot.push(begin.elapsed());
                    self.client.destroy_sandbox(&id).await?;
                }
                Err(error) => {
                    report.row(what, "1.5 s in software", format!("not measured: {error}"), None);
                    return Ok(());
                }
            }
        }
        report.time(what, "1.5 s in software", &boot, 1500.0, None);

        let (mut copy, mut exec) = (Samples::default(), Samples::default());
        let (mut pause, mut resume) = (Samples::default(), Samples::default());
        for _ in 0..rounds {
            let begin = Instant::now();
            let id = self.machine().await?;
            copy.push(begin.elapsed());
            for _ in 0..20 {
                let begin = Instant::now();
                self.exec_ok(&id).await?;
                exec.push(begin.elapsed());
            }
            let begin = Instant::now();
            self.client.pause_sandbox(&id).await?;
            pause.push(begin.elapsed());
            let begin = Instant::now();
            self.client.resume_sandbox(&id).await?;
            self.echo(&id).await?;
            resume.push(begin.elapsed());
            self.client.destroy_sandbox(&id).await?;
        }
        let what = "vm, 256 MiB: create (copy of a waiting machine) to first exec output";
        report.time(what, "150 ms in software", &copy, 150.0, None);
        report.row("vm: REST exec of `true`", "", format!("{:.2} ms p50", exec.median()), None);
        let measured = format!("{:.2} / {:.2} ms p50", pause.median(), resume.median());
        report.row("vm: pause / resume to first exec output", "", measured, None);
        if let Some(log) = log {
            let stood = stood(&std::fs::read_to_string(log).context("reading the agent's log")?);
            if stood.len() > 0 {
                let what = "vm: of which the guest stands still before the disk has all";
                report.time(what, "30 ms and the disk", &stood, 30.0, None);
            }
        }
        self.copies(report, 4).await?;
        self.spares(report, rounds).await
    }

    /// Another Atoll, of the same program, that keeps a spare machine.
    async fn spares(&self, report: &mut Report, rounds: usize) -> Result<()> {
        let dir = self.data_dir.with_file_name("spares");
        let log = dir.with_extension("log");
        let program = std::fs::read_link(format!("/proc/{}/exe", self.pid))?;
        let mut server = std::process::Command::new(program)
            .args(["up", "--listen", "127.0.0.1:0", "--spare-machines", "1"])
            .args(["--log", "info,atoll_host::sandboxes=debug", "--data-dir"])
            .arg(&dir)
            .stdout(std::process::Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .spawn()?;
        let (mut spare, mut exec) = (Samples::default(), Samples::default());
        let measured = async {
            until("it is ready", || dir.join("credentials.json").exists() && said(&log, "atoll is ready") > 0).await?;
            let bench = Self::connect(&dir, server.id())?;
            for round in 0..rounds + 2 {
                // The first two ask for one.
                if round >= 2 {
                    until("there is a spare", || said(&log, "a spare machine is ready") > round - 2).await?;
                    crate::rest();
                }
                let begin = Instant::now();
                let id = bench.machine().await?;
                let took = begin.elapsed();
                if round >= 2 {
                    spare.push(took);
                    for _ in 0..20 {
                        let begin = Instant::now();
                        bench.exec_ok(&id).await?;
                        exec.push(begin.elapsed());
                    }
                }
                bench.client.destroy_sandbox(&id).await?;
            }
            anyhow::Ok(())
        };
        let measured = measured.await;
        // SAFETY: it takes numbers only; the process is a child that was not waited for.
        let _ended = unsafe { libc::kill(server.id().cast_signed(), libc::SIGTERM) };
        server.wait()?;
        measured?;
        let what = "vm, 256 MiB: create (a spare is taken over) to first exec output";
        report.time(what, "25 ms", &spare, 25.0, None);
        report.row("vm: REST exec of `true` in one that was a spare", "", format!("{:.2} ms p50", exec.median()), None);
        Ok(())
    }

    async fn machine(&self) -> Result<SandboxId> {
        let request = CreateSandboxRequest {
            driver: Some("vm".to_owned()),
            memory_mb: Some(256),
            ..CreateSandboxRequest::default()
        };
        let id = self.client.create_sandbox(&request).await?.id;
        self.echo(&id).await?;
        Ok(id)
    }

    async fn copies(&mut self, report: &mut Report, count: u32) -> Result<()> {
        let parent = self.machine().await?;
        let before = (held()?, touched()?);
        let begin = Instant::now();
        let request = ForkRequest { count: Some(count), ..ForkRequest::default() };
        let forked = self.client.fork_sandbox(&parent, &request).await?;
        let children: Vec<_> = forked.items.into_iter().filter_map(|it| it.sandbox.map(|it| it.id)).collect();
        if forked.kept != "memory" || children.len() != count as usize {
            bail!("{} of {count} children were made, with {}", children.len(), forked.kept);
        }
        for answer in futures::future::join_all(children.iter().map(|child| self.echo(child))).await {
            answer?;
        }
        let took = begin.elapsed().as_secs_f64() * 1000.0;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let each = |now: u64, before: u64| (now as f64 - before as f64) / f64::from(count) / 1024.0;
        let (all, own) = (each(held()?, before.0), each(touched()?, before.1));
        for id in children.iter().chain([&parent]) {
            self.client.destroy_sandbox(id).await?;
        }
        let what = format!("vm: fork with memory into {count}, all answering");
        report.row(&what, "", format!("{took:.0} ms"), None);
        let beyond = all - own;
        let measured = format!("{beyond:.1} MB, and {own:.1} MB that the guest has written to");
        report.row("vm: memory per child", "10 MB beyond what the guest touches", measured, Some(beyond <= 10.0));
        Ok(())
    }
}

/// How often a log says so.
fn said(log: &Path, words: &str) -> usize {
    std::fs::read_to_string(log).unwrap_or_default().matches(words).count()
}

async fn until(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !is_so() {
        if begin.elapsed() > Duration::from_secs(60) {
            bail!("it does not come to that: {what}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// What all processes and memory files hold, in KiB: machines are nobody's children.
fn held() -> Result<u64> {
    Ok(meminfo("AnonPages")? + meminfo("Shmem")?)
}

/// Of that, what guests have written to in memory that they were lent, in KiB.
fn touched() -> Result<u64> {
    let mut sum = 0;
    for process in std::fs::read_dir("/proc")?.flatten() {
        // Whoever has ended meanwhile has none.
        let Ok(lent) = std::fs::metadata(process.path().join(format!("fd/{LENT}"))) else { continue };
        let maps = std::fs::read_to_string(process.path().join("smaps")).unwrap_or_default();
        let mut inside = false;
        for line in maps.lines() {
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            match *words {
                [range, _, _, _, inode, ..] if range.contains('-') => inside = inode.parse() == Ok(lent.ino()),
                ["Anonymous:", kib, ..] if inside => sum += kib.parse::<u64>().unwrap_or(0),
                _ => {}
            }
        }
    }
    Ok(sum)
}

fn forget_waiting(cache: &Path) -> Result<()> {
    for kernel in std::fs::read_dir(cache.join("kernels"))?.flatten() {
        let waiting = kernel.path().join("waiting");
        if waiting.is_dir() {
            std::fs::remove_dir_all(&waiting).with_context(|| format!("removing {}", waiting.display()))?;
        }
    }
    Ok(())
}

/// How long each took, from the agent's log: `copied=12.3ms`, counted from the order to stop.
fn stood(log: &str) -> Samples {
    let mut samples = Samples::default();
    for line in log.lines().filter(|line| line.contains(STOOD)) {
        let value = line.split("copied=").nth(1).and_then(|rest| rest.split_whitespace().next());
        if let Some(seconds) = value.and_then(seconds) {
            samples.push(Duration::from_secs_f64(seconds));
        }
    }
    samples
}

/// Of a duration as Rust shows it.
fn seconds(text: &str) -> Option<f64> {
    let units = [("ms", 1e-3), ("\u{b5}s", 1e-6), ("ns", 1e-9), ("s", 1.0)];
    units.iter().find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}
