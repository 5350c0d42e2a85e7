//! The seam to the scheduler: who picks a host for a new sandbox.

use std::collections::BTreeSet;

use async_trait::async_trait;
use atoll_model::{HostId, TeamId};

use super::SandboxError;
use crate::fleet::{CandidateSource, Demand, PlaceError, Placement};

#[async_trait]
pub trait Placer: Send + Sync + 'static {
    /// Picks a host.
    async fn place(&self, demand: &Demand) -> Result<HostId, SandboxError>;
    /// The drivers that hosts of this team offer which are online.
    async fn offered(&self, team: &TeamId, team_is_byoc: bool) -> Result<BTreeSet<String>, SandboxError>;
    /// The driver that the host offers first.
    fn preferred_driver(&self, _host: &HostId) -> Option<String> {
        None
    }
    /// The hosts' rows have just said that this can be placed: what is remembered must not say that it can't.
    fn can_be_placed(&self, _demand: &Demand) {}
    /// A create failed there: pass it over for a moment.
    fn failed(&self, host: &HostId);
}

#[async_trait]
impl<S> Placer for Placement<S>
where
    S: CandidateSource,
    S::Error: std::error::Error + Send + Sync + 'static,
{
    async fn place(&self, demand: &Demand) -> Result<HostId, SandboxError> {
        Placement::place(self, demand).await.map_err(|error| match error {
            PlaceError::NoHost(none) => SandboxError::NoHost(none),
            PlaceError::Source(source) => SandboxError::ListHosts(Box::new(source)),
        })
    }

    async fn offered(&self, team: &TeamId, team_is_byoc: bool) -> Result<BTreeSet<String>, SandboxError> {
        Placement::offered(self, team, team_is_byoc).await.map_err(|error| match error {
            PlaceError::NoHost(none) => SandboxError::NoHost(none),
            PlaceError::Source(source) => SandboxError::ListHosts(Box::new(source)),
        })
    }

    fn preferred_driver(&self, host: &HostId) -> Option<String> {
        Placement::preferred_driver(self, host)
    }

    fn can_be_placed(&self, demand: &Demand) {
        Placement::can_be_placed(self, demand);
    }

    fn failed(&self, host: &HostId) {
        Placement::failed(self, host);
    }
}
