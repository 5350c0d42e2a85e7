//! Placement of new sandboxes: a scheduler, fed with a list of hosts that is at most a second old, and with what
//! this replica knows beyond it: what it has just placed, and which hosts have just failed a create.
//!
//! Nothing here is a promise: other replicas place at the same time, and the agent has the last word on its room.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use atoll_model::HostId;
use atoll_model::api::hosts::Capacity;

use super::scheduler::{Candidate, Demand, HostList, Limits, NoHost, Scheduler};
use crate::db::Millis;

/// How long a list of hosts is used.
const LIST_LIFETIME: Duration = Duration::from_secs(1);
/// How long a host that failed a create is passed over.
const REST: Duration = Duration::from_secs(10);

/// Lists the hosts and tells the time: `hosts` does it over the database.
#[async_trait]
pub trait CandidateSource: Send + Sync + 'static {
    type Error: Send;
    async fn candidates(&self) -> Result<Vec<Candidate>, Self::Error>;
    fn now(&self) -> Millis;
}

/// Why a sandbox was not placed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError<E> {
    #[error(transparent)]
    NoHost(#[from] NoHost),
    /// The hosts could not be listed.
    #[error("the hosts could not be listed")]
    Source(E),
}

pub struct Placement<S: CandidateSource> {
    source: S,
    scheduler: Arc<dyn Scheduler>,
    limits: Limits,
    /// Held while a list is loaded, so that one request loads it and the others wait.
    loading: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    list: Option<(Instant, HostList)>,
    /// Placed since the host's last heartbeat: its own word does not contain it yet.
    placed: HashMap<HostId, Vec<(Millis, Capacity)>>,
    resting: HashMap<HostId, Instant>,
}

impl<S: CandidateSource> Placement<S> {
    pub fn new(source: S, scheduler: Arc<dyn Scheduler>, limits: Limits) -> Self {
        Self { source, scheduler, limits, loading: tokio::sync::Mutex::new(()), state: Mutex::default() }
    }

    /// Picks a host and notes what it has been promised.
    ///
    /// # Errors
    /// [`PlaceError::NoHost`] when none is eligible, [`PlaceError::Source`] when they could not be listed.
    pub async fn place(&self, demand: &Demand) -> Result<HostId, PlaceError<S::Error>> {
        if let Some(result) = self.pick(demand) {
            return Ok(result?);
        }
        let _loading = self.loading.lock().await;
        if let Some(result) = self.pick(demand) {
            return Ok(result?);
        }
        let hosts = self.source.candidates().await.map_err(PlaceError::Source)?;
        self.adopt(hosts);
        // The list is fresh now, whatever the clock did meanwhile.
        self.pick_from(demand, |_| true).unwrap_or_else(|| Err(self.nobody(demand))).map_err(PlaceError::NoHost)
    }

    /// The create failed on this host: pass it over for a moment, and take back what it was promised.
    pub fn failed(&self, host: &HostId) {
        let mut state = self.state();
        state.resting.insert(host.clone(), Instant::now() + REST);
        state.placed.remove(host);
        if let Some((_, list)) = &mut state.list
            && let Some(host) = list.hosts.iter_mut().find(|candidate| &candidate.id == host)
        {
            host.resting = true;
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pick(&self, demand: &Demand) -> Option<Result<HostId, NoHost>> {
        self.pick_from(demand, |loaded| loaded.elapsed() < LIST_LIFETIME)
    }

    fn pick_from(&self, demand: &Demand, fresh: impl Fn(&Instant) -> bool) -> Option<Result<HostId, NoHost>> {
        let mut state = self.state();
        let (loaded, list) = state.list.as_mut()?;
        if !fresh(loaded) {
            return None;
        }
        list.as_of = self.source.now();
        let host = match self.scheduler.pick(demand, list) {
            Ok(host) => host,
            Err(none) => return Some(Err(none)),
        };
        let wanted = Capacity {
            cpu_millis: u64::from(demand.vcpus) * 1000,
            memory_mb: demand.memory_mb,
            disk_mb: demand.disk_mb,
        };
        if let Ok(index) = list.hosts.binary_search_by(|candidate| candidate.id.cmp(&host)) {
            add(&mut list.hosts[index].committed, &wanted);
        }
        let at = list.as_of;
        state.placed.entry(host.clone()).or_default().push((at, wanted));
        Some(Ok(host))
    }

    /// Takes a new list, and adds to it what only this replica knows.
    fn adopt(&self, mut hosts: Vec<Candidate>) {
        let now = Instant::now();
        let mut state = self.state();
        state.resting.retain(|_, until| *until > now);
        let mut placed = std::mem::take(&mut state.placed);
        placed.retain(|id, _| hosts.iter().any(|host| &host.id == id));
        for host in &mut hosts {
            host.resting = state.resting.contains_key(&host.id);
            if let Some(placed) = placed.get_mut(&host.id) {
                placed.retain(|(at, _)| host.last_heartbeat_at.is_none_or(|heartbeat| heartbeat < *at));
                for (_, wanted) in placed.iter() {
                    add(&mut host.committed, wanted);
                }
            }
        }
        placed.retain(|_, list| !list.is_empty());
        state.placed = placed;
        state.list = Some((now, HostList::new(hosts, self.source.now(), self.limits.clone())));
    }

    fn nobody(&self, demand: &Demand) -> NoHost {
        HostList::new(Vec::new(), self.source.now(), self.limits.clone()).explain(demand)
    }
}

fn add(sum: &mut Capacity, more: &Capacity) {
    sum.cpu_millis = sum.cpu_millis.saturating_add(more.cpu_millis);
    sum.memory_mb = sum.memory_mb.saturating_add(more.memory_mb);
    sum.disk_mb = sum.disk_mb.saturating_add(more.disk_mb);
}
