//! What the agent does to all sandboxes at once: pausing, destroying, and coming to rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;

use super::durable;
use super::entry::{Entry, Order};
use super::error::OrderError;
use super::record::State;
use super::{Keeper, Kept};

/// The reason of sandboxes that were paused because the host lost control, or control's trust.
pub const HOST_DISCONNECTED: &str = "host_disconnected";

impl Keeper {
    /// Pauses every sandbox that runs or is about to, several at a time, within a deadline. The failure of one never stops
    /// the rest, and nothing that is paused here ends as stopped. How many were paused, and how many run or start still.
    pub async fn pause_all(&self, reason: &str) -> (usize, usize) {
        let mut awake: Vec<_> = self.shared.entries().into_iter().filter(|entry| is_awake(entry)).collect();
        // Those that start are paused when they have: their owners come to the order then. They don't hold up the others.
        awake.sort_by_key(|entry| entry.view.load().state == State::Starting);
        let pauses = awake.into_iter().map(|entry| async move {
            let reason = reason.to_owned();
            let paused = entry.order(|reply| Order::Pause { seen: None, reason, keep: Kept::Memory, reply }).await;
            if let Err(error) = &paused
                && !matches!(error, OrderError::Destroyed)
            {
                tracing::error!(sandbox = %entry.id, %error, "a sandbox could not be paused");
            }
            paused.is_ok()
        });
        let paused = AtomicUsize::new(0);
        let work = stream::iter(pauses).buffer_unordered(self.shared.limits.parallel_sweep).for_each(|ok| {
            paused.fetch_add(usize::from(ok), Ordering::Relaxed);
            std::future::ready(())
        });
        if tokio::time::timeout(self.shared.limits.pause_all, work).await.is_err() {
            tracing::error!("pausing all sandboxes took too long; those that are left run on");
        }
        (paused.into_inner(), self.shared.entries().iter().filter(|entry| is_awake(entry)).count())
    }

    /// Destroys every sandbox: the host was deleted. Answers when nothing of any is left, or the deadline is over.
    pub async fn destroy_all(&self, deadline: Duration) -> bool {
        self.gate.closing.store(true, Ordering::Release);
        self.shared.close_spares().await;
        let destroys = self.shared.entries().into_iter().map(|entry| async move {
            entry.give_up.cancel();
            if let Err(error) = destroy(&entry).await {
                tracing::error!(sandbox = %entry.id, %error, "a sandbox could not be destroyed");
            }
        });
        let work = async {
            stream::iter(destroys).buffer_unordered(self.shared.limits.parallel_sweep).collect::<()>().await;
            let mut changes = self.changes();
            while !self.shared.entries().is_empty() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(deadline, work).await.is_ok()
    }

    /// Takes no new work from now on, and lets what is under way come to its end: creates that have begun, and the
    /// taking down of what was destroyed. Sandboxes live on. Whether any are left.
    pub async fn close(&self, patience: Duration) -> bool {
        self.gate.closing.store(true, Ordering::Release);
        self.shared.close_spares().await;
        let settled = async {
            let mut changes = self.changes();
            while self.shared.entries().iter().any(|entry| is_moving(entry)) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(patience, settled).await.is_err() {
            tracing::warn!("something was still under way at shutdown; the next agent will finish it");
        }
        self.shared.stop.cancel();
        durable::write_out(&self.shared).await;
        !self.shared.entries().is_empty() || self.shared.spares.resist()
    }
}

fn is_awake(entry: &Entry) -> bool {
    let view = entry.view.load();
    view.is_listed() && matches!(view.state, State::Running | State::Starting)
}

fn is_moving(entry: &Entry) -> bool {
    let view = entry.view.load();
    view.state == State::Starting || !view.is_listed()
}

async fn destroy(entry: &Arc<Entry>) -> Result<(), OrderError> {
    match entry.order(|reply| Order::Destroy { seen: None, reply }).await {
        Ok(_) | Err(OrderError::Destroyed) => Ok(()),
        Err(error) => Err(error),
    }
}
