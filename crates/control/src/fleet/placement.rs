//! Placement of new sandboxes: a scheduler, fed with a list of hosts that is at most a second old, and with what
//! this replica knows beyond it: what it has just placed, and which hosts have just failed a create.
//!
//! The list says what hosts have been promised by the sandboxes' rows, so what was placed is added to it only until its
//! row can be seen. When nobody is eligible by a list that is not quite fresh, a fresh one is asked before the answer is
//! no: sandboxes may have been destroyed since. A host that has just failed is taken all the same when there is no
//! other: one bad create must not close a small installation.
//!
//! Nothing here is a promise: other replicas place at the same time, and the agent has the last word on its room.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use atoll_model::api::hosts::Capacity;
use atoll_model::{HostId, HostStatus, TeamId};

use super::scheduler::{Candidate, Demand, HostList, Limits, NoHost, Scheduler};
use crate::db::Millis;

/// How long a list of hosts is used.
const LIST_LIFETIME: Duration = Duration::from_secs(1);
/// A "no" by a list older than this is asked again of a fresh one. Also how long what was placed is counted beside the
/// rows: the row is written right after.
const FRESH: Duration = Duration::from_millis(100);
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
    /// Placed a moment ago: the rows may not contain it yet.
    placed: HashMap<HostId, Vec<(Instant, Capacity)>>,
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
        if let Some(picked) = self.pick(demand) {
            return Ok(picked?);
        }
        let _loading = self.loading.lock().await;
        if let Some(picked) = self.pick(demand) {
            return Ok(picked?);
        }
        let begun = Instant::now();
        let hosts = self.source.candidates().await.map_err(PlaceError::Source)?;
        self.adopt(hosts, begun);
        // The list is fresh now, however long this thread was kept from running since.
        self.pick_from(demand, Duration::MAX)
            .map_or_else(|| Err(self.nobody(demand)), |(_, picked)| picked)
            .map_err(PlaceError::NoHost)
    }

    /// The driver that this host offers first; none when it is not in the list.
    #[must_use]
    pub fn preferred_driver(&self, host: &HostId) -> Option<String> {
        let state = self.state();
        let (_, list) = state.list.as_ref()?;
        let index = list.hosts.binary_search_by(|candidate| candidate.id.cmp(host)).ok()?;
        list.hosts[index].drivers.first().cloned()
    }

    /// The drivers that hosts of this team offer which are online, whether or not they have room now.
    ///
    /// # Errors
    /// [`PlaceError::Source`] when the hosts could not be listed.
    pub async fn offered(&self, team: &TeamId, team_is_byoc: bool) -> Result<BTreeSet<String>, PlaceError<S::Error>> {
        let hosts = self.source.candidates().await.map_err(PlaceError::Source)?;
        let ours = |host: &Candidate| host.status == HostStatus::Online && host.is_for(team, team_is_byoc);
        Ok(hosts.into_iter().filter(ours).flat_map(|host| host.drivers).collect())
    }

    /// The create failed on this host: pass it over for a moment, and take back what it was promised.
    pub fn failed(&self, host: &HostId) {
        let mut state = self.state();
        state.resting.insert(host.clone(), Instant::now() + REST);
        // Others may have been promised room there in the same moment.
        if let Some(placed) = state.placed.get_mut(host) {
            placed.pop();
        }
        if let Some((_, list)) = &mut state.list
            && let Some(host) = list.hosts.iter_mut().find(|candidate| &candidate.id == host)
        {
            host.resting = true;
        }
    }

    /// The hosts' rows have just said that this can be placed: a list that says it can't is older, and used no more.
    pub fn can_be_placed(&self, demand: &Demand) {
        let mut state = self.state();
        if state.list.as_ref().is_some_and(|(_, list)| self.schedule(demand, list).is_err()) {
            state.list = None;
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Picks by the list at hand. Nothing when a fresh one is needed first.
    fn pick(&self, demand: &Demand) -> Option<Result<HostId, NoHost>> {
        let (age, picked) = self.pick_from(demand, LIST_LIFETIME)?;
        (picked.is_ok() || age < FRESH).then_some(picked)
    }

    /// Picks by the list at hand if it is no older than `lifetime`, and notes what was picked. Its age is in the answer.
    fn pick_from(&self, demand: &Demand, lifetime: Duration) -> Option<(Duration, Result<HostId, NoHost>)> {
        let mut state = self.state();
        let (loaded, list) = state.list.as_mut()?;
        let age = loaded.elapsed();
        if age >= lifetime {
            return None;
        }
        list.as_of = self.source.now();
        let host = match self.schedule(demand, list) {
            Ok(host) => host,
            Err(none) => return Some((age, Err(none))),
        };
        let wanted = Capacity {
            cpu_millis: u64::from(demand.vcpus) * 1000,
            memory_mb: demand.memory_mb,
            disk_mb: demand.disk_mb,
        };
        if let Ok(index) = list.hosts.binary_search_by(|candidate| candidate.id.cmp(&host)) {
            list.promise(index, &wanted);
        }
        state.placed.entry(host.clone()).or_default().push((Instant::now(), wanted));
        Some((age, Ok(host)))
    }

    /// Hosts that have failed a moment ago are passed over, unless there is no other.
    fn schedule(&self, demand: &Demand, list: &HostList) -> Result<HostId, NoHost> {
        self.scheduler.pick(demand, list).or_else(|none| {
            if !list.hosts.iter().any(|host| host.resting) {
                return Err(none);
            }
            let mut all = list.clone();
            all.hosts.iter_mut().for_each(|host| host.resting = false);
            self.scheduler.pick(demand, &all)
        })
    }

    /// Takes a new list, asked for at `begun`, and adds to it what only this replica knows.
    fn adopt(&self, mut hosts: Vec<Candidate>, begun: Instant) {
        let now = Instant::now();
        let mut state = self.state();
        state.resting.retain(|_, until| *until > now);
        let mut placed = std::mem::take(&mut state.placed);
        let there: HashSet<HostId> = hosts.iter().map(|host| host.id.clone()).collect();
        placed.retain(|id, _| there.contains(id));
        for host in &mut hosts {
            host.resting = state.resting.contains_key(&host.id);
            if let Some(placed) = placed.get_mut(&host.id) {
                placed.retain(|(at, _)| *at + FRESH > begun);
                for (_, wanted) in placed.iter() {
                    host.commit(wanted);
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
