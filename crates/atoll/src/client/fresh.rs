//! A sandbox that lives as long as the command: created for it, kept awake while it runs, destroyed at its end.
//!
//! When the command is killed, nobody keeps the sandbox awake any more, and its idle timeout destroys it.

use std::time::Duration;

use atoll_client::Client;
use atoll_client::model::api::sandboxes::{CreateSandboxRequest, Sandbox, TimeoutRequest};
use atoll_client::model::{OnTimeout, SandboxId};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::signals::Signals;

/// How long the sandbox outlives a command that was killed.
const IDLE_SECONDS: u64 = 15;
const PING_EVERY: Duration = Duration::from_secs(4);
const DESTROY_DEADLINE: Duration = Duration::from_secs(20);

/// What became of the wish for a sandbox.
pub enum Created {
    Ready(Box<FreshSandbox>),
    /// A signal came first; nothing of it is left. The exit code that goes with it.
    Interrupted(u8),
}

pub struct FreshSandbox {
    client: Client,
    id: SandboxId,
    awake: AbortHandle,
}

impl Drop for FreshSandbox {
    fn drop(&mut self) {
        self.awake.abort();
    }
}

impl FreshSandbox {
    pub async fn create(
        client: &Client,
        request: CreateSandboxRequest,
        signals: &mut Signals,
    ) -> anyhow::Result<Created> {
        let request =
            CreateSandboxRequest { timeout_sec: Some(IDLE_SECONDS), on_timeout: Some(OnTimeout::Kill), ..request };
        let mut creating = std::pin::pin!(client.create_sandbox(&request));
        let (created, interrupted): (Result<Sandbox, _>, _) = tokio::select! {
            biased;
            created = &mut creating => (created, None),
            // What has been asked for will come to be: it is awaited, so that it can be destroyed.
            caught = signals.end() => match timeout(DESTROY_DEADLINE, creating).await {
                Ok(created) => (created, Some(128 + caught.number())),
                Err(_) => return Ok(Created::Interrupted(128 + caught.number())),
            },
        };
        let id = match (created, interrupted) {
            (Ok(sandbox), _) => sandbox.id,
            (Err(_), Some(code)) => return Ok(Created::Interrupted(code)),
            (Err(error), None) => return Err(error.into()),
        };
        let awake = tokio::spawn(keep_awake(client.clone(), id.clone())).abort_handle();
        let sandbox = Self { client: client.clone(), id, awake };
        match interrupted {
            Some(code) => {
                sandbox.destroy().await;
                Ok(Created::Interrupted(code))
            }
            None => Ok(Created::Ready(Box::new(sandbox))),
        }
    }

    pub fn id(&self) -> &SandboxId {
        &self.id
    }

    /// A failure is said but is not the command's: the idle timeout does the rest.
    pub async fn destroy(self) {
        self.awake.abort();
        match timeout(DESTROY_DEADLINE, self.client.destroy_sandbox(&self.id)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.is_not_found() => {}
            Ok(Err(error)) => eprintln!(
                "atoll: destroying {} failed ({error}); it ends by itself when it has been idle for {IDLE_SECONDS} s",
                self.id
            ),
            Err(_) => eprintln!(
                "atoll: destroying {} takes long; it ends by itself when it has been idle for {IDLE_SECONDS} s",
                self.id
            ),
        }
    }

    /// Lets it live on, without a timeout.
    pub async fn keep(self) -> anyhow::Result<SandboxId> {
        self.awake.abort();
        let never = TimeoutRequest { timeout_sec: 0, on_timeout: Some(OnTimeout::Pause) };
        self.client.set_timeout(&self.id, &never).await?;
        Ok(self.id.clone())
    }
}

async fn keep_awake(client: Client, id: SandboxId) {
    let mut ticks = interval(PING_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        // The next one may pass; that the sandbox is gone is noticed where it is used.
        let _ = timeout(PING_EVERY, client.ping_sandbox(&id)).await;
    }
}
