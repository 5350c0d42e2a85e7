//! What a power cut must not take, written out behind the answers and for many at once.
//!
//! A sandbox that has just been made needs its record, its secrets and its disk to be found and started again; one that
//! stands still, all that it has written before. Nobody waits for this: it comes about a second after the answer, so that what
//! happens in a burst costs one commit of the disk and not one each. What is lost by a cut before that is what a machine
//! without power loses: the last second.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_model::SandboxId;
use tokio::sync::Notify;

use super::Shared;

/// Between the first thing to write out and doing so.
const GATHER: Duration = Duration::from_secs(1);

/// What is still to be written out.
#[derive(Debug, Default)]
pub(super) struct Durable {
    /// Whether its files are to be written out too.
    due: Mutex<BTreeMap<SandboxId, bool>>,
    wake: Notify,
}

impl Durable {
    /// Its record and secrets are new.
    pub fn note_record(&self, id: &SandboxId) {
        self.note(id, false);
    }

    /// It stands still.
    pub fn note_files(&self, id: &SandboxId) {
        self.note(id, true);
    }

    fn note(&self, id: &SandboxId, files: bool) {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner).entry(id.clone()).or_default() |= files;
        self.wake.notify_one();
    }

    fn take(&self) -> BTreeMap<SandboxId, bool> {
        mem::take(&mut *self.due.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes out what is due until the agent ends; then [`write_out`] is for what is left.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let gathered = async {
            shared.durable.wake.notified().await;
            tokio::time::sleep(GATHER).await;
        };
        if shared.stop.run_until_cancelled(gathered).await.is_none() {
            return;
        }
        write_out(&shared).await;
    }
}

pub(super) async fn write_out(shared: &Arc<Shared>) {
    let due = shared.durable.take();
    let files = due.values().any(|files| *files);
    // Before the records: whoever has one that says that it lives has a disk.
    let written = match (due.is_empty(), files) {
        (true, _) => Ok(()),
        (false, true) => shared.machine.write_out().await,
        (false, false) => shared.machine.commit().await,
    };
    if let Err(error) = written {
        tracing::error!(%error, "disks of sandboxes can't be written out: a power cut might take the last of them");
    }
    let (records, sandboxes) = (shared.records.clone(), due.len());
    let writing = tokio::task::spawn_blocking(move || {
        for id in due.into_keys() {
            if let Err(error) = records.write_out(&id) {
                tracing::error!(sandbox = %id, %error, "a record can't be written out: a power cut might take it");
            }
        }
    });
    let _a_lost_task_has_said_why = writing.await;
    tracing::debug!(sandboxes, files, "written out");
}
