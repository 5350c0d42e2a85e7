//! The promises of the keeper, tried on a machine that is only counted.

mod life;
mod recovery;
mod spares;

use std::sync::Arc;

use atoll_model::SandboxId;
use tempfile::TempDir;

use super::fake::{FakeDriver, RECLAIMED};
use super::*;
use crate::config::Limits;

/// An agent's keeper over a machine that outlives it.
struct House {
    dir: TempDir,
    machine: Arc<FakeDriver>,
    keeper: Keeper,
}

impl House {
    async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    async fn with(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let machine = Arc::new(FakeDriver::default());
        let keeper = keeper(&dir, &machine, limits).await;
        Self { dir, machine, keeper }
    }

    /// The agent dies without a word, and another one starts.
    async fn restart_agent(self) -> Self {
        self.keeper.shared.tasks.close();
        let keeper = keeper(&self.dir, &self.machine, Limits::default()).await;
        Self { keeper, ..self }
    }

    fn records(&self) -> Records {
        Records::open(self.dir.path()).unwrap()
    }

    /// Changes a sandbox's record as a crash at another moment would have left it.
    fn rewrite(&self, id: &SandboxId, change: impl FnOnce(&mut Record)) {
        let (records, _) = self.records().load().unwrap();
        let mut record = records.into_iter().find(|record| record.id == *id).unwrap();
        change(&mut record);
        self.records().write(&record).unwrap();
    }

    async fn created(&self) -> SandboxId {
        let id = SandboxId::new();
        self.keeper.create(id.clone(), 1, wish()).await.unwrap();
        id
    }

    async fn until(&self, condition: impl Fn(&Keeper) -> bool) {
        let mut changes = self.keeper.changes();
        while !condition(&self.keeper) {
            changes.changed().await.unwrap();
        }
    }

    async fn nothing_is_left(&self) {
        self.until(|keeper| keeper.shared.entries().is_empty()).await;
        assert_eq!(self.machine.leftovers(), Vec::<String>::new());
        assert_eq!(self.records().load().unwrap(), (Vec::new(), Vec::new()));
    }
}

async fn keeper(dir: &TempDir, machine: &Arc<FakeDriver>, limits: Limits) -> Keeper {
    let records = Records::open(dir.path()).unwrap();
    let (found, torn) = records.load().unwrap();
    let keeper = Keeper::new(dir.path(), records, machine.clone(), limits, 8 << 30).unwrap();
    assert!(!keeper.inventory_complete());
    keeper.recover(found, torn).await;
    assert!(!keeper.inventory_complete());
    keeper.admit_orders();
    assert!(keeper.inventory_complete());
    keeper
}

fn wish() -> wire::SandboxSpec {
    spec::tests::wish()
}

fn state_of(keeper: &Keeper, id: &SandboxId) -> Option<(State, String)> {
    keeper.get(id).ok().map(|view| (view.state, view.reason.clone()))
}
