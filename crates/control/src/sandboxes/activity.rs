//! The idle clock: which sandboxes were used lately, and which are being used right now.
//!
//! Uses are noted in memory and written together, once a second at most, so that a busy sandbox costs one write a
//! second and no request waits for it. What a crash loses is a second of idle time. A stream that is open (exec,
//! terminal, watch, file) keeps its sandbox active for as long as it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_model::SandboxId;

use super::store;
use crate::clock::Clock;
use crate::db::{Db, DbError, Millis};

pub struct Activity {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Used, and not yet written.
    touched: HashMap<SandboxId, Millis>,
    /// Streams that are open, per sandbox.
    open: HashMap<SandboxId, usize>,
}

impl Activity {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sandbox was used now.
    pub fn touch(&self, id: &SandboxId) {
        let now = self.clock.now();
        self.state().touched.insert(id.clone(), now);
    }

    /// The sandbox is being used until the guard is dropped.
    #[must_use]
    pub fn open(self: &Arc<Self>, id: &SandboxId) -> OpenGuard {
        let now = self.clock.now();
        let mut state = self.state();
        *state.open.entry(id.clone()).or_default() += 1;
        state.touched.insert(id.clone(), now);
        drop(state);
        OpenGuard { activity: Arc::clone(self), id: id.clone() }
    }

    /// Whether it is in use, or was used since the last write.
    pub fn is_active(&self, id: &SandboxId) -> bool {
        let state = self.state();
        state.open.contains_key(id) || state.touched.contains_key(id)
    }

    /// How many streams are open, over all sandboxes.
    pub fn open_streams(&self) -> usize {
        self.state().open.values().sum()
    }

    /// Writes what was used since the last time.
    pub(super) async fn flush(&self, db: &Db) -> Result<(), DbError> {
        let now = self.clock.now();
        let touched: Vec<_> = {
            let mut state = self.state();
            let mut touched = std::mem::take(&mut state.touched);
            touched.extend(state.open.keys().map(|id| (id.clone(), now)));
            touched.into_iter().collect()
        };
        if touched.is_empty() { Ok(()) } else { store::touch(db, &touched).await }
    }
}

/// Keeps a sandbox active.
pub struct OpenGuard {
    activity: Arc<Activity>,
    id: SandboxId,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        let now = self.activity.clock.now();
        let mut state = self.activity.state();
        if let Some(count) = state.open.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                state.open.remove(&self.id);
            }
        }
        state.touched.insert(self.id.clone(), now);
    }
}
