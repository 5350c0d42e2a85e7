//! Control's records, the hosts, and the network between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use atoll_control::simulation::{
    Agents, Clock, DbError, FleetError, Inventory, Millis, Records, Row, RowChange, Seen, State,
};
use atoll_host::sandboxes::{Keeper, OrderError, State as HostState};
use atoll_model::{HostId, HostStatus, SandboxId, SandboxStatus};
use atoll_rpc::atoll::host::v1 as wire;
use atoll_rpc::connectrpc::ErrorCode;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::agent::{Agent, Host};

pub const HEARTBEAT: Duration = Duration::from_secs(30);
pub const DISCONNECT_AFTER: Duration = Duration::from_secs(90);
pub const STALE_AFTER: i64 = 90_000;

/// What control knows of a host.
pub struct Known {
    pub status: HostStatus,
    pub heard: Millis,
    /// The family of credentials in force; none after a theft.
    pub family: Option<u64>,
    /// Somebody has begun to delete it.
    pub deleting: bool,
}

impl Known {
    pub const fn new(heard: Millis) -> Self {
        Self { status: HostStatus::Online, heard, family: Some(0), deleting: false }
    }

    /// Whether new sandboxes may be placed on it.
    pub fn takes_work(&self) -> bool {
        self.status == HostStatus::Online && !self.deleting
    }
}

pub struct Everything {
    pub rows: BTreeMap<SandboxId, Row>,
    /// In the order in which they were made: sandboxes' ids are random, the simulation's course must not be.
    pub order: Vec<SandboxId>,
    pub known: BTreeMap<HostId, Known>,
    /// Hosts that were deleted: what they are told when they come back.
    pub tombstones: BTreeSet<HostId>,
    pub hosts: Vec<Host>,
    /// Processes that ended by themselves.
    pub ended: BTreeSet<SandboxId>,
    pub rng: SmallRng,
    /// In a hundred calls, so many get lost on the way there, and as many on the way back.
    pub loss: u32,
    /// What is done between control's two looks, once.
    pub meanwhile: Option<Meanwhile>,
    /// What is done once the host has made its list, before control judges it.
    pub afterwards: Option<Meanwhile>,
    pub broken: Option<String>,
    /// What happened, so that a simulation in which nothing does is noticed.
    pub became: BTreeMap<(SandboxStatus, SandboxStatus), u32>,
    pub orphans: u32,
    /// Hosts that were deleted, rebooted, robbed of their credentials, and enrolled again.
    pub deleted: u32,
    pub rebooted: u32,
    pub robbed: u32,
    pub enrolled_again: u32,
    /// Hosts leave a sandbox out of their lists.
    pub liars: bool,
}

/// An order of a user that comes in the middle of a pass.
#[derive(Debug, Clone)]
pub enum Meanwhile {
    Destroy(SandboxId),
    Pause(SandboxId),
    Create(usize),
}

/// Everything. Cheap to clone.
#[derive(Clone)]
pub struct World {
    pub clock: Clock,
    state: Arc<Mutex<Everything>>,
}

/// A call as it is made: what comes of it is drawn.
enum Fate {
    Works,
    LostThere,
    LostBack,
}

impl World {
    pub fn new(seed: u64, hosts: usize) -> Self {
        let clock = Clock::manual(Millis(1_000_000));
        let hosts: Vec<Host> = (0..hosts).map(|_| Host::new()).collect();
        let known = hosts.iter().map(|host| (host.id.clone(), Known::new(clock.now())));
        let state = Everything {
            rows: BTreeMap::new(),
            order: Vec::new(),
            known: known.collect(),
            tombstones: BTreeSet::new(),
            hosts,
            ended: BTreeSet::new(),
            rng: SmallRng::seed_from_u64(seed),
            loss: 0,
            meanwhile: None,
            afterwards: None,
            broken: None,
            became: BTreeMap::new(),
            orphans: 0,
            deleted: 0,
            rebooted: 0,
            robbed: 0,
            enrolled_again: 0,
            liars: false,
        };
        Self { clock, state: Arc::new(Mutex::new(state)) }
    }

