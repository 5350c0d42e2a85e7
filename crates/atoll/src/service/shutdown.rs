//! How a service ends: the first SIGTERM or SIGINT asks, the second insists.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first signal cancels. A second signal ends the process at once.
pub fn on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("catching SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("catching SIGINT")?;
    // A terminal that closes is no reason to end, nor is it one to die without a word.
    let mut hangup = signal(SignalKind::hangup()).context("catching SIGHUP")?;
    let token = CancellationToken::new();
    let asked = token.clone();
    tokio::spawn(async move {
        loop {
            let code = tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
                _ = hangup.recv() => continue,
            };
            if asked.is_cancelled() {
                tracing::warn!("told to end a second time: ending at once");
                std::process::exit(code);
            }
            tracing::info!("told to end");
            asked.cancel();
        }
    });
    Ok(token)
}
