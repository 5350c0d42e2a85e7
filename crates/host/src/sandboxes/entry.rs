//! A sandbox as the rest of the agent sees it: what it is now, and the queue of orders to its owner.

use std::net::Ipv4Addr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use atoll_model::{LayerId, SandboxId, VolumeId};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::error::OrderError;
use super::generation::Seen;
use super::record::{Phase, Record, State};
use crate::driver::Step;
use crate::network::Policy;
use crate::slots::Slot;

/// Orders that wait for one sandbox; more are refused.
const QUEUE: usize = 32;

/// What a sandbox is now. Replaced as a whole, read without waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub id: SandboxId,
    pub generation: u64,
    pub phase: Phase,
    pub state: State,
    pub reason: String,
    pub changed_at_ms: i64,
    pub exit_code: i32,
    pub slot: Option<Slot>,
    pub driver: String,
    pub memory_bytes: u64,
    pub vcpus: u32,
    pub disk_bytes: u64,
    /// What it was made from, by digest: its image, and those of the layers above.
    pub images: Vec<String>,
    /// Layers that it stands on.
    pub layers: Vec<LayerId>,
    pub volumes: Vec<VolumeId>,
    /// Of what it may reach, as control counts it; 0 when control is to say it again.
    pub policy_generation: u64,
}

impl View {
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self {
            id: record.id.clone(),
            generation: record.seen.generation,
            phase: record.phase,
            state: record.state,
            reason: record.reason.clone(),
            changed_at_ms: record.changed_at_ms,
            exit_code: record.exit_code,
            slot: record.slot,
            driver: record.spec.driver.clone(),
            memory_bytes: record.spec.memory_bytes,
            vcpus: record.spec.vcpus,
            disk_bytes: record.spec.disk_bytes,
            images: images(record),
            layers: record.spec.layers.iter().map(|layer| layer.id.clone()).collect(),
            volumes: record.spec.volumes.iter().map(|mount| mount.id.clone()).collect(),
            policy_generation: if record.knows_bandwidth { record.policy_generation } else { 0 },
        }
    }

    #[must_use]
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.slot.map(Slot::address)
    }

    /// Whether control is told of it. What is being destroyed has been answered for.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.phase != Phase::Destroying
    }
}

fn images(record: &Record) -> Vec<String> {
    let layers = record.spec.layers.iter().map(|layer| &layer.digest).filter(|digest| !digest.is_empty());
    [&record.spec.image.digest].into_iter().chain(layers).cloned().collect()
}

/// What a pause or resume kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Memory,
    Files,
}

impl Kept {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Files => "files",
        }
    }
}

/// The answer to an order that was carried out.
#[derive(Debug, Clone)]
pub struct Answer {
    pub view: Arc<View>,
    pub kept: Kept,
    /// Of memory, by a pause.
    pub freed_bytes: u64,
    pub steps: Vec<Step>,
    /// What a layer stands on that was made.
    pub standing: Vec<LayerId>,
}

pub type Reply = oneshot::Sender<Result<Answer, OrderError>>;

/// What a sandbox's owner can be told.
pub enum Order {
    /// The create once more: its answer may have been lost.
    Create {
        seen: Seen,
        reply: Reply,
    },
    /// Without `seen`, the agent's own decision.
    Pause {
        seen: Option<Seen>,
        reason: String,
        keep: Kept,
        reply: Reply,
    },
    Resume {
        seen: Seen,
        reply: Reply,
    },
    /// Keep what it has written so far as a layer.
    Snapshot {
        layer: LayerId,
        memory: bool,
        reply: Reply,
    },
    /// What it may reach from now on.
    SetPolicy {
        generation: u64,
        policy: Box<Policy>,
        reply: Reply,
    },
    /// Without `seen`, the agent's own decision (the host was deleted).
    Destroy {
        seen: Option<Seen>,
        reply: Reply,
    },
    /// Control knows of this state.
    Acknowledge {
        generation: u64,
        state: State,
    },
}

/// One sandbox.
pub struct Entry {
    pub id: SandboxId,
    pub view: ArcSwap<View>,
    orders: mpsc::Sender<Order>,
    /// Cancelled when its processes are gone or about to go: open streams are reset.
    pub cut: CancellationToken,
    /// Cancelled when a destroy has come: a create under way is given up.
    pub give_up: CancellationToken,
    pub streams: Arc<Semaphore>,
    pub streams_limit: usize,
}

impl Entry {
    pub fn new(record: &Record, streams_limit: usize) -> (Arc<Self>, mpsc::Receiver<Order>) {
        let (orders, queue) = mpsc::channel(QUEUE);
        let entry = Self {
            id: record.id.clone(),
            view: ArcSwap::from_pointee(View::of(record)),
            orders,
            cut: CancellationToken::new(),
            give_up: CancellationToken::new(),
            streams: Arc::new(Semaphore::new(streams_limit)),
            streams_limit,
        };
        (Arc::new(entry), queue)
    }

    /// Puts an order into the queue and waits for its answer. `make` gets the place for the answer.
    ///
    /// # Errors
    /// When the queue is full, the sandbox has just gone, or the owner's answer is an error.
    pub async fn order(&self, make: impl FnOnce(Reply) -> Order) -> Result<Answer, OrderError> {
        let (reply, answer) = oneshot::channel();
        self.orders.try_send(make(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                OrderError::Busy { reason: format!("{QUEUE} orders for {} wait already", self.id) }
            }
            mpsc::error::TrySendError::Closed(_) => OrderError::Destroyed,
        })?;
        answer.await.unwrap_or(Err(OrderError::Destroyed))
    }

    /// Tells without waiting; dropped when the queue is full, since it will be told again.
    pub fn tell(&self, order: Order) {
        let _told_again_later = self.orders.try_send(order);
    }
}
