//! One host: a machine whose processes outlive its agent, and an agent that can die at any moment.

use std::sync::Arc;
use std::time::Duration;

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
    /// The family of the credentials on its disk; none when it has forgotten them, because it was deleted.
    pub family: Option<u64>,
    /// When its access token is over.
    pub access_until: u64,
    /// How often the machine has booted.
    boots: u32,
    rebooted: bool,
    dir: tempfile::TempDir,
}

/// What an agent asks control next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Beat,
    Refresh,
}

/// An agent's process: when it is dropped, nothing of it goes on.
pub struct Agent {
    runtime: Runtime,
    keeper: Keeper,
    contact: Contact,
    memory: ContactMemory,
    ask: Ask,
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
        Self {
            id: HostId::new(),
            machine,
            agent: None,
            cut: false,
            family: Some(0),
            access_until: 0,
            boots: 0,
            rebooted: false,
            dir: directory(),
        }
    }

    /// The machine goes down with all that runs on it; what is on its disk stays. The agent is to be started.
    pub fn reboot(&mut self) {
        self.agent = None;
        self.machine.reboot();
        self.boots += 1;
        self.rebooted = true;
    }

    /// It was deleted, and knows it: its agent ends and does not come back.
    pub fn forget(&mut self) {
        self.family = None;
        self.agent = None;
    }

    /// Starts the agent: it finds its sandboxes again, and speaks to control at once.
    pub fn start(&mut self, now: u64) {
        let rebooted = std::mem::take(&mut self.rebooted);
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (dir, machine) = (self.dir.path(), Arc::clone(&self.machine));
        let keeper = runtime.block_on(async {
            let records = Records::open(dir).expect("the records");
            let (mut found, torn) = records.load().expect("the records");
            for init in found.iter_mut().filter_map(|record| record.init.as_mut()).filter(|_| rebooted) {
                "another boot".clone_into(&mut init.host_boot_id);
            }
            let keeper = Keeper::new(dir, records, machine, Limits::default(), 64 << 30).expect("a keeper");
            keeper.recover(found, torn).await;
            keeper.admit_orders();
            keeper
        });
        let memory = ContactMemory::new(dir, format!("boot {}", self.boots));
        let (last_contact, paused) = memory.recall(now);
        let timing =
            Timing { interval: HEARTBEAT, disconnect_after: DISCONNECT_AFTER, on_disconnect: OnDisconnect::Pause };
        let contact = Contact::new(timing, last_contact, paused);
        keeper.set_welcome(contact.accepts_work());
        let agent = Agent { runtime, keeper, contact, memory, ask: Ask::Beat, due: now };
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

    /// What it asks control now, if it does.
    pub fn asks(&self, now: u64) -> Option<Ask> {
        (self.due <= now).then_some(self.ask)
    }

    /// What came of it. False when the host is to destroy everything and forget who it was.
    pub fn heard(&mut self, now: u64, observation: Observation, jitter: f64) -> bool {
        let (ask, wait) = match self.contact.observe(now, observation, jitter) {
            Next::Beat(wait) => (Ask::Beat, wait),
            Next::Refresh(wait) => (Ask::Refresh, wait),
            Next::Forget => return false,
        };
        self.ask = ask;
        self.due = now + u64::try_from(wait.as_millis()).expect("a short wait").max(1);
        if observation == Observation::Accepted {
            self.memory.remember(self.contact.last_contact(), None);
        }
        self.keeper.set_welcome(self.contact.accepts_work());
        self.keeper.set_out_of_contact(self.contact.paused().is_some());
        true
    }

    /// Whether it knows that control has rejected its credentials.
    pub fn is_rejected(&self) -> bool {
        !self.contact.accepts_work()
    }

    /// The host was deleted.
    pub fn destroy_all(&self) {
        self.order(async |keeper: &Keeper| keeper.destroy_all(Duration::from_secs(60)).await);
    }

    /// Pauses everything when contact has been away for too long.
    pub fn look_at_the_clock(&mut self, now: u64) {
        if let Some(cause) = self.contact.pause_due(now) {
            self.memory.remember(self.contact.last_contact(), Some(cause));
            self.keeper.set_out_of_contact(true);
            self.order(async |keeper: &Keeper| keeper.pause_all(HOST_DISCONNECTED).await);
        }
    }
}
