//! The sandboxes that one agent made: they end with its session, unless they were asked to stay.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use atoll_client::Client;
use atoll_client::model::SandboxId;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

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
    /// Where the end goes on when the session itself is gone; the token says that it is not over yet.
    endings: Option<(TaskTracker, TaskTrackerToken)>,
}

impl Session {
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Inner { settings, made: Mutex::default(), endings: None }))
    }

    /// The same for one of many, whose end is noticed by its being dropped.
    pub fn one_of_many(settings: Settings, endings: TaskTracker) -> Self {
        let token = endings.token();
        Self(Arc::new(Inner { settings, made: Mutex::default(), endings: Some((endings, token)) }))
    }

    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// A sandbox that shall end with this session.
    pub fn adopt(&self, id: SandboxId, client: Client) {
        self.0.made.lock().unwrap_or_else(PoisonError::into_inner).insert(id, client);
    }

    pub fn forget(&self, id: &SandboxId) {
        self.0.made.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Destroys what the session made.
    pub async fn end(&self) {
        destroy(self.0.take()).await;
    }
}

impl Inner {
    fn take(&self) -> HashMap<SandboxId, Client> {
        std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let left = self.take();
        if let Some((endings, _)) = self.endings.as_ref().filter(|_| !left.is_empty()) {
            endings.spawn(destroy(left));
        }
    }
}

async fn destroy(sandboxes: HashMap<SandboxId, Client>) {
    let ends = sandboxes.into_iter().map(|(id, client)| async move {
        if let Err(error) = client.destroy_sandbox(&id).await {
            eprintln!("atoll: {id} could not be destroyed ({error}); it ends when it has been idle for a while");
        }
    });
    futures::future::join_all(ends).await;
}