    pub fn state(&self) -> MutexGuard<'_, Everything> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds on the hosts' clocks.
    pub fn millis(&self) -> u64 {
        self.clock.now().0.unsigned_abs()
    }

    fn unavailable(host: &HostId) -> FleetError {
        FleetError::Unavailable { host: host.clone(), attempted: "call".to_owned(), cause: "cut off".into() }
    }

    /// A call of control's to a host's agent, over the simulated network.
    pub fn call<T>(&self, host: &HostId, call: impl FnOnce(&Agent) -> Result<T, OrderError>) -> Result<T, FleetError> {
        let mut state = self.state();
        let loss = state.loss;
        let fate = match state.rng.random_range(0..100) {
            drawn if drawn < loss => Fate::LostThere,
            drawn if drawn < 2 * loss => Fate::LostBack,
            _ => Fate::Works,
        };
        let Some(there) = state.hosts.iter().find(|it| it.id == *host).filter(|it| !it.cut) else {
            return Err(Self::unavailable(host));
        };
        let Some(agent) = &there.agent else { return Err(Self::unavailable(host)) };
        let timeout = || FleetError::Timeout { host: host.clone(), attempted: "call".to_owned() };
        if matches!(fate, Fate::LostThere) {
            return Err(timeout());
        }
        let answer = call(agent);
        if matches!(fate, Fate::LostBack) {
            return Err(timeout());
        }
        answer.map_err(|error| FleetError::Agent {
            host: host.clone(),
            attempted: "obey".to_owned(),
            code: ErrorCode::FailedPrecondition,
            message: error.to_string(),
        })
    }

    /// Control's compare-and-set, with the invariants of every change.
    pub fn change(&self, change: &RowChange<'_>, host: Option<&HostId>) -> Option<Row> {
        let now = self.clock.now();
        let mut state = self.state();
        let row = state.rows.get(&change.row.id)?.clone();
        let same = row.status == change.row.status && row.generation == change.row.generation;
        if !same || !(row.status == change.to || row.status.can_become(change.to)) {
            return None;
        }
        if change.to == SandboxStatus::Stopped && !change.decided && state.lives(&row) {
            state.broken = Some(format!("{row:?} ends as stopped ({:?}) while its process lives", change.reason));
        }
        *state.became.entry((row.status, change.to)).or_default() += 1;
        let row = state.rows.get_mut(&change.row.id)?;
        row.status = change.to;
        row.reason = change.reason.map(ToOwned::to_owned);
        row.generation += u64::from(change.decided);
        row.changed_at = now;
        if let Some(host) = host {
            row.host = Some(host.clone());
        }
        Some(row.clone())
    }
}

impl Everything {
    /// Whether its process is there, on the host that its row names.
    fn lives(&self, row: &Row) -> bool {
        let on = self.hosts.iter().find(|host| Some(&host.id) == row.host.as_ref());
        on.is_some_and(|host| host.machine.running().contains(&row.id)) && !self.ended.contains(&row.id)
    }

    fn sorted(&self, mut rows: Vec<Row>) -> Vec<Row> {
        let place = |id: &SandboxId| self.order.iter().position(|known| known == id);
        rows.sort_by_key(|row| place(&row.id));
        rows
    }
}

#[async_trait]
impl Records for World {
    async fn on_host(&self, host: &HostId) -> Result<Vec<Row>, DbError> {
        let state = self.state();
        let rows = state.rows.values().filter(|row| row.host.as_ref() == Some(host) && !row.status.is_final());
        Ok(state.sorted(rows.cloned().collect()))
    }

    async fn by_id(&self, ids: &[SandboxId]) -> Result<Vec<Row>, DbError> {
        let state = self.state();
        Ok(ids.iter().filter_map(|id| state.rows.get(id)).cloned().collect())
    }

    async fn change(&self, change: &RowChange<'_>) -> Result<Option<Row>, DbError> {
        Ok(World::change(self, change, None))
    }

    async fn network(&self, id: &SandboxId) -> Result<Option<(wire::NetworkPolicy, u64)>, DbError> {
        let generation = self.state().rows.get(id).map(|row| row.network_generation);
        Ok(generation.map(|generation| (wire::NetworkPolicy::default(), generation)))
    }

