//! What the life of a sandbox promises, over both databases and hosts that fail when they are told to.

mod clocks;
mod creating;
mod living;
mod remembered;
mod rows;

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_model::sandbox::OnReboot;
use atoll_model::{HostId, OnTimeout, SandboxId, SandboxStatus};
use atoll_rpc::atoll::host::v1::SandboxState;

use super::reaper::Reaper;
use super::store::{self, Change, Due};
use super::{Filling, Fork, Keep, Network, NewSandbox, Owner, SandboxError, SandboxRecord};
use crate::audit::{Actor, Origin};
use crate::db::testing::{TestDb, databases, sqlite};
use crate::db::{Millis, on};
use crate::hosts::HostError;
use crate::reconcile::Requester;
use crate::testing::{TestApp, app, app_with, insert_online_host};

fn owner(test: &TestApp) -> Owner {
    Owner {
        team: test.team().clone(),
        team_is_byoc: false,
        team_network: None,
        actor: Actor::System,
        origin: Origin::default(),
    }
}

fn new() -> NewSandbox {
    NewSandbox {
        lifetime_sec: None,
        template: "base".to_owned(),
        vcpus: None,
        memory_mb: None,
        disk_mb: None,
        timeout_sec: 0,
        on_timeout: OnTimeout::Pause,
        auto_resume: false,
        on_reboot: OnReboot::Restart,
        driver: None,
        start_from: None,
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        volumes: Vec::new(),
        metadata: BTreeMap::new(),
        network: Network::default(),
        purpose: String::new(),
        keep_if_abandoned: false,
        times: Default::default(),
    }
}

async fn read(test: &TestApp, id: &SandboxId) -> SandboxRecord {
    store::get_any(&test.app.db, id).await.unwrap().expect("the row stays")
}

async fn life(test: &TestApp, id: &SandboxId) -> Vec<SandboxStatus> {
    store::events(&test.app.db, id, 0, 100).await.unwrap().into_iter().map(|event| event.status.0).collect()
}

/// Waits until `condition` holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..1000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

fn change<'a>(record: &'a SandboxRecord, to: SandboxStatus, decided: bool) -> Change<'a> {
    Change {
        id: &record.id,
        from: record.status(),
        generation: record.generation,
        to,
        reason: None,
        decided,
        host: None,
        at: Millis(1),
    }
}

async fn running(test: TestDb) -> (TestApp, SandboxRecord) {
    let test = app(test).await;
    test.fleet.add_host();
    let record = test.app.sandboxes.create(&owner(&test), new()).await.unwrap();
    (test, record)
}
