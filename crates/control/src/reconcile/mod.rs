//! What looks at hosts and sandboxes together: the monitor, the truth table, deleting a host, orphans, images that are
//! to be deleted everywhere.
//!
//! - `judge`: the truth table, plain code; `views`: the two sides that it compares, as traits
//! - `host_pass`: one host's active phase over them; `records` and `agents`: the database and the network
//! - `absence`: the passive phase; `monitor`: when what runs, and on which replica
//! - `host_deletion`, `image_deletion`: what must reach hosts that may be away
//!
//! Never here: what people ask of one sandbox (`sandboxes`), and how a host proves who it is (`hosts`).

mod absence;
mod agents;
mod host_deletion;
mod host_pass;
mod image_deletion;
mod judge;
mod monitor;
mod records;
#[cfg(feature = "simulation")]
mod scale;
mod views;

#[cfg(test)]
mod tests;

/// What a simulation puts its own two sides under.
#[cfg(feature = "simulation")]
pub mod simulation {
    pub use super::host_pass::{HostPass, Outcome};
    pub use super::judge::{Row, Seen, State};
    pub use super::scale::Scale;
    pub use super::views::{Agents, Inventory, Records, RowChange};
}

use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;

pub use host_deletion::{HostDeletion, Requester};
pub use image_deletion::ImageDeletion;
pub use monitor::Monitor;

use crate::clock::Clock;
use crate::db::Db;
use crate::fleet::Fleet;
use crate::hosts::Hosts;
use crate::secrets::Secrets;

/// Runs all of them, at most `limit` at a time; their results in no particular order.
async fn bounded<T>(limit: usize, work: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    futures::stream::iter(work).buffer_unordered(limit).collect().await
}

/// Everything of this floor, over the database and the fleet.
#[derive(Clone)]
pub struct Reconcile {
    pub monitor: Monitor,
    pub deletion: HostDeletion,
    pub images: ImageDeletion,
}

/// What the reconciler looks at.
struct Sides {
    records: Arc<dyn views::Records>,
    agents: Arc<dyn views::Agents>,
}

#[cfg(feature = "simulation")]
impl Sides {
    /// The database, and hosts that are reached some way.
    fn new(db: &Db, clock: &Clock, agents: Arc<dyn views::Agents>) -> Self {
        Self { records: Arc::new(records::SqlRecords::new(db.clone(), clock.clone())), agents }
    }
}

impl Reconcile {
    /// `resume_on_reconnect`: sandboxes that their host paused for loss of contact are resumed when it is back.
    #[must_use]
    pub fn new(
        db: &Db,
        clock: &Clock,
        hosts: &Hosts,
        fleet: &Fleet,
        secrets: &Secrets,
        resume_on_reconnect: bool,
    ) -> Self {
        let records = records::SqlRecords::new(db.clone(), clock.clone()).with_secrets(secrets.clone());
        let sides =
            Sides { records: Arc::new(records), agents: Arc::new(agents::FleetAgents::new(fleet.clone(), db.clone())) };
        Self::over(sides, db, clock, hosts, fleet, resume_on_reconnect)
    }

    fn over(
        Sides { records, agents }: Sides,
        db: &Db,
        clock: &Clock,
        hosts: &Hosts,
        fleet: &Fleet,
        resume_on_reconnect: bool,
    ) -> Self {
        let deletion = HostDeletion {
            db: db.clone(),
            clock: clock.clone(),
            fleet: fleet.clone(),
            directory: hosts.directory(),
            records: Arc::clone(&records),
            agents: Arc::clone(&agents),
        };
        let images = ImageDeletion {
            db: db.clone(),
            #[cfg(test)]
            clock: clock.clone(),
            agents: Arc::clone(&agents),
        };
        let times = hosts.times().clone();
        let mut pass =
            host_pass::HostPass::new(records, agents, clock.clone(), times.transition_limit, resume_on_reconnect);
        // SQLite is one server's own; on PostgreSQL another may be finishing what it began.
        pass.alone_since = matches!(db, Db::Sqlite { .. }).then(|| clock.now());
        let monitor = Monitor::new(db.clone(), clock.clone(), times, pass, deletion.clone());
        Self { monitor, deletion, images }
    }
}
