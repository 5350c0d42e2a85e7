//! Both sides in memory: records with the same compare-and-set as the database, and hosts that obey.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use atoll_model::{HostId, SandboxId, SandboxStatus};
use atoll_rpc::atoll::host::v1::NetworkPolicy;

use super::super::judge::{Row, Seen, State};
use super::super::views::{Agents, Inventory, Records, RowChange};
use crate::clock::Clock;
use crate::db::DbError;
use crate::fleet::FleetError;

type Hook = Box<dyn Fn(&MemoryRecords) + Send + Sync>;

pub struct MemoryRecords {
    pub clock: Clock,
    pub rows: Mutex<HashMap<SandboxId, Row>>,
    pub orphans: Mutex<Vec<SandboxId>>,
    pub deletions: Mutex<Vec<String>>,
}

impl MemoryRecords {
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { clock, rows: Mutex::default(), orphans: Mutex::default(), deletions: Mutex::default() })
    }

    pub fn put(&self, host: &HostId, status: SandboxStatus, generation: u64) -> SandboxId {
        let id = SandboxId::new();
        let row = Row {
            id: id.clone(),
            host: Some(host.clone()),
            status,
            former: None,
            reason: None,
            generation,
            changed_at: self.clock.now(),
            moving_to: None,
            network_generation: 0,
        };
        self.rows.lock().unwrap().insert(id.clone(), row);
        id
    }

    pub fn row(&self, id: &SandboxId) -> Row {
        self.rows.lock().unwrap()[id].clone()
    }

    pub fn set(&self, id: &SandboxId, status: SandboxStatus, generation: u64) {
        let mut rows = self.rows.lock().unwrap();
        let row = rows.get_mut(id).unwrap();
        (row.status, row.generation, row.changed_at) = (status, generation, self.clock.now());
    }
}

#[async_trait]
impl Records for MemoryRecords {
    async fn on_host(&self, host: &HostId) -> Result<Vec<Row>, DbError> {
        let rows = self.rows.lock().unwrap();
        Ok(rows.values().filter(|row| row.host.as_ref() == Some(host) && !row.status.is_final()).cloned().collect())
    }

    async fn by_id(&self, ids: &[SandboxId]) -> Result<Vec<Row>, DbError> {
        let rows = self.rows.lock().unwrap();
        Ok(ids.iter().filter_map(|id| rows.get(id)).cloned().collect())
    }

    async fn change(&self, change: &RowChange<'_>) -> Result<Option<Row>, DbError> {
        let mut rows = self.rows.lock().unwrap();
        let Some(row) = rows.get_mut(&change.row.id) else { return Ok(None) };
        let same = row.status == change.row.status && row.generation == change.row.generation;
        if !same || !(row.status == change.to || row.status.can_become(change.to)) {
            return Ok(None);
        }
        row.status = change.to;
        row.reason = change.reason.map(ToOwned::to_owned);
        row.generation += u64::from(change.decided);
        row.changed_at = self.clock.now();
        Ok(Some(row.clone()))
    }

    async fn network(&self, id: &SandboxId) -> Result<Option<(NetworkPolicy, u64)>, DbError> {
        let generation = self.rows.lock().unwrap().get(id).map(|row| row.network_generation);
        Ok(generation.map(|generation| (NetworkPolicy::default(), generation)))
    }

    async fn note_orphan(&self, _: &HostId, seen: &Seen, _: bool) -> Result<(), DbError> {
        self.orphans.lock().unwrap().push(seen.id.clone());
        Ok(())
    }

    async fn pending_deletions(&self, _: &HostId) -> Result<Vec<String>, DbError> {
        Ok(self.deletions.lock().unwrap().clone())
    }

    async fn deletion_done(&self, _: &HostId, digest: &str) -> Result<(), DbError> {
        self.deletions.lock().unwrap().retain(|pending| pending != digest);
        Ok(())
    }
}

/// Hosts, as their agents keep them. A sandbox that was put nowhere in particular is on every host.
pub struct MemoryAgents {
    pub sandboxes: Mutex<HashMap<SandboxId, Seen>>,
    places: Mutex<HashMap<SandboxId, HostId>>,
    pub complete: AtomicBool,
    pub reachable: AtomicBool,
    /// Answers to resumes are lost.
    pub mute: AtomicBool,
    pub acknowledged: Mutex<Vec<SandboxId>>,
    pub deleted_images: Mutex<Vec<String>>,
    pub images_in_use: Mutex<Vec<String>>,
    /// They answer all but orders to resume.
    pub hanging: Mutex<HashSet<HostId>>,
    pub terminated: AtomicBool,
    pub policies_fail: AtomicBool,
    /// Runs while the agent makes its list: what happens between the two looks.
    meanwhile: Mutex<Option<(Arc<MemoryRecords>, Hook)>>,
}

