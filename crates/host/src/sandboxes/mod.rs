//! The sandboxes of this host: who keeps them, what is written down of them, how they are found again.
//!
//! [`Keeper`] is the front: it routes each order to the owner of its sandbox ([`owner`]), and answers questions from
//! what the owners last showed ([`entry`]). The floors below (driver, network, storage, images, slots) are reached
//! through [`machine::Machine`] alone. Nothing here talks to control.

mod admission;
mod birth;
mod death;
mod durable;
mod entry;
mod error;
#[cfg(any(test, feature = "simulation"))]
pub mod fake;
pub mod floor;
mod generation;
mod graves;
mod guest;
mod layers;
pub mod machine;
mod own_proxy;
mod owner;
mod pause;
mod record;
mod recovery;
mod spares;
pub(crate) mod spec;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use atoll_model::SandboxId;
use atoll_rpc::atoll::host::v1 as wire;
use chrono::Utc;
use futures::FutureExt;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::proxy::{Directory, Refusal, Route};
use crate::config::Limits;
use admission::Admission;
use durable::Durable;
pub use entry::{Answer, Kept, View};
use entry::{Entry, Order};
pub use error::OrderError;
use generation::{Seen, digest_of_set};
use graves::Graves;
use machine::{Machine, Use};
use owner::{Owner, Start};
pub use record::{Phase, Record, Records, State, Torn};
use spares::Spares;
pub use sweep::HOST_DISCONNECTED;

/// What all owners share.
pub(super) struct Shared {
    pub machine: Arc<dyn Machine>,
    pub records: Records,
    pub graves: Graves,
    durable: Durable,
    spares: Spares,
    pub limits: Limits,
    pub admission: Admission,
    /// Memory of this machine.
    pub memory_bytes: u64,
    sandboxes: RwLock<HashMap<SandboxId, Arc<Entry>>>,
    /// Told at every change of any sandbox.
    pub changed: watch::Sender<()>,
    /// Cancelled at the very end: what could not be taken down is left to the next agent.
    pub stop: CancellationToken,
    tasks: TaskTracker,
}

