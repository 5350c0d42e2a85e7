//! Writing heartbeats: whatever has come in while one batch was being written is the next batch. So a lone heartbeat is
//! written at once, and thousands a second cost a few dozen transactions.
//!
//! - `quiet`: those that say nothing new, nearly all of them, in one statement
//! - `full`: the others, in one transaction: first uses of credentials, changes of status, everything that seldom changes
//!
//! Every heartbeat is answered after its batch is committed: what control has acknowledged it knows.

mod full;
mod quiet;

use std::sync::Arc;

use atoll_model::HostId;
use atoll_model::api::hosts::HeartbeatRequest;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::directory::Directory;
use super::{HostChange, HostError};
use crate::clock::Clock;
use crate::db::{Db, DbError};
use full::News;

/// Heartbeats that may wait for their turn; more are told to come back.
const QUEUE: usize = 20_000;
const BATCH: usize = 512;

/// A heartbeat whose token has been verified.
pub struct Beat {
    pub host: HostId,
    pub family: String,
    pub token_id: String,
    pub body: HeartbeatRequest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeatOutcome {
    Written,
    /// The token's family is not the one in force.
    Unauthorized,
    /// There is no such host (any more).
    Gone,
}

type Waiting = (Beat, oneshot::Sender<Result<BeatOutcome, HostError>>);

/// The queue of heartbeats. Cheap to clone.
#[derive(Clone)]
pub struct Beats {
    queue: mpsc::Sender<Waiting>,
}

impl Beats {
    pub fn start(db: Db, clock: Clock, directory: Arc<Directory>, changes: broadcast::Sender<HostChange>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(run(db, clock, directory, changes, waiting));
        Self { queue }
    }

    pub async fn write(&self, beat: Beat) -> Result<BeatOutcome, HostError> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send((beat, answer)).map_err(|_| HostError::Overloaded)?;
        answered.await.map_err(|_| HostError::Overloaded)?
    }
}

async fn run(
    db: Db,
    clock: Clock,
    directory: Arc<Directory>,
    changes: broadcast::Sender<HostChange>,
    mut waiting: mpsc::Receiver<Waiting>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let (beats, answers): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        match write(&db, &clock, &beats).await {
            Ok((outcomes, news)) => {
                for host in news.moved {
                    directory.forget(&host);
                }
                for change in news.changes {
                    let (HostChange::Returned(host) | HostChange::WentOffline(host)) = &change;
                    directory.forget(host);
                    let _ = changes.send(change);
                }
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    let _ = answer.send(Ok(outcome));
                }
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, heartbeats = beats.len(), "heartbeats lost");
                let overload = error.is_overload();
                for answer in answers {
                    let error =
                        DbError::Statement { operation: "write a heartbeat", source: sqlx::Error::WorkerCrashed };
                    let _ = answer.send(Err(if overload { HostError::Overloaded } else { HostError::Db(error) }));
                }
            }
        }
    }
}

async fn write(db: &Db, clock: &Clock, beats: &[Beat]) -> Result<(Vec<BeatOutcome>, News), DbError> {
    let now = clock.now();
    let quiet = match quiet::write(db, beats, now).await {
        // Another replica wrote some of the same hosts in another order: the long way has one order for all.
        Err(error) if error.is_deadlock() => Default::default(),
        written => written?,
    };
    let mut outcomes = vec![BeatOutcome::Written; beats.len()];
    let places: Vec<usize> = (0..beats.len()).filter(|place| !quiet.contains(place)).collect();
    if places.is_empty() {
        return Ok((outcomes, News::default()));
    }
    let rest: Vec<&Beat> = places.iter().map(|place| &beats[*place]).collect();
    let (found, news) = full::write(db, &rest, now).await?;
    for (place, outcome) in places.into_iter().zip(found) {
        outcomes[place] = outcome;
    }
    Ok((outcomes, news))
}
