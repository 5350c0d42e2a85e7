//! The two halves of `atoll up`, from their start to their end: whatever happens between, both are ended in order,
//! the agent first, because its last word goes to control.

use std::time::Duration;

use anyhow::{Context, anyhow};
use atoll_control::{Control, ControlConfig};
use atoll_host::{HostConfig, Status};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const AGENT_ENDS_WITHIN: Duration = Duration::from_secs(20);
const CONTROL_ENDS_WITHIN: Duration = Duration::from_secs(20);

/// One half: its task, and what ends it.
struct Half {
    task: JoinHandle<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

impl Half {
    /// Asks it to end and waits; what it ends with has been seen before, or does not matter any more.
    async fn end(self, what: &str, within: Duration) {
        self.shutdown.cancel();
        if self.task.is_finished() {
            return;
        }
        match tokio::time::timeout(within, self.task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(error = format!("{error:#}"), "{what} did not end well"),
            Ok(Err(panic)) => tracing::error!(%panic, "{what} failed at its end"),
            Err(_) => tracing::warn!("{what} did not end within {} s", within.as_secs()),
        }
    }
}

/// What runs so far.
pub struct Halves {
    control: Option<Half>,
    agent: Option<Half>,
    /// What keeps the agent from taking a sandbox; control's `/readyz` says it.
    problem: watch::Sender<Option<String>>,
}

impl Halves {
    pub fn new() -> Self {
        let problem = Some("this machine's host is starting".to_owned());
        Self { control: None, agent: None, problem: watch::Sender::new(problem) }
    }

    /// Starts control. `prepare` is what must be done with it before it is left to itself.
    pub async fn start_control<T>(
        &mut self,
        mut config: ControlConfig,
        prepare: impl AsyncFnOnce(&Control) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        config.local_problem = Some(self.problem.subscribe());
        let shutdown = CancellationToken::new();
        let control = Control::start(config, shutdown.clone()).await.context("starting the control plane")?;
        let prepared = prepare(&control).await;
        self.control = Some(Half { task: tokio::spawn(control.wait()), shutdown });
        prepared
    }

    /// Starts the agent, in place of the one that runs, if one does.
    pub async fn start_agent(&mut self, config: HostConfig) -> anyhow::Result<()> {
        if let Some(former) = self.agent.take() {
            former.end("this machine's host agent", AGENT_ENDS_WITHIN).await;
        }
        let shutdown = CancellationToken::new();
        let handle = atoll_host::start(config, shutdown.clone()).await.context("starting this machine's host agent")?;
        tokio::spawn(tell(handle.watch(), self.problem.clone()));
        self.agent = Some(Half { task: tokio::spawn(handle.wait()), shutdown });
        Ok(())
    }

    /// What keeps the agent from taking a sandbox.
    pub fn problem(&self) -> watch::Receiver<Option<String>> {
        self.problem.subscribe()
    }

    /// Answers when one of them has ended by itself, with why. That the host was deleted by an admin is no failure:
    /// control goes on for the other hosts.
    pub async fn failure(&mut self) -> anyhow::Error {
        if let Some(agent) = &mut self.agent {
            tokio::select! {
                ended = &mut agent.task => {
                    self.agent = None;
                    match ended {
                        Ok(Ok(())) => tracing::warn!("this machine's host was deleted; the control plane goes on"),
                        Ok(Err(error)) => return error.context("this machine's host agent failed"),
                        Err(panic) => return anyhow!(panic).context("this machine's host agent failed"),
                    }
                }
                error = ended(&mut self.control) => return error,
            }
        }
        ended(&mut self.control).await
    }

    pub fn has_agent(&self) -> bool {
        self.agent.is_some()
    }

    /// Ends what runs.
    pub async fn end(mut self) {
        if let Some(agent) = self.agent.take() {
            agent.end("this machine's host agent", AGENT_ENDS_WITHIN).await;
        }
        if let Some(control) = self.control.take() {
            control.end("the control plane", CONTROL_ENDS_WITHIN).await;
        }
    }
}

async fn ended(control: &mut Option<Half>) -> anyhow::Error {
    let Some(half) = control else { return std::future::pending().await };
    let result = (&mut half.task).await;
    *control = None;
    match result {
        Ok(Ok(())) => anyhow!("the control plane ended by itself"),
        Ok(Err(error)) => error.context("the control plane failed"),
        Err(panic) => anyhow!(panic).context("the control plane failed"),
    }
}

/// Passes on what the agent says of itself, as long as there is one.
async fn tell(mut status: watch::Receiver<Status>, problem: watch::Sender<Option<String>>) {
    loop {
        let now = {
            let status = status.borrow_and_update();
            let silent = || "this machine's host is starting".to_owned();
            (!status.ready).then(|| status.problem.clone().unwrap_or_else(silent))
        };
        problem.send_replace(now);
        if status.changed().await.is_err() {
            return;
        }
    }
}
