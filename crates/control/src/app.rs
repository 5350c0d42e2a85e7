//! What every handler and job has at hand: the services, wired together once at start.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_model::ApiKeyId;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounts::Accounts;
use crate::api_keys::{self, LiveKey};
use crate::builds::Builds;
use crate::clock::Clock;
use crate::config::ControlConfig;
use crate::db::{Db, Millis};
use crate::events::Feed;
use crate::fleet::Tunnels;
use crate::hosts::Hosts;
use crate::http::metrics::HttpMetrics;
use crate::http::places::Places;
use crate::http::{Listeners, Lookup};
use crate::identities::Identities;
use crate::layers::Layers;
use crate::reconcile::Reconcile;
use crate::registry::Registry;
use crate::sandboxes::Sandboxes;
use crate::secrets::Secrets;
use crate::snapshots::Snapshots;
use crate::volumes::Volumes;
use crate::webhooks::Worker;

/// How often the use of an API key is noted.
const NOTE_KEY_USE: Duration = Duration::from_secs(60);

/// The application's state. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

pub struct Parts {
    pub config: ControlConfig,
    pub clock: Clock,
    pub db: Db,
    pub accounts: Accounts,
    pub hosts: Hosts,
    pub identities: Identities,
    pub sandboxes: Sandboxes,
    pub layers: Layers,
    pub secrets: Secrets,
    pub volumes: Volumes,
    pub snapshots: Snapshots,
    pub builds: Builds,
    /// Images that teams push.
    pub registry: Registry,
    pub reconcile: Reconcile,
    /// The live end of the outbox.
    pub feed: Feed,
    /// Who listens to it.
    pub listeners: Listeners,
    /// Connections that hosts behind NAT keep open to this replica.
    pub tunnels: Tunnels,
    pub webhooks: Worker,
    /// A name of this replica, for leases.
    pub replica: String,
    /// Who signed addresses of files are for.
    pub signed: Lookup,
    /// Work that is finished before control ends.
    pub tasks: TaskTracker,
    pub shutdown: CancellationToken,
    /// Requests under way.
    pub requests: Arc<Semaphore>,
    /// Those of hosts, which nothing else can crowd out.
    pub host_requests: Arc<Semaphore>,
    /// What one team may have under way.
    pub places: Places,
    pub metrics: HttpMetrics,
    /// Of the export of metrics.
    pub otlp: crate::otlp::Counters,
    /// When the use of each key was last noted.
    pub key_uses: Mutex<HashMap<ApiKeyId, Millis>>,
}

impl App {
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Notes that a key was used: once a minute at most, and nobody waits for it.
    pub fn note_key_use(&self, key: &LiveKey) {
        let now = self.clock.now();
        let recent = |at: Millis| at > now - NOTE_KEY_USE;
        if key.last_used_at.is_some_and(recent) {
            return;
        }
        {
            let mut uses = self.key_uses.lock().unwrap_or_else(PoisonError::into_inner);
            if uses.get(&key.id.0).copied().is_some_and(recent) {
                return;
            }
            uses.retain(|_, at| recent(*at));
            uses.insert(key.id.0.clone(), now);
        }
        let (db, id) = (self.db.clone(), key.id.0.clone());
        self.tasks.spawn(async move {
            if let Err(error) = api_keys::mark_used(&db, &id, now).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "could not note the use of an API key");
            }
        });
    }
}

impl Deref for App {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}