impl MemoryAgents {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            sandboxes: Mutex::default(),
            places: Mutex::default(),
            complete: AtomicBool::new(true),
            reachable: AtomicBool::new(true),
            mute: AtomicBool::new(false),
            acknowledged: Mutex::default(),
            deleted_images: Mutex::default(),
            images_in_use: Mutex::default(),
            hanging: Mutex::default(),
            terminated: AtomicBool::new(false),
            policies_fail: AtomicBool::new(false),
            meanwhile: Mutex::default(),
        })
    }

    pub fn put(&self, id: &SandboxId, state: State, reason: &str, generation: u64) {
        let seen =
            Seen { id: id.clone(), state, reason: reason.to_owned(), generation, exit_code: 0, network_generation: 0 };
        self.sandboxes.lock().unwrap().insert(id.clone(), seen);
    }

    pub fn put_on(&self, host: &HostId, id: &SandboxId, state: State, reason: &str) {
        self.places.lock().unwrap().insert(id.clone(), host.clone());
        self.put(id, state, reason, 1);
    }

    pub fn state(&self, id: &SandboxId) -> Option<State> {
        self.sandboxes.lock().unwrap().get(id).map(|seen| seen.state)
    }

    pub fn meanwhile(&self, records: &Arc<MemoryRecords>, hook: impl Fn(&MemoryRecords) + Send + Sync + 'static) {
        *self.meanwhile.lock().unwrap() = Some((Arc::clone(records), Box::new(hook)));
    }

    fn answer(&self, host: &HostId) -> Result<(), FleetError> {
        if self.reachable.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(FleetError::Unavailable { host: host.clone(), attempted: "connect".to_owned(), cause: "cut off".into() })
    }

    /// As agents do: an order that is older than what they have seen is refused.
    fn order(&self, host: &HostId, id: &SandboxId, generation: u64) -> Result<(), FleetError> {
        self.answer(host)?;
        let mut sandboxes = self.sandboxes.lock().unwrap();
        match sandboxes.get_mut(id) {
            Some(seen) if generation <= seen.generation => Err(FleetError::Agent {
                host: host.clone(),
                attempted: "obey".to_owned(),
                code: atoll_rpc::connectrpc::ErrorCode::FailedPrecondition,
                message: "an older generation".to_owned(),
            }),
            Some(seen) => {
                seen.generation = generation;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Agents for MemoryAgents {
    async fn list(&self, host: &HostId) -> Result<Inventory, FleetError> {
        self.answer(host)?;
        if let Some((records, hook)) = self.meanwhile.lock().unwrap().take() {
            hook(&records);
        }
        let places = self.places.lock().unwrap();
        let here = |seen: &&Seen| places.get(&seen.id).is_none_or(|place| place == host);
        let sandboxes = self.sandboxes.lock().unwrap().values().filter(here).cloned().collect();
        Ok(Inventory { sandboxes, complete: self.complete.load(Ordering::SeqCst) })
    }

    async fn acknowledge(&self, host: &HostId, items: Vec<(SandboxId, u64, State)>) -> Result<(), FleetError> {
        self.answer(host)?;
        self.acknowledged.lock().unwrap().extend(items.into_iter().map(|item| item.0));
        Ok(())
    }

    async fn resume(&self, host: &HostId, sandbox: &SandboxId, generation: u64) -> Result<(), FleetError> {
        let hangs = self.hanging.lock().unwrap().contains(host);
        if hangs {
            std::future::pending::<()>().await;
        }
        self.order(host, sandbox, generation)?;
        if let Some(seen) = self.sandboxes.lock().unwrap().get_mut(sandbox) {
            seen.state = State::Running;
            seen.reason.clear();
        }
        if self.mute.load(Ordering::SeqCst) {
            return Err(FleetError::Timeout { host: host.clone(), attempted: "resume".to_owned() });
        }
        Ok(())
    }

    async fn destroy(&self, host: &HostId, sandbox: &SandboxId, generation: u64, _: &str) -> Result<(), FleetError> {
        self.order(host, sandbox, generation)?;
        self.sandboxes.lock().unwrap().remove(sandbox);
        Ok(())
    }

    async fn set_network(
        &self,
        host: &HostId,
        sandbox: &SandboxId,
        generation: u64,
        _: NetworkPolicy,
    ) -> Result<(), FleetError> {
        self.answer(host)?;
        if self.policies_fail.load(Ordering::SeqCst) {
            return Err(FleetError::Timeout { host: host.clone(), attempted: "set a network".to_owned() });
        }
        if let Some(seen) = self.sandboxes.lock().unwrap().get_mut(sandbox) {
            seen.network_generation = seen.network_generation.max(generation);
        }
        Ok(())
    }

    async fn delete_image(&self, host: &HostId, digest: &str) -> Result<(), FleetError> {
        self.answer(host)?;
        if self.images_in_use.lock().unwrap().iter().any(|used| used == digest) {
            return Err(FleetError::Agent {
                host: host.clone(),
                attempted: "delete an image".to_owned(),
                code: atoll_rpc::connectrpc::ErrorCode::FailedPrecondition,
                message: "in use".to_owned(),
            });
        }
        self.deleted_images.lock().unwrap().push(digest.to_owned());
        Ok(())
    }

    async fn terminate(&self, host: &HostId, _: &str) -> Result<(), FleetError> {
        self.answer(host)?;
        self.sandboxes.lock().unwrap().clear();
        self.terminated.store(true, Ordering::SeqCst);
        Ok(())
    }
}
