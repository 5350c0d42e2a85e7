//! Finding everything again when the agent starts.
//!
//! | record | processes | what becomes of it |
//! | --- | --- | --- |
//! | live, this boot | there | adopted: they were never touched |
//! | live, this boot | gone | exited, and reported until control knows |
//! | paused, this boot | gone | at rest with its files until its next resume |
//! | paused, any boot | none, but its memory lies on the disk | at rest until its next resume |
//! | live, another boot | gone | started from its disk (paused when that fails), or (paused) at its next resume, or exited: as its setting says; what the agent itself had paused is never exited |
//! | being created or destroyed | either | taken down to nothing |
//! | torn by a power cut | gone | exited, `record_damaged`: its disk stays until control destroys it |
//! | none | something is left in the kernel or the pool | removed |
//!
//! Until [`Keeper::admit_orders`] the inventory counts as incomplete: control hears heartbeats, draws no conclusions from
//! what is missing, and gives no orders.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use atoll_model::SandboxId;
use atoll_model::sandbox::OnReboot;
use chrono::Utc;
use futures::{StreamExt, stream};

use super::entry::Entry;
use super::generation::Seen;
use super::machine::Life;
use super::owner::Start;
use super::record::{Phase, Record, State, Torn};
use super::spec::{DRIVER_CONTAINER, Image, Spec};
use super::{HOST_DISCONNECTED, Keeper, birth, durable, spares};
use crate::driver::{InitProcess, Kind, SharedVolume, StartFrom, host_boot_id};
use crate::network::Policy;

/// Why one is reported as ended of which only the id and the disk are left. No acknowledgement takes the disk.
pub(super) const RECORD_DAMAGED: &str = "record_damaged";

const HOST_REBOOTED: &str = "host_rebooted";

/// To find the volumes of a machine that runs.
const ATTEMPTS: usize = 5;
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);

/// How many are looked at side by side.
const PARALLEL: usize = 32;

/// What was found at a start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    pub adopted: usize,
    pub exited: usize,
    pub restarted: usize,
    pub finished: usize,
}

impl Keeper {
    /// Gives every record its owner again. Call once; then what is nobody's can be removed, and [`Self::admit_orders`].
    pub async fn recover(&self, records: Vec<Record>, torn: Vec<Torn>) -> Found {
        let decided = stream::iter(records).map(|record| self.decide(record)).buffer_unordered(PARALLEL);
        let mut decided: Vec<_> = decided.collect().await;
        decided.extend(torn.into_iter().map(damaged));
        let mut found = Found::default();
        let mut sandboxes = self.shared.sandboxes.write().unwrap_or_else(PoisonError::into_inner);
        for (record, start) in decided {
            match &start {
                Start::Adopted(_) => found.adopted += 1,
                Start::Restart => found.restarted += 1,
                Start::Finish => found.finished += 1,
                Start::AtRest | Start::Create { .. } => found.exited += usize::from(record.state == State::Exited),
            }
            let id = record.id.clone();
            sandboxes.insert(id, self.start(record, start));
        }
        drop(sandboxes);
        self.shared.changed.send_replace(());
        found
    }

    /// Everything that lives here is known: from now on control's orders are taken.
    pub fn admit_orders(&self) {
        self.shared.tasks.spawn(durable::run(self.shared.clone()));
        self.shared.tasks.spawn(spares::run(self.shared.clone()));
        self.gate.complete.store(true, Ordering::Release);
        self.shared.changed.send_replace(());
    }

    /// Waits until the list is all that lives on this host.
    pub async fn all_found(&self) {
        let mut changes = self.changes();
        while !self.inventory_complete() && changes.changed().await.is_ok() {}
    }

    /// The sandboxes that have a record: everything else in kernel and pool is nobody's.
    #[must_use]
    pub fn ids(&self) -> HashSet<SandboxId> {
        self.shared.entries().iter().map(|entry| entry.id.clone()).collect()
    }

    /// An owner has panicked: a bug of ours, for which its sandbox must not pay. A new owner takes over from the record,
    /// as after a restart of the agent.
    pub(super) async fn replace_owner(&self, lost: &Arc<Entry>) {
        tracing::error!(sandbox = %lost.id, "the owner of a sandbox panicked; another one takes over from its record");
        let read = self.shared.records.load_one(&lost.id);
        let replacement = match read {
            Ok(Some(record)) => {
                let (record, start) = self.decide(record).await;
                Some(self.start(record, start))
            }
            Ok(None) => None,
            Err(problem) => {
                let (record, start) = damaged(Torn { id: lost.id.clone(), problem });
                Some(self.start(record, start))
            }
        };
        match replacement {
            Some(entry) => {
                let mut sandboxes = self.shared.sandboxes.write().unwrap_or_else(PoisonError::into_inner);
                sandboxes.insert(entry.id.clone(), entry);
            }
            None => self.shared.forget(lost),
        }
        self.shared.changed.send_replace(());
    }

