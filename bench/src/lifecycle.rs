//! Pause, fork, and what many idle sandboxes cost: the figures of the container driver's life beyond create and exec.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use atoll_model::SandboxId;
use atoll_model::api::sandboxes::{CreateSandboxRequest, ForkRequest};

use crate::atoll::Bench;
use crate::machine::{self, Held};
use crate::report::Report;
use crate::stats::Samples;

/// How long the agent is watched among idle sandboxes.
const WATCH: Duration = Duration::from_secs(60);

impl Bench {
    pub async fn pause_resume(&mut self, report: &mut Report, rounds: usize) -> Result<()> {
        let id = self.create().await?;
        let (mut pause, mut resume) = (Samples::default(), Samples::default());
        for _ in 0..rounds {
            let begin = Instant::now();
            self.client.pause_sandbox(&id).await?;
            pause.push(begin.elapsed());
            let begin = Instant::now();
            self.client.resume_sandbox(&id).await?;
            resume.push(begin.elapsed());
        }
        self.client.destroy_sandbox(&id).await?;
        report.time("pause through REST, written down before it is answered", "1 ms", &pause, 1.0, None);
        report.time("resume through REST", "1 ms", &resume, 1.0, None);
        Ok(())
    }

    /// Fork of a running sandbox into many, until each has answered an exec; and what each child costs.
    pub async fn fork(&mut self, report: &mut Report, count: u32, rounds: usize) -> Result<()> {
        let parent = self.create().await?;
        self.echo(&parent).await?;
        let mut whole = Samples::default();
        let mut memory = None;
        for round in 0..rounds {
            // Looked at once: it takes seconds.
            let before = if round == 0 { Some(Held::now(self.pid)?) } else { None };
            let begin = Instant::now();
            let request = ForkRequest { count: Some(count), ..ForkRequest::default() };
            let forked = self.client.fork_sandbox(&parent, &request).await?;
            let children: Vec<SandboxId> =
                forked.items.into_iter().filter_map(|child| child.sandbox.map(|sandbox| sandbox.id)).collect();
            if children.len() != count as usize {
                bail!("{} of {count} children were made", children.len());
            }
            for answer in futures::future::join_all(children.iter().map(|child| self.echo(child))).await {
                answer?;
            }
            whole.push(begin.elapsed());
            if let Some(before) = before {
                memory = Some(Held::now(self.pid)?.above(&before, count as usize));
            }
            for child in &children {
                self.client.destroy_sandbox(child).await?;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.client.destroy_sandbox(&parent).await?;
        report.time("fork of a running sandbox into 100, all answering exec", "500 ms", &whole, 500.0, None);
        if let Some((processes, kernel)) = memory {
            let mb = processes + kernel;
            let measured = format!("{mb:.2} MB ({processes:.2} MB of processes, {kernel:.2} MB of the kernel)");
            report.row("memory per fork, before it writes", "2 MB", measured, Some((0.01..=2.0).contains(&mb)));
        }
        Ok(())
    }

    /// What the server (control and agent in one process) takes while many sandboxes do nothing.
    pub async fn idle(&mut self, report: &mut Report, count: usize) -> Result<()> {
        let mut made = Vec::with_capacity(count);
        let request =
            CreateSandboxRequest { memory_mb: Some(64), disk_mb: Some(64), ..CreateSandboxRequest::default() };
        for _ in 0..count {
            made.push(self.client.create_sandbox(&request).await?.id);
        }
        // What follows a create (squeezing memory, first samples) is over.
        tokio::time::sleep(Duration::from_secs(15)).await;
        let (before, begin) = (machine::cpu_time(self.pid)?, Instant::now());
        tokio::time::sleep(WATCH).await;
        let used = machine::cpu_time(self.pid)?.saturating_sub(before);
        let percent = used.as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0;
        let resident = machine::resident_kib(self.pid)?;
        for ids in made.chunks(32) {
            for destroyed in futures::future::join_all(ids.iter().map(|id| self.client.destroy_sandbox(id))).await {
                destroyed?;
            }
        }
        let what = format!("server with {count} idle sandboxes, metrics sampled: processor");
        report.row(&what, "", format!("{percent:.2} % of a core, over 60 s"), None);
        let what = format!("server with {count} idle sandboxes: resident memory, control plane included");
        report.row(&what, "", format!("{:.1} MB", resident as f64 * 1024.0 / 1e6), None);
        Ok(())
    }
}
