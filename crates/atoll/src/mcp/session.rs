//! One agent's session: the sandboxes that it made end with it, unless they were asked to stay.
//!
//! Its end is noticed by the last clone being dropped, however that comes about: the agent goes, its connection idles,
//! the process is told to end. A create is a task of its own with a clone, so that what has been asked for is known to
//! somebody when it comes to be.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use atoll_client::model::SandboxId;
use atoll_client::model::api::sandboxes::{CreateSandboxRequest, Sandbox};
use atoll_client::{Client, Error};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::gate::Seat;

/// Calls of one session that may be under way at once.
pub const MAX_CALLS: usize = 32;

/// What holds for every session of one server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The template of sandboxes whose template isn't named.
    pub template: String,
    /// Sandboxes stay when their session ends.
    pub keep: bool,
}

/// Cheap to clone; the last clone that goes ends what is left.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    settings: Settings,
    /// With the client of whoever made them.
    made: Mutex<HashMap<SandboxId, Client>>,
    calls: Semaphore,
    /// Its place among the sessions of its caller's, over HTTP.
    seat: OnceLock<Seat>,
    /// Where the end goes on when the session itself is gone; the token says that it is not over yet.
    endings: TaskTracker,
    _open: TaskTrackerToken,
}

impl Session {
    pub fn new(settings: Settings, endings: TaskTracker) -> Self {
        let open = endings.token();
        Self(Arc::new(Inner {
            settings,
            made: Mutex::default(),
            calls: Semaphore::new(MAX_CALLS),
            seat: OnceLock::new(),
            endings,
            _open: open,
        }))
    }

    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Room for one more call, if there is any.
    pub fn call(&self) -> Option<SemaphorePermit<'_>> {
        self.0.calls.try_acquire().ok()
    }

    /// Takes the place that the session has from now on.
    pub fn seated(&self, seat: Seat) {
        let _ = self.0.seat.set(seat);
    }

    pub fn has_seat(&self) -> bool {
        self.0.seat.get().is_some()
    }

    /// Makes a sandbox, which ends with this session unless it is to be kept.
    pub async fn create(&self, client: Client, request: CreateSandboxRequest, keep: bool) -> Result<Sandbox, Error> {
        let session = self.clone();
        let creating = tokio::spawn(async move {
            let sandbox = client.create_sandbox(&request).await?;
            if !keep {
                session.made().insert(sandbox.id.clone(), client);
            }
            Ok(sandbox)
        });
        creating.await.unwrap_or_else(|broken| {
            Err(Error::Io { what: "creating a sandbox".to_owned(), source: std::io::Error::other(broken) })
        })
    }

    /// Whether the sandbox is one that ends with this session.
    pub fn owns(&self, id: &SandboxId) -> bool {
        self.made().contains_key(id)
    }

    pub fn forget(&self, id: &SandboxId) {
        self.made().remove(id);
    }

    fn made(&self) -> std::sync::MutexGuard<'_, HashMap<SandboxId, Client>> {
        self.0.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let left = std::mem::take(self.made.get_mut().unwrap_or_else(PoisonError::into_inner));
        if !left.is_empty() {
            self.endings.spawn(destroy(left));
        }
    }
}

async fn destroy(sandboxes: HashMap<SandboxId, Client>) {
    let ends = sandboxes.into_iter().map(|(id, client)| async move {
        match client.destroy_sandbox(&id).await {
            Err(error) if !error.is_not_found() => {
                eprintln!("atoll: {id} could not be destroyed ({error}); it ends when it has been idle for a while");
            }
            _ => {}
        }
    });
    futures::future::join_all(ends).await;
}