    async fn decide(&self, mut record: Record) -> (Record, Start) {
        if record.phase != Phase::Live {
            return (record, Start::Finish);
        }
        if record.state == State::Exited {
            return (record, Start::AtRest);
        }
        if record.state == State::Paused && self.shared.machine.is_stored(&record.id) {
            // Whether or not the record was brought up to date before the agent died; and a reboot does it no harm.
            if let Some(init) = record.init.take()
                && let Some(life) = self.adopt(&record, &init).await
            {
                record.init = Some(init);
                return (record, Start::Adopted(life));
            }
            record.stored = true;
            return (record, Start::AtRest);
        }
        if record.state == State::Paused && record.init.is_none() {
            // The agent has died while it went on with its memory, which is that process's alone now.
            record.init = self.shared.machine.begun(&record.id).filter(|init| init.host_boot_id == host_boot_id());
        }
        let Some(init) = record.init.clone() else {
            // Paused over an earlier reboot, or cut short while it was started from its disk.
            return if record.state == State::Paused { (record, Start::AtRest) } else { after_reboot(record) };
        };
        if init.host_boot_id != host_boot_id() {
            record.init = None;
            return after_reboot(record);
        }
        match self.adopt(&record, &init).await {
            Some(life) => (record, Start::Adopted(life)),
            None if record.state == State::Paused => {
                record.init = None;
                (record, Start::AtRest)
            }
            None => {
                let oom = self.shared.machine.usage(&record.id, record.slot).oom_kills > 0;
                let reason = if oom { "out_of_memory" } else { "exited" };
                (self.ended(record, reason), Start::AtRest)
            }
        }
    }

    /// The process that an earlier agent launched, if it is there.
    async fn adopt(&self, record: &Record, init: &InitProcess) -> Option<Arc<dyn Life>> {
        let machine = &*self.shared.machine;
        let volumes = self.volumes_of(record).await;
        machine.adopt(&record.id, init, volumes).await
    }

    /// What a machine mounts; a container has it mounted already.
    async fn volumes_of(&self, record: &Record) -> Vec<SharedVolume> {
        if record.spec.kind() == Kind::Vm {
            for _ in 0..ATTEMPTS {
                match birth::shared_volumes(&*self.shared.machine, &record.spec.volumes).await {
                    Ok(found) => return found,
                    // Without them its programs wait for the next agent.
                    Err(error) => {
                        tracing::error!(sandbox = %record.id, %error, "the volumes of an adopted sandbox can't be found");
                    }
                }
                tokio::time::sleep(BETWEEN_ATTEMPTS).await;
            }
        }
        Vec::new()
    }

    fn ended(&self, mut record: Record, reason: &str) -> Record {
        exit(&mut record, reason);
        if let Err(error) = self.shared.records.write(&record) {
            tracing::error!(sandbox = %record.id, %error, "a sandbox's record can't be written");
        }
        record
    }
}

fn exit(record: &mut Record, reason: &str) {
    record.state = State::Exited;
    reason.clone_into(&mut record.reason);
    record.exit_code = -1;
    record.init = None;
    record.changed_at_ms = Utc::now().timestamp_millis();
}

fn after_reboot(mut record: Record) -> (Record, Start) {
    match (record.spec.on_reboot, record.state) {
        (OnReboot::Restart, State::Paused) => (record, Start::AtRest),
        (OnReboot::Restart, _) => {
            record.state = State::Starting;
            (record, Start::Restart)
        }
        // The agent had paused it, not its owner: so it must not end by it, and only its owner starts it again.
        (OnReboot::Stop, State::Paused) if record.reason == HOST_DISCONNECTED => {
            HOST_REBOOTED.clone_into(&mut record.reason);
            record.changed_at_ms = Utc::now().timestamp_millis();
            (record, Start::AtRest)
        }
        (OnReboot::Stop, _) => {
            exit(&mut record, HOST_REBOOTED);
            (record, Start::AtRest)
        }
    }
}

/// All that is known of it is its id: reported as ended, and its disk stays until control destroys it.
fn damaged(torn: Torn) -> (Record, Start) {
    tracing::error!(sandbox = %torn.id, problem = torn.problem, "a sandbox's record is damaged");
    let spec = Spec {
        image: Image { digest: String::new(), name: String::new() },
        driver: DRIVER_CONTAINER.to_owned(),
        vcpus: 0,
        memory_bytes: 0,
        disk_bytes: 0,
        hostname: String::new(),
        default_user: String::new(),
        default_workdir: String::new(),
        on_reboot: OnReboot::Stop,
        labels: Default::default(),
        deny_egress: true,
        layers: Vec::new(),
        volumes: Vec::new(),
        startup: None,
        start_from: StartFrom::Either,
        policy: Policy { closed: true, ..Policy::default() },
    };
    let mut record = Record {
        id: torn.id,
        seen: Seen { generation: 0, content: String::new() },
        phase: Phase::Live,
        state: State::Exited,
        reason: String::new(),
        changed_at_ms: 0,
        exit_code: -1,
        spec,
        slot: None,
        init: None,
        stored: false,
        cloned: false,
        policy_generation: 0,
        knows_bandwidth: true,
    };
    exit(&mut record, RECORD_DAMAGED);
    (record, Start::AtRest)
}