impl Shared {
    fn get(&self, id: &SandboxId) -> Option<Arc<Entry>> {
        self.sandboxes.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(super) fn forget(&self, entry: &Arc<Entry>) {
        let mut sandboxes = self.sandboxes.write().unwrap_or_else(PoisonError::into_inner);
        if sandboxes.get(&entry.id).is_some_and(|known| Arc::ptr_eq(known, entry)) {
            sandboxes.remove(&entry.id);
        }
        drop(sandboxes);
        self.changed.send_replace(());
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.sandboxes.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Counts for the heartbeat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub running: u32,
    pub paused: u32,
    pub other: u32,
    /// Promised to sandboxes that are not at their end.
    pub vcpus: u64,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
}

/// All sandboxes of this host.
#[derive(Clone)]
pub struct Keeper {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    /// Control may give new work: the host is welcome.
    welcome: AtomicBool,
    /// All sandboxes are paused because contact with control is lost.
    out_of_contact: AtomicBool,
    /// The agent shuts down.
    closing: AtomicBool,
    /// Every sandbox that lives here is known.
    complete: AtomicBool,
}

impl Keeper {
    /// A keeper that knows no sandbox yet; see [`Self::recover`].
    ///
    /// # Errors
    /// When the data directory can't be read or written.
    pub fn new(
        data_dir: &Path,
        records: Records,
        machine: Arc<dyn Machine>,
        limits: Limits,
        memory_bytes: u64,
    ) -> std::io::Result<Self> {
        let admission = Admission::new(limits.parallel_launches, limits.waiting_launches, limits.launch_wait);
        let shared = Shared {
            machine,
            records,
            graves: Graves::open(data_dir)?,
            durable: Durable::default(),
            spares: Spares::new(limits.spare_machines),
            limits,
            admission,
            memory_bytes,
            sandboxes: RwLock::default(),
            changed: watch::channel(()).0,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let gate = Gate { welcome: AtomicBool::new(true), ..Gate::default() };
        Ok(Self { shared: Arc::new(shared), gate: Arc::new(gate) })
    }

    /// Ends with a running sandbox, or with an error and nothing left behind.
    ///
    /// # Errors
    /// [`OrderError`].
    pub async fn create(&self, id: SandboxId, generation: u64, wish: wire::SandboxSpec) -> Result<Answer, OrderError> {
        self.create_like(id, generation, wish, None).await
    }

    /// The same; it gets the environment of another sandbox of this host beneath its own.
    ///
    /// # Errors
    /// [`OrderError`].
    pub async fn create_like(
        &self,
        id: SandboxId,
        generation: u64,
        wish: wire::SandboxSpec,
        env_of: Option<&SandboxId>,
    ) -> Result<Answer, OrderError> {
        self.begin(id, generation, wish, env_of, None).await
    }

    /// One that comes from another host: its files alone, paused for this reason, no process before its first resume.
    ///
    /// # Errors
    /// [`OrderError`].
    pub async fn create_at_rest(
        &self,
        id: SandboxId,
        generation: u64,
        wish: wire::SandboxSpec,
        reason: String,
    ) -> Result<Answer, OrderError> {
        self.begin(id, generation, wish, None, Some(reason)).await
    }

    async fn begin(
        &self,
        id: SandboxId,
        generation: u64,
        wish: wire::SandboxSpec,
        env_of: Option<&SandboxId>,
        at_rest: Option<String>,
    ) -> Result<Answer, OrderError> {
        let policy_generation = wish.network_generation;
        let (spec, mut secrets) = spec::parse(&id, wish, &self.shared.machine.drivers())?;
        let seen = match at_rest {
            None => Seen::create(generation, spec::digest(&spec, &secrets)),
            Some(_) => Seen::create(generation, format!("at rest {}", spec::digest(&spec, &secrets))),
        };
        if let Some(other) = env_of {
            let inherited = self.shared.records.secrets(other);
            let inherited = inherited.map_err(|error| OrderError::failed("reading another's environment", &error))?;
            for (name, value) in inherited.env {
                secrets.env.entry(name).or_insert(value);
            }
        }
        let (reply, answer) = oneshot::channel();
        let known = {
            let mut sandboxes = self.shared.sandboxes.write().unwrap_or_else(PoisonError::into_inner);
            match sandboxes.get(&id) {
                Some(entry) => Some(entry.clone()),
                None => {
                    self.may_begin(&id, generation)?;
                    self.has_room(&sandboxes, spec.memory_bytes)?;
                    self.are_free(&sandboxes, &spec.volumes)?;
                    let record = Record {
                        id: id.clone(),
                        seen: seen.clone(),
                        phase: Phase::Creating,
                        state: State::Starting,
                        reason: String::new(),
                        changed_at_ms: Utc::now().timestamp_millis(),
                        exit_code: 0,
                        spec,
                        slot: None,
                        init: None,
                        stored: false,
                        cloned: false,
                        policy_generation,
                        knows_bandwidth: true,
                    };
                    sandboxes.insert(id.clone(), self.start(record, Start::Create { secrets, at_rest, reply }));
                    None
                }
            }
        };
        match known {
            Some(entry) => entry.order(|reply| Order::Create { seen, reply }).await,
            None => answer.await.unwrap_or_else(|_| {
                Err(OrderError::Failed { attempted: "creating the sandbox", cause: "the task was lost".to_owned() })
            }),
        }
    }

    /// What a sandbox's programs get as environment, for the host that it moves to.
    ///
    /// # Errors
    /// When there is no such sandbox, or its secrets can't be read.
    pub fn environment(&self, id: &SandboxId) -> Result<BTreeMap<String, String>, OrderError> {
        self.get(id)?;
        let secrets = self.shared.records.secrets(id);
        Ok(secrets.map_err(|error| OrderError::failed("reading the sandbox's environment", &error))?.env)
    }

    /// Success also when there is no such sandbox; its generation is remembered then too, so that a create that still
    /// travels is refused.
    ///
    /// # Errors
    /// [`OrderError`].
    pub async fn destroy(&self, id: &SandboxId, generation: u64) -> Result<(), OrderError> {
        let entry = {
            let sandboxes = self.shared.sandboxes.read().unwrap_or_else(PoisonError::into_inner);
            match sandboxes.get(id) {
                Some(entry) => entry.clone(),
                None => {
                    self.shared.graves.dig(id, generation);
                    return Ok(());
                }
            }
        };
        if generation > entry.view.load().generation {
            entry.give_up.cancel();
        }
        match entry.order(|reply| Order::Destroy { seen: Some(Seen::destroy(generation)), reply }).await {
            Ok(_) | Err(OrderError::Destroyed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// # Errors
    /// [`OrderError`].
    pub async fn pause(&self, id: &SandboxId, generation: u64, reason: String) -> Result<Answer, OrderError> {
        self.pause_keeping(id, generation, reason, Kept::Memory).await
    }

    /// The same with its files alone: its processes end, and a resume starts new ones.
    ///
    /// # Errors
    /// [`OrderError`].
    pub async fn pause_files(&self, id: &SandboxId, generation: u64, reason: String) -> Result<Answer, OrderError> {
        self.pause_keeping(id, generation, reason, Kept::Files).await
    }

    async fn pause_keeping(
        &self,
        id: &SandboxId,
        generation: u64,
        reason: String,
        keep: Kept,
    ) -> Result<Answer, OrderError> {
        let seen = Some(Seen::pause(generation));
        self.known(id)?.order(|reply| Order::Pause { seen, reason, keep, reply }).await
    }

    /// # Errors
    /// [`OrderError`].
    pub async fn resume(&self, id: &SandboxId, generation: u64) -> Result<Answer, OrderError> {
        if !self.gate.welcome.load(Ordering::Acquire) {
            return Err(OrderError::NotAccepting { reason: "control has rejected its credentials".to_owned() });
        }
        let seen = Seen::resume(generation);
        self.known(id)?.order(|reply| Order::Resume { seen, reply }).await
    }

    /// Control has taken note of what this host did by itself.
    pub fn acknowledge(&self, id: &SandboxId, generation: u64, state: State) {
        if let Some(entry) = self.shared.get(id) {
            entry.tell(Order::Acknowledge { generation, state });
        }
    }

    /// # Errors
    /// `NotFound`.
    pub fn get(&self, id: &SandboxId) -> Result<Arc<View>, OrderError> {
        let view = self.known(id)?.view.load_full();
        if view.is_listed() { Ok(view) } else { Err(OrderError::NotFound { id: id.to_string() }) }
    }

    #[must_use]
    pub fn list(&self) -> Vec<Arc<View>> {
        let views = self.shared.entries().into_iter().map(|entry| entry.view.load_full());
        views.filter(|view| view.is_listed()).collect()
    }

    /// What a sandbox uses now.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn usage(&self, id: &SandboxId) -> Result<Use, OrderError> {
        let view = self.get(id)?;
        Ok(self.shared.machine.usage(id, view.slot))
    }

    /// Whether the list is all that lives on this host.
    #[must_use]
    pub fn inventory_complete(&self) -> bool {
        self.gate.complete.load(Ordering::Acquire)
    }

    /// A name for the set of sandboxes as it is now.
    #[must_use]
    pub fn digest(&self) -> String {
        let views = self.list();
        digest_of_set(views.iter().map(|view| (view.id.as_str(), view.state.as_str(), view.generation)))
    }

    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for view in self.list() {
            match view.state {
                State::Running => tally.running += 1,
                State::Paused => tally.paused += 1,
                State::Starting | State::Exited => tally.other += 1,
            }
            if view.state != State::Exited {
                tally.vcpus += u64::from(view.vcpus);
                tally.memory_bytes += view.memory_bytes;
                tally.disk_bytes += view.disk_bytes;
            }
        }
        tally
    }

    /// Whether control may give new work.
    pub fn set_welcome(&self, welcome: bool) {
        self.gate.welcome.store(welcome, Ordering::Release);
        self.allow_spares();
    }

    /// While contact with control is lost, whatever still asks for a new sandbox is refused: all that live here are
    /// paused. A resume is not: it comes from control, which counts the host as back.
    pub fn set_out_of_contact(&self, lost: bool) {
        self.gate.out_of_contact.store(lost, Ordering::Release);
        self.allow_spares();
    }

    fn allow_spares(&self) {
        let (welcome, lost) = (&self.gate.welcome, &self.gate.out_of_contact);
        self.shared.spares.allow(welcome.load(Ordering::Acquire) && !lost.load(Ordering::Acquire));
    }

    /// Why a create would be refused at once, if it would, by a host that control can hear.
    #[must_use]
    pub fn closed_because(&self) -> Option<&'static str> {
        if self.gate.closing.load(Ordering::Acquire) {
            Some("the agent shuts down")
        } else if !self.gate.welcome.load(Ordering::Acquire) {
            Some("control has rejected this host's credentials")
        } else if !self.inventory_complete() {
            Some("the agent is still finding its sandboxes")
        } else {
            None
        }
    }

    /// Changes of any sandbox.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    fn known(&self, id: &SandboxId) -> Result<Arc<Entry>, OrderError> {
        self.shared.get(id).ok_or_else(|| OrderError::NotFound { id: id.to_string() })
    }

    fn may_begin(&self, id: &SandboxId, generation: u64) -> Result<(), OrderError> {
        // Not among the reasons that control is told of: what it hears is heard, and then this one is over.
        let lost = self.gate.out_of_contact.load(Ordering::Acquire).then_some("the host has lost contact with control");
        if let Some(reason) = self.closed_because().or(lost) {
            return Err(OrderError::NotAccepting { reason: reason.to_owned() });
        }
        match self.shared.graves.generation_of(id) {
            Some(highest) if generation <= highest => Err(OrderError::Stale { generation, highest }),
            _ => Ok(()),
        }
    }

    fn has_room(&self, sandboxes: &HashMap<SandboxId, Arc<Entry>>, memory: u64) -> Result<(), OrderError> {
        let limits = &self.shared.limits;
        if sandboxes.len() >= limits.sandboxes {
            return Err(OrderError::Full { reason: format!("it has {} sandboxes already", sandboxes.len()) });
        }
        let views = sandboxes.values().map(|entry| entry.view.load());
        let promised: u64 = views.filter(|it| it.state != State::Exited).map(|it| it.memory_bytes).sum();
        let room = self.shared.memory_bytes.saturating_mul(limits.memory_overcommit);
        if promised.saturating_add(memory) > room {
            return Err(OrderError::Full {
                reason: format!("{promised} of {room} bytes of memory are promised, {memory} more are wanted"),
            });
        }
        Ok(())
    }

    /// Whether nobody has what only one may have. Control may believe one gone that it could not reach: it has its
    /// volumes for as long as its processes may live.
    fn are_free(
        &self,
        sandboxes: &HashMap<SandboxId, Arc<Entry>>,
        volumes: &[spec::VolumeMount],
    ) -> Result<(), OrderError> {
        for volume in volumes.iter().filter(|volume| volume.exclusive) {
            let has = |entry: &&Arc<Entry>| {
                let view = entry.view.load();
                view.volumes.contains(&volume.id)
                    && view.state != State::Exited
                    && self.shared.graves.generation_of(&entry.id).is_none()
            };
            if let Some(other) = sandboxes.values().find(has) {
                return Err(OrderError::Busy {
                    reason: format!("{} still has the exclusive volume {}", other.id, volume.id),
                });
            }
        }
        Ok(())
    }

    /// A new owner for a record, at work.
    fn start(&self, record: Record, start: Start) -> Arc<Entry> {
        let (entry, orders) = Entry::new(&record, self.shared.limits.streams_per_sandbox);
        let owner = Owner::new(self.shared.clone(), entry.clone(), record);
        let (keeper, lost) = (self.clone(), entry.clone());
        self.shared.tasks.spawn(async move {
            if AssertUnwindSafe(owner.run(start, orders)).catch_unwind().await.is_err() {
                keeper.replace_owner(&lost).await;
            }
        });
        entry
    }
}

impl Directory for Keeper {
    fn route(&self, id: &SandboxId) -> Result<Route, Refusal> {
        // Asked first: what is found afterwards can only be more.
        let unknown = if self.inventory_complete() { Refusal::NotFound } else { Refusal::Starting };
        let entry = self.shared.get(id).ok_or(unknown)?;
        let view = entry.view.load();
        match (view.phase, view.state) {
            (Phase::Live, State::Running) => {}
            (Phase::Live, State::Paused) => return Err(Refusal::Paused),
            (Phase::Creating, _) | (Phase::Live, State::Starting) => return Err(Refusal::Starting),
            _ => return Err(Refusal::NotFound),
        }
        Ok(Route {
            socket: self.shared.records.directory_of(id).join("guest.sock"),
            address: view.address().ok_or(Refusal::NotFound)?,
            cut: entry.cut.clone(),
            streams: entry.streams.clone(),
            streams_limit: entry.streams_limit,
        })
    }
}
