//! The control plane: REST API, accounts, teams, sandboxes, hosts.
//!
//! Floors, every use points down: `http` (routes, who asks, the error shape), `reconcile` (hosts and sandboxes looked
//! at together), `sandboxes` and `templates` with `secrets` and `volumes`, `fleet` (reaching hosts) with `accounts`, `teams` and `api_keys`,
//! `hosts` (enrolment, heartbeat) with `pki` and `identities`, `audit` and `events`, and `db` at the bottom. It keeps no state in
//! memory that it can't lose, and any number of it can run side by side on PostgreSQL.
#![forbid(unsafe_code)]

/// A place where fault tests have the whole server die (`return`). Nothing in a release. With a second argument,
/// `return(abort)` does that, and any other `return` has the step answer it.
macro_rules! failpoint {
    ($name:literal) => {
        fail::fail_point!($name, |_: Option<String>| std::process::abort())
    };
    ($name:literal, $answer:expr) => {
        fail::fail_point!($name, |argument: Option<String>| {
            if argument.as_deref() == Some("abort") {
                std::process::abort();
            }
            $answer
        })
    };
}
pub(crate) use failpoint;

pub mod config;
pub mod templates;

mod accounts;
mod admin;
mod api_keys;
mod app;
mod audit;
mod builds;
mod clock;
mod db;
mod events;
mod fleet;
mod hosts;
mod http;
mod identities;
mod jobs;
mod layers;
mod live;
mod mail;
mod objects;
mod oci;
mod otlp;
mod outbound;
mod pki;
mod quotas;
mod reconcile;
mod registry;
mod sandboxes;
mod secrets;
mod shares;
mod sign_in;
mod signing;
mod snapshots;
mod start;
mod teams;
#[cfg(test)]
mod testing;
mod usage;
mod volumes;
mod webhooks;

/// The reconciler with its two sides and its clock, for the simulation of a cluster; the schedulers, for measuring.
#[cfg(feature = "simulation")]
pub mod simulation {
    pub use crate::clock::Clock;
    pub use crate::db::{DbError, Millis};
    pub use crate::fleet::{Candidate, Demand, FleetError, HostList, LeastLoaded, Limits, RoundRobin, Scheduler};
    pub use crate::reconcile::simulation::*;
}

pub use accounts::{FirstAdmin, SetupError, Unkept};
pub use config::ControlConfig;
pub use start::{Control, rotate_keys};
