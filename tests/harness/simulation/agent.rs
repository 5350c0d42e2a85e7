//! One host: a machine whose processes outlive its agent, and an agent that can die at any moment.

use std::sync::Arc;

use atoll_host::agent::heartbeat::decision::{Contact, Next, Observation, Timing};
use atoll_host::agent::heartbeat::memory::ContactMemory;
use atoll_host::sandboxes::fake::FakeDriver;
use atoll_host::sandboxes::{HOST_DISCONNECTED, Keeper, Records};
use atoll_host::{Limits, OnDisconnect};
use atoll_model::HostId;
use tokio::runtime::{Builder, Runtime};

use super::world::{DISCONNECT_AFTER, HEARTBEAT};

pub struct Host {
    pub id: HostId,
    pub machine: Arc<FakeDriver>,
    pub agent: Option<Agent>,
    /// Nothing passes between it and control.
    pub cut: bool,
    dir: tempfile::TempDir,
}

/// An agent's process: when it is dropped, nothing of it goes on.
pub struct Agent {
    runtime: Runtime,
    keeper: Keeper,
    contact: Contact,
    memory: ContactMemory,
    /// When it speaks to control next, in milliseconds.
    due: u64,
}

fn directory() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a directory for an agent")
}

impl Host {
    pub fn new() -> Self {
        let machine = Arc::new(FakeDriver::default());
        Self { id: HostId::new(), machine, agent: None, cut: false, dir: directory() }
    }

    /// Starts the agent: it finds its sandboxes again, and speaks to control at once.
    pub fn start(&mut self, now: u64) {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (dir, machine) = (self.dir.path(), Arc::clone(&self.machine));
        let keeper = runtime.block_on(async {
            let records = Records::open(dir).expect("the records");
            let (found, torn) = records.load().expect("the records");
            let keeper = Keeper::new(dir, records, machine, Limits::default(), 64 << 30).expect("a keeper");
            keeper.recover(found, torn).await;
            keeper
        });
        let memory = ContactMemory::new(dir, "boot".to_owned());
        let (last_contact, paused) = memory.recall(now);
        let timing =
            Timing { interval: HEARTBEAT, disconnect_after: DISCONNECT_AFTER, on_disconnect: OnDisconnect::Pause };
        let contact = Contact::new(timing, last_contact, paused);
        let agent = Agent { runtime, keeper, contact, memory, due: now };
        agent.settle();
        self.agent = Some(agent);
    }
}

impl Agent {
    /// An order to the keeper, carried out to its end.
    pub fn order<T>(&self, order: impl AsyncFnOnce(&Keeper) -> T) -> T {
        let answer = self.runtime.block_on(order(&self.keeper));
        self.settle();
        answer
    }

    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// What goes on behind answers comes to rest.
    pub fn settle(&self) {
        self.runtime.block_on(async {
            for _ in 0..64 {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Whether it speaks to control now.
    pub fn is_due(&self, now: u64) -> bool {
        self.due <= now
    }

    /// What came of it.
    pub fn heard(&mut self, now: u64, accepted: bool, jitter: f64) {
        let observation = if accepted { Observation::Accepted } else { Observation::NoAnswer };
        if let Next::Beat(wait) = self.contact.observe(now, observation, jitter) {
            self.due = now + u64::try_from(wait.as_millis()).expect("a short wait").max(1);
        }
        if accepted {
            self.memory.remember(self.contact.last_contact(), None);
        }
    }

    /// Pauses everything when contact has been away for too long.
    pub fn look_at_the_clock(&mut self, now: u64) {
        if let Some(cause) = self.contact.pause_due(now) {
            self.memory.remember(self.contact.last_contact(), Some(cause));
            self.order(async |keeper: &Keeper| keeper.pause_all(HOST_DISCONNECTED).await);
        }
    }
}
