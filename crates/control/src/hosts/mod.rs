//! Hosts: their rows, their credentials, and what they say of themselves.
//!
//! - `enrolment`: a host's row, its one-time registration token, its registration
//! - `rotation` and `refresh_tokens`: how credentials are renewed; `credentials`: the access JWT
//! - `tombstone`: what a deleted host is told
//! - `heartbeat` and `beats`: what hosts report, and how it is written for thousands of them
//! - `tunnels`: which replica holds the connection of a host that can't be reached from outside
//! - `directory` and `candidates`: what the fleet asks about them; `purge`: what is removed with time
//!
//! Never here: sandboxes (whether a silent host's sandboxes are missing is decided in `reconcile`), and who among
//! people may do what (`http`).

mod address;
mod beats;
mod candidates;
mod credentials;
mod directory;
mod error;
mod heartbeat;
pub mod holdings;
mod names;
pub mod purge;
mod refresh_tokens;
mod rotation;
mod secret;
pub mod store;
pub mod tombstone;
mod tunnels;

mod enrolment;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

use atoll_model::HostId;
use tokio::sync::broadcast;

pub use address::{Loopback, objection};
pub use candidates::HostCandidates;
pub use directory::Directory;
pub use error::HostError;
pub use names::made_up_name;
pub use store::{HostRow, NewHost};

use crate::clock::Clock;
use crate::config::HostTimes;
use crate::db::Db;
use crate::pki::Authority;
use credentials::HostTokens;

/// Something that the monitor wants to know at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostChange {
    /// It is online again (or for the first time), its machine has rebooted, or its agent has found all its sandboxes.
    Returned(HostId),
    /// It has said that it is shutting down.
    WentOffline(HostId),
}

/// The service of hosts. Cheap to clone.
#[derive(Clone)]
pub struct Hosts {
    db: Db,
    clock: Clock,
    times: Arc<HostTimes>,
    authority: Authority,
    tokens: Arc<HostTokens>,
    loopback: Loopback,
    directory: Arc<Directory>,
    beats: beats::Beats,
    changes: broadcast::Sender<HostChange>,
}

impl Hosts {
    /// `loopback` says whether hosts may be on this machine's loopback: when control listens there itself. Spawns the
    /// task that writes heartbeats, which ends with the last clone.
    ///
    /// # Errors
    /// When the signing key of host tokens can't be had.
    pub async fn open(
        db: Db,
        clock: Clock,
        times: HostTimes,
        authority: Authority,
        loopback: Loopback,
    ) -> Result<Self, HostError> {
        let tokens = Arc::new(HostTokens::load(&db, clock.now()).await?);
        let directory = Arc::new(Directory::new(db.clone()));
        let (changes, _) = broadcast::channel(4096);
        let beats = beats::Beats::start(db.clone(), clock.clone(), Arc::clone(&directory), changes.clone());
        Ok(Self { db, clock, times: Arc::new(times), authority, tokens, loopback, directory, beats, changes })
    }

    /// Where hosts are, for the fleet.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory)
    }

    /// Which hosts there are, for the scheduler.
    #[must_use]
    pub fn candidates(&self) -> HostCandidates {
        HostCandidates::new(self.db.clone(), self.clock.clone())
    }

    /// Tells of hosts that come and go, as seen by this replica.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<HostChange> {
        self.changes.subscribe()
    }

    #[must_use]
    pub fn times(&self) -> &HostTimes {
        &self.times
    }

    /// Looks for signing keys that others have made.
    pub async fn refresh_keys(&self) -> Result<(), HostError> {
        Ok(self.tokens.refresh(self.clock.now()).await?)
    }

    fn announce(&self, change: HostChange) {
        // Nobody listens while the monitor isn't running: it will look for itself.
        let _ = self.changes.send(change);
    }

    /// A certificate outlives the access token that was issued with it, so that a host that can still heartbeat can
    /// still be called.
    fn certificate_lifetime(&self) -> Duration {
        self.times.certificate_ttl.max(self.times.access_token_ttl) + Duration::from_secs(3600)
    }
}