    async fn note_orphan(&self, _: &HostId, _: &Seen, _: bool) -> Result<(), DbError> {
        self.state().orphans += 1;
        Ok(())
    }

    async fn pending_deletions(&self, _: &HostId) -> Result<Vec<String>, DbError> {
        Ok(Vec::new())
    }

    async fn deletion_done(&self, _: &HostId, _: &str) -> Result<(), DbError> {
        Ok(())
    }
}

pub const fn state_of(state: HostState) -> State {
    match state {
        HostState::Starting => State::Starting,
        HostState::Running => State::Running,
        HostState::Paused => State::Paused,
        HostState::Exited => State::Exited,
    }
}

const fn host_state_of(state: State) -> HostState {
    match state {
        State::Starting => HostState::Starting,
        State::Running => HostState::Running,
        State::Paused => HostState::Paused,
        State::Exited => HostState::Exited,
    }
}

#[async_trait]
impl Agents for World {
    async fn list(&self, host: &HostId) -> Result<Inventory, FleetError> {
        let meanwhile = self.state().meanwhile.take();
        if let Some(meanwhile) = meanwhile {
            self.between(meanwhile);
        }
        let mut inventory = self.call(host, |agent| {
            let keeper = agent.keeper();
            let seen = keeper.list().into_iter().map(|view| Seen {
                id: view.id.clone(),
                state: state_of(view.state),
                reason: view.reason.clone(),
                generation: view.generation,
                exit_code: view.exit_code,
                network_generation: view.policy_generation,
            });
            Ok(Inventory { sandboxes: seen.collect(), complete: keeper.inventory_complete() })
        })?;
        let afterwards = self.state().afterwards.take();
        if let Some(afterwards) = afterwards {
            self.between(afterwards);
        }
        let state = self.state();
        inventory.sandboxes.sort_by_key(|seen| state.order.iter().position(|known| *known == seen.id));
        if state.liars {
            inventory.sandboxes.pop();
        }
        Ok(inventory)
    }

    async fn acknowledge(&self, host: &HostId, items: Vec<(SandboxId, u64, State)>) -> Result<(), FleetError> {
        self.call(host, |agent| {
            agent.order(async |keeper: &Keeper| {
                for (id, generation, state) in items {
                    keeper.acknowledge(&id, generation, host_state_of(state));
                }
            });
            Ok(())
        })
    }

    async fn resume(&self, host: &HostId, sandbox: &SandboxId, generation: u64) -> Result<(), FleetError> {
        self.call(host, |agent| agent.order(async |keeper: &Keeper| keeper.resume(sandbox, generation).await)).map(drop)
    }

    async fn destroy(&self, host: &HostId, sandbox: &SandboxId, generation: u64, _: &str) -> Result<(), FleetError> {
        self.call(host, |agent| agent.order(async |keeper: &Keeper| keeper.destroy(sandbox, generation).await))
    }

    async fn set_network(
        &self,
        host: &HostId,
        sandbox: &SandboxId,
        generation: u64,
        _: wire::NetworkPolicy,
    ) -> Result<(), FleetError> {
        self.call(host, |agent| {
            agent.order(async |keeper: &Keeper| keeper.set_policy(sandbox, generation, Default::default()).await)
        })
        .map(drop)
    }

    async fn delete_image(&self, _: &HostId, _: &str) -> Result<(), FleetError> {
        Ok(())
    }

    async fn terminate(&self, host: &HostId, _: &str) -> Result<(), FleetError> {
        let told = self.call(host, |agent| {
            agent.destroy_all();
            Ok(())
        });
        // Whether or not control hears of it.
        let mut state = self.state();
        if told.is_ok()
            && let Some(host) = state.hosts.iter_mut().find(|it| it.id == *host)
        {
            host.forget();
        }
        told
    }
}

/// What every simulated sandbox is like.
pub fn wish() -> wire::SandboxSpec {
    wire::SandboxSpec {
        template: wire::Image { digest: "ab".repeat(32), name: "base".to_owned(), ..Default::default() }.into(),
        vcpus: 1,
        memory_bytes: 64 << 20,
        disk_bytes: 64 << 20,
        ..Default::default()
    }
}
